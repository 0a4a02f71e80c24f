"""Units of systemd for containers (pure): what `generate systemd` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.errors import UsageError

RESTARTS = ("no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always")
"""systemd's policies."""
BOOT_UNIT = "lamina-start"
_GRACE = 60  # seconds that systemd waits longer than `stop`, as podman's units do
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@+=:,./_-%{}[]()~^!?#&*<>|;")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", '"': '\\"'}
_ID_FILE = "%t/%n.ctr-id"
_ID_OPTION = f"--cidfile={_ID_FILE}"


@dataclass(frozen=True, slots=True)
class Service:
    """What a unit is made from. ``name``: of the unit, without ``.service``. ``container``: its name or ID.
    ``program``: the words that call lamina. ``create``: the words of the `run` or `boot` that made it: the unit makes
    a new container each time; empty: it starts the one that exists. ``restart``: of RESTARTS.
    ``restart_seconds``: between two starts, 0 for systemd's default. ``stop_seconds``: as for `stop`.
    ``start_seconds``: 0 for systemd's default. ``wants``, ``after``, ``requires``: other units. ``env``:
    NAME=VALUE."""

    name: str
    container: str
    program: tuple[str, ...]
    create: tuple[str, ...] = ()
    restart: str = "on-failure"
    restart_seconds: int = 0
    stop_seconds: int = 10
    start_seconds: int = 0
    wants: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    root: str = ""
    header: bool = True


def container_unit(service: Service) -> str:
    """The unit of one container."""
    time = ("-t", str(service.stop_seconds))
    if service.create:
        start: list[tuple[str, tuple[str, ...]]] = [
            ("ExecStartPre", ("/bin/rm", "-f", _ID_FILE)),
            ("ExecStart", _created(service)),
        ]
        named = (_ID_OPTION,)
        stop: tuple[str, ...] = ("stop", "--ignore", *time, *named)
        after: tuple[str, ...] = ("rm", "-f", "--ignore", *time, *named)
    else:
        start = [("ExecStart", (*service.program, "start", service.container))]
        stop = after = ("stop", "--ignore", *time, service.container)
    lines = [
        *_head(service.name, f"Container {service.container}", header=service.header),
        *(f"Wants={one}" for one in service.wants),
        *(f"After={one}" for one in service.after),
        *(f"Requires={one}" for one in service.requires),
        *([f"RequiresMountsFor={quoted(service.root, raw=True)}"] if service.root else []),
        "",
        "[Service]",
        *(f"Environment={quoted(one, raw=True)}" for one in service.env),
        f"Restart={service.restart}",
        *([f"RestartSec={service.restart_seconds}"] if service.restart_seconds else []),
        *([f"TimeoutStartSec={service.start_seconds}"] if service.start_seconds else []),
        f"TimeoutStopSec={service.stop_seconds + _GRACE}",
        *(f"{key}={command_line(words)}" for key, words in start),
        f"ExecStop={command_line((*service.program, *stop))}",
        f"ExecStopPost={command_line((*service.program, *after))}",
        "Type=notify",
        "NotifyAccess=all",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def boot_unit(program: Sequence[str], *, stop_seconds: int = 90, header: bool = True) -> str:
    """The unit that starts the containers that are to run after a boot, and stops all at a shutdown."""
    lines = [
        *_head(BOOT_UNIT, "Containers with a restart policy", header=header),
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"TimeoutStopSec={stop_seconds}",
        f"ExecStart={command_line((*program, 'start', '--all', '--filter', 'should-start-on-boot=true'))}",
        f"ExecStop={command_line((*program, 'stop', '--all', '--shutdown'))}",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _head(name: str, about: str, *, header: bool) -> list[str]:
    return [
        *([f"# {name}.service", "# made by `lamina generate systemd`", ""] if header else []),
        "[Unit]",
        f"Description={about}",
        "Wants=network-online.target",
        "After=network-online.target",
    ]


def _created(service: Service) -> tuple[str, ...]:
    """The `run` or `boot` of a unit that makes a new container each time."""
    verb, *rest = service.create
    own = (verb, _ID_OPTION, "--replace", "-d", "--rm")
    named = () if any(word.startswith("--name=") for word in rest) else (f"--name={service.container}",)
    dropped = ("--cidfile=", "--restart=", "--replace", "--rm", "-d", "--detach")
    options, at = [], 0
    while at < len(rest) and rest[at].startswith("-"):
        if not rest[at].startswith(dropped):
            options.append(rest[at])
        at += 1
    return (*service.program, *own, *named, *options, *rest[at:])


def command_line(words: Sequence[str]) -> str:
    """Words as systemd reads them in ExecStart (systemd.service(5), "COMMAND LINES"). Raises UsageError."""
    return " ".join(quoted(word) for word in words)


def quoted(word: str, *, raw: bool = False) -> str:
    """``raw``: variables are not expanded in this setting. The specifiers of this module's own words stay. Raises
    UsageError (systemd can't hold it)."""
    if "\0" in word or any(0xD800 <= ord(letter) < 0xE000 for letter in word):
        raise UsageError(f"{word!r:.100} can't be written into a unit", hint="use names that are text")
    own = word in (_ID_FILE, _ID_OPTION)
    text = word if own else word.replace("%", "%%")
    text = text if raw else text.replace("$", "$$")
    if text and set(text) <= _PLAIN and not text.startswith((";", "#")):
        return text
    return '"' + "".join(_ESCAPES.get(letter, letter) for letter in text) + '"'
