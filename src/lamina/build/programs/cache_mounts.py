"""Cache mounts of RUN: directories in the store that survive builds, with locks between processes.

A cache has a key: its id, what it was filled from, and the attributes of its directory. Below its key a cache has one
or more directories. ``shared`` users use one directory together. A ``private`` user takes a directory that nobody
uses, and makes one if there is none. A ``locked`` user waits for a directory that nobody uses. The locks are those of
the directories, held by the process of the build: the kernel drops them when it ends.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from lamina.build.run_mounts import LOCKED, SHARED
from lamina.events import Cancel
from lamina.host import privileges
from lamina.host.files import make_directory, replace_file, reported
from lamina.host.lock import acquire, fcntl, is_same, locked_directory
from lamina.host.temporary import TemporaryDirectory, is_temporary
from lamina.spec.json import read_own, write_own
from lamina.store.fault import point
from lamina.store.foreign_trees import freed_bytes, remove_tree
from lamina.store.store import Store

_ABOUT, _DATA = "about", "data"
_POLL = 0.1  # seconds
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class CacheWanted:
    """``id``: as the Dockerfile says. ``basis``: what the directory is filled from, as a text, "" for nothing.
    ``mode``, ``uid``, ``gid``: of a new directory."""

    id: str
    sharing: str = SHARED
    basis: str = ""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0

    @property
    def key(self) -> str:
        words = [self.id, self.basis, f"{self.mode:o}", str(self.uid), str(self.gid)]
        return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class CacheMount:
    """A cache as `df` and `prune` see it. ``used``: when it was used last, in seconds since 1970. ``size``: bytes of
    disk. ``busy``: a build uses it now."""

    key: str
    id: str
    used: float
    size: int
    busy: bool


Fill = Callable[[str], object]
"""Fills a new directory."""


@contextmanager
def cache_directories(
    store: Store, wanted: Sequence[tuple[CacheWanted, Fill]], cancel: Cancel
) -> Iterator[list[str]]:
    """The directories of these caches, in the same order, while the block runs. Equal keys get the same directory.
    Raises Cancelled (while it waits for a lock), SystemFailure, and what ``Fill`` raises."""
    found: dict[str, str] = {}
    with ExitStack() as held:
        # in one order, so that two steps never wait for each other; of two sharings the stricter one counts
        for one, fill in sorted(wanted, key=lambda pair: (pair[0].key, pair[0].sharing == SHARED)):
            if one.key not in found:
                found[one.key] = held.enter_context(_cache(store, one, fill, cancel))
        yield [found[one.key] for one, _ in wanted]


@contextmanager
def _cache(store: Store, wanted: CacheWanted, fill: Fill, cancel: Cancel) -> Iterator[str]:
    above = os.path.join(_top(store), wanted.key)
    with reported(above):
        for directory in (store.paths.build, _top(store), above):
            make_directory(directory)
        descriptor = _held(above, wanted, fill, cancel)
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            os.utime(path)  # when it was used
            yield os.path.join(path, _DATA)
        finally:
            os.close(descriptor)


def _held(above: str, wanted: CacheWanted, fill: Fill, cancel: Cancel) -> int:
    """A descriptor of a directory of the cache, locked."""
    while True:
        cancel.check()
        make_directory(above)  # a prune may have removed it
        with locked_directory(above):
            if not os.path.exists(os.path.join(above, _ABOUT)):
                text = write_own({"id": wanted.id, "basis": wanted.basis}).encode("utf-8", "surrogateescape")
                replace_file(os.path.join(above, _ABOUT), [text], lasting=False)
            names = _names(above)
            for name in names:
                descriptor = _lock(os.path.join(above, name), shared=wanted.sharing == SHARED)
                if descriptor >= 0:
                    return descriptor
            if not (names and wanted.sharing == LOCKED):
                _make(above, wanted, fill)
                continue
        cancel.wait(_POLL)


def _names(above: str) -> list[str]:
    return sorted(name for name in os.listdir(above) if name != _ABOUT and not is_temporary(name))


def _lock(path: str, *, shared: bool) -> int:
    """A descriptor of the directory with its lock; -1 if others hold it, or it is gone."""
    try:
        descriptor = os.open(path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    try:
        if _try(descriptor, path, shared=shared) and is_same(descriptor, path):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return -1


def _try(descriptor: int, path: str, *, shared: bool) -> bool:
    if not shared or fcntl is None:
        return acquire(descriptor, path, wait=False)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(above: str, wanted: CacheWanted, fill: Fill) -> None:
    """Make one more directory of the cache. It gets its name when it is filled."""
    with TemporaryDirectory(above, "new", remove=remove_tree) as made:
        data = os.path.join(made.path, _DATA)
        os.mkdir(data, 0o700)
        privileges.give(data, wanted.uid, wanted.gid)
        os.chmod(data, wanted.mode)
        fill(data)
        point("cache-mount.filled")
        made.put(os.path.join(above, os.urandom(6).hex()))


def cache_mounts(store: Store) -> list[CacheMount]:
    """All caches, those used least recently first. Raises SystemFailure."""
    found = []
    top = _top(store)
    with reported(top):
        for key in sorted(os.listdir(top)) if os.path.isdir(top) else ():
            above = os.path.join(top, key)
            names = _names(above)
            places = [os.path.join(above, name) for name in names]
            used = max((os.stat(place).st_mtime for place in places), default=os.stat(above).st_mtime)
            busy = False
            for place in places:
                descriptor = _lock(place, shared=False)
                busy = busy or descriptor < 0
                if descriptor >= 0:
                    os.close(descriptor)
            found.append(CacheMount(key, _id(above), used, freed_bytes(above), busy))
    return sorted(found, key=lambda one: (one.used, one.key))


def _id(above: str) -> str:
    try:
        with open(os.path.join(above, _ABOUT), "rb") as file:
            return str(read_own(file.read(1 << 16).decode("utf-8", "surrogateescape"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def remove_cache_mount(store: Store, key: str) -> int:
    """Remove the directories of a cache that nobody uses; the bytes of disk that this frees. Raises SystemFailure."""
    above = os.path.join(_top(store), key)
    freed = 0
    if not os.path.isdir(above):
        return freed
    with reported(above), locked_directory(above):
        for name in os.listdir(above):
            path = os.path.join(above, name)
            if name == _ABOUT:
                continue
            descriptor = _lock(path, shared=False)
            if descriptor < 0:
                continue
            try:
                freed += freed_bytes(path)
                aside = os.path.join(above, f"old.{os.urandom(6).hex()}.tmp")
                os.rename(path, aside)
                remove_tree(aside)
            finally:
                os.close(descriptor)
        if os.listdir(above) in ([], [_ABOUT]):
            remove_tree(above)
    return freed


def unused_since(one: CacheMount, seconds: float) -> bool:
    """Whether a cache was not used for so long."""
    return not one.busy and time.time() - one.used >= seconds


def _top(store: Store) -> str:
    return os.path.join(store.paths.build, "mounts")
