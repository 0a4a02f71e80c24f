"""Finds the names in the store under which erased content can still be reached: through the layers that had it, and
through other layers with the same entry (path, kind, size, time, target), such as copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.edit.rows_at_paths import stated_rows
from lamina.errors import LaminaError
from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex
from lamina.source.select import read_config
from lamina.source.walk import Classified, Known, classifier, listed_documents, walk
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, is_selectable

if TYPE_CHECKING:
    from lamina.source.stack import Stack
    from lamina.store.store import Store

Sign = tuple[bytes, int, int, int, int, bytes]


def images_with_content(store: Store, erased: Stack, paths: Sequence[bytes]) -> list[str]:
    """Return the names of images that, for any platform in the store, have an entry which ``erased`` has at or below
    these paths; an image without a name is given by its digest. Common directories don't count unless there is
    nothing else. Unreadable images are skipped."""
    signs: set[Sign] = set()
    for handle in erased.layers:
        signs |= _signs(handle.index(), paths)
    wanted = {sign for sign in signs if sign[1] != Kind.DIRECTORY} or signs
    known: dict[Digest, bool] = {}
    found = []
    for name, descriptor in store.names():
        for layer, diff_id in _layers(store, descriptor):
            if diff_id not in known:
                try:
                    known[diff_id] = not wanted.isdisjoint(_signs(store.layers.get(layer, diff_id).index(), paths))
                except LaminaError:
                    known[diff_id] = False
            if known[diff_id]:
                found.append(name or str(descriptor.digest))
                break
    return sorted(found)


def _signs(index: LayerIndex, paths: Sequence[bytes]) -> set[Sign]:
    return {
        (index.path(row), index.kind[row], index.size[row], index.mtime[row], index.nsec[row], index.link(row))
        for row in stated_rows(index, paths)
    }


def _layers(store: Store, top: Descriptor) -> Iterator[tuple[Descriptor, Digest]]:
    def images(found: Classified) -> list[Descriptor]:
        return [child for child in listed_documents(found) if is_selectable(child)]

    for found in walk(classifier(store), [top], children=images, max_depth=None):
        if isinstance(found, Known) and isinstance(found.document, Manifest):
            with suppress(LaminaError):
                diff_ids = read_config(store, found.document, str(found.descriptor.digest)).diff_ids
                yield from zip(found.document.layers, diff_ids, strict=True)
