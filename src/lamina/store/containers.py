"""Containers: people's data. One directory each, with a record of what it was made of and how it ended.

A record protects its image from gc for as long as the container is there. It is written whole each time (temporary
file, rename); changes of name and the like go through the store's lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from lamina.errors import Conflict, NotFound, StoreDamaged, UsageError
from lamina.files import replace_file, reported
from lamina.light import TYPE_CHECKING, Value, as_dict, replace
from lamina.lock import locked
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import read_own, write_own
from lamina.store.paths import Paths
from lamina.store.roots import boot_id, started

if TYPE_CHECKING:
    from typing import Any

CREATED, RUNNING, EXITED = "created", "running", "exited"


class Container(Value):
    """``image``: the name it was made from; ``manifest``, ``media_type`` and
    ``size`` its manifest's descriptor, ``layers`` the diff_ids. ``created``,
    ``finished``: seconds since 1970. ``view`` as in ``view.mount``. ``made``: paths that stand in the upper directory
    only as places for mounts. ``users``, ``groups``: the ids of its user namespace, (inside, outside, count); none:
    the image's own. ``top``: the directory that its upper directory is in, "" for its own (``run.top``). ``pid``,
    ``started`` and ``boot`` name the process that looks after it."""

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

    @property
    def descriptor(self) -> Descriptor:
        """Of the manifest."""
        return Descriptor(self.media_type, Digest.parse(self.manifest), self.size)

    @property
    def is_running(self) -> bool:
        """Whether the process that looks after it is there."""
        return self.pid > 0 and self.boot == boot_id() and started(self.pid) == self.started is not None

    def looked_after(self) -> Container:
        """With this process as the one that looks after it."""
        return replace(self, status=RUNNING, pid=os.getpid(), started=started(os.getpid()), boot=boot_id())

    @property
    def state(self) -> str:
        return RUNNING if self.is_running else EXITED if self.status != CREATED else CREATED


class Containers:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def path(self, identity: str, *names: str) -> str:
        """``identity``: hex digits, as ``create`` gave them."""
        return os.path.join(self._paths.root, "containers", identity, *names)

    def create(self, container: Container, *, lasting: bool = True) -> None:
        """A new directory with this record, which protects the image from here on: a gc takes the lock before it
        deletes, and looks again. ``lasting`` as in ``write``. Raises Conflict where the name is taken."""
        with reported(self.path(container.id)), locked(self._paths.lock):
            for other in self:
                if other.name == container.name:
                    raise Conflict(
                        f"the name {container.name!r:.100} is taken by the container {other.id[:12]}",
                        hint=f"`lamina rm {other.name}`, or choose another name",
                    )
            os.makedirs(self.path(container.id), mode=0o700)
            self.write(container, lasting=lasting)

    def write(self, container: Container, *, lasting: bool = True) -> None:
        """Not ``lasting``: the container is removed when it ends, and need not outlive the machine."""
        text = write_own(as_dict(container)).encode()
        replace_file(self.path(container.id, "container.json"), [text], lasting=lasting)

    def __iter__(self) -> Iterator[Container]:
        """Oldest first."""
        found = []
        top = os.path.join(self._paths.root, "containers")
        for identity in os.listdir(top):
            try:
                found.append(self._read(identity))
            except FileNotFoundError:
                continue  # being made, or being removed
        return iter(sorted(found, key=lambda one: (one.created, one.id)))

    def get(self, word: str) -> Container:
        """By name, or by an ID's first digits. Raises NotFound, Conflict (several begin so)."""
        if len(word) == 64 and word.isalnum():
            with suppress(FileNotFoundError):
                return self._read(word)
        every = list(self)
        for one in every:
            if word in (one.name, one.id):
                return one
        found = [one for one in every if word and one.id.startswith(word)]
        if len(found) > 1:
            raise Conflict(f"{len(found)} containers begin with {word!r:.70}", hint="give more digits")
        if not found:
            raise NotFound(f"no container {word!r:.100}", hint="see `lamina ps -a`")
        return found[0]

    def digests(self) -> frozenset[Digest]:
        """What containers need: their manifests, and their layers."""
        found = set()
        for one in self:
            for text in (one.manifest, *one.layers):
                found.add(Digest.parse(text))
        return frozenset(found)

    def _read(self, identity: str) -> Container:
        path = self.path(identity, "container.json")
        with open(path, "rb") as file:
            raw = file.read()
        if not raw:  # not lasting, and the machine has ended
            raise FileNotFoundError(path)
        try:
            value = read_own(raw.decode())
            known = Container.__annotations__
            values: dict[str, Any] = {key: _tuples(item) for key, item in value.items() if key in known}
            container = Container(**values)
            _ = container.descriptor
        except (ValueError, TypeError, AttributeError, UsageError):
            raise StoreDamaged(f"{path} is no container's record", hint="move its directory away") from None
        return container


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
