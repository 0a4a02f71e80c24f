"""Volumes: directories of data that outlive containers. Each has a record beside it: labels, options, who made it.

The directory ``volumes/NAME`` is the volume; the record is ``volumes/.NAME.json``. A directory without a record is a
volume of an older lamina, or of one that was killed: it has no labels. A record without a directory is a leftover.

All changes are made under a lock on ``volumes/``. A volume is made and removed under a temporary name, so that a
directory with a volume's name is complete. A volume is removed only while no container can be created, so that a
container that was created before keeps its volumes.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, NotFound, StoreDamaged, UsageError
from lamina.host.files import replace_file, reported, sync_directory
from lamina.host.lock import locked, locked_directory
from lamina.host.temporary import SUFFIX, TemporaryDirectory, is_temporary
from lamina.light import TYPE_CHECKING, Value, as_dict, field, replace
from lamina.spec.json import read_own, write_own
from lamina.store.fault import pieces, point
from lamina.store.foreign_trees import remove_tree
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from typing import Any

LOCAL = "local"
"""The only driver."""
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_FURTHER = _LETTERS | frozenset("_.-")
_MAX_NAME = 200  # bytes: with what is added to it, a name stays within the 255 bytes that file systems allow
_MAX_RECORD = 4 << 20
_BEFORE, _AFTER = ".", ".json"
_LATEST = 1 << 37  # seconds: some thousand years
_HEX = frozenset("0123456789abcdef")


class Volume(Value):
    """``created``: seconds since 1970. ``options``: of the driver. ``anonymous``: its name was made up for a
    container. ``container``: the ID of the container that it was made for, "" for none. ``fresh``: no container has
    mounted it. ``damaged``: its record can't be read, and the other fields are unknown. ``unknown``: fields that only
    a newer lamina knows."""

    name: str
    created: float
    labels: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    driver: str = LOCAL
    anonymous: bool = False
    container: str = ""
    fresh: bool = False
    damaged: bool = field(default_factory=lambda: False, compare=False)
    unknown: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "driver", "container"), (str,)),
    "created": (int, float),
    **dict.fromkeys(("labels", "options"), (tuple,)),
    **dict.fromkeys(("anonymous", "fresh"), (bool,)),
}


def new_name() -> str:
    """The name of an anonymous volume."""
    return os.urandom(32).hex()


def is_name(name: str) -> bool:
    """Whether a volume may have this name. Without a regular expression: `run` would load ``re`` for it."""
    return name[:1] in _LETTERS and not set(name) - _FURTHER


def is_made_up(name: str) -> bool:
    """Whether a name looks like that of an anonymous volume."""
    return len(name) == 64 and not set(name) - _HEX


def is_left(name: str) -> bool:
    """Whether this is the temporary name of a volume or a record that is being made or removed. A volume itself may
    be called ``data.tmp``."""
    return name.startswith(_BEFORE) and is_temporary(name)


def check_name(name: str) -> str:
    """Raises UsageError."""
    if not is_name(name):
        raise UsageError(
            f"{name!r:.100} is not a volume name",
            hint="use letters, digits, _ . and -; begin a path with / or .",
        )
    if len(name) > _MAX_NAME:
        raise UsageError(f"the volume name {name!r:.60} is too long", hint=f"use at most {_MAX_NAME} characters")
    return name


class Volumes:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.top = os.path.join(paths.root, "volumes")

    def path(self, name: str) -> str:
        """The directory of a volume."""
        return os.path.join(self.top, name)

    def exists(self, name: str) -> bool:
        """Raises Conflict if something else has the place of the volume's directory."""
        try:
            mode = os.lstat(self.path(name)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISDIR(mode):
            raise Conflict(
                f"the volume {name} is not a directory any more", hint=f"move {self.path(name)} away by hand"
            )
        return True

    def get(self, name: str) -> Volume:
        """Raises NotFound, Conflict, SystemFailure."""
        if not is_name(name) or not self.exists(name):
            raise NotFound(f"no volume {name!r:.100}", hint="see `lamina volume ls`")
        return self._read(name)

    def checked(self, name: str) -> Volume:
        """As ``get``, for use. Raises StoreDamaged if its record is damaged: it may say where its data is."""
        found = self.get(name)
        if found.damaged:
            raise StoreDamaged(
                f"the record of the volume {name} is damaged",
                hint=f"remove {self._record(name)} to use the directory as it is, or run `lamina volume rm {name}`",
            )
        return found

    def every(self) -> list[Volume]:
        """All volumes by name."""
        found = []
        for name in self._names():
            with suppress(NotFound, Conflict):
                if is_name(name):
                    found.append(self.get(name))
        return found

    def oddities(self) -> Iterator[tuple[str, str]]:
        """Names among the volumes that are none, and what they are."""
        for name in self._names():
            if is_left(name):
                yield name, "left by interrupted work: run `lamina prune`"
            elif _is_record(name):
                if not os.path.lexists(self.path(_of_record(name))):
                    yield name, "the record of a volume that does not exist: run `lamina prune`"
            elif not is_name(name) or not stat.S_ISDIR(os.lstat(self.path(name)).st_mode):
                yield name, "not a volume"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from making, filling and removing volumes while the block runs."""
        with reported(self.top), locked_directory(self.top):
            yield

    def make(self, volume: Volume, *, owner: tuple[int, int] = (0, 0), lasting: bool = True) -> bool:
        """Make a volume; returns False if it exists already. ``owner`` owns its directory. ``lasting``: False for one
        that need not survive a crash. Raises Conflict, UsageError, SystemFailure."""
        return self.make_with(volume, lambda directory: None, owner=owner, lasting=lasting)

    def make_with(
        self, volume: Volume, fill: Callable[[str], object], *, owner: tuple[int, int] = (0, 0), lasting: bool = True
    ) -> bool:
        """As ``make``; ``fill`` is called with the new directory before it gets its name."""
        check_name(volume.name)
        if self.exists(volume.name):
            return False
        with self.alone():
            if self.exists(volume.name):
                return False
            with TemporaryDirectory(self.top, f".{volume.name}", remove=remove_tree) as made:
                os.chmod(made.path, 0o755)
                if owner != (0, 0):
                    os.chown(made.path, *owner)
                point("volume.directory-made")
                fill(made.path)
                point("volume.filled")
                self.write(volume, lasting=lasting)
                point("volume.record-written")
                made.put(self.path(volume.name))
                point("volume.named")
                if lasting:
                    sync_directory(self.top)
        return True

    def write(self, volume: Volume, *, lasting: bool = True) -> None:
        """Write the record. Call it in a block of ``alone``. Raises UsageError (it is too long), SystemFailure."""
        known = as_dict(volume)
        del known["damaged"]
        text = write_own({**known.pop("unknown"), **known}).encode()
        if len(text) >= _MAX_RECORD:
            raise UsageError(f"the labels of the volume {volume.name} are too long", hint="use at most 4 MB")
        # the options may hold the password of a file server
        replace_file(self._record(volume.name), pieces([text], "volume.record-ready"), mode=0o600, lasting=lasting)

    def refill(self, volume: Volume, fill: Callable[[str], object], *, lasting: bool = True) -> None:
        """Let ``fill`` write the first files of an empty volume. A volume that is not empty is left alone. Call it in
        a block of ``alone``."""
        path = self.path(volume.name)
        if not os.listdir(path):
            with TemporaryDirectory(self.top, f".{volume.name}", remove=remove_tree) as made:
                state = os.lstat(path)
                os.chmod(made.path, stat.S_IMODE(state.st_mode))
                if (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
                    os.chown(made.path, state.st_uid, state.st_gid)
                fill(made.path)
                point("volume.filled")
                made.put(path)  # rename(2) replaces an empty directory
        self.write(replace(volume, fresh=False), lasting=lasting)

    def set_aside(self, name: str, check: Callable[[], object]) -> str:
        """Take the name from a volume, for its removal; returns the new path of its directory, and removes its
        record. ``check`` is called while no container can be created; if it raises, nothing is changed. Raises
        NotFound, SystemFailure."""
        with self.alone(), reported(self.path(name)), locked(self._paths.lock):
            if not os.path.lexists(self.path(name)):
                raise NotFound(f"no volume {name!r:.100}", hint="see `lamina volume ls`")
            check()
            aside = os.path.join(self.top, f".{name}.{os.urandom(6).hex()}{SUFFIX}")
            os.rename(self.path(name), aside)
            point("volume.set-aside")
            with suppress(FileNotFoundError):
                os.unlink(self._record(name))
            sync_directory(self.top)
        point("volume.record-removed")
        return aside

    def remove_stray_records(self) -> None:
        """Remove the records of volumes that do not exist."""
        with reported(self.top):
            if not any(self._strays()):
                return
        with self.alone():
            for name in self._strays():
                os.unlink(self.path(name))

    def _strays(self) -> Iterator[str]:
        for name in self._names():
            if _is_record(name) and not os.path.lexists(self.path(_of_record(name))):
                yield name

    def _record(self, name: str) -> str:
        return os.path.join(self.top, f"{_BEFORE}{name}{_AFTER}")

    def _names(self) -> list[str]:
        with reported(self.top):
            return sorted(os.listdir(self.top))

    def _read(self, name: str) -> Volume:
        try:
            return _parsed(self._record(name), name)
        except FileNotFoundError:
            damaged = False
        except OSError as error:
            damaged = error.errno != errno.ENAMETOOLONG  # a volume of an older lamina
        except (ValueError, TypeError, AttributeError):
            damaged = True
        with reported(self.path(name)):
            return Volume(name, os.stat(self.path(name)).st_mtime, anonymous=is_made_up(name), damaged=damaged)


def _is_record(name: str) -> bool:
    return name.startswith(_BEFORE) and name.endswith(_AFTER)


def _of_record(name: str) -> str:
    return name[len(_BEFORE) : -len(_AFTER)]


def _parsed(path: str, name: str) -> Volume:
    """Read a record. Raises OSError, ValueError, TypeError, AttributeError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(path)
        value = read_own(file.read(_MAX_RECORD).decode())
    known: dict[str, Any] = {}
    for key in _KINDS & value.keys():
        known[key] = tuple(map(tuple, value[key])) if isinstance(value[key], list) else value[key]
    volume = Volume(**known, unknown={key: item for key, item in value.items() if key not in _KINDS})
    for key, kinds in _KINDS.items():
        item = getattr(volume, key)
        if not isinstance(item, kinds) or (isinstance(item, float) and not 0 <= item < _LATEST):
            raise TypeError(key)
    for pair in (*volume.labels, *volume.options):
        if len(pair) != 2 or not all(isinstance(word, str) for word in pair):
            raise TypeError("a text")
    if volume.name != name:
        raise ValueError("another volume's")
    return volume


def new_volume(
    name: str,
    labels: Iterable[tuple[str, str]] = (),
    options: Iterable[tuple[str, str]] = (),
    *,
    anonymous: bool = False,
    container: str = "",
    fresh: bool = True,
) -> Volume:
    """A volume that is made now."""
    made = Volume(name, time.time(), tuple(labels), tuple(options), anonymous=anonymous, container=container)
    return replace(made, fresh=fresh)
