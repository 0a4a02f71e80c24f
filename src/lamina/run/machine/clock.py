"""How fast the counter of this host's processor runs (TSC).

QEMU shows it to an emulated machine as it is. A microvm has no other clock to measure it with, and its kernel stops
where the measurement fails because the host is busy: so it is told.
"""

from __future__ import annotations

import mmap
import platform
import time

_CODE = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"  # rdtsc; shl rdx, 32; or rax, rdx; ret
_SPAN = 0.005  # seconds


def tsc_khz() -> int:
    """0 where it is not known: another processor, or a host that lets no process make code."""
    if platform.machine() != "x86_64":
        return 0
    import ctypes

    try:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return 0
    code.write(_CODE)
    counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    counted, began = counter(), time.perf_counter()
    time.sleep(_SPAN)
    counted, took = counter() - counted, time.perf_counter() - began
    return int(counted / took / 1000)
