"""Compares two unions at one path."""

from __future__ import annotations

from lamina.layer.entry import Entry, Kind
from lamina.source.stack import Stack
from lamina.text import counted


def difference(one: Stack, node: int, other: Stack, there: int) -> str:
    """Describe how two nodes differ: kind, content, mode, owner, target, device, xattrs; "" if they don't. Times are
    ignored; of a directory only its attributes are compared."""
    mine, theirs = one.tree().entry(node), other.tree().entry(there)
    if mine.kind != theirs.kind:
        return f"{mine.kind.name.lower()} to {theirs.kind.name.lower()}"
    found = []
    if mine.kind == Kind.FILE and not _same_content(one, node, mine, other, there, theirs):
        found.append("content")
    if mine.kind == Kind.SYMLINK and mine.link != theirs.link:
        found.append("target")
    if mine.rdev != theirs.rdev:
        found.append("device")
    if mine.mode != theirs.mode:
        found.append(f"mode {mine.mode:04o} to {theirs.mode:04o}")
    if (mine.uid, mine.gid) != (theirs.uid, theirs.gid):
        found.append(f"owner {mine.uid}:{mine.gid} to {theirs.uid}:{theirs.gid}")
    if mine.xattrs != theirs.xattrs:
        found.append("xattrs")
    return ", ".join(found)


def difference_below(one: Stack, node: int, other: Stack, there: int) -> str:
    """Describe how two nodes differ, as ``difference`` does, with everything below them."""
    own = difference(one, node, other, there)
    mine, theirs = one.tree(), other.tree()
    if not (mine.is_directory(node) and theirs.is_directory(there)):
        return own
    count, pending = 0, [(node, there)]
    while pending:
        node, there = pending.pop()
        here, over = mine.children(node), theirs.children(there)
        count += len(here.keys() ^ over.keys())
        for name in here.keys() & over.keys():
            count += bool(difference(one, here[name], other, over[name]))
            pending.append((here[name], over[name]))
    below = f"{counted(count, 'entry', 'entries')} in it" if count else ""
    return ", ".join(text for text in (own, below) if text)


def _same_content(one: Stack, node: int, mine: Entry, other: Stack, there: int, theirs: Entry) -> bool:
    if mine.size != theirs.size:
        return False
    layer, row = one.tree().content(node)
    layer_there, row_there = other.tree().content(there)
    if one.layers[layer].diff_id == other.layers[layer_there].diff_id and row == row_there:
        return True
    with one.open_file(node) as left, other.open_file(there) as right:
        while True:
            data = left.read(1 << 20)
            if data != right.read(1 << 20):
                return False
            if not data:
                return True
