"""Reads package information in binary files (pure): rpm's database, and what Rust and Go embed in programs.

Of rpm's databases only the sqlite form is read (rpm 4.16 and later), whose headers are a short table of numbered
fields. The older forms (Berkeley DB, ndb) are not supported.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Set
from dataclasses import replace

from lamina.errors import InvalidContent
from lamina.insight.package_texts import NamedPackage, cargo_audit, go_modules, named_package

MAX_SECTION = 8 << 20
MAX_SECTIONS = 4096
_SQLITE = b"SQLite format 3\0"
_MAX_FILES = 1_000_000
"""Limit of files or directories in one rpm package: the largest have about 100,000."""
_STEPS = 200_000  # times 1000 instructions of sqlite; a database that needs more is a bomb
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE = 1000, 1001, 1002, 1003, 1022, 1044
_STRING, _INT32, _I18N, _STRINGS = 6, 4, 9, 8
_DIRINDEXES, _BASENAMES, _DIRNAMES = 1116, 1117, 1118
_FILE_TAGS = {_DIRINDEXES: _INT32, _BASENAMES: _STRINGS, _DIRNAMES: _STRINGS}
_GO_MAGIC = b"\xff Go buildinf:"

ReadAt = Callable[[int, int], bytes]
"""Reads bytes of a file: offset, size; fewer at its end."""


def rpm_database(data: bytes) -> Iterator[NamedPackage]:
    """Yield the packages in ``rpmdb.sqlite``. Raises InvalidContent if it is not such a database."""
    return (found for found in map(rpm_header, _rpm_headers(data)) if found)


def rpm_files(data: bytes, wanted: Set[bytes]) -> set[bytes]:
    """Return which of these paths belong to packages in ``rpmdb.sqlite``. Raises InvalidContent if it is not such a
    database."""
    names = {path.rpartition(b"/")[2] for path in wanted}
    found: set[bytes] = set()
    for blob in _rpm_headers(data):
        found.update(path for path in _rpm_paths(blob, names) if path in wanted)
    return found


def _rpm_headers(data: bytes) -> Iterator[bytes]:
    import sqlite3

    if not data.startswith(_SQLITE):
        raise InvalidContent(
            "not an sqlite database", hint="use rpm 4.16 or later: older forms of its database are not supported"
        )
    # a database in memory has no write-ahead log: mark it as one without
    data = data[:18] + b"\1\1" + data[20:]
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return steps > _STEPS

    connection, left = sqlite3.connect(":memory:"), len(data)
    try:
        connection.deserialize(data)
        connection.set_progress_handler(count, 1000)
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        # computed columns could take any time and memory: read only stored values
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, len(data))
        if any(hidden for *_, hidden in connection.execute("PRAGMA table_xinfo(Packages)")):
            raise InvalidContent("its packages are computed", hint="don't use it: it is damaged, or hostile")
        connection.set_authorizer(_reads_a_table)
        for (blob,) in connection.execute("SELECT blob FROM Packages"):
            if not isinstance(blob, bytes):
                continue
            left -= len(blob)
            if left < 0:  # a small file can name the same pages for each of a million packages
                raise InvalidContent(
                    "its packages are larger than the database", hint="don't use it: it is damaged, or hostile"
                )
            yield blob
    except (sqlite3.Error, MemoryError, OverflowError) as error:
        raise InvalidContent(
            f"not an rpm database: {error!s:.100}", hint="don't use it: it is damaged, or hostile"
        ) from None
    finally:
        connection.close()


def _reads_a_table(action: int, _: str | None, __: str | None, ___: str | None, view: str | None) -> int:
    """Authorize a step of an SQLite statement: only reading, and not through a view."""
    import sqlite3

    allowed = view is None and action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _rpm_paths(blob: bytes, names: Set[bytes]) -> Iterator[bytes]:
    """Yield the files of one package with one of these base names. Directories are stored once and referred to by
    number."""
    store, rows = _rpm_fields(blob)
    where = {tag: (offset, number) for tag, kind, offset, number in rows if _FILE_TAGS.get(tag) == kind}
    if len(where) < len(_FILE_TAGS) or any(number > _MAX_FILES for _, number in where.values()):
        return
    bases, directories = (_rpm_strings(store, *where[tag]) for tag in (_BASENAMES, _DIRNAMES))
    offset, number = where[_DIRINDEXES]
    for at, base in enumerate(bases[:number]):
        if base in names and offset + 4 * at + 4 <= len(store):
            (index,) = struct.unpack_from(">I", store, offset + 4 * at)
            if index < len(directories):
                yield (directories[index] + base).lstrip(b"/")


def _rpm_strings(store: bytes, offset: int, number: int) -> list[bytes]:
    return store[offset:].split(b"\0", number)[:number]


def _rpm_fields(blob: bytes) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """Return the data of a header, and its fields: tag, type, offset in the data, count. Empty if it is malformed."""
    if len(blob) < 8:
        return b"", []
    count, size = struct.unpack_from(">II", blob)
    start = 8 + count * 16
    if count > 65536 or start + size > len(blob):
        return b"", []
    return blob[start : start + size], list(struct.iter_unpack(">IIII", blob[8:start]))


def rpm_header(blob: bytes) -> NamedPackage | None:
    """Parse one package's header as stored in the database: counts, then (tag, type, offset, count), then
    the data."""
    store, rows = _rpm_fields(blob)
    fields = {}
    for tag, kind, offset, _ in rows:
        if tag in (_NAME, _VERSION, _RELEASE, _ARCH, _SOURCE) and kind in (_STRING, _I18N):
            end = store.find(b"\0", offset)
            if end >= 0:
                fields[tag] = store[offset:end].decode("utf-8", "replace")
        elif tag == _EPOCH and kind == _INT32 and offset + 4 <= len(store):
            fields[tag] = str(struct.unpack_from(">i", store, offset)[0])
    if fields.get(_NAME) == "gpg-pubkey":
        return None  # an imported key is stored like a package
    if not fields.get(_VERSION) or not fields.get(_RELEASE):
        return None
    version = f"{fields[_VERSION]}-{fields[_RELEASE]}"
    if fields.get(_EPOCH, "0") != "0":
        version = f"{fields[_EPOCH]}:{version}"
    return named_package("rpm", fields.get(_NAME), version, fields.get(_ARCH, ""), fields.get(_SOURCE, ""))


def program(read: ReadAt) -> Iterator[NamedPackage]:
    """Yield the crates and modules that an ELF program says it was built from; none if it is not ELF, or
    malformed."""
    wanted = sections(read, (b".dep-v0", b".go.buildinfo"))
    crates, modules = wanted.get(b".dep-v0"), wanted.get(b".go.buildinfo")
    if crates:
        try:
            inflater = zlib.decompressobj()
            text = inflater.decompress(crates, MAX_SECTION)
        except zlib.error:
            text = b""
        yield from cargo_audit(text)
    if modules:
        version, lines = go_build(modules)
        release = version.partition(" ")[0]
        library = named_package("golang", "stdlib", release) if release.startswith("go") else None
        if library:
            yield library
            if lines.startswith("path\tcmd/go\n"):
                yield replace(library, kind="binary", name="go", version=release.removeprefix("go"))
        yield from go_modules(lines)


def go_build(section: bytes) -> tuple[str, str]:
    """Return the Go version and the module lines in ``.go.buildinfo``, as linkers from Go 1.18 on write it; "" for
    the older pointers."""
    if not section.startswith(_GO_MAGIC) or len(section) < 33 or not section[15] & 2:
        return "", ""
    at, version = 32, ""
    for number in range(2):
        length, shift = 0, 0
        while True:
            if at >= len(section) or shift > 28:
                return version, ""
            byte = section[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        text = section[at : at + length]
        at += length
        if number == 0:
            version = text[:100].decode("utf-8", "replace")
        elif len(text) >= 33:
            return version, text[16:-16].decode("utf-8", "replace")  # between two marks of 16 bytes
    return version, ""


def sections(read: ReadAt, names: tuple[bytes, ...]) -> dict[bytes, bytes]:
    """Return these sections of an ELF file, at most 8 MiB of each; empty if it is not ELF."""
    head = read(0, 64)
    if len(head) < 52 or not head.startswith(b"\x7fELF") or head[4] not in (1, 2) or head[5] not in (1, 2):
        return {}
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    if wide and len(head) < 64:
        return {}
    if wide:
        (table,) = struct.unpack_from(order + "Q", head, 40)
        width, count, strings = struct.unpack_from(order + "HHH", head, 58)
        layout = struct.Struct(order + "II8x8xQQ24x")
    else:
        (table,) = struct.unpack_from(order + "I", head, 32)
        width, count, strings = struct.unpack_from(order + "HHH", head, 46)
        layout = struct.Struct(order + "II4x4xII16x")
    if width != layout.size or not strings < count <= MAX_SECTIONS or table > 1 << 62:
        return {}
    raw = read(table, count * width)
    if len(raw) < count * width:
        return {}
    rows = list(layout.iter_unpack(raw))
    texts = read(rows[strings][2], min(rows[strings][3], 1 << 20)) if rows[strings][2] <= 1 << 62 else b""
    found = {}
    for at, _, offset, size in rows:
        name = texts[at : texts.find(b"\0", at)] if at < len(texts) else b""
        if name in names and name not in found and offset <= 1 << 62:
            found[name] = read(offset, min(size, MAX_SECTION))
    return found
