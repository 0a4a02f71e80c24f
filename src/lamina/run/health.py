"""Health checks (pure): which command is run and when, and what its results mean. The rules are docker's.

The monitor of a container loads this, so it imports little.
"""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING, Value, as_dict, replace
from lamina.spec.moment import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from lamina.run.options import HealthCheck

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
NONE = ("NONE",)
"""The test of a container without a health check."""
ON_FAILURE = ("none", "kill", "restart", "stop")
MAX_OUTPUT = 4096  # bytes of a check's output that are kept
TIMED_OUT = -1  # the exit code of a check that took too long, or could not be run
_LOGGED = 5  # results that are kept
_INTERVAL, _TIMEOUT, _RETRIES = 30.0, 30.0, 3
_SECOND = 10**9
_TIMES = {
    "Interval": "interval",
    "Timeout": "timeout",
    "StartPeriod": "start_period",
    "StartInterval": "start_interval",
}
_SHELL = ("/bin/sh", "-c")
_MOST = 1 << 63


class Check(Value):
    """A health check, ready to run. ``words``: the command line. Times in seconds; ``start_interval`` 0: as
    ``interval``. ``retries``: so many failures in a row make the container unhealthy. ``on_failure``: of ON_FAILURE,
    what happens to it then. ``stop_signal`` and ``stop_timeout`` (seconds) are how it is stopped or restarted."""

    words: tuple[str, ...]
    interval: float = _INTERVAL
    timeout: float = _TIMEOUT
    start_period: float = 0.0
    start_interval: float = 0.0
    retries: int = _RETRIES
    on_failure: str = "none"
    stop_signal: int = 15
    stop_timeout: float = 10.0


class Result(Value):
    """One run of a check. ``start``, ``end``: nanoseconds since 1970. ``output``: at most MAX_OUTPUT bytes of it."""

    start: int
    end: int
    code: int
    output: str = ""


class Health(Value):
    """``streak``: failures since the last success. ``log``: the last results in docker's form, oldest first."""

    status: str = STARTING
    streak: int = 0
    log: tuple[Mapping[str, Any], ...] = ()


def after(health: Health, result: Result, check: Check, age: float) -> Health:
    """The health after a result. ``age``: seconds from the start of the program to the start of the check."""
    log = (*health.log, _logged(result))[-_LOGGED:]
    if result.code == 0:
        return Health(HEALTHY, 0, log)
    if health.status == STARTING and age < check.start_period:
        return replace(health, log=log)
    streak = health.streak + 1
    return Health(UNHEALTHY if streak >= check.retries else health.status, streak, log)


def next_wait(health: Health, check: Check, age: float) -> float:
    """Seconds from the end of a check (or from the start of the program) to the next check. ``age``: seconds since
    the start of the program."""
    if check.start_interval and health.status == STARTING and age < check.start_period:
        return check.start_interval
    return check.interval


def shown_output(output: bytes) -> str:
    """The output of a check as the log shows it. ``output``: more than MAX_OUTPUT bytes if it was longer."""
    text = output[:MAX_OUTPUT].decode("utf-8", "replace")
    return text + "..." if len(output) > MAX_OUTPUT else text


def too_slow(check: Check, output: str = "") -> str:
    """What the log shows of a check that was ended after its timeout."""
    text = f"Health check exceeded timeout ({duration_text(check.timeout)})"
    return f"{text}: {output}" if output else text


def duration_text(seconds: float) -> str:
    """As Go prints it: ``1m30s``, ``1.5s``, ``200ms``."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(round(seconds, 9), 60)
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes or hours else "") + f"{rest:.9g}s"


def _logged(result: Result) -> dict[str, Any]:
    start, end = rfc3339(result.start), rfc3339(result.end)
    return {"Start": start, "End": end, "ExitCode": result.code, "Output": result.output}


def health_json(health: Health) -> dict[str, Any]:
    """docker's form: State.Health of inspect, and the file of a container."""
    return {"Status": health.status, "FailingStreak": health.streak, "Log": list(health.log)}


