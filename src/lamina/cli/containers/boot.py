"""The verb `boot`: an image as a virtual machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.containers import run_command
from lamina.cli.containers.unsupported import UNSUPPORTED_BY_RUN, UnsupportedOption, unsupported_options
from lamina.cli.option_table import FLAG
from lamina.cli.options import options_of, platform_option, registry_options
from lamina.cli.verbs import command
from lamina.light import replace
from lamina.run.runtime import MACHINE

if TYPE_CHECKING:
    from lamina.cli.session import Session

_OF_RUN = frozenset(
    (
        *("env", "env_file", "workdir", "user", "group_add", "interactive", "tty", "name", "remove", "replace"),
        *("label", "label_file", "cidfile", "entrypoint", "hostname", "add_host", "dns", "dns_search", "dns_option"),
        *("memory", "cpus", "stop_signal", "stop_timeout", "quiet", "pulling", "detach", "sig_proxy", "publish"),
        *("network", "volume", "mount", "tmpfs", "volumes_from", "restart", "log_driver", "log_opt", "pidfile"),
        *("detach_keys", "attach", "read_only", "read_only_tmpfs"),
        *("publish_all", "expose", "no_hosts", "network_alias", "ip", "ip6"),
    )
)
_HELP = {
    "memory": "Memory of the machine, like 1g (default: 512m).",
    "cpus": "Number of processors, rounded up (default: 1).",
}
OPTIONS = tuple(replace(option, help=_HELP.get(option.argument, option.help)) for option in run_command.RUN_OPTIONS)
"""Of `run`, with what they mean for a machine."""
_OPTIONS = tuple(option for option in OPTIONS if option.argument in _OF_RUN)
KERNEL = "A kernel of this host, or an image with one (default: the newest kernel of IMAGE)."
_MACHINE = "Kind of machine, as QEMU names it (default: microvm if the kernel is for it, else q35; arm64: virt)."
_REFUSED = (
    *(
        UnsupportedOption(
            option.names,
            "a virtual machine has no such option",
            "leave it out, or use `lamina run`",
            flag=option.kind == FLAG,
        )
        for option in run_command.RUN_OPTIONS
        if option.argument not in _OF_RUN
    ),
    *UNSUPPORTED_BY_RUN,
)


@command(
    "boot",
    "lamina pack --kernel linux-image-6.1.0-56-cloud-amd64.deb -t kernel\n"
    "lamina boot --rm -it --kernel kernel debian:12 sh\n"
    "lamina boot --kernel /boot/vmlinuz-6.1.0-56-cloud-amd64 -d --name vm -p 8080:80 nginx",
)
@click.option("--kernel", default="", metavar="PATH|IMAGE", help=KERNEL)
@click.option("--append", default="", metavar="WORDS", help="Add to the kernel's command line.")
@click.option("--machine", default="", metavar="KIND", help=_MACHINE)
@options_of(_OPTIONS)
@unsupported_options(_REFUSED)
@platform_option
@registry_options
@click.argument("image")
@click.argument("words", nargs=-1, metavar="[COMMAND [ARG]...]")
@click.pass_obj
def boot(session: Session, /, image: str, words: tuple[str, ...], **given: Any) -> int:
    """Run an image as a virtual machine: the kernel of the image, its layers as disks, its command. An image without
    a kernel needs --kernel. If the image is not in the store, it is pulled. Options go before IMAGE.

    `ps`, `logs`, `attach`, `stop`, `rm`, `diff` and `commit` work as after `run`; `exec` does not. The exit code is
    that of the program; 125 if the machine can't be made or started, 126 if the program can't be started, 127 if it
    was not found. QEMU, a static busybox and mke2fs must be installed.
    """
    defaults = {option.argument: option.start for option in run_command.RUN_OPTIONS}
    if os.sep in given["kernel"] and os.path.exists(given["kernel"]):
        given["kernel"] = os.path.abspath(given["kernel"])
    return run_command.run_container(session, image, words, **{**defaults, **given, "runtime": MACHINE})


boot.allow_interspersed_args = False
boot.context_settings["help_option_names"] = ["--help"]
