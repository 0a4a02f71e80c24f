"""The log of names: changes that are not in index.json yet (docs/store.md, decision 0041).

The file begins with a line that identifies it. Each record is one line: a checksum, a serial number that
grows, and a change as JSON. A record counts only if its checksum is right, so an append that was interrupted is
recognized. index.json states how many records of which log it contains already (``Included``), so it does not matter
when the log is emptied afterwards.
"""

from __future__ import annotations

import os

from lamina.errors import LaminaError, StoreDamaged
from lamina.light import TYPE_CHECKING, Value
from lamina.spec.json import dump, read_own
from lamina.store.name_table import Change

if TYPE_CHECKING:
    from collections.abc import Iterator

ANNOTATION = "dev.lamina.names"
"""The annotation of index.json with the records that it contains: the log's ident, and the last serial number."""
_HEAD = b"lamina names 1 "
_IDENT = 32
_ANNOTATIONS = b',"annotations":{"%s":"' % ANNOTATION.encode()
_END = b'"}}'
HEAD_SIZE = len(_HEAD) + _IDENT + 1
DAMAGED = "run `lamina fsck --repair`: it keeps the names that can be read"


class Included(Value):
    """What an index.json contains: the records of a log, and how many changes were made in all. ``mark`` tells the
    last change from others with its serial number: a record that could not be synced is cut off, and the next one
    gets its number, but a reader may have seen the first."""

    ident: str = ""
    serial: int = 0
    mark: str = ""

    @classmethod
    def parse(cls, text: str) -> Included:
        """The value of the annotation; nothing is included if it is not valid."""
        ident, _, rest = text.partition(" ")
        serial, _, rest = rest.partition(" ")
        if len(ident) != _IDENT or not (serial.isascii() and serial.isdigit()):
            return cls()
        mark = rest.partition(" ")[0]
        return cls(ident, int(serial), mark[1:] if mark.startswith("=") else "")

    def has_all_of(self, other: Included) -> bool:
        """Whether this contains the whole log of which ``other`` is the last record."""
        return (self.ident, self.serial) == (other.ident, other.serial)

    def next(self) -> Included:
        """After one more change, of which the log has no record."""
        return Included(self.ident, self.serial + 1, os.urandom(4).hex())

    def __str__(self) -> str:
        return f"{self.ident} {self.serial}" + f" ={self.mark}" * bool(self.mark)


def sealed(document: bytes, included: Included) -> bytes:
    """index.json with the annotation, which also has a checksum of all bytes before it: so a reader that has made the
    same changes need not parse it. ``document``: a JSON object that is not empty."""
    start = document[:-1] + _ANNOTATIONS
    return start + b"%s %08x" % (str(included).encode(), _checksum(document[:-1])) + _END


def sealed_as(raw: bytes) -> Included | None:
    """What an index.json contains, if it is as ``sealed`` has written it, byte for byte; else None."""
    at = raw.rfind(_ANNOTATIONS)
    if at < 0 or not raw.endswith(_END):
        return None
    text, _, checksum = raw[at + len(_ANNOTATIONS) : -len(_END)].decode("ascii", "replace").rpartition(" ")
    return Included.parse(text) if checksum == f"{_checksum(raw[:at]):08x}" else None


class Tail(Value):
    """Records that were read: the changes, the serial number of the last one, and the position after it."""

    changes: tuple[Change, ...]
    serial: int
    end: int


def new_head() -> tuple[str, bytes]:
    """The ident of a new log, and its first line."""
    ident = os.urandom(_IDENT // 2).hex()
    return ident, _HEAD + ident.encode() + b"\n"


def ident_of(raw: bytes) -> str:
    """The ident in the first line of a log; "" if it is not a log."""
    ident = raw[len(_HEAD) : HEAD_SIZE - 1]
    whole = raw.startswith(_HEAD) and len(ident) == _IDENT and raw[HEAD_SIZE - 1 : HEAD_SIZE] == b"\n"
    return ident.decode("ascii", "replace") if whole else ""


def mark_of(line: bytes) -> str:
    """The mark of a record."""
    return line[:8].decode("ascii", "replace")


def record(ident: str, serial: int, change: Change) -> bytes:
    """The line of a change."""
    return _line(ident, b"%d %s" % (serial, dump(change.to_json())))


def _line(ident: str, body: bytes) -> bytes:
    return b"%08x %s\n" % (_checksum(body, _checksum(ident.encode())), body)


def _checksum(data: bytes, start: int = 0) -> int:
    from zlib import crc32  # most stores have no log

    return crc32(data, start)


def read_records(
    raw: bytes, ident: str, *, at: int, after: int, what: str, included: int = 0, strict: bool = True
) -> Tail:
    """The records in ``raw``, the bytes of the log from position ``at`` on; ``after`` is the serial number of the
    record before them (0: any may follow). Records up to ``included`` are skipped. Reading ends at the first line
    that is not a record: an append may have been interrupted there.

    Raises StoreDamaged if a whole record follows it, because then the line is damaged. If ``strict`` is False, such a
    line is skipped instead.
    """
    changes: list[Change] = []
    end, serial = at, after
    lines = _lines(raw)
    for line in lines:
        found = _read(line, ident, what)
        if found is None or found[0] <= serial:
            if not strict:
                continue
            if any(later[0] > serial for one in lines if (later := _read(one, ident, what)) is not None):
                raise StoreDamaged(f"{what} is damaged at byte {end}", hint=DAMAGED)
            break
        serial = found[0]
        end += len(line)
        if serial > included:
            changes.append(found[1])
    return Tail(tuple(changes), serial, end)


def _lines(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        end = raw.find(b"\n", at) + 1 or len(raw)
        yield raw[at:end]
        at = end


def _read(line: bytes, ident: str, what: str) -> tuple[int, Change] | None:
    """The serial number and the change of a record; None if the line is not a whole record."""
    body = line[9:-1]
    if line[-1:] != b"\n" or _line(ident, body) != line:
        return None
    serial, _, text = body.partition(b" ")
    try:
        return int(serial), Change.from_json(read_own(text), what)
    except (ValueError, TypeError, AttributeError, LaminaError):
        return None
