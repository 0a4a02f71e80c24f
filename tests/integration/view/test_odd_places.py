"""Stores at paths that the kernel escapes or refuses, stores that were moved, mounts in other mount namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.host import mountinfo
from lamina.spec.platform import Platform
from lamina.store.gc import collect
from lamina.store.prune import prune
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.view.overlay.mount import mounts, unmount
from lamina.view.upper_check import refusal
from support import busybox, lamina, require_root, require_tool, write_layout

VIEWS = ("erofs", "overlay", "fuse")
NAMES = [
    "back\\slash",
    "co:lon,com=ma",
    "quo\"te's",
    "new\nline cr\rx",
    "\udcff\udcfe",
    "blank \t# \x85",
    "y" * 120 + "/" + "z" * 250,
]


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def loaded(root: str, layout: Path) -> None:
    write_layout(layout, "app", [[("a", b"1")], [("b", b"2")]])
    assert lamina("load", "-i", str(layout), root=root).returncode == 0


def here(place: str | bytes) -> list[str]:
    """What is mounted below ``place``."""
    top = os.path.realpath(os.fsdecode(place)) + os.sep
    return [one.target for one in mountinfo.mounts() if one.target.startswith(top)]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_store_at_an_odd_path_is_mounted_listed_and_unmounted(tmp_path: Path, name: str) -> None:
    root = f"{tmp_path}/{name}/s"
    loaded(root, tmp_path / "l")
    views = [view for view in VIEWS if view != "overlay" or not refusal(str(tmp_path))]
    if not shutil.which("fusermount3") and "LAMINA_TEST_REQUIRE" not in os.environ:
        views.remove("fuse")
    for view in views:
        done = lamina("mount", "app", "--view", view, root=root)
        assert done.returncode == 0, done.stderr
        place = os.fsdecode(done.stdout.removesuffix(b"\n"))
        assert Path(place, "a").read_bytes() + Path(place, "b").read_bytes() == b"12"
        (one,) = json.loads(lamina("mounts", "--format", "json", root=root).stdout)
        assert one["view"] == view
        assert lamina("umount", place, root=root).returncode == 0
        assert not os.path.exists(place)
        assert here(root) == []


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_container_of_a_store_at_an_odd_path_runs_or_one_line_says_why_not(tmp_path: Path, name: str) -> None:
    require_tool("runc", "busybox")
    root = f"{tmp_path}/{name}/s"
    write_layout(tmp_path / "l", "app", [[("bin/sh", busybox(), {"mode": 0o755})]])
    assert lamina("load", "-i", str(tmp_path / "l"), root=root).returncode == 0
    done = lamina("run", "--rm", "--runtime", "runc", "--network", "none", "app", "sh", "-c", "echo hi", root=root)
    if name.isprintable() or "\udcff" not in name:
        assert (done.returncode, done.stdout) == (0, b"hi\n"), done.stderr
    else:
        assert done.returncode == 125
        assert done.stdout == b""
        (line,) = done.stderr.splitlines()
        assert line.startswith(b"lamina: runc takes no path that is not UTF-8")
    assert here(root) == []
    assert os.listdir(f"{root}/containers") == []


@pytest.mark.parametrize("view", ["erofs", "fuse"])
def test_a_store_and_a_mount_are_found_through_symlinks(tmp_path: Path, view: str) -> None:
    if view == "fuse":
        require_tool("fusermount3")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    root = str(tmp_path / "link/s")
    loaded(root, tmp_path / "l")
    target = tmp_path / "link" / "mnt"
    assert lamina("mount", "app", str(target), "--view", view, root=root).returncode == 0
    try:
        for way in (root, str(tmp_path / "disk/s")):
            assert len(json.loads(lamina("mounts", "--format", "json", root=way).stdout)) == 1
        assert lamina("umount", str(target), root=root).returncode == 0
        assert here(tmp_path) == []
    finally:
        subprocess.run(["umount", "-l", target], capture_output=True, check=False)


@pytest.mark.parametrize("view", ["erofs", "fuse"])
def test_a_mount_in_a_store_that_was_moved_is_found(tmp_path: Path, view: str) -> None:
    if view == "fuse":
        require_tool("fusermount3")
    loaded(str(tmp_path / "s"), tmp_path / "l")
    assert lamina("mount", "app", "--view", view, root=tmp_path / "s").returncode == 0
    os.rename(tmp_path / "s", tmp_path / "moved")
    try:
        (one,) = json.loads(lamina("mounts", "--format", "json", root=tmp_path / "moved").stdout)
        assert one["target"].startswith(str(tmp_path / "moved/unions"))
        assert lamina("rmi", "app", root=tmp_path / "moved").returncode == 0
        assert lamina("prune", root=tmp_path / "moved").returncode == 0
        assert Path(one["target"], "a").read_bytes() == b"1"
        assert lamina("umount", "--all", root=tmp_path / "moved").returncode == 0
        assert here(tmp_path) == []
    finally:
        for place in here(tmp_path):
            subprocess.run(["umount", "-l", place], capture_output=True, check=False)


@contextmanager
def elsewhere(script: str, *, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shell in its own mount namespace. It has run ``script`` when the block begins, and ends with the block."""
    env = {**os.environ, "LAMINA_ROOT": str(root), "LAMINA": f"{sys.executable} -m lamina"}
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{script}\necho ready; exec sleep 1000"], stdout=subprocess.PIPE, env=env
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().endswith(b"ready\n")
            yield process
        finally:
            process.kill()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    if refusal(str(tmp_path)):
        pytest.skip("no overlay can be written upon here")
    found = Store.open(str(tmp_path / "s"))
    write_layout(tmp_path / "l", "app", [[("a", b"1")], [("b", b"2")]])
    copy(LayoutReader(str(tmp_path / "l")), found, [("app", "app")])
    return found


