"""A change in words, as `diff` prints it (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.text import clean

if TYPE_CHECKING:
    from lamina.insight.diff import Change
    from lamina.layer.entry import Entry

LETTERS = {"added": "A", "removed": "D", "changed": "C", "renamed": "R"}


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
