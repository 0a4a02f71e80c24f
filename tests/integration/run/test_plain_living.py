"""Containers of plain users that live on: every verb works, or one line says what only root can do."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_library_run import until
from integration.run.test_networks import SERVED, SERVER, make
from support import PLAIN_USER, PlainUser, made_once, plain_user, require_root, require_tool

ALONE = "59999"
LIVE = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"


class Side:
    """The command line of a plain user, for containers of one runtime."""

    def __init__(self, top: Path, call: PlainUser, runtime: str) -> None:
        self.top, self.call, self._runtime = top, call, runtime

    def __call__(self, *words: str, **environment: str) -> str:
        done = self.call(*words, LAMINA_RUNTIME=self._runtime, **environment)
        assert done.returncode == 0, done
        return done.stdout.decode().strip()

    def refused(self, *words: str) -> str:
        done = self.call(*words, LAMINA_RUNTIME=self._runtime)
        assert done.returncode != 0, done
        (line,) = (one for one in done.stderr.decode().splitlines() if not one.startswith("lamina: warning: "))
        return line

    def start(self, *words: str, name: str = "c", script: str = LIVE) -> None:
        self("run", "-d", "--network", "none", "--name", name, *words, "app", "sh", "-c", script)
        if "ready" in script:
            until(lambda: "ready" in self("logs", name))

    def state(self, name: str = "c") -> str:
        return self("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name)


@pytest.fixture(params=[PLAIN_USER, ALONE])
def user(request: Any, tmp_path: Path) -> Iterator[tuple[Path, PlainUser]]:
    require_root()
    require_tool("runc", "bwrap", "busybox", "newuidmap")
    made_once(make, tmp_path)
    with plain_user(request.param) as (top, call):
        subprocess.run(["cp", "-r", str(tmp_path / "layout"), str(top)], check=True)
        assert call("load", "-i", str(top / "layout")).returncode == 0
        yield top, call
        assert call("rm", "--all", "--force").returncode == 0


@pytest.fixture(params=["runc", "bwrap"])
def side(request: Any, user: tuple[Path, PlainUser]) -> Side:
    return Side(*user, os.environ.get("LAMINA_RUNTIME", request.param) if request.param == "runc" else request.param)


def test_a_container_lives_on_and_takes_every_verb(side: Side) -> None:
    side.start("--restart", "on-failure:1")
    assert side("exec", "c", "sh", "-c", "echo $((6 * 7))") == "42"
    side("exec", "-d", "c", "touch", "/tmp/made")
    until(lambda: side.call("exec", "c", "test", "-e", "/tmp/made").returncode == 0)
    assert LIVE.split(";", maxsplit=1)[0] in side("top", "c", "-o", "pid,args")
    assert side("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "c").split()[0] == "c"
    side("rename", "c", "d")
    side("update", "--restart", "no", "d")
    side("stop", "d")
    assert (side("wait", "d"), side.state("d")) == ("3", "exited 3")
    side("restart", "-t", "0", "d")
    assert side.state("d").split()[0] == "running"
    side("kill", "d")
    until(lambda: side.state("d") == "exited 137")
    side("rm", "d")
    said = side("events", "--since", "1h", "--until", "0s", "-f", "type=container", "--format", "{{.Action}}")
    actions = said.split("\n")
    assert [one for one in actions if one in ("create", "start", "die", "rename", "destroy")] == [
        *("create", "start", "rename", "die", "start", "die", "destroy"),
    ]


def test_health_restarts_and_input(side: Side) -> None:
    side.start("--health-cmd", "test -e /tmp/well", "--health-interval", "100ms")
    side("exec", "c", "touch", "/tmp/well")
    side("wait", "--condition", "healthy", "c")
    side.start("--restart", "on-failure:2", name="again", script="exit 9")
    until(lambda: side.state("again") == "exited 9")
    assert side("inspect", "-f", "{{.RestartCount}}", "again") == "2"
    side("create", "-i", "--network", "none", "--name", "echo", "app", "cat")
    done = subprocess.run(
        [*side.call.drop, side.call.python, "-m", "lamina", "start", "-ai", "echo"],
        input=b"said\n",
        capture_output=True,
        env=side.call.environment,
        cwd=side.top,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"said\n"), done


def test_what_only_root_can_do_is_one_line(side: Side) -> None:
    side.start()
    assert "can't be paused: it has no cgroup" in side.refused("pause", "c")
    assert "there is no cgroup for this user" in side.refused("update", "-m", "64m", "c")
    run = ("run", "--rm", "--network", "none")
    assert "there is no cgroup for this user" in side.refused(*run, "--pids-limit", "9", "app", "true")
    assert "only root of the host may use --userns auto" in side.refused(*run, "--userns", "auto", "app", "true")
    assert "only root may use the driver macvlan" in side.refused("network", "create", "-d", "macvlan", "m")
    side("volume", "create", "--opt", "type=ext4", "--opt", "device=/dev/loop0", "disk")
    assert "only root may mount" in side.refused(*run, "-v", "disk:/x", "app", "true")
    assert "only root may use ports below 1024" in side.refused("run", "--rm", "-p", "127.0.0.1:81:80", "app", "true")
    assert [line.split()[-1] for line in side("ps", "-a").splitlines()[1:]] == ["c"]


def test_an_environment_as_cron_gives_it(user: tuple[Path, PlainUser]) -> None:
    """Without PATH and XDG_RUNTIME_DIR programs are found, and commands with them find the container."""
    top, call = user
    bare = {"HOME": str(top), "PYTHONPATH": call.path, "LAMINA_ROOT": str(top / "store")}
    if "LAMINA_UPPER_DIR" in call.environment:  # on an overlayfs
        bare["LAMINA_UPPER_DIR"] = call.environment["LAMINA_UPPER_DIR"]

    def run(*words: str, **more: str) -> bytes:
        drop = [*call.drop, "-i", *(f"{key}={value}" for key, value in {**bare, **more}.items())]
        done = subprocess.run([*drop, call.python, "-m", "lamina", *words], capture_output=True, check=False, cwd="/")
        assert done.returncode == 0, done
        return done.stdout

    run("run", "-d", "--network", "none", "--name", "c", "app", "sh", "-c", LIVE)
    assert run("exec", "c", "echo", "x", XDG_RUNTIME_DIR="/nowhere") == b"x\n"
    run("network", "create", "front")
    assert b"eth0" in run("run", "--rm", "--network", "front", "app", "ip", "addr")
    run("stop", "-t", "0", "c", PATH=os.environ["PATH"])


@pytest.mark.parametrize("flag", ["-d", "-i", "-it"])
def test_a_container_outlives_the_session_that_started_it(side: Side, flag: str) -> None:
    words = ("run", "--network", "none", "--name", "c", flag, "app", "sh", "-c", LIVE)
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(side.top)
            # a shell leads the session, and passes nothing on
            script = 'trap "" HUP; "$@"; read -r _'
            command = [*side.call.drop, "sh", "-c", script, "sh", side.call.python, "-m", "lamina", *words]
            environment = {**side.call.environment, "LAMINA_RUNTIME": side._runtime}
            os.execvpe(command[0], command, environment)
        finally:
            os._exit(1)
    try:
        until(lambda: side.call("logs", "c").stdout.strip() == b"ready")
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert side("exec", "c", "echo", "alive") == "alive"
    assert side.state() == "running 0"


def test_two_users_do_not_meet(tmp_path: Path) -> None:
    require_root()
    require_tool("runc", "busybox", "newuidmap")
    made_once(make, tmp_path)
    with plain_user(PLAIN_USER) as one, plain_user(ALONE) as other:
        sides = [Side(*found, os.environ.get("LAMINA_RUNTIME", "runc")) for found in (one, other)]
        for side in sides:
            subprocess.run(["cp", "-r", str(tmp_path / "layout"), str(side.top)], check=True)
            side("load", "-i", str(side.top / "layout"))
            side("network", "create", "front")
            side("run", "-d", "--name", "c", "--network", "front", "-p", "127.0.0.1::80", "app", *SERVER)
        ports = [side("port", "c").rpartition(":")[2] for side in sides]
        said = sides[1].refused("run", "--rm", "-p", f"127.0.0.1:{ports[0]}:80", "app", "true")
        assert f"port {ports[0]}/tcp of 127.0.0.1" in said
        sides[0]("rm", "-f", "-t", "0", "c")
        done = sides[1].call("run", "--rm", "--network", "front", "app", "nslookup", "c")
        assert b"Name:\tc" in done.stdout, done
        done = subprocess.run(
            [sys.executable, "-c", _GET, f"http://127.0.0.1:{ports[1]}/page"], capture_output=True, check=True
        )
        assert done.stdout == SERVED
        sides[1]("rm", "-f", "-t", "0", "c")


_GET = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=5).read())"
