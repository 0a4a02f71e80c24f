"""Which images of the store have a config: what ``docker save`` wrote of an image that is here is that image, and not
a second one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lamina.light import TYPE_CHECKING
from lamina.source.walk import Known, listed, look, walk
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.store.blobs import Blobs

Image = tuple[str, Descriptor, Descriptor]
"""The name, what it points to, and in that the manifest with the config."""


class ImagesByConfig:
    """Made of the names of the store, then told of each new one."""

    def __init__(self, blobs: Blobs, names: Iterable[tuple[str, Descriptor]]) -> None:
        self._blobs = blobs
        self._images: dict[Digest, list[Image]] = {}
        for name, top in names:
            self.note(name, top)

    def note(self, name: str, top: Descriptor) -> None:
        """``name`` ("" for none) points to ``top``."""
        for found in walk(lambda one: look(self._blobs.read, one), [top], into=listed, deepest=None):
            if isinstance(found, Known) and isinstance(found.document, Manifest) and found.document.is_image:
                self._images.setdefault(found.document.config.digest, []).append((name, top, found.descriptor))

    def having(self, config: Digest, name: str) -> Iterator[Image]:
        """The images with this config; what has the ``name`` comes first."""
        reference = str(Reference.parse(name).with_default_tag()) if name else ""
        yield from sorted(self._images.get(config, ()), key=lambda image: image[0] != reference)
