"""Checks of unpacked trees in the store (``unions/*/tree*``), for fsck: each is compared with the union that it was
made from, including the content of files. A wrong tree that nobody uses is removed; it is made again when needed.

Owners, xattrs and times are not compared; devices may be missing if the user who unpacked could not create them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lamina.errors import LaminaError
from lamina.host import privileges
from lamina.host.files import CHUNK, SharedRange, has_extent
from lamina.host.temporary import is_temporary
from lamina.layer.entry import FORMATS, Kind
from lamina.layer.file_content import open_content
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.store.foreign_trees import remove_tree
from lamina.store.fsck import Finding
from lamina.store.unions import union_keys
from lamina.view.parts import Part, possible_parts
from lamina.view.unpack.create_files import Attributes

if TYPE_CHECKING:
    from lamina.layer.file_content import OpenTar
    from lamina.source.protocols import LayerHandle
    from lamina.source.stack import Stack
    from lamina.store.store import Store
    from lamina.union.tree import Tree

_KINDS = {**FORMATS, Kind.WHITEOUT: stat.S_IFCHR}


def check_trees(store: Store, *, repair: bool = False) -> list[Finding]:
    """Check every tree of an image or a container in the store. Raises SystemFailure."""
    found = list(_trees(store))
    if not found:
        return []
    # only the root of its user namespace can read all files of a tree
    said = privileges.as_root(lambda: list(_problems(store, found, repair)))
    return [Finding("derived", what, repaired) for what, repaired in said]


def _trees(store: Store) -> Iterator[tuple[str, str]]:
    """Yield (key, directory) for each tree."""
    for key in union_keys(store.paths):
        place = store.paths.union(key)
        for name in sorted(os.listdir(place)):
            path = os.path.join(place, name)
            if name.startswith("tree") and not is_temporary(name) and os.path.isdir(path):
                yield key, path


def _problems(store: Store, found: list[tuple[str, str]], repair: bool) -> Iterator[tuple[str, bool]]:
    known = _known(store)
    for key, path in found:
        if key not in known:
            continue  # it belongs to no image: prune removes it
        stack, part = known[key]
        try:
            tree, _, _ = part.make_tree()
            problem = difference(tree, stack.layers, path, devices=os.path.basename(path) == "tree")
        except LaminaError as error:
            problem = error.message
        except OSError as error:
            problem = f"{os.fsdecode(error.filename or path)}: {error.strerror}"
        if not problem:
            continue
        user = _user(store, part) if repair else ""
        if repair and not user:
            remove_tree(path)
        yield f"{path}: {problem}" + (f"; {user} uses it" if user else ""), repair and not user


def _known(store: Store) -> dict[str, tuple[Stack, Part]]:
    """Return the parts of all images and containers in the store, by key."""
    found = {}
    platform = Platform.host()
    places = [*((name, entry) for name, entry in store.names()), *((c.image, c.descriptor) for c in store.containers)]
    for name, descriptor in places:
        try:
            stack = store.stack_at(descriptor, platform, name)
            for part in possible_parts(store, stack):
                found[part.key] = (stack, part)
        except LaminaError:
            continue  # reported elsewhere
    return found


def _user(store: Store, part: Part) -> str:
    """Return what may have the part mounted, as words for a message; "" for nothing."""
    needed = set(part.layers)
    for one in store.containers:
        if store.containers.is_running(one) and needed & {Digest.parse(layer) for layer in one.layers}:
            return f"the container {one.name}"
    for root in store.roots:
        if root.alive and needed & root.digests:
            return root.purpose
    return ""


def difference(tree: Tree, layers: Sequence[LayerHandle], top: str, *, devices: bool) -> str:
    """Return the first difference between the directory ``top`` and the tree, which is a layer of an overlay; "" if
    there is none. ``devices``: devices must not be missing. Raises OSError, LaminaError."""
    with ExitStack() as opened:
        return _Comparison(tree, layers, opened, devices).below(0, os.fsencode(top), b"")


class _Comparison:
    def __init__(self, tree: Tree, layers: Sequence[LayerHandle], opened: ExitStack, devices: bool) -> None:
        self._tree = tree
        self._layers = layers
        self._opened = opened
        self._devices = devices
        self._tars: dict[int, OpenTar] = {}

    def below(self, top: int, place: bytes, shown: bytes) -> str:
        pending = [(top, place, shown)]
        while pending:
            node, place, shown = pending.pop()
            kids = self._tree.kids[node] or {}
            there = set(os.listdir(place))
            for name in sorted(there - kids.keys()):
                return f"{_word(shown, name)} is not in the image"
            for name in sorted(kids):
                path, inner = os.path.join(place, name), os.path.join(shown, name)
                if name not in there:
                    if self._may_miss(kids[name]):
                        continue
                    return f"{_word(shown, name)} is missing"
                problem = self._node(kids[name], path)
                if problem:
                    return f"{_word(shown, name)} {problem}"
                if self._tree.kids[kids[name]] is not None:
                    pending.append((kids[name], path, inner))
        return ""

    def _may_miss(self, node: int) -> bool:
        return not self._devices and self._kind(node) in (Kind.CHAR, Kind.BLOCK)

    def _kind(self, node: int) -> Kind:
        tree = self._tree
        if tree.kids[node] is not None:
            return Kind.DIRECTORY
        inode = tree.hardlinks.get(node, node)
        return Kind(tree.layers[tree.origin_layers[inode]].kind[tree.rows[inode]])

    def _node(self, node: int, path: bytes) -> str:
        tree, state, kind = self._tree, os.lstat(path), self._kind(node)
        if stat.S_IFMT(state.st_mode) != _KINDS[kind]:
            return f"is not a {kind.name.lower()}"
        if kind == Kind.DIRECTORY:
            return _mode(state, Attributes.of(tree, node).mode)
        inode = tree.hardlinks.get(node, node)
        layer, row = tree.origin_layers[inode], tree.rows[inode]
        index = tree.layers[layer]
        if kind == Kind.SYMLINK:
            return "" if os.readlink(path) == index.link(row) else "has another target"
        if kind in (Kind.CHAR, Kind.BLOCK, Kind.WHITEOUT):
            device = (0, 0) if kind == Kind.WHITEOUT else index.rdev(row)
            if (os.major(state.st_rdev), os.minor(state.st_rdev)) != tuple(device):
                return "is another device"
        if kind == Kind.WHITEOUT:
            return ""
        if kind == Kind.FILE:
            if state.st_size != index.size[row]:
                return f"has {state.st_size} bytes instead of {index.size[row]}"
            if not self._same(path, layer, row):
                return "has different content"
        # without its owner a file gets no set-id bits either; root's trees have all owners and devices
        return _mode(state, index.mode[row], may_lack=0 if self._devices else stat.S_ISUID | stat.S_ISGID)

    def _same(self, path: bytes, layer: int, row: int) -> bool:
        index = self._tree.layers[layer]
        with open(path, "rb", buffering=0) as file, open_content(index, row, self._tar(layer)) as content:
            while data := content.read(CHUNK):
                if file.read(len(data)) != data:
                    return False
        return True

    def _tar(self, layer: int) -> OpenTar:
        if layer not in self._tars:
            stream = self._layers[layer].open()
            self._opened.callback(stream.close)
            if not has_extent(stream):
                return self._layers[layer].open
            descriptor, _, _ = stream.extent()
            self._tars[layer] = lambda start, end: SharedRange(stream, descriptor, start, end)
        return self._tars[layer]


def _mode(state: os.stat_result, wanted: int, *, may_lack: int = 0) -> str:
    mode = state.st_mode & 0o7777
    lacks = (mode ^ wanted) & 0o7777
    return (
        ""
        if not lacks or (lacks & mode == 0 and lacks & ~may_lack == 0)
        else f"has the mode {mode:04o} instead of {wanted & 0o7777:04o}"
    )


def _word(shown: bytes, name: bytes) -> str:
    return "/" + os.path.join(shown, name).decode("utf-8", "backslashreplace")[:300]
