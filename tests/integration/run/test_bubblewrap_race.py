"""A race: a container that shares a writable volume replaces a directory with a symlink, after lamina has checked the
path and before bubblewrap uses it. bubblewrap then follows the symlink on the host."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members, mounts_of
from support import require_root, require_tool


@pytest.fixture(autouse=True)
def _tools() -> None:
    require_root()
    require_tool("bwrap", "busybox")


def started_while_swapped(tmp_path: Path, shared: Path, link: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a container with ``shared`` at /v; when bubblewrap starts, ``shared``/sub becomes a link."""
    store = make_store(tmp_path, [members(("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n"))])
    for name in ("starts", "goes"):
        os.mkfifo(tmp_path / name)
        (tmp_path / name).chmod(0o666)
    slow = tmp_path / "bin/bwrap"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\necho > {tmp_path}/starts; read -r _ < {tmp_path}/goes; exec {shutil.which("bwrap")} "$@"\n'
    )
    for place in (slow, slow.parent, *tmp_path.parents, tmp_path):
        if place.stat().st_mode & 0o777 == 0o700:
            place.chmod(0o711)  # the user of the container must get through it
    slow.chmod(0o755)
    command = [sys.executable, "-m", "lamina", "--root", str(store), "run", "--rm", "--network", "none"]
    command += ["--runtime", str(slow), "-v", f"{shared}:/v", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        starts = os.open(tmp_path / "starts", os.O_RDWR)
        ready, _, _ = select.select([starts], [], [], 20)
        os.close(starts)
        assert ready, (process.poll(), process.kill(), process.communicate())
        (shared / "sub").rename(shared / "was")
        (shared / "sub").symlink_to(link)
        (tmp_path / "goes").write_text("\n")
        said, complained = process.communicate(timeout=60)
    assert mounts_of(store) == []
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


@pytest.mark.parametrize("user", ["0", "33:44", "0:44"])
@pytest.mark.parametrize("more", ["--tmpfs=/v/sub/new/deep", "--volume={}:/v/sub/new/deep", "--volume={}/f:/v/sub/f"])
def test_nothing_is_made_outside_for_a_mount(tmp_path: Path, more: str, user: str) -> None:
    machine, shared, other = (tmp_path / name for name in ("machine", "shared", "other"))
    for one in (machine, shared / "sub", other):
        one.mkdir(parents=True, mode=0o777)
        one.chmod(0o777)
    (other / "f").write_text("")
    words = ("-u", user, more.format(other), "app", "true")
    done = started_while_swapped(tmp_path, shared, f"/oldroot{machine}", *words)
    assert os.listdir(machine) == [], done.stderr
    assert b"Traceback" not in done.stderr
    assert os.listdir(other) == ["f"]


@pytest.mark.parametrize("user", ["0", "33:44", "0:44"])
def test_no_directory_outside_can_be_written_from_the_working_directory(tmp_path: Path, user: str) -> None:
    """bubblewrap has the host's /proc open when it enters the working directory. root may write the settings in
    it."""
    shared = tmp_path / "shared"
    setting = Path("/proc/sys/kernel/printk_ratelimit")
    before = setting.read_text()
    for number in range(3, 9):
        (shared / "sub").mkdir(parents=True)
        script = (
            "for one in . ..; do file=$one/sys/kernel/printk_ratelimit; cat $file > $file && echo wrote; done; ls"
        )
        top = tmp_path / str(number)
        top.mkdir()
        words = ("-u", user, "-w", "/v/sub", "app", "sh", "-c", script)
        done = started_while_swapped(top, shared, f"/proc/self/fd/{number}", *words)
        assert b"wrote" not in done.stdout, (number, done.stdout)
        shutil.rmtree(shared)
    assert setting.read_text() == before


def test_mounts_exist_despite_the_race(tmp_path: Path) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    (shared / "sub").mkdir(parents=True)
    other.mkdir()
    (other / "file").write_text("other\n")
    script = "cat /v/sub/deep/file; echo x > /v/sub/deep/made; echo y > /v/made; touch /new; echo $?"
    done = started_while_swapped(tmp_path, shared, "was", "-v", f"{other}:/v/sub/deep", "app", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, b"other\n0\n"), done.stderr
    assert (other / "made").read_text() == "x\n"
    assert (shared / "made").read_text() == "y\n"
