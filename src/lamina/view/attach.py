"""An EROFS image and the tars that it points into, mounted: from the files themselves (Linux from 6.12, and file
systems that allow it: not overlayfs or tmpfs), else from loop devices (from 6.4). Root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from lamina.errors import SystemFailure, Unsupported
from lamina.files import reported
from lamina.store.flush import unwritten
from lamina.view import kernel

FILES, LOOPS = "files", "loop devices"
_PART = 16


def mount_erofs(image: str, tars: Sequence[str], target: str, *, sources: Sequence[str] = (FILES, LOOPS)) -> str:
    """Mount at the directory ``target``; from which of ``sources`` it was. Raises SystemFailure, Unsupported."""
    paths = [image, *tars]
    with reported(target):
        direct = not any(is_being_written(tar) for tar in tars)
    refused: list[SystemFailure | Unsupported] = []
    for source in sources:
        try:
            if source == FILES:
                _mount(paths, target, direct)
            else:
                from lamina.view import loop

                with loop.attached(paths, direct=direct) as devices:
                    _mount(devices, target, direct)
            return source
        except (SystemFailure, Unsupported) as error:
            refused.append(error)
    if len(refused) == 1 or isinstance(refused[-1], Unsupported):
        raise refused[0]  # no loop devices: say only why files did not do
    raise SystemFailure(f"{refused[0].message}; from loop devices: {refused[1].message}", hint=refused[0].hint)


def is_being_written(tar: str) -> bool:
    """Whether a good part of it is in the page cache only. A direct read would make the kernel write what it is about
    to read, and wait for that: such a tar is read through its page cache."""
    return unwritten(tar) > os.path.getsize(tar) // _PART


def _mount(paths: Sequence[str], target: str, direct: bool) -> None:
    options: list[tuple[str, str | None]] = [("ro", None), ("source", paths[0])]
    options += [("device", path) for path in paths[1:]]
    attributes = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES
    if direct:
        # read past the tars' own page cache: else every byte is kept twice
        with suppress(SystemFailure):
            kernel.mount("erofs", [*options, ("directio", None)], target, attributes=attributes)
            return
    kernel.mount("erofs", options, target, attributes=attributes)
