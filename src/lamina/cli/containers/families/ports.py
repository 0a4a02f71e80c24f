"""Options of `run` and `create`: ports of the container that are published on this host."""

from __future__ import annotations

from lamina.cli.option_table import FLAG, MANY, Option
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    Option(
        ("-p", "--publish"),
        "publish",
        "Publish a port of the container on this host, or a range of ports.",
        "[[ADDRESS:]PORT:]PORT[/udp]",
        MANY,
    ),
    Option(("-P", "--publish-all"), "publish_all", "Publish every exposed port at a free port.", kind=FLAG),
    Option(
        ("--expose",), "expose", "Say that the container uses a port; -P publishes it.", "PORT[-PORT][/udp]", MANY
    ),
)
_WITHOUT = ("host", "none")


def parsed(given: dict[str, Any]) -> dict[str, Any]:
    """Raises UsageError."""
    from lamina.cli import warn
    from lamina.run.options import parse_port
    from lamina.run.published.syntax import parse_published

    ports = parse_published(given["publish"])
    for word in given["expose"]:
        parse_port(word)
    network = given["network"] if isinstance(given["network"], str) else "".join(given["network"][:1])
    if network in _WITHOUT and (ports or given["publish_all"]):
        why = "the container uses the ports of this host" if network == "host" else "the container has no network"
        warn(f"--publish has no effect with --network {network}: {why}")
    return {"ports": ports, "publish_all": given["publish_all"], "expose": given["expose"]}
