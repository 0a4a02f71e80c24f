"""Containers. Each has a directory with the data that it wrote and a record: what it was made of, and how it ended.

A record protects its image from gc for as long as the container exists. It is always rewritten as a whole (temporary
file, rename). Two locks in a container's directory tell which processes work with it. They work across pid
namespaces, and they do not depend on the clock:

- ``lock`` (a file): held by the process that supervises the running container: its monitor, or the command that
  runs it in the foreground, and the runtime that this started. So a container still counts as running after its
  lamina was killed. The file holds the first record, so that gc and ``rm`` know what a container with a damaged
  record needs.
- the directory itself: held shared by processes that read what the container wrote, and exclusively by processes that
  mount or remove it.

After a monitor was killed, nobody holds the first lock; then the container runs as long as its first process lives.

A third lock, ``changing``, is held while a record is read, changed and written (``change``). A fourth one, ``owner``,
exists for containers that were run through the library: as long as the process of the
library holds it, the container is kept, even if it has ended and is to be removed.

A directory is made and removed under a temporary name: a directory with a container's name is complete.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, NotFound, StoreDamaged, SystemFailure, UsageError
from lamina.host.files import read_regular, replace_file, reported, sync_directory, write_all
from lamina.host.lock import LOOK, acquire, is_same, locked, release, share, unheld
from lamina.host.process_identity import boot_id, start_time
from lamina.host.temporary import SUFFIX, TemporaryDirectory, is_temporary
from lamina.light import TYPE_CHECKING, Value, as_dict, field, replace
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import read_own, write_own
from lamina.store.fault import pieces, point
from lamina.store.foreign_trees import remove_tree
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from typing import Any, Self

CREATED, RUNNING, EXITED, DAMAGED = "created", "running", "exited", "damaged"
RESTARTING, PAUSED = "restarting", "paused"
UNKNOWN_CODE = 255
"""What docker's forms show as the exit code if nobody knows it, as docker does."""
_RECORD, _LOCK, _OWNER, _CHANGING = "container.json", "lock", "owner", "changing"
_WRITTEN = ("upper", "volumes", "memory")
_SECRET = 0o600  # the mode of files that hold the environment of programs
_STEM = 16  # length of an ID in a temporary name
_ABANDONED = object()
_MAX_RECORD = 16 << 20
_LATEST = 1 << 37  # seconds: some thousand years


