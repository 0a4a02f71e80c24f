"""What a log holds about its container (pure): docker's ``--log-opt labels, labels-regex, env, env-regex, tag``."""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING, pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CHOOSING = frozenset(("labels", "labels-regex", "env", "env-regex", "tag"))
_FIELD = pattern(r"\{\{\s*\.([A-Za-z]+)\s*\}\}")


RESOLVED = "attributes"
"""The option in which ``resolved`` puts what the lines of the log are to hold, as JSON."""


def resolved(
    options: Iterable[tuple[str, str]],
    *,
    identity: str,
    name: str,
    image: str,
    image_id: str = "",
    command: Iterable[str] = (),
    labels: Mapping[str, str],
    env: Iterable[str],
) -> tuple[tuple[str, str], ...]:
    """The options as ``writer.open_writer`` takes them: the labels and variables that they ask for, and the tag, in
    place of how to choose them. ``env``: NAME=VALUE. Raises UsageError (a bad tag or regular expression)."""
    given = dict(options)
    if not given.keys() & _CHOOSING:
        return tuple(given.items())
    fields = {
        "ID": identity[:12],
        "FullID": identity,
        "Name": name,
        "ImageName": image,
        "ImageFullID": image_id,
        "ImageID": image_id.removeprefix("sha256:")[:12],
        "DaemonName": "lamina",
        "Command": " ".join(command),
    }
    found = _chosen(given, "labels", labels)
    found |= _chosen(given, "env", dict(one.partition("=")[::2] for one in env))
    rest = {key: value for key, value in given.items() if key not in _CHOOSING}
    if given.get("tag"):
        found["tag"] = rest["tag"] = _tag(given["tag"], fields)
    if found:
        rest[RESOLVED] = _json(found)
    return tuple(rest.items())


def check(options: Iterable[tuple[str, str]]) -> None:
    """Raises UsageError (a bad tag or regular expression)."""
    resolved(options, identity="", name="", image="", labels={}, env=())


def _tag(template: str, fields: Mapping[str, str]) -> str:
    for match in _FIELD.finditer(template):
        if match[1] not in fields:
            raise UsageError(f"log opt tag: no field .{match[1]:.60}", hint="use " + ", ".join(fields))
    text = _FIELD.sub(lambda match: fields[match[1]], template)
    if "{{" in _FIELD.sub("", template):
        raise UsageError(f"log opt tag: {template!r:.100} has more than fields", hint="write it like {{.Name}}")
    return text


def _chosen(given: Mapping[str, str], kind: str, values: Mapping[str, str]) -> dict[str, str]:
    names = [name for name in given.get(kind, "").split(",") if name]
    found = {name: values[name] for name in names if name in values}
    if given.get(f"{kind}-regex"):
        import re

        try:
            expression = re.compile(given[f"{kind}-regex"])
        except re.error as error:
            raise UsageError(f"log opt {kind}-regex: {error}", hint="correct the regular expression") from None
        found |= {name: value for name, value in values.items() if expression.search(name)}
    return found


def _json(values: Mapping[str, str]) -> str:
    """As Go writes it."""
    from json import dumps

    text = dumps(values, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    for one in "<>&":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text
