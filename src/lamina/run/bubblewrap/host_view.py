"""What bubblewrap sees of the host while it makes a container: everything read-only, and beside it the container's
directories and files.

bubblewrap makes mount points by path while the host's root is mounted beside the container's, and has a /proc of the
host open when it enters the working directory. In a volume that others write to, a directory may have become a
symlink by then: wherever it leads, nothing can be made or written there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, Value
from lamina.run.bubblewrap.namespace import new_mounts
from lamina.view import kernel

if TYPE_CHECKING:
    from typing import Any

_ATTRIBUTES = {"ro": 0, "nosuid": kernel.NO_SETUID, "nodev": kernel.NO_DEVICES, "noexec": kernel.NO_PROGRAMS}
_CLEARING = {"rw": 0, "suid": kernel.NO_SETUID, "dev": kernel.NO_DEVICES, "exec": kernel.NO_PROGRAMS}
_PROC = "/proc"


class Exposed(Value):
    """A directory or file ``source`` of this host that is mounted at ``place``; without a source a new tmpfs with
    ``options``."""

    place: str
    source: str = ""
    options: tuple[str, ...] = ()


def with_exposed_sources(spec: Mapping[str, Any], directory: str) -> tuple[dict[str, Any], list[Exposed]]:
    """The runtime spec with places in ``directory`` as its sources, and what is to be mounted there (pure)."""
    shown = [Exposed(os.path.join(directory, "shown-root"), spec["root"]["path"])]
    mounts = []
    for number, mount in enumerate(spec["mounts"]):
        is_memory = mount["type"] == "tmpfs" and mount["destination"] != "/dev"
        if is_memory or mount["type"] == "bind":
            place = os.path.join(directory, f"shown-{number}")
            source, options = ("", tuple(mount["options"])) if is_memory else (mount["source"], ())
            shown.append(Exposed(place, source, options))
            mount = {**mount, "source": place}
        mounts.append(mount)
    return {**spec, "root": {**spec["root"], "path": shown[0].place}, "mounts": mounts}, shown


def make_mount_points(shown: Sequence[Exposed]) -> None:
    """Raises SystemFailure."""
    for one in shown:
        with reported(one.place):
            if one.source and not os.path.isdir(one.source):
                os.close(os.open(one.place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            else:
                os.makedirs(one.place, mode=0o700, exist_ok=True)


def expose(shown: Sequence[Exposed], directory: str) -> None:
    """Enter a new mount namespace with all of ``shown`` mounted, and the rest read-only. For good. Raises OSError,
    SystemFailure, Unsupported."""
    new_mounts()
    copies = [kernel.copied(one.source) if one.source else -1 for one in shown]
    # a user namespace below may only mount a procfs if it sees a writable one
    proc = kernel.copied(_PROC)
    kernel.make_read_only(os.sep)
    kernel.place(proc, os.path.join(directory, "shown-proc"))
    for one, copy in zip(shown, copies, strict=True):
        if copy >= 0:
            kernel.place(copy, one.place)
        else:
            options, attributes = tmpfs_options(one.options)
            kernel.mount("tmpfs", options, one.place, attributes=attributes)


def tmpfs_options(options: Sequence[str]) -> tuple[list[tuple[str, str | None]], int]:
    """The options of a tmpfs for its file system, and the attributes of its mount (pure); of contradicting options
    the last counts. It is made read-only later, when all mount points in it exist."""
    found: dict[str, str] = {}
    attributes = 0
    for option in options:
        key, equals, value = option.partition("=")
        if equals:
            found[key] = value
        elif key in _ATTRIBUTES:
            attributes |= _ATTRIBUTES[key]
        elif key in _CLEARING:
            attributes &= ~_CLEARING[key]
    return list(found.items()), attributes
