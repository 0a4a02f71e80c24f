"""What `wait --condition` waits for, and what is known of a container's health."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Conflict, NotFound, UsageError
from lamina.host.lock import acquire
from lamina.light import replace
from lamina.run import health_file
from lamina.run.container.conditions import CONDITIONS, parse_condition, wait_for
from lamina.run.container.health import health_of, status_text
from lamina.run.health import Check, Health, Result
from lamina.store.containers import Container

_ID = "c0ffee" + "0" * 58
_ONE = Container(_ID, "web", "app:1", "sha256:" + "0" * 64, "", 0, (), 0.0)
_CHECK = Check(("true",), retries=1)


class _Containers:
    """Stands for the containers of a store: each look shows the next state; "" is a removed container."""

    def __init__(self, top: Path, states: list[str]) -> None:
        self._top, self._states = top, states
        self.looks = 1
        self.before_look: dict[int, Any] = {}

    def path(self, identity: str) -> str:
        return str(self._top)

    def state(self, container: Container) -> str:
        return self._states[0]

    def is_running(self, container: Container) -> bool:
        return self._states[0] in ("running", "paused")

    is_supervised = is_running

    def get(self, identity: str) -> Container:
        self.looks += 1
        if len(self._states) > 1:
            del self._states[0]
        if not self._states[0]:
            raise NotFound("it was removed", hint="x")
        self.before_look.get(self.looks, lambda: None)()
        return self.record()

    def record(self) -> Container:
        return replace(_ONE, status=self._states[0])


class _Store:
    def __init__(self, containers: _Containers) -> None:
        self.containers = containers


def _wait(top: Path, states: list[str], *conditions: str, **later: Any) -> int:
    """How many looks it took."""
    containers = _Containers(top, states)
    containers.before_look = {int(look.removeprefix("at")): work for look, work in later.items()}
    wait_for(_Store(containers), containers.record(), conditions, interval=0)  # type: ignore[arg-type]
    return containers.looks


@pytest.mark.parametrize(
    ("states", "conditions", "looks"),
    [
        (["running"], ("running",), 1),
        (["created", "running"], ("running",), 2),
        (["created"], ("configured",), 1),
        (["running", "paused"], ("paused",), 2),
        (["running", "running", "exited"], ("stopped",), 3),
        (["running", "exited"], ("exited", "healthy"), 2),
        (["running", ""], ("stopped",), 2),
        (["running", "exited", ""], ("removing",), 3),
        (["created", "running"], ("healthy", "running"), 2),
    ],
)
def test_states_are_waited_for(states: list[str], conditions: tuple[str, ...], looks: int, tmp_path: Path) -> None:
    assert _wait(tmp_path, states, *conditions) == looks


def test_health_is_waited_for(tmp_path: Path) -> None:
    health_file.begin(str(tmp_path))

    def check(code: int) -> None:
        health_file.record(str(tmp_path), Result(0, 1, code), _CHECK, 1.0)

    assert _wait(tmp_path, ["running"], "healthy", at2=lambda: check(1), at3=lambda: check(0)) == 3
    assert _wait(tmp_path, ["running"], "unhealthy", at4=lambda: check(1)) == 4


def test_a_condition_that_will_never_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="has no health check"):
        _wait(tmp_path, ["created", "running"], "healthy")
    with pytest.raises(Conflict, match="has ended"):
        _wait(tmp_path, ["exited"], "healthy")
    with pytest.raises(NotFound):
        _wait(tmp_path, ["running", ""], "paused")


def test_conditions_are_podmans() -> None:
    assert {parse_condition(word) for word in CONDITIONS} == set(CONDITIONS)
    with pytest.raises(UsageError, match="happy"):
        parse_condition("happy")


@pytest.mark.parametrize(
    ("state", "shown"),
    [("running", "healthy"), ("paused", "unhealthy"), ("exited", "unhealthy"), ("restarting", "unhealthy")],
)
def test_a_container_that_nobody_checks_is_unhealthy(state: str, shown: str, tmp_path: Path) -> None:
    health_file.begin(str(tmp_path))
    health_file.record(str(tmp_path), Result(0, 1, 0), _CHECK, 1.0)
    found = health_of(_Store(_Containers(tmp_path, [state])), _ONE)  # type: ignore[arg-type]
    assert found is not None
    assert (found.status, len(found.log)) == (shown, 1)


def test_status_in_ps() -> None:
    texts = [status_text(Health(status)) for status in ("starting", "healthy", "unhealthy")]
    assert [*texts, status_text(None)] == ["(health: starting)", "(healthy)", "(unhealthy)", ""]


def test_the_file_of_the_health(tmp_path: Path) -> None:
    directory, path = str(tmp_path), tmp_path / "health.json"
    assert health_file.stored_health(directory) is None
    before, after = health_file.record(directory, Result(0, 1, 3, "bad \ud800"), _CHECK, 1.0)
    assert (before.status, after.status) == ("starting", "unhealthy")
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_bytes())["FailingStreak"] == 1
    health_file.begin(directory)
    found = health_file.stored_health(directory)
    assert found is not None
    assert (found.status, found.streak, len(found.log)) == ("starting", 0, 1)  # as docker: the log stays


@pytest.fixture(params=["{", "\xff", "[]", "null", '{"Status":{}}', "fifo", "directory", "link"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "health.json"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "directory":
        path.mkdir()
    elif request.param == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.write_bytes(request.param.encode("latin-1"))
    return tmp_path


def test_a_damaged_file_of_the_health_is_as_a_new_one(odd: Path) -> None:
    found = health_file.stored_health(str(odd))
    assert found is None or found == Health()


def test_a_hanging_process_does_not_hold_up_the_monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_file, "_PAUSE", 0)
    with open(tmp_path / "health.lock", "wb") as held:
        acquire(held.fileno(), held.name)
        health_file.record(str(tmp_path), Result(0, 1, 0), _CHECK, 1.0)
    found = health_file.stored_health(str(tmp_path))
    assert found is not None
    assert found.status == "healthy"


def test_a_container_that_ends_after_its_record_was_read_is_read_again(tmp_path: Path) -> None:
    """Else its exit code would be unknown."""
    containers = _Containers(tmp_path, ["exited"])
    found = wait_for(_Store(containers), replace(_ONE, status="running"), ["exited"])  # type: ignore[arg-type]
    assert (found.status, containers.looks) == ("exited", 2)
