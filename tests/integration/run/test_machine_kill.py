"""Machines under kill -9: nothing runs or is mounted that the next command does not end, and the disk is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from integration.run.test_machine import boot, eventually, machines
from integration.run.test_run import make_store, members, mounts_of
from kernel_package import kernel_tree
from lamina.errors import Conflict
from lamina.run.machine import upper
from lamina.store.fault import MACHINE_POINTS
from lamina.store.store import Store
from support import lamina, require_root


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    kernel_tree()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = make_store(tmp_path, [members(("data/", None), ("data/one", b"1\n"))])
    yield root
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []
    assert not processes(root)
    eventually(lambda: not loops(root))  # a process of another test may have copied a mount with its namespace


def loops(root: Path) -> list[str]:
    """The files of the store that loop devices show."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it is gone by now
            found.append(path.read_text().strip())
    return [one for one in found if one.startswith(str(root))]


def processes(root: Path) -> list[int]:
    """The pids of QEMU and virtiofsd for this store."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                words = Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue
            if (b"qemu-system" in words or b"virtiofsd" in words) and os.fsencode(root) in words:
                found.append(int(entry.name))
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def state(root: Path) -> tuple[str, int]:
    (row,) = json.loads(lamina("inspect", "vm", root=root).stdout)
    return row["State"]["Status"], row["State"]["ExitCode"]


@pytest.mark.parametrize("point", [one for one in MACHINE_POINTS if one != "machine.shown"])
def test_a_start_killed_at_each_point_leaves_a_machine_that_was_never_started(root: Path, point: str) -> None:
    done = boot(root, "-d", "--name", "vm", "-v", "vol:/data", "app", "true", LAMINA_FAULT=point)
    assert done.returncode in (-signal.SIGKILL, 125)
    assert (b"vm: the machine was killed before the program started" in done.stderr) == (done.returncode == 125)
    assert not processes(root)
    assert state(root) == ("created", max(0, done.returncode))
    assert lamina("prune", root=root).returncode == 0
    assert mounts_of(root) == []
    assert lamina("diff", "vm", root=root).stdout == b""
    assert lamina("rm", "vm", root=root).returncode == 0
    assert os.listdir(root / "containers") == []


def test_a_disk_that_a_killed_command_has_mounted(root: Path) -> None:
    boot(root, "-d", "--name", "vm", "app", "true", LAMINA_FAULT="machine.noted")
    (root.parent / "one").write_text("text")
    words = ("cp", str(root.parent / "one"), "vm:/tmp")
    for point in ("machine.shown", "container.opened"):
        assert lamina(*words, root=root, LAMINA_FAULT=point).returncode == -signal.SIGKILL
        # on an overlayfs the layers have loop devices too
        assert len([path for path in loops(root) if path.endswith("/upper.img")]) == 1
        # a process of another test may have copied the mount with its namespace: then it is refused until that ends
        eventually(lambda: lamina(*words, root=root).returncode == 0)
        assert mounts_of(root) == []
        eventually(lambda: not loops(root))
    assert lamina(*words, root=root, LAMINA_FAULT="machine.shown").returncode < 0
    assert lamina("prune", root=root).returncode == 0
    assert mounts_of(root) == []
    eventually(lambda: not loops(root))


def test_a_disk_has_one_user(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that lives on in another mount namespace, with its own idea of what the disk holds."""
    boot(root, "-d", "--name", "vm", "app", "true", LAMINA_FAULT="machine.noted")
    store = Store.open(str(root))
    container = store.containers.get("vm")
    disk = upper.disk_of(store, container)
    device = subprocess.run(["losetup", "--find", "--show", disk], capture_output=True, check=True).stdout.strip()
    monkeypatch.setattr(upper, "_PATIENCE", 0)
    try:
        with pytest.raises(Conflict, match="is still mounted from /dev/loop"):
            upper.disk_of(store, container)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    eventually(lambda: not loops(root))
    assert upper.disk_of(store, container) == disk


def test_killed_while_it_runs(root: Path, tmp_path: Path) -> None:
    """What was synced is kept, the record tells the truth, and the machine can be started again."""
    (tmp_path / "d").mkdir()
    script = "cat /etc/kept 2>/dev/null; echo more >>/etc/kept; sync; echo up; sleep 600"
    assert boot(root, "-d", "--name", "vm", "-v", f"{tmp_path}/d:/d:ro", "app", "sh", "-c", script).returncode == 0
    eventually(lambda: lamina("logs", "vm", root=root).stdout.endswith(b"up\n"))
    (qemu,) = machines(root)
    relay = parent_of(qemu)
    os.kill(parent_of(relay), signal.SIGKILL)
    assert lamina("ps", "--format", "{{.State}}", root=root).stdout == b"running\n"
    refused = lamina("commit", "vm", "mine", root=root)
    assert (refused.returncode, refused.stderr.count(b"\n")) == (5, 1)
    os.kill(relay, signal.SIGKILL)
    assert lamina("diff", "vm", root=root).stdout == b"C /etc\nA /etc/kept\n"
    assert not processes(root)
    assert state(root) == ("exited", 255)  # nobody knows its exit code
    assert lamina("start", "vm", root=root).returncode == 0
    eventually(lambda: lamina("logs", "vm", root=root).stdout.endswith(b"more\nup\n"))
    (qemu,) = machines(root)
    os.kill(qemu, signal.SIGKILL)
    assert lamina("wait", "vm", root=root).stdout == b"137\n"
    assert state(root) == ("exited", 137)
    assert lamina("commit", "vm", "mine", root=root).returncode == 0
    assert lamina("cat", "mine", "/etc/kept", root=root).stdout == b"more\nmore\n"


def test_a_full_file_system_of_the_host_ends_the_machine(tmp_path: Path) -> None:
    """By default QEMU would stop it for good; a kernel alone would go on without what it could not write."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "small", place], check=True)
    try:
        root = make_store(place, [members()])
        write = "dd if=/dev/zero of=/big$i bs=1M count=8 conv=fsync 2>/dev/null"
        script = (
            f"echo early >/etc/early; sync; for i in 1 2 3 4 5 6 7 8; do {write}; done; sync; touch /last; sleep 600"
        )
        done = boot(root, "--name", "vm", "app", "sh", "-c", script)
        assert (done.returncode, done.stdout) == (125, b"")
        assert b"its disk can't be written: is the file system of the store full?\n" in done.stderr
        changes = lamina("diff", "vm", root=root)
        assert changes.returncode == 0, changes.stderr
        assert b"A /etc/early" in changes.stdout.splitlines()
        assert lamina("rm", "vm", root=root).returncode == 0
        assert os.statvfs(place).f_bavail * os.statvfs(place).f_frsize > 24 << 20
    finally:
        subprocess.run(["umount", place], check=True)
