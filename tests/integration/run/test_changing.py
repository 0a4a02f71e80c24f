"""Verbs that change a container while it runs, and races between them: pause, unpause, rename, update."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import make_store, members, mounts_of, run
from lamina.errors import Conflict, LaminaError, NotFound
from lamina.run.cgroups import cgroups_of
from lamina.run.container.ending import remove
from lamina.run.container.life import create
from lamina.run.container.record import sandbox_of, stack_of
from lamina.run.container.running import first_process
from lamina.run.options import ContainerOptions
from lamina.source.stack import Stack
from lamina.store.containers import Container, Containers
from lamina.store.store import Store
from support import lamina, made_once, require_root, require_tool, running

LOOP = "while :; do echo x >>/beats; sleep 0.01; done"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    make_store(top, [members()])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    store = tmp_path / "store"
    yield store
    lamina("rm", "--all", "--force", root=store)
    assert mounts_of(store) == []


@contextmanager
def a_container(root: Path, script: str = LOOP, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """A container ``c`` whose program has begun."""
    words = ("run", "--network", "none", "--name", "c", *flags, "app", "sh", "-c", f"echo ready; {script}")
    with running(*words, root=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", process.communicate()[1]
        yield process
        lamina("rm", "-f", "c", root=root)


def fine(root: Path, *words: str) -> str:
    done = lamina(*words, root=root)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def refused(root: Path, code: int, *words: str) -> str:
    """The one line that says why."""
    done = lamina(*words, root=root)
    assert (done.returncode, done.stdout) == (code, b""), done
    line, end = done.stderr.decode().removeprefix("lamina: ").split("\n")
    assert end == ""
    return line


def state(root: Path) -> str:
    return fine(root, "inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.State.Paused}}", "c").strip()


def events(root: Path) -> list[tuple[str, dict[str, str]]]:
    lines = map(json.loads, (root / "events").read_text().splitlines())
    return [(one["action"], one["attributes"]) for one in lines]


def beats(root: Path) -> int:
    (file,) = [*root.glob("containers/*/upper/beats"), *root.glob("containers/*/memory/upper/beats")]
    return file.stat().st_size


def test_a_paused_container_stands_still_until_unpause(root: Path) -> None:
    with a_container(root):
        assert fine(root, "pause", "c") == "c\n"
        assert state(root) == "paused true true"
        assert re.search(r"Up .* \(Paused\)", fine(root, "ps"))
        before = beats(root)
        assert "is paused already" in refused(root, 5, "pause", "c")
        assert "is paused" in refused(root, 5, "exec", "c", "true")
        assert fine(root, "cp", "c:/etc/passwd", "-") != ""
        assert beats(root) == before
        assert fine(root, "unpause", "c") == "c\n"
        assert state(root) == "running true false"
        end = time.monotonic() + 30
        while beats(root) == before:
            assert time.monotonic() < end
        assert "is not paused" in refused(root, 5, "unpause", "c")
        assert [action for action, _ in events(root) if action.endswith("pause")] == ["pause", "unpause"]
    assert "no container" in refused(root, 3, "pause", "c")


def test_all_running_containers_are_paused_and_go_on(root: Path) -> None:
    assert run(root, "--name", "ended", "app", "true").returncode == 0
    with a_container(root):
        assert fine(root, "pause", "--all") == "c\n"
        assert fine(root, "pause", "--all") == ""
        assert fine(root, "unpause", "-a") == "c\n"
    assert "does not run" in refused(root, 5, "pause", "ended")
    refused(root, 2, "pause")
    refused(root, 2, "pause", "--all", "c")


@pytest.mark.parametrize(
    ("words", "code"),
    [(("stop", "c"), 7), (("stop", "-t", "1", "c"), 7), (("kill", "c"), 137), (("kill", "-s", "TERM", "c"), 7)],
)
def test_signals_reach_a_paused_container(root: Path, words: tuple[str, ...], code: int) -> None:
    with a_container(root, f"trap 'exit 7' TERM; {LOOP}") as process:
        fine(root, "pause", "c")
        fine(root, *words)
        process.communicate(timeout=30)
        assert process.returncode == code
        assert state(root) == "exited false false"


def test_a_paused_container_is_removed_by_force(root: Path) -> None:
    with a_container(root):
        fine(root, "pause", "c")
        fine(root, "rm", "-f", "c")
        assert fine(root, "ps", "-aq") == ""


def test_a_container_that_was_to_be_frozen_by_a_killed_pause_goes_on(root: Path) -> None:
    """Its record says that it is paused, but nothing has frozen it."""
    with a_container(root):
        store = Store.open(str(root))
        store.containers.change(store.containers.get("c"), paused=True)
        fine(root, "unpause", "c")
        assert state(root) == "running true false"


def test_what_ends_or_is_resumed_at_that_moment_needs_no_pause(root: Path) -> None:
    store = Store.open(str(root))
    with a_container(root) as process:
        sandbox = sandbox_of(store, store.containers.get("c"))
        with sandbox.paused():
            assert sandbox.is_paused
            sandbox.resume()
        fine(root, "kill", "c")
        assert process.wait(30) == 137
        with sandbox.paused():
            pass


def test_without_a_cgroup_one_line_says_that_pause_does_not_work(root: Path) -> None:
    require_tool("bwrap")
    with a_container(root, LOOP, "--runtime", "bwrap"):
        assert "can't be paused: it has no cgroup" in refused(root, 7, "pause", "c")
        assert state(root) == "running true false"


def test_rename(root: Path) -> None:
    with a_container(root):
        assert fine(root, "rename", "c", "old") == ""
        assert fine(root, "rename", "old", "/d") == ""
        assert fine(root, "ps", "--format", "{{.Names}}") == "d\n"
        assert fine(root, "inspect", "-f", "{{.Name}}", "d") == "/d\n"
        assert "no container" in refused(root, 3, "rename", "old", "e")
        assert "already called" in refused(root, 5, "rename", "d", "d")
        assert "not a container name" in refused(root, 2, "rename", "d", "a b")
        assert run(root, "--name", "c", "app", "true").returncode == 0  # the old name is free
        assert "is taken by the container" in refused(root, 5, "rename", "d", "c")
        assert run(root, "--name", "d", "app", "true").returncode == 125
        assert [(what, given["name"], given["oldName"]) for what, given in events(root) if what == "rename"] == [
            ("rename", "old", "/c"),
            ("rename", "d", "/old"),
        ]
        fine(root, "rm", "-f", "d")


def made(root: Path, *names: str) -> tuple[Store, Stack, list[Container]]:
    store = Store.open(str(root))
    run(root, "--name", "first", "app", "true")
    stack = stack_of(store, store.containers.get("first"))
    return store, stack, [create(store, stack, ContainerOptions(name=name)) for name in names]


def outcomes(*calls: Any) -> list[type[BaseException] | None]:
    def outcome(call: Any) -> type[BaseException] | None:
        try:
            call()
        except LaminaError as error:
            return type(error)
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return [*pool.map(outcome, calls)]


def test_one_name_is_given_to_one_of_several_containers(root: Path) -> None:
    store, _, containers = made(root, *"abcdef")
    for number in range(10):
        name = f"x{number}"
        calls = [partial(Containers(store.paths).rename, one, name) for one in containers]
        done = outcomes(*calls)
        assert sorted(done, key=str) == [Conflict] * 5 + [None]
        assert [one.name for one in store.containers].count(name) == 1


def test_a_name_is_not_given_to_a_new_container_and_by_rename(root: Path) -> None:
    store, stack, (one,) = made(root, "a")
    for number in range(10):
        name = f"x{number}"
        done = outcomes(
            partial(Containers(store.paths).rename, one, name),
            partial(create, Store.open(str(root)), stack, ContainerOptions(name=name)),
        )
        assert sorted(done, key=str) == [Conflict, None]
        assert [found.name for found in store.containers].count(name) == 1


def test_a_new_container_sees_a_name_that_was_given_after_the_list_was_read(root: Path) -> None:
    store, _, (one, other) = made(root, "a", "b")
    assert len(store.containers.every()) == 3
    Containers(store.paths).rename(one, "new")
    with pytest.raises(Conflict, match="is taken"):
        with store.containers.creating(_copy(other, "new"), lasting=False):
            pass
    with store.containers.creating(_copy(other, "a"), lasting=False):
        pass
    assert sorted(found.name for found in store.containers) == ["a", "b", "first", "new"]


def _copy(container: Container, name: str) -> Container:
    from lamina.light import replace

    return replace(container, id="0f" * 32, name=name)


def test_rename_and_removal_at_once_end_in_no_container_and_no_leftovers(root: Path) -> None:
    store, stack, _ = made(root)
    for number in range(10):
        one = create(store, stack, ContainerOptions(name=f"c{number}"))
        done = outcomes(
            lambda one=one: remove(Store.open(str(root)), one),
            lambda one=one: Containers(store.paths).rename(one, "z"),
        )
        assert done[0] is None
        assert done[1] in (None, NotFound)
        assert [found.name for found in store.containers.every()] == ["first"]
    assert [*store.containers.unknown_paths()] == []
    assert len([*(root / "containers").iterdir()]) == 1


def limit(root: Path, controller: str, name: str) -> str:
    """A file of the container's cgroup, in either version."""
    store = Store.open(str(root))
    one = store.containers.get("c")
    found = cgroups_of(first_process(store, one), one.id)
    assert found is not None
    return found.text(controller, name).strip()


