"""A merged union stored as an EROFS image: names and attributes are read in place, when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping

from lamina.layer.entry import Entry, Kind
from lamina.union.tree import Stored, Union
from lamina.view.erofs.read import ErofsImage, Inode, Name


class StoredUnion(Union):
    """The union in an EROFS image. Nodes are numbered in the order in which they are met. All methods raise
    StoreDamaged if the image is damaged."""

    def __init__(self, image: ErofsImage) -> None:
        self._image = image
        self._names = [Name(b"", image.root, True, image.root_layer)]
        self._parents = [0]
        self._below: dict[int, dict[bytes, int]] = {}  # directory -> the names met so far
        self._whole: set[int] = set()  # directories that were listed completely

    def children(self, node: int) -> Mapping[bytes, int]:
        below = self._below.setdefault(node, {})
        if self.is_directory(node) and node not in self._whole:
            for name in self._image.names(self._inode(node)):
                self._met(node, name)
            self._whole.add(node)
        return below

    def child(self, node: int, name: bytes) -> int | None:
        known = self._below.setdefault(node, {}).get(name)
        if known is not None or node in self._whole or not self.is_directory(node):
            return known
        found = self._image.find(self._inode(node), name)
        return None if found is None else self._met(node, found)

    def _met(self, parent: int, name: Name) -> int:
        below = self._below[parent]
        node = below.get(name.name)
        if node is None:
            node = below[name.name] = len(self._names)
            self._names.append(name)
            self._parents.append(parent)
        return node

    def _inode(self, node: int) -> Inode:
        return self._image.inode(self._names[node].nid)

    def is_directory(self, node: int) -> bool:
        return self._names[node].is_directory

    def name(self, node: int) -> bytes:
        return self._names[node].name

    def parent(self, node: int) -> int:
        return self._parents[node]

    def inode(self, node: int) -> int:
        return self._names[node].nid

    def links(self, node: int) -> int:
        return 1 if self.is_directory(node) else self._inode(node).links

    def kind(self, node: int) -> Kind:
        return self._inode(node).kind

    def link_target(self, node: int) -> bytes:
        return self._image.link(self._inode(node))

    def layer(self, node: int) -> int | None:
        return self._names[node].layer - 1 if self._names[node].layer else None

    def entry(self, node: int) -> Entry:
        """Return the node as an entry; ``offset`` and ``sparse`` as in ``stored``."""
        inode = self._inode(node)
        file = inode.kind == Kind.FILE
        stored = self._stored(inode) if file else None
        return Entry(
            path=self.path(node),
            kind=inode.kind,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            size=inode.size if file else 0,
            mtime=inode.mtime,
            link=self._image.link(inode) if inode.kind == Kind.SYMLINK else b"",
            xattrs=self._image.xattrs(inode),
            rdev=inode.rdev,
            offset=stored.offset if stored else 0,
            sparse=stored.sparse if stored else None,
        )

    def stored(self, node: int) -> Stored:
        return self._stored(self._inode(node))

    def _stored(self, inode: Inode) -> Stored:
        extent = self._image.extent(inode)
        if extent is None or not extent.device:
            return Stored(0, 0, inode.size, () if inode.size else None)
        return Stored(extent.device - 1, extent.offset, inode.size, extent.sparse)
