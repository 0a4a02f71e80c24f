"""The containers that `ps` lists: docker's filters, and sizes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from lamina.errors import LaminaError, NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run import writable
from lamina.run.container.pods import pod_of
from lamina.run.container.ports import Ports, ports_of
from lamina.run.container.record import asked, stack_of
from lamina.run.networks.state import networks_in
from lamina.run.published.shown import to_json
from lamina.run.runtime import MACHINE
from lamina.spec.moment import parse_moment
from lamina.store.containers import CREATED, EXITED, Container

if TYPE_CHECKING:
    import re
    from typing import Any

    from lamina.run.health import Health
    from lamina.run.options import ContainerOptions
    from lamina.spec.image_config import ImageConfig
    from lamina.store.store import Store

KEYS = (
    *("ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "label!", "name", "network"),
    *("pod", "publish", "restart-policy", "since", "status", "until", "volume"),
    "should-start-on-boot",
)
STATES = ("created", "running", "paused", "restarting", "exited", "damaged")
_NOT_HERE = ("removing", "dead", "configured", "stopped", "initialized", "unknown")
"""States of other engines' containers. No container here is in one of them."""
_HEALTHS = ("starting", "healthy", "unhealthy", "none")
_POLICIES = ("no", "on-failure", "always", "unless-stopped")
_CHOICES = {
    # of a key: its values, and those to tell people
    "status": ((*STATES, *_NOT_HERE), STATES),
    "health": (_HEALTHS, _HEALTHS),
    "restart-policy": (_POLICIES, _POLICIES),
    "is-task": (("true", "false"), ("true", "false")),
    "should-start-on-boot": (("true", "false"), ("true", "false")),
}


def choices(key: str) -> tuple[str, ...]:
    """Return the values of a filter that people may give, if they are known (pure)."""
    return _CHOICES.get(key, ((), ()))[1]


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
            known, told = _CHOICES.get(key, ((value,), ()))
            if value not in known:
                raise UsageError(f"unknown {key} {value!r:.60}", hint=f"choose one of {', '.join(told)}")
            if key == "exited" and not (value.isascii() and value.isdigit() and len(value) < 10):
                raise UsageError(f"{value!r:.60} is not an exit code", hint="give a number, like exited=0")
            if key == "name":
                _pattern(value)
            if key in ("expose", "publish"):
                _port_range(value)
            if key == "until":
                value = repr(parse_moment(value, time.time_ns()) / 1e9)
            found.append((key, value))
        return cls(tuple(found))

    def values(self, key: str) -> list[str]:
        return [value for name, value in self.given if name == key]

    @property
    def names_states(self) -> bool:
        """Whether the filters ask for ended containers, by docker's rule."""
        return bool(self.values("status") or self.values("exited"))


