"""Names: the store's ``index.json``, an OCI image index that other tools can read at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lamina.errors import Conflict, LaminaError, ReferenceNotFound, StoreDamaged
from lamina.host.files import replace_file, reported
from lamina.host.lock import locked
from lamina.light import TYPE_CHECKING
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.json import dump
from lamina.spec.manifest import Index, parse
from lamina.spec.reference import CONTAINERD_NAME, REF_NAME, Reference
from lamina.store.fault import point

if TYPE_CHECKING:
    from lamina.spec.digest import Digest
    from lamina.store.paths import Paths

FETCHED = "dev.lamina.fetched"
"""Which children of an index were fetched: digests, comma-separated. With this, fsck can tell "lost" from "not
fetched"."""
_MAX_INDEX = 256 << 20
_OURS: dict[str, str | None] = {REF_NAME: None, CONTAINERD_NAME: None, FETCHED: None}

Entries = list[Descriptor]
Fetched = Callable[[Descriptor, frozenset[str]], str]


class Refs:
    """The entries of index.json. A name occurs at most once; so does a document without a name."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def entries(self) -> Entries:
        """Read index.json. Raises StoreDamaged if it is not valid."""
        path = self._paths.index
        with reported(path), open(path, "rb") as file:
            raw = file.read(_MAX_INDEX + 1)
        try:
            document = parse(raw, mediatype.OCI_INDEX, path, limit=_MAX_INDEX)
        except LaminaError as error:
            raise StoreDamaged(
                error.message, hint="restore index.json from a backup, or use a new store; the blobs are still there"
            ) from None
        assert isinstance(document, Index)
        return list(document.manifests)

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        for entry in self.entries():
            yield name_of(entry), entry

    def get(self, name: str) -> Descriptor:
        """The document that a name points to. Raises ReferenceNotFound."""
        for entry in self.entries():
            if name_of(entry) == name:
                return entry
        raise ReferenceNotFound(f"no image {name!r:.300} in the store", hint="see `lamina images`")

    def set(self, name: str, descriptor: Descriptor, fetched: Fetched = lambda *_: "") -> None:
        """Make ``name`` ("" for none) point to a document. The document that it pointed to before stays, without a
        name. ``fetched`` is called under the store's lock: it gets the children that were fetched under other names
        of the same document, and returns those that are here; it raises if the document itself is not here."""
        self.set_all([(name, descriptor)], fetched)

    def set_all(self, names: Sequence[tuple[str, Descriptor]], fetched: Fetched = lambda *_: "") -> None:
        """Like ``set``, for many names in one rewrite. If ``fetched`` raises for one, the names before it are
        written, and no others."""
        failed: list[Exception] = []

        def change(entries: Entries) -> Entries:
            table = _EntryTable(entries)
            for name, descriptor in names:
                try:
                    table.set(name, descriptor, fetched)
                except Exception as error:  # noqa: BLE001  (raised again after the others are written)
                    failed.append(error)
                    break
            return table.entries()

        self.update(change)
        if failed:
            raise failed[0]

    def swap(self, name: str, old: Digest | None, new: Descriptor | None, fetched: Fetched = lambda *_: "") -> bool:
        """Compare and swap: if ``name`` points to ``old`` (None: does not exist), make it point to ``new`` as ``set``
        does, or remove it (None). The old document stays, without a name. If ``name`` points to something else,
        returns False and changes nothing."""
        swapped = False

        def change(entries: Entries) -> Entries:
            nonlocal swapped
            there = [entry for entry in entries if name_of(entry) == name]
            if (there[0].digest if there else None) != old:
                return entries
            if new is None:
                kept = [entry for entry in entries if name_of(entry) != name]
                changed = kept + untagged_entries(there, kept)
            else:
                table = _EntryTable(entries)
                table.set(name, new, fetched)
                changed = table.entries()
            swapped = True
            return changed

        self.update(change)
        return swapped

    def unset(self, names: list[str], *, keep_untagged: bool, untagged: Digest | None = None) -> None:
        """Remove names, and the entry without a name of ``untagged``. With ``keep_untagged`` a document that loses
        its last name stays, without a name."""
        wanted = set(names)

        def change(entries: Entries) -> Entries:
            def goes(entry: Descriptor) -> bool:
                return name_of(entry) in wanted if name_of(entry) else entry.digest == untagged

            gone = [entry for entry in entries if goes(entry)]
            kept = [entry for entry in entries if not goes(entry)]
            return kept + (untagged_entries(gone, kept) if keep_untagged else [])

        self.update(change)

    def update(self, change: Callable[[Entries], Entries]) -> None:
        """Replace index.json by the result of ``change``, under the store's lock. If nothing changed, the file is not
        written."""
        with reported(self._paths.index), locked(self._paths.lock):
            point("refs.locked")
            entries = self.entries()
            changed = change(entries)
            if changed != entries:
                self.replace(changed)

    def replace(self, entries: Entries) -> None:
        """Write index.json. The caller holds the lock. If the disk is full, the space of the reserve is used."""
        from lamina.store import reserve

        value = {
            "schemaVersion": 2,
            "mediaType": mediatype.OCI_INDEX,
            "manifests": [entry.to_json() for entry in entries],
        }
        data = dump(value)
        point("refs.written")
        try:
            self._write(data)
        except OSError as error:
            reserve.again(self._paths, error, lambda: self._write(data))
        point("refs.renamed")
        reserve.fill(self._paths, len(data))

    def _write(self, data: bytes) -> None:
        replace_file(self._paths.index, [data], within=self._paths.ingest)


class _EntryTable:
    """Entries that are being changed, indexed by name and by digest, because there may be thousands of both."""

    def __init__(self, entries: Entries) -> None:
        self._rows = dict(enumerate(entries))
        self._next = len(entries)
        self._by_name: dict[str, set[int]] = {}
        self._by_digest: dict[Digest, set[int]] = {}
        for number, entry in self._rows.items():
            self._note(number, entry)

    def entries(self) -> Entries:
        return list(self._rows.values())

    def set(self, name: str, descriptor: Descriptor, fetched: Fetched) -> None:
        digest = descriptor.digest
        same = {number: self._rows[number] for number in sorted(self._by_digest.get(digest, ()))}
        known = frozenset(",".join(entry.annotations.get(FETCHED, "") for entry in same.values()).split(","))
        annotations: dict[str, str | None] = {**_OURS, FETCHED: fetched(descriptor, known) or None}
        if name:
            annotations |= {REF_NAME: name, CONTAINERD_NAME: name}
        new = descriptor.with_annotations(annotations)
        if new in same.values() or (not name and same):
            return
        had = sorted(self._by_name.get(name, ())) if name else []
        moved = [self._rows[number] for number in had if self._rows[number].digest != digest]
        for number in {*had, *(number for number, entry in same.items() if not name_of(entry))}:
            self._remove(number)
        for entry in untagged_entries(moved, [one for one in moved if self._by_digest.get(one.digest)]):
            self._add(entry)
        self._add(new)

    def _add(self, entry: Descriptor) -> None:
        self._rows[self._next] = entry
        self._note(self._next, entry)
        self._next += 1

    def _note(self, number: int, entry: Descriptor) -> None:
        self._by_name.setdefault(name_of(entry), set()).add(number)
        self._by_digest.setdefault(entry.digest, set()).add(number)

    def _remove(self, number: int) -> None:
        entry = self._rows.pop(number)
        self._by_name[name_of(entry)].discard(number)
        self._by_digest[entry.digest].discard(number)


def name_of(entry: Descriptor) -> str:
    """The canonical name of an entry; "" for none."""
    return entry.annotations.get(REF_NAME, "")


def name_for(name: str, descriptor: Descriptor) -> str:
    """The canonical form of a name ("" for none) for a document. Raises UsageError; Conflict if the name contains the
    digest of another document."""
    if not name:
        return ""
    reference = Reference.parse(name).with_default_tag()
    if reference.digest not in (None, descriptor.digest):
        raise Conflict(
            f"{reference} can't be a name of {descriptor.digest}: it contains another digest",
            hint="leave out the digest",
        )
    return str(reference)


def untagged_entries(gone: Entries, kept: Entries) -> Entries:
    """The documents that lost their name and have no other entry, once each, as entries without a name."""
    there = {entry.digest for entry in kept}
    left = {}
    for entry in gone:
        if entry.digest not in there:
            left[entry.digest] = entry.with_annotations({REF_NAME: None, CONTAINERD_NAME: None})
    return list(left.values())
