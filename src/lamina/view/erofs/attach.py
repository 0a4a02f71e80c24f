"""Mounting of an EROFS image with the tars that it refers to: directly from the files (Linux 6.12 and later, on file
systems other than overlayfs and tmpfs), else from loop devices (6.4 and later). Needs root."""

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
    """Mount an EROFS image at the directory ``target``; returns which of ``sources`` worked. Raises SystemFailure,
    Unsupported."""
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
        raise refused[0]  # without loop devices, report only why files failed
    raise SystemFailure(f"{refused[0].message}; from loop devices: {refused[1].message}", hint=refused[0].hint)


def reads_directly(tar: str) -> bool:
    """Whether to read the tar without the page cache (O_DIRECT). False while more than a sixteenth of it is only in
    the cache: a direct read would force the kernel to write that first. False if the disk can't read 512 bytes (4 KiB
    sectors), because files in tars begin at multiples of 512. Raises OSError."""
    import mmap

    from lamina.store.writeback import unwritten

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
        # bypass the page cache of the tars, else every byte is cached twice
        with suppress(SystemFailure):
            kernel.mount("erofs", [*options, ("directio", None)], target, attributes=attributes)
            return
    kernel.mount("erofs", options, target, attributes=attributes)
