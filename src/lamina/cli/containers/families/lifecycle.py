"""Options of `run`: how long the container lives."""

from __future__ import annotations

from lamina.cli.option_table import MANY, Option
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    Option(
        ("--restart",),
        "restart",
        "When to start the program again: no, on-failure[:N], always, unless-stopped.",
        "POLICY",
    ),
    Option(("--pidfile",), "pidfile", "Write the process ID of the program to a file.", "FILE"),
    Option(("-a", "--attach"), "attach", "Connect only these streams: stdin, stdout, stderr.", "STREAM", MANY),
    Option(("--detach-keys",), "detach_keys", "Keys that detach (default: ctrl-p,ctrl-q).", "KEYS"),
)


def parsed(given: dict[str, Any]) -> dict[str, Any]:
    """Raises UsageError."""
    import os

    from lamina.run.monitor.streams import parse_keys, parse_stream
    from lamina.run.restart import parse_policy

    parse_keys(given["detach_keys"])

    return {
        "restart": parse_policy(given["restart"], removed=given["remove"]),
        "pidfile": os.path.abspath(given["pidfile"]) if given["pidfile"] else "",
        "detach_keys": given["detach_keys"],
        "attach": tuple(map(parse_stream, given["attach"])),
    }
