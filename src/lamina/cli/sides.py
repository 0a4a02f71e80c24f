"""What A and B mean to `diff`: an image, a container, or a directory of this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from lamina.cli.text import clean
from lamina.errors import LaminaError, NotFound, ReferenceNotFound, UsageError
from lamina.insight.side import Side

if TYPE_CHECKING:
    from lamina.cli.session import Session


def open_side(session: Session, word: str) -> Side:
    """A path (``/``, ``./`` or ``../`` in front) is a directory; everything else an image, or else a container.

    Raises NotFound, and what opening an image raises.
    """
    if word.startswith(("/", "./", "../")) or word in (".", ".."):
        return directory_side(word)
    try:
        return Side.of(session.image(word).stack)
    except (UsageError, NotFound) as error:
        try:
            return container_side(session, word)
        except NotFound:
            raise _named(error, word) from None


def _named(error: LaminaError, word: str) -> LaminaError:
    if not isinstance(error, ReferenceNotFound):
        return error
    hint = f"a directory is written ./{word}" if os.path.isdir(word) else "see `lamina images` and `lamina ps -a`"
    return ReferenceNotFound(f"no image and no container {word!r:.300}", hint=hint)


def directory_side(path: str) -> Side:
    """A directory with all that is in it, as its owner sees it; nothing is followed. Raises NotFound."""
    from lamina.scan.directory import scan, scan_file
    from lamina.scan.layer import ScannedLayer

    where = os.path.abspath(path)
    items = scan(where, owner=None, on_warning=_warn)
    first = next(items, None)  # it must be a directory before it is looked at as a file
    rest = () if first is None else (first, *items)
    return Side(path, [ScannedLayer([scan_file(where, b"", owner=None), *rest], where)], kind="directory")


def container_side(session: Session, name: str) -> Side:
    """A container's image, and what the container changed as one more layer. Raises NotFound, Conflict."""
    from lamina.run.commit import container_items
    from lamina.run.container import stack_of
    from lamina.scan.layer import ScannedLayer

    store = session.store
    container = store.containers.get(name)
    stack = stack_of(store, container)
    upper = ScannedLayer(container_items(store, stack, container, _warn), store.containers.path(container.id))
    return Side(
        container.name,
        [*stack.layers, upper],
        kind="container",
        config=stack.config,
        digest=stack.manifest.descriptor.digest,
    )


def _warn(text: str) -> None:
    click.echo(f"lamina: warning: {clean(text)}", err=True)
