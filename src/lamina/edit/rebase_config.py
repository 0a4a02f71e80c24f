"""The run config of an image on another base: three configs become one (pure).

What the image sets itself is kept; what it inherited from its old base is replaced by the value of the new base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MAPS = ("ExposedPorts", "Volumes", "Labels")
Field = tuple[str, ...]
Values = dict[Field, Any]


@dataclass(frozen=True, slots=True)
class BaseDifference:
    """A field in which the two bases differ: its value in the old base, in the new one, and in the image before; None
    if absent. ``conflict``: an environment variable to which the image gives its own value, usually derived from the
    old base's (PATH). That value is kept, and hides the base's change."""

    field: str
    old: Any
    new: Any
    own: Any
    conflict: bool


def merged_run_config(
    old: Mapping[str, Any], new: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[dict[str, Any], list[BaseDifference]]:
    """Return the ``config`` object of the image on the new base, and the differences between the bases. ``old``,
    ``new`` and ``own`` are the objects of the old base, the new base and the image. Variables, labels, ports and
    volumes are merged one by one; every other field, known or not, as a whole."""
    before, after, mine = _values(old), _values(new), _values(own)
    found: list[BaseDifference] = []
    kept: Values = {}
    for field in [*after, *(name for name in mine if name not in after), *before]:
        if field in kept:
            continue
        changed = mine.get(field) != before.get(field)
        value = mine.get(field) if changed else after.get(field)
        kept[field] = value
        if before.get(field) != after.get(field):
            conflict = field[0] == "Env" and changed and mine.get(field) != after.get(field)
            found.append(
                BaseDifference(" ".join(field), before.get(field), after.get(field), mine.get(field), conflict)
            )
    return _object({field: value for field, value in kept.items() if value is not None}), found


def _values(run: Mapping[str, Any]) -> Values:
    found: Values = {}
    for key, value in run.items():
        if value is None:
            continue
        if key == "Env" and isinstance(value, list):
            for line in value:
                found["Env", str(line).partition("=")[0]] = line
        elif key in _MAPS and isinstance(value, dict):
            for name, item in value.items():
                found[key, name] = "" if item is None else item
        else:
            found[(key,)] = value
    return found


def _object(values: Values) -> dict[str, Any]:
    run: dict[str, Any] = {}
    for field, value in values.items():
        if len(field) == 1:
            run[field[0]] = value
        elif field[0] == "Env":
            run.setdefault("Env", []).append(value)
        else:
            run.setdefault(field[0], {})[field[1]] = value
    return run
