"""One call builds an image: read the Dockerfile, plan, solve, publish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.build.options import BuildOptions, Built
from lamina.errors import Unsupported
from lamina.events import Cancel, OnEvent, ignore

if TYPE_CHECKING:
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess


@contextmanager
def built(
    context: str,
    options: BuildOptions,
    store: Store,
    network: RegistryAccess,
    *,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> Iterator[Built]:
    """Build an image into the store. ``context``: a directory, an address, a git repository, a tar, or "-" for stdin.

    The block gets the image. It has its names already, and while the block runs it is protected even without one:
    what else is to be made of it (an archive, a push) is made from the store in the block. ``on_event`` gets
    ``build.events`` and the events of pulls.

    Raises ``build.errors.StepFailed`` (a step failed), UsageError (the Dockerfile, an option), NotFound, Cancelled,
    and what pulls raise.
    """
    raise Unsupported("builds do not work yet")
    yield Built(None, ())  # type: ignore[unreachable]
