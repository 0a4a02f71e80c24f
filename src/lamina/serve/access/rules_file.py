"""The file of rules (``--access FILE``, TOML) as ``Rules`` (pure but for the reading of the text)."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lamina.errors import LaminaError, UsageError
from lamina.serve.access.patterns import RepositoryPattern, is_tag_pattern
from lamina.serve.access.rules import ACTIONS, ANYONE, USERS, ImmutableTags, Limits, Quota, Rule, Rules
from lamina.settings import parse_size

MAX_FILE = 1 << 20
_HINT = "correct the file; see docs/serve-access.md"
T = TypeVar("T")


def parse_rules(raw: bytes, path: str) -> Rules:
    """Parse the file. Raises UsageError, which names the file and the entry."""
    if len(raw) > MAX_FILE:
        raise UsageError(f"{path} is larger than {MAX_FILE} bytes", hint=_HINT)
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}", hint=_HINT) from None
    _only(values, {"groups", "rules", "immutable", "quotas", "limits"}, path)
    groups = _groups(values.get("groups", {}), path)
    return Rules(
        tuple(_each(values, "rules", path, lambda entry, at: _rule(entry, groups, at))),
        groups,
        tuple(_each(values, "immutable", path, _immutable)),
        tuple(_each(values, "quotas", path, _quota)),
        _limits(values.get("limits", {}), f"{path}: limits"),
    )


def _groups(value: object, path: str) -> dict[str, frozenset[str]]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: groups is not a table", hint=_HINT)
    return {name: frozenset(_texts(members, f"{path}: group {name!r:.60}")) for name, members in value.items()}


def _each(values: Mapping[str, Any], key: str, path: str, make: Callable[[dict[str, Any], str], T]) -> list[T]:
    entries = values.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: {key} is not a list of tables", hint=f"write [[{key}]] before each")
    return [make(entry, f"{path}: entry {number} of {key}") for number, entry in enumerate(entries, 1)]


def _rule(entry: dict[str, Any], groups: Mapping[str, frozenset[str]], at: str) -> Rule:
    _only(entry, {"repositories", "who", "actions"}, at)
    who, actions = _texts(entry.get("who"), f"{at}: who"), _texts(entry.get("actions"), f"{at}: actions")
    for name in who:
        if name.startswith("@") and name[1:] not in groups:
            raise UsageError(f"{at}: there is no group {name[1:]!r:.60}", hint="add it to [groups]")
        if not name.startswith("@") and name not in (ANYONE, USERS) and not is_user_name(name):
            raise UsageError(f"{at}: {name!r:.60} is not a user name", hint=_HINT)
    for action in actions:
        if action not in ACTIONS:
            raise UsageError(f"{at}: unknown action {action!r:.60}", hint="use pull, push, delete or admin")
    return Rule(frozenset(who), _repositories(entry, at), frozenset(actions))


def _immutable(entry: dict[str, Any], at: str) -> ImmutableTags:
    _only(entry, {"repositories", "tags"}, at)
    tags = _texts(entry.get("tags"), f"{at}: tags")
    for tag in tags:
        if not is_tag_pattern(tag):
            raise UsageError(f"{at}: {tag!r:.60} is not a pattern of tags", hint="write it like v* or 1.?.0")
    return ImmutableTags(_repositories(entry, at), tuple(tags))


def _quota(entry: dict[str, Any], at: str) -> Quota:
    _only(entry, {"repositories", "size", "each"}, at)
    each = entry.get("each", False)
    if not isinstance(each, bool):
        raise UsageError(f"{at}: each is neither true nor false", hint=_HINT)
    return Quota(_repositories(entry, at), _size(entry.get("size"), f"{at}: size"), each)


def _limits(entry: object, at: str) -> Limits:
    if not isinstance(entry, dict):
        raise UsageError(f"{at} is not a table", hint=_HINT)
    _only(entry, {"requests", "burst", "manifest", "layers"}, at)
    requests = entry.get("requests")
    if requests is not None and (
        isinstance(requests, bool) or not isinstance(requests, int | float) or not 0 < requests <= 1e6
    ):
        raise UsageError(f"{at}: requests is not a number of requests a second", hint="write it like 50 or 0.5")
    return Limits(
        requests,
        _count(entry.get("burst", 200), f"{at}: burst"),
        None if "manifest" not in entry else _size(entry["manifest"], f"{at}: manifest"),
        None if "layers" not in entry else _count(entry["layers"], f"{at}: layers"),
    )


def _repositories(entry: dict[str, Any], at: str) -> tuple[RepositoryPattern, ...]:
    patterns = []
    for text in _texts(entry.get("repositories"), f"{at}: repositories"):
        try:
            patterns.append(RepositoryPattern.parse(text))
        except UsageError as error:
            raise UsageError(f"{at}: {error.message}", hint=error.hint) from None
    return tuple(patterns)


def _texts(value: object, at: str) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise UsageError(f"{at}: this must be a text or a list of texts that is not empty", hint=_HINT)
    return value


def _count(value: object, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 40:
        raise UsageError(f"{at}: {value!r:.60} is not a number greater than 0", hint=_HINT)
    return value


def _size(value: object, at: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60:
        return value
    try:
        if isinstance(value, str):
            return parse_size(value)
    except LaminaError as error:
        raise UsageError(f"{at}: {error.message}", hint=error.hint) from None
    raise UsageError(f"{at}: {value!r:.60} is not a size", hint='write it like 20_000_000 or "20GB"')


def _only(values: Mapping[str, Any], known: set[str], at: str) -> None:
    for name in values:
        if name not in known:
            raise UsageError(f"{at}: unknown key {name!r:.60}", hint="use " + ", ".join(sorted(known)))


def is_user_name(name: str) -> bool:
    """Whether a user can have this name: printable, without a colon (RFC 7617), and nothing that rules use for
    several."""
    return (
        0 < len(name) <= 128
        and name.isprintable()
        and ":" not in name
        and not name.startswith("@")
        and name not in (ANYONE, USERS)
    )
