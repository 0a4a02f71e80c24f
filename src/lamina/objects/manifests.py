"""Manifests and indexes: each is an object of its repository, together with its media type. Those that refer to
another manifest have an object below that one as well, so that referrers are found by listing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lamina.errors import LaminaError
from lamina.objects import keys
from lamina.objects.documents import pack_manifest, unpack_manifest
from lamina.objects.memory import Memory
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.objects.bucket import Bucket

PERIOD = 3600
MAX_BYTES = 32 << 20
MAX_PLACES = 100_000

Document = tuple[Descriptor, bytes]


class Manifests:
    """The documents of all repositories of a bucket. They never change, so the last ones read are remembered."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._read: Memory[Digest, Document] = Memory(MAX_BYTES, weigh=lambda one: len(one[1]) + 1000)
        self._places: Memory[Digest, str] = Memory(MAX_PLACES)

    def find(self, repository: str, digest: Digest) -> Document | None:
        """The document, if it is in the repository now."""
        if not digest.supported:
            return None
        known = self._read.get(digest)
        if known is not None:
            if not self.exists(repository, digest):
                return None
            self._places.put(digest, repository)
            return known
        return self._load(repository, digest)

    def known(self, repository: str, digest: Digest) -> Document | None:
        """The document, perhaps removed a moment ago."""
        return self._read.get(digest) or self._load(repository, digest)

    def somewhere(self, digest: Digest) -> Document | None:
        """A document that was found before, or that such a document lists."""
        repository = self._places.get(digest)
        return self._read.get(digest) or (None if repository is None else self._load(repository, digest))

    def exists(self, repository: str, digest: Digest) -> bool:
        return self._bucket.head(keys.manifest(repository, digest)) is not None

    def put(self, repository: str, descriptor: Descriptor, document: Manifest | Index) -> None:
        """Write a document. What refers to it is there before it."""
        if document.subject is not None:
            period = int(time.time()) // PERIOD
            key = keys.referrer(repository, document.subject.digest, descriptor.digest, period)
            self._bucket.put(key, b"1")
        self._bucket.put(
            keys.manifest(repository, descriptor.digest), pack_manifest(descriptor.media_type, document.raw)
        )
        self._remember(repository, descriptor, document.raw)

    def delete(self, repository: str, digest: Digest) -> None:
        self._bucket.delete(keys.manifest(repository, digest))
        self._read.drop(digest)

    def referring(self, repository: str, subject: Digest) -> list[Digest]:
        """The documents that refer to a subject, sorted; some may have been removed."""
        if not subject.supported:
            return []
        found = (keys.referrer_of(one.key) for one in self._bucket.list(keys.referrers(repository, subject)))
        return sorted({one[0] for one in found if one is not None})

    def _load(self, repository: str, digest: Digest) -> Document | None:
        key = keys.manifest(repository, digest)
        found = self._bucket.get(key)
        if found is None:
            return None
        media_type, raw = unpack_manifest(found.data, key)
        descriptor = Descriptor(media_type, digest, len(raw))
        descriptor.check(raw)
        self._remember(repository, descriptor, raw)
        return descriptor, raw

    def _remember(self, repository: str, descriptor: Descriptor, raw: bytes) -> None:
        self._read.put(descriptor.digest, (descriptor, raw))
        for digest in (descriptor.digest, *listed(descriptor, raw)):
            self._places.put(digest, repository)


def listed(descriptor: Descriptor, raw: bytes) -> Iterable[Digest]:
    """The documents that an index lists."""
    try:
        document = parse(raw, descriptor.media_type)
    except LaminaError:
        return ()
    return [one.digest for one in document.manifests] if isinstance(document, Index) else ()


def named(document: Manifest | Index) -> list[Digest]:
    """Everything that a document needs or lists. An index may list blobs (BuildKit's caches do)."""
    if isinstance(document, Index):
        return [one.digest for one in document.manifests]
    return [document.config.digest, *(one.digest for one in document.layers)]
