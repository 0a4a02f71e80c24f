"""The verb `boot`: an image as a virtual machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.containers import run_command
from lamina.cli.options import options_of, platform_option, registry_options
from lamina.cli.verbs import command
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
_OPTIONS = tuple(option for option in run_command.RUN_OPTIONS if option.argument in _OF_RUN)


@command(
    "boot", "lamina boot --rm -it debian-kernel sh\nlamina boot --kernel /boot/vmlinuz-6.1.0 -d -p 8080:80 nginx"
)
@options_of(_OPTIONS)
@click.option("--kernel", default="", metavar="PATH|IMAGE", help="Kernel to use (default: the newest of the image).")
@click.option("--append", default="", metavar="WORDS", help="Add to the kernel's command line.")
@click.option("--machine", default="", metavar="KIND", help="Kind of QEMU's machines: q35, microvm, virt.")
@platform_option
@registry_options
@click.argument("image")
@click.argument("words", nargs=-1, metavar="[COMMAND [ARG]...]")
@click.pass_obj
def boot(session: Session, /, image: str, words: tuple[str, ...], **given: Any) -> int:
    """Run an image as a virtual machine: the kernel of the image, its layers as disks, its command.

    `ps`, `logs`, `stop`, `rm` and the other verbs of containers work as after `run`.
    """
    defaults = {option.argument: option.start for option in run_command.RUN_OPTIONS}
    if os.sep in given["kernel"] and os.path.exists(given["kernel"]):
        given["kernel"] = os.path.abspath(given["kernel"])
    return run_command.run_container(session, image, words, **{**defaults, **given, "runtime": MACHINE})


boot.allow_interspersed_args = False
boot.context_settings["help_option_names"] = ["--help"]
