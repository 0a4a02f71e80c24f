"""The repositories of any place that lists its names, for reading: which tags, manifests and blobs each has."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from lamina.errors import BlobNotFound, LaminaError, NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.source.abilities import has_blobs
from lamina.source.walk import Classified, Known, classifier, listed_documents, manifest_blobs, walk
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, parse
from lamina.spec.mediatype import is_foreign
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from typing import TypeVar

    from lamina.source.protocols import Blob
    from lamina.source.served import BlobPlace, Readable

    K = TypeVar("K")
    T = TypeVar("T")
    _Key = tuple[Digest, frozenset[Digest] | None, bool]

ANY_TYPE = "application/octet-stream"
MAX_REMEMBERED = 100_000
"""Documents whose contents are remembered. They never change."""


@dataclass
class Listing:
    """The names of a place at one moment, by repository. ``pinned``: the documents that a repository has without a
    tag; ``unnamed``: those that have no name at all."""

    tags: dict[str, dict[str, Descriptor]] = field(default_factory=dict)
    pinned: dict[str, list[Descriptor]] = field(default_factory=dict)
    unnamed: list[Descriptor] = field(default_factory=list)

    @classmethod
    def of(cls, names: Iterable[tuple[str, Descriptor]]) -> Listing:
        found = cls()
        for name, descriptor in names:
            if not name:
                found.unnamed.append(descriptor)
                continue
            try:
                reference = Reference.parse(name).with_default_tag()
            except UsageError:
                continue
            if reference.tag is not None:
                found.tags.setdefault(reference.repository, {})[reference.tag] = descriptor
            else:
                found.pinned.setdefault(reference.repository, []).append(descriptor)
        return found

    def tops(self, repository: str) -> list[Descriptor]:
        """The documents that the repository names."""
        return [*self.tags.get(repository, {}).values(), *self.pinned.get(repository, [])]


class ListedRepositories:
    """``Repositories`` of a place. A document without a name is in every repository, because nothing says where it
    belongs."""

    def __init__(self, place: Readable, blobs: BlobPlace | None = None) -> None:
        """``blobs`` finds blobs by their digests, if the place itself does not."""
        self._place = place
        self._sizes = place.blobs if blobs is None and has_blobs(place) else blobs
        self.location = place.location
        self._guard = threading.Lock()
        self._remembered: dict[_Key, dict[Digest, Descriptor]] = {}
        self._referrers: dict[Digest, tuple[Digest, Descriptor] | None] = {}

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        listing = self._listing()
        return page(sorted({*listing.tags, *listing.pinned}), after, limit)

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        listing = self._listing()
        if repository not in listing.tags and repository not in listing.pinned:
            raise NotFound(f"no repository {repository} in {self.location}", hint="check the name")
        return page(sorted(listing.tags.get(repository, {})), after, limit)

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        if isinstance(name, Digest):
            found = self._documents(repository).get(name)
        else:
            found = self._listing().tags.get(repository, {}).get(name)
        if found is None:
            raise NotFound(f"no manifest {str(name)[:150]} in {repository}", hint="check the tag or the digest")
        return found

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._place.manifest(descriptor)

    def blob(self, repository: str, digest: Digest) -> Blob:
        found = self._named(repository, digest)
        if found is not None and self._sizes is not None:
            size = self._sizes.size(digest)
            found = None if size is None else Descriptor(ANY_TYPE, digest, size)
        if found is None:
            raise BlobNotFound(f"no blob {digest} in {repository}", hint="check the digest")
        return self._place.blob(found)

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        found: dict[Digest, Descriptor] = {}
        for top in self._tops(repository):
            known = self._referrer(top)
            if known is not None and known[0] == subject:
                found[top.digest] = known[1]
        return [found[digest] for digest in sorted(found, key=str)]

    def usage(self, repository: str) -> int:
        tops = self._listing().tops(repository)
        return sum({one.digest: one.size for top in tops for one in self._content(top).values()}.values())

    def _listing(self) -> Listing:
        return Listing.of(self._place.names())

    def _tops(self, repository: str) -> list[Descriptor]:
        """The documents of the repository that no other document of it needs to name."""
        listing = self._listing()
        return [*listing.tops(repository), *listing.unnamed]

    def _named(self, repository: str, digest: Digest) -> Descriptor | None:
        """The document or blob of this digest, if a document of the repository names it."""
        for top in self._tops(repository):
            found = self._content(top).get(digest)
            if found is not None:
                return found
        return None

    def _documents(self, repository: str) -> dict[Digest, Descriptor]:
        tops = self._tops(repository)
        found = {top.digest: top for top in reversed(tops)}
        for top in tops:
            for one in self._content(top).values():
                if one.media_type != ANY_TYPE:
                    found.setdefault(one.digest, one)
        return found

    def _content(self, top: Descriptor) -> dict[Digest, Descriptor]:
        """Everything that a document names, at any depth, and the document itself. Documents have their media types,
        blobs have ``ANY_TYPE``. Remembered only if every document was there: what is missing may arrive."""
        return self._content_and_state(top)[0]

    def _content_and_state(
        self, top: Descriptor, *, listed: frozenset[Digest] | None = None, foreign: bool = True
    ) -> tuple[dict[Digest, Descriptor], bool]:
        """As ``_content``, and whether every document was there. ``listed``: the only documents that count of those
        that an index lists (None: all). ``foreign``: whether foreign layers count."""
        key = (top.digest, listed, foreign)
        known = self._remembered.get(key)
        if known is not None:
            return known, True
        found: dict[Digest, Descriptor] = {}
        complete = True

        def below(one: Classified) -> Iterable[Descriptor]:
            return [child for child in listed_documents(one) if listed is None or child.digest in listed]

        for one in walk(classifier(self._place), [top], children=below, max_depth=None):
            if not isinstance(one, Known):
                complete = False
                continue
            found[one.descriptor.digest] = one.descriptor
            if not isinstance(one.document, Index):
                for blob in manifest_blobs(one.document):
                    if foreign or not is_foreign(blob.media_type):
                        found.setdefault(blob.digest, Descriptor(ANY_TYPE, blob.digest, blob.size))
        if complete:
            self._remember(self._remembered, key, found)
        return found, complete

    def _referrer(self, top: Descriptor) -> tuple[Digest, Descriptor] | None:
        """The subject of a document, and the document as its referrer; None if it has no subject."""
        if top.digest in self._referrers:
            return self._referrers[top.digest]
        try:
            document = parse(self._place.manifest(top), top.media_type)
        except LaminaError:
            return None  # a damaged document has no subject, and must not hide the others
        found = None
        if document.subject is not None:
            one = document.as_referrer()
            found = (
                document.subject.digest,
                Descriptor(
                    top.media_type,
                    top.digest,
                    top.size,
                    annotations=one.annotations,
                    artifact_type=one.artifact_type,
                ),
            )
        self._remember(self._referrers, top.digest, found)
        return found

    def _remember(self, memory: dict[K, T], key: K, value: T) -> None:
        with self._guard:
            if len(memory) >= MAX_REMEMBERED:
                memory.clear()
            memory[key] = value


def page(names: list[str], after: str, limit: int | None) -> list[str]:
    start = bisect_right(names, after) if after else 0
    return names[start:] if limit is None else names[start : start + limit]
