"""Entries, sides and differences as JSON values: the output of `diff` and `ls`, and ``to_json`` (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.layer.entry import Entry, Kind
from lamina.text import json_path, json_text

if TYPE_CHECKING:
    from typing import Any

    from lamina.insight.side import Side


def entry_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as a JSON value: size in bytes, mode as octal text, mtime in nanoseconds."""
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
    """Return the bytes of content of a regular file; 0 for anything else."""
    return entry.size if entry is not None and entry.kind == Kind.FILE else 0


def content_sum(side: Side, node: int) -> tuple[int, str]:
    """Return size and digest of a regular file."""
    from lamina.insight.compare_content import digest_of

    return side.tree.entry(node).size, f"sha256:{digest_of(side, node).hex()}"
