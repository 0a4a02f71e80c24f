"""Devices by name: the Container Device Interface (cncf-tags/container-device-interface, SPEC.md).

Files in /etc/cdi and /var/run/cdi define what a device ``VENDOR/CLASS=NAME`` adds to a container: device nodes,
mounts, variables, hooks, groups. Files in /var/run/cdi take precedence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lamina.errors import InvalidDocument, LaminaError, NotFound, UsageError
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, pattern
from lamina.run.options import Edits, Hook, Mount, Node

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_ENDINGS = (".json", ".yaml", ".yml")
_MAX_FILE = 8 << 20
_MAX_FILES = 1000
_KIND = pattern(r"[a-zA-Z]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?/[a-zA-Z]([a-zA-Z0-9_-]*[a-zA-Z0-9])?")
_NAME = pattern(r"[a-zA-Z0-9]([a-zA-Z0-9_.:-]*[a-zA-Z0-9])?")
_VERSION = pattern(r"v?[0-9]+\.[0-9]+\.[0-9]+")
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_ALL_GPUS = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class CdiFile:
    """A CDI file: what all of its devices add, and what each device adds in addition, by name."""

    path: str
    kind: str
    common: Edits
    devices: Mapping[str, Edits]


def is_name(word: str) -> bool:
    """Whether a value of ``--device`` is the name of a CDI device (pure)."""
    kind, equals, name = word.partition("=")
    return bool(equals and _KIND.fullmatch(kind) and _NAME.fullmatch(name))


def gpus(word: str) -> list[str]:
    """The CDI names that docker's ``--gpus`` asks for (pure): all, a count, or ``device=0,1``. Raises UsageError."""
    word = word.strip('"')
    chosen = ""
    names: list[str] = []
    for item in word.split(","):
        key, equals, value = item.partition("=")
        if not equals and key == "all":
            chosen = "all"
        elif not equals and key.isascii() and key.isdigit() and not names:
            chosen = key
        elif not equals and names:
            names.append(key)
        elif key == "count":
            chosen = "all" if value in ("all", "-1") else value
        elif key in ("device", "devices"):
            names.append(value)
        elif key not in ("capabilities", "driver", "options"):
            raise UsageError(
                f"--gpus {word!r:.100} does not say which GPUs", hint="write all, a number, or device=0,1"
            )
    if chosen and chosen != "all":
        if not (chosen.isascii() and chosen.isdigit()) or len(chosen) > 3:
            raise UsageError(
                f"--gpus {word!r:.100} does not say which GPUs", hint="write all, a number, or device=0,1"
            )
        names += [str(number) for number in range(int(chosen))]
    elif chosen:
        names.append(chosen)
    found = [f"{_ALL_GPUS}={name}" for name in names]
    if not found or not all(map(is_name, found)):
        raise UsageError(f"--gpus {word!r:.100} does not say which GPUs", hint="write all, a number, or device=0,1")
    return found


def edits_of(
    names: Iterable[str],
    directories: Sequence[str] = DIRECTORIES,
    on_warning: Callable[[str], object] = lambda text: None,
) -> Edits:
    """What the named devices add to a container. A malformed file is a warning if other files define the devices.
    Raises NotFound, InvalidDocument (a malformed file, and no other file has the device), UsageError (two files
    have it), SystemFailure."""
    found, malformed = _read_all(directories)
    wanted = list(dict.fromkeys(names))
    parts: list[Edits] = []
    for word in wanted:
        kind, _, name = word.partition("=")
        file = _file_with_device(found, kind, name)
        if file is None:
            if malformed:
                raise malformed[0]
            raise _unknown(word, found, directories)
        if file.common not in parts:
            parts.append(file.common)
        parts.append(file.devices[name])
    for error in malformed:
        on_warning(str(error))
    return Edits(
        tuple(item for one in parts for item in one.env),
        tuple(item for one in parts for item in one.nodes),
        tuple(item for one in parts for item in one.mounts),
        tuple(item for one in parts for item in one.hooks),
        tuple(dict.fromkeys(item for one in parts for item in one.groups)),
    )


