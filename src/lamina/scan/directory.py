"""Scan a directory into entries: sorted by name, with hard links detected, without following symlinks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace

from lamina.errors import NotFound, UsageError
from lamina.layer.entry import FORMATS, Entry, Kind
from lamina.layer.safe_path import normalise
from lamina.layer.tar_write import Item
from lamina.layer.whiteout import PREFIX
from lamina.scan.files import Files, FileState, HostFiles

_KINDS = {format: kind for kind, format in FORMATS.items()}
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
    yield from scan_files(HostFiles(top), to=to, owner=owner, exclude=exclude, on_warning=on_warning)


def scan_files(
    files: Files,
    *,
    to: bytes = b"",
    owner: tuple[int, int] | None = (0, 0),
    exclude: Callable[[bytes], bool] = lambda path: False,
    on_warning: OnWarning = lambda text: None,
) -> Iterator[Item]:
    """As ``scan``, for any tree of files."""
    first: dict[tuple[int, int], bytes] = {}
    prefix = normalise(to)
    if prefix:
        yield _item(files, b"", prefix, owner)
    pending = [b""]
    while pending:
        relative = pending.pop()
        below = []
        for name in sorted(files.names(relative)):
            inner = relative + b"/" + name if relative else name
            if exclude(inner):
                continue
            target = prefix + b"/" + inner if prefix else inner
            state = files.state(inner)
            if stat.S_ISSOCK(state.mode):
                on_warning(f"the socket {files.shown(inner)!r:.200} is skipped")
                continue
            if name.startswith(PREFIX):
                on_warning(
                    f"{files.shown(inner)!r:.200} is skipped: in a layer this name is a whiteout, which hides a file"
                )
                continue
            if state.links > 1 and not stat.S_ISDIR(state.mode):
                known = first.setdefault(state.identity, target)
                if known != target:
                    # with the attributes of its file: other engines apply those of the link's header to it
                    entry, _ = _item(files, inner, target, owner, state)
                    yield replace(entry, kind=Kind.HARDLINK, link=known, size=0, rdev=(0, 0), xattrs={}), None
                    continue
            yield _item(files, inner, target, owner, state)
            if stat.S_ISDIR(state.mode):
                below.append(inner)
        pending += reversed(below)


def scan_file(source: str | bytes, to: bytes, *, owner: tuple[int, int] | None = (0, 0)) -> Item:
    """Return one file, symlink or empty directory of the host as the entry ``to``. Raises NotFound, UsageError (a
    socket)."""
    path = os.fsencode(source)
    if not os.path.lexists(path):
        raise NotFound(f"{os.fsdecode(path)!r:.300} was not found", hint="check the path")
    return _item(HostFiles(path), b"", normalise(to), owner)


def _item(
    files: Files, path: bytes, target: bytes, owner: tuple[int, int] | None, state: FileState | None = None
) -> Item:
    state = state or files.state(path)
    kind = _KINDS.get(stat.S_IFMT(state.mode))
    if kind is None:
        raise UsageError(f"{files.shown(path)!r:.200} is a socket", hint="leave it out: a layer can't hold a socket")
    uid, gid = owner if owner is not None else (state.uid, state.gid)
    entry = Entry(
        path=target,
        kind=kind,
        mode=0o777 if kind == Kind.SYMLINK else stat.S_IMODE(state.mode),
        uid=uid,
        gid=gid,
        size=state.size if kind == Kind.FILE else 0,
        mtime=state.mtime,
        link=files.link(path) if kind == Kind.SYMLINK else b"",
        xattrs=files.xattrs(path),
        rdev=state.device,
    )
    return entry, (files.opener(path, state) if kind == Kind.FILE else None)
