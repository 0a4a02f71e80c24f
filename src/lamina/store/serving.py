"""The store as the place of a registry server: the rules of the server, and what lasts as long as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.host.files import reported
from lamina.store.leftovers import KEEP_UPLOADS
from lamina.store.members import Members
from lamina.store.roots import GRACE

if TYPE_CHECKING:
    from lamina.store.read import StoreReader
    from lamina.store.repositories import StoreRepositories


@dataclass(frozen=True, slots=True)
class ServingRules:
    """``grace``: seconds for which objects are protected that were pushed, mounted or found, and have no name yet.
    ``keep_uploads``: seconds without a byte after which an upload is removed. ``max_blob``: bytes that an upload may
    have (None: no limit)."""

    grace: float = GRACE
    keep_uploads: float = KEEP_UPLOADS
    max_blob: int | None = None


@contextmanager
def serving(
    reader: StoreReader, rules: ServingRules, session: AbstractContextManager[object]
) -> Iterator[StoreRepositories]:
    """Open the store for a server; the block lasts as long as the server. ``session`` tells other processes that it
    runs. Raises SystemFailure."""
    from lamina.store.repositories import StoreRepositories

    with reported(reader.paths.root):
        Members(reader.paths).set_grace(rules.grace)
    with session, reader.refs.logging():
        yield StoreRepositories(reader, rules)
