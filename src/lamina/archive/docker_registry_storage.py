"""The storage directory of docker-registry (CNCF distribution), read as it is.

Below ``docker/registry/v2``: ``blobs/sha256/ab/abcd.../data``; for each repository
``_manifests/tags/TAG/current/link``, ``_manifests/revisions/sha256/HEX/link`` (manifests),
``_layers/sha256/HEX/link`` (blobs) and ``_uploads`` (unfinished pushes, which are not read). A link is a file that
contains a digest. Nothing is ever written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from lamina.archive.layout import LayoutBlob
from lamina.errors import (
    BlobNotFound,
    InvalidDocument,
    LaminaError,
    NotFound,
    ReferenceNotFound,
    UsageError,
)
from lamina.host.files import reported
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Index, parse
from lamina.spec.reference import is_path, is_tag

BELOW = os.path.join("docker", "registry", "v2")
_MAX_LINK = 256


class Storage:
    """Repositories, tags, manifests and blobs of such a directory, by the names that they have there."""

    def __init__(self, directory: str) -> None:
        """Open the directory: the configured ``rootdirectory``, or ``docker/registry/v2`` in it. Raises NotFound."""
        self.location = f"docker-registry:{directory}"
        top = storage_in(directory)
        if top is None:
            raise NotFound(
                f"{directory} is not the storage of a docker-registry",
                hint=f"check the path: it has no {BELOW}/repositories",
            )
        self._top = top
        self._documents: dict[Digest, Descriptor] = {}

    def repositories_in(self) -> Iterator[str]:
        """The repositories, sorted, by their paths."""
        yield from self._repositories("")

    def tags_of(self, repository: str) -> list[str]:
        """The tags of a repository, sorted; [] if it has none or does not exist."""
        found = _directories(self._path(repository, "_manifests", "tags"))
        return [name for name in found if is_tag(name)]

    def revisions_of(self, repository: str) -> list[Digest]:
        """The digests of all manifests of a repository that were not deleted, sorted."""
        return self._digests(repository, "_manifests", "revisions")

    def contents_of(self, repository: str) -> set[Digest]:
        """The digests of all manifests and blobs of a repository."""
        return {*self.revisions_of(repository), *self._digests(repository, "_layers")}

    def _digests(self, repository: str, *parts: str) -> list[Digest]:
        """The digests that have a link in a directory, sorted."""
        found = []
        top = self._path(repository, *parts)
        for algorithm in _directories(top):
            for encoded in _directories(os.path.join(top, algorithm)):
                try:
                    digest = Digest.parse(f"{algorithm}:{encoded}")
                except UsageError:
                    continue
                if self._has_link(repository, *parts, digest.algorithm, digest.encoded):
                    found.append(digest)
        return found

    def exists(self, repository: str) -> bool:
        """Whether there is such a repository, tagged or not."""
        return is_path(repository) and os.path.isdir(self._path(repository, "_manifests"))

    def tag(self, repository: str, tag: str) -> Descriptor:
        """The manifest of a tag. Raises ReferenceNotFound, BlobNotFound, InvalidDocument (a damaged link)."""
        if not (is_path(repository) and is_tag(tag)) or not self._has_link(
            repository, "_manifests", "tags", tag, "current"
        ):
            raise absent(f"{repository}:{tag}", self.location)
        digest = self.tag_link(repository, tag)
        return self._document(digest, f"{repository}:{tag}")

    def tag_link(self, repository: str, tag: str) -> Digest:
        """The digest that a tag links. Raises InvalidDocument, SystemFailure."""
        return self._link(repository, "_manifests", "tags", tag, "current")

    def revision(self, repository: str, digest: Digest) -> Descriptor:
        """The manifest of a repository with this digest. Raises ReferenceNotFound, BlobNotFound, InvalidDocument."""
        name = f"{repository}@{digest}"
        where = ("_manifests", "revisions", digest.algorithm, digest.encoded)
        if not is_path(repository) or not self._has_link(repository, *where):
            raise absent(name, self.location)
        if self._link(repository, *where) != digest:
            raise _damaged(self._path(repository, *where), "it names another digest")
        return self._document(digest, name)

    def listed(self, digest: Digest) -> list[Digest]:
        """What an index lists; [] for a manifest, and for what can't be read."""
        try:
            descriptor = self._document(digest, str(digest))
            document = parse(self.manifest(descriptor), descriptor.media_type)
        except LaminaError:
            return []
        return [entry.digest for entry in document.manifests] if isinstance(document, Index) else []

    def size_in(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob or manifest that is in this repository; None if it is not."""
        here = any(
            self._has_link(repository, *where, digest.algorithm, digest.encoded)
            for where in (("_layers",), ("_manifests", "revisions"))
        )
        return self._size(digest) if here and is_path(repository) else None

    def manifest(self, descriptor: Descriptor) -> bytes:
        with self.blob(descriptor).open() as stream:
            raw = stream.read(descriptor.size + 1)
        descriptor.check(raw)
        return raw

    def blob(self, descriptor: Descriptor) -> LayoutBlob:
        return _Blob(descriptor, self._data(descriptor.digest))

    def _size(self, digest: Digest) -> int | None:
        try:
            state = os.lstat(self._data(digest))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return state.st_size if stat.S_ISREG(state.st_mode) else None

    def _document(self, digest: Digest, what: str) -> Descriptor:
        """The descriptor of a manifest: the directory does not keep the media types, the document states its own."""
        known = self._documents.get(digest)
        if known is not None:
            return known
        size = self._size(digest)
        if size is None:
            raise BlobNotFound(
                f"{what}: the manifest {digest} was not found in {self.location}",
                hint="restore it from a backup, or push the image again: the storage is incomplete",
            )
        if size > MAX_DOCUMENT:
            raise InvalidDocument(f"{what}: the manifest {digest} is too large: {size} bytes", hint=_RESTORE)
        raw = self.manifest(Descriptor("application/octet-stream", digest, size))
        found = Descriptor(parse(raw, None, what).media_type, digest, size)
        self._documents[digest] = found
        return found

    def _repositories(self, path: str) -> Iterator[str]:
        below = _directories(os.path.join(self._top, "repositories", path))
        if path and "_manifests" in below:
            yield path
        for name in below:
            deeper = f"{path}/{name}" if path else name
            if is_path(deeper) and len(deeper) <= 255:  # the others are its own: _manifests, _layers, _uploads
                yield from self._repositories(deeper)

    def _has_link(self, *parts: str) -> bool:
        return os.path.lexists(os.path.join(self._path(*parts), "link"))

    def _link(self, *parts: str) -> Digest:
        """The digest in a link. Raises InvalidDocument, SystemFailure."""
        path = os.path.join(self._path(*parts), "link")
        with reported(path):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise _damaged(path, "it is not a regular file")
            with open(path, "rb") as file:
                raw = file.read(_MAX_LINK)
        try:
            return Digest.parse(raw.decode("ascii").strip())
        except (UsageError, UnicodeDecodeError):
            raise _damaged(path, "it is empty" if not raw.strip() else "it does not contain a digest") from None

    def _data(self, digest: Digest) -> str:
        return os.path.join(self._top, "blobs", digest.algorithm, digest.encoded[:2], digest.encoded, "data")

    def _path(self, repository: str, *parts: str) -> str:
        return os.path.join(self._top, "repositories", repository, *parts)


def storage_in(directory: str) -> str | None:
    """Return the directory with ``repositories`` in the storage of a docker-registry; None if there is none."""
    for top in (os.path.join(directory, BELOW), directory):
        if os.path.isdir(os.path.join(top, "repositories")) and not os.path.exists(os.path.join(top, "oci-layout")):
            return top
    return None


_RESTORE = "restore the storage from a backup, or push the image again"


class _Blob(LayoutBlob):
    hint = _RESTORE


def _damaged(path: str, why: str) -> InvalidDocument:
    return InvalidDocument(f"the link {path!r:.500} is damaged: {why}", hint=_RESTORE)


def absent(name: str, location: str, hint: str = "check the repository, the tag or the digest") -> ReferenceNotFound:
    return ReferenceNotFound(f"{location} holds no image {name!r:.200}", hint=hint)


def _directories(path: str) -> list[str]:
    """The names of the directories in a directory, sorted; [] if it does not exist. Links of the file system are not
    followed."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        from lamina.host.files import failure

        raise failure(error, path) from None
