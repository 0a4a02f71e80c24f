"""Checks of derived data of the views (``unions/`` in the store), for fsck. A damaged EROFS image is reported and
removed; it is made again when it is needed. ``check_trees`` checks unpacked trees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.errors import LaminaError
from lamina.host.files import remove, reported
from lamina.store.fsck import Finding
from lamina.store.unions import union_keys
from lamina.view.erofs.read import ErofsImage
from lamina.view.unpack.check import check_trees

if TYPE_CHECKING:
    from lamina.store.store import Store


def check_unions(store: Store, *, repair: bool = False) -> Iterator[Finding]:
    """Check every EROFS image and every unpacked tree, byte by byte. Raises SystemFailure."""
    with reported(store.paths.unions):
        for key in union_keys(store.paths):
            path = os.path.join(store.paths.union(key), "erofs")
            try:
                ErofsImage.load(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except LaminaError as error:
                if repair:
                    remove(path)
                yield Finding("derived", error.message, repair)
        yield from check_trees(store, repair=repair)
