"""Which names of a place lead to a layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lamina.errors import LaminaError
from lamina.source import MAX_NESTING, Lister, Reader, read_config
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, is_selectable, parse


class Place(Reader, Lister, Protocol):
    """What can be read and lists its names."""


def holders(place: Place, diff_ids: Iterable[Digest]) -> list[str]:
    """The names whose image, for any platform, has one of these layers; an image without a name by its digest.
    What can't be read (platforms that were not fetched, artifacts) has none."""
    wanted = frozenset(diff_ids)
    known: dict[Digest, bool] = {}
    found = []
    for name, descriptor in place.names():
        if _has(place, descriptor, wanted, known, 0):
            found.append(name or str(descriptor.digest))
    return sorted(found)


def _has(
    place: Place, descriptor: Descriptor, wanted: frozenset[Digest], known: dict[Digest, bool], depth: int
) -> bool:
    if descriptor.digest not in known:
        known[descriptor.digest] = False
        try:
            document = parse(place.manifest(descriptor), descriptor.media_type)
            if isinstance(document, Manifest):
                has = not wanted.isdisjoint(read_config(place, document, str(descriptor.digest)).diff_ids)
            else:
                children = [child for child in document.manifests if is_selectable(child)]
                has = depth < MAX_NESTING and any(_has(place, child, wanted, known, depth + 1) for child in children)
        except LaminaError:
            return False
        known[descriptor.digest] = has
    return known[descriptor.digest]
