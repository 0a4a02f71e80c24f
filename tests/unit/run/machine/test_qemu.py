"""The command line of QEMU, for each architecture and kind of machine."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from lamina.errors import Unsupported, UsageError
from lamina.light import replace
from lamina.run.machine import qemu
from lamina.run.machine.disks import names
from lamina.run.machine.machine import CONSOLE, CONTROL, MIB, STDOUT, TERMINAL, Disk, Machine, UserNetwork
from support import require_tool

MACHINE = Machine("amd64", "/k", "/i", (Disk("/a,b"), Disk("/c", read_only=False, serial="upper")), memory=300 * MIB)
NETWORK = UserNetwork("10.0.2.0/24", "10.0.2.2", "10.0.2.100", ((80, "tcp"), (53, "udp")))


def after(words: list[str], flag: str) -> list[str]:
    return [words[number + 1] for number, word in enumerate(words) if word == flag]


@pytest.mark.parametrize(
    ("architecture", "kind", "machine", "disk"),
    [
        ("amd64", "", "q35", "virtio-blk-pci"),
        (
            "amd64",
            "microvm",
            "microvm,rtc=on,isa-serial=on,acpi=on,auto-kernel-cmdline=on",
            "virtio-blk-device",
        ),
        ("arm64", "", "virt,gic-version=max", "virtio-blk-pci"),
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
    assert blocks[3] == "driver=raw,node-name=disk1,file=disk1-file,read-only=off,discard=unmap"
    assert "virtio-blk-pci,drive=disk1,serial=upper,werror=report" in after(words, "-device")


def test_memory_and_processors() -> None:
    words = qemu.command(replace(MACHINE, processors=3), "q")
    assert (after(words, "-m"), after(words, "-smp")) == (["300M"], ["3"])


@pytest.mark.parametrize(("architecture", "memory"), [("amd64", "301M"), ("ppc64le", "512M")])
def test_memory_is_a_multiple_of_what_the_board_takes(architecture: str, memory: str) -> None:
    machine = replace(MACHINE, architecture=architecture, memory=300 * MIB + 1, shared=True)
    words = qemu.command(machine, "q")
    assert after(words, "-m") == [memory]
    assert after(words, "-object") == [f"memory-backend-memfd,id=memory,size={memory},share=on"]


def test_network_and_ports() -> None:
    assert NETWORK.guest == "10.0.2.100/24"
    words = qemu.command(replace(MACHINE, network=NETWORK), "q")
    where = "net=10.0.2.0/24,host=10.0.2.2,dhcpstart=10.0.2.100,ipv6=off"
    assert after(words, "-netdev") == [f"user,id=net,{where},hostfwd=tcp::80-:80,hostfwd=udp::53-:53"]
    assert after(qemu.command(MACHINE, "q"), "-netdev") == []


def test_streams() -> None:
    words = qemu.stream_words(MACHINE, [(TERMINAL, -1), (STDOUT, 6), (CONTROL, 7)], 8)
    assert after(words, "-chardev") == [
        "pipe,id=terminal,path=/proc/self/fd/8/terminal",
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


@pytest.mark.parametrize(
    ("architecture", "kind", "program"),
    [
        ("amd64", "", "qemu-system-x86_64"),
        ("amd64", "microvm", "qemu-system-x86_64"),
        ("amd64", "pc", "qemu-system-x86_64"),
        ("arm64", "", "qemu-system-aarch64"),
        ("riscv64", "", "qemu-system-riscv64"),
        ("ppc64le", "", "qemu-system-ppc64"),
        ("s390x", "", "qemu-system-s390x"),
    ],
)
def test_qemu_takes_it(architecture: str, kind: str, program: str, tmp_path: Path) -> None:
    """QEMU makes the machine with its devices, starts nothing, and is told to quit."""
    require_tool(program)
    for name in ("a,b", "c"):
        (tmp_path / name).write_bytes(bytes(4096))
    for name in ("terminal.in", "terminal.out"):
        os.mkfifo(tmp_path / name)
    disks = (Disk(str(tmp_path / "a,b"), serial="lamina-union"), Disk(str(tmp_path / "c"), read_only=False))
    machine = replace(
        MACHINE, architecture=architecture, kind=kind, disks=disks, network=replace(NETWORK, ports=()), console=True
    )
    words = qemu.command(machine, program)
    start = words.index("-kernel")
    words[start : start + 6] = []
    with ExitStack() as stack:
        bundle = os.open(tmp_path, os.O_PATH)
        stack.callback(os.close, bundle)
        _ours, theirs = zip(*(map(stack.enter_context, socket.socketpair()) for _ in range(3)), strict=True)
        streams = [(name, one.fileno()) for name, one in zip((CONSOLE, STDOUT, TERMINAL), theirs, strict=True)]
        words += qemu.stream_words(machine, streams, bundle)
        done = subprocess.run(
            [*words, "-S", "-monitor", "stdio"],
            input="quit\n",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            pass_fds=[bundle, *(one.fileno() for one in theirs)],
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("architecture", "kind", "acpi", "most"),
    [
        ("amd64", "", True, 28),
        ("amd64", "microvm", True, 24),
        ("amd64", "microvm", False, 8),
        ("s390x", "", True, 200),
    ],
)
def test_places_for_devices(architecture: str, kind: str, acpi: bool, most: int) -> None:
    assert qemu.places(architecture, kind, acpi=acpi) == most


@pytest.mark.parametrize("kind", ["q35", "microvm"])
def test_a_rom_belongs_to_pci(kind: str) -> None:
    machine = replace(MACHINE, kind=kind, network=NETWORK)
    nets = [one for one in after(qemu.command(machine, "q"), "-device") if "virtio-net" in one]
    assert nets == [{"q35": "virtio-net-pci,netdev=net,romfile=", "microvm": "virtio-net-device,netdev=net"}[kind]]


def test_a_microvm_without_acpi_finds_devices_by_its_command_line() -> None:
    words = qemu.command(replace(MACHINE, kind="microvm", acpi=False), "q")
    assert after(words, "-machine") == ["microvm,rtc=on,isa-serial=on,acpi=off,auto-kernel-cmdline=on"]


@pytest.mark.parametrize(
    ("architecture", "accelerator", "processor", "console"),
    [
        ("amd64", "tcg", "max", "ttyS0"),
        ("amd64", "kvm", "host", "ttyS0"),
        ("arm64", "tcg", "max", "ttyAMA0"),
        ("riscv64", "tcg", "rv64", "ttyS0"),
        ("ppc64le", "tcg", "power9", "hvc0"),
        ("s390x", "tcg", "max", "ttysclp0"),
    ],
)
def test_processor_and_console(architecture: str, accelerator: str, processor: str, console: str) -> None:
    machine = replace(MACHINE, architecture=architecture, accelerator=accelerator)
    assert after(qemu.command(machine, "q"), "-cpu") == [processor]
    assert qemu.kernel_words(architecture).split()[0] == f"console={console}"


@pytest.mark.parametrize(
    ("architecture", "package"),
    [
        ("amd64", "qemu-system-x86"),
        ("arm64", "qemu-system-arm"),
        ("riscv64", "qemu-system-riscv, or qemu-system-misc"),
        ("ppc64le", "qemu-system-ppc"),
        ("s390x", "qemu-system-s390x, or qemu-system-misc"),
    ],
)
def test_packages(architecture: str, package: str) -> None:
    assert qemu.board(architecture).package == package


def test_a_command_line_that_the_kernel_would_cut() -> None:
    assert qemu.command(replace(MACHINE, append="x" * 2047), "qemu")
    with pytest.raises(UsageError, match="more than 2047 bytes"):
        qemu.command(replace(MACHINE, append="\u00e9" * 1024), "qemu")


def test_a_machine_on_a_full_host_gets_errors() -> None:
    fixed, written = after(qemu.command(MACHINE, "qemu"), "-device")[:2]
    assert "werror" not in fixed
    assert written.endswith(",werror=report")
