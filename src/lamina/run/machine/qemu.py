"""The command line of QEMU for a machine (pure)."""

from __future__ import annotations

import os

from lamina.errors import Unsupported, UsageError
from lamina.light import TYPE_CHECKING, Value
from lamina.run.machine.machine import CONSOLE, MIB, ORDERS, SHARED, SHARED_SOCKET, TERMINAL, Machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MICROVM = "microvm"
_MOST_APPENDED = 2047
"""Bytes of the kernel's command line on x86 (COMMAND_LINE_SIZE); most others take less or the same."""


class _Board(Value):
    """``program``: QEMU's name for the architecture. ``package``: that has it, in Debian. ``kinds``: of its machines,
    the usual one first. ``bus``: of their virtio devices. ``console``: the kernel's name of the serial port.
    ``processor``: with all that QEMU emulates. ``options``: of the usual kind of machine.
    ``granule``: memory is a multiple of these bytes."""

    program: str
    package: str
    kinds: tuple[str, ...]
    console: str
    bus: str = "pci"
    processor: str = "max"
    options: tuple[str, ...] = ()
    granule: int = MIB


_BOARDS = {
    "amd64": _Board("qemu-system-x86_64", "qemu-system-x86", ("q35", MICROVM, "pc"), "ttyS0"),
    "arm64": _Board("qemu-system-aarch64", "qemu-system-arm", ("virt",), "ttyAMA0", options=("gic-version=max",)),
    "riscv64": _Board(
        "qemu-system-riscv64", "qemu-system-riscv, or qemu-system-misc", ("virt",), "ttyS0", processor="rv64"
    ),
    "ppc64le": _Board(
        "qemu-system-ppc64", "qemu-system-ppc", ("pseries",), "hvc0", processor="power9", granule=256 * MIB
    ),
    "s390x": _Board(
        "qemu-system-s390x", "qemu-system-s390x, or qemu-system-misc", ("s390-ccw-virtio",), "ttysclp0", "ccw"
    ),
}
_PLACES = {"pci": 28, "ccw": 200}
_MICROVM_PLACES, _WITHOUT_ACPI = 24, 8
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""System calls that QEMU never needs, and an attacker who breaks out of the guest would like to have."""


def board(architecture: str) -> _Board:
    """Raises Unsupported."""
    try:
        return _BOARDS[architecture]
    except KeyError:
        known = ", ".join(sorted(_BOARDS))
        raise Unsupported(
            f"no machine for the architecture {architecture!r:.50}", hint=f"use one of {known}"
        ) from None


def kernel_words(architecture: str) -> str:
    """What the kernel's command line always has: its messages go to the serial port, a panic ends the machine."""
    return f"console={board(architecture).console} panic=-1 quiet"


def places(architecture: str, kind: str, *, acpi: bool = True) -> int:
    """How many virtio devices a machine has at most, disks and all, without further bridges. Raises Unsupported."""
    its = board(architecture)
    if (kind or its.kinds[0]) == MICROVM:
        return _MICROVM_PLACES if acpi else _WITHOUT_ACPI
    return _PLACES[its.bus]


