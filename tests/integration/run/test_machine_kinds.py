"""Machines of other kinds and architectures than the usual one of this host."""

from __future__ import annotations

from pathlib import Path

from integration.run.test_run import make_store, members
from integration.run.test_vm_disk import RELEASE, store_for
from kernel_package import kernel_path, kernel_tree
from support import busybox, lamina, require_root
from unit.run.machine.test_kernel_files import ARM64, modules


def test_a_microvm_with_many_disks_and_a_share(tmp_path: Path) -> None:
    """The kernel finds its devices by ACPI. Emulated, it must be told how fast its clock is: on a busy host it can't
    measure that, and stops."""
    require_root()
    kernel_tree()
    root = make_store(tmp_path, [members()] + [[(f"l{number}", b"%d\n" % number)] for number in range(15)])
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("of the host\n")
    script = "cat /l0 /l14 /shared/file; [ -e /sys/bus/pci/devices/0000:00:00.0 ] || echo no PCI; cat; exit 4"
    words = ["--kernel", str(kernel_path()), "--machine", "microvm", "-v", f"{shared}:/shared", "-i"]
    done = lamina("boot", "--rm", *words, "app", "sh", "-c", script, root=root, input=b"typed\n")
    assert (done.returncode, done.stdout) == (4, b"0\n14\nof the host\nno PCI\ntyped\n"), done


def test_the_qemu_of_another_architecture_is_named(tmp_path: Path) -> None:
    require_root()
    program = bytearray(busybox())
    program[18:20] = b"\xb7\0"
    shell = [("bin/", None), ("bin/busybox", bytes(program), {"mode": 0o755}), ("bin/sh", "-> busybox")]
    kernel = [(f"boot/vmlinuz-{RELEASE}", ARM64), *modules(f"lib/modules/{RELEASE}")]
    make_store(tmp_path, [members()])
    root = store_for(tmp_path, "arm", "arm64", [shell, kernel])
    done = lamina("boot", "--rm", "--platform", "linux/arm64", "arm", root=root, PATH="/usr/sbin")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == (b"lamina: qemu-system-aarch64 is not installed (install QEMU (Debian: qemu-system-arm))\n")
