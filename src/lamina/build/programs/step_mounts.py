"""What a RUN step sees besides its union: its ``--mount`` options and here-documents, as mounts of a sandbox."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from lamina.build.options import MAX_SECRET
from lamina.build.programs import cache_mounts
from lamina.build.programs.cache_mounts import CacheWanted
from lamina.build.programs.step_directory import StepDirectory, step_directory
from lamina.build.run_mounts import BIND, CACHE, SECRET, SSH, TMPFS, context_pattern
from lamina.build.steps import CopyStep, FromContext, RunMount, RunStep, Step
from lamina.errors import LimitExceeded, NotFound, PathNotFound, UsageError
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.run.options import Mount
from lamina.run.rootfs import Inside
from lamina.view import kernel
from lamina.view.overlay.mount import Top, mount_union

if TYPE_CHECKING:
    from lamina.build.protocols import Inputs, Log
    from lamina.store.store import Store

_QUIET = ("nosuid", "nodev")
_CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Given:
    """``mounts``: with sources of this host. ``variables``: secrets, and the socket of an ssh agent."""

    mounts: tuple[Mount, ...]
    variables: Mapping[str, str]


class SharedContexts:
    """Copies of contexts for the steps of one build, made on first need. When the block ends, they are removed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened = ExitStack()
        self._directory: StepDirectory | None = None
        self._guard = threading.Lock()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._copies: dict[tuple[str, str], str] = {}

    def __enter__(self) -> SharedContexts:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def copy(self, name: str, source: str, make: Callable[[str], str]) -> str:
        """The path of the copy of ``source`` in the context ``name``. ``make`` makes it in an empty directory, and
        returns its path. Raises what ``make`` raises, SystemFailure."""
        with self._guard:
            if self._directory is None:
                self._directory = self._opened.enter_context(step_directory(self._store))
            directory = self._directory
            lock = self._locks.setdefault((name, source), threading.Lock())
        with lock:
            found = self._copies.get((name, source))
            if found is None:
                found = self._copies[name, source] = make(directory.directory(f"copy-{os.urandom(6).hex()}"))
            return found


@contextmanager
def given(
    step: RunStep, directory: StepDirectory, inputs: Inputs, log: Log, shared: SharedContexts | None = None
) -> Iterator[Given]:
    """Prepare the mounts of a step; they are there while the block runs. ``shared``: of the build, if its steps share
    copies of contexts. Raises PathNotFound, NotFound (a secret, an
    agent), UsageError, Cancelled, SystemFailure."""
    with ExitStack() as opened:
        preparing = _Preparing(step, directory, inputs, log, opened, shared)
        preparing.take_caches()
        for mount in step.mounts:
            preparing.take(mount)
        preparing.take_documents()
        yield Given(tuple(preparing.mounts), preparing.variables)


