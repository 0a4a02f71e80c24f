"""The names of a store in memory: the entries of index.json, found by name, by digest and by repository (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING, Value
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.mediatype import is_index
from lamina.spec.reference import CONTAINERD_NAME, REF_NAME, Reference

if TYPE_CHECKING:
    from typing import Any

FETCHED = "dev.lamina.fetched"
"""Which children of an index were fetched: digests, comma-separated. With this, fsck can tell "lost" from "not
fetched"."""
EVERY = "*"
"""The value of FETCHED if all that the index lists, at any depth, are documents that were fetched. A server writes
it, so that a tag of an index takes the same space in index.json however many documents the index lists."""
_OURS: dict[str, str | None] = {REF_NAME: None, CONTAINERD_NAME: None, FETCHED: None}

Entries = list[Descriptor]
Fetched = Callable[[Descriptor, frozenset[str]], str]


class Change(Value):
    """A change of the entries. First the entries with these ``names`` go, and the entries without a name of the
    ``untagged`` documents; then the entries of ``added`` come. Applied twice it has the same result as applied
    once."""

    names: tuple[str, ...] = ()
    untagged: tuple[Digest, ...] = ()
    added: tuple[Descriptor, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names or self.untagged or self.added)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {}
        if self.names:
            value["names"] = list(self.names)
        if self.untagged:
            value["untagged"] = [str(digest) for digest in self.untagged]
        if self.added:
            value["added"] = [entry.to_json() for entry in self.added]
        return value

    @classmethod
    def from_json(cls, value: object, what: str) -> Change:
        """Read what ``to_json`` wrote. Raises ValueError, TypeError, AttributeError, LaminaError."""
        if not isinstance(value, dict):
            raise TypeError(what)
        names = tuple(value.get("names", ()))
        if not all(isinstance(name, str) for name in names):
            raise TypeError(what)
        return cls(
            names,
            tuple(Digest.parse(text) for text in value.get("untagged", ())),
            tuple(Descriptor.from_json(one, what) for one in value.get("added", ())),
        )


