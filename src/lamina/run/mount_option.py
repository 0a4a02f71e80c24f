"""``--mount`` in docker's syntax (pure): ``type=bind,source=/a,target=/b,readonly``."""

from __future__ import annotations

import csv

from lamina.errors import UsageError
from lamina.run.options import PROPAGATIONS, Mount, check_target, parse_size, parse_volume_name

_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "bind-propagation": "propagation",
    "bind-nonrecursive": "flat",
    "bind-recursive": "recursive",
    "volume-nocopy": "nocopy",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
    "consistency": "",
    "relabel": "",
    "z": "",
}
_ONLY = {"bind": ("propagation", "flat", "recursive"), "volume": ("nocopy",), "tmpfs": ("size", "mode")}
_UNSUPPORTED = {
    "volume-driver": "volumes have no drivers",
    "volume-opt": "volumes have no drivers",
    "volume-subpath": "only whole volumes can be mounted",
    "volume-label": "volumes have no labels yet",
    "image-subpath": "images can't be mounted into a container yet",
}
_TRUE, _FALSE = ("", "true", "1"), ("false", "0")


def parse_mount(word: str) -> Mount:
    """Raises UsageError."""
    given = _fields(word)
    kind = given.get("type", "volume")
    if kind not in _ONLY:
        raise UsageError(
            f"--mount {word!r:.200}: unknown type {kind!r:.60}", hint="write type=bind, type=volume or type=tmpfs"
        )
    for other, keys in _ONLY.items():
        for key in keys:
            if key in given and other != kind:
                raise UsageError(f"--mount {word!r:.200}: a {kind} has no {key}", hint=f"use it with type={other}")
    if "target" not in given:
        raise UsageError(f"--mount {word!r:.200} has no target", hint="write it like type=bind,source=/a,target=/b")
    check_target(given["target"])
    source = given.get("source", "")
    options = ["ro"] if _is_true(given, "readonly", word) else []
    if kind == "tmpfs":
        if source:
            raise UsageError(f"--mount {word!r:.200}: a tmpfs has no source", hint="leave source out")
        return Mount("tmpfs", "", given["target"], (*options, *_tmpfs(given, word)))
    if kind == "volume":
        if _is_true(given, "nocopy", word):
            options.append("nocopy")
        return Mount("volume", parse_volume_name(source) if source else "", given["target"], tuple(options))
    if not source:
        raise UsageError(f"--mount {word!r:.200}: a bind needs a source", hint="add source=PATH, a path of this host")
    if _is_true(given, "flat", word) or given.get("recursive") == "disabled":
        options.append("bind")
    propagation = given.get("propagation", "")
    if propagation and propagation not in PROPAGATIONS:
        raise UsageError(f"unknown propagation {propagation!r:.60}", hint=f"choose one of {', '.join(PROPAGATIONS)}")
    return Mount("bind", source, given["target"], (*options, *filter(None, [propagation])))


def _fields(word: str) -> dict[str, str]:
    try:
        (fields,) = csv.reader([word], strict=True)
    except (csv.Error, ValueError) as error:
        raise UsageError(
            f"--mount {word!r:.200}: {error}", hint="write it like type=bind,source=/a,target=/b"
        ) from None
    given: dict[str, str] = {}
    for item in fields:
        key, _, value = item.partition("=")
        key = key.strip().lower()
        if key in _UNSUPPORTED:
            raise UsageError(f"--mount {key}: {_UNSUPPORTED[key]}", hint="leave it out")
        if key not in _KEYS:
            raise UsageError(f"--mount {word!r:.200}: unknown option {key!r:.60}", hint="see `lamina run --help`")
        if _KEYS[key]:
            given[_KEYS[key]] = value
    return given


def _is_true(given: dict[str, str], key: str, word: str) -> bool:
    value = given.get(key, "false").lower()
    if value not in (*_TRUE, *_FALSE):
        raise UsageError(
            f"--mount {word!r:.200}: {value!r:.60} is neither true nor false", hint="write true or false"
        )
    return value in _TRUE


def _tmpfs(given: dict[str, str], word: str) -> list[str]:
    found = []
    if "size" in given:
        found.append(f"size={parse_size(given['size'])}")
    if "mode" in given:
        mode = given["mode"].removeprefix("0o")
        if not mode or len(mode) > 5 or set(mode) - set("01234567"):
            raise UsageError(
                f"--mount {word!r:.200}: {mode!r:.60} is not a mode", hint="write it in octal, like 1777"
            )
        found.append(f"mode={mode}")
    return found
