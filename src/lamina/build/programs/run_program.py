"""A RUN step: its program in a sandbox on the layers below, and what it changed as the items of a layer.

The program has the rights of a program of `run`, and no terminal. It writes into an upper directory. What is mounted
for it (contexts, caches, secrets, hosts) is not part of the layer, and neither are the mount points that were made
for that.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from lamina.build.errors import ProgramFailed
from lamina.build.programs.networks import SharedNetworks
from lamina.build.programs.step_directory import StepDirectory, clear, running, step_directory
from lamina.build.programs.step_mounts import Given, SharedContexts, given
from lamina.build.steps import RunStep
from lamina.edit.changes import real_items
from lamina.errors import LaminaError, Unsupported, UsageError
from lamina.events import Cancel
from lamina.host import privileges
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.light import TYPE_CHECKING
from lamina.run import network
from lamina.run.bundle import Task, check_architecture, prepare_spec
from lamina.run.child import CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND, ExitStatus, Program, Streams
from lamina.run.options import ContainerOptions, Mount
from lamina.run.rootfs import Inside
from lamina.run.runtime import Runtime, find_runtime
from lamina.run.sandbox import Sandbox
from lamina.run.supported import check_supported
from lamina.scan.overlay_upper import scan_upper
from lamina.source.stack import Stack
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.store.fault import point
from lamina.union.partial import PartialMerge
from lamina.union.tree import Tree
from lamina.view.overlay.lower import adopt_tree, sweep, tree_parts

if TYPE_CHECKING:
    from typing import Any

    from lamina.build.protocols import Inputs, Log
    from lamina.scan.directory import OnWarning
    from lamina.store.store import Store

HOSTNAME = "buildkitsandbox"
"""The host name of each program, as with BuildKit: a random one could end up in an image."""
MAX_OUTPUT, LAST_OUTPUT = 2 << 20, 64 << 10
"""Bytes of output of one program that are passed on: a program in a loop must not fill a terminal or a log."""
_PIECE = 64 << 10
_AGAIN = 0.05  # seconds
_NOT_RUN = (CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND)
_STARTING = threading.Lock()
"""Held while a program starts: a process that another step starts at that moment would keep a copy of the pipe, and
its end would not be seen."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the programs of one build share."""

    contexts: SharedContexts
    networks: SharedNetworks


@contextmanager
def run_programs(store: Store, on_warning: OnWarning) -> Iterator[Shared]:
    """The RUN steps of one build run in this block. First it ends what killed builds have left. The layers of a step
    stay mounted for the next ones, and are unmounted at the end."""
    for error in clear(store):
        on_warning(error.message)
    with SharedContexts(store) as contexts, SharedNetworks(store) as networks:
        try:
            yield Shared(contexts, networks)
        finally:
            if os.path.isdir(running(store)):  # else no step ever ran
                sweep(store)


@contextmanager
def ran(
    step: RunStep, below: Stack | None, inputs: Inputs, log: Log, shared: Shared | None = None
) -> Iterator[Collection[Item]]:
    """As ``protocols.RunProgram``. Call it outside of the main thread: there the program would get Ctrl-C, and this
    process would not."""

    def warn(text: str) -> None:
        log(f"lamina: {text}\n".encode("utf-8", "backslashreplace"))

    _check_words(step)
    inputs.cancel.check()
    if not privileges.may_mount():
        raise Unsupported(
            f"programs can't run in a build here: {privileges.refusal() or 'this process is not root'}",
            hint="run it as root, or allow user namespaces for this user",
        )
    runtime = find_runtime(inputs.runtime)
    runtime.check_path(inputs.store.paths.root)
    stack = below if below is not None else _empty(step)
    with step_directory(inputs.store) as directory:
        directory.make(inputs.upper_dir, runtime, warn)
        view, made = _run(step, stack, directory, runtime, inputs, log, warn, shared)
        odd: list[str] = []

        def left_out(text: str) -> None:
            odd.append(text)
            warn(text)

        points = {os.fsencode(path.strip("/")) for path in made}
        items = list(scan_upper(directory.upper, on_warning=left_out))
        changes = ProgramChanges(_changed(stack, items, points))
        if view == "overlay" and not privileges.is_root() and not odd and inputs.epoch is None:
            kept = {entry.path for entry, _ in changes}
            changes.source = (directory.upper, {entry.path for entry, _ in items} - kept)
        yield changes


