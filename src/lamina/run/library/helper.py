"""A small helper process of a library's process: it has one thread, and forks a process for each job (``jobs``).

A process with several threads can't be forked safely and can't enter a user namespace, and a library must not take
the signals of its process. The helper is started with the first job, in a session of its own, so that Ctrl-C on the
terminal only reaches the library's process. It ends with that process; containers that still run are killed then.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, SystemFailure, Unsupported
from lamina.host.own_python import module_path
from lamina.run.library.message import Caller, receive, send

if TYPE_CHECKING:
    from typing import Any, NoReturn

DONE, FAILED = "done", "failed"
_LOADED = (
    "lamina.run.container.commit",
    "lamina.run.container.life",
    "lamina.run.library.jobs",
    "lamina.store.store",
    "hashlib",
)
"""Modules that most jobs need: loaded once, for all of them."""
_FREE = 10  # a descriptor above the standard ones
_MAX_MESSAGE = 4097  # bytes: a path and a "+", which tells it from the end of the stream
_STOP_SECONDS = 60.0  # seconds


class Helper:
    """The helper of this process. Any thread may use it. It takes no locks, so that finalizers may use it too."""

    def __init__(self) -> None:
        """Raises Unsupported (not Linux, no Python to start), SystemFailure."""
        if sys.platform != "linux":
            raise Unsupported("only Linux runs containers", hint="look into the image with image.fs or image.path()")
        self._control = _started()
        self._maker = _identity()

    @property
    def is_mine(self) -> bool:
        """Whether this process started it, as the user that it is now."""
        return self._maker == _identity()

    def start(self, job: str, arguments: Sequence[object], root: str, files: Sequence[int] = ()) -> socket.socket:
        """Start a process for the job; its answers come through the returned socket. ``job``: a function of ``jobs``,
        or of another module of this package: "module.function". ``root``: the store that it works in. ``files``: its
        standard input, output and error. Raises SystemFailure (the helper has ended)."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [b"+" + os.fsencode(root)], [theirs.fileno()])
            send(ours, (job, tuple(arguments), dict(os.environ)), files)
        except OSError as error:
            ours.close()
            raise SystemFailure(f"the helper process has ended: {error.strerror}", hint="try again") from None
        return ours

    def close(self) -> None:
        self._control.close()


def _identity() -> tuple[int, int, int]:
    return os.getpid(), os.geteuid(), os.getegid()


def _started() -> socket.socket:
    """Start a helper that is not a child of this process; the socket to it."""
    import fcntl

    if not sys.executable:
        raise Unsupported("no Python program to start is known", hint="set sys.executable")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        number = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, _FREE)
    code = (
        "import os, sys\nif os.fork(): os._exit(0)\n"
        f"sys.path[:] = {module_path()!r}\nfrom lamina.run.library.helper import main\nmain({number})"
    )
    command = [sys.executable, "-S", "-c", code]
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_DUP2, number, number),  # clears close-on-exec
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    try:
        child = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    except OSError as error:
        ours.close()
        raise SystemFailure(
            f"{command[0]}: {error.strerror}", hint="check that this Python is still installed"
        ) from None
    finally:
        os.close(number)
    with suppress(ChildProcessError):  # this process ignores SIGCHLD
        os.waitpid(child, 0)
    return ours


def main(number: int) -> NoReturn:
    """The main function of the helper. ``number``: the descriptor of its socket."""
    import gc

    os.setsid()
    os.chdir("/")
    for name in _LOADED:
        import_module(name)
    gc.freeze()
    control = socket.socket(fileno=number)
    control.set_inheritable(False)
    children: dict[int, bytes] = {}
    while True:
        data, files, _, _ = socket.recv_fds(control, _MAX_MESSAGE, 1)
        if not data:
            break
        _forget_ended(children)
        child = os.fork()
        if child == 0:
            control.close()
            _work(socket.socket(fileno=files[0]))
        os.close(files[0])
        children[child] = data[1:]
    _forget_ended(children)
    for child, root in children.items():
        with suppress(LaminaError):
            _end(child, os.fsdecode(root))
    os._exit(0)


def _forget_ended(children: dict[int, bytes]) -> None:
    with suppress(ChildProcessError):
        while True:
            child, _ = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            children.pop(child, None)
    children.clear()


def _end(child: int, root: str) -> None:
    """Kill the container that the process runs, if it runs one; the process then removes it."""
    from lamina.run.container.ending import stop
    from lamina.store.store import Store

    store = Store.open(root, create=False)
    for one in store.containers:
        if one.pid == child and store.containers.is_running(one):
            stop(store, one, "KILL", seconds=_STOP_SECONDS)


def _work(connection: socket.socket) -> NoReturn:
    """Do the job of the request, and send its result. In a process of its own."""
    try:
        answer: tuple[str, object]
        try:
            connection.set_inheritable(False)
            (job, arguments, environment), files = receive(connection)
            os.environ.clear()
            os.environ.update(environment)
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            module, _, name = job.rpartition(".")
            jobs = import_module(f"lamina.run.library.{module or 'jobs'}")
            answer = DONE, getattr(jobs, name)(Caller(connection), *arguments)
        except LaminaError as error:
            answer = FAILED, error
        except Exception as error:  # noqa: BLE001  (a forked child: it must end here)
            answer = FAILED, SystemFailure(f"{type(error).__name__}: {error}", hint="report this as a bug of lamina")
        send(connection, answer)
    except OSError:
        pass  # the caller has gone
    finally:
        os._exit(0)
