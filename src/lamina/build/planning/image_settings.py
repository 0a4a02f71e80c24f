"""The config and the history of the image that a stage makes, while its instructions are planned (pure).

Each method of ``ImageSettings`` is one instruction: it changes the config as docker does, and adds the history entry
that BuildKit writes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lamina.build.dockerfile.go_text import format_duration, plain_list, quoted_list
from lamina.build.dockerfile.ports import exposed_ports
from lamina.build.instructions import Healthcheck
from lamina.errors import InvalidDocument, UsageError
from lamina.run.signals import parse_signal
from lamina.spec import mediatype
from lamina.spec.duration import nanoseconds
from lamina.spec.image_config import History, ImageConfig
from lamina.spec.platform import Platform

COMMENT = "buildkit.dockerfile.v0"
"""The comment of each history entry: programs that read histories look for it."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WINDOWS_PATH = "c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0"
_KEPT = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "Shell",
)
"""The fields of a base's config that the new image inherits, in the order in which they are written."""
_SHORTEST = 10**6  # nanoseconds: docker refuses shorter times of health checks


class ImageSettings:
    def __init__(self, config: ImageConfig | None, platform: Platform, *, epoch: str | None = None) -> None:
        """``config``: of the base; None: there is none. ``epoch``: the time of all new history entries. Raises
        InvalidDocument."""
        self.platform = platform
        self.author = config.author if config else ""
        self.history: list[History] = []
        self.run: dict[str, Any] = {}
        self._epoch = epoch
        if config is None:
            self.run = {"Env": [], "WorkingDir": "/"}
        else:
            found = config.json.get("config") or {}
            self.run = copy.deepcopy({key: found[key] for key in _KEPT if found.get(key)})
            self.run["Env"] = list(config.env)
            self.history = [History.from_json(step, "image config") for step in config.aligned_history()]
            for key in ("Shell", "OnBuild"):
                _check_texts(self.run, key)
        self.add_path()

    def inherited(self) -> ImageSettings:
        """A copy for a stage that is based on this one: without its ONBUILD triggers."""
        made = copy.copy(self)
        made.run = copy.deepcopy(self.run)
        made.history = list(self.history)
        made.run.pop("OnBuild", None)
        made.add_path()
        return made

    @property
    def env(self) -> list[tuple[str, str]]:
        return [(name, value) for name, _, value in (line.partition("=") for line in self.run["Env"])]

    @property
    def workdir(self) -> str:
        return str(self.run.get("WorkingDir") or "")

    @property
    def user(self) -> str:
        return str(self.run.get("User") or "")

    def add_path(self) -> None:
        """Make sure that there is a PATH: docker's default."""
        if not any(name == "PATH" for name, _ in self.env):
            self.run["Env"].append(f"PATH={WINDOWS_PATH if self.platform.os == 'windows' else PATH}")

    def take_triggers(self) -> list[str]:
        """The ONBUILD triggers of the base, which are then no longer in the config."""
        return list(self.run.pop("OnBuild", None) or ())

    def with_shell(self, text: str) -> tuple[str, ...]:
        """The command line that runs ``text`` in the shell."""
        default = ["cmd", "/S", "/C"] if self.platform.os == "windows" else ["/bin/sh", "-c"]
        return (*(self.run.get("Shell") or default), text)

    def note(self, created_by: str, *, layer: bool = False) -> None:
        """Add a history entry."""
        self.history.append(History(self._epoch, created_by, comment=COMMENT, empty_layer=not layer))

    def set_env(self, items: Sequence[tuple[str, str]]) -> None:
        for name, value in items:
            line = f"{name}={value}"
            for number, known in enumerate(self.run["Env"]):
                if known.startswith(f"{name}=") or known == name:
                    self.run["Env"][number] = line
                    break
            else:
                self.run["Env"].append(line)
        self.note(" ".join(["ENV", *(f"{name}={value}" for name, value in items)]))

    def set_labels(self, items: Sequence[tuple[str, str]]) -> None:
        self.run["Labels"] = {**(self.run.get("Labels") or {}), **dict(items)}
        self.note(" ".join(["LABEL", *(f"{name}={value}" for name, value in items)]))

    def set_maintainer(self, name: str) -> None:
        self.author = name
        self.note(f"MAINTAINER {name}")

    def set_user(self, name: str) -> None:
        self.run["User"] = name
        self.note(f"USER {name}")

    def set_workdir(self, path: str, *, layer: bool) -> None:
        self.run["WorkingDir"] = path
        self.note(f"WORKDIR {path}", layer=layer)

    def add_volumes(self, paths: Sequence[str]) -> None:
        if "" in paths:
            raise UsageError("a volume without a path", hint="name a directory: VOLUME /data")
        self.run["Volumes"] = {**(self.run.get("Volumes") or {}), **{path: {} for path in paths}}
        self.note(f"VOLUME {plain_list(paths)}")

    def add_ports(self, words: Iterable[str]) -> None:
        ports = exposed_ports(words)
        self.run["ExposedPorts"] = {**(self.run.get("ExposedPorts") or {}), **{port: {} for port in ports}}
        self.note(f"EXPOSE {plain_list(ports)}")

    def set_stop_signal(self, word: str) -> None:
        if not word.strip():
            raise UsageError("STOPSIGNAL without a signal", hint="give a name like SIGTERM, or a number")
        parse_signal(word)
        self.run["StopSignal"] = word
        self.note(f"STOPSIGNAL {word}")

    def set_shell(self, words: Sequence[str]) -> None:
        self.run["Shell"] = list(words)
        self.note(f"SHELL {plain_list(words)}")

    def set_cmd(self, words: Sequence[str]) -> None:
        self.run["Cmd"] = list(words)
        self.run["ArgsEscaped"] = True
        self.note(f"CMD {quoted_list(words)}")

    def set_entrypoint(self, words: Sequence[str], *, keep_cmd: bool) -> None:
        """``keep_cmd``: this stage has set a CMD, so it stays."""
        self.run["Entrypoint"] = list(words)
        if not keep_cmd:
            self.run.pop("Cmd", None)
        self.note(f"ENTRYPOINT {quoted_list(words)}")

    def set_healthcheck(self, check: Healthcheck) -> None:
        if check.command is None:
            test = ["NONE"]
        else:
            test = ["CMD-SHELL" if check.command.is_shell else "CMD", *check.command.words]
        times = {
            "Interval": _time("interval", check.interval),
            "Timeout": _time("timeout", check.timeout),
            "StartPeriod": _time("start-period", check.start_period),
            "StartInterval": _time("start-interval", check.start_interval),
        }
        retries = _count(check.retries)
        whole = {"Test": test, **times, "Retries": retries}
        self.run["Healthcheck"] = {key: value for key, value in whole.items() if value}
        shown = [f"{key}:{format_duration(value)}" for key, value in times.items()]
        self.note(f"HEALTHCHECK {{Test:{plain_list(test)} {' '.join(shown)} Retries:{retries}}}")

    def add_trigger(self, trigger: str) -> None:
        """ONBUILD: it makes no history entry."""
        self.run["OnBuild"] = [*(self.run.get("OnBuild") or ()), trigger]

    def config(self, platform: Platform, labels: Mapping[str, str]) -> ImageConfig:
        """The finished config, without layers, history and time. ``labels``: of the command line."""
        run = dict(self.run)
        named = {**(run.get("Labels") or {}), **labels}
        if named:
            run["Labels"] = dict(sorted(named.items()))
        for key in ("ExposedPorts", "Volumes"):
            if run.get(key):
                run[key] = {name: {} for name in sorted(run[key])}
        made = ImageConfig.build(platform, author=self.author, media_type=mediatype.OCI_CONFIG)
        return made.with_run({key: run[key] for key in _KEPT if run.get(key)})


def _check_texts(run: Mapping[str, Any], key: str) -> None:
    value = run.get(key)
    if value and not (type(value) is list and all(type(item) is str for item in value)):
        raise InvalidDocument(
            f"image config: config: {key} must be a list of strings",
            hint="the config breaks its specification; report it to the publisher of the image",
        )


def _time(flag: str, text: str) -> int:
    value = nanoseconds(text) if text else 0
    if value and value < _SHORTEST:
        raise UsageError(f"--{flag}={text} is less than 1ms", hint="write it like 30s")
    return value


def _count(text: str) -> int:
    digits = text.removeprefix("+")
    if not text:
        return 0
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 10 or int(digits) >= 2**31:
        raise UsageError(f"--retries={text!r:.60} is not a number of tries", hint="give a number like 3")
    return int(digits)
