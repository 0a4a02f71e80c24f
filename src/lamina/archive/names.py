"""Names of images in layouts and archives, as different tools write them (pure).

``org.opencontainers.image.ref.name`` is a tag (umoci, skopeo) or a full name (podman); containerd and docker put the
full name into ``io.containerd.image.name``; BuildKit writes both. lamina reads all of them and writes both.
"""

from __future__ import annotations

from collections.abc import Sequence

from lamina.errors import ReferenceNotFound
from lamina.spec.descriptor import Descriptor
from lamina.spec.reference import CONTAINERD_NAME, REF_NAME, canonical


def names_of(entry: Descriptor) -> list[str]:
    """Return the names in an entry of index.json, the fuller one first."""
    found = (entry.annotations.get(CONTAINERD_NAME, ""), entry.annotations.get(REF_NAME, ""))
    return [name for name in dict.fromkeys(found) if name]


def by_exact_name(entries: Sequence[Descriptor]) -> dict[str, Descriptor]:
    """Map each name as written, and each digest, to its entry; the first of several."""
    found: dict[str, Descriptor] = {}
    for entry in entries:
        for name in (*names_of(entry), str(entry.digest)):
            found.setdefault(name, entry)
    return found


def find(entries: Sequence[Descriptor], name: str, where: str) -> Descriptor:
    """Find the entry for ``name``: exactly as written, else as docker normalises it. "" means the only image. Raises
    ReferenceNotFound, which lists the names."""
    if not name:
        if len({entry.digest for entry in entries}) == 1:
            return entries[0]
        raise ReferenceNotFound(f"{where} holds {len(entries)} images", hint=_there(entries))
    for entry in entries:
        if name in names_of(entry) or name == str(entry.digest):
            return entry
    wanted = canonical(name)
    for entry in entries:
        if wanted and wanted in map(canonical, names_of(entry)):
            return entry
    raise ReferenceNotFound(f"{where} holds no image {name!r:.200}", hint=_there(entries))


def annotated(descriptor: Descriptor, name: str) -> Descriptor:
    """Return ``descriptor`` with the annotations for ``name`` ("" for none)."""
    return descriptor.with_annotations({REF_NAME: name or None, CONTAINERD_NAME: canonical(name) or None})


def _there(entries: Sequence[Descriptor]) -> str:
    names = [name for entry in entries for name in names_of(entry)[:1]]
    return "name one of: " + ", ".join(sorted(names)[:20]) if names else "leave out the name: the images have none"