class _Preparing:
    def __init__(
        self,
        step: RunStep,
        directory: StepDirectory,
        inputs: Inputs,
        log: Log,
        opened: ExitStack,
        shared: SharedContexts | None,
    ) -> None:
        self._shared = shared
        self.mounts: list[Mount] = []
        self.variables: dict[str, str] = {}
        self._step, self._directory, self._inputs, self._log = step, directory, inputs, log
        self._opened = opened
        self._number = 0
        self._unions: dict[Step, str] = {}
        self._caches: dict[int, str] = {}
        self._agents = 0

    def take(self, mount: RunMount) -> None:
        if mount.kind == BIND:
            self._take_bind(mount)
        elif mount.kind == CACHE:
            self.mounts.append(_bind(self._in_cache(self._caches[id(mount)], mount), mount))
        elif mount.kind == TMPFS:
            size = () if mount.size is None else (f"size={mount.size}",)
            read_only = ("ro",) if mount.read_only else ()
            # the default of a tmpfs forbids programs: a build compiles and runs some in it
            self.mounts.append(Mount("tmpfs", "", mount.target, ("exec", *size, *read_only)))
        elif mount.kind == SECRET:
            self._take_secret(mount)
        elif mount.kind == SSH:
            self._take_agent(mount)

    def take_documents(self) -> None:
        for path, content in self._step.files:
            source = self._directory.secret_file(self._name(), content)
            with reported(source):
                os.chmod(source, 0o755)
            self.mounts.append(Mount("bind", source, path, ("ro", *_QUIET)))

    # binds

    def _take_bind(self, mount: RunMount) -> None:
        if isinstance(mount.origin, Step):
            root = self._union(mount.origin, writable=not mount.read_only)
            self.mounts.append(_bind(self._below(root, mount), mount))
        else:
            self.mounts.append(_bind(self._copied(mount), mount))

    def _union(self, origin: Step, *, writable: bool) -> str:
        """The union of a step, mounted. What is written to it is thrown away."""
        if origin in self._unions and not writable:
            return self._unions[origin]
        stack, name = self._inputs.stack(origin), self._name()
        target = self._directory.directory(name, "rootfs")
        if stack is not None:
            top = None
            if writable:
                upper, work = (self._directory.writable(name, one) for one in ("upper", "work"))
                top = Top(upper, work, volatile=True)
            mount_union(self._inputs.store, stack, target, top=top)
        if not writable:
            self._unions[origin] = target
        return target

    def _below(self, root: str, mount: RunMount) -> str:
        """The path of the mount's source in a directory. No symlink leads out of it."""
        if mount.source in ("", "/"):
            return root
        with Inside(root) as inside:
            try:
                found = inside.resolved(mount.source)
            except OSError as error:
                raise _missing(mount, error.strerror or "") from None
        return root + found if found != "/" else root

    def _copied(self, mount: RunMount) -> str:
        """What the context has at the mount's source, as copies that belong to root: the files of this host are never
        reached, and what the ignore file leaves out is not there. Steps that can't write to them share the copies."""
        if self._shared is None or not mount.read_only or self._step.insecure:
            return self._copy(mount, self._directory.directory(self._name()))
        name = mount.origin if isinstance(mount.origin, str) else ""
        return self._shared.copy(name, mount.source, partial(self._copy, mount))

    def _copy(self, mount: RunMount, target: str) -> str:
        """Copy the source of the mount into an empty directory; returns the path of the copy."""
        from lamina.build.files import copy_files
        from lamina.run.container.tar_stream import put

        name = mount.origin if isinstance(mount.origin, str) else ""
        step = CopyStep(
            platform=self._step.platform,
            sources=(FromContext(name, (context_pattern(mount.source),)),),
            target=f"/{_CONTENT}",
        )
        try:
            with copy_files.copied(step, None, self._inputs, self._log) as items, Inside(target) as inside:
                put(inside, "", items, lambda entry: (entry.uid, entry.gid), set_ids=True)
        except PathNotFound as error:
            if mount.source not in ("", "/"):
                raise _missing(mount, error.message) from None
        source = os.path.join(target, _CONTENT)
        if not os.path.lexists(source):  # an empty context
            with reported(source):
                os.mkdir(source, 0o755)
        return source

    # caches

    def take_caches(self) -> None:
        mounts = [mount for mount in self._step.mounts if mount.kind == CACHE]
        if mounts:
            wanted = [self._cache(mount) for mount in mounts]
            places = self._opened.enter_context(
                cache_mounts.cache_directories(self._inputs.store, wanted, self._inputs.cancel)
            )
            self._caches = {id(mount): place for mount, place in zip(mounts, places, strict=True)}

    def _in_cache(self, root: str, mount: RunMount) -> str:
        """The path of the mount's source in a cache. Another step may write to the cache meanwhile, and put a symlink
        in the place of a directory on the way: the runtime would follow it on this host. So the runtime gets a mount
        of exactly what is there now (CVE-2024-23651 was of that kind)."""
        if mount.source in ("", "/"):
            return root
        with Inside(root) as inside:
            try:
                opened = inside.open(mount.source, os.O_PATH)
            except OSError as error:
                raise _missing(mount, error.strerror or "") from None
        try:
            above = self._directory.directory(self._name())
            target = os.path.join(above, _CONTENT)
            with reported(target):
                if stat.S_ISDIR(os.fstat(opened).st_mode):
                    os.mkdir(target)
                else:
                    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            kernel.bind(f"{kernel.BY_DESCRIPTOR}{opened}", target, attributes=0)
        finally:
            os.close(opened)
        return target

    def _cache(self, mount: RunMount) -> tuple[CacheWanted, cache_mounts.Fill]:
        stack = self._inputs.stack(mount.origin) if isinstance(mount.origin, Step) else None
        basis = ""
        if stack is not None:
            basis = " ".join(map(str, stack.diff_ids))
        elif isinstance(mount.origin, str):
            basis = f"context {mount.origin}"
        mode = 0o755 if mount.mode is None else mount.mode & 0o777
        wanted = CacheWanted(mount.id, mount.sharing, basis, mode, mount.uid, mount.gid)

        def fill(directory: str) -> None:
            if isinstance(mount.origin, Step) and stack is not None:
                self._fill(self._union(mount.origin, writable=False), directory)
            elif isinstance(mount.origin, str):
                from dataclasses import replace

                self._fill(self._copied(replace(mount, source="/")), directory)

        return wanted, fill

    @staticmethod
    def _fill(source: str, directory: str) -> None:
        from lamina.run.file_copy import copy_out

        with Inside(source) as inside:
            copy_out(inside, "/", directory, content_only=True)

    # secrets and agents

    def _take_secret(self, mount: RunMount) -> None:
        found = self._inputs.secrets.get(mount.id)
        if found is None:
            if mount.required:
                raise NotFound(
                    f"the secret {mount.id!r:.100} is required, and was not given",
                    hint=f"give it with --secret id={mount.id},src=FILE",
                )
            return
        content = found.read()
        if len(content) > MAX_SECRET:
            raise LimitExceeded(
                f"the secret {mount.id!r:.100} is larger than {MAX_SECRET} bytes", hint="give a smaller file"
            )
        if mount.variable:
            self.variables[mount.variable] = _text(mount, content)
        if mount.target:
            source = self._directory.secret_file(self._name(), content)
            mode = 0o400 if mount.mode is None else mount.mode & 0o777
            _own(source, mode, mount.uid, mount.gid)
            more = () if mode & 0o111 else ("noexec",)
            self.mounts.append(Mount("bind", source, mount.target, ("ro", *_QUIET, *more)))

    def _take_agent(self, mount: RunMount) -> None:
        from lamina.build.programs.agent import agent_socket, agent_with_keys

        self._agents += 1
        if self._agents == 1 and "SSH_AUTH_SOCK" not in dict(self._step.env):
            self.variables["SSH_AUTH_SOCK"] = mount.target
        found = self._inputs.ssh.get(mount.id)
        if found is None:
            if mount.required:
                raise NotFound(
                    f"the ssh agent {mount.id!r:.100} is required, and was not given",
                    hint=f"give it with --ssh {mount.id}",
                )
            return
        socket = found.socket or os.environ.get("SSH_AUTH_SOCK", "")
        if found.keys:
            place = self._directory.directory("memory", self._name())
            socket = self._opened.enter_context(agent_with_keys(place, found.keys))
        if not socket:
            raise NotFound("no ssh agent runs: SSH_AUTH_SOCK is not set", hint="start ssh-agent, or name a key file")
        path = os.path.join(self._directory.directory("memory", self._name()), "agent")
        mode = 0o600 if mount.mode is None else mount.mode & 0o777
        self._opened.enter_context(agent_socket(socket, path, mode=mode, uid=mount.uid, gid=mount.gid))
        self.mounts.append(Mount("bind", path, mount.target, _QUIET))

    def _name(self) -> str:
        self._number += 1
        return f"mount-{self._number}"


def _bind(source: str, mount: RunMount) -> Mount:
    return Mount("bind", source, mount.target, ("ro",) if mount.read_only else ())


def _missing(mount: RunMount, why: str) -> PathNotFound:
    return PathNotFound(
        f"--mount: nothing is at {mount.source!r:.200} to mount at {mount.target!r:.200}: {why}",
        hint="check source, and the ignore file",
    )


def _own(path: str, mode: int, uid: int, gid: int) -> None:
    with reported(path):
        if (uid, gid) != (0, 0):
            if not (privileges.has_id(uid) and privileges.has_id(gid, group=True)):
                raise privileges.no_such_ids(uid, gid)
            os.chown(path, uid, gid)
        os.chmod(path, mode)


def _text(mount: RunMount, content: bytes) -> str:
    """The content of a secret as the value of a variable."""
    try:
        text = content.decode()
        if "\0" not in text:
            return text
    except UnicodeDecodeError:
        pass
    raise UsageError(
        f"the secret {mount.id!r:.100} can't be a variable: it holds a NUL, or is not UTF-8",
        hint="mount it as a file: leave env out",
    )
