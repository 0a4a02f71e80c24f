"""Filters of `find` on attributes of an entry: kind, size, permissions, owner (pure). They test rows of the index."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lamina.errors import UsageError
from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex

LETTERS = {
    "f": Kind.FILE,
    "d": Kind.DIRECTORY,
    "l": Kind.SYMLINK,
    "c": Kind.CHAR,
    "b": Kind.BLOCK,
    "p": Kind.FIFO,
}
_HARDLINK, _WHITEOUT = int(Kind.HARDLINK), int(Kind.WHITEOUT)
_UNITS = {"": 1, "c": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"([+-]?)(\d{1,18})([a-zA-Z]?)(?:[iI]?[bB])?")
_PERM = re.compile(r"([/-]?)0*([0-7]{1,4})")
_OWNER = re.compile(r"(\d{1,10})?(?::(\d{1,10}))?")


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on an entry; None or an empty set means no condition.

    ``size``: smallest and largest size of a regular file in bytes, both inclusive. ``perm``: ("/", bits) any of these
    bits, ("-", bits) all of them, ("", bits) exactly these.
    """

    kinds: frozenset[int] = frozenset()
    size: tuple[int, int] | None = None
    perm: tuple[str, int] | None = None
    uid: int | None = None
    gid: int | None = None

    def fits(self, index: LayerIndex, row: int) -> bool:
        """Whether a row fits. For a hard link test its target, which has the attributes."""
        kind = index.kind[row]
        if self.kinds and kind not in self.kinds:
            return False
        if self.size is not None and (kind != Kind.FILE or not self.size[0] <= index.size[row] <= self.size[1]):
            return False
        if self.uid is not None and index.uid[row] != self.uid:
            return False
        if self.gid is not None and index.gid[row] != self.gid:
            return False
        return self.perm is None or _permitted(self.perm, index.mode[row])

    @property
    def takes_implied(self) -> bool:
        """Whether an implied directory, which no layer states, fits: mode 0755, user and group 0."""
        if (self.kinds and Kind.DIRECTORY not in self.kinds) or self.size is not None:
            return False
        return not self.uid and not self.gid and (self.perm is None or _permitted(self.perm, 0o755))

    def rows(self, index: LayerIndex, rows: Iterable[int] | None) -> list[int]:
        """Return the rows (None: of all rows) that are entries and fit. Hard links are always included."""
        kinds = index.kind
        if rows is None:
            rows = self._likely(index)
        return [
            row for row in rows if (kind := kinds[row]) < _WHITEOUT and (kind == _HARDLINK or self.fits(index, row))
        ]

    def _likely(self, index: LayerIndex) -> Iterable[int]:
        """Preselect rows by one column, which is fast; hard links are included."""
        hardlinks = list(index.rows_of(_HARDLINK))
        found: list[int]
        if self.perm is not None:
            perm = self.perm
            good = {mode for mode in set(index.mode) if _permitted(perm, mode)}
            found = [row for row, mode in enumerate(index.mode) if mode in good] if good else []
        elif self.size is not None:
            low, high = self.size
            found = [row for row, size in enumerate(index.size) if low <= size <= high]
        elif self.uid is not None:
            found = [row for row, uid in enumerate(index.uid) if uid == self.uid]
        elif self.gid is not None:
            found = [row for row, gid in enumerate(index.gid) if gid == self.gid]
        elif self.kinds:
            found = [row for row, kind in enumerate(index.kind) if kind in self.kinds]
        else:
            return range(len(index))
        return sorted({*found, *hardlinks}) if hardlinks else found


def _permitted(perm: tuple[str, int], mode: int) -> bool:
    how, bits = perm
    if how == "/":
        return bool(mode & bits) or not bits
    return mode & bits == bits if how == "-" else mode == bits


def parse_kinds(text: str) -> frozenset[int]:
    """Parse find's type letters, with or without commas: ``f``, ``d,l``. Raises UsageError."""
    letters = [letter for letter in text if letter != ","]
    if not letters or any(letter not in LETTERS for letter in letters):
        known = ", ".join(f"{letter} ({kind.name.lower()})" for letter, kind in LETTERS.items())
        raise UsageError(f"not a type: {text!r:.60}", hint=f"use {known}")
    return frozenset(int(LETTERS[letter]) for letter in letters)


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size as (smallest, largest) in bytes. ``+10M`` is more, ``-10M`` is less; without a sign, sizes that
    round up to that many units, as in find. No unit means bytes; k, M, G and T are powers of 1024. Raises UsageError.
    """
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[3].lower()) if found else None
    if found is None or unit is None:
        raise UsageError(f"not a size: {text!r:.60}", hint="use +10M (more), -4k (less) or 512; units are k, M, G, T")
    number = int(found[2])
    if found[1] == "+":
        return number * unit + 1, 1 << 64
    if found[1] == "-":
        return 0, number * unit - 1
    return (number - 1) * unit + 1, number * unit


def parse_perm(text: str) -> tuple[str, int]:
    """Parse find's octal permissions: ``644`` (exactly), ``-644`` (all of them), ``/6000`` (any of them). Raises
    UsageError."""
    found = _PERM.fullmatch(text)
    if found is None:
        raise UsageError(f"not permissions: {text!r:.60}", hint="use octal: 644, -644 (all of) or /6000 (any of)")
    return found[1], int(found[2], 8)


def parse_owner(text: str) -> tuple[int | None, int | None]:
    """Parse numeric ``UID``, ``UID:GID`` or ``:GID``. Raises UsageError."""
    found = _OWNER.fullmatch(text)
    if found is None or not text or text == ":":
        raise UsageError(
            f"not an owner: {text!r:.60}", hint="use numbers, such as 1000, 0:42 or :42: names differ between images"
        )
    return (int(found[1]) if found[1] else None), (int(found[2]) if found[2] else None)
