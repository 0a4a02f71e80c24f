"""A change between two trees, what can differ, and how that is told in words (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lamina.layer.entry import Entry, Kind
from lamina.text import clean

ADDED, REMOVED, CHANGED, RENAMED = "added", "removed", "changed", "renamed"


FIELDS = ("kind", "content", "target", "device", "mode", "owner", "time", "xattrs", "links")
"""What a change can be of. ``target``: a symlink's; ``links``: which other paths are the same file."""


@dataclass(frozen=True, slots=True)
class Change:
    """``path`` as in ``Entry``, the new one of what was renamed; ``before`` and ``after`` are None where it is not
    there, ``before_node`` and ``after_node`` its nodes. ``fields`` (of ``FIELDS``): what differs."""

    how: str
    path: bytes
    before: Entry | None
    after: Entry | None
    fields: tuple[str, ...] = ()
    before_node: int = -1
    after_node: int = -1

    @property
    def old_path(self) -> bytes:
        """Where it was before it was renamed."""
        return self.path if self.before is None else self.before.path

    def __str__(self) -> str:
        """The line that `diff` prints."""
        return line(self)


class Contents(Protocol):
    """How bytes are compared."""

    def expect(self, pairs: Sequence[tuple[int, int]]) -> None:
        """These pairs will be asked for, with ``same``."""
        ...

    def same(self, before: int, after: int) -> bool:
        """Whether two regular files of one size have the same bytes."""
        ...

    def digest(self, node: int, *, after: bool) -> bytes:
        """Of a regular file, before or after."""
        ...


def differences(one: Entry, other: Entry) -> list[str]:
    """Which of ``FIELDS`` differ, contents and hardlinks left out."""
    if one.kind != other.kind:
        return ["kind"]
    found = []
    if one.kind == Kind.SYMLINK:
        if one.link != other.link:
            found.append("target")
    elif one.mode != other.mode:  # no file system lets a symlink have one
        found.append("mode")
    if one.rdev != other.rdev:
        found.append("device")
    if (one.uid, one.gid) != (other.uid, other.gid):
        found.append("owner")
    if one.mtime != other.mtime:
        found.append("time")
    if one.xattrs != other.xattrs:
        found.append("xattrs")
    return found


LETTERS = {"added": "A", "removed": "D", "changed": "C", "renamed": "R"}
"""How `diff` prints what happened."""


def line(change: Change) -> str:
    """What happened to which path, and what of it differs: safe to print."""
    told = details(change)
    return f"{path_line(change)}   {told}" if told else path_line(change)


def path_line(change: Change) -> str:
    """What happened to which path."""
    if change.how == "renamed":
        return f"R /{clean(change.old_path)} -> /{clean(change.path)}"
    return f"{LETTERS[change.how]} /{clean(change.path)}"


def details(change: Change) -> str:
    """What differs, from what to what; "" for what came or went."""
    if change.before is None or change.after is None:
        return ""
    return ", ".join(_said(name, change.before, change.after) for name in change.fields)


def _said(field: str, before: Entry, after: Entry) -> str:
    match field:
        case "kind":
            return f"kind ({before.kind.name.lower()} to {after.kind.name.lower()})"
        case "content" if before.size != after.size:
            return f"content ({before.size} to {after.size} bytes)"
        case "target":
            return f"target ({clean(before.link)} to {clean(after.link)})"
        case "device":
            return f"device ({before.rdev[0]}, {before.rdev[1]} to {after.rdev[0]}, {after.rdev[1]})"
        case "mode":
            return f"mode ({before.mode:04o} to {after.mode:04o})"
        case "owner":
            return f"owner ({before.uid}:{before.gid} to {after.uid}:{after.gid})"
    return field
