"""Start the machine that a bundle describes, and be its process to its end."""

from __future__ import annotations

import os

from lamina.host.files import write_all
from lamina.host.libc import outlive_parent
from lamina.run.machine import process
from lamina.run.machine.machine import Machine
from lamina.run.machine.qemu import emulated, stream_words
from lamina.run.machine.relay import Launch, Relay
from lamina.run.machine.shares import Shared
from lamina.spec.json import read_own

DESCRIPTION = "machine.json"
STARTED = b"started"
_PATIENCE = 30.0
"""Seconds after which a machine that has said nothing does not run by KVM. A kernel says it in one."""


def run(bundle: str, terminal: bool, telling: int) -> int:
    """``telling``: a pipe that is told ``STARTED``, or why not, and closed. Returns the exit code. Raises OSError."""
    with open(os.path.join(bundle, DESCRIPTION), "rb") as file:
        value = read_own(file.read().decode())
    machine = Machine(**value["machine"], disks=())
    held = process.hold(bundle)
    outlive_parent()  # from now on others can find this process

    def on_start(reason: str) -> None:
        write_all(telling, reason.encode() or STARTED)
        os.dup2(2, telling, inheritable=False)  # what goes wrong from now on is said on the program's standard error

    shared = [Shared(**one) for one in value["shared"]]
    launch = Launch(
        value["command"],
        lambda streams, place: stream_words(machine, streams, place),
        bundle,
        terminal,
        value["network"],
        value["virtiofsd"],
        shared,
        held,
        value["token"],
        emulated(value["command"]) if "kvm" in value["command"] else (),
        _PATIENCE,
    )
    return Relay(launch, on_start).run()
