"""A program in a machine is root there, and may write anything to its disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_machine import boot
from integration.run.test_run import make_store, members, mounts_of
from kernel_package import kernel_tree
from lamina.run.machine import upper
from lamina.store.store import Store
from support import lamina, require_root, require_tool

WORDS = {
    "a symlink in the place of the upper directory": "unlink upper\nsymlink upper {outside}\n",
    "a file in the place of the work directory": "rmdir work\nwrite {outside}/file work\n",
    "an unknown feature": "set_super_value feature_incompat 0x80042\n",
    "a directory in two places": "ln upper/d upper/e\n",
    "a directory that is no directory": "set_inode_field upper mode 0100644\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A store with the machine ``vm``, which has a disk and was not started."""
    require_root()
    require_tool("debugfs", "tune2fs")
    kernel_tree()
    root = make_store(tmp_path, [members()])
    boot(root, "-d", "--name", "vm", "app", "true", LAMINA_FAULT="machine.noted")
    change(disk_in(root), "mkdir upper\nmkdir work\ncd upper\nmkdir d\n")
    yield root
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []


def disk_in(root: Path) -> Path:
    (path,) = (root / "containers").glob("*/upper.img")
    return path


def change(disk: Path, commands: str) -> None:
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", disk], input=commands.encode(), capture_output=True, check=True
    )
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("debugfs 1.")]
    assert not lines, lines


@pytest.mark.parametrize("what", WORDS)
def test_cp_into_a_machine_stays_on_its_disk(root: Path, tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("of the host\n")
    change(disk_in(root), WORDS[what].format(outside=outside))
    done = lamina("cp", str(outside / "file"), "vm:/copied", root=root)
    assert done.returncode not in (0, 1), done
    assert b"the disk of vm" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert mounts_of(root) == []
    assert os.listdir(outside) == ["file"]
    done = lamina("diff", "vm", root=root)
    assert done.stderr.count(b"\n") <= 1
    assert b"Traceback" not in done.stderr


def test_a_disk_can_not_ask_for_a_panic_of_the_host(root: Path) -> None:
    subprocess.run(["tune2fs", "-e", "panic", disk_in(root)], check=True, capture_output=True)
    store = Store.open(str(root))
    container = store.containers.get("vm")
    with store.containers.using(container), upper.shown(store, container):
        (line,) = [line for line in Path("/proc/mounts").read_text().splitlines() if str(root) in line]
    options = line.split()[3].split(",")
    assert {"errors=remount-ro", "nodev", "nosuid", "noexec"} <= set(options)
