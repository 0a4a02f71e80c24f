"""The sides A and B of `diff`: an image, a container, or a directory of this host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.cli import warn
from lamina.errors import LaminaError, NotFound, ReferenceNotFound, UsageError
from lamina.insight.side import Side
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from lamina.cli.session import Session


def open_side(session: Session, word: str) -> Side:
    """Open a side. A word that begins with ``/``, ``./`` or ``../`` is a directory; any other word is an image, or
    else a container.

    Raises NotFound, and what opening an image raises.
    """
    if word.startswith(("/", "./", "../")) or word in (".", ".."):
        from lamina.insight.directory_side import directory_side

        return directory_side(word, on_warning=warn)
    try:
        return Side.of(session.image(word).stack)
    except (UsageError, NotFound) as error:
        try:
            container = session.store.containers.get(word)
        except NotFound:
            raise _named(error, word) from None
        from lamina.run.container.side import container_side

        return container_side(session.store, container, on_warning=warn)


def _named(error: LaminaError, word: str) -> LaminaError:
    if not isinstance(error, ReferenceNotFound) or parse_name(word).transport:
        return error  # a registry or an archive has its own message
    hint = f"write a directory as ./{word}" if os.path.isdir(word) else "see `lamina images` and `lamina ps -a`"
    return ReferenceNotFound(f"no image or container {word!r:.300}", hint=hint)
