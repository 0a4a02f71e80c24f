"""A sandbox: the union of an image with a writable layer on top, and processes in it.

A caller mounts it, starts a program in it, waits for the program, and ends it; meanwhile anyone may send signals and
run further programs. Directories, ids and streams are the caller's. A sandbox knows no record and no name of a
container: ``run.container`` builds containers on it (decision 0031).
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from lamina.errors import NotFound, SystemFailure
from lamina.host import privileges
from lamina.host.files import reported
from lamina.host.mountinfo import below
from lamina.light import TYPE_CHECKING, Value
from lamina.run import network, runtime
from lamina.run.rootfs import Inside, make_reachable, undo_reachable
from lamina.run.runtime import BUBBLEWRAP, MACHINE, Runtime, find_runtime
from lamina.spec.json import write_own
from lamina.store.fault import point
from lamina.view import kernel
from lamina.view.overlay.mount import Top, mount_union, unmap
from lamina.view.owners import AS_STATED, Owners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from lamina.run.child import Program, Streams
    from lamina.source.stack import Stack
    from lamina.store.store import Store


_LIVE = ("created", "running", "paused")  # statuses of the runtime-spec


class Directories(Value):
    """``rootfs``: the mount point of the union. ``bundle``: the runtime's files of this sandbox. ``states``: the
    runtime's own directory, which all sandboxes of a store share. ``mounts``: what the caller mounts below it is
    unmounted with the union; "" for nothing."""

    rootfs: str
    bundle: str
    states: str
    mounts: str = ""


def states_of(store: Store) -> str:
    """The runtime's directory of states. It is empty after a reboot, as no container runs then."""
    return os.path.join("/run" if privileges.is_root() else store.paths.root, "lamina-runtime")


