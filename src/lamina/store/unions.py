"""The directories in ``unions/``: what views derive from the layers of a stack or of a part of it. Each is removed
with its layers.

The file ``layers`` in a directory lists the layers that it was made from. A directory is made under the store's lock,
which a collection holds too, so a collection never sees one that is half made. An unpacked tree that an overlay
shows, in any mount namespace, is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from lamina.errors import UsageError
from lamina.host import mountinfo
from lamina.host.files import make_directory, remove, replace_file
from lamina.host.lock import locked, unheld
from lamina.host.temporary import is_temporary
from lamina.light import TYPE_CHECKING
from lamina.spec.digest import Digest
from lamina.store.foreign_trees import disk_bytes, freed_bytes, remove_tree
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from lamina.store.store import Store

MOUNT_POINT_PREFIX = "union-"
"""The prefix of mount points in a union's directory."""
_DIGITS = frozenset("0123456789abcdef")
_UNIONS = "/unions/"
_LAYERS = "layers"
_UNKNOWN = "/proc/self/fd/"
"""The prefix of a lower directory that was given as a file descriptor: which directory it was can't be told."""


def make_union(paths: Paths, key: str, layers: Iterable[Digest]) -> str:
    """The directory for data derived from ``layers``; made if it is missing. A collection keeps it only while a root,
    a container or a name needs the layers. Raises OSError."""
    directory = paths.union(key)
    if os.path.exists(os.path.join(directory, _LAYERS)):
        return directory
    text = "".join(f"{diff_id}\n" for diff_id in layers).encode()
    with locked(paths.lock):
        make_directory(directory)
        replace_file(os.path.join(directory, _LAYERS), [text], lasting=False)
    return directory


def union_keys(paths: Paths) -> list[str]:
    """The keys of the existing directories, without those that lamina did not make. Raises OSError."""
    with os.scandir(paths.unions) as found:
        return sorted(one.name for one in found if _is_key(one.name) and one.is_dir(follow_symlinks=False))


def _is_key(name: str) -> bool:
    return len(name) == 64 and _DIGITS.issuperset(name)


def collect_unions(store: Store, needed: set[Digest], *, dry_run: bool) -> int:
    """Remove what was derived from a layer that is not ``needed``, and what killed processes left in the other
    directories. Returns the bytes of disk that become free. The caller holds the store's lock. Raises OSError,
    SystemFailure."""
    freed = 0
    shown: set[str] | None = None
    for key in union_keys(store.paths):
        directory = store.paths.union(key)
        layers = _layers(directory)
        if layers and layers <= needed:
            freed += _remove_leftovers(store, directory, dry_run)
            continue
        if shown is None:
            shown = _shown_by_overlays(store.paths)
        freed += _remove(directory, shown, dry_run)
    return freed


def _remove_leftovers(store: Store, directory: str, dry_run: bool) -> int:
    """Remove temporary files that no process holds, and mount points that no root lists."""
    freed = 0
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if is_temporary(name):
            with unheld(path) as free:
                freed += _remove_any(path, dry_run) if free else 0
        elif (
            name.startswith(MOUNT_POINT_PREFIX)
            and not dry_run
            and not any(root.mount == path for root in store.roots)
        ):
            with suppress(OSError):  # it is a mount point, or contains one
                os.rmdir(path)
    return freed


def _remove_any(path: str, dry_run: bool) -> int:
    if os.path.isdir(path) and not os.path.islink(path):
        freed = freed_bytes(path)
        if not dry_run:
            remove_tree(path)
        return freed
    state = os.lstat(path)
    if not dry_run:
        remove(path)
    return disk_bytes(state) if state.st_nlink == 1 else 0


def _layers(directory: str) -> set[Digest]:
    try:
        with open(os.path.join(directory, _LAYERS), encoding="utf-8") as file:
            return {Digest.parse(line) for line in file.read().split()}
    except (OSError, ValueError, UsageError):
        return set()


def _remove(directory: str, shown: set[str], dry_run: bool) -> int:
    """Remove a directory. The file ``layers`` is removed last: if this is interrupted, the next collection still
    knows what the rest was made from."""
    freed = 0
    key = os.path.basename(directory)
    here = {one.target for one in mountinfo.mounts()}
    stays = False
    for name in sorted(os.listdir(directory), key=lambda name: (name == _LAYERS, name)):
        path = os.path.join(directory, name)
        if path in here or f"{key}/{name}" in shown or (_UNKNOWN in shown and os.path.isdir(path)):
            stays = True
        elif name != _LAYERS or not stays:
            freed += _remove_any(path, dry_run)
    if not dry_run and not stays:
        os.rmdir(directory)
    return freed


def is_shown(paths: Paths, directory: str) -> bool:
    """Whether a mount in any namespace uses this directory of a union, or may use it."""
    shown = _shown_by_overlays(paths)
    return _UNKNOWN in shown or os.sep.join(directory.split(os.sep)[-2:]) in shown


def _shown_by_overlays(paths: Paths) -> set[str]:
    """The directories of unions, as KEY/NAME, that a mount in any namespace uses, or may use. An overlay reports its
    lower directories by the paths that they had when it was mounted; the store may have been moved since."""
    found: set[str] = set()
    for _, process, mounts in mountinfo.all_namespaces():
        for mount in mounts:
            named = [(path, path) for path in mount.lowers]
            if _UNIONS in mount.root:
                named.append((mount.root, mount.target))  # a bind mount of it
            for path, place in named:
                key, name = path.split(os.sep)[-2:] if path.count(os.sep) > 1 else ("", "")
                if path.startswith(_UNKNOWN):
                    found.add(_UNKNOWN)
                elif _is_key(key) and _may_be_lower(process, place, os.path.join(paths.union(key), name)):
                    found.add(f"{key}/{name}")
    return found


def _may_be_lower(process: str, place: str, ours: str) -> bool:
    """Whether what a process sees at ``place`` is this directory, as far as that can be known."""
    try:
        own = os.lstat(ours)
    except OSError:
        return False
    try:
        return os.path.samestat(os.stat(f"/proc/{process}/root{place}"), own)
    except OSError:
        return True