def _file_with_device(found: Sequence[Sequence[CdiFile]], kind: str, name: str) -> CdiFile | None:
    for directory in reversed(found):
        holders = [one for one in directory if one.kind == kind and name in one.devices]
        if len(holders) > 1:
            raise UsageError(
                f"the device {kind}={name} is in {holders[0].path} and in {holders[1].path}",
                hint="remove one of the files",
            )
        if holders:
            return holders[0]
    return None


def _unknown(word: str, found: Sequence[Sequence[CdiFile]], directories: Sequence[str]) -> NotFound:
    known = sorted({f"{one.kind}={name}" for directory in found for one in directory for name in one.devices})
    here = f"known: {', '.join(known[:8])}" if known else "no CDI file is there"
    hint = "`nvidia-ctk cdi generate` makes one" if word.startswith(_ALL_GPUS) else "check the name, or make its file"
    return NotFound(
        f"the CDI device {word!r:.100} was not found in {' or '.join(directories)} ({here:.300})", hint=hint
    )


def _read_all(directories: Sequence[str]) -> tuple[list[list[CdiFile]], list[LaminaError]]:
    found, malformed = [], []
    for directory in directories:
        here: list[CdiFile] = []
        for name in _names(directory):
            path = os.path.join(directory, name)
            try:
                here.append(parse(_load(path), path))
            except LaminaError as error:
                malformed.append(error)
        found.append(here)
    return found, malformed


def _names(directory: str) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(_ENDINGS))
    except OSError:
        return []
    return names[:_MAX_FILES]


def _load(path: str) -> object:
    """Raises InvalidDocument, SystemFailure."""
    with reported(path), open(path, "rb", opener=_opened) as file:
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise InvalidDocument(f"the CDI file {path} is larger than {_MAX_FILE >> 20} MiB", hint="make it smaller")
    if path.endswith(".json"):
        from lamina.spec.json import load

        return load(data, f"the CDI file {path}")
    import yaml

    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = " ".join(str(error).split())
        raise InvalidDocument(f"the CDI file {path} is not YAML: {where:.200}", hint="correct the file") from None


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def parse(value: object, path: str) -> CdiFile:
    """A CDI file's content (pure). Raises InvalidDocument."""
    fields = _FieldReader(path)
    top = fields.map(value, "the file")
    if not _VERSION.fullmatch(fields.text(top, "cdiVersion")):
        raise fields.wrong("cdiVersion", "a version like 0.8.0")
    kind = fields.text(top, "kind")
    if not _KIND.fullmatch(kind):
        raise fields.wrong("kind", "VENDOR/CLASS")
    devices: dict[str, Edits] = {}
    for number, item in enumerate(fields.list(top, "devices")):
        where = f"devices[{number}]"
        one = fields.map(item, where)
        name = fields.text(one, "name", where)
        if not _NAME.fullmatch(name):
            raise fields.wrong(f"{where}.name", "letters, digits, _ . : and -")
        if name in devices:
            raise fields.wrong(f"{where}.name", "a name that no other device has")
        devices[name] = _edits(fields, one.get("containerEdits"), f"{where}.containerEdits")
    if not devices:
        raise fields.wrong("devices", "a list of devices")
    return CdiFile(path, kind, _edits(fields, top.get("containerEdits"), "containerEdits"), devices)


def _edits(fields: _FieldReader, value: object, where: str) -> Edits:
    if value is None:
        return Edits()
    given = fields.map(value, where)
    env = tuple(fields.texts(given, "env", where))
    for item in env:
        if "=" not in item[1:] or "\0" in item:
            raise fields.wrong(f"{where}.env", "a list of NAME=VALUE")
    return Edits(
        env,
        tuple(
            _node(fields, item, f"{where}.deviceNodes[{n}]")
            for n, item in enumerate(fields.list(given, "deviceNodes"))
        ),
        tuple(_mount(fields, item, f"{where}.mounts[{n}]") for n, item in enumerate(fields.list(given, "mounts"))),
        tuple(_hook(fields, item, f"{where}.hooks[{n}]") for n, item in enumerate(fields.list(given, "hooks"))),
        tuple(_group(fields, item, where) for item in fields.list(given, "additionalGids")),
    )


