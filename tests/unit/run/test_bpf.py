"""Seccomp filters for bubblewrap: how the kernel applies them."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Any

import pytest

from lamina.errors import InvalidDocument, Unsupported
from lamina.run.bubblewrap import bpf
from lamina.run.capability import DEFAULT
from lamina.run.seccomp import default_profile, seccomp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
_NO_NEW_RIGHTS, _SECCOMP, _FILTER = 38, 22, 2  # prctl(2)


def refused(program: bytes, *calls: tuple[int, ...]) -> list[int]:
    """The errors of system calls under the filter."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            buffer = ctypes.create_string_buffer(program)
            prog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
            assert libc.prctl(_NO_NEW_RIGHTS, 1, 0, 0, 0) == 0
            assert libc.prctl(_SECCOMP, _FILTER, prog) == 0
            for call in calls:
                failed = libc.syscall(*map(ctypes.c_long, call)) == -1
                os.write(writing, bytes([ctypes.get_errno() if failed else 0]))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as file:
        return list(file.read())


def rule(*names: str, action: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def compare(index: int, op: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}


@pytest.fixture
def numbers() -> dict[str, int]:
    library = ctypes.CDLL(bpf.LIBRARY)
    return {
        name: library.seccomp_syscall_resolve_name(name.encode()) for name in ("dup", "getpgid", "getsid", "kill")
    }


def test_the_kernel_applies_the_filter(numbers: dict[str, int]) -> None:
    missing = numbers["dup"], 9999  # EBADF
    program = bpf.compiled(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_NOTHING"],
            "syscalls": [
                rule("getsid", "no_such_call", errnoRet=77),
                rule("getpgid", args=[compare(0, "EQ", 5)]),
                # two of one argument: one or the other
                rule("kill", args=[compare(0, "EQ", 11), compare(0, "EQ", 12)], errnoRet=78),
                rule("kill", args=[compare(1, "MASKED_EQ", 0x100, 0x100), compare(0, "EQ", 13)], errnoRet=79),
            ],
        }
    )
    kill = numbers["kill"]
    calls = [missing, (numbers["getsid"], 0), (numbers["getpgid"], 5), (numbers["getpgid"], 0)]
    calls += [(kill, 11, 0x100), (kill, 12, 0x800), (kill, 13, 0x500), (kill, 13, 0x800)]
    *all_but_last, last = refused(program, *calls)
    assert all_but_last == [9, 77, 1, 0, 78, 78, 79]
    assert last in (errno.EINVAL, errno.ESRCH)  # the kernel's own


@pytest.mark.parametrize("before", [False, True])
def test_the_filter_refuses_to_insert_input_into_a_terminal(numbers: dict[str, int], before: bool) -> None:
    """TIOCSTI and TIOCLINUX are refused whatever the upper half of the argument is, which the kernel ignores; other
    requests are allowed."""
    filter = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("getsid", errnoRet=77)]}
    program = bpf.without_terminal_input(bpf.compiled(filter) if before else b"")
    ioctl = ctypes.CDLL(bpf.LIBRARY).seccomp_syscall_resolve_name(b"ioctl")
    calls = [(ioctl, 9999, request) for request in (0x5412, 0x541C, 0x1_0000_5412, 0x5413, 0x5401)]
    answers = refused(program, *calls, (numbers["dup"], 0x5412, 0x5412), (numbers["getsid"], 0))
    assert answers == [errno.EPERM] * 3 + [errno.EBADF] * 3 + [77 if before else 0]


def test_the_default_seccomp_profile_is_dockers() -> None:
    library = ctypes.CDLL(bpf.LIBRARY)
    number = library.seccomp_syscall_resolve_name(b"swapoff")
    dup = library.seccomp_syscall_resolve_name(b"dup")
    program = bpf.compiled(
        seccomp(default_profile(), DEFAULT, "amd64" if os.uname().machine == "x86_64" else "arm64")
    )
    assert refused(program, (dup, 9999), (number, 0)) in ([9, 1], [9, 38])


def test_malformed_seccomp_profiles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (
        {},
        {"defaultAction": "x"},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["dup"]}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("dup", args=[{"index": 0}])]},
    ):
        with pytest.raises(InvalidDocument, match="malformed"):
            bpf.compiled(bad)
    monkeypatch.setattr(bpf, "LIBRARY", "libnothing.so")
    with pytest.raises(Unsupported, match="libnothing"):
        bpf.compiled({"defaultAction": "SCMP_ACT_ALLOW"})
