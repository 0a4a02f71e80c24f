"""The cgroups of a container, in directories that look like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.run.cgroups import Cgroups, cgroups_of, counts_swap, lacking, remove_left
from lamina.run.inspection import usage
from lamina.run.oom import oom_kills

ID = "ab" * 32
VERSION_1 = f"""9:name=systemd:/{ID}
8:pids:/{ID}
5:cpu,cpuacct:/{ID}/below
4:memory:/above/{ID}
3:freezer:/
0::/{ID}
"""


def process(top: Path, text: str) -> str:
    directory = top / "proc" / "7"
    directory.mkdir(parents=True)
    (directory / "cgroup").write_text(text)
    return str(top / "proc")


def test_each_controller_of_version_1_has_its_directory(tmp_path: Path) -> None:
    top = tmp_path / "cgroup"
    for name in (f"pids/{ID}", f"cpu,cpuacct/{ID}/below", f"memory/above/{ID}", "freezer", f"unified/{ID}"):
        (top / name).mkdir(parents=True)
    found = cgroups_of(7, ID, str(top), process(tmp_path, VERSION_1))
    assert found is not None
    assert found.unified == ""
    assert found.places == {
        "pids": f"{top}/pids/{ID}",
        "cpu": f"{top}/cpu,cpuacct/{ID}",
        "cpuacct": f"{top}/cpu,cpuacct/{ID}",
        "memory": f"{top}/memory/above/{ID}",
    }
    (top / "memory" / "above" / ID / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert oom_kills(found) == 2
    assert found.number("pids", "pids.max") is None


def test_version_2_has_one_directory(tmp_path: Path) -> None:
    top = tmp_path / "cgroup"
    place = top / "x" / ID
    place.mkdir(parents=True)
    (top / "cgroup.controllers").write_text("memory pids\n")
    (place / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n")
    (place / "pids.max").write_text("max\n")
    (place / "pids.current").write_text("3\n")
    found = cgroups_of(7, ID, str(top), process(tmp_path, f"0::/x/{ID}/init\n"))
    assert found == Cgroups(unified=str(place))
    assert oom_kills(found) == 1
    assert (found.number("pids", "pids.max"), found.number("pids", "pids.current")) == (None, 3)


@pytest.mark.parametrize(
    "text", ["", "0::/\n", "4:memory:/user.slice\n0::/user.slice\n", f"4:memory:/../{ID}\n", "no lines\n", "::\n"]
)
def test_a_container_without_a_cgroup_of_its_own_has_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "cgroup" / "memory" / ID).mkdir(parents=True)
    found = cgroups_of(7, ID, str(tmp_path / "cgroup"), process(tmp_path, text))
    assert found is None
    assert oom_kills(found) == 0


@pytest.mark.parametrize(
    ("files", "own", "counts"),
    [
        (["memory/memory.limit_in_bytes"], "7:memory:/a\n0::/\n", False),
        (["memory/memory.memsw.limit_in_bytes"], "7:memory:/a\n0::/\n", True),
        (["cgroup.controllers", "a/b/memory.swap.max"], "0::/a/b\n", True),
        (["cgroup.controllers", "a/memory.swap.max"], "0::/a/b\n", False),
        (["cgroup.controllers", "memory.swap.max"], "0::/\n", True),
        (["cgroup.controllers"], "", False),
    ],
)
def test_whether_swap_can_be_limited(tmp_path: Path, files: list[str], own: str, counts: bool) -> None:
    for name in files:
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text(own)
    assert counts_swap(str(tmp_path / "cgroup"), str(tmp_path)) == counts


@pytest.mark.parametrize("version", [1, 2])
def test_controllers_that_the_kernel_lacks(tmp_path: Path, version: int) -> None:
    if version == 1:
        for name in ("memory", "cpu,cpuacct", "pids"):
            (tmp_path / name).mkdir()
    else:
        (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    assert lacking(["pids", "cpuset", "memory", "cpu", "io"], str(tmp_path)) == ["cpuset", "io"]
    assert lacking(["pids"], str(tmp_path / "none")) == ["pids"]


def test_what_a_killed_runtime_has_left_is_removed(tmp_path: Path) -> None:
    top, proc = tmp_path / "cgroup", tmp_path / "proc"
    left = [f"pids/{ID}", f"memory/above/{ID}", f"memory/{ID}", f"cpu,cpuacct/{ID}", f"unified/{ID}", f"above/{ID}"]
    kept = ["pids/" + "cd" * 32, f"pids/other/{ID}"]
    for name in (*left, *kept):
        (top / name).mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("8:pids:/..\n4:memory:/above\n3:cpu,cpuacct:/\n0::/above\n")
    remove_left(ID, str(top), str(proc))
    assert [name for name in (*left, *kept) if (top / name).exists()] == kept


def test_what_a_cgroup_does_not_count_is_that_of_its_processes(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 7\n")
    cpu, memory, _, _, _, count = usage._version_2(Cgroups(unified=str(tmp_path)), os.getpid())
    assert cpu == 7000
    assert memory > 1 << 20
    assert count >= 1
    (tmp_path / "memory.current").write_text("12\n")
    (tmp_path / "pids.current").write_text("3\n")
    assert usage._version_2(Cgroups(unified=str(tmp_path)), os.getpid())[1::4] == (12, 3)