class Container(Value):
    """``image``: the name it was made from. ``manifest``, ``media_type``, ``size``: the descriptor of its manifest.
    ``layers``: the diff_ids. ``created``, ``finished``: seconds since 1970. ``view``: as in ``view.mount``, "" until
    it was mounted. ``made``: paths in the upper directory that exist only as mount points. ``users``, ``groups``: the
    ids of its user namespace (inside, outside, count); empty: those of the image. ``top``: the directory that holds
    its upper directory, "" for its own (``run.writable``). ``volumes``: names of its volumes, and its mount points.
    ``stop_signal``, ``stop_timeout`` (seconds): as requested; "" and None mean the image's value and the default.
    ``pid``, ``started`` and ``namespace`` (pid namespace) identify the process that supervises it; the lock tells
    whether that process lives. ``program``, ``program_started``, ``boot``: the same of its first process, if a
    monitor supervises it. ``since``: when its program was last started (seconds since 1970). ``restarts``: how
    often its monitor has started it again. ``oom``: the kernel ended it for want of memory. ``error``: why it could
    not be started. ``remove``: remove it when it ends. ``status``: as last written (``Containers.state`` is the
    truth); DAMAGED: its record can't be read, and the other fields come from its first record, if that can be read.
    ``mounts``: its volumes and other mounts (``run.volumes.points``); None in records of an older lamina.
    ``images``: the images that are mounted into it: the manifest's media type, digest and size, and the diff_ids.
    ``wanted``: the options that it was created with (``run.container.record``); None in records of an older lamina.
    ``unknown``: fields that only a newer lamina knows."""

    id: str
    name: str
    image: str
    manifest: str
    media_type: str
    size: int
    layers: tuple[str, ...]
    created: float
    command: tuple[str, ...] = ()
    view: str = ""
    runtime: str = ""
    status: str = CREATED
    exit_code: int | None = None
    finished: float | None = None
    pid: int = 0
    started: str | None = None
    boot: str = ""
    made: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    users: tuple[tuple[int, int, int], ...] = ()
    groups: tuple[tuple[int, int, int], ...] = ()
    top: str = ""
    remove: bool = False
    namespace: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    stop_timeout: int | None = None
    program: int = 0
    program_started: str | None = None
    since: float | None = None
    restarts: int = 0
    oom: bool = False
    error: str = ""
    paused: bool = False
    mounts: tuple[Mapping[str, Any], ...] | None = field(default_factory=lambda: None, hash=False, repr=False)
    images: tuple[tuple[str, str, int, tuple[str, ...]], ...] = ()
    wanted: Mapping[str, Any] | None = field(default_factory=lambda: None, hash=False, repr=False)
    unknown: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of the manifest."""
        return Descriptor(self.media_type, Digest.parse(self.manifest), self.size)

    @property
    def mounted_images(self) -> list[tuple[Descriptor, tuple[str, ...]]]:
        """The descriptors of the manifests of the images that are mounted into it, and their diff_ids."""
        return [(Descriptor(kind, Digest.parse(digest), size), layers) for kind, digest, size, layers in self.images]

    @property
    def is_damaged(self) -> bool:
        return self.status == DAMAGED

    @property
    def may_run(self) -> bool:
        """Whether it runs as far as the record knows."""
        return self.status in (RUNNING, RESTARTING)

    @property
    def is_program_alive(self) -> bool:
        """Whether the first process of a monitored container lives."""
        return (
            self.program > 0
            and self.boot == boot_id()
            and not self.is_elsewhere
            and start_time(self.program) == self.program_started is not None
        )

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs in another pid namespace; then its pid means nothing here."""
        return self.namespace not in (0, pid_namespace())

    def supervised_here(self) -> Container:
        """A copy that names this process as the one that supervises the container."""
        pid = os.getpid()
        return replace(
            self,
            status=RUNNING,
            pid=pid,
            started=start_time(pid),
            namespace=pid_namespace(),
            boot=boot_id(),
            view="",
            program=0,
            program_started=None,
            paused=False,
            exit_code=None,
            finished=None,
            error="",
            oom=False,
        )

    def ended(self, code: int | None, **changes: Any) -> Container:
        """A copy that has ended now, with this exit code; None: nobody knows it."""
        ends: dict[str, Any] = {"pid": 0, "started": None, "program": 0, "program_started": None, "paused": False}
        return replace(self, status=EXITED, exit_code=code, finished=time.time(), **ends, **changes)


_TEXT, _NUMBER, _LIST = (str,), (int, float), (tuple,)
_NONE = (type(None),)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "name", "image", "manifest", "media_type", "view", "runtime", "status", "boot"), _TEXT),
    **dict.fromkeys(("size", "created", "pid", "remove", "namespace", "program", "restarts"), _NUMBER),
    **dict.fromkeys(("oom", "paused"), _NUMBER),
    "error": _TEXT,
    "program_started": (*_TEXT, *_NONE),
    "since": (*_NUMBER, *_NONE),
    **dict.fromkeys(("layers", "command", "made", "volumes", "users", "groups", "labels", "images"), _LIST),
    "mounts": (*_LIST, *_NONE),
    **dict.fromkeys(("top", "stop_signal"), _TEXT),
    "wanted": (dict, *_NONE),
    "stop_timeout": (*_NUMBER, *_NONE),
    "exit_code": (*_NUMBER, *_NONE),
    "finished": (*_NUMBER, *_NONE),
    "started": (*_TEXT, *_NONE),
}


