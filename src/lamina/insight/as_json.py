"""Entries, sides and differences for JSON: what `diff` and `ls` print and what values say of themselves (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.layer.entry import Entry, Kind
from lamina.text import json_path, json_text

if TYPE_CHECKING:
    from typing import Any

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
    from lamina.insight.compare_content import digest_of

    return side.tree.entry(node).size, f"sha256:{digest_of(side, node).hex()}"
