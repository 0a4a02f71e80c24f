"""Checks whether images are here with everything that they need."""

from __future__ import annotations

from collections.abc import Mapping

from lamina.errors import BlobNotFound, InvalidContent
from lamina.light import TYPE_CHECKING, replace
from lamina.source.verify import check_stated_size
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Index, Manifest
from lamina.spec.mediatype import is_foreign
from lamina.store.name_table import EVERY

if TYPE_CHECKING:
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest
    from lamina.store.blobs import Blobs
    from lamina.store.layers import Layers


def first_missing(manifest: Manifest, blobs: Blobs, layers: Layers) -> Descriptor | None:
    """The first object that the manifest names and that is neither here nor known to be elsewhere; None if there is
    none."""
    from lamina.source.walk import manifest_blobs  # imported late: reading does not need it

    elsewhere: Mapping[Digest, str] | None = None
    for needed in manifest_blobs(manifest):
        if blobs.has(needed) or is_foreign(needed.media_type):
            continue
        elsewhere = layers.origins() if elsewhere is None else elsewhere
        if needed.digest not in elsewhere or needed is manifest.config:
            return needed
    return None


def check_listed_size(index: Digest, listed: Descriptor, blobs: Blobs) -> None:
    """Raise SizeMismatch if an index states another size of what is here. A damaged document is as one that is not
    here: it says nothing about the index."""
    size = blobs.size(listed.digest)
    if size is None or size == listed.size:
        return
    if size <= MAX_DOCUMENT:
        try:
            blobs.read(replace(listed, size=size))
        except (BlobNotFound, InvalidContent):
            return
    check_stated_size(index, listed, size)


def fetched_children(top: Descriptor, known: frozenset[str], blobs: Blobs, layers: Layers) -> str:
    """The children of an index that were fetched: those here with everything that they need, at any depth, and those
    here that are ``known`` to have been fetched (``EVERY``: all). Digests, comma-separated. A child that another
    image brought in as a layer was not fetched. Raises BlobNotFound if the index itself is not here, InvalidContent
    if it is damaged."""
    from lamina.source.walk import Absent, Known, classify, listed_documents, walk

    found = list(walk(lambda one: classify(blobs.read, one), [top], children=listed_documents, max_depth=None))
    if isinstance(found[0], Absent):
        raise BlobNotFound(f"{top.digest} is not in the store", hint="write the document before its name")
    if not isinstance(found[0], Known):
        raise found[0].error

    def is_complete(document: Manifest | Index) -> bool:
        return EVERY in known or not isinstance(document, Manifest) or first_missing(document, blobs, layers) is None

    here = [(str(one.descriptor.digest), one.document) for one in found[1:] if isinstance(one, Known)]
    return ",".join(digest for digest, document in here if digest in known or is_complete(document))
