"""A change between two trees, the kinds of differences, and their text form (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lamina.layer.entry import Entry, Kind
from lamina.text import clean

ADDED, REMOVED, CHANGED, RENAMED = "added", "removed", "changed", "renamed"


FIELDS = ("kind", "content", "target", "device", "mode", "owner", "time", "xattrs", "links")
"""The fields in which a path can differ. ``target``: that of a symlink; ``links``: the other hard links of
the file."""


@dataclass(frozen=True, slots=True)
class Change:
    """A changed path. ``path`` is as in ``Entry``; after a rename it is the new one. ``before`` and ``after`` are
    None if the path does not exist there; ``before_node`` and ``after_node`` are its nodes. ``fields`` (of
    ``FIELDS``) are what differs."""

    how: str
    path: bytes
    before: Entry | None
    after: Entry | None
    fields: tuple[str, ...] = ()
    before_node: int = -1
    after_node: int = -1

    @property
    def old_path(self) -> bytes:
        """The path before a rename."""
        return self.path if self.before is None else self.before.path

    def __str__(self) -> str:
        """Return the line that `diff` prints."""
        return line(self)


class Contents(Protocol):
    """Compares the contents of files."""

    def expect(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Announce pairs for which ``same`` will be called."""
        ...

    def same(self, before: int, after: int) -> bool:
        """Whether two regular files of the same size have the same bytes."""
        ...

    def digest(self, node: int, *, after: bool) -> bytes:
        """Return the digest of a regular file, before or after."""
        ...


def differences(one: Entry, other: Entry) -> list[str]:
    """Return which of ``FIELDS`` differ, except content and hard links."""
    if one.kind != other.kind:
        return ["kind"]
    found = []
    if one.kind == Kind.SYMLINK:
        if one.link != other.link:
            found.append("target")
    elif one.mode != other.mode:  # no file system lets a symlink have a mode
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
"""The letters with which `diff` marks changes."""


def line(change: Change) -> str:
    """Return the change and its details as a line that is safe to print."""
    more = details(change)
    return f"{path_line(change)}   {more}" if more else path_line(change)


def path_line(change: Change) -> str:
    """Return the change as a line, without details."""
    if change.how == "renamed":
        return f"R /{clean(change.old_path)} -> /{clean(change.path)}"
    return f"{LETTERS[change.how]} /{clean(change.path)}"


def details(change: Change) -> str:
    """Return what differs, with old and new values; "" for an added or removed path."""
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
