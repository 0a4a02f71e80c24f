"""The repositories in the storage of a docker-registry, for a server: found by their links, without a list of all
names."""

from __future__ import annotations

from bisect import bisect_right

from lamina.errors import BlobNotFound, LaminaError, NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import parse
from lamina.spec.reference import DEFAULT_DOMAIN, Reference

if TYPE_CHECKING:
    from lamina.archive.docker_registry_storage import Storage
    from lamina.source.protocols import Blob


class DockerRegistryRepositories:
    """``Repositories`` of such a storage."""

    def __init__(self, storage: Storage) -> None:
        self.location = storage.location
        self._storage = storage
        self._referrers: dict[Digest, tuple[Digest, Descriptor] | None] = {}

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        found = set()
        for path in self._storage.repositories_in():
            try:
                found.add(Reference.parse(path).repository)
            except UsageError:
                continue
        return _page(sorted(found), after, limit)

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        return _page(self._storage.tags_of(self._path(repository)), after, limit)

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        path = self._path(repository)
        return self._storage.revision(path, name) if isinstance(name, Digest) else self._storage.tag(path, name)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._storage.manifest(descriptor)

    def blob(self, repository: str, digest: Digest) -> Blob:
        try:
            size = self._storage.size_in(self._path(repository), digest)
        except NotFound:
            size = None
        if size is None:
            raise BlobNotFound(f"no blob {digest} in {repository}", hint="check the digest")
        return self._storage.blob(Descriptor("application/octet-stream", digest, size))

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """As ``Repositories.referrers``. docker-registry has no such list, so every manifest of the repository is
        read, once."""
        try:
            path = self._path(repository)
        except NotFound:
            return []
        found = [self._referrer(path, digest) for digest in self._storage.revisions_of(path)]
        return [one[1] for one in found if one is not None and one[0] == subject]

    def usage(self, repository: str) -> int:
        try:
            path = self._path(repository)
        except NotFound:
            return 0
        return sum(self._storage.size_in(path, digest) or 0 for digest in self._storage.contents_of(path))

    def _referrer(self, path: str, digest: Digest) -> tuple[Digest, Descriptor] | None:
        if digest not in self._referrers:
            try:
                top = self._storage.revision(path, digest)
                document = parse(self._storage.manifest(top), top.media_type)
            except LaminaError:
                return None  # a damaged document has no subject, and must not hide the others
            found = None
            if document.subject is not None:
                one = document.as_referrer()
                whole = Descriptor(
                    top.media_type, digest, top.size, annotations=one.annotations, artifact_type=one.artifact_type
                )
                found = document.subject.digest, whole
            self._referrers[digest] = found
        return self._referrers[digest]

    def _path(self, repository: str) -> str:
        """The path here of a canonical repository. Raises NotFound."""
        domain, _, path = repository.partition("/")
        paths = [repository]
        if domain == DEFAULT_DOMAIN:
            paths = [path.removeprefix("library/"), path, repository]
        for one in paths:
            if self._storage.exists(one):
                return one
        raise NotFound(f"no repository {repository} in {self.location}", hint="check the name")


def _page(names: list[str], after: str, limit: int | None) -> list[str]:
    start = bisect_right(names, after) if after else 0
    return names[start:] if limit is None else names[start : start + limit]