class Containers:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._held: dict[str, int] = {}  # locks of the containers that this process supervises
        self._names_read: dict[str, tuple[tuple[int, ...], str]] = {}  # names by ID, and the ``_stamp`` of the record

    def path(self, identity: str, *names: str) -> str:
        """A path in the container's directory. ``identity``: hex digits, as ``create`` gave them."""
        return os.path.join(self._top, identity, *names)

    @property
    def _top(self) -> str:
        return os.path.join(self._paths.root, "containers")

    @contextmanager
    def creating(
        self,
        container: Container,
        *,
        lasting: bool,
        undo: Callable[[str], None] = lambda directory: None,
    ) -> Iterator[str]:
        """Yield a directory with this record, for the block to fill. It gets its final name when the block ends, and
        protects the image from then on: a gc takes the lock before it deletes, and reads all records again. This
        process supervises a RUNNING container.

        ``lasting``: as in ``write``. ``undo``: called with the directory if it does not get its final name; removes
        what the block made outside of it, or mounted.

        Raises Conflict (the name is taken), NotFound (the image was deleted meanwhile), SystemFailure.
        """
        directory = self._paths.root
        with (
            reported(directory),
            TemporaryDirectory(self._top, container.id[:_STEM], remove=remove_tree) as made,
        ):
            directory = made.path
            point("container.directory-made")
            text = _record(container)
            lock = os.path.join(directory, _LOCK)
            held = _new(lock, text, lasting)
            try:
                point("container.lock-written")
                if container.status == RUNNING:
                    acquire(held, lock)
                    self._held[container.id] = held
                else:
                    os.close(held)
                replace_file(
                    os.path.join(directory, _RECORD),
                    pieces([text], "container.record-written"),
                    mode=_SECRET,
                    lasting=lasting,
                )
                try:
                    yield directory
                    with locked(self._paths.lock):
                        self._check_name(container)
                        self._check_images(container)
                        made.put(self.path(container.id))
                except BaseException:
                    undo(directory)
                    raise
                point("container.named")
                if lasting:
                    sync_directory(self._top)
            except BaseException:
                self.stop_supervising(container.id)
                raise

    def _check_images(self, container: Container) -> None:
        manifests = [Digest.parse(container.manifest), *(one.digest for one, _ in container.mounted_images)]
        if not all(os.path.exists(self._paths.blob(digest)) for digest in manifests):
            raise NotFound(
                f"the image {container.image} was deleted while the container was created"
                if not os.path.exists(self._paths.blob(manifests[0]))
                else "an image to be mounted was deleted while the container was created",
                hint="pull it again",
            )

    def _check_name(self, container: Container) -> None:
        for identity in filter(_is_identity, self._names()):
            if identity == container.id:
                continue
            stamp, name = self._names_read.get(identity, ((), ""))
            if not stamp or stamp != _stamp(self.path(identity, _RECORD)):  # it is new, or was perhaps renamed
                found = self._get(identity)
                name = found.name if isinstance(found, Container) else ""
            if name == container.name:
                raise Conflict(
                    f"the name {container.name!r:.100} is taken by the container {identity[:12]}",
                    hint=f"remove it with `lamina rm {name}`, or choose another name",
                )

    def write(self, container: Container, *, lasting: bool = True) -> None:
        """Rewrite the record. ``lasting``: False for a container that is removed when it ends, and need not survive a
        crash."""

        def rewrite() -> None:
            text = pieces([_record(container)], "container.record-rewritten")
            replace_file(self.path(container.id, _RECORD), text, mode=_SECRET, lasting=lasting)

        self._even_if_full(rewrite)  # how a container ended is known only once

    def _even_if_full(self, work: Callable[[], None]) -> None:
        """Call ``work``; if the disk is full, it gets the space of the reserve. Raises OSError."""
        try:
            work()
        except OSError as error:
            from lamina.store.reserve import again

            again(self._paths, error, work)

    @contextmanager
    def changing(self, identity: str) -> Iterator[Container]:
        """The record as it is now; no other process changes it while the block runs, which may ``write`` it. Raises
        NotFound (the container was removed), StoreDamaged, SystemFailure."""
        path = self.path(identity, _CHANGING)
        if not os.path.isdir(self.path(identity)):
            raise _gone(identity[:12])
        with reported(path):
            try:
                if not os.path.exists(path):
                    self._even_if_full(lambda: _make_file(path))
                with locked(path):
                    yield self.get(identity)
            except (FileNotFoundError, SystemFailure):
                if os.path.isdir(self.path(identity)):
                    raise
                raise _gone(identity[:12]) from None

    def change(self, container: Container, **changes: Any) -> Container:
        """Change these fields of the record; returns the new one. Raises as ``changing``."""
        with self.changing(container.id) as now:
            changed = replace(now, **changes)
            self.write(changed, lasting=not changed.remove)
        return changed

    def rename(self, container: Container, name: str) -> Container:
        """Give the container another name; returns its new record. Raises Conflict (the name is taken), and as
        ``changing``."""
        with self.changing(container.id) as now:
            renamed = replace(now, name=name)
            if name == now.name:
                raise Conflict(f"the container is already called {name!r:.100}", hint="choose another name")
            with reported(self._paths.lock), locked(self._paths.lock):
                self._check_name(renamed)
                self.write(renamed, lasting=not renamed.remove)
        return renamed

    def supervise(self, container: Container) -> Container:
        """Make this process supervise the container. Raises Conflict (it runs), NotFound (it was removed)."""
        path = self.path(container.id, _LOCK)
        with reported(path):
            try:
                with suppress(FileExistsError):  # missing in a container of an older lamina
                    os.close(_new(path, _record(container), lasting=True))
                descriptor = os.open(path, LOOK)
            except FileNotFoundError:
                raise _gone(container.name) from None
            try:
                while not acquire(descriptor, path, wait=False):
                    with unheld(path) as free:  # if it is free, a process only tested the lock
                        if not free:
                            raise Conflict(
                                f"the container {container.name} is running",
                                hint=f"stop it first with `lamina stop {container.name}`",
                            )
                if not is_same(descriptor, path):
                    raise _gone(container.name)
            except BaseException:
                os.close(descriptor)
                raise
        self._held[container.id] = descriptor
        return container.supervised_here()

    def lock_of(self, identity: str) -> int:
        """The descriptor of the container's lock, to pass to its runtime; -1 if this process does not supervise
        it."""
        return self._held.get(identity, -1)

    def stop_supervising(self, identity: str) -> None:
        """Stop supervising the container: its runtime has ended."""
        descriptor = self._held.pop(identity, -1)
        if descriptor >= 0:
            release(descriptor, self.path(identity, _LOCK))  # a forked process may have a copy of the descriptor
            os.close(descriptor)

    def hand_over(self, identity: str) -> None:
        """Leave the container to another process, which has a copy of the lock's descriptor."""
        os.close(self._held.pop(identity))

    def adopt(self, identity: str, descriptor: int) -> None:
        """Supervise the container: ``descriptor`` holds its lock, which another process has handed over."""
        self._held[identity] = descriptor

    def is_running(self, container: Container) -> bool:
        """Whether it runs: a process supervises it (a lamina, or the runtime that a killed lamina had started), or
        its first process lives after its monitor was killed. ``container``: read a moment ago."""
        return self.is_supervised(container) or container.is_program_alive

    def is_supervised(self, container: Container) -> bool:
        """Whether a process supervises it."""
        path = self.path(container.id, _LOCK)
        if not os.path.exists(path):  # of an older lamina: only its pid can be checked
            pid = container.pid if os.path.isdir(self.path(container.id)) else 0
            return pid > 0 and container.boot == boot_id() and start_time(pid) == container.started is not None
        with reported(path), unheld(path) as free:
            return not free and os.path.exists(path)

    @contextmanager
    def owning(self, container: Container) -> Iterator[int]:
        """Yield the descriptor of a file whose lock keeps the container after its end. The lock lasts as long as any
        process has a copy of the descriptor. Raises SystemFailure."""
        path = self.path(container.id, _OWNER)
        with reported(path):
            try:
                descriptor = _new(path, b"", lasting=False)
            except FileExistsError:  # of an owner before
                descriptor = os.open(path, LOOK)
            try:
                acquire(descriptor, path)
                yield descriptor
            finally:
                os.close(descriptor)

    def is_abandoned(self, container: Container) -> bool:
        """Whether the container has ended, is to be removed, and no process keeps it."""
        return container.remove and container.status == EXITED and not self.is_owned(container)

    def is_owned(self, container: Container) -> bool:
        """Whether a process keeps the container after its end (``owning``)."""
        path = self.path(container.id, _OWNER)
        with reported(path), unheld(path) as free:
            return not free and os.path.exists(path)

    def state(self, container: Container) -> str:
        """The current state: RUNNING, PAUSED, RESTARTING, CREATED, EXITED or DAMAGED."""
        if container.status in (CREATED, DAMAGED, EXITED):
            return container.status
        if not self.is_running(container):
            return CREATED if self._never_ran(container) else EXITED
        if container.status == RESTARTING and self.is_supervised(container):
            return RESTARTING
        return PAUSED if container.paused else RUNNING

    def _never_ran(self, container: Container) -> bool:
        """Whether a start of it, the first one, was killed before its program ran."""
        return container.since is None and not os.path.exists(self.path(container.id, "bundle", "pid"))

    def note_kill(self, container: Container, code: int | None) -> None:
        """Write into the record that the container has ended without its supervisor, which was killed. ``code``: its
        exit code; None: nobody knows it. Call it in a block of ``changing``."""
        ended = container.ended(code)
        if self._never_ran(container):
            ended = replace(ended, status=CREATED, finished=None)
        self.write(ended)

    def using(self, container: Container, *, shared: bool = False, wait: bool = True) -> Use:
        """Lock what the container wrote, and its mount, while the block runs: against all others, or with ``shared``
        only against processes that change it. Waits for the lock; with ``wait=False`` raises Conflict instead. Raises
        NotFound if the container is gone, SystemFailure."""
        return Use(self.path(container.id), container.name, shared=shared, wait=wait)

    def set_aside(self, container: Container) -> str:
        """Rename the container's directory to a temporary name, for its removal; returns the new path. From then on
        the container does not exist. Call it in a block of ``using``, which locks the directory, so that no other
        process removes it."""
        path = self.path(container.id)
        aside = os.path.join(self._top, f"{container.id[:_STEM]}.{os.urandom(6).hex()}{SUFFIX}")
        with reported(path):
            os.rename(path, aside)
        point("container.set-aside")
        return aside

    def __iter__(self) -> Iterator[Container]:
        """The containers whose records can be read, oldest first."""
        return (one for one in self.every() if not one.is_damaged)

    def every(self) -> list[Container]:
        """All containers, oldest first; those whose records can't be read are DAMAGED."""
        return self.scan()[0]

    def scan(self) -> tuple[list[Container], list[str]]:
        """Like ``every``; also the absolute paths of directories that were left when making or removing a container
        was killed."""
        found, left = [], []
        for name in self._names():
            if is_temporary(name):
                left.append(os.path.join(self._top, name))
            elif _is_identity(name):
                one = self._get(name)
                if isinstance(one, Container):
                    found.append(one)
                elif one is _ABANDONED:
                    left.append(os.path.join(self._top, name))
        found.sort(key=lambda one: (one.created, one.id))
        return found, left

    def record_in(self, directory: str) -> Container | None:
        """The record in a directory that ``scan`` found; the first record if that can't be read; None if neither
        can."""
        for name in (_RECORD, _LOCK):
            with suppress(FileNotFoundError, _Unreadable):
                return _parsed(os.path.join(directory, name), "")
        return None

    def killed(self, known: Iterable[Container]) -> Iterator[Container]:
        """The containers of ``known`` that run by their records, but that no process supervises."""
        return (one for one in known if one.may_run and not self.is_running(one))

    def unknown_paths(self) -> Iterator[str]:
        """Absolute paths of everything among the containers that is not a container."""
        for name in self._names():
            path = os.path.join(self._top, name)
            if not is_temporary(name) and not (_is_identity(name) and os.path.isdir(path)):
                yield path

    def get(self, word: str, *, damaged: bool = False) -> Container:
        """Find a container by name, or by the first digits of its ID. Raises NotFound, Conflict (several match), and
        StoreDamaged if its record is damaged, unless ``damaged`` is True."""
        found = self._found(word)
        if found.is_damaged and not damaged:
            raise damage(found)
        return found

    def _found(self, word: str) -> Container:
        word = word.removeprefix("/")  # as docker's inspect shows names
        if _is_identity(word):
            one = self._get(word)
            if isinstance(one, Container):
                return one
        every = self.every()
        for one in every:
            if word in (one.name, one.id):
                return one
        found = [one for one in every if word and one.id.startswith(word)]
        if len(found) > 1:
            raise Conflict(
                f"{word!r:.70} is ambiguous: the IDs of {len(found)} containers begin with it",
                hint="give more digits",
            )
        if not found:
            raise NotFound(f"no container {word!r:.100}", hint="see `lamina ps -a`")
        return found[0]

    def digests(self) -> frozenset[Digest]:
        """The manifests and layers that containers need. Raises StoreDamaged if these can't be read: then nothing may
        be deleted."""
        found = set()
        for one in self.every():
            if not one.manifest:
                raise StoreDamaged(
                    f"nothing was deleted: the record of the container {one.id[:12]} is damaged, so the image "
                    "that it needs is not known",
                    hint=f"run `lamina rm {one.id[:12]}` to remove the container and its changes",
                )
            for text in (one.manifest, *one.layers):
                found.add(Digest.parse(text))
            for descriptor, layers in one.mounted_images:
                found |= {descriptor.digest, *map(Digest.parse, layers)}
        return frozenset(found)

    def _names(self) -> list[str]:
        with reported(self._top):
            return sorted(os.listdir(self._top))

    def _get(self, identity: str) -> Container | object | None:
        """The container; _ABANDONED if making or removing it was killed; None if there is none."""
        stamp = _stamp(self.path(identity, _RECORD))  # before it is read: it may change meanwhile
        try:
            found = _parsed(self.path(identity, _RECORD), identity)
            self._names_read[identity] = stamp, found.name
            return found
        except (FileNotFoundError, _Unreadable):
            if not os.path.isdir(self.path(identity)):
                return None
        lock = self.path(identity, _LOCK)
        try:
            found = replace(_parsed(lock, identity), status=DAMAGED, pid=0)
        except (FileNotFoundError, _Unreadable):
            state = os.stat(self.path(identity))
            found = Container(identity, identity[:12], "", "", "", 0, (), state.st_mtime, status=DAMAGED)
        return _ABANDONED if self._holds_no_data(found) else found

    def _holds_no_data(self, container: Container) -> bool:
        """Whether a directory without a readable record holds no user data: the container was to be removed at its
        end (its record was then never synced, so a crash may lose it), or wrote nothing."""
        lock = self.path(container.id, _LOCK)
        unwritten = os.path.exists(lock) and os.stat(lock).st_size == 0
        if unwritten or container.remove:
            return not self.is_running(container)
        directories = [self.path(container.id, name) for name in _WRITTEN]
        return not any(os.path.isdir(one) and os.listdir(one) for one in directories)


