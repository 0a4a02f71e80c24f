"""``--mount`` in docker's syntax, with podman's additions (pure): ``type=bind,source=/a,target=/b,readonly``."""

from __future__ import annotations

import csv

from lamina.errors import UsageError
from lamina.run.options import (
    NO_ID_MAP,
    PROPAGATIONS,
    Mount,
    check_target,
    parse_size,
    parse_volume_name,
)

_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "rw": "writable",
    "readwrite": "writable",
    "bind-propagation": "propagation",
    "bind-nonrecursive": "flat",
    "bind-recursive": "recursive",
    "bind-create-src": "create",
    "volume-nocopy": "nocopy",
    "volume-label": "label",
    "volume-driver": "driver",
    "volume-opt": "driver option",
    "volume-subpath": "subpath of a volume",
    "image-subpath": "subpath of an image",
    "subpath": "subpath",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
    "tmpcopyup": "copy up",
    "notmpcopyup": "no copy up",
    "chown": "chown",
    "u": "chown",
    "consistency": "",
    "relabel": "",
    "z": "",
    "no-dereference": "",
}
_ONLY = {
    "bind": ("propagation", "flat", "recursive", "create"),
    "volume": ("nocopy", "label", "driver", "driver option", "subpath of a volume"),
    "tmpfs": ("size", "mode", "copy up", "no copy up"),
    "image": ("subpath of an image",),
}
_NOT = {
    "bind": ("subpath",),
    "tmpfs": ("subpath", "chown"),
    "image": ("chown",),
}
_SEVERAL = ("label", "driver option")
_TRUE, _FALSE = ("", "true", "1"), ("false", "0")
_RECURSIVE = ("enabled", "disabled", "writable", "readonly")


def parse_mount(word: str) -> Mount:
    """Raises UsageError."""
    given, pairs = _fields(word)
    kind = given.get("type", "volume")
    if kind not in _ONLY:
        raise UsageError(
            f"--mount {word!r:.200}: unknown type {kind!r:.60}", hint="write type=bind, volume, tmpfs or image"
        )
    for other, keys in _ONLY.items():
        for key in keys:
            if (key in given or key in pairs) and other != kind:
                raise UsageError(f"--mount {word!r:.200}: a {kind} has no {key}", hint=f"use it with type={other}")
    for key in _NOT.get(kind, ()):
        if key in given:
            raise UsageError(f"--mount {word!r:.200}: a {kind} has no {key}", hint="leave it out")
    if "target" not in given:
        raise UsageError(f"--mount {word!r:.200} has no target", hint="write it like type=bind,source=/a,target=/b")
    check_target(given["target"])
    source, target = given.get("source", ""), given["target"]
    options = ["ro"] if _is_true(given, "readonly", word) or not _is_true(given, "writable", word, "true") else []
    if kind == "tmpfs":
        if source:
            raise UsageError(f"--mount {word!r:.200}: a tmpfs has no source", hint="leave source out")
        return Mount("tmpfs", "", target, (*options, *_tmpfs(given, word)))
    if _is_true(given, "chown", word):
        options.append("U")
    if kind == "image":
        return _image(given, word)
    if kind == "volume":
        return _volume(given, pairs, word, options)
    if not source:
        raise UsageError(f"--mount {word!r:.200}: a bind needs a source", hint="add source=PATH, a path of this host")
    recursive = given.get("recursive", "enabled")
    if recursive not in _RECURSIVE:
        raise UsageError(
            f"--mount {word!r:.200}: unknown value {recursive!r:.60} of bind-recursive",
            hint=f"choose one of {', '.join(_RECURSIVE)}",
        )
    if _is_true(given, "flat", word) or recursive == "disabled":
        options.append("bind")
    if _is_true(given, "create", word):
        options.append("create")
    propagation = given.get("propagation", "")
    if propagation and propagation not in PROPAGATIONS:
        raise UsageError(f"unknown propagation {propagation!r:.60}", hint=f"choose one of {', '.join(PROPAGATIONS)}")
    return Mount("bind", source, target, (*options, *filter(None, [propagation])))


def _volume(given: dict[str, str], pairs: dict[str, list[str]], word: str, options: list[str]) -> Mount:
    if _is_true(given, "nocopy", word):
        options.append("nocopy")
    if given.get("driver", "") not in ("", "local"):
        raise UsageError(
            f"--mount {word!r:.200}: there are no drivers of volumes but local", hint="leave volume-driver out"
        )
    return Mount(
        "volume",
        parse_volume_name(given["source"]) if given.get("source") else "",
        given["target"],
        tuple(options),
        subpath=_subpath(given, "subpath of a volume", word),
        labels=tuple(_pairs(pairs.get("label", ()), word).items()),
        driver_options=tuple(_pairs(pairs.get("driver option", ()), word).items()),
    )


def _image(given: dict[str, str], word: str) -> Mount:
    if not given.get("source"):
        raise UsageError(f"--mount {word!r:.200}: an image needs a source", hint="add source=IMAGE")
    writable = _is_true(given, "writable", word) or ("readonly" in given and not _is_true(given, "readonly", word))
    subpath = _subpath(given, "subpath of an image", word)
    return Mount("image", given["source"], given["target"], () if writable else ("ro",), subpath=subpath)


def _subpath(given: dict[str, str], key: str, word: str) -> str:
    """A relative path that does not leave what it is in. Raises UsageError."""
    found = given.get(key) or given.get("subpath", "")
    names = found.split("/")
    if found.startswith("/") or ".." in names or "\0" in found:
        raise UsageError(
            f"--mount {word!r:.200}: {found!r:.100} is not a path inside of it",
            hint="give a relative path without ..",
        )
    return "/".join(name for name in names if name not in ("", "."))


def _pairs(words: list[str] | tuple[str, ...], word: str) -> dict[str, str]:
    found = {}
    for one in words:
        name, _, value = one.partition("=")
        if not name or "\0" in one:
            raise UsageError(f"--mount {word!r:.200}: {one!r:.60} is not NAME=VALUE", hint="write NAME=VALUE")
        found[name] = value
    return found


def _fields(word: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The values by their names in ``_KEYS``; and the values of those that may be given several times."""
    try:
        (fields,) = csv.reader([word], strict=True)
    except (csv.Error, ValueError) as error:
        raise UsageError(
            f"--mount {word!r:.200}: {error}", hint="write it like type=bind,source=/a,target=/b"
        ) from None
    given: dict[str, str] = {}
    pairs: dict[str, list[str]] = {}
    for item in fields:
        key, _, value = item.partition("=")
        key = key.strip().lower()
        if key == "idmap":
            raise UsageError(f"--mount {word!r:.200}: {NO_ID_MAP}", hint="leave it out")
        if key not in _KEYS:
            raise UsageError(f"--mount {word!r:.200}: unknown option {key!r:.60}", hint="see `lamina run --help`")
        name = _KEYS[key]
        if name in _SEVERAL:
            pairs.setdefault(name, []).append(value)
        elif name:
            given[name] = value
    return given, pairs


def _is_true(given: dict[str, str], key: str, word: str, default: str = "false") -> bool:
    value = given.get(key, default).lower()
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
    if _is_true(given, "copy up", word):
        found.append("tmpcopyup")
    return found
