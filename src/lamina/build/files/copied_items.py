"""The items of the layers of COPY, ADD and WORKDIR, for ``copy_files``, which loads this only if a step must be done.

The rules are BuildKit's. The target is resolved in the image; a target that ends with a slash is a directory; what is
missing above it is made (0755, and the owner of ``--chown``). A directory as source stands for its content.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lamina.build.files import archives, copy_sources
from lamina.build.files.copy_target import Path, Rule, Target
from lamina.build.patterns import globs, modes
from lamina.build.patterns.trees import FileTree, OneFile, UnionTree, picked
from lamina.build.steps import CopyStep, DirectoryStep, FromContext, FromStep, Inline, Remote
from lamina.errors import PathNotFound, UsageError
from lamina.layer.entry import Kind
from lamina.layer.whiteout import PREFIX

if TYPE_CHECKING:
    from lamina.build.protocols import Inputs, Log
    from lamina.build.steps import Source
    from lamina.layer.tar_write import Item
    from lamina.source.stack import Stack

_MAX_ACCOUNTS = 10 << 20  # bytes of passwd and group
_SECOND = 1_000_000_000


class Items:
    """The items of a layer, in the order of a layer (``build_layer(ordered=True)``). Contents are opened as they
    come. ``len`` is 0 or 1: whether there are any."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __len__(self) -> int:
        return int(not self._target.is_empty())

    def __iter__(self) -> Iterator[Item]:
        return self._target.items()


@contextmanager
def copied(step: CopyStep, below: Stack | None, inputs: Inputs, log: Log) -> Iterator[Items]:
    """The items of the layer of COPY or ADD, with the directories that are missing above. What the items open exists
    while the block runs. Raises PathNotFound, UsageError, NotFound (no such user), and what fetching raises."""
    base = None if step.link else below
    owner = None if not step.owner else resolved_owner(step.owner, base, is_linked=step.link)
    copy = _Copy(step, Target(base, lambda name: log(_left_out(name))), owner, log)
    with ExitStack() as opened:
        for source in step.sources:
            _add(copy, source, inputs, log, opened)
        yield Items(copy.target)


def made(step: DirectoryStep, below: Stack | None) -> list[Item]:
    """WORKDIR: the directories that are missing; [] where all exist. Their time is that of the directory above.
    Raises UsageError (a file is there)."""
    target = Target(below)
    path, missing = target.resolve(_bytes(step.path))
    owner = resolved_owner(step.owner, below) if step.owner else (0, 0)
    mtime = 0
    if path and path[-1][1].below is not None:
        union, node = path[-1][1].below
        mtime = union.entry(node).mtime // _SECOND * _SECOND
    target.directories(path, missing, 0o755, owner, mtime)
    return list(target.items())


def resolved_owner(text: str, below: Stack | None, *, is_linked: bool = False) -> tuple[int, int]:
    """The ids of ``user[:group]``. Names are those of the image; a number alone is both ids. Raises NotFound,
    UsageError."""
    from lamina.run.user import parse_id, resolve_group, resolve_user

    user, _, group = text.partition(":")
    uid = 0 if user in ("", "root") else parse_id(user, "user")
    gid = uid
    if is_linked and (uid is None or (group not in ("", "root") and parse_id(group, "group") is None)):
        raise UsageError(
            f"--chown={text:.100}: names can't be resolved with --link, which does not depend on the image",
            hint="give numbers",
        )
    if uid is None:
        account = resolve_user(user, _account_file(below, b"etc/passwd"), b"")
        uid, gid = account.uid, account.gid
    if group:
        gid = 0 if group in ("", "root") else resolve_group(group, _account_file(below, b"etc/group"))
    return uid, uid if gid is None else gid


def _account_file(below: Stack | None, path: bytes) -> bytes:
    if below is None:
        return b""
    try:
        union, node = below.lookup(path, follow=True)
    except PathNotFound:
        return b""
    if union.kind(node) != Kind.FILE:
        return b""
    with below.open_stored(union.stored(node)) as stream:
        data = stream.read(_MAX_ACCOUNTS + 1)
    if len(data) > _MAX_ACCOUNTS:
        raise UsageError(f"/{path.decode()} of the image has more than {_MAX_ACCOUNTS} bytes", hint="check the image")
    return data


def _add(copy: _Copy, source: Source, inputs: Inputs, log: Log, opened: ExitStack) -> None:
    step = copy.step
    unpack = step.is_add if step.unpack is None else step.unpack
    if isinstance(source, FromContext):
        tree: FileTree[Any] = inputs.context(source.name).tree
        copy.words(tree, source.patterns, unpack=unpack, opened=opened, log=log)
    elif isinstance(source, FromStep):
        label = source.step.stage or source.step.label
        tree = UnionTree(inputs.stack(source.step), f"the stage {label}" if label else "the image")
        copy.words(tree, source.patterns, unpack=unpack, opened=opened, log=log)
    elif isinstance(source, Inline):
        epoch = inputs.epoch or 0
        name = _bytes(source.name.rpartition("/")[2])
        one = OneFile.of(name, source.content, mtime=epoch * _SECOND)
        copy.one(one, 1, name, Rule(copy.owner, copy.change))
    elif isinstance(source, Remote):
        from lamina.build.files import fetch

        file = opened.enter_context(fetch.fetched(source, inputs))
        if step.unpack and copy.unpacked(file, 1, file.name, opened, log):
            return
        copy.one(file, 1, file.name, Rule(copy.owner, copy.change))
    else:
        from lamina.build.files import git

        checkout = opened.enter_context(git.checked_out(source, inputs, log))
        copy.one(checkout, checkout.root, b"", Rule(copy.owner, copy.change))


