"""An EROFS image and the tars that it points into, mounted: from the files themselves (Linux from 6.12, and file
systems that allow it: not overlayfs or tmpfs), else from loop devices (from 6.4). Root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from lamina.errors import SystemFailure, Unsupported
from lamina.host.files import READ_FLAGS, reported
from lamina.view import kernel

FILES, LOOPS = "files", "loop devices"
_PART = 16
_BLOCK = 512


def mount_erofs(image: str, tars: Sequence[str], target: str, *, sources: Sequence[str] = (FILES, LOOPS)) -> str:
    """Mount at the directory ``target``; from which of ``sources`` it was. Raises SystemFailure, Unsupported."""
    paths = [image, *tars]
    with reported(target):
        direct = all(reads_directly(tar) for tar in tars)
    refused: list[SystemFailure | Unsupported] = []
    for source in sources:
        try:
            if source == FILES:
                _mount(paths, target, direct)
            else:
                from lamina.view.erofs import loop

                with loop.attached(paths, direct=direct) as devices:
                    _mount(devices, target, direct)
            return source
        except (SystemFailure, Unsupported) as error:
            refused.append(error)
    if len(refused) == 1 or isinstance(refused[-1], Unsupported):
        raise refused[0]  # no loop devices: say only why files did not do
    raise SystemFailure(f"{refused[0].message}; from loop devices: {refused[1].message}", hint=refused[0].hint)


def reads_directly(tar: str) -> bool:
    """Whether it is to be read around its page cache. Not while a good part of it is there only: a direct read would
    make the kernel write what it is about to read, and wait for that. And not where the disk reads no 512 bytes (its
    sectors have 4 KiB): files in tars begin at any multiple of that. Raises OSError."""
    import mmap

    from lamina.store.flush import unwritten

    if unwritten(tar) > os.path.getsize(tar) // _PART:
        return False
    with mmap.mmap(-1, mmap.PAGESIZE) as page, memoryview(page) as buffer:
        try:
            descriptor = os.open(tar, READ_FLAGS | os.O_DIRECT)
        except OSError:
            return False
        try:
            os.preadv(descriptor, [buffer[:_BLOCK]], _BLOCK)
        except OSError:
            return False
        finally:
            os.close(descriptor)
    return True


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
