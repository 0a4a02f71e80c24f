"""Health checks of containers that run: by runc, crun and bubblewrap, as root and as a plain user."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import make_store, members, mounts_of
from support import PLAIN_USER, lamina, made_once, plain_user, require_root, require_tool, write_layout

SLEEP = ("app", "sh", "-c", "while :; do sleep 1; done")


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "bwrap", "busybox")


def make(top: Path) -> None:
    make_store(top, [members()])


class Place:
    """A store, and the command line on it."""

    def __init__(self, call: Callable[..., Any], *flags: str) -> None:
        self._call, self.flags = call, flags
        self.root = Path()

    def __call__(self, *words: str, code: int = 0) -> str:
        done = self._call(*words)
        assert done.returncode == code, (words, done)
        return str(done.stdout.decode().strip())

    def run(self, *flags: str, name: str = "c") -> None:
        self("run", "-d", "--network", "none", "--name", name, *self.flags, *flags, *SLEEP)

    def health(self, name: str = "c") -> Any:
        return json.loads(self("inspect", "-f", "{{json .State.Health}}", name))

    def events(self) -> list[str]:
        return self("events", "--no-stream", "-f", "type=container", "--format", "{{.Action}}").splitlines()

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, self("inspect", "c")
            time.sleep(0.02)


@pytest.fixture(params=["runc", "bwrap"])
def place(request: Any, tmp_path: Path) -> Iterator[Place]:
    made_once(make, tmp_path)
    root = tmp_path / "store"
    found = Place(lambda *words: lamina(*words, root=root), "--runtime", request.param)
    found.root = root
    yield found
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []


@pytest.fixture(params=[PLAIN_USER, "59999"])
def plain(request: Any) -> Iterator[Place]:
    with plain_user(request.param) as (top, call):
        write_layout(top / "layout", "app", [members()])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        yield Place(call)
        call("rm", "--all", "--force")


def test_a_container_gets_unhealthy_and_healthy_again(place: Place) -> None:
    check = "cat /state; test ! -e /bad"
    place.run("--health-cmd", check, "--health-interval", "100ms", "--health-retries", "2", "-e", "A=b")
    assert place("wait", "--condition", "healthy", "c") == "-1"
    first = place.health()
    assert (first["Status"], first["FailingStreak"], first["Log"][-1]["ExitCode"]) == ("healthy", 0, 0)
    assert first["Log"][0]["Start"] < first["Log"][0]["End"]
    assert "(healthy)" in place("ps", "--format", "{{.Status}}")
    place("exec", "c", "sh", "-c", "echo broken >/state; touch /bad")
    place("wait", "--condition", "unhealthy", "c")
    second = place.health()
    assert second["FailingStreak"] >= 2
    assert (second["Log"][-1]["ExitCode"], second["Log"][-1]["Output"]) == (1, "broken\n")
    place("exec", "c", "rm", "/bad")
    place("wait", "--condition", "healthy", "c")
    changes = [event for event in place.events() if event.startswith("health_status")]
    assert changes == [f"health_status: {status}" for status in ("healthy", "unhealthy", "healthy")]
    place("stop", "-t", "0", "c")
    assert place.health()["Status"] == "unhealthy"  # as docker: nobody checks it
    place("start", "c")
    place("wait", "--condition", "healthy", "c")
    assert len(place.health()["Log"]) <= 5


def test_a_check_that_takes_too_long_is_ended_with_what_it_started(place: Place) -> None:
    script = "test -e /seen && exit 1; touch /seen; echo slow; sleep 7654 & sleep 7655"
    place.run("--health-cmd", script, "--health-interval", "700ms", "--health-timeout", "2s", "--health-retries=2")
    place("wait", "--condition", "unhealthy", "c")
    slow, quick = place.health()["Log"][:2]
    assert (slow["ExitCode"], slow["Output"]) == (-1, "Health check exceeded timeout (2s): slow\n")
    assert (quick["ExitCode"], quick["Output"]) == (1, "")
    programs = place("exec", "c", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "while" in programs
    assert "765" not in programs


@pytest.mark.parametrize(
    ("check", "codes", "output"),
    [
        ("exit 3", {3}, ""),
        ("kill -9 $$", {137}, ""),
        ('["/no/such/program", "x"]', {-1, 127}, "/no/such/program"),
        ('["/etc/passwd", "x"]', {-1, 126}, "ermission denied"),
        ("yes | head -c 100000; exit 1", {1}, "y\n" * 2048 + "..."),
        ("(sleep 7656 &) ; echo left; exit 1", {1}, "left\n"),
    ],
)
def test_results(place: Place, check: str, codes: set[int], output: str) -> None:
    place.run("--health-cmd", check, "--health-interval", "50ms", "--health-retries", "1")
    place("wait", "--condition", "unhealthy", "c")
    first = place.health()["Log"][0]
    assert first["ExitCode"] in codes
    assert output in first["Output"]
    assert len(first["Output"]) <= 4099


def test_the_check_of_the_image_runs_as_the_containers_user_in_its_directory(tmp_path: Path) -> None:
    check = {"Test": ["CMD-SHELL", "pwd; id -u; echo $A; exit 1"], "Interval": 50_000_000, "Retries": 1}
    make_store(tmp_path, [members()], Healthcheck=check, WorkingDir="/tmp", Env=["A=image"], User="1000")
    place = Place(lambda *words: lamina(*words, root=tmp_path / "store"), "--runtime", "runc")
    try:
        place.run("-e", "A=given")
        place("wait", "--condition", "unhealthy", "c")
        assert place.health()["Log"][0]["Output"] == "/tmp\n1000\ngiven\n"
        place.run("--no-healthcheck", name="d")
        assert place.health("d") is None
        assert "(" not in place("ps", "-f", "name=d", "--format", "{{.Status}}")
        place("wait", "--condition", "healthy", "d", code=5)
    finally:
        place("rm", "-fa")


def test_checks_stand_still_while_the_container_is_paused(place: Place) -> None:
    if "bwrap" in place.flags:
        pytest.skip("bubblewrap has no pause")
    place.run("--health-cmd", "true", "--health-interval", "50ms")
    place("wait", "--condition", "healthy", "c")
    place("pause", "c")
    assert place.health()["Status"] == "unhealthy"  # as docker
    place("unpause", "c")
    seen = place.health()["Log"][-1]
    place.until(lambda: place.health()["Log"][-1] != seen)
    assert place.health()["Status"] == "healthy"


@pytest.mark.parametrize(
    ("action", "policy", "state", "starts"),
    [
        ("kill", "no", "exited 137", 1),
        ("stop", "always", "exited 137", 1),
        ("restart", "no", "running 0", 2),
        ("kill", "on-failure:1", "exited 137", 2),
    ],
)
def test_what_happens_to_an_unhealthy_container(
    place: Place, action: str, policy: str, state: str, starts: int
) -> None:
    once = "test -e /seen && exit 0; touch /seen; exit 1" if action == "restart" else "exit 1"
    place.run(
        *("--health-cmd", once, "--health-interval", "50ms", "--health-retries", "1", "--restart", policy),
        *("--health-on-failure", action, "--stop-signal", "KILL"),
    )
    ended = state.startswith("exited")
    place("wait", "--condition", "exited" if ended else "healthy", "c")
    place.until(lambda: place.events().count("die") == (starts if ended else starts - 1))
    place("wait", "--condition", "exited" if ended else "healthy", "c")
    assert place("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "c") == state
    assert place.events().count("start") == starts
    assert "health_status: unhealthy" in place.events()


def test_healthcheck_run(place: Place) -> None:
    place.run("--health-cmd", "test -e /ok", "--health-interval", "1h", "--health-retries", "1")
    assert place("healthcheck", "run", "c", code=1) == "unhealthy"
    place("exec", "c", "touch", "/ok")
    assert place("healthcheck", "run", "c") == ""
    assert [one["ExitCode"] for one in place.health()["Log"]] == [1, 0]
    assert [one for one in place.events() if "health" in one] == [
        "health_status: unhealthy",
        "health_status: healthy",
    ]
    place("stop", "-t", "0", "c")
    place("healthcheck", "run", "c", code=5)
    place.run(name="d")
    place("healthcheck", "run", "d", code=5)
    place("healthcheck", "run", "none", code=3)


def test_a_killed_monitor_leaves_no_check_behind(place: Place) -> None:
    place.run("--health-cmd", "sleep 7657", "--health-interval", "50ms", "--health-timeout", "1s")
    place.until(lambda: programs(b"sleep\x007657"))
    os.kill(monitor_of(place), signal.SIGKILL)
    assert place.health()["Status"] == "unhealthy"  # nobody checks it any more
    place.until(lambda: not programs(b"sleep\x007657"))


def programs(words: bytes) -> list[str]:
    """The processes of this host whose command line begins so."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if Path("/proc", name, "cmdline").read_bytes().startswith(words):
                found.append(name)
    return found


def monitor_of(place: Place) -> int:
    identity = place("ps", "-aq", "--no-trunc")
    return int(json.loads((place.root / "containers" / identity / "container.json").read_bytes())["pid"])


def test_a_plain_user_has_health_checks(plain: Place) -> None:
    plain.run("--health-cmd", "test -e /ok", "--health-interval", "100ms", "--health-retries", "1")
    plain("wait", "--condition", "unhealthy", "c")
    plain("exec", "c", "touch", "/ok")
    plain("wait", "--condition", "healthy", "c")
    assert plain("healthcheck", "run", "c") == ""
