"""Mirrored registries beside a place that clients write to; what they push to mirrored repositories is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from lamina.errors import ReadOnlyRepository
from lamina.serve.mirror.repositories import MirroredRepositories

if TYPE_CHECKING:
    from lamina.serve.mirror.cache import Cache
    from lamina.serve.mirror.fetch import Fetches
    from lamina.serve.mirror.upstream import Upstreams
    from lamina.source.served import UploadPlace, WritableRepositories
    from lamina.source.upload_limits import Opener
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest


class WritableMirroredRepositories(MirroredRepositories):
    """``WritableRepositories`` over those of a place."""

    def __init__(
        self, base: WritableRepositories, upstreams: Upstreams, cache: Cache, fetches: Fetches, ttl: float
    ) -> None:
        super().__init__(base, upstreams, cache, fetches, ttl)
        self._writing = base
        self.uploads: UploadPlace = _Uploads(self, base.uploads)

    def check_writing(self) -> None:
        self._writing.check_writing()

    def mount(self, repository: str, digest: Digest, source: str) -> bool:
        self.check_own(repository)
        return self._writing.mount(repository, digest, source)

    def keep(self, repository: str, digest: Digest) -> bool:
        return self.is_mirrored(repository) or self._writing.keep(repository, digest)

    def put_manifest(
        self, repository: str, descriptor: Descriptor, raw: bytes, tags: Sequence[str], *, fixed: Collection[str] = ()
    ) -> None:
        self.check_own(repository)
        self._writing.put_manifest(repository, descriptor, raw, tags, fixed=fixed)

    def untag(self, repository: str, tag: str) -> None:
        self.check_own(repository)
        self._writing.untag(repository, tag)

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        self.check_own(repository)
        self._writing.delete_manifest(repository, digest)

    def delete_blob(self, repository: str, digest: Digest) -> None:
        self.check_own(repository)
        self._writing.delete_blob(repository, digest)

    def check_own(self, repository: str) -> None:
        """Raise ReadOnlyRepository for a repository of a mirrored registry."""
        if self.is_mirrored(repository):
            host = repository.partition("/")[0]
            raise ReadOnlyRepository(
                f"{repository} can't be written to: this server mirrors {host}",
                hint=f"push to {host} itself, or to a name that begins with another host",
            )


class _Uploads:
    """``UploadPlace`` that begins no uploads to mirrored repositories."""

    def __init__(self, place: WritableMirroredRepositories, uploads: UploadPlace) -> None:
        self._place = place
        self._uploads = uploads

    def create(self, repository: str, opener: Opener | None = None) -> str:
        self._place.check_own(repository)
        return self._uploads.create(repository, opener)

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        return self._uploads.received(repository)

    def size(self, repository: str, ident: str) -> int:
        return self._uploads.size(repository, ident)

    def append(self, repository: str, ident: str, pieces: Iterable[bytes]) -> int:
        return self._uploads.append(repository, ident, pieces)

    def held(self, repository: str, ident: str) -> AbstractContextManager[None]:
        return self._uploads.held(repository, ident)

    def finish(self, repository: str, ident: str, digest: Digest) -> Descriptor:
        return self._uploads.finish(repository, ident, digest)

    def cancel(self, repository: str, ident: str) -> None:
        self._uploads.cancel(repository, ident)
