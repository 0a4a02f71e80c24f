"""`vm-disk`: an image as files for virtual machine monitors, started with QEMU."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import make_store, members
from kernel_package import kernel_path, kernel_tree
from support import busybox, lamina, require_root, require_tool, running, store_with, write_layout
from unit.run.machine.test_kernel_files import ARM64, module, modules, x86

SCRIPT = "cat /etc/own 2>/dev/null || echo first; echo again >/etc/own; echo err >&2; exit 7"
FILES = ["cloud-hypervisor.json", "erofs", "firecracker.json", "initramfs", "initramfs-reboot", "kernel"]
FILES += ["machine.json", "qemu.sh", "upper.img", "vmlinux"]
RELEASE = "6.1-test"
KERNEL = [(f"boot/vmlinuz-{RELEASE}", x86(RELEASE)), *modules(f"lib/modules/{RELEASE}")]
"""Looks like a kernel, which nobody starts."""


def vm_disk(root: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return lamina("vm-disk", *words, root=root)


def store_for(tmp_path: Path, name: str, architecture: str, layers: list[Any]) -> Path:
    """A store with one more image."""
    write_layout(tmp_path / name, name, layers, config={"architecture": architecture, "config": {"Cmd": ["/bin/sh"]}})
    return Path(str(store_with(tmp_path / name, tmp_path / "store", name).paths.root))


def started(script: Path, *words: str) -> list[str]:
    """What the machine's console shows, but for errors of a kernel that is slow."""
    done = subprocess.run([script, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, done
    lines = done.stdout.decode().replace("\r", "").splitlines()
    return [line for line in lines if not re.match(r"\[ *\d+\.\d+\] ", line)]


@pytest.fixture
def real() -> str:
    """The path of a kernel that starts."""
    require_root()
    kernel_tree()
    return str(kernel_path())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    require_tool("mke2fs")
    return make_store(tmp_path, [members(), KERNEL])


def test_a_copy_starts_without_the_store_and_keeps_what_was_written(real: str, tmp_path: Path) -> None:
    root = make_store(tmp_path, [members()])
    place = tmp_path / "a, b"
    done = vm_disk(root, "--kernel", real, "--copy", "app", "-o", str(place), "sh", "-c", SCRIPT)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == sorted([*FILES, "layers.img"])
    shutil.rmtree(root)
    place = place.rename(tmp_path / "else where")  # the files name each other without a directory
    assert started(place / "qemu.sh") == ["first", "err", "lamina: exit 7"]
    assert started(place / "qemu.sh") == ["again", "err", "lamina: exit 7"]


def test_60_layers_and_the_kernel_that_firecracker_loads(real: str, tmp_path: Path) -> None:
    layers = [members()] + [[(f"l{number}", b"%d\n" % number)] for number in range(60)]
    root = make_store(tmp_path, layers)
    place = tmp_path / "vm"
    assert vm_disk(root, "--kernel", real, "-o", str(place), "app", "cat", "/l0", "/l59").returncode == 0
    machine = json.loads((place / "machine.json").read_text())
    assert [one["path"] for one in machine["disks"]] == ["erofs", "layers.img", "upper.img"]
    script = place / "qemu.sh"
    script.write_text(script.read_text().replace("-kernel kernel", "-kernel vmlinux"))
    assert started(script) == ["0", "59", "lamina: exit 0"]


def test_the_files(root: Path, tmp_path: Path) -> None:
    done = vm_disk(root, "-o", str(tmp_path / "vm"), "--append", "x=1", "-m", "256m", "--cpus", "2", "app", "true")
    assert done.stdout.decode().split() == [name for name in FILES if name not in FIRECRACKERS]
    assert (
        b"no configuration for Firecracker: the compression of /boot/vmlinuz-6.1-test of app is unknown"
        in done.stderr
    )
    place = tmp_path / "vm"
    machine = json.loads((place / "machine.json").read_text())
    assert machine["cmdline"] == "console=ttyS0 panic=-1 quiet x=1"
    assert (machine["memory"], machine["processors"]) == (256 << 20, 2)
    tars = [one["path"] for one in machine["disks"][1:-1]]
    assert sorted(tars) == sorted(str(path) for path in root.glob("layers/sha256/*/tar"))
    assert [one["path"] for one in machine["disks"][:1] + machine["disks"][-1:]] == ["erofs", "upper.img"]
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "qemu.sh").stat().st_mode) == 0o755


