"""The directories of running RUN steps, and the end of what a killed build has left in them.

Each running step has a directory in the store's ``build/running``: the mount point of its union, what the program
writes, and a file system in memory with all that must not reach a disk (secrets, and the runtime spec that may hold
some). The process of the build holds a lock on the directory. So a directory without a lock was left by a killed
build: its program is ended, its mounts are unmounted, and it is removed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lamina.errors import LaminaError, Unsupported
from lamina.host import mountinfo, privileges
from lamina.host.files import make_directory, reported
from lamina.host.lock import acquire, is_same
from lamina.host.process_identity import start_time
from lamina.host.temporary import TemporaryDirectory, is_temporary
from lamina.light import TYPE_CHECKING
from lamina.run.network import Pasta
from lamina.run.runtime import Runtime
from lamina.run.sandbox import Directories, Sandbox, states_of
from lamina.store.containers import pid_namespace
from lamina.store.fault import point
from lamina.store.foreign_trees import remove_tree
from lamina.view import kernel
from lamina.view.overlay.lower import sweep
from lamina.view.upper_check import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.store.store import Store

_MEMORY, _TOP, _RUNTIME, _OWNER = "memory", "top", "runtime", "owner"
_PATIENCE, _POLL = 10.0, 0.02  # seconds
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class StepDirectory:
    """The directory of one running step. ``path``: without symlinks."""

    def __init__(self, store: Store, path: str) -> None:
        self.path = path
        self.identity = os.path.basename(path).partition(".")[0]
        self._store = store

    def at(self, *names: str) -> str:
        return os.path.join(self.path, *names)

    @property
    def bundle(self) -> str:
        """In memory: the runtime spec holds the program's environment."""
        return self.at(_MEMORY, "bundle")

    @property
    def rootfs(self) -> str:
        return self.at("rootfs")

    @property
    def network(self) -> str:
        return self.at("network")

    @property
    def upper(self) -> str:
        return os.path.join(os.path.realpath(self.at(_TOP)), "upper")

    @property
    def work(self) -> str:
        return os.path.join(os.path.realpath(self.at(_TOP)), "work")

    def directory(self, *names: str) -> str:
        """A new directory in it. Raises SystemFailure."""
        path = self.at(*names)
        with reported(path):
            os.makedirs(path, mode=0o700)
        return path

    def writable(self, *names: str) -> str:
        """A new directory that can be an upper or work directory of an overlay. Raises SystemFailure."""
        path = os.path.join(os.path.realpath(self.at(_TOP)), *names)
        with reported(path):
            os.makedirs(path, mode=0o755)
        return path

    def secret_file(self, name: str, content: bytes) -> str:
        """A new file in memory, readable for its owner only. Raises SystemFailure."""
        path = self.at(_MEMORY, name)
        with reported(path):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(path, "wb", opener=_private) as file:
                file.write(content)
        return path

    def sandbox(self, runtime: Runtime | str) -> Sandbox:
        """``runtime``: the one that runs it."""
        # crun keeps a copy of the spec in its directory of states: a plain user's is on a disk
        states = states_of(self._store) if privileges.is_root() else self.at(_MEMORY, "states")
        return Sandbox(self.identity, Directories(self.rootfs, self.bundle, states), runtime=runtime)

    def make(self, upper_dir: str, runtime: Runtime, warn: Callable[[str], object]) -> None:
        """Raises Unsupported (``upper_dir`` takes no writable layer), SystemFailure."""
        self._note(_OWNER, _own_process())
        for name in (_MEMORY, "rootfs", "network"):
            self.directory(name)
        kernel.mount("tmpfs", [("mode", "0700")], self.at(_MEMORY), attributes=kernel.NO_DEVICES | kernel.NO_SETUID)
        self.directory(_MEMORY, "bundle")
        self._make_top(upper_dir, warn)
        self._note(_RUNTIME, runtime.program)
        point("step.made")

    def _note(self, name: str, text: str) -> None:
        with reported(self.at(name)), open(self.at(name), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)

    def _stored_keys(self, name: str) -> str:
        try:
            with open(self.at(name), encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return ""

    @property
    def is_orphan(self) -> bool:
        """Whether the process that made it is known to have ended. Its lock may still be held for a moment, by a
        process that is ending too."""
        pid, _, rest = self._stored_keys(_OWNER).partition(" ")
        begun, _, namespace = rest.partition(" ")
        return pid.isdigit() and namespace == str(pid_namespace()) and start_time(int(pid)) != begun

    def _make_top(self, upper_dir: str, warn: Callable[[str], object]) -> None:
        top = self.at(_TOP)
        with reported(top):
            if upper_dir:
                why = refusal(upper_dir)
                if why:
                    raise Unsupported(f"no program can write to {upper_dir}: {why}", hint="see the setting upper_dir")
                os.symlink(os.path.join(upper_dir, self.identity), top)
                os.mkdir(os.path.join(upper_dir, self.identity), 0o700)
            else:
                os.mkdir(top, 0o700)
                if refusal(self._store.paths.unions):
                    kernel.mount("tmpfs", [("mode", "0700")], top, attributes=kernel.NO_DEVICES)
                    warn(
                        "the store's file system takes no writable layer: what the program writes is kept in memory; "
                        "upper_dir (LAMINA_UPPER_DIR) can name another place"
                    )
            os.mkdir(self.upper, 0o755)
            os.mkdir(self.work, 0o700)

    def remove(self) -> None:
        """Unmount and remove everything. Raises SystemFailure."""
        with reported(self.path):
            for target in mountinfo.below(self.path):
                kernel.unmount(target)
            top = self.at(_TOP)
            if os.path.islink(top):
                elsewhere = os.readlink(top)
                if os.path.basename(elsewhere) == self.identity and os.path.isdir(elsewhere):
                    remove_tree(elsewhere)
            remove_tree(self.path)

    def end(self) -> None:
        """End the program of a killed build, and remove everything. The caller holds the lock. Raises
        SystemFailure."""
        if not privileges.is_root():
            _kill_in_other_namespaces(self.identity)
        Pasta.close_left(self.network)
        self.sandbox(self._stored_keys(_RUNTIME)).end()
        point("step.ended")
        self.remove()


@contextmanager
def step_directory(store: Store) -> Iterator[StepDirectory]:
    """A new directory for a step, with its lock, while the block runs. Raises SystemFailure."""
    above = running(store)
    with reported(above):
        make_directory(store.paths.build)
        make_directory(above)
        made = TemporaryDirectory(
            above, os.urandom(32).hex(), remove=lambda path: StepDirectory(store, path).remove()
        )
    with made:
        yield StepDirectory(store, made.path)


def running(store: Store) -> str:
    return os.path.join(store.paths.build, "running")


def clear(store: Store) -> list[LaminaError]:
    """End what killed builds have left: programs, networks, mounts and directories; and unmount the layers that
    nobody uses any more. Returns what failed."""
    failed: list[LaminaError] = []
    above = running(store)
    try:
        names = sorted(os.listdir(above))
    except FileNotFoundError:
        return failed
    ended = False
    for name in filter(is_temporary, names):
        try:
            ended |= _cleared(store, os.path.join(above, name))
        except LaminaError as error:
            failed.append(error)
    if ended:
        sweep(store)
    return failed


def _cleared(store: Store, path: str) -> bool:
    """End what was left in the directory, unless a build holds it. Returns whether it was left."""
    with reported(path):
        try:
            descriptor = os.open(path, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            directory = StepDirectory(store, path)
            end = time.monotonic() + _PATIENCE
            while not acquire(descriptor, path, wait=False):
                if not directory.is_orphan or time.monotonic() > end:
                    return False
                time.sleep(_POLL)
            if not is_same(descriptor, path):
                return False
            directory.end()
        finally:
            os.close(descriptor)
    return True


def _kill_in_other_namespaces(identity: str) -> None:
    """Kill the processes that have mounts of the step with this identity in another mount namespace than this
    process, and wait for their end. A plain user's mounts and the runtime's files are only seen in the namespace of
    the killed build; nobody else can have copies of these mounts."""
    ours, name = mountinfo.namespace(), identity.encode()
    held: list[tuple[int, int]] = []
    try:
        for word in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                with open(f"/proc/{word}/mountinfo", "rb") as file:
                    if name not in file.read():
                        continue
                if mountinfo.namespace(word) != ours:
                    held.append((int(word), os.pidfd_open(int(word))))
        for pid, process in held:
            _kill(pid, process)
        for _, process in held:
            _wait(process)
    finally:
        for _, process in held:
            os.close(process)


def _kill(pid: int, process: int) -> None:
    import signal

    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except PermissionError:  # it runs as another user of its namespace: this user is root there
        child = os.fork()
        if child == 0:
            try:
                privileges.join(pid, mounts=False)
                signal.pidfd_send_signal(process, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    except ProcessLookupError:
        pass


def _wait(process: int) -> None:
    import select

    select.select([process], [], [], _PATIENCE)


def _own_process() -> str:
    return f"{os.getpid()} {start_time(os.getpid())} {pid_namespace()}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_EXCL, 0o600)
