"""Containers for a program that uses lamina as a library: run from any thread, with output captured or passed on.

Other processes do the work (``helper``, ``jobs``). This process only waits for them: it sets no signal handler, has
no child to wait for, and stays the user that it is.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from lamina.errors import LaminaError, SystemFailure, TimedOut, UsageError
from lamina.light import replace
from lamina.run import options
from lamina.run.library.helper import FAILED, Helper
from lamina.run.library.jobs import CREATED, ENDED, ExecRequest, RunRequest, StoreLocation
from lamina.run.library.message import receive
from lamina.run.options import ContainerOptions, Mount
from lamina.text import counted

if TYPE_CHECKING:
    import socket


class RunArguments(TypedDict):
    """The arguments of ``Image.run`` that are options of the container."""

    entrypoint: str | None
    env: Mapping[str, str] | Sequence[str]
    mounts: Mapping[str, str | os.PathLike[str]] | Sequence[str]
    tmpfs: Sequence[str]
    workdir: str
    hostname: str
    memory: int | str | None
    cpus: float | None
    pids: int | None
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    user: str
    network: str
    read_only: bool
    init: bool
    interactive: bool
    name: str
    remove: bool


Input = bytes | str | int | IO[Any] | None
Output = int | IO[Any] | Callable[[bytes], object]
_PIECE = 1 << 16
_KILLED = 137  # the exit code of a program that SIGKILL has ended
_starting = threading.Lock()
_helper: Helper | None = None


class Finished:
    """A container whose program has ended. It is kept, with its changes, until ``remove``, or until this value is
    garbage-collected; ``kept`` ones stay in the store."""

    def __init__(
        self, location: StoreLocation, identity: str, code: int, warnings: tuple[str, ...], owner: int
    ) -> None:
        self.location = location
        self.identity = identity
        self.code = code
        self.warnings = warnings
        self.stdout = self.stderr = b""
        self.known: list[tuple[str, bytes]] | None = None
        """The changes, if they came with the end."""
        self._last = weakref.finalize(self, _dropped, location, identity, owner, os.getpid()) if owner >= 0 else None

    @property
    def is_kept(self) -> bool:
        return self._last is None

    def changes(self) -> list[tuple[str, bytes]]:
        """A, C or D, and the path. Raises NotFound (it was removed), SystemFailure."""
        if self.known is None:
            self.known = self.call("changes")
        return self.known

    def call(self, job: str, *arguments: object) -> Any:
        """The result of a job for this container."""
        return call(self.location, job, self.identity, *arguments)

    def remove(self) -> None:
        """Remove the container now. Raises SystemFailure."""
        last = self._last.detach() if self._last is not None else None
        try:
            self.call("remove")
        finally:
            if last is not None:
                os.close(last[2][2])


def _dropped(location: StoreLocation, identity: str, owner: int, maker: int) -> None:
    """Release the container, without waiting for its removal."""
    if os.getpid() != maker:
        return  # in a fork of the process that owns it
    with suppress(LaminaError, OSError):
        if _helper is not None and _helper.is_mine:
            _helper.start("remove", (location, identity), location.root).close()
    os.close(owner)  # the next command removes it


class Executed(NamedTuple):
    """How a program in a running container ended, and what was captured."""

    code: int
    stdout: bytes
    stderr: bytes


def exec_options(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | Sequence[str] = (),
    workdir: str = "",
    user: str = "",
    interactive: bool = False,
) -> ContainerOptions:
    """The options of a further program in a container, from Python values. Raises UsageError."""
    _refuse_text(command=command, env=env)
    if not command:
        raise UsageError("no command to run in the container", hint="give a list of words, like ['ls', '-l']")
    return ContainerOptions(
        command=tuple(map(os.fspath, command)),
        env=tuple(options.parse_env(_variables(env), os.environ)),
        workdir=options.parse_workdir(workdir),
        user=user,
        interactive=interactive,
    )


def _variables(env: Mapping[str, str] | Sequence[str]) -> Sequence[str]:
    return [f"{key}={value}" for key, value in env.items()] if isinstance(env, Mapping) else env


def container_options(command: Sequence[str], **given: Unpack[RunArguments]) -> ContainerOptions:
    """The options of a container, from Python values. Raises UsageError."""
    lists: dict[str, object] = {name: given[name] for name in ("env", "mounts", "tmpfs", "cap_add", "cap_drop")}
    _refuse_text(command=command, **lists)
    memory = given["memory"]
    return ContainerOptions(
        command=tuple(map(os.fspath, command)),
        entrypoint=given["entrypoint"],
        env=tuple(options.parse_env(_variables(given["env"]), os.environ)),
        mounts=(*_binds(given["mounts"]), *map(options.parse_tmpfs, given["tmpfs"])),
        workdir=options.parse_workdir(given["workdir"]),
        user=given["user"],
        read_only=given["read_only"],
        network=given["network"],
        hostname=options.parse_hostname(given["hostname"]),
        name=given["name"],
        interactive=given["interactive"],
        cap_add=tuple(given["cap_add"]),
        cap_drop=tuple(given["cap_drop"]),
        init=given["init"],
        memory=None if memory is None else options.parse_memory(str(memory)),
        cpus=options.parse_cpus(given["cpus"]),
        pids=options.parse_pids(given["pids"]),
        remove=given["remove"],
    )


def _refuse_text(**given: object) -> None:
    """Raises UsageError for a string in the place of a list."""
    for what, words in given.items():
        if isinstance(words, (str, bytes)):
            hint = "give a list of words, like ['sh', '-c', 'ls']"
            raise UsageError(f"{what} is a string, not a list: {words!r:.100}", hint=hint)


def _binds(mounts: Mapping[str, str | os.PathLike[str]] | Sequence[str]) -> list[Mount]:
    if isinstance(mounts, Mapping):
        return [
            replace(options.parse_tmpfs(target), kind="bind", source=_absolute(source), mode=None)
            for target, source in mounts.items()
        ]
    return [_from_here(options.parse_volume(word)) for word in mounts]


def _from_here(mount: Mount) -> Mount:
    return replace(mount, source=_absolute(mount.source)) if mount.kind == "bind" else mount


def _absolute(source: str | os.PathLike[str]) -> str:
    """The absolute path: the process that runs the container has another working directory."""
    return os.path.abspath(os.path.expanduser(os.fspath(source)))


def call(location: StoreLocation, job: str, *arguments: object) -> Any:
    """Run a job, and wait for its result. Raises what the job raises, and SystemFailure."""
    with _start(job, (location, *arguments), location.root, ()) as connection:
        try:
            (kind, value), _ = receive(connection)
        except (EOFError, OSError):
            raise _killed() from None
    if kind == FAILED:
        raise value
    return value


def run(
    request: RunRequest, *, stdin: Input, stdout: Output, stderr: Output, timeout: float | None = None
) -> Finished:
    """Run a container to its end. ``stdin``: bytes or text for its standard input, an open file, None for none.
    ``stdout``, ``stderr``: subprocess.PIPE to capture it, DEVNULL, an open file, or a function that is called with
    each piece; ``stderr`` also STDOUT. ``timeout`` in seconds. Raises ContainerFailure (the program can't be
    started), TimedOut, UsageError, SystemFailure, and as ``run.container.life.create``."""
    with ExitStack() as opened:
        return _Run(request, opened, stdin, stdout, stderr, timeout).finished()


def execute(
    request: ExecRequest, *, stdin: Input, stdout: Output, stderr: Output, timeout: float | None = None
) -> Executed:
    """Run a program in a running container, to its end. The streams are as for ``run``. Raises ContainerFailure (the
    program can't be started), TimedOut (the program is killed), Conflict (the container does not run), NotFound,
    UsageError, SystemFailure."""
    with ExitStack() as opened:
        return _Execution(request, opened, stdin, stdout, stderr, timeout).finished()


class _Work:
    """A job that runs a program, from its start to its end."""

    job = ""
    rest: float | None = None
    """Seconds without output after the program's end, after which the output that its children still hold is given
    up; None: wait for them."""

    def __init__(
        self,
        request: RunRequest | ExecRequest,
        opened: ExitStack,
        stdin: Input,
        stdout: Output,
        stderr: Output,
        timeout: float | None,
    ) -> None:
        self._request = request
        self._opened = opened
        self._timeout = timeout
        self._until = None if timeout is None else time.monotonic() + timeout
        self._waiting = opened.enter_context(selectors.DefaultSelector())
        self._heard: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._identity = ""
        self._owner = -1
        self._ended: dict[str, Any] | None = None
        with ExitStack() as given:
            files = [_input(stdin, given), self._output("stdout", stdout, given)]
            both = isinstance(stderr, int) and stderr == subprocess.STDOUT
            files.append(files[1] if both else self._output("stderr", stderr, given))
            self._connection = opened.enter_context(_start(self.job, (request,), request.location.root, files))
        self._waiting.register(self._connection, selectors.EVENT_READ, self._hear)

    def _output(self, name: str, wanted: Output, given: ExitStack) -> int:
        """The descriptor that the program writes to."""
        if isinstance(wanted, int) and wanted == subprocess.DEVNULL:
            return _closed_later(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), given)
        if not callable(wanted) and wanted != subprocess.PIPE:
            return _descriptor(wanted)
        take = wanted if callable(wanted) else self._heard[name].append
        reading, writing = os.pipe()
        _closed_later(writing, given)
        _closed_later(reading, self._opened)

        def read() -> None:
            data = os.read(reading, _PIECE)
            if data:
                take(data)
            else:
                self._waiting.unregister(reading)

        self._waiting.register(reading, selectors.EVENT_READ, read)
        return writing

    def _waited(self) -> dict[str, Any]:
        """How the program ended. Raises TimedOut, with what was captured, after the container was killed."""
        late = False
        try:
            while self._waiting.get_map():
                left = None if self._until is None else self._until - time.monotonic()
                if left is not None and left <= 0:
                    late, self._until = True, None
                    self._kill()
                    continue
                ready = self._waiting.select(left if self._ended is None else self.rest)
                if not ready and self._ended is not None:
                    break
                for key, _ in ready:
                    key.data()
        except BaseException:
            self._give_up()
            raise
        assert self._ended is not None
        if late:
            self._discard()
            command = " ".join(self._request.wanted.command) or "the program"
            error = TimedOut(
                f"{command!r:.200} ran longer than {counted(self._timeout or 0, 'second')}, and was killed",
                hint="give it a longer timeout",
            )
            error.stdout, error.stderr = self._captured()
            raise error
        return self._ended

    def _captured(self) -> tuple[bytes, bytes]:
        return b"".join(self._heard["stdout"]), b"".join(self._heard["stderr"])

    def _kill(self) -> None:
        """End the program: it ran too long."""
        raise NotImplementedError

    def _give_up(self) -> None:
        """Leave nothing behind: waiting has failed, or was interrupted."""
        raise NotImplementedError

    def _discard(self) -> None:
        """Remove what the program leaves: nobody gets its result."""

    def _hear(self) -> None:
        """Receive a message of the process that runs the container."""
        try:
            (kind, value), files = receive(self._connection)
        except (EOFError, OSError):
            if self._ended is None:
                raise _killed() from None
            self._waiting.unregister(self._connection)
            return
        if kind == CREATED:
            self._identity = value
            self._owner = files[0] if files else -1
        elif kind == ENDED:
            self._ended = value
        elif kind == FAILED:
            self._identity = ""  # it was removed
            raise value


class _Run(_Work):
    """One container."""

    job = "run"

    def finished(self) -> Finished:
        ended = self._waited()
        done = Finished(self._request.location, self._identity, ended["code"], ended["warnings"], self._owner)
        done.known = ended["changes"]
        done.stdout, done.stderr = self._captured()
        return done

    def _discard(self) -> None:
        Finished(self._request.location, self._identity, 0, (), self._owner).remove()

    def _kill(self) -> None:
        """Kill the container, as soon as it exists."""
        while not self._identity:
            self._hear()
        call(self._request.location, "stop", self._identity)

    def _give_up(self) -> None:
        """Leave nothing behind: the process that runs the container removes it if it can't send its messages."""
        self._connection.close()
        if self._identity:
            with suppress(LaminaError):
                call(self._request.location, "stop", self._identity)
        if self._owner >= 0:
            os.close(self._owner)


class _Execution(_Work):
    """One program in a running container."""

    job = "execute"
    rest = 1.0
    _killed = False

    def finished(self) -> Executed:
        code = self._waited()["code"]
        return Executed(code, *self._captured())

    def _kill(self) -> None:
        import socket

        self._killed = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def _hear(self) -> None:
        try:
            super()._hear()
        except SystemFailure:
            if not self._killed:
                raise
            self._ended = {"code": _KILLED}
            self._waiting.unregister(self._connection)

    def _give_up(self) -> None:
        self._connection.close()


def _start(job: str, arguments: Sequence[object], root: str, files: Sequence[int]) -> socket.socket:
    global _helper
    with _starting:
        if _helper is None or not _helper.is_mine:
            _helper = Helper()
        helper = _helper
    try:
        return helper.start(job, arguments, root, files)
    except SystemFailure:  # the helper was killed
        with _starting:
            if _helper is helper:
                helper.close()
                _helper = Helper()
            helper = _helper
        return helper.start(job, arguments, root, files)


def _killed() -> SystemFailure:
    return SystemFailure("the helper process was killed", hint="try again")


def _input(given: Input, opened: ExitStack) -> int:
    if given is None:
        return _closed_later(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), opened)
    if isinstance(given, (bytes, bytearray, memoryview, str)):
        from lamina.run.child import in_memory

        data = given.encode("utf-8", "surrogateescape") if isinstance(given, str) else bytes(given)
        return _closed_later(in_memory(data), opened)
    return _descriptor(given)


def _descriptor(file: int | IO[Any]) -> int:
    if isinstance(file, int):
        if file < 0:
            raise UsageError(f"{file} is not an open file", hint="give PIPE, DEVNULL, an open file or a function")
        return file
    try:
        with suppress(AttributeError):
            file.flush()
        return file.fileno()
    except (AttributeError, OSError, ValueError):
        hint = "give an open file of this host, a function that takes bytes, or PIPE"
        raise UsageError(f"{type(file).__name__} has no file descriptor", hint=hint) from None


def _closed_later(descriptor: int, opened: ExitStack) -> int:
    opened.callback(os.close, descriptor)
    return descriptor
