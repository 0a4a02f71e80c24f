"""Reading of a stored image without merging it, from the EROFS image of its merged union, if that was written before.
Names and attributes are read in place: `ls` of a large image costs only what its directory contains.

docs/decisions/0011-erofs-read.md says when the image is written, and what was measured.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, StoreDamaged
from lamina.host.files import remove, replace_file, reported
from lamina.source.stack import Stack
from lamina.view.parts import image_of, merged_part

if TYPE_CHECKING:
    from lamina.store.store import Store
    from lamina.union.tree import Tree, Union

DEEPEST = 255
"""The same as ``erofs.DEEP``: from this number on the image does not record the layer of a name."""
MANY = 30_000
"""The number of paths above which a merge takes longer than 50 ms, so that its result is stored."""


def open_union(store: Store, stack: Stack) -> Union:
    """Return the stack's union: from its image if there is one, else merged. After a long merge the image is written
    for the next time, if possible. Raises as ``Stack.tree``."""
    found = stored_union(store, stack)
    if found is not None:
        return found
    tree = stack.tree()
    if len(tree.names) > MANY and _may_be_stored(stack):
        try:
            write_merged(store, stack, tree)
        except LaminaError as error:  # no permission or no space: the union is returned all the same
            _log(f"the union of {stack.name} can't be stored: {error.message}")
    return tree


def stored_union(store: Store, stack: Stack) -> Union | None:
    """Return the stack's union from its image; None if it was not written or is damaged."""
    if not _may_be_stored(stack):
        return None
    path = image_of(store, merged_part(stack))
    if not os.path.exists(path):
        return None
    from lamina.view.erofs.read import ErofsImage
    from lamina.view.erofs.stored_union import StoredUnion

    try:
        return StoredUnion(ErofsImage.load(path))
    except (OSError, StoreDamaged) as error:
        _log(f"{path} can't be used: {error}")
        return None


def _may_be_stored(stack: Stack) -> bool:
    return 1 < len(stack.layers) < DEEPEST


def _log(text: str) -> None:
    import logging  # imports a dozen modules, and is rarely needed

    logging.getLogger("lamina.view").info("%s", text)


def write_merged(store: Store, stack: Stack, tree: Tree) -> None:
    """Write the union as an image (derived data). Raises SystemFailure, Unsupported."""
    from lamina.store.derived import must_wait
    from lamina.store.unions import make_union
    from lamina.view.erofs.write import erofs_pieces

    part = merged_part(stack)
    path = image_of(store, part)
    with reported(path):
        make_union(store.paths, part.key, part.layers)
        remove(path)
        replace_file(path, erofs_pieces(tree, uuid=part.uuid), mode=0o444, lasting=must_wait())