def _node(fields: _FieldReader, value: object, where: str) -> Node:
    given = fields.map(value, where)
    path = fields.path(given, "path", where)
    kind = fields.text(given, "type", where, "")
    if kind not in ("", "b", "c", "u", "p"):
        raise fields.wrong(f"{where}.type", "b, c, u or p")
    access = fields.text(given, "permissions", where, "") or "rwm"
    if set(access) - set("rwm"):
        raise fields.wrong(f"{where}.permissions", "of r, w and m")
    return Node(
        path,
        fields.path(given, "hostPath", where, path),
        "c" if kind == "u" else kind,
        fields.number(given, "major", where) or 0,
        fields.number(given, "minor", where) or 0,
        access,
        fields.number(given, "fileMode", where),
        fields.number(given, "uid", where),
        fields.number(given, "gid", where),
    )


def _mount(fields: _FieldReader, value: object, where: str) -> Mount:
    given = fields.map(value, where)
    source, target = fields.path(given, "hostPath", where), fields.path(given, "containerPath", where)
    options = tuple(fields.texts(given, "options", where))
    kind = fields.text(given, "type", where, "")
    if kind == "tmpfs":
        return Mount("tmpfs", "", target, options)
    if kind not in ("", "bind", "none"):
        raise fields.wrong(f"{where}.type", "bind or tmpfs")
    return Mount("bind", source, target, tuple(one for one in options if one not in ("rbind", "rw")))


def _hook(fields: _FieldReader, value: object, where: str) -> Hook:
    given = fields.map(value, where)
    name = fields.text(given, "hookName", where)
    if name not in _HOOKS:
        raise fields.wrong(f"{where}.hookName", f"one of {', '.join(_HOOKS)}")
    return Hook(
        name,
        fields.path(given, "path", where),
        tuple(fields.texts(given, "args", where)),
        tuple(fields.texts(given, "env", where)),
        fields.number(given, "timeout", where),
    )


def _group(fields: _FieldReader, value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise fields.wrong(f"{where}.additionalGids", "numbers of groups")
    return value


class _FieldReader:
    """Reads the fields of one file. Errors name the field."""

    def __init__(self, file: str) -> None:
        self._file = file

    def wrong(self, where: str, expected: str) -> InvalidDocument:
        return InvalidDocument(
            f"the CDI file {self._file} is malformed: {where} must be {expected}",
            hint="correct the file",
        )

    def map(self, value: object, where: str) -> Mapping[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.wrong(where, "an object")
        return value

    def list(self, given: Mapping[str, Any], key: str) -> Sequence[Any]:
        value = given.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value

    def text(self, given: Mapping[str, Any], key: str, where: str = "", default: str | None = None) -> str:
        value = given.get(key, default)
        if not isinstance(value, str) or "\0" in value:
            raise self.wrong(f"{where}.{key}" if where else key, "a string")
        return value

    def texts(self, given: Mapping[str, Any], key: str, where: str) -> Sequence[str]:
        found = self.list(given, key)
        if not all(isinstance(item, str) and "\0" not in item for item in found):
            raise self.wrong(f"{where}.{key}", "a list of strings")
        return found

    def path(self, given: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
        found = self.text(given, key, where, default)
        if not found.startswith("/") or "/../" in f"{found}/" or not found.strip("/"):
            raise self.wrong(f"{where}.{key}", "an absolute path")
        return found

    def number(self, given: Mapping[str, Any], key: str, where: str) -> int | None:
        value = given.get(key)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < 1 << 32:
            raise self.wrong(f"{where}.{key}", "a number")
        return value