def command(machine: Machine, program: str) -> list[str]:
    """``program``: the path of QEMU. Raises Unsupported, UsageError (no such kind of machine)."""
    its = board(machine.architecture)
    kind = machine.kind or its.kinds[0]
    if kind not in its.kinds:
        raise UsageError(
            f"{machine.architecture} has no machine {kind!r:.50}", hint=f"use {' or '.join(its.kinds)} with --machine"
        )
    if len(os.fsencode(machine.append)) > _MOST_APPENDED:
        raise UsageError(
            f"the kernel's command line has more than {_MOST_APPENDED} bytes", hint="give less with --append"
        )
    bus = _bus(machine)
    words = [program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-sandbox", _SANDBOX]
    words += ["-machine", _machine(machine, kind), "-accel", machine.accelerator, "-cpu", _processor(machine)]
    words += ["-m", _memory(machine), "-smp", str(machine.processors)]
    if kind == MICROVM:
        words += ["-global", "virtio-mmio.force-legacy=false"]  # shared directories need virtio 1
    words += ["-kernel", machine.kernel, "-initrd", machine.initramfs, "-append", machine.append]
    if machine.console:
        words += ["-serial", f"chardev:{CONSOLE}"]
    else:
        words += ["-serial", "stdio"]
    for number, disk in enumerate(machine.disks):
        node = f"disk{number}"
        # what the machine no longer needs becomes free on this host
        mode = "read-only=on" if disk.read_only else "read-only=off,discard=unmap"
        words += [
            "-blockdev",
            f"driver=file,node-name={node}-file,filename={_quoted(disk.path)},{mode}"
            + (",locking=off" if disk.read_only else ""),
        ]
        words += ["-blockdev", f"driver={disk.format},node-name={node},file={node}-file,{mode}"]
        serial = f",serial={disk.serial}" if disk.serial else ""
        # by default QEMU stops a machine whose host is full, until somebody resumes it: it gets an error instead
        errors = "" if disk.read_only else ",werror=report"
        words += ["-device", f"virtio-blk-{bus},drive={node}{serial}{errors}"]
    if net := machine.network:
        ports = "".join(f",hostfwd={protocol}::{number}-:{number}" for number, protocol in net.ports)
        where = f"net={net.net},host={net.gateway},dhcpstart={net.address},ipv6=off"
        rom = ",romfile=" if bus == "pci" else ""
        words += ["-netdev", f"user,id=net,{where}{ports}", "-device", f"virtio-net-{bus},netdev=net{rom}"]
    words += ["-device", f"virtio-rng-{bus}"]
    if machine.shared:
        words += ["-object", f"memory-backend-memfd,id=memory,size={_memory(machine)},share=on"]
    return words


def stream_words(machine: Machine, streams: Iterable[tuple[str, int]], bundle: int) -> list[str]:
    """What follows ``command`` for these streams, by name, with the descriptors of connected sockets; and for shared
    files, whose socket is in the directory ``bundle``, a descriptor."""
    words = ["-device", f"virtio-serial-{_bus(machine)}"]
    for name, descriptor in streams:
        if name == TERMINAL:  # pipes, which hold far more of small pieces than a socket
            words += ["-chardev", f"pipe,id={name},path=/proc/self/fd/{bundle}/{name}"]
        else:
            words += ["-chardev", f"socket,id={name},fd={descriptor}"]
        if name == CONSOLE:
            continue
        if name == TERMINAL:
            words += ["-device", f"virtconsole,chardev={name}"]
        else:
            words += ["-device", f"virtserialport,chardev={name},name=lamina.{name}"]
    words += ["-chardev", f"socket,id={ORDERS},path=/proc/self/fd/{bundle}/{ORDERS},server=on,wait=off"]
    words += ["-mon", f"chardev={ORDERS},mode=control"]
    if machine.shared:
        words += ["-chardev", f"socket,id={SHARED},path=/proc/self/fd/{bundle}/{SHARED_SOCKET}"]
        words += ["-device", f"vhost-user-fs-{_bus(machine)},chardev={SHARED},tag={SHARED}"]
    return words


def emulated(words: Sequence[str]) -> list[str]:
    """``command`` with KVM, without it."""
    changed = {"-accel": "tcg", "-cpu": "max"}
    return [changed.get(before, word) for before, word in zip(("", *words), words, strict=False)]


def _bus(machine: Machine) -> str:
    its = board(machine.architecture)
    return "device" if (machine.kind or its.kinds[0]) == MICROVM else its.bus


def _machine(machine: Machine, kind: str) -> str:
    its = board(machine.architecture)
    options = [kind, *(its.options if kind == its.kinds[0] else ())]
    if machine.shared:
        options.append("memory-backend=memory")
    if kind == MICROVM:
        options += ["rtc=on", "isa-serial=on", f"acpi={'on' if machine.acpi else 'off'}", "auto-kernel-cmdline=on"]
    return ",".join(options)


def _processor(machine: Machine) -> str:
    return "host" if machine.accelerator == "kvm" else board(machine.architecture).processor


def _memory(machine: Machine) -> str:
    granule = board(machine.architecture).granule
    return f"{max(1, -(-machine.memory // granule)) * granule // MIB}M"


def _quoted(path: str) -> str:
    """A path in an option of QEMU, which is a list with commas."""
    return path.replace(",", ",,")
