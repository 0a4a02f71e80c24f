"""A container as a row: with docker's fields for tables and templates, and with podman's for JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lamina.cli.format.rows import labels_text, moment_text, shortened
from lamina.cli.format.template_record import Record
from lamina.cli.format.text import ago, clean, human_size, lasted
from lamina.run.container.health import status_text
from lamina.run.container.pods import pod_of
from lamina.store.containers import EXITED, PAUSED, RESTARTING, RUNNING, UNKNOWN_CODE

if TYPE_CHECKING:
    from lamina.run.inspection.listing import Facts
    from lamina.store.containers import Container

_COMMAND, _MOUNT = 20, 15  # characters of a command and of a mount that the table shows
_NEVER = -62135596800  # seconds from 1970 to the year 1: podman's time of what never happened
_NAMESPACES = {
    "CGROUPNS": "cgroup",
    "IPC": "ipc",
    "MNT": "mnt",
    "NET": "net",
    "PIDNS": "pid",
    "USERNS": "user",
    "UTS": "uts",
}


class Row:
    """``pods``: names of pods by ID. ``size``: what it has written, and the size of its image; None: not measured.
    ``whole``: nothing is shortened."""

    def __init__(
        self,
        container: Container,
        state: str,
        facts: Facts,
        *,
        now: float,
        pods: dict[str, str],
        size: tuple[int, int] | None,
        whole: bool,
    ) -> None:
        self.container, self.state, self.facts = container, state, facts
        self.size = size
        self._now, self._pods, self._whole = now, pods, whole

    def docker(self) -> Record:
        """docker's fields; those of podman and lamina are not in its JSON."""
        labels = dict(self.container.labels)
        methods: dict[str, Callable[..., Any]] = {
            "Label": lambda name: labels.get(str(name), ""),
            "ImageID": self._image_id,
        }
        return Record(_called(self._dockers()), _called(self._others()), methods)

    def cells(self, names: Iterable[str]) -> dict[str, str]:
        """Some fields for a table: what others need is not looked up."""
        every = self._dockers() | self._others()
        return {name: str(every[name]()) for name in names}

    def _dockers(self) -> dict[str, Callable[[], str]]:
        one, facts = self.container, self.facts
        return {
            "Command": self._command,
            "CreatedAt": lambda: moment_text(one.created),
            "ID": lambda: one.id if self._whole else one.id[:12],
            "Image": lambda: clean(one.image),
            "Labels": lambda: clean(labels_text(dict(one.labels))),
            "LocalVolumes": lambda: str(sum(mount["Type"] == "volume" for mount in facts.mounts)),
            "Mounts": self._mounts,
            "Names": lambda: one.name,
            "Networks": lambda: ",".join(facts.networks),
            "Ports": lambda: facts.ports_text,
            "RunningFor": lambda: ago(self._now - one.created),
            "Size": self._size,
            "State": lambda: self.state,
            "Status": self.status,
        }

    def _others(self) -> dict[str, Callable[[], Any]]:
        one, pod = self.container, pod_of(self.container)
        return {
            "Name": lambda: one.name,
            "View": lambda: one.view,
            "ExitCode": lambda: one.exit_code,
            "Exited": lambda: self.state == EXITED,
            "Created": lambda: moment_text(one.created),
            "CreatedHuman": lambda: ago(self._now - one.created),
            "ImageDigest": lambda: one.manifest,
            "IsInfra": lambda: False,
            "Pid": self._pid,
            "Pod": lambda: pod if self._whole else pod[:12],
            "PodName": lambda: self._pods.get(pod, ""),
            "Restarts": lambda: one.restarts,
            "RestartPolicy": lambda: self.facts.wanted.restart.name,
            "StartedAt": lambda: int(one.since or 0),
            **{field: partial(self._namespace, kind) for field, kind in _NAMESPACES.items()},
        }

    def podman(self) -> dict[str, Any]:
        """podman's fields, which its clients read from JSON; and lamina's ImageDigest and View."""
        one = self.container
        pod = pod_of(one)
        written, image = self.size or (0, 0)
        exposed: dict[str, list[str]] = {}
        for port, protocol in sorted(self.facts.exposed):
            exposed.setdefault(str(port), []).append(protocol)
        return {
            "AutoRemove": bool(one.remove),
            "Command": list(one.command),
            "Created": int(one.created),
            "CreatedAt": ago(self._now - one.created),
            "CIDFile": "",
            "Exited": self.state == EXITED,
            "ExitedAt": _NEVER if one.finished is None else int(one.finished),
            "ExitCode": 0 if self.state != EXITED else one.exit_code,
            "ExposedPorts": exposed or None,
            "Id": one.id,
            "Image": one.image,
            "ImageDigest": one.manifest,
            "ImageID": self._image_id(),
            "IsInfra": False,
            "Labels": dict(one.labels),
            "Mounts": [mount["Destination"] for mount in self.facts.mounts],
            "Names": [one.name],
            "Namespaces": {},
            "Networks": self.facts.networks,
            "Pid": self._pid(),
            "Pod": pod,
            "PodName": self._pods.get(pod, ""),
            "Ports": self.facts.ports_json or None,
            "Restarts": one.restarts,
            "Size": {"rootFsSize": written + image, "rwSize": written} if self.size else None,
            "StartedAt": _NEVER if one.since is None else int(one.since),
            "State": self.state,
            "Status": self.status(),
            "View": one.view,
        }

    def status(self) -> str:
        """The state as docker prints it."""
        one, state = self.container, self.state
        if state in (RUNNING, PAUSED):
            up = f"Up {lasted(self._now - (one.since or one.created))}"
            more = "(Paused)" if state == PAUSED else status_text(self.facts.health_now)
            return f"{up} {more}".rstrip()
        if state in (EXITED, RESTARTING):
            word = "Exited" if state == EXITED else "Restarting"
            code = UNKNOWN_CODE if one.exit_code is None else one.exit_code
            return f"{word} ({code})" + ("" if one.finished is None else f" {ago(self._now - one.finished)}")
        return state.capitalize()

    def _command(self) -> str:
        words = self.container.command
        quoted = [f"'{word}'" if number and " " in word else word for number, word in enumerate(words)]
        text = " ".join(quoted)
        return _go_quoted(text if self._whole else shortened(text, _COMMAND))

    def _mounts(self) -> str:
        names = [mount["Name"] if mount["Type"] == "volume" else mount["Source"] for mount in self.facts.mounts]
        return clean(",".join(name if self._whole else shortened(name, _MOUNT) for name in names if name))

    def _size(self) -> str:
        if self.size is None:
            return "0B"
        written, image = self.size
        return f"{human_size(written)} (virtual {human_size(written + image)})"

    def _pid(self) -> int:
        return self.facts.pid if self.state in (RUNNING, PAUSED) else 0

    def _image_id(self) -> str:
        config = self.facts.config
        return config.descriptor.digest.encoded if config else ""

    def _namespace(self, kind: str) -> str:
        """The number of a namespace of its first process; "" if it can't be read."""
        try:
            return os.readlink(f"/proc/{self._pid()}/ns/{kind}").partition("[")[2].rstrip("]")
        except OSError:
            return ""


def _go_quoted(text: str) -> str:
    """In quotes, as docker shows words (Go's strconv.Quote)."""
    return '"' + clean(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _called(fields: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    return {name: field() for name, field in fields.items()}


def ordered(rows: Sequence[Row], order: str) -> list[Row]:
    """The rows in podman's order. ``order``: as in ``--sort``; created: as they are."""
    keys = {
        "command": lambda row: row.container.command,
        "id": lambda row: row.container.id,
        "image": lambda row: row.container.image,
        "names": lambda row: row.container.name,
        "runningfor": lambda row: row.container.since or 0,
        "size": lambda row: row.size or (0, 0),
        "status": lambda row: row.state,
    }
    return sorted(rows, key=keys[order]) if order in keys else list(rows)