class Use:
    """A lock on the directory of a container, until the block ends or ``close`` is called."""

    _descriptor = -1

    def __init__(self, path: str, name: str, *, shared: bool = False, wait: bool = True) -> None:
        self._path = path
        with reported(path):
            try:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
                if not (share(self._descriptor) if shared else acquire(self._descriptor, path, wait=wait)):
                    raise Conflict(
                        f"the container {name} is in use by another process", hint="try again when that has ended"
                    )
                if not is_same(self._descriptor, path):
                    raise FileNotFoundError(path)
            except (FileNotFoundError, NotADirectoryError):
                self.close()
                raise _gone(name) from None
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            release(descriptor, self._path)  # a forked process may have a copy of the descriptor
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Unreadable(Exception):
    """A file that is not a valid record."""


def damage(container: Container) -> StoreDamaged:
    return StoreDamaged(
        f"the record of the container {container.name} is damaged",
        hint=f"run `lamina rm {container.id[:12]}` to remove the container and its changes",
    )


def _gone(name: str) -> NotFound:
    return NotFound(f"the container {name} was not found: another process has removed it", hint="see `lamina ps -a`")


def _new(path: str, text: bytes, lasting: bool) -> int:
    """Create a file with this text; returns a read-only descriptor, which a runtime may inherit."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, text)
        if lasting:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def pid_namespace() -> int:
    """The identifier of this process's pid namespace; 0 if the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _stamp(path: str) -> tuple[int, ...]:
    """What changes when a file is replaced; () if it does not exist."""
    try:
        state = os.stat(path)
    except OSError:
        return ()
    return state.st_ino, state.st_mtime_ns, state.st_size


