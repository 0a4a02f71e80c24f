"""An image as files for other virtual machine monitors.

The files name each other without a directory: a monitor starts in theirs, wherever that is moved.
"""

from __future__ import annotations

import math
import os
import shlex
from typing import TYPE_CHECKING

from lamina.errors import Conflict, Unsupported
from lamina.host.files import replace_file, reported
from lamina.host.temporary import TemporaryDirectory
from lamina.light import Value, replace
from lamina.run.machine import qemu
from lamina.run.machine.accelerator import kvm_runs
from lamina.run.machine.disks import LAYERS, UNION, UPPER, joined_file, layer_serial, names, union_disks
from lamina.run.machine.guest import (
    architecture_for,
    attributes_of,
    busybox_for,
    files_for,
    is_native,
    kernel_for,
    memory_of,
    program_for,
)
from lamina.run.machine.initramfs import Program, Settings, initramfs
from lamina.run.machine.kernel_files import KernelFiles, finds_mmio, modules_for
from lamina.run.machine.kernel_payload import plain_kernel
from lamina.run.machine.machine import Disk, Machine
from lamina.run.machine.monitors import MOST_DISKS, cloud_hypervisor, firecracker, listed
from lamina.run.machine.upper import make_disk
from lamina.run.network import ContainerNetwork
from lamina.run.options import argv
from lamina.spec.json import write_own
from lamina.view.path import ImagePath

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lamina.run.options import ContainerOptions
    from lamina.source.stack import Stack
    from lamina.store.store import Store

_UPPER_SIZE = 1 << 33  # bytes; only what is written takes space, but a copy to another host may take all
_MOST_APART = MOST_DISKS - 2  # beside the metadata and what is written
_KVM = {"amd64": "vmlinux", "arm64": "kernel"}
"""Architectures of Firecracker and cloud-hypervisor, and the file that they load: the kernel without compression."""


class _Guest(Value):
    """What is in the machine. ``modules``: names and content."""

    busybox: bytes
    modules: Sequence[tuple[str, bytes]]
    program: Program
    settings: Settings


def write_machine(
    store: Store,
    stack: Stack,
    wanted: ContainerOptions,
    directory: str,
    *,
    copies: bool = False,
    on_warning: Callable[[str], object] = lambda text: None,
) -> list[str]:
    """Write into the new or empty ``directory``: kernel, initramfs, disks, their list, and the configurations of
    monitors; the names of the files. The tars of the layers stay in the store, unless ``copies`` or there are too
    many of them for a disk each. The directory appears when all is written. Raises Conflict (not empty), NotFound,
    Unsupported, UsageError, SystemFailure."""
    directory = os.path.abspath(directory)
    _check_new(directory)
    root = ImagePath(stack)
    kernel = kernel_for(store, stack, stack.name, wanted.kernel)
    hostname = wanted.hostname or "lamina"
    words = argv(wanted, stack.config.entrypoint, stack.config.cmd)
    program = program_for(root, wanted, stack.config, words, hostname)
    architecture = architecture_for(kernel, stack.config, root, program)
    guest = _Guest(
        busybox_for(root, architecture),
        modules_for(kernel, ("ext4",)),
        program,
        Settings(
            hostname,
            architecture,
            "",
            (),
            files=files_for(wanted, hostname, ContainerNetwork("none")),
            top=attributes_of(root),
        ),
    )
    machine = Machine(
        architecture,
        "kernel",
        "initramfs",
        (),
        append=" ".join(filter(None, (qemu.kernel_words(architecture), wanted.append))),
        memory=memory_of(wanted.memory),
        processors=max(1, math.ceil(wanted.cpus or 1)),
    )
    above, name = os.path.split(directory)
    with reported(directory):
        os.makedirs(above, exist_ok=True)
        with TemporaryDirectory(above, name) as temporary:
            place = temporary.path
            machine = replace(machine, disks=_disks(store, stack, place, copies=copies))
            _write(place, machine, kernel, guest, on_warning)
            if os.path.isdir(directory):
                os.rmdir(directory)
            temporary.put(directory)
    return sorted(os.listdir(directory))


def _check_new(directory: str) -> None:
    found = os.path.lexists(directory)
    if found and (os.path.islink(directory) or not os.path.isdir(directory) or os.listdir(directory)):
        raise Conflict(f"{directory!r:.300} exists and is not an empty directory", hint="choose a new directory")


