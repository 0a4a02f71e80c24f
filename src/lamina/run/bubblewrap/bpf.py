"""A seccomp filter as a BPF program, made by libseccomp where there is no OCI runtime (Linux)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Mapping
from typing import Any

from lamina.errors import InvalidDocument, Unsupported

LIBRARY = "libseccomp.so.2"
_ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_NUMBER = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_COMPARES = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_OPTIMIZE, _AS_A_TREE = 8, 2  # seccomp_attr_set(3): fewer steps a call
_NO_SUCH_CALL = -1
_LOAD, _SAME, _RETURN = 0x20, 0x15, 0x06  # instructions of a filter: struct sock_filter of linux/filter.h
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data
_REQUEST_AT = 24 if sys.byteorder == "little" else 28  # the low half of the second argument
_IOCTLS = (
    (0xC000003E, 16),  # x86_64
    (0xC000003E, 0x40000000 + 514),  # x32
    (0x40000003, 54),  # i386
    (0xC00000B7, 29),  # aarch64
    (0x40000028, 54),  # arm
    (0xC00000F3, 29),  # riscv64
    (0x80000016, 54),  # s390x
    (0x00000016, 54),  # s390
    (0xC0000015, 54),  # ppc64le
)
"""The number of ioctl(2), by AUDIT_ARCH."""
_TYPING = (0x5412, 0x541C, 0x80017472)  # TIOCSTI and TIOCLINUX of most architectures, TIOCSTI of PowerPC


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def load() -> ctypes.CDLL:
    """Load libseccomp. Raises Unsupported if it is not installed."""
    try:
        return ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError:
        raise Unsupported(
            f"without {LIBRARY} there is no seccomp filter in bubblewrap's containers", hint="install libseccomp2"
        ) from None


def compiled(wanted: Mapping[str, Any]) -> bytes:
    """The BPF program for ``linux.seccomp`` of a runtime spec. Raises Unsupported (no libseccomp, or it has no
    such rule), InvalidDocument."""
    library = load()
    library.seccomp_init.restype = ctypes.c_void_p
    try:
        default = _action(wanted["defaultAction"], wanted.get("defaultErrnoRet"))
        context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
        if not context:
            raise Unsupported(
                "libseccomp can't create a filter with this defaultAction",
                hint="correct defaultAction in the seccomp profile",
            )
        try:
            return _Filter(library, context, default).export(wanted)
        finally:
            library.seccomp_release(context)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidDocument(
            f"the seccomp profile is malformed: {error!s:.100}", hint="write it in the format of docker's profiles"
        ) from None


def without_terminal_input(program: bytes) -> bytes:
    """The filter ``program`` (b"": none), extended for a program at its caller's terminal: it may not insert
    characters into the terminal's input, which the caller's shell would run as commands afterwards (CVE-2017-5226)
    (pure)."""
    refused = _ACTIONS["SCMP_ACT_ERRNO"] | errno.EPERM
    steps: list[tuple[int, int, int, int]] = []
    last = len(_TYPING) - 1
    requests = [(_SAME, last - at, int(at == last), request) for at, request in enumerate(_TYPING)]
    for architecture, number in _IOCTLS:
        block = [(_LOAD, 0, 0, _REQUEST_AT), *requests, (_RETURN, 0, 0, refused)]
        block = [(_LOAD, 0, 0, _NUMBER_AT), (_SAME, 0, len(block), number), *block]
        steps += [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_SAME, 0, len(block), architecture), *block]
    allow = struct.pack("=HBBI", _RETURN, 0, 0, _ACTIONS["SCMP_ACT_ALLOW"])
    return b"".join(struct.pack("=HBBI", *step) for step in steps) + (program or allow)


def _action(name: str, number: int | None) -> int:
    action = _ACTIONS[name]
    return action | (errno.EPERM if number is None else int(number)) if name in _WITH_NUMBER else action


class _Filter:
    def __init__(self, library: ctypes.CDLL, context: ctypes.c_void_p, default: int) -> None:
        self._library = library
        self._context = context
        self._default = default

    def export(self, wanted: Mapping[str, Any]) -> bytes:
        library, context = self._library, self._context
        for name in wanted.get("architectures", ()):
            number = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
            if number:  # an architecture that this libseccomp knows
                self._check(library.seccomp_arch_add(context, ctypes.c_uint32(number)), name, errno.EEXIST)
        for rule in wanted.get("syscalls", ()):
            action = _action(rule["action"], rule.get("errnoRet"))
            if action == self._default:
                continue
            for name in rule["names"]:
                call = library.seccomp_syscall_resolve_name(name.encode())
                if call != _NO_SUCH_CALL:
                    self._add(action, call, name, rule.get("args", ()))
        library.seccomp_attr_set(context, _OPTIMIZE, ctypes.c_uint32(_AS_A_TREE))  # older versions do not know it
        with os.fdopen(os.memfd_create("lamina-seccomp"), "w+b") as file:
            self._check(library.seccomp_export_bpf(context, file.fileno()), "the filter")
            file.seek(0)
            return file.read()

    def _add(self, action: int, call: int, name: str, given: Any) -> None:
        compares = [
            _Compare(one["index"], _COMPARES[one["op"]], one["value"], one.get("valueTwo", 0)) for one in given
        ]
        # several conditions on one argument are alternatives, as in the OCI runtimes
        apart = len({one.arg for one in compares}) < len(compares)
        for together in [[one] for one in compares] if apart else [compares]:
            array = (_Compare * len(together))(*together)
            added = self._library.seccomp_rule_add_array(
                self._context, ctypes.c_uint32(action), ctypes.c_int(call), ctypes.c_uint(len(together)), array
            )
            self._check(added, name, errno.EEXIST)

    @staticmethod
    def _check(code: int, what: str, *allowed: int) -> None:
        if code < 0 and -code not in allowed:
            raise Unsupported(f"libseccomp: {what}: {os.strerror(-code)}", hint="correct the seccomp profile")