class _Copy:
    """One COPY or ADD: writes its sources into the target, one after the other."""

    def __init__(self, step: CopyStep, target: Target, owner: tuple[int, int] | None, log: Log) -> None:
        self.step = step
        self.target = target
        self.owner = owner
        self._log = log
        self.change = modes.change(step.mode) if step.mode else None
        number = modes.octal(step.mode) if step.mode else None
        self._parent_mode = 0o755 if number is None else number & 0o777
        self._exclude = copy_sources.excluding(step.exclude)
        path = step.target
        self._is_directory = path.endswith(("/", "/."))
        self._path = _bytes(globs.clean(path))

    def words(
        self, tree: FileTree[Any], words: tuple[str, ...], *, unpack: bool, opened: ExitStack, log: Log
    ) -> None:
        """Copy what the words name. Raises PathNotFound, UsageError."""
        for word in words:
            for match in copy_sources.matches(tree, word, parents=self.step.parents):
                if unpack and self.unpacked(tree, match.node, match.name, opened, log):
                    continue
                # files of one match that are one file are hard links
                self.one(tree, match.node, match.name, Rule(self.owner, self.change), include=match.include)

    def one(
        self,
        tree: FileTree[Any],
        node: Any,
        name: bytes,
        rule: Rule,
        *,
        include: Any = None,
    ) -> None:
        """Copy one file, or the content of one directory."""
        target, owner = self.target, self.owner or (0, 0)
        mtime = tree.entry(node, b"").mtime // _SECOND * _SECOND
        ensured = self._path if self._is_directory else self._path.rpartition(b"/")[0]
        target.directories(*target.resolve(ensured), self._parent_mode, owner, mtime)
        path, missing = target.resolve(self._path)
        if tree.kind(node) == Kind.DIRECTORY:
            top = target.directories(path, missing, self._parent_mode, owner, mtime)
            self._content(tree, node, top, rule, include)
            return
        if not missing and (not path or path[-1][1].is_directory):
            missing = [name]  # the name in the directory is not followed if it is a symlink
        if not missing:
            missing = [path.pop()[0]]
        *above, last = missing
        if last.startswith(PREFIX):
            raise UsageError(
                f"{os.fsdecode(last)!r:.200} can't be in a layer: this name hides a file", hint="rename the file"
            )
        path = target.directories(path, above, self._parent_mode, owner, mtime)
        target.put(path, last, tree, node, rule)

    def unpacked(self, tree: FileTree[Any], node: Any, name: bytes, opened: ExitStack, log: Log) -> bool:
        """Unpack an archive into the target. Returns False if the file is not an archive."""
        if tree.kind(node) != Kind.FILE:
            return False
        archive = archives.opened(tree, node, name)
        if archive is None:
            return False
        opened.callback(archive.close)
        path, missing = self.target.resolve(self._path)
        mtime = tree.entry(node, b"").mtime // _SECOND * _SECOND
        top = self.target.directories(path, missing, 0o755, self.owner or (0, 0), mtime)
        archives.unpack(archive, self.target, top, Rule(self.owner), log)
        return True

    def _content(self, tree: FileTree[Any], node: Any, top: Path, rule: Rule, include: Any) -> None:
        """Copy what is in a directory."""
        if include is None and self._exclude is None:
            self._merge(tree, node, top, rule)
            return
        target = self.target
        paths = [top]  # by depth
        left_out = -1  # the depth of a directory that is left out, with what is in it
        for depth, name, child, implied in picked(tree, node, include, self._exclude):
            if 0 <= left_out < depth:
                continue
            left_out = -1
            del paths[depth + 1 :]
            if self._leaves_out(name):
                left_out = depth
                continue
            above = paths[depth]
            if tree.kind(child) == Kind.DIRECTORY:
                place = target.put_directory(above, name, tree, child, rule, implied=implied)
                paths.append([*above, (name, place)])
            else:
                target.put(above, name, tree, child, rule)

    def _merge(self, tree: FileTree[Any], node: Any, top: Path, rule: Rule) -> None:
        """Copy all that is in a directory: as a whole where the target has nothing."""
        for name, child in tree.children(node):
            if self._leaves_out(name):
                continue
            if self.target.child(top, name) is None:
                self.target.put_whole(top, name, tree, child, rule)
            elif tree.kind(child) == Kind.DIRECTORY:
                place = self.target.put_directory(top, name, tree, child, rule)
                self._merge(tree, child, [*top, (name, place)], rule)
            else:
                self.target.put(top, name, tree, child, rule)

    def _leaves_out(self, name: bytes) -> bool:
        if not name.startswith(PREFIX):
            return False
        self._log(_left_out(name))
        return True


def _left_out(name: bytes) -> bytes:
    return f"{os.fsdecode(name)!r:.200} is left out: in a layer this name hides a file\n".encode()


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape").strip(b"/")