def seen(process: subprocess.Popen[bytes], target: Path) -> bytes:
    place = Path(f"/proc/{process.pid}/root{target}")
    return (place / "a").read_bytes() + (place / "b").read_bytes()


def test_trees_of_a_mount_in_another_mount_namespace_stay(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.mkdir()
    with elsewhere(f"$LAMINA mount app {target} --view overlay >/dev/null", root=tmp_path / "s") as process:
        assert seen(process, target) == b"12"
        assert mounts(store) == []  # not here
        assert lamina("rmi", "app", root=tmp_path / "s").returncode == 0
        prune(store, grace=0)
        assert seen(process, target) == b"12"
    prune(store, grace=0)
    assert os.listdir(store.paths.unions) == []
    assert list(store.roots) == []
    assert store.layers.diff_ids() == []


def test_trees_stay_below_the_copy_of_a_mount_that_another_namespace_has(store: Store, tmp_path: Path) -> None:
    """No root file shows it: the mount does not exist in this namespace."""
    target = tmp_path / "m"
    assert lamina("mount", "app", str(target), "--view", "overlay", root=tmp_path / "s").returncode == 0
    with elsewhere("mount --make-rprivate /", root=tmp_path / "s") as process:
        unmount(store, str(target))
        assert lamina("rmi", "app", root=tmp_path / "s").returncode == 0
        collect(store, grace=0)
        assert list(store.roots) == []
        assert seen(process, target) == b"12"
    collect(store, grace=0)
    assert os.listdir(store.paths.unions) == []


def test_a_mount_of_another_namespace_is_protected_by_its_stack(store: Store, tmp_path: Path) -> None:
    """Through EROFS: files are opened when they are mounted, but a second mount needs them by name."""
    stack = store.stack("app", Platform.host())
    target = tmp_path / "m"
    target.mkdir()
    with elsewhere(f"$LAMINA mount app {target} >/dev/null", root=tmp_path / "s"):
        assert lamina("rmi", "app", root=tmp_path / "s").returncode == 0
        prune(store, grace=0)
        assert set(store.layers.diff_ids()) == set(stack.diff_ids)