needs_version_1 = pytest.mark.skipif(
    not os.path.isdir("/sys/fs/cgroup/memory"), reason="the names are those of cgroups in version 1"
)


@needs_version_1
def test_update_changes_limits_of_a_running_container_and_of_its_next_start(root: Path) -> None:
    with a_container(root, LOOP, "--cpus", "2"):
        words = ("-m", "64m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "30", "--cpuset-cpus", "0")
        assert fine(root, "update", *words, "c") == "c\n"
        told = [
            ("memory", "memory.limit_in_bytes", str(64 << 20)),
            ("memory", "memory.memsw.limit_in_bytes", str(128 << 20)),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("pids", "pids.max", "30"),
            ("cpuset", "cpuset.cpus", "0"),
        ]
        for controller, name, value in told:
            assert limit(root, controller, name) == value, name
        shown = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}"
        assert fine(root, "inspect", "-f", shown, "c").split() == ["67108864", "134217728", "500000000", "30"]
        (spec,) = [json.loads(path.read_text()) for path in root.glob("containers/*/bundle/config.json")]
        assert spec["linux"]["resources"]["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
        assert spec["process"]["args"][0] == "sh"
        assert "more than --memory-swap" in refused(root, 2, "update", "-m", "256m", "c")
        assert limit(root, "memory", "memory.limit_in_bytes") == str(64 << 20)
        fine(root, "update", "--cpus", "0", "--pids-limit", "-1", "c")
        assert (limit(root, "cpu", "cpu.cfs_quota_us"), limit(root, "pids", "pids.max")) == ("-1", "max")
        assert [what for what, _ in events(root)].count("update") == 2


def test_update_of_a_container_that_has_ended(root: Path) -> None:
    assert run(root, "--name", "c", "app", "true").returncode == 0
    assert fine(root, "update", "--restart", "on-failure:2", "-m", "64m", "c") == "c\n"
    shown = (
        "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.HostConfig.Memory}}"
    )
    assert fine(root, "inspect", "-f", shown, "c") == "on-failure 2 67108864\n"
    for words in (
        ("update", "c"),
        ("update", "-m", "1k", "c"),
        ("update", "--restart", "sometimes", "c"),
        ("update", "--cpuset-cpus", "100000", "c"),
        ("update", "--memory-swap", "1g", "--memory", "2g", "c"),
        ("update", "--cpu-quota", "10", "c"),
        ("update", "--cpu-period", "999", "c"),
        ("update", "--cpus", "1", "--cpu-quota", "1000", "c"),
        ("update", "--env", "=x", "c"),
        ("update", "--ulimit", "nofile=x", "c"),
        ("update", "--blkio-weight", "300", "c"),
        ("update", "--device-read-bps", "/dev/sda:1mb", "c"),
        ("update", "--cpu-rt-runtime", "100", "c"),
        ("update", "--memory-swappiness", "10", "c"),
        ("update", "--health-startup-cmd", "true", "c"),
        ("update", "--no-healthcheck", "c"),
        ("update", "--unsetenv", "A", "c"),
    ):
        refused(root, 2, *words)
    refused(root, 3, "update", "--pids-limit", "5", "nothing")
    assert fine(root, "inspect", "-f", shown, "c") == "on-failure 2 67108864\n"


@needs_version_1
@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_turns_on_the_processors(root: Path, runtime: str) -> None:
    require_tool("bwrap")
    shown = "{{.HostConfig.CpuPeriod}} {{.HostConfig.CpuQuota}} {{.HostConfig.NanoCpus}}"
    with a_container(root, LOOP, "--runtime", runtime, "--cpu-period", "20000", "--cpu-quota", "10000"):
        assert limit(root, "cpu", "cpu.cfs_period_us") == "20000"
        assert limit(root, "cpu", "cpu.cfs_quota_us") == "10000"
        fine(root, "update", "--cpu-period", "50000", "--cpu-quota", "5000", "c")
        assert limit(root, "cpu", "cpu.cfs_period_us") == "50000"
        assert limit(root, "cpu", "cpu.cfs_quota_us") == "5000"
        assert fine(root, "inspect", "-f", shown, "c") == "50000 5000 0\n"
        assert "exclude each other" in refused(root, 2, "update", "--cpus", "1", "c")
        fine(root, "update", "--cpu-quota", "-1", "c")
        assert limit(root, "cpu", "cpu.cfs_quota_us") == "-1"
        fine(root, "update", "--cpu-period", "0", "--cpus", "0.5", "c")
        assert limit(root, "cpu", "cpu.cfs_quota_us") == "50000"
        assert fine(root, "inspect", "-f", shown, "c") == "0 0 500000000\n"


def test_the_next_programs_get_new_variables_and_limits(root: Path) -> None:
    show = ("sh", "-c", "echo $A $B; ulimit -n")
    with a_container(root, LOOP, "-e", "A=1", "-e", "B=2", "--ulimit", "nofile=100"):
        fine(root, "update", "--env", "B=new", "--ulimit", "nofile=50", "c")
        assert fine(root, "exec", "c", *show) == "1 new\n50\n"
        fine(root, "restart", "-t", "0", "c")
        assert fine(root, "exec", "c", *show) == "1 new\n50\n"


def test_the_restart_policy_of_a_container_that_removes_itself_stays(root: Path) -> None:
    with a_container(root, LOOP, "--rm"):
        assert "is removed when it ends" in refused(root, 5, "update", "--restart", "always", "c")
        fine(root, "update", "--restart", "no", "c")


@needs_version_1
def test_update_of_a_bubblewrap_container(root: Path) -> None:
    require_tool("bwrap")
    with a_container(root, LOOP, "--runtime", "bwrap", "--pids-limit", "50"):
        fine(root, "update", "--pids-limit", "40", "c")
        assert limit(root, "pids", "pids.max") == "41"  # bubblewrap itself is one of them
        assert "without a limit of memory" in refused(root, 7, "update", "-m", "64m", "c")
        assert "bubblewrap can't do --cpu-shares" in refused(root, 7, "update", "--cpu-shares", "64", "c")
        assert fine(root, "inspect", "-f", "{{.HostConfig.PidsLimit}} {{.HostConfig.Memory}}", "c") == "40 0\n"


def test_the_monitor_follows_a_changed_restart_policy(root: Path) -> None:
    script = "until test -f /end; do sleep 0.02; done; exit 1"
    done = lamina("run", "-d", "--network", "none", "--name", "c", "app", "sh", "-c", script, root=root)
    assert done.returncode == 0, done.stderr
    fine(root, "update", "--restart", "on-failure:2", "c")
    fine(root, "exec", "c", "touch", "/end")
    assert fine(root, "wait", "--condition", "exited", "c") == "1\n"
    assert fine(root, "inspect", "-f", "{{.RestartCount}} {{.State.ExitCode}}", "c") == "2 1\n"


def test_what_people_gave_to_a_container_is_not_for_other_users_of_the_host(root: Path) -> None:
    flags = ("-e", "TOKEN=hush", "-v", "data:/data", "--health-cmd", "true")
    done = lamina("run", "-d", "--network", "none", "--name", "c", *flags, "app", "sleep", "100", root=root)
    assert done.returncode == 0, done.stderr
    (directory,) = (root / "containers").iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    told = [path for path in directory.glob("*") if path.is_file() and b"hush" in path.read_bytes()]
    assert {path.name for path in told} == {"container.json", "lock"}
    assert {path.stat().st_mode & 0o777 for path in (*told, directory / "control")} == {0o600}
    assert (directory / "bundle").stat().st_mode & 0o777 == 0o700
    fine(root, "rm", "-f", "c")


def test_verbs_print_the_containers_as_they_were_named(root: Path) -> None:
    """As docker and podman do: scripts compare what they gave with what they get."""
    made = lamina("run", "-d", "--network", "none", "--name", "c", "app", "sleep", "100", root=root)
    identity = made.stdout.decode().strip()
    assert len(identity) == 64, made.stderr
    for words in (
        ("stop", "-t", "0", identity),
        ("start", identity[:12]),
        ("kill", identity),
        ("restart", "-t", "0", identity[:7]),
        ("pause", identity[:12]),
        ("unpause", "/c"),
        ("stop", "-t", "0", "c"),
        ("rm", identity[:10]),
    ):
        done = lamina(*words, root=root)
        assert (done.returncode, done.stdout.decode()) == (0, f"{words[-1]}\n"), (words, done.stderr)
