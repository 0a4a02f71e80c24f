"""Configurations for other virtual machine monitors, against what these accept.

The schemas hold the fields that lamina uses, as documented by Firecracker 1.16 (FullVmConfiguration of its API) and
by cloud-hypervisor's API 0.3.0 (VmConfig); Firecracker refuses any other field.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from lamina.errors import Unsupported
from lamina.light import replace
from lamina.run.machine.machine import MIB, Disk, Machine
from lamina.run.machine.monitors import MOST_DISKS, cloud_hypervisor, firecracker, listed

TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
SERIAL = {"type": "string", "maxLength": 20}


def record(*optional: str, **fields: Any) -> dict[str, Any]:
    """An object with these fields and no others, all required but the ``optional``."""
    properties = {name.replace("_", "-") if name in HYPHENS else name: kind for name, kind in fields.items()}
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


HYPHENS = ("boot_source", "machine_config")
FIRECRACKER = record(
    boot_source=record("boot_args", "initrd_path", kernel_image_path=TEXT, boot_args=TEXT, initrd_path=TEXT),
    drives={
        "type": "array",
        "items": record(
            drive_id={"type": "string", "pattern": "^[A-Za-z0-9_]+$"},
            is_root_device={"const": False},
            is_read_only=FLAG,
            path_on_host=TEXT,
        ),
    },
    machine_config=record(vcpu_count={"type": "integer", "minimum": 1, "maximum": 32}, mem_size_mib=NUMBER),
)
CLOUD_HYPERVISOR = record(
    payload=record(kernel=TEXT, initramfs=TEXT, cmdline=TEXT),
    cpus=record(boot_vcpus={"type": "integer", "minimum": 1}, max_vcpus={"type": "integer", "minimum": 1}),
    memory=record(size=NUMBER),
    disks={"type": "array", "items": record(path=TEXT, readonly=FLAG, image_type={"const": "Raw"}, serial=SERIAL)},
    rng=record(src=TEXT),
    serial=record(mode={"enum": ["Off", "Pty", "Tty", "File", "Socket", "Null"]}),
    console=record(mode={"enum": ["Off", "Pty", "Tty", "File", "Socket", "Null"]}),
)
MACHINE = Machine(
    "amd64",
    "vmlinux",
    "initramfs",
    (Disk("erofs", serial="u"), Disk("/store/tar", serial="l0"), Disk("upper.img", read_only=False, serial="w")),
    append="console=ttyS0",
    memory=300 * MIB,
    processors=3,
    network=False,
)


def test_firecracker() -> None:
    found = firecracker(MACHINE)
    jsonschema.validate(found, FIRECRACKER)
    assert [(one["path_on_host"], one["is_read_only"]) for one in found["drives"]] == [
        ("erofs", True),
        ("/store/tar", True),
        ("upper.img", False),
    ]
    assert found["machine-config"] == {"vcpu_count": 3, "mem_size_mib": 300}
    assert len({one["drive_id"] for one in found["drives"]}) == 3


def test_cloud_hypervisor() -> None:
    found = cloud_hypervisor(MACHINE)
    jsonschema.validate(found, CLOUD_HYPERVISOR)
    assert [(one["path"], one["readonly"]) for one in found["disks"]] == [
        ("erofs", True),
        ("/store/tar", True),
        ("upper.img", False),
    ]
    assert (found["memory"]["size"], found["cpus"]["boot_vcpus"]) == (300 * MIB, 3)


def test_the_list_for_others() -> None:
    assert listed(MACHINE) == {
        "architecture": "amd64",
        "kernel": "vmlinux",
        "initramfs": "initramfs",
        "cmdline": "console=ttyS0",
        "memory": 300 * MIB,
        "processors": 3,
        "disks": [
            {"path": "erofs", "read_only": True, "format": "raw", "serial": "u"},
            {"path": "/store/tar", "read_only": True, "format": "raw", "serial": "l0"},
            {"path": "upper.img", "read_only": False, "format": "raw", "serial": "w"},
        ],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processors": 33}, "33 processors are more than 32"),
        ({"disks": (Disk("d"),) * (MOST_DISKS + 1)}, "17 disks are more than 16"),
        ({"append": "x" * 2000}, "2000 bytes of its command line are more than 1800"),
    ],
)
def test_what_firecracker_can_not_do(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        firecracker(replace(MACHINE, **change))
    assert caught.value.message == message
