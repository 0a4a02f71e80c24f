"""The store as the place of a registry server: its repositories, and what clients push to them (decision 0041).

What a repository has is on the disk, so that several servers of one store, and a server after a restart, agree: names
in index.json, and members (``store.members``). No request walks over all names. What clients push is protected from
gc until a manifest with a name needs it, or for the grace time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from lamina.errors import BlobNotFound, Conflict, NotFound
from lamina.host.files import reported, write_all
from lamina.host.lock import locked
from lamina.host.spool import check_free_space
from lamina.host.temporary import Temporary
from lamina.source.repositories import ANY_TYPE, ListedRepositories, page
from lamina.source.select import MAX_NESTING
from lamina.source.verify import check_stated_size
from lamina.source.walk import Classified, Known, classifier, listed_documents, manifest_blobs, walk
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, parse
from lamina.spec.mediatype import is_foreign, is_index, is_known_document
from lamina.spec.reference import Reference
from lamina.store.completeness import check_listed_size, fetched_children, first_missing
from lamina.store.fault import point
from lamina.store.members import DELETED, LINKS, PUSHED, Members
from lamina.store.name_table import EVERY, Change, NameTable, name_of
from lamina.store.repository_contents import Contents, limited_to, listed_in, lists_every, merged_entries
from lamina.store.uploads import Uploads

if TYPE_CHECKING:
    from lamina.source.protocols import Blob
    from lamina.source.upload_limits import Opener
    from lamina.store.paths import Paths
    from lamina.store.read import StoreReader
    from lamina.store.serving_rules import ServingRules

_MOST_LISTED = 1000
"""Manifests that an index may have in the repository if it does not have all: each tag of it names them in
index.json."""
_MOST_CONTENTS = 2000
"""Repositories whose contents are remembered."""


class StoreRepositories(ListedRepositories):
    """``WritableRepositories`` of the store."""

    def __init__(self, reader: StoreReader, rules: ServingRules) -> None:
        super().__init__(reader, reader.blobs)
        self._paths = reader.paths
        self._blobs = reader.blobs
        self._layers = reader.layers
        self._refs = reader.refs
        self._members = Members(reader.paths)
        self._contents_of: dict[str, Contents] = {}
        self.uploads = RepositoryUploads(self._members, reader.paths, rules)

    # reading

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        with reported(self._paths.repositories):
            return page(sorted({*self._refs.repositories(), *self._members.repositories()}), after, limit)

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        found = self._refs.tags(repository)
        if not found and not self._members.exists(repository):
            raise NotFound(f"no repository {repository} in {self.location}", hint="check the name")
        return page(sorted(filter(None, found)), after, limit)

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        found: Descriptor | None
        if not isinstance(name, Digest):
            tagged = self._refs.tagged(repository, name) if name else []
            found = tagged[0] if tagged else None
        else:
            found = self._document(repository, name)
        if found is None:
            raise NotFound(f"no manifest {str(name)[:150]} in {repository}", hint="check the tag or the digest")
        return found

    def blob(self, repository: str, digest: Digest) -> Blob:
        size = self._blobs.size(digest)
        if size is None or not self._has(repository, digest):
            raise BlobNotFound(f"no blob {digest} in {repository}", hint="check the digest")
        return self._blobs.get(Descriptor(ANY_TYPE, digest, size))

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        with self._contents(repository) as contents:
            return contents.referrers(subject)

    def usage(self, repository: str) -> int:
        with self._contents(repository) as contents:
            sizes = contents.sizes()
        with reported(self._paths.repositories):
            pushed = self._members.listed(repository, PUSHED) | self._members.listed(repository, LINKS)
            deleted = self._members.listed(repository, DELETED)
        sizes.update((digest, self._blobs.size(digest) or 0) for digest in pushed if digest not in sizes)
        return sum(size for digest, size in sizes.items() if digest not in deleted)

    def _document(self, repository: str, digest: Digest) -> Descriptor | None:
        named = self._refs.named_in(repository, digest)
        if named is not None:
            return named
        if self._members.is_deleted(repository, digest):
            return None
        known = self._refs.any_of(digest)
        if known is not None and self._members.has(repository, digest):
            return known
        if self._blobs.size(digest) is None:
            return None
        with self._contents(repository) as contents:
            return contents.document(digest)

    def _has(self, repository: str, digest: Digest) -> bool:
        """Whether a blob is in the repository, if it exists at all."""
        if self._members.is_deleted(repository, digest):
            return False
        if self._members.has(repository, digest):
            return True
        with self._contents(repository) as contents:
            return contents.has(digest)

    @contextmanager
    def _contents(self, repository: str) -> Iterator[Contents]:
        """What the documents of a repository name, as of now."""
        version = self._refs.version()
        with self._guard:
            contents = self._contents_of.get(repository)
            if contents is None:
                if len(self._contents_of) >= _MOST_CONTENTS:
                    self._contents_of.clear()
                contents = self._contents_of[repository] = Contents()
        with contents.guard:
            if contents.version != version:
                foreign = not self._members.exists(repository)

                def content_of(top: Descriptor) -> tuple[dict[Digest, Descriptor], bool]:
                    listed = None if lists_every(top) else listed_in(top)
                    return self._content_and_state(top, listed=listed, foreign=foreign)

                contents.update(version, merged_entries(self._tops(repository)), content_of, self._referrer)
            yield contents

    def _tops(self, repository: str) -> list[Descriptor]:
        named, unnamed = self._refs.documents(repository)
        if not unnamed or not self._members.exists(repository):
            return named
        with reported(self._paths.repositories):
            there = self._members.listed(repository, LINKS) | self._members.listed(repository, PUSHED)
        mine = [entry for entry in unnamed if entry.digest in there]
        return [*named, *(limited_to(entry, self._listed(entry), there) for entry in mine)]

    def _listed(self, entry: Descriptor) -> Iterable[Digest]:
        """The documents that an index has in the repository of its entry."""
        return self._every(entry) if lists_every(entry) else listed_in(entry)

    def _every(self, top: Descriptor) -> list[Digest]:
        """All that an index lists, at any depth. Only indexes are read."""

        def below(found: Classified) -> list[Descriptor]:
            return [one for one in listed_documents(found) if is_index(one.media_type)]

        found = walk(classifier(self._place), [top], children=below, max_depth=None)
        indexes = [one.document for one in found if isinstance(one, Known) and isinstance(one.document, Index)]
        return list(dict.fromkeys(one.digest for index in indexes for one in index.manifests))

    # writing

    def check_writing(self) -> None:
        self.uploads.check_writing()

    def mount(self, repository: str, digest: Digest, source: str) -> bool:
        if self._blobs.size(digest) is None or not self._has(source, digest):
            return False
        with reported(self._paths.repositories):
            with locked(self._paths.lock):
                self._members.push(repository, [digest])
            if self._blobs.size(digest) is None:
                return False
            self._members.sync(repository)
            self._members.restore(repository, digest)
        return True

    def keep(self, repository: str, digest: Digest) -> bool:
        if not self._has(repository, digest):
            return False
        with reported(self._paths.repositories), locked(self._paths.lock):
            self._members.keep(repository, [digest])
            return self._blobs.size(digest) is not None

    def put_manifest(
        self, repository: str, descriptor: Descriptor, raw: bytes, tags: Sequence[str], *, fixed: Collection[str] = ()
    ) -> None:
        descriptor.check(raw)
        document = parse(raw, descriptor.media_type, str(descriptor.digest))
        named = []
        for one in manifest_blobs(document) if isinstance(document, Manifest) else []:
            if self._has(repository, one.digest):
                if not is_foreign(one.media_type):
                    check_stated_size(descriptor.digest, one, self._blobs.size(one.digest))
                named.append(one)
            elif not is_foreign(one.media_type):  # the bytes of a foreign layer may be where its URLs say
                raise _missing(descriptor.digest, one.digest)
        if isinstance(document, Index):
            self._check_sizes(repository, descriptor.digest, document)
        with reported(self._paths.repositories):
            self._check_fixed(repository, descriptor.digest, [tag for tag in tags if tag in fixed])
            own = [descriptor.digest, *{one.digest: None for one in named}]
            with locked(self._paths.lock):
                self._members.use(repository, own)
            self._check_complete(descriptor.digest, document)
            if not self._blobs.has(descriptor):
                self._blobs.write(descriptor, raw)
                point("manifest.written")
            self._name(repository, descriptor, document, tags, fixed)
            with suppress(OSError):  # on a full disk they are protected for longer than necessary
                self._members.settle(repository, own)

    def _check_sizes(self, repository: str, digest: Digest, index: Index) -> None:
        """Raises SizeMismatch. What only other repositories have is as absent: nobody learns of it here."""
        for one in index.manifests:
            if self._blobs.size(one.digest) != one.size and self._is_own(repository, one.digest):
                check_listed_size(digest, one, self._blobs)

    def _is_own(self, repository: str, digest: Digest) -> bool:
        """Whether the repository has a document or a blob."""
        # a document that prune took the name of is still there if a client was told so (``keep``)
        return self._document(repository, digest) is not None or self._has(repository, digest)

    def _check_complete(self, digest: Digest, document: Manifest | Index) -> None:
        """Raises BlobNotFound."""
        if not isinstance(document, Manifest):
            return
        missing = first_missing(document, self._blobs, self._layers)
        if missing is not None:
            raise _missing(digest, missing.digest)

    def _check_fixed(self, repository: str, digest: Digest, tags: Iterable[str]) -> None:
        for tag in tags:
            if any(entry.digest != digest for entry in self._refs.tagged(repository, tag)):
                raise _fixed(repository, tag)

    def _name(
        self,
        repository: str,
        descriptor: Descriptor,
        document: Manifest | Index,
        tags: Sequence[str],
        fixed: Collection[str],
    ) -> None:
        digest = descriptor.digest
        own = self._own_children(repository, document)

        def fetched(top: Descriptor, known: frozenset[str]) -> str:
            here = [
                child for child in fetched_children(top, known, self._blobs, self._layers).split(",") if child in own
            ]
            if isinstance(document, Index) and here and {*map(str, self._every(top))} == {*here}:
                return EVERY
            if len(here) > _MOST_LISTED:
                raise BlobNotFound(
                    f"index {digest} lists more than {_MOST_LISTED} manifests, and some are not in the repository",
                    hint="push all of them before the index",
                )
            return ",".join(here)

        def change(table: NameTable) -> Change:
            # Under the lock: the protection may have ended with another manifest that got its name and lost it.
            self._check_complete(digest, document)
            for tag in tags:
                if tag in fixed and any(entry.digest != digest for entry in table.tagged(repository, tag)):
                    raise _fixed(repository, tag)
            self._members.restore(repository, digest)  # not before: a deletion may have come meanwhile
            if not tags and any(True for _ in table.named_in(repository, digest)):
                return Change()
            names = [f"{repository}:{tag}" for tag in tags] or [f"{repository}@{digest}"]
            for name in names:
                self._link_superseded(table, repository, name, digest)
            return table.setting_all(names, descriptor, fetched)

        self._refs.change(change)

    def _link_superseded(self, table: NameTable, repository: str, name: str, digest: Digest) -> None:
        """A document that loses its name is still found by its digest."""
        for entry in table.named(name):
            if entry.digest != digest:
                documents = (entry.digest, *self._listed(entry))
                missing = [one for one in documents if not self._members.has(repository, one)]
                if missing:
                    self._members.link(repository, missing)

    def _own_children(self, repository: str, document: Manifest | Index) -> frozenset[str]:
        """The documents that an index lists, at any depth, and that the repository has: listing one that only another
        repository has does not bring it in. Raises InvalidDocument if indexes are nested deeper than any client reads
        them: each level repeats in index.json what is below it."""
        if not isinstance(document, Index):
            return frozenset()

        is_own = partial(self._is_own, repository)

        def below(found: Classified) -> Iterable[Descriptor]:
            return listed_documents(found) if is_own(found.descriptor.digest) else ()

        tops = [one for one in document.manifests if is_known_document(one.media_type)]
        found = walk(classifier(self._place), tops, children=below, max_depth=MAX_NESTING - 1, what="the index")
        digests = [one.descriptor.digest for one in found]
        return frozenset(str(one) for one in digests if is_own(one))

    def untag(self, repository: str, tag: str) -> None:
        def change(table: NameTable) -> Change:
            found = table.tagged(repository, tag) if tag else []
            if not found:
                raise NotFound(f"no tag {tag[:150]!r} in {repository}", hint="check the tag")
            self._members.link(repository, [one for entry in found for one in (entry.digest, *self._listed(entry))])
            self._members.sync(repository)
            return table.removing([f"{repository}:{tag}", *_names(found)], keep_untagged=True)

        self._refs.change(change)

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        self.find(repository, digest)

        def change(table: NameTable) -> Change:
            self._members.delete(repository, digest)
            names = _names(table.named_in(repository, digest))
            # another repository may have the same document, without a name
            stays = not _is_named_without(table, digest, names) and self._members.linked_elsewhere(digest, repository)
            gone = table.removing(names, keep_untagged=stays, untagged=None if stays else digest)
            # a change in any case: it tells all servers that the repository has less
            return gone or Change(untagged=(digest,), added=tuple(table.bare(digest)))

        self._refs.change(change)

    def delete_blob(self, repository: str, digest: Digest) -> None:
        self.blob(repository, digest)
        with reported(self._paths.repositories), locked(self._paths.lock):
            self._members.delete(repository, digest)


def _is_named_without(table: NameTable, digest: Digest, names: Collection[str]) -> bool:
    """Whether a document has a name that is none of these: then nothing else need keep it."""
    return any(name and name not in names for name in map(name_of, table.each_of(digest)))


def _names(entries: Iterable[Descriptor]) -> list[str]:
    return [name_of(entry) for entry in entries]


def _missing(manifest: Digest, blob: Digest) -> BlobNotFound:
    return BlobNotFound(
        f"manifest {manifest} needs blob {blob}, which is not in the repository",
        hint="push the blob before the manifest",
    )


def _fixed(repository: str, tag: str) -> Conflict:
    name = Reference.parse(repository).familiar
    return Conflict(f"tag {tag} of {name} is immutable: it may not be moved", hint="push another tag")


class RepositoryUploads:
    """``UploadPlace`` of the store."""

    def __init__(self, members: Members, paths: Paths, rules: ServingRules) -> None:
        self._members = members
        self._paths = paths
        self._uploads = Uploads(paths, max_blob=rules.max_blob, keep_for=rules.keep_uploads)

    def create(self, repository: str, opener: Opener | None = None) -> str:
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
        def protect() -> None:
            with locked(self._paths.lock):
                self._members.push(repository, [digest])

        with reported(self._paths.repositories):
            descriptor = self._uploads.finish(repository, ident, digest, protect)
            self._members.sync(repository)
            self._members.restore(repository, digest)
        return descriptor

    def cancel(self, repository: str, ident: str) -> None:
        self._uploads.cancel(repository, ident)

    def check_writing(self) -> None:
        """Raises DiskFull, SystemFailure."""
        with reported(self._paths.ingest):
            check_free_space(self._paths.root, 0)
            with Temporary(self._paths.ingest, "check") as file:
                write_all(file.descriptor, b"1")
