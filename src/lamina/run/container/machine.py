"""What a machine needs before QEMU starts: its kernel, its disks, its initramfs, as files in the bundle."""

from __future__ import annotations

import math
import os
from pathlib import Path

from lamina.errors import NotFound
from lamina.host.files import replace_file
from lamina.light import TYPE_CHECKING, as_dict, replace
from lamina.run.container.machine_mounts import missing_in, mounts_for
from lamina.run.container.machine_network import network_for
from lamina.run.machine import qemu
from lamina.run.machine.accelerator import kvm_runs
from lamina.run.machine.disks import MOST_APART, UPPER, disks_of, union_disks
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
from lamina.run.machine.initramfs import Settings, initramfs
from lamina.run.machine.kernel_files import modules_for
from lamina.run.machine.launching import DESCRIPTION
from lamina.run.machine.machine import Disk, Machine
from lamina.run.machine.upper import disk_of
from lamina.run.network import NAMESPACE
from lamina.run.runtime import find_program
from lamina.spec.json import write_own
from lamina.view.path import ImagePath

if TYPE_CHECKING:
    from lamina.run.container.preparing import Preparation
    from lamina.run.machine.kernel_files import KernelFiles

_OTHERS = 6
"""Devices beside the layers: metadata, what is written, network, streams, random numbers, shared files."""
_DESCRIBED = ("architecture", "kernel", "initramfs", "kind", "shared")  # what the process of the machine must know


MOUNT_POINTS = ("/dev", "/proc", "/sys", "/etc")
"""Directories that a machine makes where the image lacks them (init.sh, program.sh)."""


def prepare(made: Preparation) -> None:
    """Write the machine into the bundle. Raises UsageError, Unsupported, NotFound, SystemFailure."""
    stack, container, wanted = made.stack, made.container, made.wanted
    bundle = made.sandbox.directories.bundle
    root = ImagePath(stack)
    kernel = kernel_for(made.store, stack, container.image, wanted.kernel)
    hostname = wanted.hostname or container.id[:12]
    guest = program_for(root, wanted, stack.config, container.command, hostname)
    architecture = architecture_for(kernel, stack.config, root, guest)
    board = qemu.board(architecture)
    program = find_program(board.program)
    if not program:
        raise NotFound(f"{board.program} is not installed", hint=f"install QEMU (Debian: {board.package})")
    kind = wanted.machine or (qemu.MICROVM if architecture == "amd64" and kernel.takes_mmio else "")
    mounts = mounts_for(made, root)
    most = qemu.places(architecture, kind, acpi=kernel.has_acpi) - _OTHERS
    net = made.connect()
    network = network_for(made, net)
    files = files_for(wanted, hostname, net, network.address if network else "")
    settings, disks = _disks(made, Settings(hostname, architecture, "", (), files=files), most)
    settings = replace(
        settings,
        mounts=mounts.mounts,
        network=(network.guest, network.gateway) if network else (),
        token=os.urandom(16).hex(),
        top=attributes_of(root),
    )
    features = [*(("virtio_net",) if settings.network else ()), *(("ext4",) if settings.upper else ())]
    features += ["virtiofs"] if mounts.shared else []
    modules = modules_for(kernel, features)
    missing = [path for target in MOUNT_POINTS for path in missing_in(root, target)]
    # the machine removes these at its end, unless it is killed
    missing += [path for name in settings.files for path in missing_in(root, f"/etc/{name}", file=True)]
    made.container = replace(container, made=tuple(dict.fromkeys((*container.made, *missing, *mounts.missing))))
    path = _kernel_file(kernel, bundle)
    archive = initramfs(busybox_for(root, architecture), modules, settings, guest)
    replace_file(os.path.join(bundle, "initramfs"), archive, lasting=False)
    accelerator = _accelerator(made, architecture)
    machine = Machine(
        architecture,
        path,
        os.path.join(bundle, "initramfs"),
        tuple(disks),
        append=" ".join(filter(None, (qemu.kernel_words(architecture), _clock(kind, accelerator), wanted.append))),
        memory=memory_of(wanted.memory),
        processors=max(1, math.ceil(wanted.cpus or 1)),
        kind=kind,
        accelerator=accelerator,
        network=network,
        shared=bool(mounts.shared),
        console=True,
        acpi=kernel.has_acpi,
    )
    command = qemu.command(machine, program)
    described = {name: as_dict(machine)[name] for name in _DESCRIBED}
    shared = {"virtiofsd": mounts.virtiofsd, "shared": [as_dict(one) for one in mounts.shared]}
    namespace = os.path.join(bundle, NAMESPACE) if network else ""
    text = write_own(
        {"command": command, "machine": described, "token": settings.token, "network": namespace, **shared}
    )
    replace_file(os.path.join(bundle, DESCRIPTION), [text.encode()], lasting=False, mode=0o600)
    if any("U" in mount.options for mount in mounts.attached):
        from lamina.run.volumes.chown import give_to_user

        give_to_user(mounts.attached, {"uid": guest.uid, "gid": guest.gid}, made.sandbox.owners)


def _kernel_file(kernel: KernelFiles, bundle: str) -> str:
    """The path of the kernel for QEMU: a file of this host that needs no change is not copied. Raises as ``read``."""
    data = kernel.read()
    if isinstance(kernel.path, Path) and kernel.kernel.architecture == "amd64":
        return os.path.abspath(kernel.path)
    path = os.path.join(bundle, "kernel")
    replace_file(path, [data], lasting=False)
    return path


def _accelerator(made: Preparation, architecture: str) -> str:
    if not is_native(architecture):
        return "tcg"
    if kvm_runs():
        return "kvm"
    made.on_warning("KVM runs nothing on this host: the machine runs by emulation, which is slow")
    return "tcg"


def _clock(kind: str, accelerator: str) -> str:
    """What the kernel of an emulated microvm must be told about its clock."""
    if kind != qemu.MICROVM or accelerator == "kvm":
        return ""
    from lamina.run.machine.clock import tsc_khz

    khz = tsc_khz()
    return f"tsc_early_khz={khz}" if khz else ""


def _disks(made: Preparation, settings: Settings, most: int) -> tuple[Settings, list[Disk]]:
    """The disks, and the settings with their names. ``most``: as many layers may have a disk each."""
    bundle, read_only = made.sandbox.directories.bundle, made.wanted.read_only
    union = union_disks(made.store, made.stack, bundle, apart=min(most, MOST_APART))
    disks = disks_of(union, bundle)
    union_disk, *layers = (disk.serial for disk in disks)
    upper = "" if read_only else UPPER
    if upper:
        disks.append(Disk(disk_of(made.store, made.container), read_only=False, serial=upper))
    return replace(settings, union=union_disk, devices=tuple(layers), upper=upper, read_only=read_only), disks
