"""fsck of object storage: whether everything that a manifest names is there, and whole."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, NotFound
from lamina.objects import keys
from lamina.objects.blob import PartStream
from lamina.objects.documents import REMOVING, TOMBSTONE_SIZE, Record, Tag, slices, unpack_manifest
from lamina.objects.records import Condemned, Records
from lamina.objects.tags import Tags
from lamina.source.verify import wrong_size
from lamina.source.walk import manifest_blobs
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, parse
from lamina.spec.mediatype import is_foreign

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket, Listed


@dataclass
class _Document:
    """A manifest or index. ``size``: of its bytes, None if they are damaged. ``named``: what it names, with the sizes
    that it states. ``sparse``: what it names may be missing."""

    size: int | None
    named: tuple[tuple[Digest, int], ...]
    sparse: bool


_Documents = dict[tuple[str, Digest], _Document]


@dataclass
class Report:
    """``damage``: what is wrong, one line each; ``notes``: what gc will clean up. The numbers: what was checked."""

    blobs: int = 0
    size: int = 0
    manifests: int = 0
    tags: int = 0
    uploads: int = 0
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Checker:
    """Checks a bucket. ``deep``: read all bytes, and compare them with their digests; else only the sizes of objects
    are compared. ``repair``: forget damaged blobs, so that the next push sends them again, and delete tags that point
    to nothing."""

    def __init__(
        self, bucket: Bucket, *, deep: bool = False, repair: bool = False, pool: Executor | None = None
    ) -> None:
        self._bucket, self._deep, self._repair = bucket, deep, repair
        self._store = Records(bucket)
        self._pool = pool or ThreadPoolExecutor(8, "lamina-fsck")
        self._report = Report()

    def run(self) -> Report:
        # Manifests first, what they need afterwards: a push that goes on meanwhile writes in the opposite order.
        listed = list(self._bucket.list(keys.REPOSITORIES))
        manifests: _Documents = {}
        links: dict[tuple[str, Digest], set[str]] = {}
        tags: list[tuple[str, Listed]] = []
        documents: list[tuple[str, Digest, Listed]] = []
        for one in listed:
            found = keys.split(one.key)
            if found is None:
                self._report.notes.append(f"{one.key}: not an object of lamina")
                continue
            repository, kind, rest = found
            if kind == "_manifests":
                digest = keys.digest_of_manifest(rest)
                if digest is not None:
                    documents.append((repository, digest, one))
            elif kind == "_tags" and one.size > TOMBSTONE_SIZE:
                tags.append((repository, one))
        for repository, digest, document in self._pool.map(lambda one: self._manifest(*one), documents):
            if document is not None:
                manifests[repository, digest] = document
        for repository, one in tags:
            self._tag(repository, one, manifests)
        for one in self._bucket.list(keys.REPOSITORIES):
            found = keys.split(one.key)
            link = keys.digest_of_link(found[2]) if found is not None and found[1] == "_blobs" else None
            if found is not None and link is not None:
                links.setdefault((found[0], link[0]), set()).add(link[1])
        records = self._records()
        self._needed(manifests, links, records)
        self._report.uploads = sum(1 for _ in self._bucket.list(keys.UPLOADS))
        return self._report

    def _manifest(self, repository: str, digest: Digest, one: Listed) -> tuple[str, Digest, _Document | None]:
        self._report.manifests += 1
        found = self._bucket.get(one.key)
        if found is None:
            return repository, digest, None  # deleted meanwhile
        try:
            media_type, raw = unpack_manifest(found.data, one.key)
            document = parse(raw, media_type, one.key)
        except LaminaError as error:
            self._report.damage.append(f"{repository}: manifest {digest}: {error.message}")
            return repository, digest, None
        if Digest.of(raw, digest.algorithm) != digest:
            self._report.damage.append(f"{repository}: manifest {digest} does not match its digest")
            size = None
        else:
            size = len(raw)
        sparse = isinstance(document, Index)
        named = document.manifests if isinstance(document, Index) else manifest_blobs(document)
        sizes = dict.fromkeys((one.digest, one.size) for one in named if sparse or not is_foreign(one.media_type))
        return repository, digest, _Document(size, tuple(sizes), sparse)

    def _tag(self, repository: str, one: Listed, manifests: _Documents) -> None:
        self._report.tags += 1
        name = one.key.rpartition("/")[2]
        found = self._bucket.get(one.key)
        if found is None:
            return
        try:
            descriptor = Tag.from_bytes(found.data, one.key).descriptor
        except LaminaError as error:
            self._report.damage.append(error.message)
            return
        if descriptor is None or (repository, descriptor.digest) in manifests:
            return
        if self._bucket.head(keys.manifest(repository, descriptor.digest)) is None:
            self._report.notes.append(
                f"{repository}:{name} points to manifest {descriptor.digest}, which was deleted"
                + (": the tag was deleted" if self._repair else "")
            )
            if self._repair:
                digest = descriptor.digest
                with suppress(NotFound):
                    Tags(self._bucket).remove(
                        repository,
                        name,
                        lambda now: now == digest and self._bucket.head(keys.manifest(repository, digest)) is None,
                    )

    def _records(self) -> dict[Digest, Record]:
        found: dict[Digest, Record] = {}
        for digest, record in self._pool.map(self._record, self._bucket.list(keys.BLOBS)):
            if digest is not None and record is not None:
                found[digest] = record
                self._report.blobs += 1
                self._report.size += record.size
        return found

    def _record(self, one: Listed) -> tuple[Digest | None, Record | None]:
        digest = keys.digest_of_record(one.key)
        found = self._bucket.get(one.key)
        if digest is None or found is None:
            return digest, None
        try:
            record, version = Record.from_bytes(found.data, one.key), found.version
        except LaminaError as error:
            self._report.damage.append(error.message)
            return digest, None
        if record.state == REMOVING:
            return digest, None
        problem = self._bytes(digest, record)
        if problem:
            now = self._bucket.get(one.key)
            if now is None or now.version != version:  # gc works on it
                return self._record(one)
            self._report.damage.append(f"blob {digest}: {problem}")
            if self._repair:
                self._store.remove(digest, Condemned(record, version, found.modified), lambda _: None, found.modified)
                return digest, None
        return digest, record

    def _bytes(self, digest: Digest, record: Record) -> str:
        """Say what is wrong with the bytes of a blob; "" if nothing is."""
        there = {one.key: one.size for one in self._bucket.list(keys.generation(record.ident))}
        for epoch, number, start, end in slices(record.runs, 0, record.size):
            key = keys.part(record.ident, epoch, number)
            if key not in there:
                return f"{key} is missing"
            if there[key] != end - start:
                return f"{key} has {there[key]} instead of {end - start} bytes"
        if self._deep:
            hasher = digest.hasher()
            try:
                with PartStream(self._bucket, record, 0, record.size) as stream:
                    while piece := stream.read(1 << 20):
                        hasher.update(piece)
            except LaminaError as error:
                return error.message
            if hasher.hexdigest() != digest.encoded:
                return "its bytes do not match its digest"
        return ""

    def _needed(
        self,
        manifests: _Documents,
        links: dict[tuple[str, Digest], set[str]],
        records: dict[Digest, Record],
    ) -> None:
        for (repository, digest), document in manifests.items():
            for one, stated in document.named:
                size = None
                record = records.get(one)
                if record is not None and record.ident in links.get((repository, one), ()):
                    size = record.size
                elif (repository, one) in manifests:
                    size = manifests[repository, one].size
                if size == stated or (size is None and document.sparse):
                    continue
                if self._bucket.head(keys.manifest(repository, digest)) is None:
                    break  # it was deleted meanwhile
                self._report.damage.append(
                    f"{repository}: manifest {digest} needs blob {one}, not there"
                    if size is None
                    else f"{repository}: {wrong_size(digest, one, stated, size)}"
                )
