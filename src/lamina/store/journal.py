"""The journal of a store: what happened to containers, volumes, networks and images, as one line of JSON each.

Lines are only ever appended, each by one write. A writer holds a shared lock meanwhile, and a process that puts a
full file aside holds it exclusively, so no line is lost. It is not synced: it tells what happened, and nothing
depends on it. Monitors write it, so this imports little; ``store.journal_reading`` reads it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.host.lock import acquire, is_same, release, share
from lamina.light import TYPE_CHECKING
from lamina.spec.json import write_own

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME, _OLD = "events", "events.old"
MAX_SIZE = 4 << 20  # bytes; then the file is put aside, and the one before it is deleted
_MAX_LINE = 64 << 10
_SHORT = 200  # characters of an attribute that is kept in a long event
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
_FLAGS |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nobody can make a writer wait with a FIFO
_TRIES, _PAUSE = 25, 0.01  # seconds


def journal_path(root: str) -> str:
    """``root``: of the store."""
    return os.path.join(root, _NAME)


def old_path(root: str) -> str:
    """The file that was put aside when it was full."""
    return os.path.join(root, _OLD)


def note(root: str, kind: str, action: str, identity: str, attributes: Mapping[str, str]) -> None:
    """Append an event. ``kind``: container, volume, network, image or pod. ``action``, ``attributes``: docker's words
    for them. An event that can't be written is lost: it must not stop what it tells of."""
    event = {"time": time.time_ns(), "kind": kind, "action": action, "id": identity, "attributes": dict(attributes)}
    line = _line(event)
    if len(line) > _MAX_LINE:
        few = [(key, value) for key, value in attributes.items() if len(key) + len(value) <= _SHORT][-_SHORT:]
        line = _line({**event, "action": action[:_SHORT], "id": identity[:_SHORT], "attributes": dict(few)})
    with suppress(OSError):
        _append(root, line)


def _line(event: Mapping[str, object]) -> bytes:
    return write_own(event).encode("utf-8", "surrogatepass") + b"\n"


def _append(root: str, line: bytes) -> None:
    path = journal_path(root)
    for again in range(_TRIES, -1, -1):
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            held = share(descriptor, wait=False)
            if again and not (held and is_same(descriptor, path)):
                if not held:
                    time.sleep(_PAUSE)
                continue
            # without the lock after so long, its holder hangs; a file that was put aside is still read
            os.write(descriptor, line)
            full = os.fstat(descriptor).st_size >= MAX_SIZE
            if held:
                release(descriptor, path)
            if full and acquire(descriptor, path, wait=False) and is_same(descriptor, path):
                os.rename(path, old_path(root))
            return
        finally:
            os.close(descriptor)
