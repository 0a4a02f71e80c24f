"""The directories of ``unions/``: what views derive from the layers of one part or stack. Each goes with its layers.

A directory says in ``layers`` what it was made of. It is made under the store's lock, which a collection holds too: a
collection never meets one that is half made. An unpacked tree that any overlay shows, in any mount namespace, stays.
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

OWN_PLACE = "union-"
"""How the places of mounts in a union's directory begin."""
_DIGITS = frozenset("0123456789abcdef")
_UNIONS = "/unions/"
_LAYERS = "layers"
_UNKNOWN = "/proc/self/fd/"
"""A lower directory that was named by a descriptor: nobody can tell which one it was."""


def make_union(paths: Paths, key: str, layers: Iterable[Digest]) -> str:
    """The directory of something derived from ``layers``, made where it is missing. What is in it is safe from a
    collection only while a root, a container or a name needs the layers. Raises OSError."""
    directory = paths.union(key)
    if os.path.exists(os.path.join(directory, _LAYERS)):
        return directory
    text = "".join(f"{diff_id}\n" for diff_id in layers).encode()
    with locked(paths.lock):
        make_directory(directory)
        replace_file(os.path.join(directory, _LAYERS), [text], lasting=False)
    return directory


def union_keys(paths: Paths) -> list[str]:
    """The directories that are there. What lamina did not make is left out. Raises OSError."""
    with os.scandir(paths.unions) as found:
        return sorted(one.name for one in found if _is_key(one.name) and one.is_dir(follow_symlinks=False))


def _is_key(name: str) -> bool:
    return len(name) == 64 and _DIGITS.issuperset(name)


def collect_unions(store: Store, needed: set[Digest], *, dry_run: bool) -> int:
    """Remove what was derived from a layer that is not ``needed``, and what killed processes have left beside the
    rest; the bytes of disk that come free. Call it with the store's lock held. Raises OSError, SystemFailure."""
    freed = 0
    shown: set[str] | None = None
    for key in union_keys(store.paths):
        directory = store.paths.union(key)
        layers = _layers(directory)
        if layers and layers <= needed:
            freed += _remove_leftovers(store, directory, dry_run)
            continue
        if shown is None:
            shown = _shown(store.paths)
        freed += _remove(directory, shown, dry_run)
    return freed


def _remove_leftovers(store: Store, directory: str, dry_run: bool) -> int:
    """Temporary files that nobody holds, and places of mounts that no root tells of."""
    freed = 0
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if is_temporary(name):
            with unheld(path) as free:
                freed += _remove_any(path, dry_run) if free else 0
        elif name.startswith(OWN_PLACE) and not dry_run and not any(root.mount == path for root in store.roots):
            with suppress(OSError):  # something is mounted there, or in it
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
    """``layers`` goes last, so that what a killed collection has left is still known by what it was made of."""
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
    """Whether a mount in any namespace shows this directory of a union, or may show it."""
    shown = _shown(paths)
    return _UNKNOWN in shown or os.sep.join(directory.split(os.sep)[-2:]) in shown


def _shown(paths: Paths) -> set[str]:
    """The directories of unions, as KEY/NAME, that a mount in any namespace shows, or may show: an overlay tells its
    lower directories as they were called when it was mounted, and the store may have been moved since."""
    found: set[str] = set()
    for _, process, mounts in mountinfo.all_namespaces():
        for mount in mounts:
            named = [(path, path) for path in mount.lowers]
            if _UNIONS in mount.root:
                named.append((mount.root, mount.target))  # shown again as it is
            for path, place in named:
                key, name = path.split(os.sep)[-2:] if path.count(os.sep) > 1 else ("", "")
                if path.startswith(_UNKNOWN):
                    found.add(_UNKNOWN)
                elif _is_key(key) and _may_be(process, place, os.path.join(paths.union(key), name)):
                    found.add(f"{key}/{name}")
    return found


def _may_be(process: str, place: str, ours: str) -> bool:
    """Whether what a process has at ``place`` is our directory, as far as that can be told."""
    try:
        own = os.lstat(ours)
    except OSError:
        return False
    try:
        return os.path.samestat(os.stat(f"/proc/{process}/root{place}"), own)
    except OSError:
        return True
