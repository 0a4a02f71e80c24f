"""What COPY and ADD write (pure but for reading the union below): a tree over the union, where new files replace old
ones and directories are merged. In the end only what is new is in it, as the items of a layer.

It behaves as BuildKit's copy into a mounted image: symlinks in the target are followed inside the image, but only in
the path that the instruction names; below it, a symlink is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lamina.build.patterns.trees import MAX_LINKS, FileTree
from lamina.errors import PathNotFound, UsageError
from lamina.layer.entry import Entry, Kind
from lamina.layer.whiteout import PREFIX

if TYPE_CHECKING:
    from lamina.build.patterns.modes import Change
    from lamina.layer.tar_write import Item
    from lamina.source.stack import Stack
    from lamina.union.tree import Union

_SECOND = 1_000_000_000
_DIRECTORY = Kind.DIRECTORY


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """How files are written: the new owner (None: that of the file, where its tree keeps owners), and what happens to
    the mode. Files of one rule that are one file in the source are hard links."""

    owner: tuple[int, int] | None = None
    change: Change | None = None


class Place:
    """A path of the target. ``entry``, or ``tree`` with ``node`` and ``rule``: what the new layer states here;
    neither: nothing. ``below``: where the union below has it. ``link``: a hard link to this path of the union
    below. ``is_whole``: all that is in the directory ``node`` is in it too, and nothing else."""

    __slots__ = ("below", "entry", "is_whole", "kids", "link", "loaded", "node", "rule", "tree")

    def __init__(self, below: tuple[Union, int] | None = None) -> None:
        self.below = below
        self.entry: Entry | None = None
        self.tree: FileTree[Any] | None = None
        self.node: Any = None
        self.rule: Rule | None = None
        self.link: bytes | None = None
        self.kids: dict[bytes, Place] | None = None
        self.loaded = below is None
        self.is_whole = False

    @property
    def kind(self) -> Kind:
        if self.entry is not None:
            return self.entry.kind
        if self.tree is not None:
            return self.tree.kind(self.node)
        if self.kids is not None or self.below is None:
            return _DIRECTORY
        return self.below[0].kind(self.below[1])

    @property
    def is_directory(self) -> bool:
        return self.kids is not None or self.kind == _DIRECTORY

    @property
    def is_new(self) -> bool:
        return self.entry is not None or self.tree is not None

    def symlink(self) -> bytes:
        """The target of the symlink that it is."""
        if self.entry is not None:
            return self.entry.link
        if self.tree is not None:
            return self.tree.link(self.node)
        assert self.below is not None
        return self.below[0].link_target(self.below[1])


Path = list[tuple[bytes, Place]]
"""A way from the root: names with their places. The root is not in it."""


class Target:
    """The union below, and what is written on it. ``left_out`` is told the names that can't be in a layer."""

    def __init__(self, below: Stack | None, left_out: Callable[[bytes], object] = lambda name: None) -> None:
        self._stack = below
        self._left_out = left_out
        self.root = Place()
        self.root.kids = {}
        self.root.loaded = below is None

    def child(self, path: Path, name: bytes) -> Place | None:
        """What is in the directory at the end of ``path``."""
        place = path[-1][1] if path else self.root
        self._load(place, path)
        return None if place.kids is None else place.kids.get(name)

    def resolve(self, path: bytes, *, within: Path | None = None) -> tuple[Path, list[bytes]]:
        """Follow a path: what exists of it, and the names that are missing. Symlinks are followed inside the image,
        or inside the directory ``within``. Raises UsageError (symlinks without end)."""
        top = list(within or ())
        at = list(top)
        pending = path.split(b"/")[::-1]
        missing: list[bytes] = []
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if missing:
                    missing.pop()
                elif len(at) > len(top):
                    at.pop()
                continue
            place = None if missing else self.child(at, name)
            if place is None:
                missing.append(name)
            elif not place.is_directory and place.kind == Kind.SYMLINK:
                links += 1
                if links > MAX_LINKS:
                    raise UsageError(
                        f"/{_text(path)} in the image: too many symlinks", hint="check the symlinks: they form a loop"
                    )
                target = place.symlink()
                pending += target.split(b"/")[::-1]
                if target.startswith(b"/"):
                    at = list(top)
            else:
                at.append((name, place))
        return at, missing

    def directories(self, path: Path, missing: list[bytes], mode: int, owner: tuple[int, int], mtime: int) -> Path:
        """Make the missing directories. Raises UsageError (what is there is not a directory)."""
        if path and not path[-1][1].is_directory:
            raise UsageError(f"/{_joined(path)} in the image is not a directory", hint="choose another target")
        path = list(path)
        for name in missing:
            place = self._new(path, name)
            place.kids = {}
            place.entry = Entry(b"", _DIRECTORY, mode, *owner, mtime=mtime)
            path.append((name, place))
        return path

    def put(
        self, path: Path, name: bytes, tree: FileTree[Any], node: Any, rule: Rule, *, force: bool = False
    ) -> None:
        """Write a file, symlink or device. ``force``: it may replace a directory. Raises UsageError (a directory)."""
        known = self.child(path, name)
        if known is not None and known.is_directory and not force:
            raise UsageError(
                f"a file can't replace the directory /{_joined(path, name)} of the image",
                hint="end the target with a slash to copy into the directory, or choose another one",
            )
        place = self._new(path, name)
        place.tree, place.node, place.rule = tree, node, rule

    def put_link(self, path: Path, name: bytes, target: Path) -> None:
        """Write a hard link to another file of the target."""
        known = target[-1][1]
        place = self._new(path, name)
        if known.tree is not None:
            place.tree, place.node, place.rule = known.tree, known.node, known.rule
        else:
            place.link = known.link or _bytes(target)
            place.entry = Entry(b"", Kind.HARDLINK)

    def put_whole(self, path: Path, name: bytes, tree: FileTree[Any], node: Any, rule: Rule) -> None:
        """Write a directory with all that is in it, or a file, where there is nothing yet."""
        place = self._new(path, name)
        place.tree, place.node, place.rule = tree, node, rule
        if tree.kind(node) is _DIRECTORY:
            place.is_whole, place.loaded = True, False

    def put_directory(
        self, path: Path, name: bytes, tree: FileTree[Any], node: Any, rule: Rule, *, implied: bool = False,
        force: bool = False,
    ) -> Place:  # fmt: skip
        """Write a directory with its attributes; if there is one, it is merged. ``implied``: of one that is there
        only its mode is changed. ``force``: it may replace a file. Raises UsageError (a file is there)."""
        known = self.child(path, name)
        if known is not None and not known.is_directory:
            if not force:
                raise UsageError(
                    f"a directory can't replace /{_joined(path, name)} of the image, which is not a directory",
                    hint="choose another target",
                )
            known = None
        if known is None:
            place = self._new(path, name)
            place.kids = {}
            place.tree, place.node, place.rule = tree, node, rule
            return place
        self._load(known, [*path, (name, known)])
        before = self._stated(known)
        if known.is_whole:
            self._load(known, [*path, (name, known)])
        if implied:
            known.entry = replace(before, mode=tree.entry(node, b"").mode)
        else:
            after = written(tree, node, rule, b"")
            known.entry = replace(after, xattrs={**before.xattrs, **after.xattrs}) if before.xattrs else after
        known.tree = None
        return known

    def items(self) -> Iterator[Item]:
        """What is new, as a layer needs it: sorted, parents first, a file before the hard links to it."""
        first: dict[Hashable, bytes] = {}
        pending: list[tuple[bytes, Place]] = [(b"", self.root)]
        while pending:
            path, place = pending.pop()
            kids = place.kids
            if place.entry is not None:
                if place.link is not None:
                    yield self._lower_link(path, place.link), None
                else:
                    yield replace(place.entry, path=path), None
            elif place.tree is not None:
                if place.is_whole:
                    yield from self._whole(place.tree, place.node, place.rule, path, first)
                    continue
                yield _item(place.tree, place.node, place.rule, path, first)
            if kids:
                prefix = path + b"/" if path else b""
                pending += [
                    (prefix + name, kids[name])
                    for name in sorted(kids, reverse=True)
                    if (kid := kids[name]).kids or kid.tree is not None or kid.entry is not None
                ]

    def _whole(
        self, tree: FileTree[Any], node: Any, rule: Rule | None, path: bytes, first: dict[Hashable, bytes]
    ) -> Iterator[Item]:
        """A directory with all that is in it."""
        yield written(tree, node, rule, path), None
        walk = [(path + b"/", iter(tree.children(node)))]
        while walk:
            prefix, names = walk[-1]
            for name, child in names:
                if name.startswith(PREFIX):
                    self._left_out(name)
                    continue
                inner = prefix + name
                if tree.kind(child) is _DIRECTORY:
                    yield written(tree, child, rule, inner), None
                    walk.append((inner + b"/", iter(tree.children(child))))
                    break
                yield _item(tree, child, rule, inner, first)
            else:
                walk.pop()

    def is_empty(self) -> bool:
        """Whether there is nothing new."""
        pending = [self.root]
        while pending:
            place = pending.pop()
            if place.is_new:
                return False
            pending += (place.kids or {}).values()
        return True

    def _new(self, path: Path, name: bytes) -> Place:
        above = path[-1][1] if path else self.root
        if above.kids is None:
            self._load(above, path)
        assert above.kids is not None
        place = above.kids[name] = Place()
        return place

    def _load(self, place: Place, path: Path) -> None:
        """List the directory in the union below, once."""
        if place.loaded:
            return
        place.loaded = True
        if place.is_whole:
            self._unfold(place)
            return
        if self._stack is None or not place.is_directory:
            return
        try:
            union, node = self._stack.listing(_bytes(path), follow=False, links=False)
        except PathNotFound:
            if path:
                raise
            return  # no layer has anything
        if place is self.root:
            place.below = (union, node)
        place.kids = {name: Place((union, child)) for name, child in union.children(node).items()}

    def _unfold(self, place: Place) -> None:
        """Something will be put into a directory that was written as a whole: list it."""
        place.is_whole = False
        place.kids = {}
        assert place.tree is not None
        for name, child in place.tree.children(place.node):
            if name.startswith(PREFIX):
                self._left_out(name)
            else:
                kid = place.kids[name] = Place()
                kid.tree, kid.node, kid.rule = place.tree, child, place.rule
                if place.tree.kind(child) is _DIRECTORY:
                    kid.is_whole, kid.loaded = True, False

    def _stated(self, place: Place) -> Entry:
        """The attributes of a directory as they are so far."""
        if place.entry is not None:
            return place.entry
        if place.tree is not None:
            return written(place.tree, place.node, place.rule, b"")
        if place.below is None:
            return Entry(b"", _DIRECTORY, 0o755)
        return place.below[0].entry(place.below[1])

    def _lower_link(self, path: bytes, target: bytes) -> Entry:
        assert self._stack is not None
        union, node = self._stack.lookup(target)
        return replace(
            union.entry(node), path=path, kind=Kind.HARDLINK, link=target, size=0, xattrs={}, offset=0, sparse=None
        )


