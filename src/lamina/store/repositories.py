"""The store as the place of a registry server: its repositories, and what clients push to them.

What was pushed to a repository is protected from gc until a manifest of that repository names it, or for the grace
time.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from lamina.errors import BlobNotFound, Conflict, DigestMismatch, NotFound
from lamina.source.repositories import ANY_TYPE, ListedRepositories
from lamina.source.walk import manifest_blobs
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, parse
from lamina.spec.mediatype import is_foreign
from lamina.store.roots import GRACE

if TYPE_CHECKING:
    from lamina.source.protocols import Blob
    from lamina.store.blobs import Blobs
    from lamina.store.read import StoreReader
    from lamina.store.session import StoreSession
    from lamina.store.tags import Tags
    from lamina.store.uploads import Uploads


class StoreRepositories(ListedRepositories):
    """``WritableRepositories`` of the store. ``session`` lasts as long as the server."""

    def __init__(
        self, reader: StoreReader, blobs: Blobs, tags: Tags, uploads: Uploads, session: StoreSession
    ) -> None:
        super().__init__(reader, blobs)
        self._blobs = blobs
        self._tags = tags
        self._session = session
        self._members: set[tuple[str, Digest]] = set()
        self._protected: dict[tuple[str, Digest], float] = {}
        self._deleted: set[tuple[str, Digest]] = set()
        self._known: set[str] = set()
        self.uploads = RepositoryUploads(self, uploads)

    # reading

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        try:
            return super().tags(repository, after, limit)
        except NotFound:
            if repository not in self._known:
                raise
            return []

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        if isinstance(name, Digest) and (repository, name) in self._deleted:
            raise NotFound(f"no manifest {name} in {repository}", hint="it was deleted")
        return super().find(repository, name)

    def blob(self, repository: str, digest: Digest) -> Blob:
        if (repository, digest) in self._deleted:
            raise BlobNotFound(f"no blob {digest} in {repository}", hint="it was deleted")
        if (repository, digest) in self._members:
            size = self._blobs.size(digest)
            if size is not None:
                return self._blobs.get(Descriptor(ANY_TYPE, digest, size))
        return super().blob(repository, digest)

    def usage(self, repository: str) -> int:
        with self._guard:
            waiting = [digest for name, digest in self._protected if name == repository]
        named = {digest for top in self._listing().tops(repository) for digest in self._content(top)}
        return super().usage(repository) + sum(self._blobs.size(one) or 0 for one in waiting if one not in named)

    def _tops(self, repository: str) -> list[Descriptor]:
        listing = self._listing()
        unnamed = [one for one in listing.unnamed if (repository, one.digest) in self._members]
        return [*listing.tops(repository), *unnamed]

    # writing

    def mount(self, repository: str, digest: Digest, source: str) -> bool:
        try:
            self.blob(source, digest)
        except BlobNotFound:
            return False
        return self._protect(repository, digest)

    def keep(self, repository: str, digest: Digest) -> bool:
        return self._protect(repository, digest)

    def put_manifest(
        self, repository: str, descriptor: Descriptor, raw: bytes, tags: Sequence[str], *, fixed: Collection[str] = ()
    ) -> None:
        document = parse(raw, descriptor.media_type, str(descriptor.digest))
        named = manifest_blobs(document) if isinstance(document, Manifest) else []
        for one in named:
            if not is_foreign(one.media_type):  # its bytes may be where its URLs say
                self.blob(repository, one.digest)
        for one in (descriptor, *named):
            self._protect(repository, one.digest)
        self._session.put_manifest(descriptor, raw)
        self._deleted.discard((repository, descriptor.digest))
        self._known.add(repository)
        for tag in tags:
            name = f"{repository}:{tag}"
            if tag not in fixed:
                self._session.tag(name, descriptor)
            elif (
                not self._tags.swap(name, None, descriptor) and self.find(repository, tag).digest != descriptor.digest
            ):
                raise Conflict(f"tag {tag} of {repository} may not be moved", hint="push another tag")
        if not tags:
            self._session.tag(f"{repository}@{descriptor.digest}", descriptor)
        self._forget(repository, [descriptor.digest, *(one.digest for one in named)])

    def untag(self, repository: str, tag: str) -> None:
        while True:
            digest = self.find(repository, tag).digest
            self._note(repository, digest)
            if self._tags.swap(f"{repository}:{tag}", digest, None):
                self._known.add(repository)
                return

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        self.find(repository, digest)
        listing = self._listing()
        tags = listing.tags.get(repository, {})
        names = [f"{repository}:{tag}" for tag, one in tags.items() if one.digest == digest]
        self._known.add(repository)
        self._tags.forget([*names, f"{repository}@{digest}"], digest)
        self._deleted.add((repository, digest))

    def delete_blob(self, repository: str, digest: Digest) -> None:
        self.blob(repository, digest)
        self._deleted.add((repository, digest))

    def _protect(self, repository: str, digest: Digest) -> bool:
        self._note(repository, digest)
        size = self._blobs.size(digest)
        if size is None or not self._session.has(Descriptor(ANY_TYPE, digest, size)):
            return False
        self._deleted.discard((repository, digest))
        return True

    def _note(self, repository: str, digest: Digest) -> None:
        with self._guard:
            self._members.add((repository, digest))
            self._protected[repository, digest] = time.monotonic()

    def _forget(self, repository: str, digests: Iterable[Digest]) -> None:
        """Stop protecting these: a manifest of the repository names them now, or they have a name."""
        long_ago = time.monotonic() - GRACE
        with self._guard:
            for digest in digests:
                self._protected.pop((repository, digest), None)
            self._protected = {key: noted for key, noted in self._protected.items() if noted > long_ago}
            self._session.protect_only({digest for _, digest in self._protected})


class RepositoryUploads:
    """``UploadPlace`` of the store."""

    def __init__(self, repositories: StoreRepositories, uploads: Uploads) -> None:
        self._repositories = repositories
        self._uploads = uploads

    def create(self, repository: str) -> str:
        return self._uploads.create()

    def size(self, repository: str, ident: str) -> int:
        return self._uploads.size(ident)

    def append(self, repository: str, ident: str, pieces: Iterable[bytes]) -> int:
        return self._uploads.append(ident, pieces)

    def held(self, repository: str, ident: str) -> AbstractContextManager[None]:
        return self._uploads.held(ident)

    def finish(self, repository: str, ident: str, digest: Digest) -> Descriptor:
        descriptor = Descriptor(ANY_TYPE, digest, self._uploads.size(ident))
        self._repositories._note(repository, digest)
        try:
            self._repositories._session.put_upload(descriptor, ident)
        except BlobNotFound as error:  # nothing can be fetched to complete it
            raise DigestMismatch(error.message, hint=error.hint) from None
        self._repositories._deleted.discard((repository, digest))
        return descriptor

    def cancel(self, repository: str, ident: str) -> None:
        self._uploads.cancel(ident)
