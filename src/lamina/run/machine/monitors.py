"""Configurations of other virtual machine monitors for a machine (pure): Firecracker, cloud-hypervisor, QEMU.

Their machines have a serial console and nothing else of lamina's: the program writes there, and its last line is
``lamina: exit CODE``.
"""

from __future__ import annotations

from lamina.errors import Unsupported
from lamina.light import TYPE_CHECKING
from lamina.run.machine.machine import MIB

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.machine.machine import Machine


MOST_DISKS = 16
"""Disks of a machine of Firecracker without PCI on x86: it has 19 interrupts for all devices, some of its own."""
_MOST_PROCESSORS = 32
_MOST_APPEND = 1800  # bytes; Firecracker adds words for its devices, and stops at 2048


def firecracker(machine: Machine) -> dict[str, Any]:
    """For `firecracker --config-file`. Its kernel is an ELF file on x86, an Image on arm64. It adds `pci=off` itself
    where that is right. Raises Unsupported (more than it can do)."""
    for what, count, most in (
        ("processors", machine.processors, _MOST_PROCESSORS),
        ("disks", len(machine.disks), MOST_DISKS),
        ("bytes of its command line", len(machine.append.encode("utf-8", "surrogateescape")), _MOST_APPEND),
    ):
        if count > most:
            raise Unsupported(f"{count} {what} are more than {most}", hint="use another monitor")
    return {
        "boot-source": {
            "kernel_image_path": machine.kernel,
            "initrd_path": machine.initramfs,
            "boot_args": machine.append,
        },
        "drives": [
            {
                "drive_id": f"disk{number}",
                "path_on_host": disk.path,
                "is_root_device": False,
                "is_read_only": disk.read_only,
            }
            for number, disk in enumerate(machine.disks)
        ],
        "machine-config": {"vcpu_count": machine.processors, "mem_size_mib": machine.memory // MIB},
    }


def cloud_hypervisor(machine: Machine) -> dict[str, Any]:
    """The body of ``vm.create``. Without a type of image it guesses one, and then may refuse to write."""
    return {
        "payload": {"kernel": machine.kernel, "initramfs": machine.initramfs, "cmdline": machine.append},
        "cpus": {"boot_vcpus": machine.processors, "max_vcpus": machine.processors},
        "memory": {"size": machine.memory // MIB * MIB},
        "disks": [
            {"path": disk.path, "readonly": disk.read_only, "image_type": "Raw", "serial": disk.serial}
            for disk in machine.disks
        ],
        "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "Tty"},
        "console": {"mode": "Off"},
    }


def listed(machine: Machine) -> dict[str, Any]:
    """What any other monitor needs."""
    return {
        "architecture": machine.architecture,
        "kernel": machine.kernel,
        "initramfs": machine.initramfs,
        "cmdline": machine.append,
        "memory": machine.memory,
        "processors": machine.processors,
        "disks": [
            {"path": disk.path, "read_only": disk.read_only, "format": disk.format, "serial": disk.serial}
            for disk in machine.disks
        ],
    }
