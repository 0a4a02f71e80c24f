"""Unpacks the union into a directory on disk.

Everything is created through directory descriptors inside one new directory, without following symlinks, and the
directory gets its name only when it is complete. Directories are created first, then everything else in the order of
the tars, distributed to a few processes, then modes and times of directories. Attributes are set in the order owner,
mode, xattrs, times.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lamina.errors import Conflict, UsageError
from lamina.host import privileges
from lamina.host.files import reported
from lamina.host.lock import unheld
from lamina.host.temporary import TemporaryDirectory, is_temporary
from lamina.layer.entry import Kind
from lamina.union.tree import UNSTATED
from lamina.view.owners import AS_STATED, Owners
from lamina.view.unpack.copy_content import ContentCopier
from lamina.view.unpack.create_files import Attributes, DefaultAttributes, NodeWriter, UnpackReport
from lamina.view.unpack.open_directories import OpenDirectories
from lamina.view.unpack.workers import shared

if TYPE_CHECKING:
    from lamina.events import Cancel
    from lamina.source.protocols import LayerHandle
    from lamina.source.stack import Stack
    from lamina.union.tree import Tree

__all__ = ["UnpackReport", "remove_leftovers", "remove_tree", "unpack", "unpack_tree"]
_FILE = int(Kind.FILE)
_ENTRY_COST = 50_000  # the cost of a file in addition to its bytes, in bytes
_PIECE = 4 << 20  # the smallest cost of one piece of work
_PIECES = 64


def unpack(
    stack: Stack, target: bytes, *, same_owner: bool | None = None, cancel: Cancel | None = None
) -> UnpackReport:
    """Write the union into ``target``, which must not exist or be an empty directory. ``same_owner``: give files the
    owners that the image states (default: if this process may).

    What this user or file system can't create (devices, owners, some xattrs) is left out with a warning. Raises
    Conflict, SystemFailure, InvalidContent; then nothing is left behind.
    """
    return unpack_tree(stack.tree(), stack.layers, target, same_owner=same_owner, cancel=cancel)


def unpack_tree(
    tree: Tree,
    layers: Sequence[LayerHandle],
    target: bytes,
    *,
    opaque: Container[int] = (),
    userxattr: bool | None = None,
    same_owner: bool | None = None,
    mapped: Owners = AS_STATED,
    cancel: Cancel | None = None,
) -> UnpackReport:
    """Write any tree as ``unpack`` does; ``layers`` correspond to ``tree.layers``. For a lower layer of an overlay,
    nodes of Kind.WHITEOUT become its whiteouts and ``opaque`` directories are marked, with the xattrs of
    ``userxattr`` mounts if that is set (default: unless this is root of the host). ``mapped`` maps the stated
    owners to ids outside the user namespace that the tree is for."""
    if os.open not in os.supports_dir_fd:
        raise UsageError("this platform can't unpack safely", hint="read the image with ls, cat or the fs view")
    target = os.path.abspath(target)
    if os.path.lexists(target) and (os.path.islink(target) or not os.path.isdir(target) or os.listdir(target)):
        raise Conflict(
            f"{os.fsdecode(target)!r:.300} exists and is not an empty directory", hint="choose a new directory"
        )
    root = privileges.may_mount()
    userxattr = not privileges.is_root() if userxattr is None else userxattr
    mark = b"user.overlay.opaque" if userxattr else b"trusted.overlay.opaque"
    directory, stem = os.path.split(os.fsdecode(target))
    with reported(target), TemporaryDirectory(directory, stem, remove=_remove) as temporary:
        top = os.fsencode(temporary.path)
        _own_rules(top)
        report = _Unpack(tree, layers, opaque, mark, same_owner, root, mapped, cancel).run(top)
        if os.path.isdir(target):
            os.rmdir(target)
        temporary.put(os.fsdecode(target))
    return report


def _own_rules(top: bytes) -> None:
    """Make sure that files below ``top`` inherit neither a group nor an ACL from the parent directory."""
    os.chmod(top, 0o700)
    for name in ("system.posix_acl_default", "system.posix_acl_access") if hasattr(os, "removexattr") else ():
        try:
            os.removexattr(top, name, follow_symlinks=False)
        except OSError:
            pass  # there is none, or ACLs are not supported


class _Unpack:
    def __init__(
        self,
        tree: Tree,
        layers: Sequence[LayerHandle],
        opaque: Container[int],
        mark: bytes,
        same_owner: bool | None,
        root: bool,
        mapped: Owners,
        cancel: Cancel | None,
    ) -> None:
        self.tree = tree
        self.layers = layers
        self.opaque = opaque
        self.mark = mark
        self.owners = root if same_owner is None else same_owner
        self.owners_told = same_owner is not None
        self.root = root
        self.mapped = mapped
        self.cancel = cancel
        self.report = UnpackReport()

    def run(self, top: bytes) -> UnpackReport:
        given, layers = DefaultAttributes.probe(top), self.tree.layers
        with OpenDirectories(self.tree, top) as opened:
            directories = self._directories(opened)
            others = in_tar_order(self.tree)
            used = {layer for layer, row in map(self.tree.content, others) if layers[layer].kind[row] == _FILE}
            with ContentCopier(self.tree, self.layers, sorted(used)) as contents:
                maker = NodeWriter(
                    self.tree, opened, contents, given, owners=self.owners, devices=self.root, mapped=self.mapped
                )
                self._others(maker, others)
            for node, made in reversed(directories):
                self._check()
                attributes = Attributes.of(self.tree, node)
                if node in self.opaque:
                    attributes = attributes._replace(xattrs={**attributes.xattrs, self.mark: b"y"})
                maker.finish_directory(node, attributes, made)
            self._tell_owners(given, directories, others)
        self.report.entries += len(directories)
        self.report.add(0, 0, maker.report.warnings)
        return self.report

    def _directories(self, opened: OpenDirectories) -> list[tuple[int, int]]:
        """Create all directories, with write permission for now. Returns (node, mode) of each, parents first."""
        tree = self.tree
        kids, names = tree.kids, tree.names
        made: list[tuple[int, int]] = [(0, 0o700)]
        pending = [0]
        while pending:
            directory = pending.pop()
            self._check()
            below = [node for node in (kids[directory] or {}).values() if kids[node] is not None]
            if not below:
                continue
            parent = opened.at(directory)
            for node in sorted(below, key=names.__getitem__):
                mode = Attributes.of(tree, node).mode & 0o777 | 0o700
                try:
                    os.mkdir(names[node], mode, dir_fd=parent)
                except FileExistsError:
                    shown = tree.path(node).decode("utf-8", "backslashreplace")[:300]
                    self.report.warn(
                        f"/{shown}: the file system treats it as the same name as another entry; left out"
                    )
                else:
                    made.append((node, mode))
                pending.append(node)
        return made

    def _others(self, maker: NodeWriter, nodes: array[int]) -> None:
        pieces = list(self._pieces(nodes))

        def work(numbers: Iterator[int]) -> Any:
            for number in numbers:
                start, end = pieces[number]
                maker.make(nodes[start:end], self._check)
            return [maker.report.entries, maker.report.size, maker.report.warnings]

        for answer in shared(len(pieces), work, self.cancel):
            self.report.add(*answer)
        maker.report = UnpackReport()

    def _pieces(self, nodes: array[int]) -> Iterator[tuple[int, int]]:
        """Yield runs of nodes of about the same cost, cut between directories if possible, and never between hard
        links of one file."""
        parents, hardlinks = self.tree.parents, self.tree.hardlinks
        enough = max(_PIECE, sum(map(self._cost, nodes)) // _PIECES)
        start = cost = 0
        inode_before = parent_before = -1
        for number, node in enumerate(nodes):
            inode, parent = hardlinks.get(node, node), parents[node]
            elsewhere = parent != parent_before
            if cost >= enough and (elsewhere or cost >= 2 * enough) and inode != inode_before:
                yield start, number
                start, cost = number, 0
            cost += self._cost(node)
            inode_before, parent_before = inode, parent
        if nodes:
            yield start, len(nodes)

    def _cost(self, node: int) -> int:
        layer, row = self.tree.content(node)
        index = self.tree.layers[layer]
        size: int = index.size[row]
        return _ENTRY_COST + size if index.kind[row] == _FILE else _ENTRY_COST

    def _tell_owners(self, given: DefaultAttributes, directories: list[tuple[int, int]], others: array[int]) -> None:
        """Warn once if owners are lost although nobody asked for that."""
        if self.owners or self.owners_told:
            return
        tree = self.tree
        stated = [(tree.origin_layers[node], tree.rows[node]) for node, _ in directories]
        wanted = {
            (tree.layers[layer].uid[row], tree.layers[layer].gid[row])
            for layer, row in itertools.chain(stated, map(tree.content, others))
            if row != UNSTATED
        }
        if wanted - {(given.uid, given.gid)}:
            self.report.warn("all files belong to you: only root can give them the owners that the image states")

    def _check(self) -> None:
        if self.cancel is not None:
            self.cancel.check()


def in_tar_order(tree: Tree) -> array[int]:
    """Return the nodes of everything but directories, in the order of the tars' entries; hard links of one file are
    adjacent. No sorting is needed, because a merge numbers its nodes in that order."""
    found = array("I")
    kids, endings, hardlinks = tree.kids, tree.endings_of, tree.hardlinks
    names: dict[int, list[int]] = {}
    for node, inode in hardlinks.items():
        names.setdefault(inode, []).append(node)
    for node in range(len(kids)):
        if kids[node] is None and node not in hardlinks:
            if not endings[node]:
                found.append(node)
            if node in names:
                found.extend(name for name in names[node] if not endings[name])
    return found


def remove_leftovers(target: str) -> None:
    """Remove what killed processes left of ``target``."""
    directory, name = os.path.split(target)
    for found in os.listdir(directory):
        if found.startswith(name + ".") and is_temporary(found):
            path = os.path.join(directory, found)
            with unheld(path) as free:
                if free:
                    _remove(path)


def _remove(top: str) -> None:
    remove_tree(os.fsencode(top))


def remove_tree(top: bytes) -> None:
    """Remove a directory tree of ours, even if permissions of its directories were removed."""
    import shutil

    def allow(function: Callable[..., Any], path: Any, error: object) -> None:
        try:
            os.chmod(os.path.dirname(path), 0o700)
            if os.path.isdir(path) and not os.path.islink(path):
                os.chmod(path, 0o700)
            function(path)
        except OSError:
            pass  # what can't be removed stays; the first error is reported

    shutil.rmtree(top, onerror=allow)
