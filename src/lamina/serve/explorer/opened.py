"""Images that are open: the stack, its tree, and what is computed once for it. Opening one may read whole layers."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from lamina.errors import BlobNotFound, InvalidDocument, LimitExceeded, NotFound
from lamina.serve.explorer.cached_layer import CachedLayer
from lamina.serve.explorer.facts import TreeFacts
from lamina.serve.explorer.gallery import Gallery, Place
from lamina.serve.explorer.layer_cache import LayerCache
from lamina.serve.explorer.reading import LayerReading
from lamina.source.select import find_manifest, read_config
from lamina.source.stack import Stack
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, is_selectable, parse
from lamina.spec.platform import Platform
from lamina.union.merge import merge

if TYPE_CHECKING:
    from lamina.layer.index import LayerIndex
    from lamina.serve.explorer.work import Progress, Work
    from lamina.source.protocols import Blob, LayerHandle, Reader
    from lamina.spec.image_config import ImageConfig

MAX_PLATFORMS = 100
MAX_LAYERS = 1000
MAX_ENTRIES = 500_000
"""Entries in the layers of an image that a server for many people shows."""
MAX_IMPLIED = 300_000
"""Directories without an entry, which the paths of entries imply: a few entries with long paths name many."""
PATH_LENGTH = 256
"""Bytes that the paths of an image may have on average, if it has as many entries as are shown: what is computed for
each entry climbs its path."""
_MAX_KNOWN = 500
_NODE = 500  # estimated bytes of memory for each node of a tree


class Chosen:
    """The manifest of one platform of an image, with its config."""

    def __init__(self, place: Place, manifest: Manifest, config: ImageConfig | None = None) -> None:
        self.place = place
        self.manifest = manifest
        self.kept_config = config

    @property
    def key(self) -> tuple[object, ...]:
        """What the contents depend on."""
        place = self.place
        return place.key, self.manifest.descriptor.digest, place.low, place.high

    @cached_property
    def config(self) -> ImageConfig:
        """Raises Unsupported (an artifact), BlobNotFound, InvalidContent."""
        if self.kept_config is not None:
            return self.kept_config
        return read_config(self.place.reader, self.manifest, self.place.image)


class OpenImage:
    """An image whose files can be shown."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.tree = stack.tree()
        self.facts = TreeFacts(self.tree)

    @property
    def first(self) -> int:
        return self.stack.first

    @property
    def entries(self) -> int:
        """The number of entries in all layers."""
        return sum(len(index) for index in self.tree.layers)

    @property
    def size_in_memory(self) -> int:
        return _NODE * len(self.tree.names) + 100_000


def choose(place: Place, wanted: Platform | None, usual: Platform) -> Chosen:
    """Choose the manifest of a platform: ``wanted``; else ``usual``, else the first that is there.

    Raises NotFound, InvalidContent, Unsupported.
    """
    reader, image = place.reader, place.image
    if wanted is not None:
        return Chosen(place, find_manifest(reader, place.descriptor, wanted, image))
    try:
        return Chosen(place, find_manifest(reader, place.descriptor, usual, image))
    except NotFound:
        others = children(reader, place.descriptor, image)
        for entry in others[:MAX_PLATFORMS]:
            try:
                return Chosen(place, find_manifest(reader, entry, usual, image))
            except (NotFound, InvalidDocument):
                continue
        raise


class Choices:
    """Chooses manifests, and keeps their documents for a while: what a digest stands for never changes."""

    def __init__(self, usual: Platform) -> None:
        self.usual = usual
        self._guard = threading.Lock()
        self._known: OrderedDict[tuple[object, ...], Chosen] = OrderedDict()

    def choose(self, place: Place, wanted: Platform | None = None) -> Chosen:
        """As the function ``choose``."""
        key = (place.key, place.descriptor.digest, str(wanted))
        with self._guard:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return Chosen(place, known.manifest, known.kept_config)
        chosen = choose(place, wanted, self.usual)
        if chosen.manifest.is_image:
            chosen.kept_config = chosen.config
        with self._guard:
            self._known[key] = chosen
            while len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return chosen


def children(reader: Reader, descriptor: Descriptor, what: str) -> list[Descriptor]:
    """Return the images in an index; none if it is a manifest."""
    document = parse(reader.manifest(descriptor), descriptor.media_type, what)
    if not isinstance(document, Index):
        return []
    return [entry for entry in document.manifests if is_selectable(entry)]


