"""What contexts and ADD keep in the store: files of addresses, git repositories, and digests of files of contexts.
All of it can be fetched or made again."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.host.files import reported
from lamina.host.lock import locked_for_now

if TYPE_CHECKING:
    from lamina.store.paths import Paths

FETCHED, GIT, CONTEXTS = "fetched", "git", "contexts"
_LOCK = ".lock"


def place(paths: Paths, kind: str, name: str) -> str:
    """The path of something that is kept."""
    return os.path.join(paths.build, kind, name)


def touch(path: str) -> None:
    """Note that it was used now."""
    with suppress(OSError):
        os.utime(path)


def remove_sources(paths: Paths, *, age: float = 0) -> int:
    """Remove what nobody has used for ``age`` seconds. Returns the freed bytes. Raises SystemFailure."""
    freed = 0
    before = time.time() - age
    for kind in (FETCHED, GIT, CONTEXTS):
        directory = os.path.join(paths.build, kind)
        with reported(directory):
            for name in os.listdir(directory) if os.path.isdir(directory) else ():
                path = os.path.join(directory, name)
                if name.endswith(_LOCK):
                    continue
                with suppress(FileNotFoundError):  # another process removes it
                    if age and os.stat(path, follow_symlinks=False).st_mtime > before:
                        continue
                    if kind == GIT:
                        with locked_for_now(path + _LOCK):
                            freed += _remove(path)
                    else:
                        freed += _remove(path)
    return freed


def _remove(path: str) -> int:
    if not os.path.isdir(path) or os.path.islink(path):
        size = os.stat(path, follow_symlinks=False).st_blocks * 512
        os.unlink(path)
        return size
    import shutil

    size = sum(
        os.stat(os.path.join(top, name), follow_symlinks=False).st_blocks * 512
        for top, _, names in os.walk(path)
        for name in names
    )
    shutil.rmtree(path)
    return size
