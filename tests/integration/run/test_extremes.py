"""Limits that are too low to start: the error names them, the exit code is docker's, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members, mounts_of
from lamina.run.bubblewrap import cgroup
from support import lamina, require_root, require_tool


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_root()
    require_tool("busybox")
    store = make_store(tmp_path, [members()])
    yield store
    assert lamina("ps", "-aq", root=store).stdout == b""
    assert mounts_of(store) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "1"), "'1' is too little memory for any program (give at least 6m"),
        (("-m", "4k"), "'4k' is too little memory for any program"),
        (("--cpus", "0.0001"), "0.0001 is not a possible number of processors (give at least 0.01"),
        (("--ulimit", "nofile=0"), "did not start, perhaps because of its limits: --ulimit nofile=0"),
    ],
)
@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_impossible_limits_are_one_error_line(root: Path, words: tuple[str, ...], said: str, runtime: str) -> None:
    require_tool(runtime)
    done = lamina("run", "--rm", "--network", "none", "--runtime", runtime, *words, "app", "true", root=root)
    assert (done.returncode, b"Traceback" in done.stderr) == (125, False), done.stderr
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("lamina: ") and said in line]
    assert len(lines) == 1, done.stderr


@pytest.mark.parametrize("word", ["as=1", "data=1", "cpu=0", "stack=1", "fsize=0", "nproc=0", "core=0"])
@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_other_limits_end_as_docker_says_or_by_a_signal(root: Path, word: str, runtime: str) -> None:
    require_tool(runtime)
    options = ("--network", "none", "--runtime", runtime, "--ulimit", word)
    done = lamina("run", "--rm", *options, "app", "true", root=root)
    assert done.returncode in (0, 125, 137, 139), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Error: " not in done.stderr  # of Python's
    assert done.returncode != 125 or f"--ulimit {word}".encode() in done.stderr


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_one_process_and_six_megabytes_are_enough_for_a_small_program(root: Path, runtime: str) -> None:
    require_tool(runtime)
    if reason := cgroup.refusal():
        pytest.skip(reason)
    words = ("--network", "none", "--runtime", runtime, "--pids-limit", "1", "-m", "6m", "--cpus", "0.5")
    done = lamina("run", "--rm", *words, "app", "echo", "ran", root=root)
    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr


def test_missing_processors_are_named_with_the_existing_ones(root: Path) -> None:
    for flag, kind in (("--cpuset-cpus", "cpu"), ("--cpuset-mems", "node")):
        place = Path(f"/sys/devices/system/{kind}/online")
        if not place.exists():
            continue
        done = lamina("run", "--rm", "--network", "none", flag, "9999", "app", "true", root=root)
        said = f"lamina: {flag} 9999: this host has {place.read_text().strip()} (choose some of those)\n"
        assert (done.returncode, done.stderr.decode()) == (125, said)
