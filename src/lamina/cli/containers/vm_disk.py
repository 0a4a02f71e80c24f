"""The verb `vm-disk`: an image as files for virtual machine monitors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import warn
from lamina.cli.containers import run_command
from lamina.cli.containers.boot import KERNEL, OPTIONS
from lamina.cli.format.output import write
from lamina.cli.options import options_of, platform_option
from lamina.cli.verbs import command

if TYPE_CHECKING:
    from lamina.cli.session import Session

_OF_RUN = frozenset(
    ("env", "env_file", "workdir", "user", "entrypoint", "hostname", "add_host", "dns", "memory", "cpus")
)
_OPTIONS = tuple(option for option in OPTIONS if option.argument in _OF_RUN)


@command(
    "vm-disk",
    "lamina vm-disk app:1 -o machine && machine/qemu.sh\n"
    "lamina vm-disk --kernel kernel --copy debian:12 -o machine sh -c 'echo hello'\n"
    "cd machine && firecracker --no-api --config-file firecracker.json",
)
@options_of(_OPTIONS)
@click.option("-o", "--output", metavar="DIR", help="New or empty directory for the files (required).")
@click.option("--kernel", default="", metavar="PATH|IMAGE", help=KERNEL)
@click.option("--append", default="", metavar="WORDS", help="Add to the kernel's command line.")
@click.option("--copy", "copies", is_flag=True, help="Copy the layers, so that the directory needs no store.")
@platform_option
@click.argument("image")
@click.argument("words", nargs=-1, metavar="[COMMAND [ARG]...]")
@click.pass_obj
def vm_disk(
    session: Session, /, image: str, words: tuple[str, ...], output: str | None, copies: bool, **given: Any
) -> None:
    """Write what a virtual machine monitor needs to start an image: kernel, initramfs, disks, command line.

    The directory has configurations for Firecracker and cloud-hypervisor, a script for QEMU, and machine.json for
    others. Start a monitor in this directory: the files name each other, and the directory may be moved. The layers
    stay in the store and are only named: keep the image, because `rmi` and `prune` delete them. With --copy the
    directory needs no store. What the program writes to its file system stays in upper.img. Its output goes to the
    console; the last line there is `lamina: exit CODE`.
    """
    from lamina.run.machine.vm_disk import write_machine

    if output is None:
        output, words = _split_output(words)
    defaults = {option.argument: option.start for option in run_command.RUN_OPTIONS}
    if os.sep in given["kernel"] and os.path.exists(given["kernel"]):
        given["kernel"] = os.path.abspath(given["kernel"])
    wanted = run_command.container_options(words, {**defaults, **given})
    for name in write_machine(
        session.writable_store, session.stack(image), wanted, output, copies=copies, on_warning=warn
    ):
        write(name)


def _split_output(words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The directory, and the command: `-o DIR` may follow IMAGE. Raises click.UsageError (there is none)."""
    name, equals, value = words[0].partition("=") if words else ("", "", "")
    if name == "--output" and equals:
        return value, words[1:]
    if name in ("-o", "--output") and len(words) > 1:
        return words[1], words[2:]
    raise click.UsageError("Missing option '-o' / '--output'.")


vm_disk.allow_interspersed_args = False
vm_disk.context_settings["help_option_names"] = ["--help"]