def attestations(reader: Reader, descriptor: Descriptor, of: Digest, what: str) -> list[Descriptor]:
    """Return the entries of an index with attestations of one of its manifests, as BuildKit writes them."""
    document = parse(reader.manifest(descriptor), descriptor.media_type, what)
    if not isinstance(document, Index):
        return []
    return [
        entry
        for entry in document.manifests
        if (entry.annotations or {}).get("vnd.docker.reference.digest") == str(of)
    ]


class Images:
    """Opens images, each once, with the indexes of their layers from ``cache``."""

    def __init__(self, gallery: Gallery, cache: LayerCache, work: Work, max_entries: int) -> None:
        """``max_entries``: an image with more in its layers is not opened, because it would take too much memory."""
        self._gallery = gallery
        self._cache = cache
        self._work = work
        self._reading = LayerReading()
        self.max_entries = max_entries

    def opened(self, chosen: Chosen) -> OpenImage:
        """Return the open image. Raises Working, Busy, NotFound, InvalidContent, Unsupported."""
        return self._work.get(("image", *chosen.key), self._opening(chosen), weigh=lambda one: one.size_in_memory)

    def opened_within(self, chosen: Chosen, progress: Progress) -> OpenImage:
        """The same, in another computation."""
        return self._work.within(
            ("image", *chosen.key), self._opening(chosen), progress, weigh=lambda one: one.size_in_memory
        )

    def layers(self, place: Place, manifest: Manifest, config: ImageConfig) -> tuple[LayerHandle, ...]:
        """The layers of an image. Nothing is read."""
        return tuple(
            self.layer([place.reader], descriptor, diff_id)
            for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        )

    def layer(self, readers: Sequence[Reader], descriptor: Descriptor, diff_id: Digest) -> LayerHandle:
        """A layer, from the first of ``readers`` that has it. Nothing is read."""
        local = self._gallery.local_layer(descriptor, diff_id)
        if local is not None:
            return local

        def find_blob() -> Blob:
            for reader in readers[:-1]:
                with suppress(NotFound):
                    return reader.blob(descriptor)
            return readers[-1].blob(descriptor)

        return CachedLayer(self._cache, descriptor, diff_id, find_blob)

    def _opening(self, chosen: Chosen) -> Callable[[Progress], OpenImage]:
        def opening(progress: Progress) -> OpenImage:
            place, config = chosen.place, chosen.config
            stack = Stack(
                place.image,
                chosen.manifest,
                config,
                self.layers(place, chosen.manifest, config),
                config.steps(),
            )
            if not place.whole:
                stack = stack.slice(place.low, place.high)
            if len(stack.layers) > MAX_LAYERS:
                raise _too_large(stack, f"{len(stack.layers)} layers", f"{MAX_LAYERS}")
            self._reading.read(stack.layers, progress)
            entries = sum(len(layer.index()) for layer in stack.layers)
            if entries > self.max_entries:
                raise _too_large(stack, f"{entries} entries", f"{self.max_entries}")
            most = PATH_LENGTH * self.max_entries
            if sum(bytes_of_paths(layer.index()) for layer in stack.layers) > most:
                raise _too_large(stack, f"paths of more than {most} bytes together", f"{most} bytes")
            progress.begin("merging the layers")
            stack.remember(merge([layer.index() for layer in stack.layers], most=entries + MAX_IMPLIED))
            return OpenImage(stack)

        return opening


def bytes_of_paths(index: LayerIndex) -> int:
    """How long the paths of the directories of all entries are together."""
    lengths = [0]
    for number in range(1, index.directory_count):
        lengths.append(lengths[index.directory_parent(number)] + len(index.directory_name(number)) + 1)
    return sum(lengths[number] * count for number, count in Counter(index.directory).items())


def _too_large(stack: Stack, found: str, most: str) -> LimitExceeded:
    return LimitExceeded(
        f"{stack.name} has {found}: at most {most} are shown here", hint="pull the image, and use `lamina ui`"
    )


def here(reader: Reader, descriptor: Descriptor) -> bool:
    """Whether the document is in the place."""
    try:
        reader.manifest(descriptor)
    except BlobNotFound:
        return False
    return True