class Facts:
    """What `ps` shows of a container besides its record. Each is only looked up where it is asked for."""

    def __init__(self, store: Store, container: Container, state: str) -> None:
        self._store, self._container, self._state = store, container, state

    @cached_property
    def wanted(self) -> ContainerOptions:
        return asked(self._container)

    @property
    def starts_at_boot(self) -> bool:
        """Whether it is to run after a boot: as its policy says, if it ever ran. As in docker, who stopped it only
        matters for unless-stopped."""
        from lamina.run.container.stopped import is_stopped

        policy = self.wanted.restart.name if self._state != CREATED else ""
        return policy == "always" or (policy == "unless-stopped" and not is_stopped(self._store, self._container))

    @cached_property
    def config(self) -> ImageConfig | None:
        """Of its image; None if that can't be read."""
        try:
            return stack_of(self._store, self._container).config
        except LaminaError:
            return None

    @cached_property
    def health_now(self) -> Health | None:
        """None: it is not checked, or was never started."""
        from lamina.run.container.health import health_of

        return health_of(self._store, self._container)

    @property
    def health(self) -> str:
        """Of _HEALTHS."""
        return self.health_now.status if self.health_now else "none"

    @cached_property
    def pid(self) -> int:
        """Of its first process; 0 if it has none now."""
        from lamina.run.container.running import first_process

        return first_process(self._store, self._container)

    @cached_property
    def mounts(self) -> list[dict[str, Any]]:
        """As docker's inspect has them."""
        from lamina.run.inspection.mounts import mounts_of

        return mounts_of(self._store, self._container, self.wanted, self.config.volumes if self.config else ())

    @property
    def ports_text(self) -> str:
        """The column PORTS of docker's ps."""
        return self._ports.cell

    @cached_property
    def _ports(self) -> Ports:
        return ports_of(self._store, self._container)

    @property
    def ports_json(self) -> list[dict[str, Any]]:
        """The published ports, in podman's form."""
        return [{**one, "range": 1} for one in to_json(self._ports.bindings)]

    @cached_property
    def networks(self) -> list[str]:
        from lamina.run.inspection.networks import network_names

        is_up = self._container.may_run
        return network_names(
            self.wanted, networks_in(self._store.containers.path(self._container.id)) if is_up else {}
        )

    @cached_property
    def exposed(self) -> set[tuple[int, str]]:
        """The ports that the image or `--expose` names, and those that are published."""
        words = (*(self.config.exposed_ports if self.config else ()), *self.wanted.expose)
        found = {(port, one[1]) for one in map(_port_range, words) for port in one[0]}
        return found | {(one.port, one.protocol) for one in self.wanted.ports}

    @property
    def published(self) -> set[tuple[int, str]]:
        """The ports of this host at which the container is reached now."""
        return {(one.host_port, one.protocol) for one in self._ports.bindings}


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
    found = matching(
        found,
        _with_pods(store, filters),
        lambda word: containers.get(word, damaged=True),
        digest_of,
        lambda one, state: Facts(store, one, state),
    )
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
    found: Iterable[Listed],
    filters: Filters,
    get: Callable[[str], Container],
    digest_of: DigestOf,
    facts_of: Callable[[Container, str], Facts],
) -> list[Listed]:
    """Those that match (pure, except for the functions that it is given)."""
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
    return [(one, state) for one, state in kept if _fits(one, state, filters, facts_of(one, state))]


def has_label(labels: Mapping[str, str], word: str) -> bool:
    """``NAME`` or ``NAME=VALUE``, as in a filter."""
    name, equals, value = word.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _fits(one: Container, state: str, filters: Filters, facts: Facts) -> bool:
    labels = dict(one.labels)
    if not all(has_label(labels, word) for word in filters.values("label")):
        return False
    if any(has_label(labels, word) for word in filters.values("label!")):
        return False
    tests: dict[str, Callable[[str], bool]] = {
        "name": lambda value: bool(_pattern(value).search(one.name) or _pattern(value).search(f"/{one.name}")),
        "id": one.id.startswith,
        "is-task": lambda value: value == "false",
        "status": lambda value: state == value,
        "exited": lambda value: state == "exited" and one.exit_code == int(value),
        "volume": lambda value: value in one.volumes or value.rstrip("/") in one.volumes,
        "until": lambda value: one.created < float(value),
        "should-start-on-boot": lambda value: facts.starts_at_boot == (value == "true"),
        "restart-policy": lambda value: facts.wanted.restart.name == value,
        "pod": lambda value: bool(value) and pod_of(one).startswith(value),
        "network": lambda value: value in facts.networks,
        "health": lambda value: facts.health == value,
        "expose": lambda value: _meet(facts.exposed, value),
        "publish": lambda value: _meet(facts.published, value),
    }
    for key, test in tests.items():
        values = filters.values(key)
        if values and not any(map(test, values)):
            return False
    return True


def _meet(ports: set[tuple[int, str]], value: str) -> bool:
    numbers, protocol = _port_range(value)
    return any(number in numbers and protocol == given for number, given in ports)


def _port_range(word: str) -> tuple[range, str]:
    """The ports of ``PORT[-PORT][/PROTOCOL]``, and the protocol. Raises UsageError."""
    from lamina.run.options import parse_port

    numbers, _, protocol = parse_port(word).partition("/")
    first, _, last = numbers.partition("-")
    return range(int(first), int(last or first) + 1), protocol or "tcp"


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
    if container.runtime == MACHINE:
        from lamina.run.machine.upper import written as written_by

        written = written_by(store, container)
    else:
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
