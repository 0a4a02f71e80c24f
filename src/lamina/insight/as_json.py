"""Entries, sides and differences for JSON: what `diff` and `ls` print and what values say of themselves (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.layer.entry import Entry, Kind
from lamina.text import json_path, json_text

if TYPE_CHECKING:
    from typing import Any

    from lamina.insight.compare import Diff
    from lamina.insight.diff import Change
    from lamina.insight.side import Side


def entry_json(entry: Entry) -> dict[str, Any]:
    """All that an entry says: size in bytes, mode as octal text, mtime in nanoseconds."""
    value: dict[str, Any] = {
        **json_path(entry.path),
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": entry.mtime,
    }
    if entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
        value |= json_text(entry.link, "target")
    if entry.kind in (Kind.CHAR, Kind.BLOCK):
        value["rdev"] = list(entry.rdev)
    if entry.xattrs:
        value["xattrs"] = {
            name.decode("utf-8", "backslashreplace"): content.hex() for name, content in sorted(entry.xattrs.items())
        }
    return value


def file_size(entry: Entry | None) -> int:
    """Bytes of content: none of what is no regular file, or not there."""
    return entry.size if entry is not None and entry.kind == Kind.FILE else 0


def content_sum(side: Side, node: int) -> tuple[int, str]:
    """Size and digest of a regular file."""
    from lamina.insight.content import digest_of

    return side.tree.entry(node).size, f"sha256:{digest_of(side, node).hex()}"


def diff_json(found: Diff, *, content: bool = False) -> dict[str, Any]:
    """The whole difference; with ``content`` also changed texts line by line, and digests of what is no text."""
    from lamina.insight.words import LETTERS

    counts = dict.fromkeys(LETTERS, 0)
    came = went = 0
    for change in found.changes:
        counts[change.how] += 1
        came += file_size(change.after)
        went += file_size(change.before)
    return {
        "before": side_json(found.before),
        "after": side_json(found.after),
        **json_path(found.path),
        "differ": found.differ,
        "summary": {**counts, "bytes_before": went, "bytes_after": came, "bytes_delta": came - went},
        "changes": [_change_json(found, change, content) for change in found.changes],
        "config": [
            {"field": change.field, "before": change.before, "after": change.after} for change in found.config
        ],
        "history": [{"change": change.how, **change.step.to_json()} for change in found.history],
    }


def side_json(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "kind": side.kind,
        "digest": None if side.digest is None else str(side.digest),
        "layers": [side.first, side.first + side.depth - 1] if side.kind != "directory" else None,
    }


def _change_json(found: Diff, change: Change, content: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"change": change.how, **json_path(change.path), "fields": list(change.fields)}
    for key, entry, side, node in (
        ("before", change.before, found.before, change.before_node),
        ("after", change.after, found.after, change.after_node),
    ):
        value[key] = None if entry is None else {**entry_json(entry), "layer": side.layer_of(node)}
    if content and "content" in change.fields:
        value["text"] = found.text(change)
        if value["text"] is None:
            for key, side, node in (
                ("before", found.before, change.before_node),
                ("after", found.after, change.after_node),
            ):
                value[key]["digest"] = content_sum(side, node)[1]
    return value
