"""Log drivers and their options (pure): which there are, what docker allows, and where the files are."""

from __future__ import annotations

import os

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING, Value, replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.run.options import ContainerOptions

DEFAULT = "local"
DRIVERS = ("local", "json-file", "k8s-file", "journald", "none", "passthrough")
_OTHERS = ("syslog", "gelf", "fluentd", "awslogs", "splunk", "etwlogs", "gcplogs", "logentries")
_COMMON = ("mode", "max-buffer-size", "tag")
_ATTRIBUTES = ("labels", "labels-regex", "env", "env-regex")
_OPTIONS = {
    "local": (*_COMMON, "max-size", "max-file", "compress"),
    "json-file": (*_COMMON, *_ATTRIBUTES, "max-size", "max-file", "compress"),
    "k8s-file": (*_COMMON, "max-size", "max-file", "path"),
    "journald": (*_COMMON, *_ATTRIBUTES),
    "none": (*_COMMON, *_ATTRIBUTES, "max-size", "max-file", "compress", "path"),
    "passthrough": (),
}
_UNITS = "bkmgtp"
_MOST = 1 << 62
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
CRI_NAME = "ctr.log"
"""The name of the file of k8s-file; podman's too."""


class Limits(Value):
    """How large a log becomes: ``size`` in bytes of one file, ``files``: how many files are kept."""

    size: int = _MOST
    files: int = 1


def parse_driver(word: str) -> str:
    """Raises UsageError."""
    if word in DRIVERS:
        return word
    if word in _OTHERS:
        raise UsageError(f"the log driver {word} is not supported", hint="use " + ", ".join(DRIVERS))
    raise UsageError(f"no log driver named {word!r:.60} is registered", hint="use " + ", ".join(DRIVERS))


def parse_options(words: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """``NAME=VALUE``; the last one of a name counts. Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or "\0" in word:
            raise UsageError(f"invalid logging option {word!r:.100}", hint="write NAME=VALUE")
        found[name] = value
    return tuple(found.items())


def chosen(wanted: ContainerOptions, default: str) -> ContainerOptions:
    """``wanted`` with the log driver ``default`` if it names none, and its options checked. Raises UsageError."""
    from lamina.run.logs.attributes import check as check_attributes

    driver = wanted.log_driver or default
    check(driver, wanted.log_options)
    check_attributes(wanted.log_options)
    return replace(wanted, log_driver="" if driver == DEFAULT and not wanted.log_driver else driver)


def check(driver: str, options: tuple[tuple[str, str], ...]) -> None:
    """Raises UsageError, as docker does when a container is created."""
    known = _OPTIONS[driver]
    for name, _ in options:
        if name not in known:
            raise UsageError(
                f"unknown log opt {name!r:.60} for {driver} log driver",
                hint="use " + ", ".join(known) if known else "leave it out",
            )
    given = dict(options)
    mode = given.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise UsageError(f"log opt mode: {mode!r:.60} is not a mode", hint="use blocking or non-blocking")
    if "max-buffer-size" in given:
        if mode != "non-blocking":
            raise UsageError("log opt max-buffer-size needs mode=non-blocking", hint="give both")
        parse_size(given["max-buffer-size"], "max-buffer-size")
    if not given.get("path", "/").startswith("/"):
        raise UsageError(f"log opt path: {given['path']!r:.200} is not absolute", hint="give an absolute path")
    limits = limits_of(options)
    if given.get("compress", "false") not in (*_TRUE, *_FALSE):
        raise UsageError(f"log opt compress: {given['compress']!r:.60} is neither true nor false", hint="use one")
    if driver == "json-file" and given.get("compress") in _TRUE and (limits.files < 2 or limits.size == _MOST):
        raise UsageError(
            "log opt compress needs max-size and max-file of at least 2", hint="give both, or leave compress out"
        )


def limits_of(options: Iterable[tuple[str, str]]) -> Limits:
    """Raises UsageError."""
    given = dict(options)
    size, files = _MOST, 1
    if given.get("max-size", "-1") not in ("-1", ""):
        size = parse_size(given["max-size"], "max-size")
    if "max-file" in given:
        text = given["max-file"]
        if not (text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) < 7):
            raise UsageError(f"log opt max-file: {text!r:.60} is not a number of files", hint="give at least 1")
        files = int(text)
    return Limits(size, files)


def parse_size(text: str, name: str) -> int:
    """Bytes: ``10m``, ``512k``, ``1.5g``; also ``10mb`` and ``10MiB``. Raises UsageError."""
    lower = text.strip().lower()
    for end in ("ib", "b"):
        if lower.endswith(end) and lower.removesuffix(end)[-1:] in tuple("kmgtp"):
            lower = lower.removesuffix(end)
            break
    unit = lower[-1:] if lower[-1:] in tuple(_UNITS) else ""
    number = lower.removesuffix(unit).strip()
    whole, _, part = number.partition(".")
    digits = whole + part
    if not (digits.isascii() and digits.isdigit() and whole and len(digits) < 20):
        raise UsageError(f"log opt {name}: {text!r:.60} is not a size", hint="write it like 10m")
    size = int(float(number) * (1 << 10 * _UNITS.index(unit or "b")))
    if not 0 < size < _MOST:
        raise UsageError(f"log opt {name}: {text!r:.60} is not a possible size", hint="write it like 10m")
    return size


def log_path(directory: str, driver: str, options: Iterable[tuple[str, str]], identity: str) -> str:
    """The path that `inspect` shows: the file that other programs can read, "" if there is none. ``directory``:
    the container's log directory."""
    given = dict(options)
    if driver == "json-file":
        return os.path.join(directory, f"{identity}-json.log")
    if driver == "k8s-file":
        return given.get("path") or os.path.join(directory, CRI_NAME)
    return ""
