"""A build that is killed while a program of it runs: its caretaker ends what it has left, else the next build or
`prune` does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.build.running import RUNTIMES, GivenInputs, left_in, make_store, members, run_step, said, sleeping
from lamina.build.programs.run_program import run_programs
from lamina.build.programs.step_directory import clear, running, step_directory
from lamina.store.fault import BUILD_POINTS
from lamina.store.store import Store
from support import lamina, made_once, require_root, require_tool

TESTS = Path(__file__).parents[2]
BUILD = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from integration.build.running import *
from lamina.build.programs.run_program import run_programs
from lamina.build.steps import RunMount
root, runtime, script, network = sys.argv[1:]
store = Store.open(root)
mounts = (RunMount("cache", "/cache", "/", id="c"), RunMount("bind", "/base", "/", base(), read_only=True))
mounts += (RunMount("secret", "", id="s", variable="S"), RunMount("tmpfs", "/t"))
inputs = GivenInputs(store, runtime=runtime, secrets={{"s": Secret("s", value=b"hidden")}})
step = run_step(script, mounts=mounts, network=network)
with run_programs(store, print), ran(step, inputs.stack(step.below), inputs, lambda data: os.write(1, data)) as items:
    print(len(list(items)))
"""


def make(top: Path) -> None:
    make_store(top, [members()])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    require_root()
    require_tool(*RUNTIMES, "busybox")
    made_once(make, tmp_path)
    store = Store.open(str(tmp_path / "store"))
    yield store
    assert left_in(store) == []


@contextmanager
def build(
    store: Store, runtime: str, script: str, *, network: str = "none", fault: str = ""
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", BUILD, store.paths.root, runtime, script, network]
    env = {**os.environ, "LAMINA_FAULT": fault}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    """What the program prints, line by line, without what the step says on an overlayfs."""
    assert process.stdout is not None
    return (line.strip() for line in process.stdout if not line.startswith("lamina: "))


def killed_in_the_middle(store: Store, runtime: str, network: str = "none") -> str:
    """A build that is killed while its program runs; how long the program sleeps."""
    mark = f"8{os.getpid()}"
    with build(store, runtime, f"sleep {mark} & echo up; sleep {mark}", network=network) as process:
        assert next(lines_of(process)) == "up"
        until(lambda: len(sleeping(mark)) == 2)
    return mark


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_next_build_ends_what_a_killed_one_left(store: Store, runtime: str) -> None:
    mark = killed_in_the_middle(store, runtime)
    assert os.listdir(Path(store.paths.build, "running")) != []
    with run_programs(store, print):
        until(lambda: not sleeping(mark))  # bubblewrap's program is ended by the kernel, a moment later
        assert os.listdir(Path(store.paths.build, "running")) == []
        assert said(GivenInputs(store, runtime=runtime), run_step("echo fine")) == "fine\n"


def test_a_next_build_without_programs_ends_what_a_killed_one_left(store: Store, tmp_path: Path) -> None:
    mark = killed_in_the_middle(store, "runc")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    done = lamina("build", "-q", "-f", str(tmp_path / "Dockerfile"), str(tmp_path), root=store.paths.root)
    assert done.returncode == 0, done.stderr
    assert sleeping(mark) == []
    assert left_in(store) == []


def test_prune_and_umount_end_what_a_killed_build_left(store: Store) -> None:
    for words in (("prune",), ("umount", "--all")):
        mark = killed_in_the_middle(store, "runc")
        assert sleeping(mark) != []
        assert lamina(*words, root=store.paths.root).returncode == 0
        assert sleeping(mark) == []
        assert left_in(store) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_command_leaves_nothing_when_it_is_killed(store: Store, tmp_path: Path, runtime: str) -> None:
    """No further call of lamina is needed: the build's caretaker ends all."""
    mark = f"9{os.getpid()}"
    (tmp_path / "secret").write_bytes(b"hidden")
    (tmp_path / "Dockerfile").write_text(
        f"FROM app\nRUN --mount=type=secret,id=s --network=none sleep {mark} & echo up; sleep {mark}\n"
    )
    words = ["build", "--secret", f"id=s,src={tmp_path}/secret", "--runtime", runtime, str(tmp_path)]
    command = [sys.executable, "-m", "lamina", "--root", store.paths.root, *words]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            until(lambda: len(sleeping(mark)) == 2)
        finally:
            process.kill()
    until(lambda: not sleeping(mark))
    until(lambda: os.listdir(running(store)) == [])
    until(lambda: store.paths.root not in Path("/proc/self/mountinfo").read_text())


def test_the_network_of_a_killed_build_is_ended(store: Store) -> None:
    require_tool("pasta")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun")
    killed_in_the_middle(store, "runc", network="")
    (place,) = Path(store.paths.build, "running").iterdir()
    number = int((place / "network" / "pasta.pid").read_text())
    assert clear(store) == []
    until(lambda: not os.path.exists(f"/proc/{number}"))


def test_what_a_running_build_uses_is_left_alone(store: Store) -> None:
    with build(store, "runc", "echo up; cat /proc/mounts > /dev/null; sleep 0.5; ls /base/bin/sh") as process:
        lines = lines_of(process)
        assert next(lines) == "up"
        assert clear(store) == []
        assert lamina("prune", root=store.paths.root).returncode == 0
        assert list(lines) == ["/base/bin/sh", "0"]
    with step_directory(store) as directory:
        assert clear(store) == []
        assert os.path.isdir(directory.path)


@pytest.mark.parametrize("point", [point for point in BUILD_POINTS if point != "step.ended"])
def test_wherever_a_build_is_killed_the_next_one_works(store: Store, point: str) -> None:
    with build(store, "runc", "echo x > /cache/x", fault=point) as process:
        assert process.wait() == -9
    assert clear(store) == []
    assert left_in(store) == []
    with build(store, "runc", "echo y > /made; ls /cache") as process:
        assert list(lines_of(process)) in (["1"], ["x", "1"])
        assert process.wait() == 0


def test_an_end_that_is_killed_is_ended_later(store: Store) -> None:
    killed_in_the_middle(store, "runc")
    code = (
        "import sys; from lamina.build.programs.step_directory import clear; from lamina.store.store import Store; "
        "clear(Store.open(sys.argv[1]))"
    )
    env = {**os.environ, "LAMINA_FAULT": "step.ended"}
    assert subprocess.run([sys.executable, "-c", code, store.paths.root], env=env, check=False).returncode == -9
    assert clear(store) == []


def test_copies_of_contexts_of_a_killed_build_are_removed(store: Store) -> None:
    code = (
        "import os, sys; from lamina.store.store import Store\n"
        "from lamina.build.programs.step_mounts import SharedContexts\n"
        "with SharedContexts(Store.open(sys.argv[1])) as shared:\n"
        "    shared.copy('', '/', lambda path: os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", code, store.paths.root], check=False).returncode == -9
    assert len(os.listdir(Path(store.paths.build, "running"))) == 1
    assert clear(store) == []
    assert left_in(store) == []
