"""The journal of a store: what happened to containers, volumes, networks and images, as one line of JSON each.

Lines are only ever appended, each by one write, so that processes need no lock. It is not synced: it tells what
happened, and nothing depends on it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.light import TYPE_CHECKING
from lamina.spec.json import write_own

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = "events"


def journal_path(root: str) -> str:
    """``root``: of the store."""
    return os.path.join(root, _NAME)


def note(root: str, kind: str, action: str, identity: str, attributes: Mapping[str, str]) -> None:
    """Append an event. ``kind``: container, volume, network, image or pod. ``action``, ``attributes``: docker's words
    for them. An event that can't be written is lost: it must not stop what it tells of."""
    event = {"time": time.time_ns(), "kind": kind, "action": action, "id": identity, "attributes": dict(attributes)}
    line = write_own(event).encode("utf-8", "surrogatepass") + b"\n"
    with suppress(OSError):
        descriptor = os.open(journal_path(root), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