FIRECRACKERS = ("firecracker.json", "initramfs-reboot", "vmlinux")


@pytest.mark.parametrize("kind", ["a file", "a symlink", "a full directory", "below a file"])
def test_where_nothing_can_be_written(kind: str, root: Path, tmp_path: Path) -> None:
    place = tmp_path / "vm"
    if kind == "a symlink":
        (tmp_path / "target").mkdir()
        place.symlink_to(tmp_path / "target")
    elif kind == "a full directory":
        place.mkdir()
        (place / "mine").write_text("mine")
    else:
        place.write_text("mine")
    if kind == "below a file":
        place /= "vm"
    before = sorted(os.listdir(tmp_path))
    done = vm_disk(root, "-o", str(place), "app")
    assert done.returncode in {5, 6}
    assert (done.stdout, done.stderr.count(b"\n")) == (b"", 1)
    assert str(tmp_path / "vm").encode() in done.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_a_store_whose_path_is_not_utf8(root: Path, tmp_path: Path) -> None:
    odd = root.rename(tmp_path / os.fsdecode(b"odd \xff"))
    done = vm_disk(odd, "-o", str(tmp_path / "vm"), "app")
    assert (done.returncode, done.stdout) == (7, b"")
    assert b"it is not UTF-8 (copy the layers with --copy)" in done.stderr
    assert not list(tmp_path.glob("vm*"))
    assert vm_disk(odd, "--copy", "-o", str(tmp_path / "vm"), "app").returncode == 0


def test_an_empty_directory_is_taken(root: Path, tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    assert vm_disk(root, "app", f"--output={tmp_path / 'vm'}").returncode == 0
    assert (tmp_path / "vm/machine.json").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_one_leaves_no_directory(number: signal.Signals, root: Path, tmp_path: Path) -> None:
    """mke2fs, the last long step, waits until the signal has come."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "mke2fs").write_text(f"#!/bin/sh\n: >{tmp_path}/reached\nexec sleep 60\n")
    (tools / "mke2fs").chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    with running("vm-disk", "-o", str(tmp_path / "vm"), "app", root=root, env=env, start_new_session=True) as process:
        while not (tmp_path / "reached").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, number)
        assert process.wait(20) != 0
    assert not (tmp_path / "vm").exists()
    if number == signal.SIGINT:
        assert not list(tmp_path.glob("vm*"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    require_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(root: Path, small: Path) -> None:
    done = vm_disk(root, "-o", str(small / "vm"), "--copy", "app")
    assert (done.returncode, done.stdout) == (6, b"")
    assert b"the disk is full" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert list(small.iterdir()) == []


def test_another_architecture(tmp_path: Path) -> None:
    """What an image for arm64 becomes; the busybox of this host is no help there."""
    require_tool("mke2fs")
    program = bytearray(busybox())
    program[18:20] = b"\xb7\0"
    kernel = [(f"boot/vmlinuz-{RELEASE}", ARM64), *modules(f"lib/modules/{RELEASE}")]
    kernel.append((f"lib/modules/{RELEASE}/kernel/virtio_mmio.ko", module()))
    shell = ("bin/busybox", bytes(program), {"mode": 0o755})
    store_for(tmp_path, "good", "arm64", [[("bin/", None), shell, ("bin/sh", "-> busybox")], kernel])
    other = [("bin/", None), ("bin/sh", bytes(program), {"mode": 0o755})]
    root = store_for(tmp_path, "bare", "arm64", [other, kernel])

    def made(name: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        return vm_disk(root, "-o", str(tmp_path / f"vm-{name}"), "--platform", "linux/arm64", *words, name)

    done = made("good")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "vmlinux" not in done.stdout.decode().split()
    configured = json.loads((tmp_path / "vm-good/firecracker.json").read_text())
    assert configured["boot-source"]["kernel_image_path"] == "kernel"
    assert configured["boot-source"]["boot_args"] == "console=ttyAMA0 panic=-1 quiet reboot=k"
    assert "exec qemu-system-aarch64 " in (tmp_path / "vm-good/qemu.sh").read_text()
    done = made("bare")
    assert b"the image has no static busybox for arm64" in done.stderr
    kernel_of_intel = tmp_path / "vmlinuz-6"
    kernel_of_intel.write_bytes(x86("6"))
    done = made("bare", "--kernel", str(kernel_of_intel))
    assert b"vmlinuz-6 is for amd64, /bin/sh of the image is for arm64" in done.stderr
    assert not (tmp_path / "vm-bare").exists()
