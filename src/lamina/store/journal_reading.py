"""Events of the journal: read from both of its files, chosen by docker's filters, followed as they are written."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from lamina.errors import LaminaError, StoreDamaged, UsageError
from lamina.host.files import reported
from lamina.host.lock import is_same
from lamina.spec.json import read_own
from lamina.store.journal import journal_path, old_path

KINDS = ("container", "image", "volume", "network", "pod")
KEYS = ("container", "event", "image", "label", "network", "pod", "type", "volume")
_BEGIN = b'{"time":'
_PIECE = 1 << 18
_MAX_LINE = 1 << 20
_POLL = 0.05  # seconds
_LATEST = 1 << 63
_WITH_PREFIX = ("exec_create", "exec_start", "health_status")
"""Actions that go on after a colon: a filter may name the beginning alone."""


@dataclass(frozen=True, slots=True)
class Event:
    """``time``: nanoseconds since 1970. ``kind``: of KINDS. ``action``: docker's word. ``id``: of what it happened
    to; of an image its name or ID."""

    time: int
    kind: str
    action: str
    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.attributes.get("name", "")

    @property
    def image(self) -> str:
        return self.attributes.get("image", "") if self.kind == "container" else ""


def read_line(line: bytes) -> Event | None:
    """The event of a line; None if it holds none (pure). A line that was cut off by a full disk runs into the next
    one, which is found."""
    line = line[max(line.rfind(_BEGIN), 0) :]
    try:
        found = read_own(line.decode("utf-8", "surrogatepass"))
        event = Event(found["time"], found["kind"], found["action"], found["id"], found["attributes"])
        texts = (event.kind, event.action, event.id, *event.attributes, *event.attributes.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = type(event.time) is int and 0 <= event.time < _LATEST and all(type(text) is str for text in texts)
    return event if whole else None


@dataclass(frozen=True, slots=True)
class Filters:
    """docker's: the values of one key are alternatives, but all labels are required. All keys must match."""

    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: Iterable[str]) -> Filters:
        """``KEY=VALUE`` each (pure). Raises UsageError."""
        found: dict[str, tuple[str, ...]] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in KEYS:
                raise UsageError(
                    f"{word!r:.80} is not a filter", hint=f"write KEY=VALUE, with one of {', '.join(KEYS)}"
                )
            found[key] = (*found.get(key, ()), value)
        return cls(found)

    def match(self, event: Event) -> bool:
        return all(_TESTS[key](event, values) for key, values in self.given.items())


def _by_name(kind: str) -> Callable[[Event, tuple[str, ...]], bool]:
    """By ID or name, or by the beginning of either, as docker does it; and events of others that name it."""

    def test(event: Event, values: tuple[str, ...]) -> bool:
        if event.kind == kind:
            return event.id.startswith(values) or event.name.startswith(values)
        return event.attributes.get(kind, "\n").startswith(values)

    return test


def _has_labels(event: Event, values: tuple[str, ...]) -> bool:
    for word in values:
        name, equals, value = word.partition("=")
        if name not in event.attributes or (equals and event.attributes[name] != value):
            return False
    return True


def _is_image(event: Event, values: tuple[str, ...]) -> bool:
    name = event.name if event.kind == "image" else event.image
    known = {event.id, name, _untagged(name)} - {""}
    return any(value in known or f"{value}:latest" == name for value in values)


def _untagged(name: str) -> str:
    stem, colon, tag = name.rpartition(":")
    return stem if colon and "/" not in tag else name


def _is_action(event: Event, values: tuple[str, ...]) -> bool:
    return event.action in values or any(
        value in _WITH_PREFIX and event.action.startswith(f"{value}:") for value in values
    )


_TESTS: dict[str, Callable[[Event, tuple[str, ...]], bool]] = {
    "container": _by_name("container"),
    "event": _is_action,
    "image": _is_image,
    "label": _has_labels,
    "network": _by_name("network"),
    "pod": _by_name("pod"),
    "type": lambda event, values: event.kind in values,
    "volume": _by_name("volume"),
}


def recorded(root: str) -> Iterator[Event]:
    """All events that the journal has, oldest first. Raises SystemFailure."""
    with Journal(root, past=True) as journal:
        yield from journal.new()


def last_exit_code(root: str, identity: str, since: float) -> int | None:
    """The exit code of the last end of this container that the journal has, if it was not before ``since`` (seconds
    since 1970); None if it has none."""
    code = None
    with suppress(LaminaError):
        for event in recorded(root):
            if event.kind != "container" or event.id != identity or event.time < since * 1e9:
                continue
            if event.action == "start":
                code = None
            elif event.action == "die":
                text = event.attributes.get("exitCode", "")
                code = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None
    return code


def followed(root: str, *, past: bool, until: int | None = None) -> Iterator[Event | None]:
    """The events from now on, for ever, or up to the time ``until``; with ``past`` first those that the journal has.
    Yields None when there is none at the moment. Raises SystemFailure."""
    with Journal(root, past=past) as journal:
        while True:
            ends = until is not None and time.time_ns() >= until
            yield from journal.new()
            if ends:
                return
            yield None
            left = _POLL if until is None else min(_POLL, (until - time.time_ns()) / 1e9)
            time.sleep(max(left, 0))


class Journal:
    """The journal, read forward. ``past``: from its beginning; else only what is written from now on."""

    def __init__(self, root: str, *, past: bool) -> None:
        """Raises SystemFailure."""
        self._now, self._old = journal_path(root), old_path(root)
        self._rest = b""
        self._file = self._first((self._old, self._now) if past else (self._now, self._old))
        if self._file >= 0 and not past:
            os.lseek(self._file, 0, os.SEEK_END)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def new(self) -> Iterator[Event]:
        """The events that were written since the last call. Raises SystemFailure."""
        while True:
            if self._file < 0:  # there was none yet
                self._file = self._first((self._old, self._now))
            if self._file < 0:
                return
            following = self._next()  # looked for before this file is read: nobody writes to one that was put aside
            yield from self._read()
            if following < 0:
                return
            os.close(self._file)  # only now: else its number on the disk could be used again
            self._file, self._rest = following, b""

    def _next(self) -> int:
        """The file that comes after the open one: a descriptor, -1 if there is none yet."""
        if is_same(self._file, self._now):
            return -1
        # two files may have been put aside meanwhile
        for path in (self._old, self._now):
            if not is_same(self._file, path):
                found = self._opened(path)
                if found >= 0:
                    return found
        return -1

    def _read(self) -> Iterator[Event]:
        with reported(self._now):
            while piece := os.read(self._file, _PIECE):
                *lines, self._rest = (self._rest + piece).split(b"\n")
                if len(self._rest) > _MAX_LINE:
                    self._rest = b""
                yield from filter(None, map(read_line, lines))

    def _first(self, paths: tuple[str, ...]) -> int:
        return next((found for found in map(self._opened, paths) if found >= 0), -1)

    @staticmethod
    def _opened(path: str) -> int:
        """-1 if there is no such file. Raises SystemFailure."""
        with reported(path):
            try:
                found = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return -1
        if stat.S_ISREG(os.fstat(found).st_mode):
            return found
        os.close(found)
        raise StoreDamaged(f"{path!r:.300} is not a file", hint="remove it: it should hold the events of the store")
