"""A sandbox without a container: streams that the caller chooses, as a build step has them. And a container that is
started again from its record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import make_store, members, mounts_of, run
from lamina.errors import SystemFailure
from lamina.run.bundle import Task, prepare_spec
from lamina.run.child import Streams
from lamina.run.container import life
from lamina.run.container.record import stack_of
from lamina.run.network import ContainerNetwork
from lamina.run.options import ContainerOptions
from lamina.run.rootfs import Inside
from lamina.run.runtime import EXECUTED, is_hybrid
from lamina.run.sandbox import Directories, Sandbox, states_of
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.view.overlay.lower import sweep
from lamina.view.upper_check import refusal
from support import lamina, require_root, require_tool

RUNTIMES = ("runc", "bwrap")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_root()
    require_tool("runc", "busybox")
    yield make_store(tmp_path, [members()])
    lamina("rm", "--all", "--force", root=tmp_path / "store")
    assert mounts_of(tmp_path / "store") == []


@contextmanager
def mounted(root: Path, tmp_path: Path, runtime: str) -> Iterator[tuple[Sandbox, Task, Path]]:
    """A mounted sandbox, a task in it, and its upper directory."""
    require_tool(runtime)
    if runtime == "crun" and is_hybrid():
        pytest.skip("crun takes no cgroups of both versions: see tests/with_crun.sh")
    store = Store.open(str(root))
    stack = store.stack("app", Platform.host())
    top = Path(os.environ.get("LAMINA_TEST_UPPER", tmp_path), os.urandom(8).hex())
    for name in ("rootfs", "bundle", "upper", "work"):
        (top / name).mkdir(parents=True)
    if refusal(str(top)):
        pytest.skip("no file system for an upper directory")
    directories = Directories(str(top / "rootfs"), str(top / "bundle"), states_of(store))
    sandbox = Sandbox(os.urandom(32).hex(), directories, runtime=runtime)
    sandbox.mount(store, stack, str(top / "upper"), str(top / "work"), volatile=True)
    try:
        script = "cat; echo err >&2; echo new > /new; exit 7"
        task = Task(
            sandbox, ContainerOptions(network="none"), stack.config, ("sh", "-c", script), ContainerNetwork("none")
        )
        yield sandbox, task, top / "upper"
    finally:
        sandbox.unmount()
        sweep(store)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_program_has_the_streams_of_its_caller_and_writes_to_the_upper_directory(
    root: Path, tmp_path: Path, runtime: str
) -> None:
    with mounted(root, tmp_path, runtime) as (sandbox, task, upper):
        with Inside(sandbox.directories.rootfs) as inside:
            spec, _ = prepare_spec(task, inside)
        given, out, err = os.pipe(), os.pipe(), os.pipe()
        os.write(given[1], b"in\n")
        os.close(given[1])
        with sandbox.start(spec, Streams(given[0], out[1], err[1])) as program:
            os.close(out[1])  # the program has its own copies
            os.close(err[1])
            assert os.read(out[0], 100) == b"in\n"
            assert program.wait().code == 7
        assert (os.read(out[0], 100), os.read(err[0], 100)) == (b"", b"err\n")
        assert (upper / "new").read_bytes() == b"new\n"
        for one in (given[0], out[0], err[0]):
            os.close(one)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_while_a_program_runs_others_are_executed_and_signals_sent(root: Path, tmp_path: Path, runtime: str) -> None:
    with mounted(root, tmp_path, runtime) as (sandbox, task, upper):
        script = "trap 'exit 9' TERM; echo up; while true; do sleep 0.05; done"
        task = Task(sandbox, task.wanted, task.config, ("sh", "-c", script), task.network)
        with Inside(sandbox.directories.rootfs) as inside:
            spec, _ = prepare_spec(task, inside)
        reading, writing = os.pipe()
        with sandbox.start(spec, Streams(0, writing, writing, interactive=False)) as program:
            os.close(writing)
            assert os.read(reading, 100) == b"up\n"
            process = {**spec["process"], "args": ["sh", "-c", "echo more > /more; exit 3"]}
            with sandbox.execute(process, Streams(interactive=False)) as further:
                assert further.wait().code == 3
            assert (upper / "more").read_bytes() == b"more\n"
            sandbox.signal(15)
            assert program.wait().code == 9
        os.close(reading)
        with pytest.raises(SystemFailure):
            sandbox.signal(15)


@contextmanager
def running_sandbox(root: Path, tmp_path: Path, runtime: str) -> Iterator[tuple[Sandbox, dict[str, Any]]]:
    """A sandbox whose first program runs until it gets TERM; and the process of its runtime spec."""
    with mounted(root, tmp_path, runtime) as (sandbox, task, _):
        script = "trap 'exit 9' TERM; echo up; while true; do sleep 0.05; done"
        task = Task(sandbox, task.wanted, task.config, ("sh", "-c", script), task.network)
        with Inside(sandbox.directories.rootfs) as inside:
            spec, _ = prepare_spec(task, inside)
        reading, writing = os.pipe()
        with sandbox.start(spec, Streams(0, writing, writing, interactive=False)) as program:
            os.close(writing)
            assert os.read(reading, 100) == b"up\n"
            yield sandbox, spec["process"]
            program.signal(15)
            assert program.wait().code == 9
        with pytest.raises(SystemFailure):
            program.signal(15)
        os.close(reading)


@pytest.mark.parametrize("runtime", [*RUNTIMES, "crun"])
@pytest.mark.parametrize("number", [15, 9])
def test_a_further_program_is_started_signalled_and_waited_for(
    root: Path, tmp_path: Path, runtime: str, number: int
) -> None:
    with running_sandbox(root, tmp_path, runtime) as (sandbox, process):
        process |= {"args": ["sh", "-c", "trap 'exit 5' TERM; echo up; while true; do sleep 0.05; done"]}
        reading, writing = os.pipe()
        with sandbox.execute(process, Streams(0, writing, 2, interactive=False)) as program:
            os.close(writing)
            assert os.read(reading, 100) == b"up\n"
            program.signal(number)
            assert program.wait().code == {15: 5, 9: 137}[number]
            assert os.read(reading, 100) == b""  # no process has the pipe any more
            with pytest.raises(SystemFailure, match="has ended"):
                program.signal(number)
        os.close(reading)
        assert not [name for name in os.listdir(sandbox.directories.bundle) if name.startswith(EXECUTED)]


@pytest.mark.parametrize("runtime", [*RUNTIMES, "crun"])
def test_a_further_program_that_nobody_waits_for_is_killed(root: Path, tmp_path: Path, runtime: str) -> None:
    with running_sandbox(root, tmp_path, runtime) as (sandbox, process):
        process |= {"args": ["sh", "-c", "trap '' TERM; echo up; exec sleep 1000"]}
        reading, writing = os.pipe()
        with sandbox.execute(process, Streams(0, writing, 2, interactive=False)):
            os.close(writing)
            assert os.read(reading, 100) == b"up\n"
        assert os.read(reading, 100) == b""
        os.close(reading)


@pytest.mark.parametrize("runtime", [*RUNTIMES, "crun"])
def test_a_further_program_that_can_not_start_has_dockers_exit_code(
    root: Path, tmp_path: Path, runtime: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_sandbox(root, tmp_path, runtime) as (sandbox, process):
        with sandbox.execute({**process, "args": ["no-such"]}, Streams(interactive=False)) as program:
            assert program.wait().code == 127
        assert "no-such" in capfd.readouterr().err


def test_a_container_is_started_again_as_its_record_says(root: Path, tmp_path: Path) -> None:
    script = 'echo "$WHAT $(hostname)" >> /said; echo "$WHAT" >> /data/said; exit 4'
    words = ("-e", "WHAT=this", "-h", "box", "-v", "vol:/data", "--network", "none", "app", "sh", "-c", script)
    assert run(root, "--name", "c", *words).returncode == 4
    store = Store.open(str(root))
    one = store.containers.get("c")
    assert life.run(store, stack_of(store, one), one).code == 4
    assert lamina("cp", "c:/said", str(tmp_path / "said"), root=root).returncode == 0
    assert (tmp_path / "said").read_text() == "this box\n" * 2
    assert (root / "volumes/vol/said").read_text() == "this\n" * 2
    assert store.containers.get("c").wanted == one.wanted
