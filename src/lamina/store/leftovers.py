"""What interrupted work has left in ``ingest/``, ``roots/`` and the store's top: found and removed in one place, so
that what `prune`, `fsck` and `df` say is what happens.

A temporary file is of no use without its maker: it goes at once. A part of a download, an upload and a note about a
push can be taken up again: they stay for the grace time. Whatever somebody holds stays.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from lamina.host.files import remove
from lamina.host.lock import unheld
from lamina.host.temporary import is_temporary
from lamina.light import pattern
from lamina.store import clock
from lamina.store.foreign_trees import disk_bytes, freed_bytes, remove_tree
from lamina.store.paths import Paths
from lamina.store.roots import GRACE, Roots, started

TEMPORARY, PART, UPLOAD, NOTE = "temporary file", "part of a download", "upload on its way in", "note about a push"
_DIRECTORY = pattern(r".+\.[0-9a-f]{12}\.tmp")
_OLDER = pattern(r".*\.(\d{1,9})-\d+\.tmp")
SERVING = "serve"
"""The purpose of a registry server's session: while one lives, uploads that nobody writes to at the moment go on."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """``kind``: one of the four above; ``size`` in bytes of disk; ``due``: nothing keeps it for later."""

    path: str
    kind: str
    size: int
    due: bool


def leftovers(paths: Paths, *, grace: float = GRACE, take: bool = False) -> Iterator[Leftover]:
    """What nobody holds. ``take``: those that are due are removed while nobody else can take them up.
    Raises OSError."""
    serving = any(root.alive and root.purpose == SERVING for root in Roots(paths))
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
            stays = GRACE if kind == UPLOAD and serving else 0 if kind == TEMPORARY else grace
            stays = GRACE if _is_of_an_older(path) else stays
            # asked now: what is being written to must not seem to come from the future
            due = not clock.is_younger(state.st_mtime_ns, stays, clock.now(paths))
            size = freed_bytes(path) if stat.S_ISDIR(state.st_mode) else disk_bytes(state)
            if due and take and not _remove(path):
                continue
            yield Leftover(path, kind, size, due)


def sweep_temporaries(paths: Paths) -> None:
    """Remove the temporary files whose makers are gone, as far as that can be. Raises OSError."""
    for path in _files(paths):
        if is_temporary(path):
            with _unheld(path) as free, suppress(PermissionError):
                if free and not _is_of_an_older(path):
                    _remove(path)


def _remove(path: str) -> bool:
    """Unlink a file, or a directory with all that is in it; False where it was not there."""
    try:
        return remove(path)
    except (IsADirectoryError, PermissionError):  # macOS says the latter
        if not os.path.isdir(path) or os.path.islink(path):
            raise
        remove_tree(path)
        return True


def _is_of_an_older(path: str) -> bool:
    """Whether a lamina that held no locks may be at work on a temporary file: it put its process into the name."""
    found = _OLDER.fullmatch(os.path.basename(path))
    return found is not None and started(int(found[1])) is not None


def _files(paths: Paths) -> Iterator[str]:
    """Regular files, and temporary directories of ``ingest/``: what fsck moved aside is people's data, and other
    things are not lamina's."""
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
    """As ``unheld``; what may not be opened here (another user's) counts as held."""
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