class NameTable:
    """Entries in their order. A name occurs once, and so does a document without a name; but another tool may have
    written an index.json in which they occur more often. What is found by is built when it is first asked for.
    Threads may look things up at the same time, while none applies a change: an index is set when it is complete."""

    def __init__(self, entries: Entries) -> None:
        self._rows = dict(enumerate(entries))
        self._next = len(entries)
        self._by_name: dict[str, dict[int, None]] | None = None
        self._by_digest: dict[Digest, dict[int, None]] | None = None
        self._nameless: dict[Digest, dict[int, None]] | None = None
        self._repositories: dict[str, dict[str, dict[int, None]]] | None = None
        self._sorted: list[str] | None = None

    def copy(self) -> NameTable:
        return NameTable(self.entries())

    def entries(self) -> Entries:
        return list(self._rows.values())

    def named(self, name: str) -> Entries:
        """The entries with this name ("" for none)."""
        return [self._rows[number] for number in self._names().get(name, ())]

    def of(self, digest: Digest) -> Entries:
        """The entries of a document."""
        return list(self.each_of(digest))

    def each_of(self, digest: Digest) -> Iterator[Descriptor]:
        """The entries of a document, one by one: it may have a thousand tags."""
        return (self._rows[number] for number in self._digests().get(digest, ()))

    def bare(self, digest: Digest) -> Entries:
        """The entries of a document that have no name."""
        return [self._rows[number] for number in self._bare().get(digest, ())]

    def repositories(self) -> list[str]:
        """The repositories (``Reference.repository``) that have a name, sorted."""
        if self._sorted is None:
            self._sorted = sorted(self._places())
        return self._sorted

    def in_repository(self, repository: str) -> list[tuple[str, Descriptor]]:
        """The entries whose name is in a repository, with their tag ("" for a name with a digest alone)."""
        there = self._places().get(repository, {})
        return [(tag, self._rows[number]) for tag, numbers in there.items() for number in numbers]

    def tags(self, repository: str) -> list[str]:
        return list(self._places().get(repository, {}))

    def tagged(self, repository: str, tag: str) -> Entries:
        """The entries with a tag of a repository ("": with a digest alone)."""
        return [self._rows[number] for number in self._places().get(repository, {}).get(tag, ())]

    def named_in(self, repository: str, digest: Digest) -> Iterator[Descriptor]:
        """The entries of a document whose name is in a repository."""
        starts = (f"{repository}:", f"{repository}@")
        for one in self.each_of(digest):
            if name_of(one).startswith(starts) or name_of(one) == repository:
                yield one

    def apply(self, change: Change) -> None:
        gone = {number: None for name in change.names for number in self._names().get(name, ())}
        for digest in change.untagged:
            gone |= self._bare().get(digest, {})
        for number in gone:
            self._remove(number)
        for entry in change.added:
            for number in self._same_place(entry):
                self._remove(number)
            self._add(entry)

    def setting(self, name: str, descriptor: Descriptor, fetched: Fetched) -> Change:
        """The change that makes ``name`` ("" for none) point to a document; see ``Refs.set``. Raises what ``fetched``
        raises."""
        return self.setting_all([name], descriptor, fetched)

    def setting_all(self, names: Sequence[str], descriptor: Descriptor, fetched: Fetched) -> Change:
        """As ``setting``, for several names of one document."""
        digest = descriptor.digest
        known: frozenset[str] = frozenset()
        if is_index(descriptor.media_type):  # only an index lists documents
            lists = {entry.annotations.get(FETCHED, "") for entry in self.each_of(digest)}
            known = frozenset(",".join(lists).split(","))
        annotations: dict[str, str | None] = {**_OURS, FETCHED: fetched(descriptor, known) or None}
        new = []
        for name in dict.fromkeys(names):
            own = {REF_NAME: name, CONTAINERD_NAME: name} if name else {}
            entry = descriptor.with_annotations({**annotations, **own})
            if entry not in self.named(name) if name else not self._digests().get(digest):
                new.append(entry)
        if not new:
            return Change()
        had = [entry for one in new if name_of(one) for entry in self.named(name_of(one))]
        gone = {name_of(entry): None for entry in had}
        return Change(
            tuple(gone),
            (digest,) if self.bare(digest) else (),
            (*self._untagged_without([one for one in had if one.digest != digest], gone), *new),
        )

    def removing(self, names: list[str], *, keep_untagged: bool, untagged: Digest | None = None) -> Change:
        """The change that removes names, and the entry without a name of ``untagged``. With ``keep_untagged`` a
        document that loses its last name stays, without a name."""
        wanted = {name: None for name in names if name}
        gone = [entry for name in wanted for entry in self.named(name)]
        bare = self.bare(untagged) if untagged is not None else []
        return Change(
            tuple(dict.fromkeys(name_of(entry) for entry in gone)),
            (untagged,) if bare and untagged is not None else (),
            self._untagged_without(gone, wanted) if keep_untagged else (),
        )

    def _same_place(self, entry: Descriptor) -> list[int]:
        """The rows that ``entry`` replaces."""
        name = name_of(entry)
        if name:
            return list(self._names().get(name, ()))
        return list(self._bare().get(entry.digest, ()))

    def _untagged_without(self, gone: Entries, names: dict[str, None] | set[str]) -> tuple[Descriptor, ...]:
        """The documents of ``gone`` that have no entry left without these names, as entries without a name."""
        left = {}
        for entry in gone:
            if all(name_of(other) in names for other in self.each_of(entry.digest)):
                left[entry.digest] = without_name(entry)
        return tuple(left.values())

    def _names(self) -> dict[str, dict[int, None]]:
        if self._by_name is None:
            names: dict[str, dict[int, None]] = {}
            for number, entry in self._rows.items():
                names.setdefault(name_of(entry), {})[number] = None
            self._by_name = names
        return self._by_name

    def _digests(self) -> dict[Digest, dict[int, None]]:
        if self._by_digest is None:
            digests: dict[Digest, dict[int, None]] = {}
            for number, entry in self._rows.items():
                digests.setdefault(entry.digest, {})[number] = None
            self._by_digest = digests
        return self._by_digest

    def _bare(self) -> dict[Digest, dict[int, None]]:
        """The rows without a name."""
        if self._nameless is None:
            nameless: dict[Digest, dict[int, None]] = {}
            for number in self._names().get("", ()):
                nameless.setdefault(self._rows[number].digest, {})[number] = None
            self._nameless = nameless
        return self._nameless

    def _places(self) -> dict[str, dict[str, dict[int, None]]]:
        if self._repositories is None:
            repositories: dict[str, dict[str, dict[int, None]]] = {}
            for number, entry in self._rows.items():
                _place(repositories, number, entry)
            self._repositories = repositories
        return self._repositories

    def _add(self, entry: Descriptor) -> None:
        number, self._next = self._next, self._next + 1
        self._rows[number] = entry
        if self._by_name is not None:
            self._by_name.setdefault(name_of(entry), {})[number] = None
        if self._by_digest is not None:
            self._by_digest.setdefault(entry.digest, {})[number] = None
        if self._nameless is not None and not name_of(entry):
            self._nameless.setdefault(entry.digest, {})[number] = None
        if self._repositories is not None and _place(self._repositories, number, entry):
            self._sorted = None

    def _remove(self, number: int) -> None:
        entry = self._rows.pop(number)
        _drop(self._by_name, name_of(entry), number)
        _drop(self._by_digest, entry.digest, number)
        if not name_of(entry):
            _drop(self._nameless, entry.digest, number)
        if self._repositories is not None:
            found = split_name(name_of(entry))
            if found is not None:
                _drop(self._repositories[found[0]], found[1], number)
                if not self._repositories[found[0]]:
                    del self._repositories[found[0]]
                    self._sorted = None


def _place(repositories: dict[str, dict[str, dict[int, None]]], number: int, entry: Descriptor) -> bool:
    """Add a row. Returns whether its repository is new."""
    found = split_name(name_of(entry))
    if found is None:
        return False
    is_new = found[0] not in repositories
    repositories.setdefault(found[0], {}).setdefault(found[1], {})[number] = None
    return is_new


def _drop(table: dict[Any, Any] | None, key: object, number: int) -> None:
    """Remove a row from the group of ``key``, and the group with its last row."""
    if table is not None:
        del table[key][number]
        if not table[key]:
            del table[key]


def split_name(name: str) -> tuple[str, str] | None:
    """The repository and the tag ("" for a digest alone) of an entry's name; None if it is not a reference."""
    if not name:
        return None
    try:
        reference = Reference.parse(name)
    except UsageError:
        return None
    if reference.tag is None and reference.digest is None:
        return reference.repository, "latest"
    return reference.repository, reference.tag or ""


def name_of(entry: Descriptor) -> str:
    """The canonical name of an entry; "" for none."""
    return entry.annotations.get(REF_NAME, "")


def without_name(entry: Descriptor) -> Descriptor:
    return entry.with_annotations({REF_NAME: None, CONTAINERD_NAME: None})


def untagged_entries(gone: Entries, kept: Entries) -> Entries:
    """The documents that lost their name and have no other entry, once each, as entries without a name."""
    there = {entry.digest for entry in kept}
    return list({entry.digest: without_name(entry) for entry in gone if entry.digest not in there}.values())
