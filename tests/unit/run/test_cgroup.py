"""Limits with cgroups: which files are written, and why cgroups may be unavailable."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Unsupported
from lamina.run.bubblewrap import cgroup

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
ALL: dict[str, Any] = {
    "devices": [{"allow": False}],
    "memory": {"limit": 1 << 20},
    "cpu": {"quota": 50_000, "period": 100_000},
    "pids": {"limit": 10},
}


def version_1(top: Path) -> Path:
    for name in ("memory", "cpu", "pids"):
        (top / name).mkdir()
    return top


def version_2(top: Path, controllers: str = "cpuset cpu io memory pids") -> Path:
    (top / "cgroup.controllers").write_text(controllers + "\n")
    (top / "cgroup.subtree_control").write_text("")
    return top


def test_limits_are_written_for_cgroups_version_1(tmp_path: Path) -> None:
    top = version_1(tmp_path)
    assert cgroup.refusal(str(top)) == ""
    cgroup.make("abc", ALL, str(top))
    found = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
    assert found == {
        "memory/lamina/abc/memory.limit_in_bytes": "1048576",
        "cpu/lamina/abc/cpu.cfs_period_us": "100000",
        "cpu/lamina/abc/cpu.cfs_quota_us": "50000",
        "pids/lamina/abc/pids.max": "11",
    }


def test_limits_are_written_for_cgroups_version_2(tmp_path: Path) -> None:
    top = version_2(tmp_path)
    assert cgroup.refusal(str(top)) == ""
    cgroup.make("abc", ALL, str(top))
    found = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
    del found["cgroup.controllers"]
    enabled = "+memory +cpu +pids"
    assert found == {
        "cgroup.subtree_control": enabled,
        "lamina/cgroup.subtree_control": enabled,
        "lamina/abc/memory.max": "1048576",
        "lamina/abc/cpu.max": "50000 100000",
        "lamina/abc/pids.max": "11",
    }


@pytest.mark.parametrize("make_top", [version_1, version_2])
def test_only_needed_controllers_are_used(tmp_path: Path, make_top: Any) -> None:
    top = make_top(tmp_path)
    before = sorted(top.rglob("*"))
    cgroup.make("abc", {"devices": []}, str(top))
    assert sorted(top.rglob("*")) == before
    assert cgroup.opened("abc", str(top)) == []
    cgroup.make("abc", {"pids": {"limit": 1}}, str(top))
    assert [path.name for path in top.rglob("*.max")] == ["pids.max"]


def test_refusal_names_the_missing_controller(tmp_path: Path) -> None:
    assert cgroup.refusal(str(tmp_path)) == f"there is no {tmp_path}/memory"
    version_2(tmp_path, "cpu pids")
    assert cgroup.refusal(str(tmp_path)) == f"the kernel's cgroups at {tmp_path} have no controller memory"


def test_refusal_names_a_cgroup_directory_that_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_1(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("pids"))
    assert cgroup.refusal(str(tmp_path)) == f"{tmp_path}/pids is not writable"


def test_a_limit_that_can_not_be_set_says_where_and_leaves_nothing(tmp_path: Path) -> None:
    top = version_1(tmp_path)
    (top / "pids/lamina").write_text("")
    with pytest.raises(Unsupported, match=r"pids can't be limited here: .*pids/lamina") as caught:
        cgroup.make("abc", {"pids": {"limit": 1}}, str(top))
    assert "--pids-limit" in (caught.value.hint or "")


def test_descriptors_of_cgroups_and_their_removal(tmp_path: Path) -> None:
    top = version_1(tmp_path)
    for name in ("memory", "pids"):
        place = top / name / "lamina/abc"
        place.mkdir(parents=True)
    (top / "pids/lamina/abc/cgroup.procs").write_text("")
    with pytest.raises(Exception, match="memory/lamina/abc"):
        cgroup.opened("abc", str(top))
    (top / "memory/lamina/abc").rmdir()
    (one,) = cgroup.opened("abc", str(top))
    os.write(one, b"0")
    os.close(one)
    assert (top / "pids/lamina/abc/cgroup.procs").read_text() == "0"
    (top / "pids/lamina/abc/cgroup.procs").unlink()  # the kernel's files go with their directory
    cgroup.remove("abc", str(top))
    assert not (top / "pids/lamina/abc").exists()
