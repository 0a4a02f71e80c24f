"""Compares two trees file by file (pure; the caller provides the comparison of contents).

Files that both sides have from the same entry of the same layer are equal and not compared. Of all others, only pairs
of the same size are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from lamina.errors import PathNotFound, UsageError
from lamina.insight.change import ADDED, CHANGED, FIELDS, REMOVED, Change, Contents, differences
from lamina.layer.entry import Entry, Kind
from lamina.union.tree import UNSTATED, Tree

_FILE, _DIRECTORY = int(Kind.FILE), int(Kind.DIRECTORY)


_ALSO = {"mtime": "time", "xattr": "xattrs", "link": "target", "hardlinks": "links", "hardlink": "links"}


def parse_fields(words: str, known: Collection[str] = FIELDS) -> frozenset[str]:
    """Parse ``mtime,mode`` as names in ``known``. Raises UsageError."""
    found = set()
    for word in filter(None, (part.strip() for part in words.split(","))):
        name = _ALSO.get(word, word)
        if name not in known or name == "kind":
            allowed = ", ".join(name for name in known if name != "kind")
            raise UsageError(f"{word!r:.60} can't be ignored", hint=f"use one of: {allowed}")
        found.add(name)
    return frozenset(found)


def diff_trees(
    before: Tree,
    after: Tree,
    contents: Contents,
    *,
    layers: tuple[Sequence[object], Sequence[object]] = ((), ()),
    path: bytes = b"",
    ignore: Collection[str] = (),
    renames: bool = True,
) -> list[Change]:
    """Return every path at or below ``path`` that differs, sorted by component.

    ``layers`` identifies the layers of each side; equal layers have the same content. ``ignore``: of ``FIELDS``.
    ``renames``: report a removed and an added file with the same content as one rename. Raises PathNotFound if
    neither side has the path.
    """
    found = _Comparison(before, after, contents, layers, frozenset(ignore)).run(path)
    if renames and "content" not in ignore:
        from lamina.insight.renames import with_renames

        return with_renames(found, before, after, contents, frozenset(ignore))
    return found


_Pair = tuple[bytes, int | None, int | None]
"""A path with its nodes before and after."""


class _Comparison:
    def __init__(
        self,
        before: Tree,
        after: Tree,
        contents: Contents,
        layers: tuple[Sequence[object], Sequence[object]],
        ignore: frozenset[str],
    ) -> None:
        self.before, self.after, self.contents, self.ignore = before, after, contents, ignore
        numbers: dict[object, int] = {}
        self.before_ids = [numbers.setdefault(layer, len(numbers)) for layer in layers[0]] or [
            -1 - number for number in range(len(before.layers))
        ]
        self.after_ids = [numbers.setdefault(layer, len(numbers)) for layer in layers[1]] or [
            len(numbers) + number for number in range(len(after.layers))
        ]
        self.our_links = before.hardlinks.keys() | before.hardlinks.values()
        """Nodes that are hard links of a file with several names."""
        self.their_links = after.hardlinks.keys() | after.hardlinks.values()

    def run(self, path: bytes) -> list[Change]:
        one, other = _start(self.before, path), _start(self.after, path)
        if one is None and other is None:
            text = path.decode("utf-8", "backslashreplace")
            raise PathNotFound(f"/{text:.300} was not found on either side", hint="list with `lamina ls`")
        pairs = self._walk(path, one, other)
        unlinked = set() if "links" in self.ignore else self._links_that_differ(pairs)
        pairs, plain = self._plain(pairs, unlinked)
        unlike = self._contents_that_differ(pairs)
        found = []
        for at, one, other in pairs:
            if other is None:
                assert one is not None
                found.append(Change(REMOVED, at, self._entry(self.before, one, at), None, (), one, -1))
            elif one is None:
                found.append(Change(ADDED, at, None, self._entry(self.after, other, at), (), -1, other))
            elif one not in plain or one in unlike:
                fields = self._fields(at, one, other, one in unlike, one in unlinked)
                if fields:
                    was, now = self._entry(self.before, one, at), self._entry(self.after, other, at)
                    found.append(Change(CHANGED, at, was, now, fields, one, other))
        return found

    def _walk(self, path: bytes, one: int | None, other: int | None) -> list[_Pair]:
        """Return the paths of both sides: parents first, names in byte order. Identical entries of the same layer are
        left out, unless they are directories or have several hard links."""
        found: list[_Pair] = []
        pending: list[_Pair] = [(path, one, other)]
        before, after = self.before, self.after
        kids, other_kids, links, other_links = before.kids, after.kids, self.our_links, self.their_links
        rows, other_rows, layers, other_layers = before.rows, after.rows, before.origin_layers, after.origin_layers
        ids, other_ids = self.before_ids, self.after_ids
        while pending:
            pair = path, one, other = pending.pop()
            found.append(pair)
            ours = kids[one] if one is not None else None
            theirs = other_kids[other] if other is not None else None
            if not ours and not theirs:
                continue
            ours, theirs = ours or {}, theirs or {}
            inside = path + b"/" if path else b""
            for name in sorted(ours.keys() | theirs.keys(), reverse=True):
                one, other = ours.get(name), theirs.get(name)
                if (
                    one is None
                    or other is None
                    or rows[one] != other_rows[other]
                    or ids[layers[one]] != other_ids[other_layers[other]]
                    or kids[one] is not None
                    or other_kids[other] is not None
                    or one in links
                    or other in other_links
                ):
                    pending.append((inside + name, one, other))
        return found

    def _plain(self, pairs: list[_Pair], unlinked: set[int]) -> tuple[list[_Pair], set[int]]:
        """Drop pairs that are equal in all columns. Returns the others, and the nodes (of before) of which only the
        content may differ."""
        left: list[_Pair] = []
        plain: set[int] = set()
        before, after = self.before, self.after
        for pair in pairs:
            _, one, other = pair
            if one is None or other is None or one in unlinked:
                left.append(pair)
                continue
            (layer, row), (other_layer, other_row) = before.content(one), after.content(other)
            if UNSTATED in (row, other_row):
                left.append(pair)
                continue
            if row == other_row and self.before_ids[layer] == self.after_ids[other_layer]:
                continue
            ours, theirs = before.layers[layer], after.layers[other_layer]
            kind = ours.kind[row]
            if not (
                kind == theirs.kind[other_row] <= _DIRECTORY
                and ours.mode[row] == theirs.mode[other_row]
                and ours.mtime[row] == theirs.mtime[other_row]
                and ours.nsec[row] == theirs.nsec[other_row]
                and ours.uid[row] == theirs.uid[other_row]
                and ours.gid[row] == theirs.gid[other_row]
                and not ours.xattr_at[row]
                and not theirs.xattr_at[other_row]
            ):
                left.append(pair)
            elif kind != _DIRECTORY:
                left.append(pair)
                plain.add(one)
        return left, plain

    def _is_same_entry(self, one: int, other: int) -> bool:
        layer, row = self.before.content(one)
        other_layer, other_row = self.after.content(other)
        return row == other_row != UNSTATED and self.before_ids[layer] == self.after_ids[other_layer]

    def _contents_that_differ(self, pairs: list[_Pair]) -> set[int]:
        """Return nodes (of before) of files with different content; contents are read in archive order."""
        if "content" in self.ignore:
            return set()
        unlike, unsure = set(), []
        before, after = self.before, self.after
        for _, one, other in pairs:
            if one is None or other is None or before.kids[one] is not None or after.kids[other] is not None:
                continue
            layer, row = before.content(one)
            index, (other_layer, other_row) = before.layers[layer], after.content(other)
            there = after.layers[other_layer]
            if index.kind[row] != _FILE or there.kind[other_row] != _FILE:
                continue
            if row == other_row and self.before_ids[layer] == self.after_ids[other_layer]:
                continue
            if index.size[row] != there.size[other_row]:
                unlike.add(one)
            elif index.size[row]:
                unsure.append((layer, index.offset[row], one, other))
        self.contents.expect([(one, other) for _, _, one, other in unsure])
        for _, _, one, other in sorted(unsure):
            if not self.contents.same(one, other):
                unlike.add(one)
        return unlike

    def _links_that_differ(self, pairs: list[_Pair]) -> set[int]:
        """Return nodes (of before) whose hard links are other paths than after, among paths with the same kind on
        both sides."""
        if not self.before.hardlinks and not self.after.hardlinks:
            return set()
        ours: dict[int, set[int]] = {}
        theirs: dict[int, set[int]] = {}
        both = []
        for _, one, other in pairs:
            if one not in self.our_links and other not in self.their_links:
                continue
            if one is None or other is None or self.before.is_directory(one) or self.after.is_directory(other):
                continue
            if self.before.kind(one) != self.after.kind(other):
                continue
            inode, other_inode = self.before.inode(one), self.after.inode(other)
            if self.before.links(one) > 1 or self.after.links(other) > 1:
                ours.setdefault(inode, set()).add(one)
                theirs.setdefault(other_inode, set()).add(one)
                both.append((one, inode, other_inode))
        return {one for one, inode, other_inode in both if ours[inode] != theirs[other_inode]}

    def _fields(self, path: bytes, one: int, other: int, unlike: bool, unlinked: bool) -> tuple[str, ...]:
        if self._is_same_entry(one, other):
            return ("links",) if unlinked else ()
        if not path and UNSTATED in (self.before.rows[one], self.after.rows[other]):
            return ()  # a root that no layer states equals any other
        found = differences(self.before.entry(one), self.after.entry(other))
        if found == ["kind"]:
            return ("kind",)
        if unlike:
            found.insert(0, "content")
        if unlinked:
            found.append("links")
        return tuple(name for name in found if name not in self.ignore)

    def _entry(self, tree: Tree, node: int, path: bytes) -> Entry:
        entry = tree.entry(node)
        return entry if entry.path == path else replace(entry, path=path)


def _start(tree: Tree, path: bytes) -> int | None:
    """Return the node for a path that a person typed: a symlink at its end is followed only if it leads to a
    directory."""
    try:
        node = tree.lookup(path)
    except PathNotFound:
        return None
    if tree.is_directory(node) or tree.kind(node) != Kind.SYMLINK:
        return node
    try:
        there = tree.lookup(path, follow=True)
    except PathNotFound:
        return node
    return there if tree.is_directory(there) else node
