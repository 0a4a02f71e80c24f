"""Life across boots: what a changed boot ID means, what starts again, units of systemd and their main process."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import make_store, members
from lamina.host.process_identity import start_time
from support import lamina, made_once, require_root, require_tool


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    make_store(top, [members()])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    yield tmp_path / "store"
    lamina("rm", "--all", "--force", root=tmp_path / "store")


def ok(root: Path, *words: str, code: int = 0, **environment: str) -> str:
    done = lamina(*words, root=root, **environment)
    assert done.returncode == code, done
    return done.stdout.decode().strip()


def run(root: Path, name: str, *flags: str) -> None:
    ok(root, "run", "-d", "--network", "none", "--name", name, *flags, "app", "sleep", "1000")


def record(root: Path, name: str) -> tuple[Path, dict[str, Any]]:
    identity = ok(root, "ps", "-aq", "--no-trunc", "-f", f"name=^{name}$")
    path = root / "containers" / identity / "container.json"
    return path, json.loads(path.read_bytes())


def power_cut(root: Path, *names: str) -> None:
    """What is left of the containers after the host has booted again: no process, and records of another boot."""
    for name in names:
        path, one = record(root, name)
        for pid in (one["pid"], one["program"]):
            if pid:
                os.kill(pid, signal.SIGKILL)
        subprocess.run(
            ["runc", "--root", "/run/lamina-runtime", "delete", "--force", one["id"]],
            capture_output=True,
            check=False,
        )
        path.write_text(json.dumps({**one, "boot": "00000000-0000-0000-0000-000000000000"}))


def running(root: Path) -> set[str]:
    return set(ok(root, "ps", "--format", "{{.Names}}").split())


def test_what_starts_again_after_a_boot(root: Path) -> None:
    policies = {"a": "always", "u": "unless-stopped", "n": "no", "as": "always", "us": "unless-stopped"}
    for name, policy in policies.items():
        run(root, name, "--restart", policy)
    ok(root, "create", "--restart", "always", "--name", "made", "app", "true")
    ok(root, "stop", "-t", "0", "as", "us")
    power_cut(root, "a", "u", "n")
    assert running(root) == set()
    assert "Exited" in ok(root, "ps", "-a", "-f", "name=^u$", "--format", "{{.Status}}")
    started = ok(root, "start", "--all", "--filter", "should-start-on-boot=true").split()
    assert sorted(started) == ["a", "as", "u"]  # as docker: always means also after a stop
    assert running(root) == {"a", "as", "u"}
    assert ok(root, "exec", "u", "echo", "lives") == "lives"
    assert ok(root, "start", "--all", "--filter", "should-start-on-boot=true") == ""


def test_a_shutdown_is_no_stop(root: Path) -> None:
    run(root, "u", "--restart", "unless-stopped", "--stop-signal", "KILL")
    run(root, "s", "--restart", "unless-stopped", "--stop-signal", "KILL")
    ok(root, "stop", "s")
    assert ok(root, "stop", "--all", "--shutdown") == "u"
    assert running(root) == set()
    assert ok(root, "start", "--all", "--filter", "should-start-on-boot=true") == "u"


def test_a_process_of_this_boot_is_not_a_container_of_another(root: Path) -> None:
    run(root, "c", "--restart", "always")
    power_cut(root, "c")
    path, one = record(root, "c")
    mine = {"program": os.getpid(), "program_started": start_time(os.getpid())}
    path.write_text(json.dumps({**one, **mine, "boot": "00000000-0000-0000-0000-000000000000"}))
    assert running(root) == set()
    ok(root, "stop", "c")  # does not signal this process
    ok(root, "start", "c")
    assert running(root) == {"c"}


def test_without_a_store_there_is_nothing_to_start_or_stop(tmp_path: Path) -> None:
    assert ok(tmp_path / "none", "start", "--all", "--filter", "should-start-on-boot=true") == ""
    assert ok(tmp_path / "none", "stop", "--all", "--shutdown") == ""


def values(unit: str, key: str) -> list[str]:
    return [line.removeprefix(f"{key}=") for line in unit.splitlines() if line.startswith(f"{key}=")]


def test_generate_systemd(root: Path, tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("A=1\n")
    flags = ("-e", "B=a b", "--env-file", str(tmp_path / "vars"), "-m", "64m", "--init", "-i")
    ok(root, "create", "--network", "none", "--name", "web", *flags, "app", "sh", "-c", "echo $A")
    unit = ok(root, "generate", "systemd", "--name", "web")
    (start,) = values(unit, "ExecStart")
    assert start.endswith("start web")
    assert start.startswith("/")
    assert f"--root {root}" in start
    (new,) = values(ok(root, "generate", "systemd", "--new", "--name", "web"), "ExecStart")
    assert "run --cidfile=%t/%n.ctr-id --replace -d --rm " in new
    for word in ('"--env=B=a b"', f"--env-file={tmp_path}/vars", "--memory=64m", "--init", "--name=web"):
        assert word in new
    assert new.endswith('app sh -c "echo $$A"')
    boot = ok(root, "generate", "systemd", "--all")
    assert values(boot, "ExecStart")[0].endswith("start --all --filter should-start-on-boot=true")
    named = json.loads(ok(root, "generate", "systemd", "--format", "json", "--container-prefix", "c", "web"))
    (name,) = named
    assert name.startswith("c-")
    ok(root, "generate", "systemd", "none", code=3)
    ok(root, "generate", "systemd", code=2)
    ok(root, "generate", "systemd", "--all", "web", code=2)
    ok(root, "generate", "systemd", "--container-prefix", "a/b", "web", code=2)


def test_units_are_written_into_files(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ok(root, "create", "--name", "web", "app")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "container-web.service"
    assert ok(root, "generate", "systemd", "--files", "--name", "web") == str(path)
    assert path.read_text().startswith("# container-web.service\n")


def test_the_words_of_a_unit_with_new_make_the_same_container(root: Path, tmp_path: Path) -> None:
    flags = ("-e", "B=a b", "--label", "x=$y %z", "--tmpfs", "/t", "--restart", "always", "--health-cmd", "true")
    ok(root, "create", "--network", "none", "--name", "web", *flags, "app", "sh", "-c", "sleep 1000")
    (line,) = values(ok(root, "generate", "systemd", "--new", "--name", "web"), "ExecStart")
    first = json.loads(ok(root, "inspect", "web"))[0]
    words = [
        word.replace("%t/%n", f"{tmp_path}/u").replace("%%", "%").replace("$$", "$") for word in shlex.split(line)
    ]
    ok(root, *words[words.index("run") :])
    second = json.loads(ok(root, "inspect", "web"))[0]
    assert (tmp_path / "u.ctr-id").read_text() == second["Id"] != first["Id"]
    for key in ("Env", "Labels", "Cmd", "Healthcheck"):
        assert first["Config"][key] == second["Config"][key]
    assert second["HostConfig"]["AutoRemove"] is True


def test_systemd_is_told_the_main_process(root: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(tmp_path / "notify"))
        service.settimeout(30)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        ok(root, "create", "--network", "none", "--name", "c", "app", "sleep", "1000")
        ok(root, "start", "c", **environment)
        said = dict(line.split("=") for line in service.recv(1000).decode().splitlines())
        assert said["READY"] == "1"
        assert int(said["MAINPID"]) == record(root, "c")[1]["pid"]
        ok(root, "run", "-d", "--network", "none", "--name", "d", "app", "sleep", "1000", **environment)
        assert f"MAINPID={record(root, 'd')[1]['pid']}" in service.recv(1000).decode()


def test_a_monitor_ends_with_the_exit_code_of_the_container(root: Path) -> None:
    """For Restart=on-failure of a unit."""
    subreaper = (
        "import ctypes, os, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER: the monitor becomes our child
        "subprocess.run(sys.argv[1:], check=True, stdout=2)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    words = ("run", "-d", "--network", "none", "app", "sh", "-c", "exit 7")
    command = [sys.executable, "-c", subreaper, sys.executable, "-m", "lamina", "--root", str(root), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"
