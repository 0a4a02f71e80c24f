"""Files as read-only block devices (loop(4)), for kernels and file systems that can't mount a file directly. Linux,
root.

A device is freed with its last user: an unmount or a killed process leaves none behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from lamina.errors import SystemFailure, Unsupported
from lamina.host.files import READ_FLAGS, reported

_CONFIGURE, _GET_FREE = 0x4C0A, 0x4C82
_READ_ONLY, _AUTO_CLEAR, _DIRECT = 1, 4, 16
_CONFIG = struct.Struct("=II232s64x")  # loop_config: file, block size, loop_info64, reserved
_INFO = struct.Struct("=QQQQQIIII64s64s32s16x")
_BLOCK = 512
_TRIES = 100
_CONTROL = "/dev/loop-control"


@contextmanager
def attached(paths: Sequence[str], *, direct: bool = True) -> Iterator[list[str]]:
    """Attach a block device to each file; it exists while the block runs and as long as a mount uses it. ``direct``:
    bypass the page cache of the files where possible.

    Raises Unsupported (no loop devices), SystemFailure.
    """
    with ExitStack() as kept:
        devices = []
        for path in paths:
            device, descriptor = _attach(path, direct)
            kept.callback(os.close, descriptor)
            devices.append(device)
        yield devices


def _attach(path: str, direct: bool) -> tuple[str, int]:
    """Attach a file; returns the device and a descriptor that keeps it attached."""
    with reported(path):
        file = os.open(path, READ_FLAGS)
    try:
        if os.fstat(file).st_size % _BLOCK:
            raise Unsupported(f"{path} is not a whole number of blocks", hint="unpack the image instead")
        for _ in range(_TRIES):
            device = _free()
            descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _configure(descriptor, file, path, direct)
            except OSError as error:
                os.close(descriptor)
                if error.errno == errno.EBUSY:  # another process took the device
                    continue
                raise SystemFailure(
                    f"{path} as {device}: {error.strerror}", hint="list loop devices with `losetup --list`"
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
            return device, descriptor
    finally:
        os.close(file)
    raise SystemFailure("no loop device is free", hint="list loop devices with `losetup --list`")


def _free() -> str:
    """Return a free loop device, created if needed; another process may still take it first."""
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            number = fcntl.ioctl(control, _GET_FREE)
        finally:
            os.close(control)
    except OSError as error:
        raise Unsupported(f"{_CONTROL}: {error.strerror}", hint="allow loop devices, or use another view") from error
    device = f"/dev/loop{number}"
    try:
        if stat.S_ISBLK(os.stat(device).st_mode):
            return device
    except FileNotFoundError:
        pass
    raise Unsupported(f"{device} does not exist", hint="use the kernel's /dev, or another view")


def _configure(descriptor: int, file: int, path: str, direct: bool) -> None:
    """Attach the file with direct I/O if its file system supports it, else every byte is in memory twice."""
    name = os.fsencode(path)[-63:]
    plain = _READ_ONLY | _AUTO_CLEAR
    for flags in (plain | _DIRECT, plain) if direct else (plain,):
        info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"")
        try:
            fcntl.ioctl(descriptor, _CONFIGURE, _CONFIG.pack(file, _BLOCK, info))
        except OSError as error:
            if error.errno == errno.EINVAL and flags & _DIRECT:
                continue
            raise
        return
