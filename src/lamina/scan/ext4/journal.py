"""The journal of an ext4 file system (jbd2): which blocks it holds newer versions of (pure, over a function that
reads).

A machine does not unmount its disk, so the journal always has something that is not in its place yet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_MAGIC = 0xC03B3998
_DESCRIPTOR, _COMMIT, _SUPERBLOCK_1, _SUPERBLOCK_2, _REVOKE = 1, 2, 3, 4, 5
_HEAD = struct.Struct(">III")  # magic, type, sequence
_SUPER = struct.Struct(">IIIIII")  # block size, length, first, sequence, start, errno
_FEATURES = struct.Struct(">III")
_REVOKES, _64BIT, _ASYNC, _CHECKSUMS_2, _CHECKSUMS_3 = 1, 2, 4, 8, 16
_KNOWN = _REVOKES | _64BIT | _ASYNC | _CHECKSUMS_2 | _CHECKSUMS_3
_ESCAPED, _SAME_UUID, _LAST = 1, 2, 8
_UUID = 16


class BadJournal(ValueError):
    """The journal is malformed, or of a form that is not known."""


@dataclass(frozen=True)
class Newer:
    """``place``: the number of a journal block. ``escaped``: its first four bytes are the journal's magic number."""

    place: int
    escaped: bool


@dataclass(frozen=True)
class _Form:
    first: int
    end: int
    tag: struct.Struct
    wide: bool
    checksums: int

    def after(self, block: int) -> int:
        return block + 1 if block + 1 < self.end else self.first


def escaped_start() -> bytes:
    """What stands at the start of a block that is ``escaped``."""
    return struct.pack(">I", _MAGIC)


def newer_blocks(read: Callable[[int], bytes], block_size: int) -> dict[int, Newer]:
    """The blocks of the file system that the journal has newer versions of, by number. ``read``: returns a block of
    the journal. Raises BadJournal."""
    head = read(0)
    magic, kind, _ = _HEAD.unpack_from(head)
    if magic != _MAGIC or kind not in (_SUPERBLOCK_1, _SUPERBLOCK_2):
        raise BadJournal("the journal has no superblock")
    size, length, first, sequence, start, _ = _SUPER.unpack_from(head, _HEAD.size)
    if not start:
        return {}
    if size != block_size or not 0 < first < length or not first <= start < length:
        raise BadJournal("the superblock of the journal is damaged")
    incompatible = _FEATURES.unpack_from(head, _HEAD.size + _SUPER.size)[1] if kind == _SUPERBLOCK_2 else 0
    if incompatible & ~_KNOWN:
        raise BadJournal(f"the journal has unknown features ({incompatible & ~_KNOWN:#x})")
    form = _form(incompatible, first, length)
    written: dict[int, tuple[int, Newer]] = {}
    revoked: dict[int, int] = {}
    for number, blocks, withdrawn in _transactions(read, form, start, sequence):
        for block in withdrawn:
            revoked[block] = number
        for block, newer in blocks:
            written[block] = number, newer
    # what was revoked later than it was written is of a block that was freed
    return {
        block: newer
        for block, (number, newer) in written.items()
        if block not in revoked or (number - revoked[block]) & 0xFFFFFFFF in range(1, 1 << 31)
    }


def _form(incompatible: int, first: int, length: int) -> _Form:
    wide = bool(incompatible & _64BIT)
    if incompatible & _CHECKSUMS_3:
        return _Form(first, length, struct.Struct(">IIII"), wide, 4)
    tag = struct.Struct(f">IHH{'I' if wide else ''}{'2x' if incompatible & _CHECKSUMS_2 else ''}")
    return _Form(first, length, tag, wide, 4 if incompatible & _CHECKSUMS_2 else 0)


def _transactions(
    read: Callable[[int], bytes], form: _Form, start: int, sequence: int
) -> Iterator[tuple[int, list[tuple[int, Newer]], list[int]]]:
    """The transactions that were committed: number, blocks, withdrawn blocks."""
    at, blocks, withdrawn = start, [], []
    left = form.end - form.first
    while left > 0:
        data = read(at)
        magic, kind, number = _HEAD.unpack_from(data)
        if magic != _MAGIC or number != sequence:
            return
        at, left = form.after(at), left - 1
        if kind == _DESCRIPTOR:
            for block, escaped in _tags(data, form):
                blocks.append((block, Newer(at, escaped)))
                at, left = form.after(at), left - 1
                if left < 0:
                    raise BadJournal("a transaction of the journal is longer than the journal")
        elif kind == _REVOKE:
            withdrawn += _revoked(data, form)
        elif kind == _COMMIT:
            yield sequence, blocks, withdrawn
            blocks, withdrawn = [], []
            sequence = (sequence + 1) & 0xFFFFFFFF
        else:
            return


def _tags(data: bytes, form: _Form) -> Iterator[tuple[int, bool]]:
    at, end = _HEAD.size, len(data) - form.checksums
    while at + form.tag.size <= end:
        values = form.tag.unpack_from(data, at)
        if len(values) == 4 and form.tag.size == 16:
            block, flags, high = values[0], values[1], values[2]
        else:
            block, flags, high = values[0], values[2], values[3] if len(values) > 3 else 0
        at += form.tag.size
        if not flags & _SAME_UUID:
            at += _UUID
        yield block | (high << 32 if form.wide else 0), bool(flags & _ESCAPED)
        if flags & _LAST:
            return


def _revoked(data: bytes, form: _Form) -> list[int]:
    (used,) = struct.unpack_from(">I", data, _HEAD.size)
    start = _HEAD.size + 4
    width = 8 if form.wide else 4
    if not start <= used <= len(data):
        raise BadJournal("a revoke block of the journal is damaged")
    count = (used - start) // width
    return list(struct.unpack_from(f">{count}{'Q' if form.wide else 'I'}", data, start))
