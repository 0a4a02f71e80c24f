"""Options of `run`: the log of the container."""

from __future__ import annotations

from lamina.cli.option_table import MANY, Option
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    Option(
        ("--log-driver",),
        "log_driver",
        "How to keep the output: local, json-file, k8s-file, journald, none (default: the setting, else local).",
        "DRIVER",
    ),
    Option(
        ("--log-opt",), "log_opt", "Option of the log driver, like max-size=10m or max-file=3.", "NAME=VALUE", MANY
    ),
)


def parsed(given: dict[str, Any]) -> dict[str, Any]:
    """Raises UsageError."""
    from lamina.run.logs.drivers import parse_driver, parse_options

    driver = parse_driver(given["log_driver"]) if given["log_driver"] else ""
    return {"log_driver": driver, "log_options": parse_options(given["log_opt"])}
