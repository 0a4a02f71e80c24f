"""What the documents of one repository name: kept up to date as documents come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from lamina.source.repositories import ANY_TYPE
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.name_table import EVERY, FETCHED

if TYPE_CHECKING:
    Content = dict[Digest, Descriptor]
    Referrer = tuple[Digest, Descriptor] | None


class Contents:
    """The objects of a repository. ``version``: of the names that it was made from. Use it while ``guard`` is
    held."""

    def __init__(self) -> None:
        self.version = -1
        self.guard = threading.Lock()
        self._tops: dict[Digest, tuple[Descriptor, Content, Referrer]] = {}
        self._counts: dict[Digest, int] = {}
        self._documents: dict[Digest, list[Descriptor]] = {}
        self._referrers: dict[Digest, dict[Digest, Descriptor]] = {}
        self._incomplete: set[Digest] = set()

    def has(self, digest: Digest) -> bool:
        return digest in self._counts

    def document(self, digest: Digest) -> Descriptor | None:
        found = self._documents.get(digest)
        return found[0] if found else None

    def sizes(self) -> dict[Digest, int]:
        """The sizes of all objects, as their documents state them."""
        return {digest: one.size for _, content, _ in self._tops.values() for digest, one in content.items()}

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """The documents with this subject, sorted by digest."""
        found = self._referrers.get(subject, {})
        return [found[digest] for digest in sorted(found, key=str)]

    def update(
        self,
        version: int,
        tops: Iterable[Descriptor],
        content_of: Callable[[Descriptor], tuple[Content, bool]],
        referrer_of: Callable[[Descriptor], Referrer],
    ) -> None:
        """Bring it up to date: the repository has these documents, each once. Only those that are new are read, and
        those of which something was missing before. ``content_of`` tells whether nothing is missing."""
        wanted = {top.digest: top for top in tops}
        for digest, (top, _, _) in list(self._tops.items()):
            if wanted.get(digest) != top or digest in self._incomplete:
                self._remove(digest)
        for digest, top in wanted.items():
            if digest not in self._tops:
                content, complete = content_of(top)
                self._add(top, content, referrer_of(top))
                if not complete:
                    self._incomplete.add(digest)
        self.version = version

    def _add(self, top: Descriptor, content: Content, referrer: Referrer) -> None:
        self._tops[top.digest] = (top, content, referrer)
        for digest, one in content.items():
            self._counts[digest] = self._counts.get(digest, 0) + 1
            if one.media_type != ANY_TYPE:
                self._documents.setdefault(digest, []).append(one)
        if referrer is not None:
            self._referrers.setdefault(referrer[0], {})[top.digest] = referrer[1]

    def _remove(self, top: Digest) -> None:
        _, content, referrer = self._tops.pop(top)
        self._incomplete.discard(top)
        for digest, one in content.items():
            self._counts[digest] -= 1
            if not self._counts[digest]:
                del self._counts[digest]
            if one.media_type != ANY_TYPE:
                self._documents[digest].remove(one)
                if not self._documents[digest]:
                    del self._documents[digest]
        if referrer is not None:
            del self._referrers[referrer[0]][top]
            if not self._referrers[referrer[0]]:
                del self._referrers[referrer[0]]


def lists_every(entry: Descriptor) -> bool:
    """Whether everything that an index lists is in the repository of its entry."""
    return entry.annotations.get(FETCHED) == EVERY


def listed_in(entry: Descriptor) -> frozenset[Digest]:
    """The documents that an index has in the repository of its entry, of those that it lists. A client may push an
    index that lists anything: what it lists counts only if it was in the repository, or came with the index. Not for
    an entry that ``lists_every``."""
    text = entry.annotations.get(FETCHED, "")
    return frozenset(Digest(*one.split(":", 1)) for one in text.split(",") if ":" in one)


def limited_to(entry: Descriptor, listed: Iterable[Digest], digests: Collection[Digest]) -> Descriptor:
    """The entry with only those of the ``listed`` documents that are in ``digests``."""
    text = ",".join(sorted(str(one) for one in listed if one in digests))
    return entry.with_annotations({FETCHED: text or None})


def merged_entries(entries: Iterable[Descriptor]) -> list[Descriptor]:
    """One entry for each document: what is listed in one of its entries is listed. Names are left out."""
    listed: dict[Digest, set[Digest]] = {}
    every: set[Digest] = set()
    first: dict[Digest, Descriptor] = {}
    for entry in entries:
        first.setdefault(entry.digest, entry)
        if lists_every(entry):
            every.add(entry.digest)
        listed.setdefault(entry.digest, set()).update(listed_in(entry))
    return [
        Descriptor(
            one.media_type,
            digest,
            one.size,
            annotations=_with_text(EVERY if digest in every else ",".join(sorted(map(str, listed[digest])))),
        )
        for digest, one in first.items()
    ]


def _with_text(text: str) -> dict[str, str]:
    return {FETCHED: text} if text else {}
