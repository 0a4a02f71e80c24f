"""Compares the configs and histories of two images (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.light import replace
from lamina.spec.image_config import History, ImageConfig

_APART = frozenset({"history", "rootfs"})  # compared as history steps and as files
_MAX_WORK = 1_000_000  # pairs of steps; histories with more differing pairs are not aligned


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A changed field, such as ``config.Env.PATH``; ``before`` and ``after`` are JSON values, None if not set."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class StepChange:
    """A changed history step; ``how`` is "added" or "removed"."""

    how: str
    step: History


def diff_configs(before: ImageConfig, after: ImageConfig, *, created: bool = True) -> list[ConfigChange]:
    """Compare field by field, including fields that lamina doesn't know; ``Env`` by variable. Null counts
    as absent."""
    ours, theirs = _flat(before), _flat(after)
    if not created:
        ours.pop("created", None)
        theirs.pop("created", None)
    return [
        ConfigChange(field, ours.get(field), theirs.get(field))
        for field in sorted(ours.keys() | theirs.keys())
        if ours.get(field) != theirs.get(field)
    ]


def diff_histories(before: Sequence[History], after: Sequence[History], *, created: bool = True) -> list[StepChange]:
    """Return removed and added steps, in order."""
    ours, theirs = list(before), list(after)
    if not created:
        ours = [replace(step, created=None) for step in ours]
        theirs = [replace(step, created=None) for step in theirs]
    start = 0
    while start < min(len(ours), len(theirs)) and ours[start] == theirs[start]:
        start += 1
    end = 0
    while end < min(len(ours), len(theirs)) - start and ours[-1 - end] == theirs[-1 - end]:
        end += 1
    old, new = before[start : len(ours) - end], after[start : len(theirs) - end]
    keys = ours[start : len(ours) - end], theirs[start : len(theirs) - end]
    blocks = [("replace", 0, len(old), 0, len(new))]
    if len(old) * len(new) <= _MAX_WORK:
        from difflib import SequenceMatcher

        blocks = SequenceMatcher(None, *keys, autojunk=False).get_opcodes()  # type: ignore[assignment]
    found = []
    for how, low, high, other_low, other_high in blocks:
        if how != "equal":
            found += [StepChange("removed", step) for step in old[low:high]]
            found += [StepChange("added", step) for step in new[other_low:other_high]]
    return found


def _flat(config: ImageConfig) -> dict[str, Any]:
    found = {key: value for key, value in config.json.items() if key not in _APART and key != "config"}
    for key, value in (config.json.get("config") or {}).items():
        if key == "Env":
            found |= {f"config.Env.{name}": text for name, text in config.environment.items()}
        elif key == "Labels" and isinstance(value, Mapping):
            found |= {f"config.Labels.{name}": text for name, text in value.items()}
        else:
            found[f"config.{key}"] = value
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}
