"""A program in the namespaces of a running bubblewrap container: `exec` without an OCI runtime (decision 0026).

This runs in a Python process of its own, which ``launch.execute`` starts. The container is hostile: a program in
there may try to trace this process, or to write to the file that it was started from. So the process can't be traced
until it is the container's program, and its file is on a mount that is read-only for everyone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from lamina.host.libc import failed, libc
from lamina.light import TYPE_CHECKING
from lamina.run.capability import ALL
from lamina.run.child import CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND, apply_limits, held_signals, wait_for
from lamina.run.spec import program_name, program_paths
from lamina.spec.json import read_own

if TYPE_CHECKING:
    from typing import Any

_DUMPABLE, _NO_NEW_PRIVILEGES, _SECCOMP, _DROP_BOUND, _AMBIENT = 4, 38, 22, 24, 47  # prctl(2)
_FILTER, _CLEAR_ALL = 2, 4
_CAPABILITIES = 0x20080522  # capset(2), the version with 64 capabilities
_STEP = 8  # bytes of an instruction of a filter
_MISSING = (errno.ENOENT, errno.ENOTDIR)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def main(described: int) -> None:
    """Run the process that the JSON in the descriptor ``described`` defines, and exit with its exit code. Its
    fields: ``process``: of a runtime spec; ``target``: a pidfd of a process in the container; ``kinds``: the
    namespaces to enter; ``groups``: descriptors of cgroups to join; ``filter``: a seccomp filter, in hexadecimal."""
    with open(described, "rb") as file:
        order = read_own(file.read().decode())
    try:
        _call(libc().prctl(_DUMPABLE, 0))
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with suppress(OSError):  # the descriptor of this listing
                    os.set_inheritable(int(name), False)
        apply_limits(order["process"])
        sys.meta_path.clear()  # a module that is imported after this would be a file of the container
        _call(libc().setns(order["target"], order["kinds"]))
        _call(libc().prctl(_DUMPABLE, 0))
        code = _run(order)
    except OSError as error:
        _say(f"the container can't be entered: {error.strerror}")
        code = CANNOT_RUN
    except BaseException as error:  # noqa: BLE001  (printing a traceback would import modules)
        _say(f"the container can't be entered: {type(error).__name__}: {error}")
        code = CANNOT_RUN
    os._exit(code)


def _run(order: Mapping[str, Any]) -> int:
    process = order["process"]
    with held_signals():
        child = os.fork()
        if child == 0:
            try:
                _become(process, order["groups"], bytes.fromhex(order["filter"]))
                _execute(process)
            finally:
                os._exit(CANNOT_RUN)

        def passed_on(number: int, by_terminal: bool) -> None:
            if not (by_terminal and process["terminal"]):  # the terminal has sent it to the program too
                os.kill(child, number)

        return wait_for(child, passed_on)


def _become(process: Mapping[str, Any], groups: Sequence[int], steps: bytes) -> None:
    """Take the user, privileges, limits and seccomp filter of the container's programs."""
    user, capabilities = process["user"], process["capabilities"]
    try:
        for one in groups:
            os.write(one, b"0")
        if not process["terminal"]:
            os.setsid()
        os.umask(0o022)
        for number, name in enumerate(ALL):
            if name not in capabilities["bounding"]:
                libc().prctl(_DROP_BOUND, number)  # a kernel may lack some of them
        try:
            os.setgroups(user["additionalGids"])
        except PermissionError:  # forbidden in a namespace that only has a plain user's own id
            if user["additionalGids"]:
                raise
        os.setresgid(user["gid"], user["gid"], user["gid"])
        os.setresuid(user["uid"], user["uid"], user["uid"])
        libc().prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0)
        _keep(capabilities["effective"], capabilities["permitted"])
        _call(libc().prctl(_DUMPABLE, 0))
        try:
            os.chdir(process["cwd"])
        except OSError as error:
            _say(f"{process['cwd']}: {error.strerror}")
            os._exit(NOT_FOUND if error.errno in _MISSING else NOT_EXECUTABLE)
        _call(libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        if steps:
            program = _Program(len(steps) // _STEP, steps)
            _call(libc().prctl(_SECCOMP, _FILTER, ctypes.byref(program)))
    except OSError as error:
        _say(f"the container's rights can't be taken: {error.strerror}")
        os._exit(CANNOT_RUN)


def _keep(effective: Sequence[str], permitted: Sequence[str]) -> None:
    bits = [sum(1 << ALL.index(name) for name in names) for names in (effective, permitted)]
    low, high = ([bit >> shift & 0xFFFFFFFF for bit in bits] for shift in (0, 32))
    header, data = struct.pack("=Ii", _CAPABILITIES, 0), struct.pack("=6I", *low, 0, *high, 0)
    _call(libc().capset(header, data))


def _execute(process: Mapping[str, Any]) -> None:
    """Execute the program; on failure print why, and exit with docker's exit code."""
    environment = {key: value for key, _, value in (item.partition("=") for item in process["env"])}
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    refused: OSError | None = None
    for path in program_paths(process):
        try:
            os.execve(path, process["args"], environment)
        except OSError as error:
            if refused is None or error.errno not in _MISSING or os.path.exists(path):
                refused = OSError(error.errno, error.strerror, path)
            if error.errno not in (*_MISSING, errno.EACCES):
                break
    if refused is None or refused.errno in _MISSING:
        there = refused is not None and os.path.exists(refused.filename)
        why = "its interpreter is not found" if there else "not found in the container"
        _say(f"{program_name(process)}: {why}")
        os._exit(NOT_FOUND)
    _say(f"{program_name(process)}: {refused.strerror}")
    os._exit(NOT_EXECUTABLE)


def _call(result: int) -> None:
    if result != 0:
        raise failed()


def _say(text: str) -> None:
    os.write(2, b"lamina: " + os.fsencode(text) + b"\n")