def _disks(store: Store, stack: Stack, place: str, *, copies: bool) -> tuple[Disk, ...]:
    """Write the disks into ``place``: the metadata, the layers if they are joined, what will be written."""
    union = union_disks(store, stack, place, apart=0 if copies else _MOST_APART)
    if not union.joined:
        joined_file([union.metadata], os.path.join(place, "erofs"))  # the store makes it again, and deletes it
    disks = [Disk("erofs", serial=UNION)]
    if union.joined and union.tars:
        joined_file(union.tars, os.path.join(place, "layers.img"))
        disks.append(Disk("layers.img", serial=LAYERS))
    else:
        _check_names(union.tars)
        disks += [Disk(tar, serial=layer_serial(number)) for number, tar in enumerate(union.tars)]
    make_disk(os.path.join(place, "upper.img"), _UPPER_SIZE)
    return (*disks, Disk("upper.img", read_only=False, serial=UPPER))


def _check_names(tars: tuple[str, ...]) -> None:
    for tar in tars:
        try:
            tar.encode()
        except UnicodeEncodeError:
            raise Unsupported(
                f"{tar!r:.300} can't be named in a configuration: it is not UTF-8", hint="copy the layers with --copy"
            ) from None


def _write(
    place: str, machine: Machine, kernel: KernelFiles, guest: _Guest, on_warning: Callable[[str], object]
) -> None:
    architecture = machine.architecture

    def settings_for(disks: list[str], ending: str = "poweroff") -> Settings:
        return replace(guest.settings, union=disks[0], devices=tuple(disks[1:-1]), upper=disks[-1], ending=ending)

    def put(name: str, value: object) -> None:
        replace_file(os.path.join(place, name), [f"{write_own(value)}\n".encode()])

    def put_initramfs(name: str, settings: Settings) -> None:
        archive = initramfs(guest.busybox, guest.modules, settings, guest.program)
        replace_file(os.path.join(place, name), archive)

    data = kernel.read()
    replace_file(os.path.join(place, "kernel"), [data])
    put_initramfs("initramfs", settings_for([disk.serial for disk in machine.disks]))
    put("machine.json", listed(machine))
    replace_file(os.path.join(place, "qemu.sh"), [_script(machine).encode("utf-8", "surrogateescape")], mode=0o755)
    if architecture not in _KVM:
        on_warning(f"no configuration for Firecracker and cloud-hypervisor: they have no {architecture} machines")
        return
    try:
        if architecture == "amd64":
            replace_file(os.path.join(place, "vmlinux"), [plain_kernel(data, kernel.shown)])
    except Unsupported as error:
        on_warning(f"no configuration for Firecracker: {error.message}; {error.hint}")
        put("cloud-hypervisor.json", cloud_hypervisor(machine))  # newer ones take a kernel as it is
        return
    loaded = replace(machine, kernel=_KVM[architecture])
    put("cloud-hypervisor.json", cloud_hypervisor(loaded))
    rebooting = replace(loaded, initramfs="initramfs-reboot", append=f"{machine.append} reboot=k")
    try:
        put("firecracker.json", firecracker(rebooting))
    except Unsupported as error:
        on_warning(f"no configuration for Firecracker: {error.message}")
        return
    paths = names(len(machine.disks))  # Firecracker's disks have serial numbers of its own
    put_initramfs("initramfs-reboot", settings_for(paths, "reboot"))
    if not finds_mmio(kernel):
        on_warning(f"{kernel.shown} finds no devices without PCI: start Firecracker with --enable-pci")


def _script(machine: Machine) -> str:
    """A script that starts QEMU. Its words are added, so that a user may give it a network."""
    if is_native(machine.architecture) and kvm_runs():
        machine = replace(machine, accelerator="kvm")
    words = [qemu.board(machine.architecture).program, *qemu.command(machine, "")[1:]]
    if machine.accelerator == "kvm":
        words += ["-accel", "tcg"]  # where a host has none
        words[words.index("-cpu") + 1] = qemu.board(machine.architecture).processor
    return f'#!/bin/sh\ncd -- "$(dirname -- "$0")" || exit\nexec {shlex.join(words)} "$@"\n'
