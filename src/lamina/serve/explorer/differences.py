"""The differences of two images, directory by directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.errors import PathNotFound
from lamina.insight.as_json import file_size
from lamina.insight.change import ADDED, CHANGED, LETTERS, REMOVED, RENAMED, Change
from lamina.insight.compare import Diff, compare
from lamina.insight.side import Side
from lamina.insight.text_diff import MAX_TEXT
from lamina.layer.entry import Kind
from lamina.serve.explorer.asked import Asked
from lamina.text import json_path, json_text

if TYPE_CHECKING:
    from typing import Any

    from lamina.serve.explorer.opened import OpenImage
    from lamina.source.stack import Stack

MAX_LINES = 5000
_CHANGE = 700  # estimated bytes of memory for each change
_HOWS = (ADDED, REMOVED, CHANGED, RENAMED)


class Below:
    """What changed below a directory. ``touched``: how many of the changed paths differ only in their time, and the
    bytes of such files."""

    __slots__ = ("bytes_delta", "counts", "touched", "touched_bytes")

    def __init__(self) -> None:
        self.counts = dict.fromkeys(_HOWS, 0)
        self.bytes_delta = self.touched = self.touched_bytes = 0

    def add(self, change: Change) -> None:
        self.counts[change.how] += 1
        self.bytes_delta += file_size(change.after) - file_size(change.before)
        if is_touched(change):
            self.touched += 1
            self.touched_bytes += file_size(change.after)

    @property
    def only_touched(self) -> bool:
        return self.touched == sum(self.counts.values())

    def to_json(self) -> dict[str, int]:
        return {**self.counts, "touched": self.touched, "bytes_delta": self.bytes_delta}


def is_touched(change: Change) -> bool:
    """Whether only the time differs."""
    return change.how == CHANGED and change.fields == ("time",)


class DiffTree:
    """A diff as a tree: by directory the paths in it that changed, or that have changes below; the same without paths
    of which only the time differs."""

    def __init__(self, before: OpenImage, after: OpenImage) -> None:
        self.names = [(image.stack.name, image.stack) for image in (before, after)]
        self.diff: Diff = compare(Side.of(before.stack), Side.of(after.stack))
        self.changes: dict[bytes, Change] = {}
        self.below: dict[bytes, Below] = {}
        self.children: dict[bytes, list[bytes]] = {}
        self.total = Below()
        self.came = self.went = 0
        seen: set[bytes] = {b""}
        for change in self.diff:
            self.changes[change.path] = change
            self.total.add(change)
            self.came += file_size(change.after)
            self.went += file_size(change.before)
            path = change.path
            while path:
                parent = path.rpartition(b"/")[0]
                if path not in seen:
                    seen.add(path)
                    self.children.setdefault(parent, []).append(path)
                if parent not in self.below:
                    self.below[parent] = Below()
                self.below[parent].add(change)
                path = parent
        for paths in self.children.values():
            paths.sort()
        self.without_touched = self.children
        if self.total.touched:
            kept = {at: list(filter(self._matters, paths)) for at, paths in self.children.items()}
            self.without_touched = {at: paths for at, paths in kept.items() if paths}

    def _matters(self, path: bytes) -> bool:
        """Whether more than the time differs at a path or below it."""
        change, below = self.changes.get(path), self.below.get(path)
        return not ((change is None or is_touched(change)) and (below is None or below.only_touched))

    @property
    def size_in_memory(self) -> int:
        return 10_000 + _CHANGE * len(self.changes)


def diff_page(tree: DiffTree, asked: Asked) -> dict[str, Any]:
    """Return the differences directly in a directory, with totals; with ``skip_times`` without paths of which only
    the time differs. Raises Refused, PathNotFound."""
    offset, limit = asked.page()
    path = asked.image_path()
    shown = tree.without_touched if asked.flag("skip_times") else tree.children
    if path and path not in tree.below and path not in tree.changes:
        raise PathNotFound(f"no differences at /{path.decode('utf-8', 'backslashreplace')[:300]}")
    children = shown.get(path, [])
    (before_name, before), (after_name, after) = tree.names
    total = tree.total
    value: dict[str, Any] = {
        "before": _side(before_name, before),
        "after": _side(after_name, after),
        "summary": {
            **total.counts,
            "bytes_before": tree.went,
            "bytes_after": tree.came,
            "bytes_delta": total.bytes_delta,
            "touched": total.touched,
            "touched_bytes": total.touched_bytes,
        },
        **json_path(path),
        "offset": offset,
        "total": len(children),
        "entries": [_entry(tree, child, len(shown.get(child, ()))) for child in children[offset : offset + limit]],
    }
    if not path and not offset:
        value["config"] = [
            {"field": change.field, "before": change.before, "after": change.after} for change in tree.diff.config
        ]
        value["history"] = [{"change": change.how, **change.step.to_json()} for change in tree.diff.history]
        root = tree.changes.get(b"")
        value["root"] = None if root is None else tree.diff.change_json(root)
    return value


def _side(name: str, stack: Stack) -> dict[str, Any]:
    return {
        "image": name,
        "digest": str(stack.manifest.descriptor.digest),
        "platform": str(stack.config.platform),
    }


def _entry(tree: DiffTree, path: bytes, children: int) -> dict[str, Any]:
    below = tree.below.get(path) or Below()
    change = tree.changes.get(path)
    value: dict[str, Any] = {
        **json_path(path),
        **json_text(path.rpartition(b"/")[2], "name"),
        "kind": "directory",
        "change": None,
        "fields": [],
        "before": None,
        "after": None,
        "below": below.to_json(),
        "children": children,
    }
    if change is None:
        return value
    told = tree.diff.change_json(change)
    entry = change.after or change.before
    assert entry is not None
    value |= {key: told[key] for key in ("change", "fields", "before", "after")}
    value["kind"] = entry.kind.name.lower()
    if change.how == RENAMED:
        value |= json_path(change.old_path, "from")
    return value


def diff_text(tree: DiffTree, asked: Asked) -> dict[str, Any]:
    """Return the line differences of one changed text. Raises Refused, PathNotFound, InvalidContent."""
    path = asked.image_path()
    change = tree.changes.get(path)
    if change is None or change.how not in LETTERS:
        raise PathNotFound(f"no differences at /{path.decode('utf-8', 'backslashreplace')[:300]}")
    lines = _lines(tree, change)
    cut = lines is not None and len(lines) > MAX_LINES
    return {**json_path(path), "lines": lines[:MAX_LINES] if lines else lines, "cut": cut}


def _lines(tree: DiffTree, change: Change) -> list[str] | None:
    if change.before is not None and change.after is not None:
        return tree.diff.text(change)
    entry = change.after or change.before
    assert entry is not None
    if entry.kind != Kind.FILE or entry.size > MAX_TEXT:
        return None
    from lamina.insight.text_diff import unified

    side, node = (
        (tree.diff.after, change.after_node) if change.after is not None else (tree.diff.before, change.before_node)
    )
    with side.open(node) as stream:
        data = stream.read()
    name = change.path.decode("utf-8", "backslashreplace")
    if change.after is not None:
        return unified(b"", data, ("/dev/null", f"b/{name}"))
    return unified(data, b"", (f"a/{name}", "/dev/null"))