def _is_identity(name: str) -> bool:
    return len(name) == 64 and not set(name) - set("0123456789abcdef")


def _parsed(path: str, identity: str) -> Container:
    """Read a record. ``identity``: the ID that it must have, "" for any. Raises _Unreadable, FileNotFoundError."""
    try:
        value = read_own(read_regular(path, _MAX_RECORD).decode())
        values: dict[str, Any] = {key: _tuples(item) for key, item in value.items() if key in _KINDS}
        unknown = {key: item for key, item in value.items() if key not in _KINDS}
        container = Container(**values, unknown=unknown)
        for key, kinds in _KINDS.items():
            item = getattr(container, key)
            if not isinstance(item, kinds) or (isinstance(item, float) and not 0 <= item < _LATEST):
                raise TypeError(key)
        for text in (container.manifest, *container.layers):
            Digest.parse(text)
        for _, layers in container.mounted_images:
            for text in layers:
                Digest.parse(text)
        if not all(isinstance(one, dict) for one in container.mounts or ()):
            raise TypeError("mounts")
        for pair in (*container.labels, *((word, "") for word in (*container.command, *container.volumes))):
            if len(pair) != 2 or not all(isinstance(word, str) for word in pair):
                raise TypeError("a text")
        if identity and container.id != identity:
            raise ValueError("another container's")
        return container
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, UsageError):
        raise _Unreadable from None


def _record(container: Container) -> bytes:
    """The text of a record, in the form that ``_parsed`` reads."""
    known = as_dict(container)
    return write_own({**known.pop("unknown"), **known}).encode()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _make_file(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _SECRET))
