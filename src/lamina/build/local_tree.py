"""A directory of this machine as a tree of files: a context, or a checkout.

Nothing leads out of it. Every directory is opened by its name in the open directory above it, and no symlink is
followed on the way (O_NOFOLLOW), so a process that renames files meanwhile can't lead us elsewhere. Symlinks are
followed by ``trees.found``, inside the tree. Directories are listed when they are first needed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from lamina.errors import NotFound, UsageError
from lamina.host.files import CHUNK, failure, reported
from lamina.layer.entry import FORMATS, Entry, Kind

if TYPE_CHECKING:
    from lamina.build.content_hashes import ContentHashes
    from lamina.build.ignore import Above, Patterns
    from lamina.events import Cancel
    from lamina.layer.tar_write import Content

_KINDS = {form: kind for kind, form in FORMATS.items()}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORIES = 32
_SMALL = 128 << 10  # bytes; a file up to this size is read at once
_KEPT = 32 << 20  # bytes of small files that stay in memory between hashing and writing
_LEFT_OUT = ("trusted.overlay.", "user.overlay.", "security.selinux", "system.nfs4_acl", "com.apple.")


class LocalNode:
    """A file or directory as it was when its directory was listed. ``hidden``: an ignored directory, which is shown
    only if something in it is."""

    __slots__ = ("above", "children", "digest", "has_xattrs", "hidden", "kept", "name", "parent", "state")

    def __init__(
        self, parent: LocalNode | None, name: str, state: os.stat_result, above: Above | None, *, hidden: bool = False
    ) -> None:
        self.parent = parent
        self.name = name
        self.state = state
        self.above = above
        self.hidden = hidden
        self.children: dict[bytes, LocalNode] | None = None
        self.digest: bytes | None = None
        self.has_xattrs = True
        self.kept: bytes | None = None

    @property
    def path(self) -> str:
        """Relative to the root; "" is the root."""
        parts = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return "/".join(reversed(parts))


class LocalTree:
    """The files of a directory, without those that ``ignored`` matches. Used by several threads."""

    keeps_owners = False

    def __init__(
        self,
        path: str,
        *,
        what: str = "the context",
        ignored: Patterns | None = None,
        hashes: ContentHashes | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        """Open the directory. Raises NotFound, SystemFailure."""
        self.what = what
        self.path = path
        self._ignored = ignored if ignored else None
        self._hashes = hashes
        self._cancel = cancel
        self._guard = threading.RLock()
        self._open: dict[LocalNode, int] = {}
        self._left = _KEPT
        try:
            self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{path!r:.300} is not a directory", hint="check the path") from None
        except OSError as error:
            raise failure(error, path) from error
        self.root = LocalNode(None, "", os.fstat(self._top), None)

    def close(self) -> None:
        with self._guard:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()
            if self._top >= 0:
                os.close(self._top)
                self._top = -1
        if self._hashes is not None:
            with suppress(OSError):  # without the records all files are read again
                self._hashes.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def child(self, node: LocalNode, name: bytes) -> LocalNode | None:
        return self._listed(node).get(name)

    def children(self, node: LocalNode) -> Sequence[tuple[bytes, LocalNode]]:
        return sorted(self._listed(node).items())

    def kind(self, node: LocalNode) -> Kind:
        # a socket is an empty file, as in BuildKit
        return _KINDS.get(stat.S_IFMT(node.state.st_mode), Kind.FILE)

    def link(self, node: LocalNode) -> bytes:
        with self._guard, self._reported(node):
            return os.fsencode(os.readlink(node.name, dir_fd=self._directory_of(node)))

    def entry(self, node: LocalNode, path: bytes) -> Entry:
        state = node.state
        kind = self.kind(node)
        return Entry(
            path,
            kind,
            0o777 if kind == Kind.SYMLINK else stat.S_IMODE(state.st_mode),
            size=state.st_size if kind == Kind.FILE and stat.S_ISREG(state.st_mode) else 0,
            mtime=state.st_mtime_ns,
            link=self.link(node) if kind == Kind.SYMLINK else b"",
            xattrs=self._xattrs(node) if kind in (Kind.FILE, Kind.DIRECTORY) else {},
            rdev=(os.major(state.st_rdev), os.minor(state.st_rdev)) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        )

    def inode(self, node: LocalNode) -> Hashable | None:
        state = node.state
        if state.st_nlink < 2 or stat.S_ISDIR(state.st_mode):
            return None
        return state.st_dev, state.st_ino

    def digest(self, node: LocalNode) -> bytes:
        if node.digest is None:
            with self._guard:
                if node.digest is None:
                    self._hash(node)
        assert node.digest is not None
        return node.digest

    def content(self, node: LocalNode) -> Content:
        if not stat.S_ISREG(node.state.st_mode):
            return b""
        kept, node.kept = node.kept, None
        if kept is not None:
            with self._guard:
                self._left += len(kept)
            return kept
        if node.state.st_size > _SMALL:
            return lambda: _Checked(self._opened(node), node, self._changed(node))
        with self._guard:
            data, state = self._read(node)
        if node.digest is None:
            self._compare(node, state)
        elif hashlib.sha256(data).digest() != node.digest:
            raise self._changed(node)
        return data

    def read(self, path: str, limit: int) -> bytes | None:
        """The content of a small file, whether it is ignored or not; None if there is none. Symlinks are not
        followed. Raises UsageError (it is larger than ``limit`` bytes), SystemFailure."""
        descriptor = os.dup(self._top)
        try:
            *above, name = path.split("/")
            for part in above:
                descriptor, old = os.open(part, _DIRECTORY, dir_fd=descriptor), descriptor
                os.close(old)
            descriptor, old = os.open(name, _FILE, dir_fd=descriptor), descriptor
            os.close(old)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            data = _read_all(descriptor, limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise failure(error, os.path.join(self.path, path)) from error
        finally:
            os.close(descriptor)
        if len(data) > limit:
            raise UsageError(f"{path!r:.200} in {self.what} has more than {limit} bytes", hint="check the file")
        return data

    # -- listing

    def _listed(self, node: LocalNode) -> dict[bytes, LocalNode]:
        found = node.children
        if found is None:
            with self._guard:
                found = node.children
                if found is None:
                    found = node.children = self._list(node) if stat.S_ISDIR(node.state.st_mode) else {}
        return found

    def _list(self, node: LocalNode) -> dict[bytes, LocalNode]:
        if self._cancel is not None:
            self._cancel.check()
        found: dict[bytes, LocalNode] = {}
        ignored = self._ignored
        prefix = f"{node.path}/" if ignored is not None and node.parent is not None else ""
        try:
            with self._reported(node), os.scandir(self._directory(node)) as names:
                entries = list(names)
        except NotFound:
            return {}  # it was removed after the directory above it was listed
        for one in entries:
            name, above, hidden = one.name, None, False
            if ignored is not None:
                path = prefix + name
                hidden, above = ignored.match(path, node.above)
                if hidden and not (one.is_dir(follow_symlinks=False) and ignored.may_except_below(path)):
                    continue
            try:
                state = one.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise failure(error, os.path.join(self.path, node.path, name)) from error
            child = LocalNode(node, name, state, above, hidden=hidden)
            if hidden and not self._listed(child):
                continue
            found[os.fsencode(name)] = child
        return found

    def _directory(self, node: LocalNode) -> int:
        """A descriptor of a directory, open until others push it out."""
        if node.parent is None:
            return self._top
        found = self._open.pop(node, None)
        if found is None:
            while len(self._open) >= _OPEN_DIRECTORIES:
                os.close(self._open.pop(next(iter(self._open))))
            found = self._reopened(node)
        self._open[node] = found
        return found

    def _reopened(self, node: LocalNode) -> int:
        """Open a directory again, name by name from the nearest one that is open, and check that it is the same."""
        missing = []
        at = node
        while at.parent is not None and at not in self._open:
            missing.append(at)
            at = at.parent
        descriptor = self._top if at.parent is None else self._open[at]
        owned = -1
        try:
            for one in reversed(missing):
                descriptor = os.open(one.name, _DIRECTORY, dir_fd=descriptor)
                if owned >= 0:
                    os.close(owned)
                owned = descriptor
                if not os.path.samestat(os.fstat(descriptor), one.state):
                    raise self._changed(one)
        except BaseException:
            if owned >= 0:
                os.close(owned)
            raise
        return descriptor

    def _directory_of(self, node: LocalNode) -> int:
        assert node.parent is not None
        return self._directory(node.parent)

    # -- content

    def _opened(self, node: LocalNode) -> int:
        """Open a regular file, and check that it is the one that was listed."""
        with self._guard, self._reported(node):
            descriptor = os.open(node.name, _FILE, dir_fd=self._directory_of(node))
        if not os.path.samestat(os.fstat(descriptor), node.state):
            os.close(descriptor)
            raise self._changed(node)
        return descriptor

    def _read(self, node: LocalNode) -> tuple[bytes, os.stat_result]:
        """The content of a small file, and its state from before it was read."""
        descriptor = self._opened(node)
        try:
            state = os.fstat(descriptor)
            data = _read_all(descriptor, node.state.st_size + 1)
            if node.digest is None:
                node.has_xattrs = bool(os.listxattr(descriptor))
        except OSError as error:
            raise failure(error, os.path.join(self.path, node.path)) from error
        finally:
            os.close(descriptor)
        if len(data) != node.state.st_size:
            raise self._changed(node)
        return data, state

    def _hash(self, node: LocalNode) -> None:
        state = node.state
        if not stat.S_ISREG(state.st_mode):
            node.digest, node.has_xattrs = hashlib.sha256().digest(), False
            return
        known = None if self._hashes is None else self._hashes.get(state)
        if known is not None:
            node.digest, node.has_xattrs = known
            return
        if state.st_size <= _SMALL:
            data, before = self._read(node)
            self._compare(node, before)
            node.digest = hashlib.sha256(data).digest()
            if len(data) <= self._left:
                node.kept = data
                self._left -= len(data)
        else:
            descriptor = self._opened(node)
            try:
                with self._reported(node):
                    before = os.fstat(descriptor)
                    node.has_xattrs = bool(os.listxattr(descriptor))
                    self._compare(node, before)
                    hasher = hashlib.sha256()
                    while data := os.read(descriptor, CHUNK):
                        if self._cancel is not None:
                            self._cancel.check()
                        hasher.update(data)
                    self._compare(node, os.fstat(descriptor))
            finally:
                os.close(descriptor)
            node.digest = hasher.digest()
        if self._hashes is not None:
            self._hashes.note(before, node.digest, node.has_xattrs)

    def _compare(self, node: LocalNode, now: os.stat_result) -> None:
        before = node.state
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise self._changed(node)

    def _changed(self, node: LocalNode) -> UsageError:
        path = os.path.join(self.path, node.path)
        return UsageError(f"{path!r:.300} changed while it was read", hint="try again when nothing writes to it")

    def _xattrs(self, node: LocalNode) -> dict[bytes, bytes]:
        if not node.has_xattrs or stat.S_IFMT(node.state.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            return {}
        try:
            with self._guard:
                if stat.S_ISDIR(node.state.st_mode):
                    return _xattrs_of(self._directory(node))
                descriptor = self._opened(node)
            try:
                return _xattrs_of(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise failure(error, os.path.join(self.path, node.path)) from error

    @contextmanager
    def _reported(self, node: LocalNode) -> Iterator[None]:
        with reported(os.path.join(self.path, node.path)):
            try:
                yield
            except (FileNotFoundError, NotADirectoryError):
                raise NotFound(
                    f"{os.path.join(self.path, node.path)!r:.300} was removed while the build read it",
                    hint="try again when nothing writes to the context",
                ) from None
            except OSError as error:
                raise failure(error, os.path.join(self.path, node.path)) from error


class _Checked:
    """A large file, compared with its digest while it is read."""

    def __init__(self, descriptor: int, node: LocalNode, changed: UsageError) -> None:
        self._descriptor = descriptor
        self._left = node.state.st_size
        self._digest = node.digest
        self._hasher = None if node.digest is None else hashlib.sha256()
        self._changed = changed

    def read(self, size: int = -1, /) -> bytes:
        if size == 0:
            return b""
        with reported(self._changed.message):
            data = os.read(self._descriptor, min(size, CHUNK) if size > 0 else CHUNK)
        self._left -= len(data)
        if self._hasher is not None:
            self._hasher.update(data)
        if self._left < 0 or (not data and self._left):
            raise self._changed
        if not self._left and data and self._hasher is not None and self._hasher.digest() != self._digest:
            raise self._changed
        return data

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _read_all(descriptor: int, limit: int) -> bytes:
    """Up to ``limit`` bytes."""
    data = os.read(descriptor, limit)
    if len(data) in (0, limit):
        return data
    pieces = [data]
    size = len(data)
    while size < limit and (data := os.read(descriptor, limit - size)):
        pieces.append(data)
        size += len(data)
    return b"".join(pieces)


def _xattrs_of(descriptor: int) -> dict[bytes, bytes]:
    try:
        names = os.listxattr(descriptor)
    except OSError:
        return {}  # the file system has none
    found = {}
    for name in names:
        if not name.startswith(_LEFT_OUT):
            with suppress(OSError):  # this user may not read it
                found[os.fsencode(name)] = os.getxattr(descriptor, name)
    return found
