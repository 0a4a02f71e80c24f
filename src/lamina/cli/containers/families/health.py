"""Options of `run`: how the health of the container is checked."""

from __future__ import annotations

from lamina.cli.option_table import FLAG, Option
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    Option(
        ("--health-cmd", "--healthcheck-command"),
        "health_cmd",
        "Command that checks the health: for the shell, or a JSON list of words.",
        "COMMAND",
    ),
    Option(
        ("--health-interval", "--healthcheck-interval"),
        "health_interval",
        "Time between two checks (default: 30s).",
        "TIME",
    ),
    Option(
        ("--health-timeout", "--healthcheck-timeout"),
        "health_timeout",
        "Longest time of one check (default: 30s).",
        "TIME",
    ),
    Option(
        ("--health-start-period", "--healthcheck-start-period"),
        "health_start_period",
        "Time after the start in which failures do not count.",
        "TIME",
    ),
    Option(
        ("--health-start-interval", "--health-startup-interval"),
        "health_start_interval",
        "Time between two checks in the start period.",
        "TIME",
    ),
    Option(
        ("--health-retries", "--healthcheck-retries"),
        "health_retries",
        "Failures in a row that make it unhealthy (default: 3).",
        "N",
    ),
    Option(
        ("--health-on-failure",),
        "health_on_failure",
        "What to do when it gets unhealthy: none, kill, restart, stop.",
        "ACTION",
    ),
    Option(("--no-healthcheck",), "no_healthcheck", "Do not run the health check of the image.", kind=FLAG),
)
_TIMES = ("interval", "timeout", "start_period", "start_interval")


def parsed(given: dict[str, Any]) -> dict[str, Any]:
    """Raises UsageError."""
    from lamina.errors import UsageError
    from lamina.run.health import NONE, ON_FAILURE, parse_test
    from lamina.run.options import HealthCheck

    if given["no_healthcheck"]:
        if any(given[option.argument] for option in OPTIONS[:-1]):
            raise UsageError("--no-healthcheck can't be combined with --health options", hint="leave one of them out")
        return {"health": HealthCheck(test=NONE)}
    action = given["health_on_failure"]
    if action and action not in ON_FAILURE:
        raise UsageError(f"unknown --health-on-failure {action!r:.60}", hint=f"choose {', '.join(ON_FAILURE)}")
    if action == "restart" and given["restart"] not in ("", "no"):
        raise UsageError(
            "--health-on-failure restart and --restart can't be combined",
            hint="use --health-on-failure kill: the policy then starts it again",
        )
    return {
        "health": HealthCheck(
            test=parse_test(given["health_cmd"]) if given["health_cmd"] else (),
            retries=_retries(given["health_retries"]),
            on_failure="" if action == "none" else action,
            **{name: _seconds(given[f"health_{name}"], name) for name in _TIMES},
        )
    }


def _seconds(text: str, name: str) -> float | None:
    """0 is the default, as in docker. Raises UsageError."""
    from lamina.errors import UsageError
    from lamina.spec.duration import of_option

    flag = "--health-" + name.replace("_", "-")
    found = of_option(text, flag) if text else 0
    if 0 < found < 1_000_000:
        raise UsageError(f"{flag} {text!r:.60} is less than 1ms", hint="write it like 30s")
    return found / 1_000_000_000 or None


def _retries(text: str) -> int | None:
    """Raises UsageError."""
    from lamina.errors import UsageError

    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"--health-retries {text!r:.60} is not a number", hint="give a number like 3")
    return int(text or 0) or None
