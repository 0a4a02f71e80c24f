"""A directory of this host as a tree of files: a context, or a checkout.

Nothing leads out of it. Every directory is opened by its name in the open directory above it, and no symlink is
followed on the way (O_NOFOLLOW), so a process that renames files meanwhile can't lead us elsewhere. Symlinks are
followed by ``trees.found``, inside the tree. Directories are listed when they are first needed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, Self

from lamina.build.files.content_hashes import STATE, ContentHashes, Records, flagged, is_settled
from lamina.build.patterns.trees import described
from lamina.errors import LaminaError, NotFound, UsageError
from lamina.host.files import CHUNK, failure, reported
from lamina.layer.entry import FORMATS, Entry, Kind

if TYPE_CHECKING:
    from lamina.build.patterns.ignore import Above, Patterns
    from lamina.events import Cancel
    from lamina.layer.tar_write import Content

_KINDS = {form: kind for kind, form in FORMATS.items()}
_KINDS[stat.S_IFSOCK] = Kind.FILE  # an empty file, as in BuildKit
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORIES = 32
_OF_ANOTHER_KIND = (errno.EINVAL, errno.ELOOP, errno.EISDIR, errno.ENXIO)
"""A symlink became a file or the other way round, or a file became a directory or a pipe."""
_SMALL = 128 << 10  # bytes; a file up to this size is read at once
_KEPT = 16 << 20  # bytes of small files that stay in memory between hashing and writing
_CAPABILITY = "security.capability"
_EMPTY = hashlib.sha256().digest()
_SECOND = 1_000_000_000


class LocalNode:
    """A file or directory as it was when its directory was listed. ``state``: what identifies it and its content
    (``content_hashes.STATE``). ``hidden``: an ignored directory, which is shown only if something in it is. ``more``:
    (device, inode) of a file with several names, the device number of a device."""

    __slots__ = (
        "above",
        "children",
        "digest",
        "has_xattrs",
        "hidden",
        "is_noted",
        "kept",
        "kind",
        "mode",
        "more",
        "name",
        "parent",
        "state",
    )

    def __init__(self, parent: LocalNode | None, name: bytes, state: os.stat_result) -> None:
        mode = state.st_mode
        self.parent = parent
        self.name = name
        self.state = _state(state)
        self.mode = mode
        self.kind = kind = _KINDS[stat.S_IFMT(mode)]
        self.more: tuple[int, int] | int | None = None
        if kind is not Kind.DIRECTORY:
            if state.st_nlink > 1:
                self.more = (state.st_dev, state.st_ino)
            elif kind is Kind.CHAR or kind is Kind.BLOCK:
                self.more = state.st_rdev
        self.above: Above | None = None
        self.hidden = False
        self.children: dict[bytes, LocalNode] | None = None
        self.digest: bytes | None = None
        self.has_xattrs = True
        self.is_noted = False
        self.kept: bytes | None = None

    @property
    def path(self) -> str:
        """Relative to the root; "" is the root."""
        parts = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return os.fsdecode(b"/".join(reversed(parts)))

    @property
    def size(self) -> int:
        size: int = STATE.unpack(self.state)[2]
        return size


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
        mtime: int | None = None,
    ) -> None:
        """Open the directory. ``mtime``: all files get this time (seconds). Raises NotFound, SystemFailure."""
        self.what = what
        self.path = path
        self._ignored = ignored if ignored else None
        self._hashes = hashes
        self._group: tuple[LocalNode | None, Records] = (None, {})
        self._news = False  # whether a digest is new
        self._cancel = cancel
        self._mtime = None if mtime is None else mtime * _SECOND
        self._guard = threading.RLock()
        self._found: dict[tuple[LocalNode, bytes], LocalNode | None] = {}  # names in directories that are not listed
        self._open: dict[LocalNode, int] = {}
        self._last: tuple[LocalNode | None, int] = (None, -1)
        self._left = _KEPT
        try:
            self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{path!r:.300} is not a directory", hint="check the path") from None
        except OSError as error:
            raise failure(error, path) from error
        self.root = LocalNode(None, b"", os.fstat(self._top))

    def close(self) -> None:
        with self._guard:
            if self._top < 0:
                return
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()
            self._last = (None, -1)
            os.close(self._top)
            self._top = -1
        if self._hashes is not None and self._news:
            with suppress(OSError):  # without the records all files are read again
                self._hashes.save(self._records(self._hashes))

    def _records(self, hashes: ContentHashes) -> Iterator[tuple[int, int, list[bytes]]]:
        """What is known now of the files in each directory that this build has seen."""
        alone: dict[LocalNode, list[LocalNode]] = {}
        for (node, _), child in self._found.items():
            if child is not None and node.children is None:
                alone.setdefault(node, []).append(child)
        pending = [self.root, *alone]
        seen = set[LocalNode]()
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            device, inode, *_ = STATE.unpack(node.state)
            before = hashes.group(device, inode)
            known: Records = {} if node.children is not None else before
            for child in alone.get(node, (node.children or {}).values()):
                if child.kind is Kind.DIRECTORY:
                    pending.append(child)
                elif child.is_noted and child.digest is not None:
                    known[child.state] = flagged(child.digest, child.has_xattrs)
                elif child.state in before:
                    known[child.state] = before[child.state]
            if known:
                yield device, inode, [state + value for state, value in known.items()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def child(self, node: LocalNode, name: bytes) -> LocalNode | None:
        if node.children is None:
            with self._guard:
                if node.children is None:
                    return self._alone(node, name)
        return self._listed(node).get(name)

    def children(self, node: LocalNode) -> Sequence[tuple[bytes, LocalNode]]:
        return sorted(self._listed(node).items())

    def kind(self, node: LocalNode) -> Kind:
        return node.kind

    def link(self, node: LocalNode) -> bytes:
        try:
            with self._guard:
                return os.fsencode(os.readlink(node.name, dir_fd=self._directory_of(node)))
        except OSError as error:
            self._fail(node, error)

    def entry(self, node: LocalNode, path: bytes) -> Entry:
        kind, mode = node.kind, node.mode
        _, _, size, mtime, _ = STATE.unpack(node.state)
        mtime = mtime - mtime % _SECOND if self._mtime is None else self._mtime
        if kind is Kind.FILE:
            regular = stat.S_ISREG(mode)
            xattrs = self._xattrs(node) if regular and node.has_xattrs else {}
            return Entry(path, kind, mode & 0o7777, 0, 0, size if regular else 0, mtime, b"", xattrs)
        if kind is Kind.DIRECTORY:
            return Entry(path, kind, mode & 0o7777, mtime=mtime, xattrs=self._xattrs(node) if node.has_xattrs else {})
        if kind is Kind.SYMLINK:
            return Entry(path, kind, 0o777, mtime=mtime, link=self.link(node))
        device = (os.major(node.more), os.minor(node.more)) if isinstance(node.more, int) else (0, 0)
        return Entry(path, kind, mode & 0o7777, mtime=mtime, rdev=device)

    def described(self, node: LocalNode) -> bytes:
        kind = node.kind
        if kind is Kind.FILE:
            digest = self.digest(node)
            if not node.has_xattrs:
                return b"F%o\0%b" % (node.mode & 0o7777, digest)
        return described(self, node)

    def inode(self, node: LocalNode) -> Hashable | None:
        return node.more if isinstance(node.more, tuple) else None

    def digest(self, node: LocalNode) -> bytes:
        digest = node.digest
        if digest is None:
            with self._guard:
                digest = node.digest
                if digest is None:
                    digest = node.digest = self._hash(node)
        return digest

    def content(self, node: LocalNode) -> Content:
        kept = node.kept
        if kept is not None:
            node.kept = None
            with self._guard:
                self._left += len(kept)
            return kept
        if not stat.S_ISREG(node.mode):
            return b""
        size, digest = node.size, node.digest
        if size > _SMALL:
            return lambda: _Checked(self._opened(node), node, self._changed(node))
        if digest is None:
            return self._read(node)
        try:  # the digest tells whether it is the right file
            with self._guard:
                descriptor = os.open(node.name, _FILE, dir_fd=self._directory_of(node))
            try:
                data = os.read(descriptor, size + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._fail(node, error)
        if hashlib.sha256(data).digest() != digest:
            raise self._changed(node)
        return data

    def _alone(self, node: LocalNode, name: bytes) -> LocalNode | None:
        """One name of a directory that need not be listed for it."""
        key = node, name
        if key not in self._found:
            self._found[key] = self._made(node, name) if node.kind is Kind.DIRECTORY else None
        return self._found[key]

    def _made(self, node: LocalNode, name: bytes) -> LocalNode | None:
        try:
            state = os.stat(name, dir_fd=self._directory(node), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise failure(error, os.path.join(self.path, node.path, os.fsdecode(name))) from error
        child = LocalNode(node, name, state)
        if self._ignored is not None:
            prefix = f"{node.path}/" if node.parent is not None else ""
            path = prefix + os.fsdecode(name)
            child.hidden, child.above = self._ignored.match(path, node.above)
            if child.hidden and not (child.kind is Kind.DIRECTORY and self._ignored.may_except_below(path)):
                return None
            if child.hidden and not self._listed(child):
                return None
        return child

    def _listed(self, node: LocalNode) -> dict[bytes, LocalNode]:
        found = node.children
        if found is None:
            with self._guard:
                found = node.children
                if found is None:
                    found = node.children = self._list(node) if node.kind is Kind.DIRECTORY else {}
        return found

    def _list(self, node: LocalNode) -> dict[bytes, LocalNode]:
        if self._cancel is not None:
            self._cancel.check()
        found: dict[bytes, LocalNode] = {}
        ignored = self._ignored
        prefix = f"{node.path}/" if ignored is not None and node.parent is not None else ""
        try:
            with os.scandir(self._directory(node)) as names:
                entries = list(names)
        except (FileNotFoundError, NotADirectoryError):
            return {}  # it was removed after the directory above it was listed
        except OSError as error:
            self._fail(node, error)
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
            raw = os.fsencode(name)
            child = self._found.get((node, raw)) if self._found else None
            if child is None:
                child = LocalNode(node, raw, state)
                child.above, child.hidden = above, hidden
            if hidden and not self._listed(child):
                continue
            found[raw] = child
        return found

    def _directory(self, node: LocalNode) -> int:
        """A descriptor of a directory, open until others push it out."""
        last, descriptor = self._last
        if node is last:
            return descriptor
        if node.parent is None:
            return self._top
        found = self._open.pop(node, None)
        if found is None:
            while len(self._open) >= _OPEN_DIRECTORIES:
                os.close(self._open.pop(next(iter(self._open))))
            found = self._reopened(node)
        self._open[node] = found
        self._last = node, found
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
                if not _is_same(os.fstat(descriptor), one):
                    raise self._changed(one)
        except BaseException:
            if owned >= 0:
                os.close(owned)
            raise
        return descriptor

    def _directory_of(self, node: LocalNode) -> int:
        assert node.parent is not None
        return self._directory(node.parent)

    def _opened(self, node: LocalNode) -> int:
        """Open a regular file, and check that it is the one that was listed, unchanged."""
        try:
            with self._guard:
                descriptor = os.open(node.name, _FILE, dir_fd=self._directory_of(node))
        except OSError as error:
            self._fail(node, error)
        state = os.fstat(descriptor)
        if _state(state) != node.state and not _is_unchanged(state, node):
            os.close(descriptor)
            raise self._changed(node)
        return descriptor

    def _read(self, node: LocalNode) -> bytes:
        """The content of a small file."""
        size = node.size
        descriptor = self._opened(node)
        try:
            data = _read_all(descriptor, size + 1)
            if node.digest is None:
                node.has_xattrs = _CAPABILITY in os.listxattr(descriptor)
        except OSError as error:
            self._fail(node, error)
        finally:
            os.close(descriptor)
        if len(data) != size:
            raise self._changed(node)
        return data

    def _hash(self, node: LocalNode) -> bytes:
        if not stat.S_ISREG(node.mode):
            node.has_xattrs = False
            return _EMPTY
        known = self._known(node)
        if known is not None:
            node.has_xattrs = known[32] != 0
            node.is_noted = True
            return known[:32]
        _, _, size, mtime, ctime = STATE.unpack(node.state)
        settled = is_settled(mtime, ctime)  # as of before it is read
        if size <= _SMALL:
            data = self._read(node)
            digest = hashlib.sha256(data).digest()
            if size <= self._left:
                node.kept = data
                self._left -= size
        else:
            digest = self._hash_large(node)
        if settled and self._hashes is not None:
            node.is_noted = self._news = True
        return digest

    def _hash_large(self, node: LocalNode) -> bytes:
        hasher = hashlib.sha256()
        descriptor = self._opened(node)
        try:
            node.has_xattrs = _CAPABILITY in os.listxattr(descriptor)
            while data := os.read(descriptor, CHUNK):
                if self._cancel is not None:
                    self._cancel.check()
                hasher.update(data)
            if not _is_unchanged(os.fstat(descriptor), node):
                raise self._changed(node)
        except OSError as error:
            self._fail(node, error)
        finally:
            os.close(descriptor)
        return hasher.digest()

    def _known(self, node: LocalNode) -> bytes | None:
        """The digest of an earlier build, if the file has not changed."""
        if self._hashes is None:
            return None
        parent, records = self._group
        if parent is not node.parent:
            assert node.parent is not None
            device, inode, *_ = STATE.unpack(node.parent.state)
            records = self._hashes.group(device, inode)
            self._group = node.parent, records
        return records.get(node.state)

    def _changed(self, node: LocalNode) -> UsageError:
        path = os.path.join(self.path, node.path)
        return UsageError(f"{path!r:.300} changed while it was read", hint="try again when nothing writes to it")

    def _xattrs(self, node: LocalNode) -> dict[bytes, bytes]:
        try:
            with self._guard:
                if node.kind is Kind.DIRECTORY:
                    found = _xattrs_of(self._directory(node))
                    node.has_xattrs = bool(found)
                    return found
            descriptor = self._opened(node)
            try:
                return _xattrs_of(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._fail(node, error)

    def _fail(self, node: LocalNode, error: OSError) -> NoReturn:
        if isinstance(error, LaminaError):
            raise error
        path = os.path.join(self.path, node.path)
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise NotFound(
                f"{path!r:.300} was removed while the build read it",
                hint="try again when nothing writes to the context",
            ) from None
        if error.errno in _OF_ANOTHER_KIND:
            raise self._changed(node) from None
        raise failure(error, path) from error


class _Checked:
    """A large file, compared with its digest while it is read."""

    def __init__(self, descriptor: int, node: LocalNode, changed: UsageError) -> None:
        self._descriptor = descriptor
        self._left = node.size
        self._digest = node.digest
        self._hasher = None if node.digest is None else hashlib.sha256()
        self._changed = changed

    def read(self, size: int = -1, /) -> bytes:
        if size == 0:
            return b""
        with reported():
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


def _state(state: os.stat_result) -> bytes:
    return STATE.pack(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _is_same(now: os.stat_result, node: LocalNode) -> bool:
    return (now.st_dev, now.st_ino) == STATE.unpack(node.state)[:2]


def _is_unchanged(now: os.stat_result, node: LocalNode) -> bool:
    """Whether it is the same file with the same content; a new link or mode changes only the ctime."""
    return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) == STATE.unpack(node.state)[:4]


def _read_all(descriptor: int, limit: int) -> bytes:
    """Up to ``limit`` bytes."""
    data = os.read(descriptor, limit)
    if len(data) in (0, limit, limit - 1):
        return data
    pieces = [data]
    size = len(data)
    while size < limit and (data := os.read(descriptor, limit - size)):
        pieces.append(data)
        size += len(data)
    return b"".join(pieces)


def _xattrs_of(descriptor: int) -> dict[bytes, bytes]:
    """The extended attributes that go into a layer: as in BuildKit's layers only capabilities. The others say more of
    this host than of the file, and not every file system has them."""
    try:
        return {os.fsencode(_CAPABILITY): os.getxattr(descriptor, _CAPABILITY)}
    except OSError:
        return {}
