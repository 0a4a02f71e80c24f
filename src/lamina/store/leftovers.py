"""Leftovers of interrupted work in ``ingest/``, ``roots/`` and the top of the store: find and remove them.

Only this module does that, so that `prune`, `fsck` and `df` report the same files. A temporary file is of no use
without the process that made it: it is removed at once. A part of a download, an upload and a note about a push can
be resumed: they stay for the grace time. A file that is locked by a process stays.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from lamina.host.files import remove
from lamina.host.lock import unheld
from lamina.host.process_identity import start_time
from lamina.host.temporary import is_temporary
from lamina.light import pattern
from lamina.store import clock
from lamina.store.foreign_trees import disk_bytes, freed_bytes, remove_tree
from lamina.store.members import Members
from lamina.store.paths import Paths
from lamina.store.roots import GRACE, Roots

TEMPORARY, PART, UPLOAD, NOTE = "temporary file", "part of a download", "upload on its way in", "note about a push"
_DIRECTORY = pattern(r".+\.[0-9a-f]{12}\.tmp")
_OLDER = pattern(r".*\.(\d{1,9})-\d+\.tmp")
SERVING = "serve"
"""The purpose of the session of a registry server. While such a session lives, uploads stay for as long as the server
says (``Members.keep_uploads``), even if nobody writes to them at the moment."""
KEEP_UPLOADS = 86400.0  # seconds, if a server says nothing


@dataclass(frozen=True, slots=True)
class Leftover:
    """``kind``: one of the four above. ``size``: bytes of disk. ``due``: the file may be removed now."""

    path: str
    kind: str
    size: int
    due: bool


def leftovers(paths: Paths, *, grace: float = GRACE, take: bool = False) -> Iterator[Leftover]:
    """Find the leftovers that no process holds. ``take``: remove those that are due, under their lock, so that no
    process can resume them meanwhile. Raises OSError."""
    serving = any(root.alive and root.purpose == SERVING for root in Roots(paths))
    keep_uploads = Members(paths).keep_uploads(KEEP_UPLOADS)
    for path in _files(paths):
        kind = _kind(os.path.basename(path))
        if kind != TEMPORARY and os.path.dirname(path) != paths.ingest:
            continue
        with _unheld(path) as free:
            if not free:
                continue
            try:
                state = os.lstat(path)
            except FileNotFoundError:
                continue
            stays = keep_uploads if kind == UPLOAD and serving else 0 if kind == TEMPORARY else grace
            stays = GRACE if _is_of_an_older(path) else stays
            # Read the clock last: the time of a file that is being written must not be after it.
            due = not clock.is_younger(state.st_mtime_ns, stays, clock.now(paths))
            size = freed_bytes(path) if stat.S_ISDIR(state.st_mode) else disk_bytes(state)
            if due and take and not _remove(path):
                continue
            yield Leftover(path, kind, size, due)


def sweep_temporaries(paths: Paths) -> None:
    """Remove the temporary files whose processes have ended; skip those that this user may not remove. Raises
    OSError."""
    for path in _files(paths):
        if is_temporary(path):
            with _unheld(path) as free, suppress(PermissionError):
                if free and not _is_of_an_older(path):
                    _remove(path)


def _remove(path: str) -> bool:
    """Unlink a file, or remove a directory with its contents. Returns False if the path did not exist."""
    try:
        return remove(path)
    except (IsADirectoryError, PermissionError):  # macOS raises the latter
        if not os.path.isdir(path) or os.path.islink(path):
            raise
        remove_tree(path)
        return True


def _is_of_an_older(path: str) -> bool:
    """Whether a running process of an older lamina may use this temporary file. Such a lamina took no locks, but put
    its pid into the name."""
    found = _OLDER.fullmatch(os.path.basename(path))
    return found is not None and start_time(int(found[1])) is not None


def _files(paths: Paths) -> Iterator[str]:
    """All regular files, and the temporary directories of ``ingest/``. Other directories are left alone: what fsck
    moved aside is user data, and anything else was not made by lamina."""
    for directory in (paths.ingest, paths.roots, paths.root):
        with os.scandir(directory) as found:
            names = sorted(
                one.name
                for one in found
                if one.is_file(follow_symlinks=False)
                or (
                    directory == paths.ingest and _DIRECTORY.fullmatch(one.name) and one.is_dir(follow_symlinks=False)
                )
            )
        yield from (os.path.join(directory, name) for name in names)


@contextmanager
def _unheld(path: str) -> Iterator[bool]:
    """Like ``unheld``; a file that may not be opened (of another user) counts as held."""
    with ExitStack() as stack:
        try:
            free = stack.enter_context(unheld(path))
        except PermissionError:
            free = False
        yield free


def _kind(name: str) -> str:
    if is_temporary(name):
        return TEMPORARY
    if name.startswith("upload-"):
        return UPLOAD
    return NOTE if name.startswith("push-") else PART