class Sandbox:
    def __init__(
        self,
        identity: str,
        directories: Directories,
        *,
        runtime: Runtime | str = "",
        owners: Owners = AS_STATED,
    ) -> None:
        """``identity``: unique on this host, for the runtime and for cgroups. ``runtime``: what runs it, by name or
        path where it was not looked up yet. ``owners``: the ids of its user namespace."""
        self.identity = identity
        self.directories = directories
        self.owners = owners
        self.way = directories.rootfs
        """The path at which the sandbox's root reaches the root file system, once it is mounted."""
        self._runtime = runtime

    @property
    def runtime(self) -> Runtime:
        """Raises NotFound (it is not installed)."""
        if isinstance(self._runtime, str):
            self._runtime = find_runtime(self._runtime)
        return self._runtime

    @property
    def is_bubblewrap(self) -> bool:
        """Whether bubblewrap runs it, even if that is not installed any more."""
        if self._runtime and isinstance(self._runtime, str):
            return os.path.basename(self._runtime) == BUBBLEWRAP
        return self.runtime.is_bubblewrap

    @property
    def is_machine(self) -> bool:
        """Whether a virtual machine runs it."""
        return (self._runtime if isinstance(self._runtime, str) else self._runtime.program) == MACHINE

    def mount(
        self,
        store: Store,
        stack: Stack,
        upper: str,
        work: str,
        *,
        view: str = "",
        devices: bool = False,
        volatile: bool = False,
    ) -> str:
        """Mount the union at ``rootfs``; the view that was used. ``upper`` takes all changes; ``work`` is the
        kernel's, on the same file system. ``devices``: device nodes of the image work. ``volatile``: the changes need
        not survive a crash of the host. Raises as ``mount_union``."""
        top = Top(
            upper,
            work,
            devices=devices and not self.owners,
            volatile=volatile,
            owners=self.owners,
            scratch=self.directories.bundle,
        )
        return mount_union(store, stack, self.directories.rootfs, view=view, top=top)

    def make_reachable(self) -> None:
        """Make the mounted root file system reachable for the sandbox's root, at ``way``. Raises SystemFailure."""
        self.way = make_reachable(self.identity, self.owners, self.directories.rootfs)

    def unmount(self) -> None:
        """Raises SystemFailure."""
        undo_reachable(self.identity, self.way)
        kernel.unmount(self.directories.rootfs)
        unmap(self.directories.bundle)
        self._unmount_more()

    def _unmount_more(self) -> bool:
        """Unmount what is mounted beside the union. Returns whether anything was."""
        mounts = self.directories.mounts
        if not (mounts and os.path.isdir(mounts)):
            return False
        with reported(mounts):
            found = below(mounts)
        for target in found:
            kernel.unmount(target)
        return bool(found)

    def describe(self, spec: Mapping[str, Any]) -> None:
        """Write the runtime spec into the bundle, and remove what an earlier run has left there."""
        bundle = self.directories.bundle
        with reported(bundle):
            for name in os.listdir(bundle):
                if name in ("pid", "runtime.log") or name.startswith(runtime.EXECUTED):
                    os.unlink(os.path.join(bundle, name))
        path = os.path.join(bundle, "config.json")
        with reported(path), open(path, "wb", opener=_private) as file:
            file.write(write_own(spec).encode())
        point("container.described")

    @contextmanager
    def start(
        self,
        spec: Mapping[str, Any],
        streams: Streams,
        *,
        init: bool = False,
        must_filter: bool = False,
        inherited: Sequence[int] = (),
        on_warning: Callable[[str], object] = lambda text: None,
    ) -> Iterator[Program]:
        """Start the first program; it is ended if the block ends without a wait. ``spec``: the runtime spec.
        ``init``: the spec names no init, and the runtime is to bring one. ``must_filter``: fail where system calls
        can't be filtered. ``inherited``: descriptors that the runtime keeps open. Raises SystemFailure, NotFound,
        Unsupported."""
        bundle = self.directories.bundle
        self.describe(spec)
        if self.is_bubblewrap:
            from lamina.run.bubblewrap import launch

            what = launch.Launch(
                self.runtime.program, bundle, self.identity, spec, streams, init=init, must_filter=must_filter
            )
            with Inside(self.directories.rootfs) as inside, launch.start(what, inside, on_warning) as program:
                yield program
            return
        states = self._states()
        try:
            with runtime.start(self.runtime, states, bundle, self.identity, streams, inherited) as program:
                yield program
        finally:
            if os.path.isdir(os.path.join(states, self.identity)):
                runtime.delete(self.runtime, states, self.identity)

    @contextmanager
    def execute(self, process: Mapping[str, Any], streams: Streams, identity: str = "") -> Iterator[Program]:
        """Start a further program; it is killed if the block ends without a wait. ``process``: as in the runtime
        spec. ``identity``: a file of the bundle names it (EXECUTED), and holds a pid, while the program runs; "" for
        a new one. If it can't start, a line on standard error says why, and the exit code is docker's. Raises
        SystemFailure."""
        bundle = self.directories.bundle
        identity = identity or os.urandom(32).hex()
        if self.is_bubblewrap:
            from lamina.run.bubblewrap import launch

            with launch.execute(bundle, self.identity, process, streams) as program, self._named(identity):
                yield program
            return
        described, states = write_own(process).encode(), self._states()
        with runtime.execute(self.runtime, states, bundle, self.identity, described, streams, identity) as program:
            yield program

    @contextmanager
    def _named(self, identity: str) -> Iterator[None]:
        path = os.path.join(self.directories.bundle, runtime.EXECUTED + identity)
        with reported(path), open(path, "wb", opener=_private) as file:
            file.write(str(os.getpid()).encode())
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def signal(self, number: int) -> None:
        """Send a signal to the first program. Raises SystemFailure (there is none)."""
        if self.is_machine:
            from lamina.run.machine import process as machine_process

            machine_process.kill(self.directories.bundle, number)
        elif self.is_bubblewrap:
            from lamina.run.bubblewrap import process

            process.kill(self.directories.bundle, number)
        else:
            runtime.command_for(self.runtime, self._states(), "kill", self.identity, str(number))

    @property
    def can_pause(self) -> bool:
        return self.is_machine or (not self.is_bubblewrap and self.runtime.cgroups)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze all programs while the block runs, unless they end or are resumed meanwhile. Raises
        SystemFailure."""
        is_frozen = True
        try:
            self.pause()
        except SystemFailure:
            if self._lives:
                raise
            is_frozen = False
        try:
            yield
        finally:
            if is_frozen:
                self._resume_if_paused()

    def _resume_if_paused(self) -> None:
        try:
            self.resume()
        except SystemFailure:
            if self.is_paused:
                raise

    @property
    def _lives(self) -> bool:
        if self.is_machine:
            with suppress(SystemFailure):
                return bool(self._order("query-status"))
            return False
        return runtime.status(self.runtime, self._states(), self.identity) in _LIVE

    def pause(self) -> None:
        """Freeze all programs. Raises SystemFailure."""
        if self.is_machine:
            self._order("stop")
            return
        runtime.command_for(self.runtime, self._states(), "pause", self.identity)

    def resume(self) -> None:
        """Let all programs go on after ``pause``. Raises SystemFailure."""
        if self.is_machine:
            self._order("cont")
            return
        runtime.command_for(self.runtime, self._states(), "resume", self.identity)

    @property
    def is_paused(self) -> bool:
        """Whether all programs are frozen."""
        if self.is_machine:
            with suppress(SystemFailure):  # it has ended
                return bool(self._order("query-status").get("status") == "paused")
            return False
        return runtime.status(self.runtime, self._states(), self.identity) == "paused"

    def _order(self, command: str) -> dict[str, Any]:
        from lamina.run.machine.orders import order

        return order(self.directories.bundle, command)

    def limit(self, resources: Mapping[str, Any]) -> None:
        """Change the limits of the running programs. ``resources``: as in the runtime spec, with -1 for no limit.
        Raises SystemFailure, Unsupported."""
        if self.is_bubblewrap:
            from lamina.run.bubblewrap import cgroup

            cgroup.change(self.identity, resources)
        else:
            runtime.update(self.runtime, self._states(), self.identity, write_own(resources).encode())

    def end(self) -> bool:
        """End what a killed run has left: processes, network, cgroups, mounts. Returns whether the union was
        mounted."""
        bundle, states = self.directories.bundle, self.directories.states
        if self.is_machine:
            from lamina.run.machine import process as machine_process

            machine_process.end(bundle)
            network.Pasta.close_left(bundle)
            return self._unmount_left()
        network.Pasta.close_left(bundle)
        if os.path.isdir(os.path.join(states, self.identity)):
            with suppress(NotFound):  # the runtime was uninstalled
                runtime.delete(self.runtime, states, self.identity)
        if self._runtime and self.is_bubblewrap:
            from lamina.run.bubblewrap import cgroup

            cgroup.remove(self.identity)
        if privileges.is_root():
            from lamina.run import cgroups

            cgroups.remove_left(self.identity)
        undo_reachable(self.identity)
        unmap(bundle)
        was_mounted = self._unmount_left()
        point("container.settled")
        return was_mounted

    def _unmount_left(self) -> bool:
        was_mounted = self._unmount_more()
        while os.path.ismount(self.directories.rootfs):
            kernel.unmount(self.directories.rootfs)
            was_mounted = True
        return was_mounted

    def _states(self) -> str:
        with reported(self.directories.states):
            os.makedirs(self.directories.states, mode=0o700, exist_ok=True)
        return self.directories.states


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