class ProgramChanges(list[Item]):
    """What a program changed, as items of a layer. ``source``: the upper directory, if the layer says the same, and
    what in it is not in the layer: mount points, and directories that only exist because the kernel copied them."""

    source: tuple[str, Set[bytes]] | None = None

    def become_tree(self, store: Store, stack: Stack) -> bool:
        """Make the upper directory the unpacked tree of the layer that was made of it, for the next steps of a plain
        user. ``stack``: with this layer on top. Returns whether it did; the items can't be read any more then."""
        if self.source is None:
            return False
        upper, more = self.source
        try:
            part = tree_parts(store, stack)[-1]
            if part.layers != stack.diff_ids[-1:]:
                return False  # one tree for all layers
            with Inside(upper) as inside:
                for path in sorted(more, reverse=True):
                    _remove_empty(inside, os.fsdecode(path))
            return adopt_tree(store, part, upper)
        except (LaminaError, OSError):
            return False  # it is unpacked


def _remove_empty(inside: Inside, path: str) -> None:
    """Remove an empty file or directory; a directory with something in it stays. The directory above keeps its times.
    The program may have put a symlink on the way. Raises OSError."""
    parent, _, name = path.rpartition("/")
    above = inside.open(parent, os.O_RDONLY | os.O_DIRECTORY, links=False)
    try:
        before = os.fstat(above)
        found = os.lstat(name, dir_fd=above)
        if stat.S_ISDIR(found.st_mode):
            with suppress(OSError):  # it is not empty
                os.rmdir(name, dir_fd=above)
        elif stat.S_ISREG(found.st_mode) and not found.st_size:
            os.unlink(name, dir_fd=above)
        else:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        os.utime(above, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(above)


def _run(
    step: RunStep,
    stack: Stack,
    directory: StepDirectory,
    runtime: Runtime,
    inputs: Inputs,
    log: Log,
    warn: OnWarning,
    shared: Shared | None,
) -> tuple[str, Collection[str]]:
    """Run the program to its end, and unmount; returns the view that was used, and the mount points that were made.
    Raises ProgramFailed."""
    sandbox = directory.sandbox(runtime)
    with given(step, directory, inputs, log, shared.contexts if shared else None) as seen:
        wanted = _wanted(step, seen, _mounts(seen.mounts, runtime))
        check_supported(wanted, runtime)
        upper, work = directory.upper, directory.work
        view = sandbox.mount(inputs.store, stack, upper, work, devices=runtime.devices, volatile=True)
        try:
            point("step.mounted")
            kind = network.choose(wanted.network, warn)
            resolver = network.host_resolver(kind, warn)
            if kind == "pasta" and shared is not None and not step.insecure:  # with all rights it can be changed
                connecting = shared.networks.network(resolver)
            else:
                connecting = network.connected(kind, resolver, directory.network)
            with connecting as net:
                task = Task(
                    sandbox,
                    wanted,
                    ImageConfig.build(step.platform),
                    step.words,
                    net,
                    mounts=wanted.mounts,
                    files=("hosts", "resolv.conf"),
                )
                with Inside(directory.rootfs) as inside:
                    check_architecture(task, inside)
                    spec, made = prepare_spec(task, inside)
                ended = _ended(sandbox, _own(spec, step, task), inputs.cancel, log, warn)
            point("step.ran")
        finally:
            sandbox.unmount()
        point("step.unmounted")
    inputs.cancel.check()
    if ended.code or ended.message or ended.reason:
        raise _failed(step, ended)
    return view, made


def _mounts(mounts: tuple[Mount, ...], runtime: Runtime) -> tuple[Mount, ...]:
    """bubblewrap has no noexec, which secrets have: without execute permission nobody executes them anyway."""
    if not runtime.is_bubblewrap:
        return mounts
    from dataclasses import replace

    return tuple(
        replace(mount, options=tuple(option for option in mount.options if option != "noexec")) for mount in mounts
    )


def _wanted(step: RunStep, seen: Given, mounts: tuple[Mount, ...]) -> ContainerOptions:
    return ContainerOptions(
        command=step.words,
        env=tuple({**dict(step.env), **dict(step.hidden), **seen.variables}.items()),
        mounts=mounts,
        workdir=posixpath.join("/", step.workdir),
        user=step.user,
        network=step.network,
        hostname=HOSTNAME,
        privileged=step.insecure,
        add_hosts=step.add_hosts,
        ulimits=step.ulimits,
        shm_size=step.shm_size,
    )


def _own(spec: dict[str, Any], step: RunStep, task: Task) -> dict[str, Any]:
    """The spec by BuildKit's rules: no variable with the host name, and files that describe the host are
    read-only."""
    if not any(name == "HOSTNAME" for name, _ in task.wanted.env):
        spec["process"]["env"] = [one for one in spec["process"]["env"] if not one.startswith("HOSTNAME=")]
    ours = {os.path.join(task.path, name) for name in task.files}
    for mount in spec["mounts"]:
        if mount["source"] in ours:
            mount["options"] = [*mount["options"], "ro"]
    return spec


def _ended(sandbox: Sandbox, spec: dict[str, Any], cancel: Cancel, log: Log, warn: OnWarning) -> ExitStatus:
    """Run the program to its end. When the build is cancelled, or its output can't be taken, the whole sandbox is
    killed."""
    over = threading.Event()
    with ExitStack() as last, ExitStack() as opened:
        with _STARTING:
            reading, writing = os.pipe()
            output = _Output(reading, log)
            try:
                output.start()
                last.callback(output.finish)  # when nobody has the other end of the pipe any more
                streams = Streams(stdout=writing, stderr=writing, interactive=False)
                program = opened.enter_context(sandbox.start(spec, streams, on_warning=warn))
            finally:
                os.close(writing)
        opened.callback(over.set)
        output.watch(partial(_kill_soon, program, over))
        with cancel.calling(partial(_kill_soon, program, over)):
            return program.wait()


class _Output(threading.Thread):
    """Passes the output of a program on: the first ``MAX_OUTPUT`` bytes as they come, and at its end the last
    ``LAST_OUTPUT`` bytes of the rest."""

    def __init__(self, descriptor: int, log: Log) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._log = log
        self._left = MAX_OUTPUT
        self._skipped = 0
        self._last = b""
        self._error: BaseException | None = None
        self._on_failure: Callable[[], object] | None = None
        self._guard = threading.Lock()

    def run(self) -> None:
        with open(self._descriptor, "rb", buffering=0) as file:
            while data := file.read(_PIECE):
                if self._error is None:  # else the program must not wait for somebody who reads
                    self._take(data)
        if self._skipped:
            begin = self._last.find(b"\n") + 1  # of a whole line, if there is one
            left_out = self._skipped + begin
            self._tell(b"\nlamina: %d bytes of output are left out here\n" % left_out)
            self._last = self._last[begin:]
        if self._last:
            self._tell(self._last)

    def _take(self, data: bytes) -> None:
        head, rest = data[: self._left], data[self._left :]
        self._left -= len(head)
        if head:
            self._tell(head)
        if rest:
            kept = self._last + rest
            self._last = kept[-LAST_OUTPUT:]
            self._skipped += len(kept) - len(self._last)

    def _tell(self, data: bytes) -> None:
        try:
            self._log(data)
        except BaseException as error:  # noqa: BLE001  (``finish`` raises it)
            with self._guard:
                self._error = error
                failed = self._on_failure
            if failed is not None:
                failed()

    def watch(self, on_failure: Callable[[], object]) -> None:
        """``on_failure`` is called when the listener has raised an error."""
        with self._guard:
            self._on_failure = on_failure
            if self._error is None:
                return
        on_failure()

    def finish(self) -> None:
        """Wait for the end of the output. Raises what the listener raised."""
        self.join()
        if self._error is not None:
            raise self._error


def _kill_soon(program: Program, over: threading.Event) -> None:
    """Kill the first program, and with it all others of its sandbox. It may not have started yet."""
    threading.Thread(target=_kill, args=(program, over), daemon=True).start()


def _kill(program: Program, over: threading.Event) -> None:
    while not over.is_set():
        with suppress(LaminaError):
            program.signal(9)
        over.wait(_AGAIN)


def _failed(step: RunStep, ended: ExitStatus) -> ProgramFailed:
    why = ended.message or ended.reason
    if why and ended.code in _NOT_RUN:
        hint = "check the mounts and the working directory of the step"
        if ended.code != CANNOT_RUN:
            hint = "check that the image has the program: a stage from scratch has no shell"
        return ProgramFailed(f"{step.words[0]!r:.200} could not be started: {why:.500}", code=ended.code, hint=hint)
    shown = " ".join(step.words)
    return ProgramFailed(
        f'process "{shown:.2000}" did not complete successfully: exit code: {ended.code}', code=ended.code
    )


def _check_words(step: RunStep) -> None:
    """Refuse a NUL: it ends a word, and the rest would be another word. Raises UsageError."""
    if not step.words:
        raise UsageError("RUN has no command", hint="write the command after RUN")
    variables = (f"{name}={value}" for name, value in (*step.env, *step.hidden))
    for word in (*step.words, *variables, step.user, step.workdir):
        if "\0" in word:
            raise UsageError(f"a NUL in {word!r:.100}", hint="remove it")


def _empty(step: RunStep) -> Stack:
    """A union without layers."""
    config = ImageConfig.build(step.platform)
    return Stack("scratch", build_manifest(config.descriptor, []), config, ())


def _changed(stack: Stack, items: Sequence[Item], made: Collection[bytes]) -> list[Item]:
    """The items that change something. ``made``: the mount points that were made."""
    if not items:
        return []
    tree = _tree(stack, items)
    return _without_stubs(real_items(tree, [(_with_owner(entry, tree), content) for entry, content in items]), made)


def _with_owner(entry: Entry, tree: Tree) -> Entry:
    """The entry of a directory with the owner that it has below, if this user has no such id: the tree that the
    program saw has root in its place."""
    if entry.kind != Kind.DIRECTORY or privileges.is_root():
        return entry
    node = tree.find(entry.path)
    if node is None or not tree.is_directory(node):
        return entry
    below = tree.entry(node)
    uid = entry.uid if entry.uid or privileges.has_id(below.uid) else below.uid
    gid = entry.gid if entry.gid or privileges.has_id(below.gid, group=True) else below.gid
    return entry if (uid, gid) == (entry.uid, entry.gid) else replace(entry, uid=uid, gid=gid)


def _tree(stack: Stack, items: Sequence[Item]) -> Tree:
    """The union below, at least where it matters for ``real_items``."""
    known = stack.merged()
    if known is not None:
        return known
    paths = [entry.path for entry, _ in items if entry.kind == Kind.DIRECTORY]
    opaque = [entry.path for entry, _ in items if entry.kind == Kind.OPAQUE]
    return PartialMerge().tree([layer.index() for layer in stack.layers], paths, inside=opaque)


def _without_stubs(items: Sequence[Item], made: Collection[bytes]) -> list[Item]:
    """Leave out mount points that are still as they were made: empty. A program may have put something there, or in a
    directory above."""
    if not made:
        return list(items)
    kept: list[Item] = []
    needed: set[bytes] = set()
    # what is in a directory comes before the directory
    for entry, content in sorted(items, key=lambda item: item[0].path, reverse=True):
        is_empty = entry.kind in (Kind.OPAQUE, Kind.DIRECTORY) or (entry.kind == Kind.FILE and not entry.size)
        if is_empty and entry.path in made and entry.path not in needed:
            continue
        kept.append((entry, content))
        above = entry.path
        while above:
            above = above.rpartition(b"/")[0]
            needed.add(above)
    return kept[::-1]
