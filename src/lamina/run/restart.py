"""Restart policies (pure): whether a container's program is started again after its end, and when."""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.run.options import RestartPolicy

NEVER, ON_FAILURE, ALWAYS, UNLESS_STOPPED = "no", "on-failure", "always", "unless-stopped"
_FIRST, _MOST = 0.1, 60.0  # seconds, as docker
_WELL = 10.0  # seconds: after so long a life the wait begins anew
_MAX_RETRIES = 1 << 31


def parse_policy(word: str, *, removed: bool) -> RestartPolicy:
    """``no``, ``on-failure[:N]``, ``always`` or ``unless-stopped``. ``removed``: the container is removed at its end.
    Raises UsageError."""
    name, colon, number = word.partition(":")
    if name in ("", NEVER) and not number:
        return RestartPolicy()
    if name not in (ON_FAILURE, ALWAYS, UNLESS_STOPPED):
        raise UsageError(
            f"unknown restart policy {word!r:.60}", hint="choose no, on-failure[:N], always or unless-stopped"
        )
    if colon and name != ON_FAILURE:
        raise UsageError(f"{word!r:.60}: only on-failure takes a number", hint=f"write {name}, or on-failure:N")
    retries = int(number) if number.isascii() and number.isdigit() and len(number) < 11 else -1
    if colon and not 0 <= retries < _MAX_RETRIES:
        raise UsageError(f"{word!r:.60}: {number!r:.40} is not a number", hint="write it like on-failure:3")
    if removed:
        raise UsageError(
            "--restart and --rm can't be combined: a removed container can't be started again", hint="leave one out"
        )
    return RestartPolicy(name, retries if colon else 0)


def restarts(policy: RestartPolicy, code: int, *, done: int, stopped: bool) -> bool:
    """Whether the program is to be started again. ``code``: its exit code. ``done``: how often that was done already.
    ``stopped``: somebody has stopped the container."""
    if stopped:
        return False
    if policy.name == ON_FAILURE:
        return code != 0 and (not policy.retries or done < policy.retries)
    return policy.name in (ALWAYS, UNLESS_STOPPED)


def next_wait(previous: float, lived: float) -> float:
    """Seconds to wait before the next start. ``previous``: the wait before this one, 0 if there was none.
    ``lived``: how long the program ran, in seconds."""
    return _FIRST if not previous or lived >= _WELL else min(previous * 2, _MOST)