def _item(
    tree: FileTree[Any], node: Any, rule: Rule | None, path: bytes, first: dict[Hashable, bytes]
) -> Item:  # fmt: skip
    """One file as an item; ``first``: the path of each file that has several names."""
    entry = written(tree, node, rule, path)
    if entry.kind is _DIRECTORY:
        return entry, None
    inode = tree.inode(node)
    if inode is not None:
        known = first.setdefault((id(rule), inode), path)
        if known != path:
            return replace(entry, kind=Kind.HARDLINK, link=known, size=0, xattrs={}, sparse=None), None
    return entry, tree.content(node) if entry.kind is Kind.FILE else None


def written(tree: FileTree[Any], node: Any, rule: Rule | None, path: bytes) -> Entry:
    """A file's attributes by a rule. Times are whole seconds, as in the layers of BuildKit."""
    entry = tree.entry(node, path)
    mtime = entry.mtime
    if mtime % _SECOND:
        mtime -= mtime % _SECOND
    owner = rule.owner if rule is not None else None
    change = rule.change if rule is not None else None
    if mtime == entry.mtime and owner is None and change is None:
        return entry
    uid, gid = owner if owner is not None else (entry.uid, entry.gid)
    mode = entry.mode
    if change is not None and entry.kind is not Kind.SYMLINK:
        mode = change(mode, entry.kind is _DIRECTORY)
    return Entry(
        path, entry.kind, mode, uid, gid, entry.size, mtime, entry.link, entry.xattrs, entry.rdev, 0, entry.sparse
    )


def _bytes(path: Path) -> bytes:
    return b"/".join([name for name, _ in path])


def _joined(path: Path, name: bytes = b"") -> str:
    return _text(b"/".join([*(one for one, _ in path), *([name] if name else [])]))


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")[:300]
