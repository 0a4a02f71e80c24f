"""Image.start and Container: containers that live on by themselves, from a program that uses lamina as a library."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lamina as library
from integration.run.test_run import make_store, members, mounts_of
from lamina.errors import (
    Conflict,
    ContainerFailure,
    LaminaError,
    NotFound,
    ProgramFailed,
    TimedOut,
    UsageError,
)
from support import lamina, made_once, require_root, require_tool

PATIENCE = 60  # seconds, until a test gives up


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    make_store(top, [members(("data/", None), ("data/file", b"old\n"))], Env=["A=image"], Cmd=["sleep", "1000"])


@pytest.fixture
def image(tmp_path: Path) -> Iterator[library.Image]:
    made_once(make, tmp_path)
    root = tmp_path / "store"
    yield library.open("app", root=root)
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []


def root_of(image: library.Image) -> str:
    assert image._settings is not None
    return image._settings.root


def start(image: library.Image, script: str = "sleep 1000", **more: object) -> library.Container:
    return image.start(["sh", "-c", script], network="none", **more)  # type: ignore[arg-type]


def line_of(container: library.Container) -> bytes:
    """The first line that it writes."""
    return bytes(next(iter(container.logs(follow=True))))


def test_a_container_lives_on_and_can_be_asked(image: library.Image) -> None:
    before = time.time()
    with start(image, "echo begun; sleep 1000", name="c", labels={"kind": "test"}) as container:
        assert line_of(container) == b"begun\n"
        assert (container.name, container.image, container.status, container.exit_code) == (
            "c",
            "app",
            "running",
            None,
        )
        assert container.command == ("sh", "-c", "echo begun; sleep 1000")
        assert container.labels == {"kind": "test"}
        assert before - 1 < container.created < time.time()
        assert (container.health, container.ports, container.warnings) == (None, {}, ())
        assert container.inspect()["State"]["Running"] is True
        shown = json.loads(lamina("ps", "--format", "json", root=root_of(image)).stdout)
        assert [row["Id"] for row in shown] == [container.id]
    assert container.status == "removed"
    with pytest.raises(NotFound):
        container.reload()
    container.remove()  # no error


def test_an_end_is_seen_and_its_exit_code_known(image: library.Image) -> None:
    container = start(image, "read line </dev/null; echo out; echo err >&2; exit 3")
    assert container.wait() == 3
    assert (container.status, container.exit_code) == ("exited", 3)
    lines = list(container.logs())
    assert sorted((line.stream, line.text) for line in lines) == [("stderr", "err"), ("stdout", "out")]
    assert [line.text for line in container.logs(stderr=False)] == ["out"]
    assert all(container.created - 1 < line.time < time.time() + 1 for line in lines)
    assert list(container.logs(since=time.time() + 100)) == []
    assert len(list(container.logs(tail=1))) == 1
    container.remove()
    assert library.containers(root=root_of(image)) == []


def test_waiting_has_a_limit(image: library.Image) -> None:
    with start(image) as container:
        with pytest.raises(TimedOut) as caught:
            container.wait(timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert container.wait(timeout=PATIENCE, condition="running") is None
        with pytest.raises(UsageError):
            container.wait(condition="nope")
        with pytest.raises(Conflict, match="health"):
            container.wait(condition="healthy")


def test_programs_run_in_a_running_container(image: library.Image) -> None:
    with start(image) as container:
        done = container.exec(["sh", "-c", "cat; echo $A $B; pwd; echo err >&2; exit 4"], env={"B": "b"}, stdin="in ")
        assert (done.exit_code, done.stdout, done.stderr) == (4, b"in image b\n/\n", b"err\n")
        assert container.exec(["pwd"], workdir="/data").text == "/data\n"
        pieces: list[bytes] = []
        container.exec(["echo", "x"], stdout=pieces.append)
        assert b"".join(pieces) == b"x\n"
        with pytest.raises(ProgramFailed, match="exit code 1"):
            container.exec(["sh", "-c", "exit 1"], check=True)
        with pytest.raises(ContainerFailure):
            container.exec(["nowhere"])
        with pytest.raises(UsageError):
            container.exec("ls")
        with pytest.raises(UsageError):
            container.exec([])
    with pytest.raises(NotFound):
        container.exec(["true"])


def test_a_program_that_runs_too_long_is_killed_and_the_container_goes_on(image: library.Image) -> None:
    with start(image) as container:
        with pytest.raises(TimedOut) as caught:
            container.exec(["sh", "-c", "echo begun; exec sleep 777"], timeout=1)
        assert caught.value.stdout == b"begun\n"
        assert "777" not in container.exec(["/bin/busybox", "ps", "-o", "args"]).text
        assert container.status == "running"


def test_a_program_that_leaves_a_child_with_its_output_is_given_up(image: library.Image) -> None:
    with start(image) as container:
        with pytest.raises(TimedOut) as caught:
            container.exec(["sh", "-c", "sleep 500 & echo done; exec sleep 500"], timeout=1)
        assert caught.value.stdout == b"done\n"
        assert container.status == "running"


def test_stop_kill_restart_pause_and_rename(image: library.Image) -> None:
    with start(image, "trap 'exit 9' TERM; echo begun; while :; do sleep 0.05; done") as container:
        assert line_of(container) == b"begun\n"
        container.stop()
        assert (container.status, container.exit_code) == ("exited", 9)
        container.stop()  # no error
        with pytest.raises(Conflict):
            container.kill()
        container.start()
        with pytest.raises(Conflict):
            container.start()
        container.kill("KILL")
        assert container.wait(timeout=PATIENCE) == 137
        container.restart(timeout=0)
        assert container.status == "running"
        with pytest.raises(Conflict):
            container.remove()
        container.pause()
        assert container.status == "paused"
        container.unpause()
        assert container.rename("other").name == "other"
        assert library.container("other", root=root_of(image)) == container
        with pytest.raises(UsageError):
            container.kill("NOPE")


def test_what_it_uses_is_measured(image: library.Image) -> None:
    waiting = "trap go=1 USR1; echo begun; until [ $go ]; do sleep 0.02; done"
    working = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done"
    with start(image, f"{waiting}; {working}; sleep 1000") as container:
        lines = container.logs(follow=True)
        assert next(lines) == b"begun\n"
        before = container.stats()
        container.kill("USR1")
        assert next(lines) == b"done\n"
        after = container.stats()
        assert after.cpu > before.cpu
        assert after.cpu_percent(before) > 0
        assert 0 < after.memory <= after.limit
        assert after.pids >= 1
        container.kill()
        container.wait()
        with pytest.raises(Conflict):
            container.stats()


def test_changes_become_an_image(image: library.Image) -> None:
    with start(image, "echo new >/data/file; rm /etc/passwd; echo done; sleep 1000") as container:
        assert line_of(container) == b"done\n"
        assert [str(change) for change in container.changes()] == [
            "C /data",
            "C /data/file",
            "C /etc",
            "D /etc/passwd",
        ]
        made = container.commit("app:2", labels={"a": "b"}, comment="by a test")
        assert made.read_bytes("/data/file") == b"new\n"
        assert made.config.labels == {"a": "b"}
        assert {change.how for change in image.diff(container).changes} == {"changed", "removed"}
        (found,) = library.containers(root=root_of(image))
        assert found.commit("app:3").read_bytes("/data/file") == b"new\n"


def test_what_can_t_start_is_not_left(image: library.Image) -> None:
    with pytest.raises(ContainerFailure) as caught:
        image.start(["nowhere"], network="none")
    assert caught.value.exit_code == 127
    for given in (
        {"restart": "nope"},
        {"restart": "always", "remove": True},
        {"health": {"nope": 1}},
        {"health": {"test": "true", "interval": "1s"}},
        {"ports": "80:80"},
        {"networks": "front"},
        {"log_driver": "nope"},
        {"log_options": {"max-size": "x"}},
        {"stop_signal": "NOPE"},
        {"pod": "nope"},
        {"name": "a/b"},
        {"env": "A=1"},
    ):
        with pytest.raises(LaminaError):
            image.start(["true"], **given)  # type: ignore[arg-type]
    assert library.containers(root=root_of(image)) == []


def test_a_health_check_is_waited_for(image: library.Image) -> None:
    health = {"test": "[ -e /ready ]", "interval": 0.05, "retries": 1}
    with start(image, health=health) as container:
        container.wait(condition="unhealthy", timeout=PATIENCE)
        container.exec(["sh", "-c", "echo >/ready"])
        container.wait(condition="healthy", timeout=PATIENCE)
        assert container.health == "healthy"


@pytest.mark.parametrize("volumes", [False, True])
def test_anonymous_volumes_go_if_asked_for(image: library.Image, volumes: bool) -> None:
    root = Path(root_of(image))
    container = start(image, mounts=["/anonymous"])
    container.remove(force=True, volumes=volumes)
    assert len(lamina("volume", "ls", "-q", root=root).stdout.split()) == (0 if volumes else 1)
    before = len(lamina("volume", "ls", "-q", root=root).stdout.split())
    with start(image, mounts=["/anonymous"]):
        pass  # it goes with all that is its own
    assert len(lamina("volume", "ls", "-q", root=root).stdout.split()) == before


def test_a_container_that_removes_itself(image: library.Image) -> None:
    with start(image, "exit 0", remove=True) as container:
        with pytest.raises(NotFound):
            while True:
                container.reload()
        assert container.status == "removed"


def test_a_policy_starts_it_again(image: library.Image) -> None:
    with start(image, "echo x >>/runs; [ $(/bin/busybox wc -l </runs) -ge 3 ]", restart="on-failure") as container:
        assert container.wait(timeout=PATIENCE) == 0
        assert container.inspect()["RestartCount"] == 2


def test_containers_are_listed_newest_first_and_filtered(image: library.Image) -> None:
    root = root_of(image)
    for name in ("one", "two"):
        start(image, "exit 0", name=name, labels={"job": name}).wait()
    with start(image, name="three"):
        assert [one.name for one in library.containers(root=root)] == ["three", "two", "one"]
        assert [one.name for one in library.containers(root=root, all=False)] == ["three"]
        assert [one.name for one in library.containers(root=root, filters=["label=job=two"])] == ["two"]
    assert library.containers(root=root + "-missing") == []
    with pytest.raises(UsageError):
        library.containers(root=root, filters=["nope"])
    with pytest.raises(NotFound):
        library.container("three", root=root)


def test_threads_and_coroutines_work_on_containers_at_the_same_time(image: library.Image) -> None:
    def work(number: int) -> bytes:
        with start(image, f"echo {number}; sleep 1000") as container:
            assert line_of(container) == b"%d\n" % number
            return container.exec(["echo", str(number)]).stdout

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [b"%d\n" % number for number in range(4)]

    async def both() -> list[int | None]:
        containers = [await asyncio.to_thread(start, image, f"exit {code}") for code in (5, 6)]
        return await asyncio.gather(*(asyncio.to_thread(one.wait) for one in containers))

    assert asyncio.run(both()) == [5, 6]


def test_one_container_may_be_used_from_many_threads(image: library.Image) -> None:
    with start(image) as container:
        ended: list[int | None] = []
        waiting = [threading.Thread(target=lambda: ended.append(container.wait())) for _ in range(3)]
        for one in waiting:
            one.start()
        assert container.exec(["true"]).exit_code == 0
        container.kill()
        for one in waiting:
            one.join(PATIENCE)
        assert ended == [137, 137, 137]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_uses_the_container_too_and_its_end_does_not_end_it(image: library.Image) -> None:
    code = (
        "import os, sys, lamina\n"
        "image = lamina.open('app', root=sys.argv[1])\n"
        "container = image.start(['sleep', '1000'], network='none', name='c')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(container.exec(['sh', '-c', 'exit 7']).exit_code)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "assert container.exec(['sh', '-c', 'exit 8']).exit_code == 8\n"
    )
    subprocess.run([sys.executable, "-c", code, root_of(image)], check=True, timeout=PATIENCE)
    container = library.container("c", root=root_of(image))
    assert container.status == "running"  # the process that started it has ended
    container.remove(force=True)
