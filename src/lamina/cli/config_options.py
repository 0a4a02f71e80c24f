"""Changes of an image's config: as options of `config`, and as Dockerfile instructions (`--change`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.image_options import ImageOptions, json_array, working_directory
from lamina.cli.options import TEXT, name_and_value
from lamina.errors import UsageError
from lamina.spec.duration import of_option
from lamina.spec.image_config import ImageConfig

if TYPE_CHECKING:
    from lamina.spec.image_config import Changes

_PORT = re.compile(r"\d{1,5}(?:-\d{1,5})?(?:/(?:tcp|udp|sctp))?")
_NONE = {"Test": ["NONE"]}
_HEALTH_TIMES = {"Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period"}

_options = [
    click.option("--env", "-e", multiple=True, type=TEXT, metavar="NAME=VALUE", help="Set an environment variable."),
    click.option("--env-rm", multiple=True, type=TEXT, metavar="NAME", help="Remove an environment variable."),
    click.option("--label", "-l", multiple=True, type=TEXT, metavar="NAME=VALUE", help="Set a label."),
    click.option("--label-rm", multiple=True, type=TEXT, metavar="NAME", help="Remove a label."),
    click.option("--expose", multiple=True, type=TEXT, metavar="PORT[/PROTO]", help="Expose a port."),
    click.option("--expose-rm", multiple=True, type=TEXT, metavar="PORT[/PROTO]", help="Remove an exposed port."),
    click.option("--volume", "-v", multiple=True, type=TEXT, metavar="PATH", help="Declare a path as a volume."),
    click.option("--volume-rm", multiple=True, type=TEXT, metavar="PATH", help="Remove a volume."),
    click.option(
        "--cmd",
        type=TEXT,
        metavar="WORDS",
        help="Set the default command, words as in a shell or a JSON array; '' removes it.",
    ),
    click.option(
        "--entrypoint",
        type=TEXT,
        metavar="WORDS",
        help="Set the entrypoint, words as in a shell or a JSON array; '' removes it.",
    ),
    click.option("--workdir", "-w", type=TEXT, metavar="PATH", help="Set the working directory; '' removes it."),
    click.option("--user", "-u", type=TEXT, metavar="USER", help="Set the user to run as; '' removes it."),
    click.option(
        "--stop-signal", type=TEXT, metavar="SIGNAL", help="Set the signal that stops the container; '' removes it."
    ),
    click.option("--author", type=TEXT, metavar="NAME", help="Set the author of the image; '' removes it."),
    click.option("--health-cmd", type=TEXT, metavar="COMMAND", help="Set the health check, a command for the shell."),
    click.option("--health-interval", metavar="DURATION", help="Time between two health checks, like 30s or 1m30s."),
    click.option("--health-timeout", metavar="DURATION", help="Maximum time of a health check."),
    click.option(
        "--health-start-period", metavar="DURATION", help="Time after the start in which failures do not count."
    ),
    click.option(
        "--health-retries", type=click.IntRange(1), help="Number of failures that make the container unhealthy."
    ),
    click.option("--no-healthcheck", is_flag=True, help="Disable the health check, also that of the base image."),
]


def edit_options(function: Any) -> Any:
    for option in reversed(_options):
        function = option(function)
    return function


def edits(old: ImageConfig, given: dict[str, Any]) -> Changes:
    """Return the changes of these options. Raises UsageError, also if something to remove does not exist."""
    shared = ("env", "cmd", "entrypoint", "workdir", "user", "label")
    changes = ImageOptions(**{name: given[name] for name in shared}).changes(old)
    if given["env_rm"]:
        env = _pairs(changes.get("env") or old.env)
        _remove(env, given["env_rm"], "environment variable")
        changes["env"] = [f"{name}={value}" for name, value in env.items()]
    if given["label_rm"]:
        labels = dict(changes.get("labels") or old.labels)
        _remove(labels, given["label_rm"], "label")
        changes["labels"] = labels
    if given["expose"] or given["expose_rm"]:
        ports = dict.fromkeys([*old.exposed_ports, *map(port, given["expose"])])
        _remove(ports, [text if text in ports else port(text) for text in given["expose_rm"]], "exposed port")
        changes["exposed_ports"] = list(ports)
    if given["volume"] or given["volume_rm"]:
        volumes = dict.fromkeys([*old.volumes, *given["volume"]])
        _remove(volumes, given["volume_rm"], "volume")
        changes["volumes"] = list(volumes)
    if given["stop_signal"] is not None:
        changes["stop_signal"] = given["stop_signal"]
    if given["author"] is not None:
        changes["author"] = given["author"]
    _health(old, given, changes)
    return changes


def _health(old: ImageConfig, given: dict[str, Any], changes: Changes) -> None:
    fields = {
        "Test": ["CMD-SHELL", given["health_cmd"]] if given["health_cmd"] else None,
        **{
            key: of_option(given[f"health_{name}"], f"--health-{name.replace('_', '-')}")
            for key, name in _HEALTH_TIMES.items()
            if given[f"health_{name}"] is not None
        },
        "Retries": given["health_retries"],
    }
    said = {key: value for key, value in fields.items() if value is not None}
    if given["no_healthcheck"]:
        if said:
            raise UsageError("--no-healthcheck can't be combined with --health options", hint="leave one of them out")
        changes["healthcheck"] = _NONE
    elif said:
        before = (old.json.get("config") or {}).get("Healthcheck")
        kept = before if isinstance(before, dict) and before.get("Test") != ["NONE"] else {}
        merged = {**kept, **said}
        if "Test" not in merged:
            raise UsageError("a health check needs a command", hint="give --health-cmd too")
        changes["healthcheck"] = merged


def words_of(given: dict[str, Any]) -> list[str]:
    """Return the options as words of a command line, for the history."""
    found = []
    for key, value in given.items():
        flag = "--" + key.replace("_", "-")
        if value is True:
            found.append(flag)
        elif isinstance(value, (str, int)) and value is not False:
            found += [flag, str(value)]
        elif isinstance(value, tuple):
            found += [word for item in value for word in (flag, item)]
    return found


_INSTRUCTIONS = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"
_TEXTS = {"USER": "user", "STOPSIGNAL": "stop_signal"}


def instructions(lines: Iterable[str], old: ImageConfig | None = None) -> Changes:
    """Return what Dockerfile instructions change in the config ``old``, for `import --change` and `commit --change`
    (pure). Raises UsageError."""
    found: dict[str, Any] = {}

    def so_far(key: str, before: Iterable[Any]) -> Iterable[Any]:
        return found.get(key, before if old else ())  # type: ignore[no-any-return]

    for line in lines:
        word, *more = line.strip().split(None, 1)
        if not more:
            raise UsageError(f"{line!r:.200} is not an instruction", hint="write it like 'CMD [\"sh\"]' or 'ENV A=b'")
        word, rest = word.upper(), more[0]
        if word in ("CMD", "ENTRYPOINT"):
            found[word.lower()] = _command(rest)
            if word == "ENTRYPOINT" and old:
                found.setdefault("cmd", None)  # the old command belongs to the old entrypoint
        elif word == "ENV":
            found["env"] = {**dict(so_far("env", old.environment.items() if old else ())), **_assignments(rest, line)}
        elif word == "LABEL":
            found["labels"] = {**dict(so_far("labels", old.labels if old else ())), **_assignments(rest, line)}
        elif word == "EXPOSE":
            ports = so_far("exposed_ports", old.exposed_ports if old else ())
            found["exposed_ports"] = list(dict.fromkeys([*ports, *map(port, json_array(rest) or rest.split())]))
        elif word == "VOLUME":
            volumes = so_far("volumes", old.volumes if old else ())
            found["volumes"] = list(dict.fromkeys([*volumes, *(json_array(rest) or rest.split())]))
        elif word == "WORKDIR":
            before = found.get("working_dir", old.working_dir if old else "")
            found["working_dir"] = working_directory(before, rest)
        elif word == "ONBUILD":
            earlier = (old.json.get("config") or {}).get("OnBuild") if old else None
            found["on_build"] = [*so_far("on_build", earlier or ()), rest]
        elif word in _TEXTS:
            found[_TEXTS[word]] = rest
        else:
            raise UsageError(f"unknown instruction {word!r:.60} in --change", hint=f"use {_INSTRUCTIONS}")
    if "env" in found:
        found["env"] = [f"{name}={value}" for name, value in dict(found["env"]).items()]
    return found  # type: ignore[return-value]


def port(text: str) -> str:
    """Complete a port: ``80`` becomes ``80/tcp``. Raises UsageError."""
    if not _PORT.fullmatch(text):
        raise UsageError(f"{text!r:.60} is not a port", hint="write it like 80, 53/udp or 8000-8010/tcp")
    return text if "/" in text else text + "/tcp"


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _remove(found: dict[str, Any], names: Iterable[str], what: str) -> None:
    for name in names:
        if name not in found:
            raise UsageError(f"{what} not found: {name!r:.100}", hint="see `lamina config IMAGE`")
        del found[name]


def _command(text: str) -> list[str]:
    found = json_array(text)
    return ["/bin/sh", "-c", text] if found is None else found


def _assignments(text: str, line: str) -> dict[str, str]:
    import shlex

    if "=" not in text.split(maxsplit=1)[0]:  # the old form: NAME, then the value up to the end of the line
        name, _, value = text.partition(" ")
        return {name: value.strip()}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{line!r:.200}: {error}", hint="quote the words as for a shell") from None
    return dict(name_and_value(word, f"{line!r:.200}") for word in words)
