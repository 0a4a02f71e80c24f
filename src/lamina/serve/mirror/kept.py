"""What a mirror has now, without asking any registry: for people who look around, which must not use up the rate
limit of a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.errors import BlobNotFound, NotFound
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from typing import Protocol

    from lamina.serve.mirror.cache import Cache
    from lamina.source.protocols import Blob, Stream
    from lamina.source.served import Repositories

    class Mirrored(Repositories, Protocol):
        """The mirror, as far as it asks no registry."""

        def is_mirrored(self, repository: str) -> bool: ...

        def known_referrers(self, repository: str, subject: Digest) -> list[Descriptor]: ...


class KeptRepositories:
    """``Repositories`` of a mirror, with the images that are here. A layer that is not here yet is not found."""

    def __init__(self, mirrored: Mirrored, base: Repositories, cache: Cache) -> None:
        self.location = mirrored.location
        self._mirrored = mirrored
        self._base = base
        self._cache = cache

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        return self._mirrored.names(after, limit)

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        if not self._mirrored.is_mirrored(repository):
            return self._base.tags(repository, after, limit)
        try:
            own = self._base.tags(repository)
        except NotFound:
            own = []
        found = sorted({*own, *filter(lambda tag: self._tag(repository, tag), self._cache.tags(repository))})
        if not found and repository not in self._cache.repositories():
            raise NotFound(f"no repository {repository} here", hint="pull an image of it through this server")
        left = [tag for tag in found if tag > after]
        return left if limit is None else left[:limit]

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        if self._mirrored.is_mirrored(repository):
            found = self._revision(repository, name) if isinstance(name, Digest) else self._tag(repository, name)
            if found is not None:
                return found
        return self._base.find(repository, name)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._mirrored.manifest(descriptor)

    def blob(self, repository: str, digest: Digest) -> Blob:
        if self._mirrored.is_mirrored(repository):
            known = self._cache.linked(repository, digest)
            size = self._cache.size(digest)
            if known is not None and known.proven and size is not None:
                return _KeptBlob(self._cache, Descriptor(known.descriptor.media_type, digest, size))
        return self._base.blob(repository, digest)

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        if not self._mirrored.is_mirrored(repository):
            return self._base.referrers(repository, subject)
        return self._mirrored.known_referrers(repository, subject)

    def usage(self, repository: str) -> int:
        return self._mirrored.usage(repository)

    def _tag(self, repository: str, tag: str) -> Descriptor | None:
        known = self._cache.tag(repository, tag)
        here = known is not None and self._cache.document(known.descriptor) is not None
        return known.descriptor if known is not None and here else None

    def _revision(self, repository: str, digest: Digest) -> Descriptor | None:
        known = self._cache.linked(repository, digest)
        here = known is not None and known.proven and self._cache.document(known.descriptor) is not None
        return known.descriptor if known is not None and here else None


class _KeptBlob:
    """A ``Blob`` of the cache."""

    origin = ""

    def __init__(self, cache: Cache, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self._cache = cache

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        stream = self._cache.open(self.descriptor.digest, start, end)
        if stream is None:
            raise BlobNotFound(f"blob {self.descriptor.digest} was removed", hint="pull the image again")
        return stream
