"""The command line of QEMU, for each architecture and kind of machine."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from lamina.errors import Unsupported
from lamina.light import replace
from lamina.run.machine import qemu
from lamina.run.machine.disks import names
from lamina.run.machine.machine import CONTROL, MIB, STDOUT, TERMINAL, Disk, Forward, Machine

MACHINE = Machine("amd64", "/k", "/i", (Disk("/a,b"), Disk("/c", read_only=False, serial="upper")), memory=300 * MIB)


def after(words: list[str], flag: str) -> list[str]:
    return [words[number + 1] for number, word in enumerate(words) if word == flag]


@pytest.mark.parametrize(
    ("architecture", "kind", "machine", "disk"),
    [
        ("amd64", "", "q35", "virtio-blk-pci"),
        (
            "amd64",
            "microvm",
            "microvm,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=on",
            "virtio-blk-device",
        ),
        ("arm64", "", "virt", "virtio-blk-pci"),
        ("riscv64", "", "virt", "virtio-blk-pci"),
        ("ppc64le", "", "pseries", "virtio-blk-pci"),
        ("s390x", "", "s390-ccw-virtio", "virtio-blk-ccw"),
    ],
)
def test_board(architecture: str, kind: str, machine: str, disk: str) -> None:
    words = qemu.command(replace(MACHINE, architecture=architecture, kind=kind), "/bin/qemu")
    assert words[0] == "/bin/qemu"
    assert after(words, "-machine") == [machine]
    assert after(words, "-device")[0] == f"{disk},drive=disk0"
    assert {"-nodefaults", "-no-reboot"} <= set(words)
    assert words[words.index("-sandbox") + 1].startswith("on,")
    assert "spawn=deny" in words[words.index("-sandbox") + 1]


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(Unsupported, match="mips"):
        qemu.board("mips")


def test_disks_are_read_only_where_they_are_layers() -> None:
    words = qemu.command(MACHINE, "q")
    blocks = after(words, "-blockdev")
    assert blocks[0] == "driver=file,node-name=disk0-file,filename=/a,,b,read-only=on,locking=off"
    assert blocks[3] == "driver=raw,node-name=disk1,file=disk1-file,read-only=off"
    assert "virtio-blk-pci,drive=disk1,serial=upper" in after(words, "-device")


def test_memory_and_processors() -> None:
    words = qemu.command(replace(MACHINE, processors=3), "q")
    assert (after(words, "-m"), after(words, "-smp")) == (["300M"], ["3"])


def test_network_and_ports() -> None:
    forwards = (Forward("127.0.0.1", 8080, 80), Forward("0.0.0.0", 53, 53, "udp"))
    words = qemu.command(replace(MACHINE, forwards=forwards), "q")
    assert after(words, "-netdev") == ["user,id=net,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:53-:53"]
    assert after(qemu.command(replace(MACHINE, network=False), "q"), "-netdev") == []


def test_streams() -> None:
    words = qemu.stream_words(MACHINE, [(TERMINAL, 5), (STDOUT, 6), (CONTROL, 7)], 8)
    assert after(words, "-chardev") == [
        "socket,id=terminal,fd=5",
        "socket,id=stdout,fd=6",
        "socket,id=control,fd=7",
        "socket,id=qmp,path=/proc/self/fd/8/qmp,server=on,wait=off",
    ]
    assert after(words, "-device")[1:] == [
        "virtconsole,chardev=terminal",
        "virtserialport,chardev=stdout,name=lamina.stdout",
        "virtserialport,chardev=control,name=lamina.control",
    ]


def test_shared_directories_need_shared_memory() -> None:
    machine = replace(MACHINE, shared=True)
    words = qemu.command(machine, "q")
    assert after(words, "-object") == ["memory-backend-memfd,id=memory,size=300M,share=on"]
    assert after(qemu.stream_words(machine, [], 9), "-chardev")[1:] == [
        "socket,id=shared,path=/proc/self/fd/9/virtiofsd"
    ]
    assert after(words, "-machine") == ["q35,memory-backend=memory"]


@pytest.mark.parametrize(
    ("number", "last"), [(1, "/dev/vda"), (26, "/dev/vdz"), (27, "/dev/vdaa"), (703, "/dev/vdaaa")]
)
def test_the_kernels_names_of_disks(number: int, last: str) -> None:
    assert names(number)[-1] == last


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")
@pytest.mark.parametrize("kind", ["", "microvm"])
def test_qemu_takes_it(kind: str) -> None:
    """QEMU reads all options before it opens the kernel, which is not there."""
    machine = replace(MACHINE, kind=kind, disks=(), network=True)
    words = qemu.command(machine, "qemu-system-x86_64")
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "could not open kernel file '/k'" in done.stderr
