"""An image as files for other virtual machine monitors."""

from __future__ import annotations

import math
import os
import shlex
from typing import TYPE_CHECKING

from lamina.errors import Conflict, Unsupported
from lamina.host.files import replace_file, reported
from lamina.light import replace
from lamina.run.machine import qemu
from lamina.run.machine.disks import MOST_APART, joined_file, names, union_disks
from lamina.run.machine.guest import busybox_for, files_for, kernel_for, memory_of, program_for
from lamina.run.machine.initramfs import Settings, initramfs
from lamina.run.machine.kernel import uncompressed
from lamina.run.machine.kernel_files import modules_for
from lamina.run.machine.machine import Disk, Machine
from lamina.run.machine.monitors import cloud_hypervisor, firecracker, listed
from lamina.run.machine.upper import make_disk
from lamina.run.options import argv
from lamina.spec.json import write_own
from lamina.view.path import ImagePath

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.run.options import ContainerOptions
    from lamina.source.stack import Stack
    from lamina.store.store import Store


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
    many of them for a disk each. Raises Conflict (not empty), NotFound, Unsupported, UsageError, SystemFailure."""
    directory = os.path.abspath(directory)
    with reported(directory):
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory):
            raise Conflict(f"{directory!r:.300} is not empty", hint="choose another directory")
    root = ImagePath(stack)
    kernel = kernel_for(store, root, stack.name, wanted.kernel)
    architecture = kernel.kernel.architecture or stack.config.platform.architecture
    config = stack.config
    hostname = wanted.hostname or "lamina"
    program = program_for(root, wanted, config, argv(wanted, config.entrypoint, config.cmd), hostname)
    modules = modules_for(kernel, ("ext4",))
    data, busybox = kernel.read(), busybox_for(root)

    def at(name: str) -> str:
        return os.path.join(directory, name)

    union = union_disks(store, stack, directory, apart=0 if copies else MOST_APART)
    disks = [Disk(union.metadata)]
    if union.joined and union.tars:
        joined_file(union.tars, at("layers.img"))
        disks.append(Disk(at("layers.img")))
    else:
        disks += [Disk(tar) for tar in union.tars]
    make_disk(at("upper.img"))
    disks.append(Disk(at("upper.img"), read_only=False))
    paths = names(len(disks))
    files = files_for(wanted, hostname, networked=False)
    settings = Settings(hostname, architecture, tuple(paths[1:-1]), paths[-1], files=files)
    replace_file(at("kernel"), [data])
    replace_file(at("initramfs"), initramfs(busybox, modules, settings, program))
    machine = Machine(
        architecture,
        at("kernel"),
        at("initramfs"),
        tuple(disks),
        append=" ".join(filter(None, (qemu.kernel_words(architecture), wanted.append))),
        memory=memory_of(wanted.memory),
        processors=max(1, math.ceil(wanted.cpus or 1)),
        network=False,
    )
    replace_file(at("machine.json"), [_text(listed(machine))])
    replace_file(at("cloud-hypervisor.json"), [_text(cloud_hypervisor(machine))])
    words = [qemu.board(architecture).program, *qemu.command(machine, "")[1:]]
    replace_file(at("qemu.sh"), [f"#!/bin/sh\nexec {shlex.join(words)}\n".encode()], mode=0o755)
    if architecture == "amd64":
        try:
            replace_file(at("vmlinux"), [uncompressed(data, kernel.shown)])
        except Unsupported as error:
            on_warning(f"no configuration for Firecracker: {error.message}")
            return sorted(os.listdir(directory))
    ending = initramfs(busybox, modules, replace(settings, ending="reboot"), program)
    replace_file(at("initramfs-reboot"), ending)
    its = replace(machine, initramfs=at("initramfs-reboot"), append=f"{machine.append} reboot=k")
    image = at("vmlinux") if architecture == "amd64" else its.kernel
    replace_file(at("firecracker.json"), [_text(firecracker(its, image))])
    return sorted(os.listdir(directory))


def _text(value: object) -> bytes:
    return f"{write_own(value)}\n".encode()
