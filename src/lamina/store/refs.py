"""Names: the store's ``index.json``, an OCI image index that other tools can read, and a log of changes that it does
not contain yet (decision 0041).

A change of many names, or a single one, rewrites index.json. While a process makes many changes one after the other,
it appends each to the log instead: one small write, however many names there are. Readers apply the log. It is folded
into index.json soon after (``fold``).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, LaminaError, ReferenceNotFound
from lamina.host.files import replace_file, reported, write_all
from lamina.host.lock import locked
from lamina.light import TYPE_CHECKING
from lamina.spec import mediatype
from lamina.spec.json import dump
from lamina.spec.reference import Reference
from lamina.store.fault import point
from lamina.store.name_files import MAX_INDEX, NameFiles, sync
from lamina.store.name_log import HEAD_SIZE, Included, new_head, record, sealed
from lamina.store.name_table import (
    FETCHED,
    Change,
    Entries,
    Fetched,
    NameTable,
    name_of,
    untagged_entries,
)

if TYPE_CHECKING:
    from typing import TypeVar

    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest
    from lamina.store.paths import Paths

    T = TypeVar("T")

__all__ = ["FETCHED", "Entries", "Fetched", "Refs", "name_for", "name_of", "untagged_entries"]

SMALL = 128 << 10
"""Bytes. A smaller index.json is rewritten as fast as a record is appended."""
SOON = 1.0
"""Seconds. A process that changes names again within this time appends to the log; a server folds the log when no
name has changed for this time, or for eight times as long as the last fold took."""
_LATEST = 10.0
"""Seconds after which a server folds the log while names still change."""
_SHARE = 8
"""The time between two folds is at least this many times the duration of the last one."""
MAX_LOG = 4 << 20
"""Bytes. A larger log is folded by the next change."""


class Refs:
    """The entries of index.json and its log. A name occurs at most once; so does a document without a name.
    Thread-safe: the names are parsed once, and read again only if one of the two files has changed."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._files = NameFiles(paths)
        self._servers = 0
        self._changed = threading.Condition()
        self._changed_at = -SOON
        self._begun_at = 0.0
        self._fold_took = 0.0

    def entries(self) -> Entries:
        """All entries. Raises StoreDamaged if index.json or its log is not valid."""
        return self._read(NameTable.entries)

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        for entry in self.entries():
            yield name_of(entry), entry

    def get(self, name: str) -> Descriptor:
        """The document that a name points to. Raises ReferenceNotFound."""
        found = self._read(lambda table: table.named(name)) if name else []
        if found:
            return found[0]
        raise ReferenceNotFound(f"no image {name!r:.300} in the store", hint="see `lamina images`")

    def any_of(self, digest: Digest) -> Descriptor | None:
        """An entry of a document; None if it has none."""
        return self._read(lambda table: next(table.each_of(digest), None))

    def repositories(self) -> list[str]:
        """The repositories (``Reference.repository``) that have a name, sorted."""
        return self._read(lambda table: table.repositories().copy())

    def documents(self, repository: str) -> tuple[Entries, Entries]:
        """The entries of a repository, and those without a name, at one moment: a document that gets or loses its
        name is in one of them."""
        return self._read(lambda table: ([entry for _, entry in table.in_repository(repository)], table.named("")))

    def state(self) -> str:
        """A text that changes whenever a file with names does. Needs no parsing. Raises OSError."""
        return self._files.fingerprint()

    def set(self, name: str, descriptor: Descriptor, fetched: Fetched = lambda *_: "") -> None:
        """Make ``name`` ("" for none) point to a document. The document that it pointed to before stays, without a
        name. ``fetched`` is called under the store's lock: it gets the children that were fetched under other names
        of the same document, and returns those that are here; it raises if the document itself is not here."""
        self._change(lambda table: table.setting(name, descriptor, fetched))

    def set_all(self, names: Sequence[tuple[str, Descriptor]], fetched: Fetched = lambda *_: "") -> None:
        """Like ``set``, for many names in one change. If ``fetched`` raises for one, the names before it are written,
        and no others."""
        failed: list[Exception] = []

        def change(entries: Entries) -> Entries:
            table = NameTable(entries)
            for name, descriptor in names:
                try:
                    table.apply(table.setting(name, descriptor, fetched))
                except Exception as error:  # noqa: BLE001  (raised again after the others are written)
                    failed.append(error)
                    break
            return table.entries()

        if len(names) == 1:
            self.set(*names[0], fetched)
            return
        self.update(change)
        if failed:
            raise failed[0]

    def swap(self, name: str, old: Digest | None, new: Descriptor | None, fetched: Fetched = lambda *_: "") -> bool:
        """Compare and swap: if ``name`` points to ``old`` (None: does not exist), make it point to ``new`` as ``set``
        does, or remove it (None). The old document stays, without a name. If ``name`` points to something else,
        returns False and changes nothing."""
        swapped = False

        def change(table: NameTable) -> Change:
            nonlocal swapped
            there = table.named(name)
            if (there[0].digest if there else None) != old:
                return Change()
            swapped = True
            if new is None:
                return table.removing([name], keep_untagged=True)
            return table.setting(name, new, fetched)

        self._change(change)
        return swapped

    def unset(self, names: list[str], *, keep_untagged: bool, untagged: Digest | None = None) -> None:
        """Remove names, and the entry without a name of ``untagged``. With ``keep_untagged`` a document that loses
        its last name stays, without a name."""
        self._change(lambda table: table.removing(names, keep_untagged=keep_untagged, untagged=untagged))

    def named_in(self, repository: str, digest: Digest) -> Descriptor | None:
        """An entry of a document whose name is in a repository; None if there is none."""
        return self._read(lambda table: next(table.named_in(repository, digest), None))

    def tagged(self, repository: str, tag: str) -> Entries:
        """The entries with a tag of a repository."""
        return self._read(lambda table: table.tagged(repository, tag))

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, unsorted; [""] if it has only names with a digest."""
        return self._read(lambda table: table.tags(repository))

    def version(self) -> int:
        """A number that grows whenever a name changes, as this object sees it."""
        return self._read(lambda table: self._files.version)

    def change(self, decide: Callable[[NameTable], Change]) -> None:
        """Make the change that ``decide`` returns; it is called under the store's lock, and must not change the
        table. Raises what ``decide`` raises."""
        self._change(decide)

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
        """Write index.json, with everything that the log contains. The caller holds the lock. If the disk is full,
        the space of the reserve is used."""
        self._replace(NameTable(entries), is_fold=False)

    def _replace(self, table: NameTable, *, is_fold: bool) -> None:
        from lamina.store import reserve

        began = time.monotonic()
        included = self._files.position()
        if included is not None and not is_fold:
            included = included.next()
        value = {
            "schemaVersion": 2,
            "mediaType": mediatype.OCI_INDEX,
            "manifests": [entry.to_json() for entry in table.entries()],
        }
        data = dump(value)
        if included is not None:
            data = sealed(data, included)
        if len(data) > MAX_INDEX:
            raise Conflict("the store has too many names", hint="remove some with `lamina rmi`")
        point("refs.written")
        try:
            self._write(data)
        except OSError as error:
            reserve.again(self._paths, error, lambda: self._write(data))
        point("refs.renamed")
        self._files.replaced(table, len(data), included or Included())
        if included is not None:
            self._files.empty_log()
        reserve.fill(self._paths, len(data))
        self._changed_at = time.monotonic()
        self._fold_took = self._changed_at - began

    def _write(self, data: bytes) -> None:
        replace_file(self._paths.index, [data], within=self._paths.ingest)

    def fold(self) -> bool:
        """Write what the log contains into index.json. Returns False if the log is empty. Raises StoreDamaged,
        SystemFailure."""
        if not self._files.log_grew():
            return False
        with reported(self._paths.index), locked(self._paths.lock):
            table = self._files.table()
            if self._files.is_log_empty():
                self._files.empty_log()  # an append that was interrupted
                return False
            self._replace(table, is_fold=True)
        point("names.folded")
        return True

    def interrupted(self) -> int:
        """The number of bytes that an interrupted append has left in the log. Raises StoreDamaged, SystemFailure."""
        if not self._read(lambda table: self._left()):
            return 0
        with reported(self._paths.index), locked(self._paths.lock):  # not if a process appends at this moment
            self._files.table()
            return self._left()

    def _left(self) -> int:
        return max(0, self._files.log_size - self._files.log_end)

    def repair(self, aside: str) -> None:
        """Write what can be read of a damaged log into index.json, and move the log to the path ``aside``. Raises
        StoreDamaged (index.json), SystemFailure."""
        with reported(self._paths.index), locked(self._paths.lock):
            entries = self._files.salvaged().entries()
            os.replace(self._paths.name_log, aside)
            self._files.forget()
            self.replace(entries)

    def settle(self) -> None:
        """Fold the log if this process has appended to it, and no server does that soon."""
        if self in _unfolded and not self._servers:
            _unfolded.discard(self)
            self._fold_or_leave()

    @contextmanager
    def logging(self) -> Iterator[None]:
        """While this block runs, each change is appended to the log, and a thread folds the log when no name has
        changed for a second. The end of the block folds it too."""
        folder = threading.Thread(target=self._fold_when_due, name="lamina-names", daemon=True)
        self._servers += 1
        self._files.keep_open = True
        self._changed_at = self._begun_at = time.monotonic()
        folder.start()
        try:
            yield
        finally:
            with self._changed:
                self._servers -= 1
                self._changed.notify_all()
            folder.join()
            self._files.keep_open = self._servers > 0
            self._fold_or_leave()

    def _fold_when_due(self) -> None:
        while self._servers:
            with self._changed:
                if not self._files.log_grew():
                    self._changed.wait()
                    continue
                now = time.monotonic()
                share = _SHARE * self._fold_took
                due = min(self._changed_at + max(SOON, share), self._begun_at + max(_LATEST, share))
                if due > now:
                    self._changed.wait(due - now)
                    continue
            if not self._fold_or_leave():
                with self._changed:
                    self._begun_at = self._changed_at = time.monotonic() + _LATEST  # try again later

    def _fold_or_leave(self) -> bool:
        """Fold the log. If that fails, the log stays: nothing is lost. Returns False then."""
        try:
            self.fold()
        except (LaminaError, OSError) as error:
            import logging

            logging.getLogger("lamina.store").warning("names stay in the log: %s", error)
            return False
        return True

    def _read(self, work: Callable[[NameTable], T]) -> T:
        with reported(self._paths.index):
            return self._files.read(work)

    def _change(self, decide: Callable[[NameTable], Change]) -> None:
        with reported(self._paths.index), locked(self._paths.lock):
            point("refs.locked")
            table = self._files.table()  # nobody else changes it while the lock is held
            change = decide(table)
            if not change:
                return
            if self._appends():
                self._append(change)
                return
            changed = table.copy()
            changed.apply(change)
            self._replace(changed, is_fold=False)

    def _appends(self) -> bool:
        """Whether to append to the log: a server does, and a process that makes many changes one after the other."""
        if self._files.log_size > MAX_LOG:
            return False
        if self._servers:
            return True
        now = time.monotonic()
        if self._files.index_size <= SMALL or now - self._changed_at > SOON:
            return False
        return self._files.is_log_empty() or now - self._begun_at < max(SOON, _SHARE * self._fold_took)

    def _append(self, change: Change) -> None:
        from lamina.store import reserve

        try:
            self._append_once(change)
        except OSError as error:
            reserve.again(self._paths, error, lambda: self._append_once(change))
        with self._changed:
            self._changed_at = time.monotonic()
            self._changed.notify_all()
        _to_fold(self)

    def _append_once(self, change: Change) -> None:
        """Append a record and sync it. If that fails, the record is cut off again."""
        path = self._paths.name_log
        position = self._files.position()
        if position is None:
            replace_file(path, [new_head()[1]], within=self._paths.ingest)
            point("names.log-made")
            self._files.table()
            position = self._files.position()
            assert position is not None
        end = self._files.log_end
        if end <= HEAD_SIZE:
            self._begun_at = time.monotonic()
        line = record(position.ident, position.serial + 1, change)
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            if os.fstat(descriptor).st_size != end:
                os.ftruncate(descriptor, end)  # an append was interrupted
            os.lseek(descriptor, end, os.SEEK_SET)
            try:
                write_all(descriptor, line[: len(line) // 2])
                point("names.half-written")
                write_all(descriptor, line[len(line) // 2 :])
                point("names.written")
                sync(descriptor)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, end)
                    sync(descriptor)
                raise
        finally:
            os.close(descriptor)
        point("names.synced")


_unfolded: set[Refs] = set()
"""The names that this process has appended to a log, and not folded yet."""


def _to_fold(refs: Refs) -> None:
    """Let the end of the process fold the log."""
    if not _unfolded:
        import atexit

        atexit.register(fold_all)
    _unfolded.add(refs)


def fold_all() -> None:
    """Fold the logs to which this process has appended."""
    while _unfolded:
        _unfolded.pop()._fold_or_leave()


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
