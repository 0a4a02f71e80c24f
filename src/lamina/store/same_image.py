"""Finds images of the store by their config, so that an image that ``docker save`` has written is not stored a second
time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lamina.light import TYPE_CHECKING
from lamina.source.walk import Known, classify, listed_documents, walk
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.store.blobs import Blobs

Image = tuple[str, Descriptor, Descriptor]
"""The name, the document that it points to, and the manifest in that document which has the config."""


class ImagesByConfig:
    """A map from configs to images. It is built from the names of the store; each new name is then added."""

    def __init__(self, blobs: Blobs, names: Iterable[tuple[str, Descriptor]]) -> None:
        self._blobs = blobs
        self._images: dict[Digest, list[Image]] = {}
        for name, top in names:
            self.note(name, top)

    def note(self, name: str, top: Descriptor) -> None:
        """Record that ``name`` ("" for none) points to ``top``."""
        for found in walk(
            lambda one: classify(self._blobs.read, one), [top], children=listed_documents, max_depth=None
        ):
            if isinstance(found, Known) and isinstance(found.document, Manifest) and found.document.is_image:
                self._images.setdefault(found.document.config.digest, []).append((name, top, found.descriptor))

    def having(self, config: Digest, name: str) -> Iterator[Image]:
        """The images with this config; the image with this ``name`` comes first."""
        reference = str(Reference.parse(name).with_default_tag()) if name else ""
        yield from sorted(self._images.get(config, ()), key=lambda image: image[0] != reference)