def read_health(value: object) -> Health:
    """What ``health_json`` returned; what is malformed in it is left out."""
    if not isinstance(value, dict):
        return Health()
    status, streak, log = value.get("Status"), value.get("FailingStreak"), value.get("Log")
    return Health(
        status if status in (STARTING, HEALTHY, UNHEALTHY) else STARTING,
        streak if type(streak) is int and 0 <= streak < _MOST else 0,
        tuple(one for one in log if isinstance(one, dict))[-_LOGGED:] if isinstance(log, list) else (),
    )


# What was asked, and what the image says


def merged(wanted: HealthCheck, of_image: object) -> dict[str, Any] | None:
    """Both as one Healthcheck of docker's config; None if neither has one. What ``wanted`` leaves open is as the
    image says. ``of_image``: the image's Healthcheck, whose malformed fields count as absent."""
    found = _of_image(of_image)
    if wanted.test:
        found["Test"] = list(wanted.test)
    for key, name in _TIMES.items():
        seconds = getattr(wanted, name)
        if seconds:
            found[key] = round(seconds * _SECOND)
    if wanted.retries:
        found["Retries"] = wanted.retries
    return found if found.get("Test") else None


def _of_image(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    found: dict[str, Any] = {}
    test = value.get("Test")
    if isinstance(test, list) and all(isinstance(word, str) and "\0" not in word for word in test):
        found["Test"] = test
    for key in (*_TIMES, "Retries"):
        number = value.get(key)
        if type(number) is int and 0 < number < _MOST:
            found[key] = number if key == "Retries" else max(number, _SECOND // 1000)
    return found


def ready(docker: Mapping[str, Any] | None, shell: object = None, on_failure: str = "") -> Check | None:
    """The check to run; None if there is none. ``docker``: as ``merged`` returns it. ``shell``: the image's Shell."""
    test = tuple((docker or {}).get("Test") or ())
    kind, words = test[:1], test[1:]
    if docker is None or not words or kind not in (("CMD",), ("CMD-SHELL",)):
        return None
    if kind == ("CMD-SHELL",):
        named = isinstance(shell, list) and bool(shell) and all(isinstance(word, str) for word in shell)
        words = (*(shell if named else _SHELL), *words)  # type: ignore[misc]
    return Check(
        words,
        docker.get("Interval", _INTERVAL * _SECOND) / _SECOND,
        docker.get("Timeout", _TIMEOUT * _SECOND) / _SECOND,
        docker.get("StartPeriod", 0) / _SECOND,
        docker.get("StartInterval", 0) / _SECOND,
        docker.get("Retries", _RETRIES),
        on_failure or "none",
    )


def check_json(check: Check) -> dict[str, Any]:
    """For the plan of a monitor."""
    return {**as_dict(check), "words": list(check.words)}


def read_check(value: Mapping[str, Any]) -> Check:
    """What ``check_json`` returned."""
    return Check(**{**value, "words": tuple(value["words"])})


def parse_test(word: str) -> tuple[str, ...]:
    """The value of --health-cmd: a command for the shell, or a JSON list of words, or "none". Raises UsageError."""
    words: Iterable[object] = ()
    if word.lstrip().startswith("["):
        from lamina.spec.json import read_own

        try:
            words = read_own(word)
        except ValueError:
            words = ()  # a command of the shell may begin with [
    if "\0" in word or not word.strip():
        raise UsageError(f"{word!r:.100} is not a command", hint='write it like "curl -f localhost || exit 1"')
    if not words:
        return NONE if word.strip().lower() == "none" else ("CMD-SHELL", word)
    found = tuple(one for one in words if isinstance(one, str))
    if len(found) != len(list(words)) or any("\0" in one for one in found):
        raise UsageError(f"{word!r:.100} is not a list of words", hint='write it like \'["CMD", "ready", "-q"]\'')
    kind = found[0].upper()
    if kind == "NONE":
        return NONE
    if kind in ("CMD", "CMD-SHELL"):
        if len(found) < 2:
            raise UsageError(f"{word!r:.100} names no command", hint='write it like \'["CMD", "ready", "-q"]\'')
        return (kind, *found[1:])
    return ("CMD", *found) if len(found) > 1 else ("CMD-SHELL", *found)
