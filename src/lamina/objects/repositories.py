"""What a registry server needs of object storage (``WritableRepositories``), without any state of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from lamina.errors import BlobNotFound, LaminaError, NotFound
from lamina.objects import keys
from lamina.objects.blob import ANY_TYPE, LinkedBlob, ObjectBlob
from lamina.objects.documents import HERE
from lamina.objects.failures import StorageFailure
from lamina.objects.filling import Budget
from lamina.objects.long_object import SENDERS, WAITING, Senders
from lamina.objects.manifests import Manifests
from lamina.objects.memory import Memory
from lamina.objects.records import Records
from lamina.objects.removal import REAL, Clock, Patience
from lamina.objects.tags import Tags, fixed_tag
from lamina.objects.uploads import ObjectUploads
from lamina.source.verify import BytesBlob, check_stated_size
from lamina.source.walk import manifest_blobs
from lamina.spec.descriptor import Descriptor
from lamina.spec.manifest import Index, parse
from lamina.spec.mediatype import is_foreign

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket
    from lamina.objects.documents import Record
    from lamina.source.protocols import Blob
    from lamina.spec.digest import Digest

GRACE = 3600.0
"""Seconds for which gc keeps what no manifest names. All servers of a bucket and gc use the same."""

_BELIEVED = 10.0
"""Seconds for which a server believes that a blob that it has seen in a repository is there, for reading."""

_WRITES_EVERY = 60.0
"""Seconds between two objects that are written only to find out whether that is possible: they cost money."""

MAX_REMEMBERED = 50_000
THREADS = 32


class ObjectRepositories:
    """``WritableRepositories`` of a bucket. Several servers may use it at once. ``redirect``: blobs have URLs of the
    storage, so those that are uploaded are joined to one object."""

    def __init__(
        self,
        bucket: Bucket,
        *,
        grace: float = GRACE,
        redirect: bool = False,
        clock: Clock = REAL,
        pool: Executor | None = None,
    ) -> None:
        self.location = bucket.location
        self._bucket = bucket
        self._grace, self._redirect = grace, redirect
        self._manifests = Manifests(bucket)
        self._clock = clock
        self._wrote = float("-inf")
        self._tags = Tags(bucket, clock)
        self.records = Records(bucket, clock)
        self._pool = pool or ThreadPoolExecutor(THREADS, "lamina-objects")
        self._repositories: Memory[str, bool] = Memory(MAX_REMEMBERED)
        self._seen: Memory[str, bool] = Memory(MAX_REMEMBERED, seconds=_BELIEVED, now=clock.now)
        self._written: Memory[str, bool] = Memory(MAX_REMEMBERED, seconds=grace / 4, now=clock.now)
        self._sending = pool or ThreadPoolExecutor(SENDERS, "lamina-send")
        senders = Senders(self._sending, Budget(WAITING))
        self.uploads = ObjectUploads(bucket, self.records, self._link, senders, self._pool, joined=redirect)

    def close(self) -> None:
        for pool in (self._pool, self._sending):
            pool.shutdown(wait=False, cancel_futures=True)

    # reading

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        start = keys.marker(after) if after else ""
        found = (keys.repository_of_marker(one.key) for one in self._bucket.list(keys.NAMES, start))
        return list(islice(found, limit))

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        found = list(islice(self._tags.list(repository, after), limit))
        if not found and not self._exists(repository):
            raise NotFound(f"no repository {repository} in {self.location}", hint="check the name")
        return found

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        if isinstance(name, str):
            tagged = self._tags.get(repository, name)
            found = None if tagged is None else self._manifests.known(repository, tagged.digest)
        else:
            found = self._manifests.find(repository, name)
        if found is None:
            raise NotFound(f"no manifest {str(name)[:150]} in {repository}", hint="check the tag or the digest")
        return found[0]

    def manifest(self, descriptor: Descriptor) -> bytes:
        found = self._manifests.somewhere(descriptor.digest)
        if found is None:
            raise BlobNotFound(f"no manifest {descriptor.digest} in {self.location}", hint="check the digest")
        return found[1]

    def blob(self, repository: str, digest: Digest) -> Blob:
        record = self._in(repository, digest)
        if record is not None:
            kind = LinkedBlob if self._redirect else ObjectBlob
            return kind(self._bucket, digest, record, lambda: self.records.fresh(digest))
        found = self._manifests.find(repository, digest)  # a manifest is a blob as well
        if found is not None:
            return BytesBlob(Descriptor(ANY_TYPE, digest, found[0].size), found[1])
        raise BlobNotFound(f"no blob {digest} in {repository}", hint="check the digest")

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        found = self._pool.map(
            lambda digest: self._referrer(repository, subject, digest),
            self._manifests.referring(repository, subject),
        )
        return [one for one in found if one is not None]

    def usage(self, repository: str) -> int:
        prefix = keys.links(repository)
        sizes: dict[Digest, int] = {}
        for one in self._bucket.list(prefix):
            link = keys.digest_of_link(one.key[len(prefix) + 1 :])
            if link is not None:
                sizes[link[0]] = link[2]
        return sum(sizes.values()) + sum(one.size for one in self._bucket.list(keys.manifests(repository)))

    # writing

    def check_writing(self) -> None:
        if self._clock.now() - self._wrote > _WRITES_EVERY:
            self._bucket.put(keys.WRITABLE, b"1")
            self._wrote = self._clock.now()

    def mount(self, repository: str, digest: Digest, source: str) -> bool:
        record = self._in(source, digest)
        return record is not None and self._link(repository, digest, record)

    def keep(self, repository: str, digest: Digest) -> bool:
        return self._kept(repository, digest) is not None

    def put_manifest(
        self, repository: str, descriptor: Descriptor, raw: bytes, tags: Sequence[str], *, fixed: Collection[str] = ()
    ) -> None:
        document = parse(raw, descriptor.media_type, str(descriptor.digest))
        for tag in tags:
            if tag in fixed:
                there = self._tags.get(repository, tag)
                if there is not None and there.digest != descriptor.digest:
                    raise fixed_tag(repository, tag)
        start = self._clock.now()
        if isinstance(document, Index):  # may be sparse; what it lists may be blobs
            needed, must = list(document.manifests), False
        else:
            needed, must = [one for one in manifest_blobs(document) if not is_foreign(one.media_type)], True
        sizes = self._pool.map(lambda one: self._kept(repository, one.digest), needed)
        for one, size in zip(needed, sizes, strict=True):
            if size is None and must:
                raise BlobNotFound(f"no blob {one.digest} in {repository}", hint="push it first")
            check_stated_size(descriptor.digest, one, size)
        if self._clock.now() - start > self._grace / 2:  # what was kept may no longer be kept
            raise StorageFailure(f"{self.location} took too long to look for blobs", hint="push the manifest again")
        self._announce(repository)
        patience = Patience(self._clock)
        while True:
            self._manifests.put(repository, descriptor, document)
            for tag in tags:
                self._tags.set(repository, tag, descriptor, fixed=tag in fixed)
            # another client may have deleted the manifest since it was written, and so have missed the tags
            if self._manifests.exists(repository, descriptor.digest):
                return
            patience.again()

    def untag(self, repository: str, tag: str) -> None:
        self._tags.remove(repository, tag)

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        there = digest.supported and self._manifests.exists(repository, digest)
        if there:
            self._manifests.delete(repository, digest)
        # also if it is not there: a server that was killed may have left tags, and the client tries again
        list(self._pool.map(lambda tag: self._untag_dangling(repository, tag, digest), self._tags.list(repository)))
        if not there:
            raise NotFound(f"no manifest {digest} in {repository}", hint="check the digest")

    def delete_blob(self, repository: str, digest: Digest) -> None:
        record = self._in(repository, digest, fresh=True)
        if record is None:
            raise BlobNotFound(f"no blob {digest} in {repository}", hint="check the digest")
        key = keys.link(repository, digest, record.ident, record.size)
        self._bucket.delete(key)
        self._seen.drop(key)
        self._written.drop(key)

    def _in(self, repository: str, digest: Digest, *, fresh: bool = False) -> Record | None:
        """The record of a blob that is in the repository. ``fresh``: as it is now."""
        if not digest.supported:
            return None
        record = self.records.fresh(digest) if fresh else self.records.known(digest)
        if record is None:
            return None
        key = keys.link(repository, digest, record.ident, record.size)
        if not fresh and self._seen.get(key):
            return record
        if self._bucket.head(key) is not None:
            self._seen.put(key, True)
            return record
        now = None if fresh else self.records.fresh(digest)
        if now is not None and now.ident != record.ident:  # it was removed and pushed anew since
            return self._in(repository, digest, fresh=True)
        return None

    def _link(self, repository: str, digest: Digest, record: Record) -> bool:
        """Put a blob into a repository, and protect it for the grace time. False if it is not here any more."""
        key = keys.link(repository, digest, record.ident, record.size)
        self._announce(repository)
        # also if this server has written it before: another one may have deleted it since
        self._bucket.put(key, b"1")
        self._written.put(key, True)
        self._seen.put(key, True)
        now = self.records.rely(digest)
        if now is not None and now.ident == record.ident:
            return True
        self._bucket.delete(key)  # its bytes are gone for good: nobody else needs this link
        self._written.drop(key)
        self._seen.drop(key)
        return False

    def _kept(self, repository: str, digest: Digest) -> int | None:
        """Protect a blob of the repository for the grace time. Returns its size, or that of a manifest; None if it is
        not there."""
        record = self._in(repository, digest, fresh=True)
        if record is None:
            found = self._manifests.find(repository, digest)
            return None if found is None else found[0].size
        if record.state == HERE and self._written.get(keys.link(repository, digest, record.ident, record.size)):
            return record.size  # the link was there before the record was read
        return record.size if self._link(repository, digest, record) else None

    def _exists(self, repository: str) -> bool:
        if self._repositories.get(repository):
            return True
        if self._bucket.head(keys.marker(repository)) is None:
            return False
        self._repositories.put(repository, True)
        return True

    def _announce(self, repository: str) -> None:
        """Make the repository exist."""
        if not self._exists(repository):
            self._bucket.create(keys.marker(repository), b"1")
            self._repositories.put(repository, True)

    def _untag_dangling(self, repository: str, tag: str, digest: Digest) -> None:
        """Remove a tag if it points to this manifest, and the manifest is still gone."""
        try:
            self._tags.remove(
                repository, tag, lambda one: one == digest and not self._manifests.exists(repository, digest)
            )
        except NotFound:
            pass  # somebody else has removed it

    def _referrer(self, repository: str, subject: Digest, digest: Digest) -> Descriptor | None:
        try:
            found = self._manifests.find(repository, digest)
            if found is None:
                return None
            descriptor, raw = found
            document = parse(raw, descriptor.media_type)
        except LaminaError:
            return None  # a damaged document must not hide the others
        if document.subject is None or document.subject.digest != subject:
            return None
        one = document.as_referrer()
        return Descriptor(
            descriptor.media_type,
            digest,
            descriptor.size,
            annotations=one.annotations,
            artifact_type=one.artifact_type,
        )

    def tagged(self) -> Iterator[tuple[str, Descriptor]]:
        """All tags, as ``repository:tag``."""
        for repository in self.names():
            for tag in self._tags.list(repository):
                descriptor = self._tags.get(repository, tag)
                if descriptor is not None:
                    yield f"{repository}:{tag}", descriptor
