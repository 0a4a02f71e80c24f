"""What immutable tags need: a deletion must not break an image that may not be changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, NotFound
from lamina.source.walk import manifest_blobs
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, parse

if TYPE_CHECKING:
    from lamina.source.served import Repositories


def tag_that_needs(place: Repositories, repository: str, tags: Iterable[str], digest: Digest) -> str:
    """The first of ``tags`` whose document has this digest, or names it at any depth; "" if none does. Documents that
    are not there, or are damaged, need nothing."""
    seen: set[Digest] = set()
    for tag in tags:
        try:
            left = [place.find(repository, tag)]
        except NotFound:  # it was deleted meanwhile
            continue
        while left:
            one = left.pop()
            if one.digest == digest:
                return tag
            if one.digest in seen:
                continue
            seen.add(one.digest)
            left += _named(place, one, digest)
    return ""


def _named(place: Repositories, one: Descriptor, wanted: Digest) -> list[Descriptor]:
    """What has to be looked at below a document: the documents that an index lists; of the blobs of a manifest, the
    wanted one."""
    try:
        document = parse(place.manifest(one), one.media_type)
    except LaminaError:
        return []
    if isinstance(document, Index):
        return list(document.manifests)
    return [blob for blob in manifest_blobs(document) if blob.digest == wanted]
