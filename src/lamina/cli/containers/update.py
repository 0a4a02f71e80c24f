"""The verb `update`: limits, the restart policy and variables of containers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from lamina.cli.containers.several import chosen, each, latest_option
from lamina.cli.containers.unsupported import UnsupportedOption, unsupported_options
from lamina.cli.format.output import write
from lamina.cli.option_table import MANY, NUMBER, WHOLE, Option
from lamina.cli.options import options_of
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError

_OPTIONS = (
    Option(("-m", "--memory"), "memory", "Limit the memory, like 512m; 0 means no limit.", "SIZE", default=None),
    Option(("--memory-swap",), "memory_swap", "Limit memory plus swap; -1 means no limit.", "SIZE", default=None),
    Option(
        ("--memory-reservation",),
        "memory_reservation",
        "Keep this much memory when the host runs short.",
        "SIZE",
        default=None,
    ),
    Option(("--cpus",), "cpus", "Limit the processor time, like 1.5 processors; 0 means no limit.", "N", NUMBER),
    Option(("--cpu-period",), "cpu_period", "Length of a turn, for --cpu-quota.", "MICROSECONDS", default=None),
    Option(
        ("--cpu-quota",),
        "cpu_quota",
        "Limit the processor time in each turn; -1 means no limit.",
        "MICROSECONDS",
        default=None,
    ),
    Option(("-c", "--cpu-shares"), "cpu_shares", "Weight for processor time.", "N", default=None),
    Option(("--cpuset-cpus",), "cpuset_cpus", "Use only these processors.", "0-3,7", default=None),
    Option(("--cpuset-mems",), "cpuset_mems", "Use only these memory nodes.", "0-1", default=None),
    Option(("--pids-limit",), "pids_limit", "Limit the number of processes; -1 means no limit.", "N", WHOLE),
    Option(
        ("--restart",),
        "restart",
        "When to start the program again: no, on-failure[:N], always, unless-stopped.",
        "POLICY",
        default=None,
    ),
    Option(("-e", "--env"), "env", "Set a variable, for `exec` and at the next start.", "KEY[=VALUE]", MANY),
    Option(
        ("--ulimit",), "ulimits", "Set a resource limit, for `exec` and at the next start.", "NAME=SOFT[:HARD]", MANY
    ),
)
_BLOCKS = "limits of input and output are not supported"
_UNSUPPORTED = (
    UnsupportedOption(("--cpu-rt-period",), "real-time scheduling is not supported", fine=("0",)),
    UnsupportedOption(("--cpu-rt-runtime",), "real-time scheduling is not supported", fine=("0",)),
    UnsupportedOption(("--blkio-weight",), _BLOCKS, fine=("0",)),
    UnsupportedOption(("--blkio-weight-device",), _BLOCKS),
    *(
        UnsupportedOption((f"--device-{way}-{unit}",), _BLOCKS)
        for way in ("read", "write")
        for unit in ("bps", "iops")
    ),
    UnsupportedOption(("--kernel-memory",), "kernels have no such limit any more", fine=("0",)),
    UnsupportedOption(("--memory-swappiness",), "the use of swap can't be tuned", fine=("-1",)),
    *(
        UnsupportedOption((f"--health-{word}",), "a health check can't be changed", "run a new container with it")
        for word in (
            *("cmd", "interval", "on-failure", "retries", "start-period", "timeout"),
            *("log-destination", "max-log-count", "max-log-size"),
            *(f"startup-{part}" for part in ("cmd", "interval", "retries", "success", "timeout")),
        )
    ),
    UnsupportedOption(
        ("--no-healthcheck",), "a health check can't be changed", "run a new container with it", flag=True
    ),
    UnsupportedOption(("--unsetenv",), "variables can't be taken away", "run a new container"),
)


@command("update", "lamina update --memory 1g --cpus 2 web\nlamina update --restart unless-stopped web db")
@options_of(_OPTIONS)
@unsupported_options(_UNSUPPORTED, UsageError)
@latest_option
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.pass_obj
def update(session: Session, /, names: tuple[str, ...], latest: bool, **given: Any) -> None:
    """Change the limits, the restart policy and the variables of containers. They may be running."""
    from lamina.run.container.update import update as change
    from lamina.run.runtime import find_runtime

    changes = _changes({name: value for name, value in given.items() if value not in (None, ())})
    if not changes:
        raise UsageError("nothing to change", hint="give a limit or a restart policy, see `lamina update --help`")
    names = chosen(session, names, latest=latest) or ()
    store = session.store

    def update_one(name: str) -> None:
        one = store.containers.get(name)
        change(store, one, changes, find_runtime(one.runtime or session.settings.runtime))
        write(name)

    each(names, update_one)


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``ContainerOptions`` that change. Raises UsageError."""
    from lamina.run import limits, options
    from lamina.run.restart import parse_policy

    parsers: dict[str, Callable[[Any], Any]] = {
        "memory": options.parse_memory,
        # whether it is less than the memory is checked with the container's options
        "memory_swap": lambda word: limits.parse_memory_swap(word, 0),
        "memory_reservation": options.parse_memory,
        "cpus": options.parse_cpus,
        "cpu_period": limits.parse_period,
        "cpu_quota": limits.parse_quota,
        "cpu_shares": limits.parse_shares,
        "cpuset_cpus": lambda word: limits.parse_cpus_set(word, "--cpuset-cpus"),
        "cpuset_mems": lambda word: limits.parse_cpus_set(word, "--cpuset-mems"),
        "pids_limit": options.parse_pids,
        "env": lambda words: tuple(options.parse_env(words, os.environ)),
        "ulimits": lambda words: tuple(map(limits.parse_ulimit, words)),
        "restart": lambda word: parse_policy(word, removed=False),
    }
    fields = {"pids_limit": "pids"}
    return {fields.get(name, name): parsers[name](value) for name, value in given.items()}
