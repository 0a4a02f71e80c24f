"""The containers that `ps` lists: docker's filters, and sizes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from lamina.errors import LaminaError, NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run import writable
from lamina.run.container.pods import pod_of
from lamina.run.container.record import stack_of
from lamina.store.containers import CREATED, EXITED, Container

if TYPE_CHECKING:
    import re

    from lamina.store.store import Store

KEYS = ("ancestor", "before", "exited", "id", "label", "name", "pod", "since", "status", "volume")
STATES = ("created", "running", "exited", "damaged")
_NOT_HERE = ("paused", "restarting", "removing", "dead", "configured", "stopped", "initialized", "unknown")
"""States of other engines' containers. No container here is in one of them."""
Listed = tuple[Container, str]
DigestOf = Callable[[str], str]
"""Returns the digest of an image's manifest by its name or ID, "" if there is none."""


@dataclass(frozen=True, slots=True)
class Filters:
    """The values of one key are alternatives, but all labels are required. All keys must match."""

    given: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, words: Iterable[str]) -> Filters:
        """``KEY=VALUE`` each (pure). Raises UsageError."""
        found = []
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in KEYS:
                raise UsageError(
                    f"{word!r:.80} is not a filter", hint=f"write KEY=VALUE, with one of {', '.join(KEYS)}"
                )
            if key == "status" and value not in (*STATES, *_NOT_HERE):
                raise UsageError(f"unknown status {value!r:.60}", hint=f"choose one of {', '.join(STATES)}")
            if key == "exited" and not (value.isascii() and value.isdigit() and len(value) < 10):
                raise UsageError(f"{value!r:.60} is not an exit code", hint="give a number, like exited=0")
            if key == "name":
                _pattern(value)
            found.append((key, value))
        return cls(tuple(found))

    def values(self, key: str) -> list[str]:
        return [value for name, value in self.given if name == key]

    @property
    def names_states(self) -> bool:
        """Whether the filters ask for ended containers, by docker's rule."""
        return bool(self.values("status") or self.values("exited"))


def listed(
    store: Store,
    filters: Filters = Filters(),
    *,
    all_: bool = False,
    last: int = -1,
    digest_of: DigestOf = lambda word: "",
) -> list[Listed]:
    """Containers and their states, newest first. ``last``: at most so many, in any state; if negative: running and
    damaged ones, or with ``all_`` all. Raises NotFound, Conflict (before or since names no container, or several),
    SystemFailure."""
    containers = store.containers
    found = [(one, containers.state(one)) for one in containers.every()[::-1]]
    if not (all_ or last >= 0 or filters.names_states):
        found = [(one, state) for one, state in found if state not in (CREATED, EXITED)]
    filters = _with_pods(store, filters)
    found = matching(found, filters, lambda word: containers.get(word, damaged=True), digest_of)
    return found[:last] if last >= 0 else found


def _with_pods(store: Store, filters: Filters) -> Filters:
    """The filters with the IDs of pods in the place of their names."""
    if not filters.values("pod"):
        return filters
    from lamina.store.pods import Pods

    identities = {pod.name: pod.id for pod in Pods(store.paths)}
    return Filters(
        tuple((key, identities.get(value, value) if key == "pod" else value) for key, value in filters.given)
    )


def matching(
    found: Iterable[Listed], filters: Filters, get: Callable[[str], Container], digest_of: DigestOf
) -> list[Listed]:
    """Those that match (pure, except for ``get`` and ``digest_of``)."""
    kept = list(found)
    for key, place in (("before", -1), ("since", 1)):
        values = filters.values(key)
        if values:
            limits = [(one.created, one.id) for one in map(get, values)]
            kept = [
                (one, state)
                for one, state in kept
                if any(
                    (place > 0) == ((one.created, one.id) > limit) and (one.created, one.id) != limit
                    for limit in limits
                )
            ]
    images = [(word, digest_of(word)) for word in filters.values("ancestor")]
    if images:
        kept = [(one, state) for one, state in kept if any(_is_of(one, word, digest) for word, digest in images)]
    return [(one, state) for one, state in kept if _fits(one, state, filters)]


def _fits(one: Container, state: str, filters: Filters) -> bool:
    labels = dict(one.labels)
    for word in filters.values("label"):
        name, equals, value = word.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    tests: dict[str, Callable[[str], bool]] = {
        "name": lambda value: bool(_pattern(value).search(one.name)),
        "id": one.id.startswith,
        "status": lambda value: state == value,
        "exited": lambda value: state == "exited" and one.exit_code == int(value),
        "pod": lambda value: bool(value) and pod_of(one).startswith(value),
        "volume": lambda value: value in one.volumes or value.rstrip("/") in one.volumes,
    }
    for key, test in tests.items():
        values = filters.values(key)
        if values and not any(map(test, values)):
            return False
    return True


def _pattern(text: str) -> re.Pattern[str]:
    import re

    try:
        return re.compile(text.removeprefix("/"))
    except re.error as error:
        raise UsageError(
            f"{text!r:.80} is not a regular expression: {error}", hint="see the syntax of Python's re"
        ) from None


def _is_of(one: Container, word: str, digest: str) -> bool:
    """As docker does it for pulled images: an image that is built on another one is not that image."""
    return one.manifest == digest or word in (one.image, one.image.removesuffix(":latest"))


def sizes(store: Store, container: Container) -> tuple[int, int]:
    """The bytes of the container's changed files, and of its image as it is stored; 0 if that is unknown. Raises
    SystemFailure."""
    written = image = 0
    with suppress(NotFound):
        written = _written(writable.path(store, container, writable.UPPER))
    with suppress(LaminaError):
        manifest = stack_of(store, container).manifest
        image = manifest.descriptor.size + manifest.config.size + sum(layer.size for layer in manifest.layers)
    return written, image


def _written(directory: str) -> int:
    seen: set[tuple[int, int]] = set()
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):  # it runs
                state = os.lstat(os.path.join(where, name))
                if stat.S_ISREG(state.st_mode) and (state.st_dev, state.st_ino) not in seen:
                    seen.add((state.st_dev, state.st_ino))
                    total += state.st_size
    return total
