"""Finding files in all images of the store at once: the search of ``source.search`` over the layers of the store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from lamina.source.search import LayerMap, Query, Search, find_in
from lamina.source.select import find_manifest, read_config
from lamina.spec.descriptor import Descriptor
from lamina.spec.platform import Platform
from lamina.store.layer_map import layer_map
from lamina.store.refs import name_of

if TYPE_CHECKING:
    from lamina.layer.file_digests import LayerDigests
    from lamina.layer.index import LayerIndex
    from lamina.store.read import StoreReader


def find(store: StoreReader, query: Query, platform: Platform, images: Sequence[str] = ()) -> Search:
    """Search images. ``images``: the names to search; if empty, all images of the store. In an index, the platform's
    image is searched.

    Raises, for a name in ``images``, ReferenceNotFound, Unsupported (an artifact), NotFound (platform); StoreDamaged
    (index.json), SystemFailure.
    """
    chosen = [store.resolve(name) for name in images]
    known = layer_map(store, platform, chosen if images else None)
    for name, descriptor in zip(images, chosen, strict=True):
        _check_searched(store, known, platform, name, descriptor)
    return find_in(known, query, _StoredIndexes(store, platform, known))


def _check_searched(
    store: StoreReader, known: LayerMap, platform: Platform, name: str, descriptor: Descriptor
) -> None:
    """Raise an error if an image that was named can't be searched, because it is an artifact. In a search of all
    images, artifacts are skipped."""
    told = {digest for names in known.stacks.values() for _, digest in names} | {what for what, _ in known.unread}
    if told.isdisjoint((str(descriptor.digest), name_of(descriptor))):
        read_config(store, find_manifest(store, descriptor, platform, name), name)


class _StoredIndexes:
    """The indexes of layers in the store."""

    def __init__(self, store: StoreReader, platform: Platform, known: LayerMap) -> None:
        self._store = store
        self._platform = platform
        self._known = known

    def open(self, number: int) -> LayerIndex:
        index = self._store.layers.kept_index(self._known.layers[number])
        if index is None:
            index = self._store.layers.index(self._descriptor(number), self._known.layers[number])
        return index

    def digests(self, number: int, index: LayerIndex) -> LayerDigests:
        return self._store.layers.digests(partial(self._descriptor, number), self._known.layers[number], index)

    def _descriptor(self, number: int) -> Descriptor:
        """The descriptor of a layer's blob, from the first image that has the layer."""
        stack, (name, digest) = next(
            (stack, names[0]) for stack, names in self._known.stacks.items() if number in stack
        )
        descriptor = next(entry for entry in self._store.refs.entries() if str(entry.digest) == digest)
        return find_manifest(self._store, descriptor, self._platform, name or digest).layers[stack.index(number)]
