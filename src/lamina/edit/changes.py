"""The changes of a writable layer against the union below it (pure)."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.text import clean
from lamina.union.tree import Tree

ADDED, CHANGED, DELETED = "A", "C", "D"


@dataclass(frozen=True, slots=True)
class Change:
    """One change. ``how`` is A, C or D, as in docker diff; ``path`` as in ``Entry``."""

    how: str
    path: bytes

    def __str__(self) -> str:
        """Return the line that `diff` prints."""
        return f"{self.how} /{clean(self.path)}"


def real_items(tree: Tree, items: Iterable[Item], made: Container[bytes] = ()) -> list[Item]:
    """Return ``items`` without those that change nothing: directories that an overlay only copied up, and the paths
    in ``made``, which were created as mount points."""
    return [item for item in items if item[0].path not in made and not _is_as_below(tree, item[0])]


def changes(tree: Tree, items: Iterable[Item], made: Container[bytes] = ()) -> list[Change]:
    """Return the list of docker diff: sorted by name; a directory in which something changed counts as changed."""
    found: dict[bytes, str] = {}
    for entry, _ in real_items(tree, items, made):
        path = entry.path
        node = tree.find(path)
        if entry.kind == Kind.WHITEOUT:
            found[path] = DELETED
        elif entry.kind == Kind.OPAQUE:
            for name in tree.children(node) if node is not None else ():
                found[path + b"/" + name if path else name] = DELETED
            continue
        else:
            found[path] = ADDED if node is None else CHANGED
        parent = path.rpartition(b"/")[0]
        while parent and parent not in found:
            found[parent] = ADDED if tree.find(parent) is None else CHANGED
            parent = parent.rpartition(b"/")[0]
    return [Change(how, path) for path, how in sorted(found.items())]


def _is_as_below(tree: Tree, entry: Entry) -> bool:
    node = tree.find(entry.path)
    if entry.kind == Kind.OPAQUE:
        return node is None or not tree.children(node)  # overlayfs marks new directories too
    if entry.kind != Kind.DIRECTORY:
        return False
    if node is None or not tree.is_directory(node):
        return False
    below = tree.entry(node)
    return (entry.mode, entry.uid, entry.gid, entry.mtime, dict(entry.xattrs)) == (
        (below.mode, below.uid, below.gid, below.mtime, dict(below.xattrs))
    )
