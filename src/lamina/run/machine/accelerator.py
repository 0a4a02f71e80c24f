"""Whether this host runs machines by KVM.

It is tried: a /dev/kvm that opens may run nothing, or emulate each instruction, which is slower than QEMU itself.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import platform
import struct
import time

_API_VERSION, _STABLE = 0xAE00, 12
_CREATE_VM, _CREATE_VCPU, _VCPU_SIZE, _RUN = 0xAE01, 0xAE41, 0xAE04, 0xAE80
_SET_MEMORY, _GET_SREGS, _SET_SREGS, _SET_REGS = 0x4020AE46, 0x8138AE83, 0x4138AE84, 0x4090AE82
_EXIT_HLT = 5
_PAGE = 4096
_ROUNDS = 4_000
_CODE = b"\xb9" + struct.pack("<I", _ROUNDS) + b"\x49\x75\xfd\xf4"  # mov ecx, ROUNDS; dec ecx; jnz; hlt
_AT_MOST = 0.0005
"""Seconds for the rounds. A processor needs 20 microseconds, emulation by the kernel 20 milliseconds."""
_TRIES = 3
_SREGS = 312
_SEGMENT = struct.Struct("<QIHBBBBBBBBBx")
_CODE_SEGMENT, _DATA_SEGMENT = 11, 3  # types: execute and read, read and write; both accessed
_SEGMENTS = 6  # cs ds es fs gs ss
_CR0 = 8 * _SEGMENT.size + 2 * 16
_PROTECTED = 1
_REGS = struct.Struct("<18Q")
_RIP, _RFLAGS = 16, 17


def kvm_runs(path: str = "/dev/kvm") -> bool:
    """Let a machine of one page count down and halt. Where no such program is known for the processor, /dev/kvm is
    believed."""
    if platform.machine() != "x86_64":
        return os.access(path, os.R_OK | os.W_OK)
    return any(_runs(path) for _ in range(_TRIES))


def _runs(path: str) -> bool:
    import ctypes

    opened: list[int] = []
    try:
        kvm = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        opened.append(kvm)
        if fcntl.ioctl(kvm, _API_VERSION, 0) != _STABLE:
            return False
        machine = fcntl.ioctl(kvm, _CREATE_VM, 0)
        opened.append(machine)
        memory = mmap.mmap(-1, _PAGE)
        memory[: len(_CODE)] = _CODE
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        fcntl.ioctl(machine, _SET_MEMORY, struct.pack("<IIQQQ", 0, 0, _PAGE, _PAGE, address))
        processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
        opened.append(processor)
        return _halts_soon(kvm, processor)
    except (OSError, ValueError):
        return False
    finally:
        for descriptor in reversed(opened):
            os.close(descriptor)


def _halts_soon(kvm: int, processor: int) -> bool:
    special = bytearray(_SREGS)
    fcntl.ioctl(processor, _GET_SREGS, special)
    for number in range(_SEGMENTS):  # 32 bits, all of the memory
        kind, selector = (_DATA_SEGMENT, 16) if number else (_CODE_SEGMENT, 8)
        _SEGMENT.pack_into(special, number * _SEGMENT.size, 0, 0xFFFFFFFF, selector, kind, 1, 0, 1, 1, 0, 1, 0, 0)
    special[_CR0] |= _PROTECTED
    fcntl.ioctl(processor, _SET_SREGS, bytes(special))
    registers = [0] * 18
    registers[_RIP], registers[_RFLAGS] = _PAGE, 2
    fcntl.ioctl(processor, _SET_REGS, _REGS.pack(*registers))
    with mmap.mmap(processor, fcntl.ioctl(kvm, _VCPU_SIZE, 0)) as state:
        begun = time.perf_counter()
        fcntl.ioctl(processor, _RUN, 0)
        took = time.perf_counter() - begun
        (reason,) = struct.unpack_from("<I", state, 8)
    return reason == _EXIT_HLT and took < _AT_MOST
