"""What builds keep in the store, and its removal: the layers of finished steps, and the cache mounts of RUN."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.build.files.source_storage import remove_sources
from lamina.build.programs.cache_mounts import CacheMount, cache_mounts, remove_cache_mount, unused_since
from lamina.build.programs.step_directory import clear
from lamina.build.solving.cache import Cache
from lamina.host.files import remove
from lamina.store.fsck import Finding
from lamina.store.gc import Deleted, collect
from lamina.store.usage import usage

if TYPE_CHECKING:
    from lamina.errors import LaminaError
    from lamina.store.store import Store

_EVERYTHING = 1 << 62


def has_any(store: Store) -> bool:
    """Whether builds have kept anything."""
    return os.path.isdir(store.paths.build)


def prune_cache(store: Store, *, age: float = 0, size: int | None = None, dry_run: bool = False) -> Deleted:
    """Delete what builds have kept: steps and cache mounts that nobody has used for ``age`` seconds, and the oldest
    ones until the rest has ``size`` bytes (None: no limit; 0, like an ``age`` of 0 without a ``size``, means
    everything). What a running build uses stays. Images stay. Raises SystemFailure, StoreDamaged."""
    if not has_any(store):
        return Deleted()
    if dry_run:
        return Deleted(freed=usage(store).build)
    failed = clear(store)
    freed = sum(remove_cache_mount(store, one.key) for one in _old_mounts(store, age, size))
    freed += remove_sources(store.paths, age=age) if age or not size else 0
    cache = Cache(store)
    if age or size:
        left = _EVERYTHING if size is None else max(0, size - sum(one.size for one in cache_mounts(store)))
        cache.keep(max_age=age or float(_EVERYTHING), max_size=left)
    else:
        cache.clear()
    done = collect(store)
    return Deleted((), done.deleted, done.freed + freed, (*done.notes, *map(_note, failed)))


def check_cache(store: Store, *, repair: bool = False) -> Iterator[Finding]:
    """Check the records of finished steps, for fsck. A damaged one is removed with ``repair``: its step then runs
    again. Raises SystemFailure."""
    for path in Cache(store).damaged():
        if repair:
            remove(path)
        what = f"the record {os.path.basename(path)[:12]!r} of the build cache is damaged"
        yield Finding("derived", what, repair)


def _old_mounts(store: Store, age: float, size: int | None) -> list[CacheMount]:
    """The cache mounts to remove."""
    mounts = cache_mounts(store)
    if not age and not size:
        return mounts
    found = [one for one in mounts if age and unused_since(one, age)]
    rest = [one for one in mounts if one not in found]  # those used least recently come first
    while size is not None and rest and sum(one.size for one in rest) > size:
        found.append(rest.pop(0))
    return found


def _note(error: LaminaError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
