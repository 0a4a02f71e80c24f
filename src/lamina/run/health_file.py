"""The file of a container that holds its health: written by its monitor, and by `healthcheck run`.

The monitor of a container loads this, so it imports little.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from lamina.host.files import replace_file
from lamina.host.lock import acquire
from lamina.light import TYPE_CHECKING, replace
from lamina.run.health import STARTING, Health, after, health_json, read_health
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.run.health import Check, Result

_NAME, _LOCK = "health.json", "health.lock"
_MAX_SIZE = 1 << 20  # bytes
_TRIES, _PAUSE = 100, 0.005  # seconds
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def stored_health(directory: str) -> Health | None:
    """The health in the directory of a container; None if there is none. A damaged file is a container whose checks
    have just begun."""
    try:
        descriptor = os.open(os.path.join(directory, _NAME), _FLAGS)
    except OSError:
        return None
    try:
        return read_health(read_own(os.read(descriptor, _MAX_SIZE).decode()))
    except (OSError, ValueError):
        return Health()
    finally:
        os.close(descriptor)


def begin(directory: str) -> None:
    """The program has started: nothing is known of its health. The log of an earlier run stays. Raises OSError."""
    with _alone(directory):
        _write(directory, replace(stored_health(directory) or Health(), status=STARTING, streak=0))


def record(directory: str, result: Result, check: Check, age: float) -> tuple[Health, Health]:
    """Add a result; the health before and after it. ``age`` as in ``run.health.after``. Raises OSError."""
    with _alone(directory):
        before = stored_health(directory) or Health()
        now = after(before, result, check, age)
        _write(directory, now)
    return before, now


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Keep others from writing while the block runs; but do not wait long for one that hangs. Raises OSError."""
    path = os.path.join(directory, _LOCK)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        for _ in range(_TRIES):
            if acquire(descriptor, path, wait=False):
                break
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _write(directory: str, health: Health) -> None:
    text = write_own(health_json(health)).encode("utf-8", "replace")
    replace_file(os.path.join(directory, _NAME), [text], mode=0o600, lasting=False)
