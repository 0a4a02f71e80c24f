"""What verbs note in the journal of what happens to containers: docker's actions, in docker's order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members
from support import lamina, made_once, require_root, require_tool


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    make_store(top, [members()], Labels={"tier": "front"})


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    yield tmp_path / "store"
    lamina("rm", "--all", "--force", root=tmp_path / "store")


def ok(root: Path, *words: str, code: int = 0) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == code, done
    return done.stdout.decode().strip()


def events(root: Path) -> list[str]:
    """The actions, with the attributes that are not the same for all."""
    found = []
    for line in ok(root, "events", "--no-stream", "-f", "type=container", "--format", "json").splitlines():
        event = json.loads(line)
        more = {**event["Actor"]["Attributes"]}
        assert (more.pop("image"), more.pop("tier")) == ("app", "front")
        more.pop("execID", None)
        found.append(" ".join([event["Action"], *(f"{key}={value}" for key, value in sorted(more.items()))]))
    return found


def test_a_life(root: Path, tmp_path: Path) -> None:
    sleep = ("app", "sh", "-c", "trap 'exit 7' USR1; while :; do sleep 0.1; done")
    ok(root, "create", "--network", "none", "--name", "c", "--stop-signal", "USR1", *sleep)
    ok(root, "start", "c")
    ok(root, "exec", "c", "sh", "-c", "exit 3", code=3)
    ok(root, "exec", "c", "true")
    ok(root, "pause", "c")
    ok(root, "unpause", "c")
    ok(root, "cp", "c:/etc/passwd", str(tmp_path / "p"))
    ok(root, "cp", str(tmp_path / "p"), "c:/p")
    ok(root, "commit", "c", "new")
    ok(root, "export", "c", "-o", str(tmp_path / "tar"))
    ok(root, "kill", "-s", "WINCH", "c")
    ok(root, "restart", "c")
    ok(root, "stop", "c")
    ok(root, "rename", "c", "d")
    ok(root, "rm", "d")
    image = ok(root, "images", "-q", "--no-trunc", "new")
    assert events(root) == [
        "create name=c",
        "start name=c",
        "exec_create: sh -c exit 3 name=c",
        "exec_start: sh -c exit 3 name=c",
        "exec_die exitCode=3 name=c",
        "exec_create: true name=c",
        "exec_start: true name=c",
        "exec_die exitCode=0 name=c",
        "pause name=c",
        "unpause name=c",
        "archive-path name=c",
        "extract-to-dir name=c",
        f"commit comment= imageID={image} imageRef=new name=c",
        "export name=c",
        "kill name=c signal=28",
        "kill name=c signal=10",
        "die exitCode=7 name=c",
        "stop name=c",
        "start name=c",
        "restart name=c",
        "kill name=c signal=10",
        "die exitCode=7 name=c",
        "stop name=c",
        "rename name=d oldName=/c",
        "destroy name=d",
    ]


def test_a_run_in_front(root: Path) -> None:
    ok(root, "run", "--rm", "--network", "none", "--name", "c", "app", "sh", "-c", "exit 4", code=4)
    assert events(root) == ["create name=c", "start name=c", "die exitCode=4 name=c", "destroy name=c"]


def test_a_run_that_stays(root: Path) -> None:
    ok(root, "run", "--network", "none", "--name", "c", "app", "sh", "-c", "exit 4", code=4)
    ok(root, "rm", "c")
    assert events(root) == [
        *("create name=c", "attach name=c", "start name=c", "die exitCode=4 name=c", "destroy name=c")
    ]


def test_a_removal_by_force_and_a_renamed_container(root: Path) -> None:
    ok(root, "run", "-d", "--network", "none", "--name", "c", "app", "sleep", "100")
    ok(root, "rename", "c", "d")
    ok(root, "rm", "-f", "d")
    assert events(root)[2:] == [
        "rename name=d oldName=/c",
        "kill name=d signal=9",
        "die exitCode=137 name=d",
        "destroy name=d",
    ]


def test_no_secret_reaches_the_journal(root: Path) -> None:
    ok(root, "run", "-d", "--network", "none", "--name", "c", "-e", "TOKEN=s3cret", "app", "sleep", "100")
    ok(root, "exec", "-e", "TOKEN=s3cret", "c", "true")
    ok(root, "rm", "-f", "c")
    text = (root / "events").read_text()
    assert "exec_die" in text
    assert "s3cret" not in text


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
@pytest.mark.parametrize("monitor", ["lives", "was killed"])
def test_a_program_in_the_background_tells_its_end(root: Path, runtime: str, monitor: str) -> None:
    require_tool("bwrap")
    if runtime == "bwrap" and monitor == "was killed":
        return  # the container has ended with it
    hold = ("app", "sleep", "600")
    identity = ok(root, "run", "-d", "--network", "none", "--runtime", runtime, "--name", "c", *hold)
    if monitor == "was killed":
        record = json.loads((root / "containers" / identity / "container.json").read_bytes())
        os.kill(record["pid"], signal.SIGKILL)
    follow = [sys.executable, "-m", "lamina", "--root", str(root), "events", "-f", "event=exec_die", "--since", "1h"]
    ok(root, "exec", "-d", "c", "sh", "-c", "while ! [ -e /go ]; do sleep 0.01; done; exit 9")
    (executed,) = json.loads(ok(root, "inspect", "c"))[0]["ExecIDs"]
    ok(root, "exec", "-d", "c", "touch", "/go")
    with subprocess.Popen([*follow, "--format", "json"], stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        ends = {}
        while executed not in ends:
            told = json.loads(following.stdout.readline())["Actor"]["Attributes"]
            ends[told["execID"]] = told["exitCode"]
        following.kill()
    assert ends[executed] == "9"
    assert json.loads(ok(root, "inspect", "c"))[0]["ExecIDs"] is None


def test_a_program_in_front_is_listed_by_the_id_of_its_events(root: Path) -> None:
    ok(root, "run", "-d", "--network", "none", "--name", "c", "app", "sleep", "600")
    words = [sys.executable, "-m", "lamina", "--root", str(root), "exec", "-i", "c", "sh", "-c", "echo up; cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"up\n"
        (executed,) = json.loads(ok(root, "inspect", "c"))[0]["ExecIDs"]
        one.communicate()
    told = ok(root, "events", "--no-stream", "-f", "event=exec_die", "--format", "json")
    assert json.loads(told)["Actor"]["Attributes"]["execID"] == executed
