"""Scan a directory into entries: sorted by name, with hard links detected, without following symlinks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO

from lamina.errors import NotFound, UsageError
from lamina.host.files import reported
from lamina.layer.entry import FORMATS, Entry, Kind
from lamina.layer.safe_path import normalise
from lamina.layer.tar_write import Item
from lamina.layer.whiteout import PREFIX

_KINDS = {format: kind for kind, format in FORMATS.items()}
_LEFT_OUT = (b"trusted.overlay.", b"user.overlay.", b"security.selinux", b"system.nfs4_acl")
OnWarning = Callable[[str], object]


def scan(
    source: str | bytes,
    *,
    to: bytes = b"",
    owner: tuple[int, int] | None = (0, 0),
    exclude: Callable[[bytes], bool] = lambda path: False,
    on_warning: OnWarning = lambda text: None,
) -> Iterator[Item]:
    """Yield everything below the directory ``source``, as entries below ``to`` in the image. ``to`` itself comes
    first unless it is the root. ``owner`` is given to all entries; None keeps the ids of the host.

    ``exclude`` gets paths relative to ``source``. Sockets and names that are whiteouts are skipped with a warning.
    Raises NotFound (no such directory), SystemFailure.
    """
    top = os.fsencode(source)
    if not os.path.isdir(top):
        raise NotFound(f"{os.fsdecode(top)!r:.300} is not a directory", hint="check the path")
    first: dict[tuple[int, int], bytes] = {}
    prefix = normalise(to)
    if prefix:
        yield _item(top, prefix, owner)
    pending = [b""]
    while pending:
        relative = pending.pop()
        with reported(os.path.join(top, relative)):
            names = sorted(os.listdir(os.path.join(top, relative)))
        below = []
        for name in names:
            inner = relative + b"/" + name if relative else name
            if exclude(inner):
                continue
            path = os.path.join(top, inner)
            target = prefix + b"/" + inner if prefix else inner
            with reported(path):
                state = os.lstat(path)
            if stat.S_ISSOCK(state.st_mode):
                on_warning(f"the socket {os.fsdecode(path)!r:.200} is skipped")
                continue
            if name.startswith(PREFIX):
                on_warning(
                    f"{os.fsdecode(path)!r:.200} is skipped: in a layer this name is a whiteout, which hides a file"
                )
                continue
            key = (state.st_dev, state.st_ino)
            if state.st_nlink > 1 and not stat.S_ISDIR(state.st_mode):
                known = first.setdefault(key, target)
                if known != target:
                    # with the attributes of its file: other engines apply those of the link's header to it
                    entry, _ = _item(path, target, owner, state)
                    yield replace(entry, kind=Kind.HARDLINK, link=known, size=0, rdev=(0, 0), xattrs={}), None
                    continue
            yield _item(path, target, owner, state)
            if stat.S_ISDIR(state.st_mode):
                below.append(inner)
        pending += reversed(below)


def scan_file(source: str | bytes, to: bytes, *, owner: tuple[int, int] | None = (0, 0)) -> Item:
    """Return one file, symlink or empty directory of the host as the entry ``to``. Raises NotFound, UsageError (a
    socket)."""
    path = os.fsencode(source)
    if not os.path.lexists(path):
        raise NotFound(f"{os.fsdecode(path)!r:.300} was not found", hint="check the path")
    return _item(path, normalise(to), owner)


def _item(path: bytes, target: bytes, owner: tuple[int, int] | None, state: os.stat_result | None = None) -> Item:
    with reported(path):
        state = state or os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(state.st_mode))
        if kind is None:
            raise UsageError(
                f"{os.fsdecode(path)!r:.200} is a socket", hint="leave it out: a layer can't hold a socket"
            )
        uid, gid = owner if owner is not None else (state.st_uid, state.st_gid)
        device = (os.major(state.st_rdev), os.minor(state.st_rdev)) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0)
        entry = Entry(
            path=target,
            kind=kind,
            mode=0o777 if kind == Kind.SYMLINK else stat.S_IMODE(state.st_mode),
            uid=uid,
            gid=gid,
            size=state.st_size if kind == Kind.FILE else 0,
            mtime=state.st_mtime_ns,
            link=os.readlink(path) if kind == Kind.SYMLINK else b"",
            xattrs=_xattrs(path),
            rdev=device,
        )
    return entry, (_opener(path, state) if kind == Kind.FILE else None)


def _opener(path: bytes, seen: os.stat_result) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        with reported(path):
            flags = (
                os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            )
            file = os.fdopen(os.open(path, flags), "rb")
        if not os.path.samestat(os.fstat(file.fileno()), seen):
            file.close()
            raise UsageError(
                f"{os.fsdecode(path)!r:.200} changed while it was read", hint="try again when nothing writes to it"
            )
        return file

    return opened


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    if not hasattr(os, "listxattr"):
        return {}
    try:
        names = [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)]
    except OSError:
        return {}  # the file system has no xattrs
    found = {}
    for name in names:
        if not name.startswith(_LEFT_OUT):
            try:
                found[name] = os.getxattr(path, name, follow_symlinks=False)
            except OSError:
                continue  # this user may not read it
    return found
