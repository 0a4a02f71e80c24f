"""The fields that `inspect` shows are docker's and have docker's values: for containers, volumes and networks of many
kinds (`corpus/inspect.txt`). What is meant to differ is in a table of docs/inspect.md, and in ``MEANT``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sequences import Answer, Engine, played, sequences

pytestmark = pytest.mark.peer
TESTS = Path(__file__).parent.parent
SECTIONS = sequences((TESTS / "corpus/inspect.txt").read_text())
DOCUMENTED = TESTS.parent / "docs/inspect.md"
_PLACES = {name: 500 + number for number, name in enumerate(name for one in SECTIONS.values() for name in one)}
_AT_ONCE = 4
_NONE = object()
"""The value of a field that is not there."""


def is_any(theirs: Any, ours: Any) -> bool:
    return True


def is_ours_alone(theirs: Any, ours: Any) -> bool:
    return theirs is _NONE


def is_theirs_alone(theirs: Any, ours: Any) -> bool:
    return ours in (_NONE, "", None) and theirs not in (_NONE, "", None)


def pair(theirs: Any, ours: Any) -> Callable[[Any, Any], bool]:
    return lambda one, other: (one, other) == (theirs, ours)


def same_capabilities(theirs: list[str], ours: list[str]) -> bool:
    return [name.upper().removeprefix("CAP_") for name in theirs] == [name.removeprefix("CAP_") for name in ours]


def has_fewer(theirs: list[str] | None, ours: list[str] | None) -> bool:
    """Whether only options without an effect are left out."""
    return {*(theirs or ())} - {*(ours or ())} <= {"label=disable", "apparmor=unconfined"}


def no_word_alone(theirs: list[str], ours: list[str]) -> bool:
    return sorted(word for word in theirs if "=" in word) == sorted(ours)


Check = Callable[[Any, Any], bool]
MEANT: dict[str, dict[str, Check]] = {
    "Containers": {
        "AppArmorProfile": pair("unconfined", ""),
        "Config.Env": no_word_alone,
        "Config.Labels.*": is_ours_alone,
        "Driver": lambda theirs, ours: isinstance(ours, str),
        "GraphDriver.*": lambda theirs, ours: isinstance(ours, str) or ours is _NONE,
        "HostConfig.CapAdd": same_capabilities,
        "HostConfig.CapDrop": same_capabilities,
        "HostConfig.CgroupnsMode": pair("host", "private"),
        "HostConfig.LogConfig.Type": pair("json-file", "local"),
        "HostConfig.MaskedPaths": lambda theirs, ours: {*theirs} < {*ours},
        "HostConfig.Runtime": pair("runc", ""),
        "HostConfig.SecurityOpt": has_fewer,
        "ImageDigest": is_ours_alone,
        "ImageName": is_ours_alone,
        "LogPath": pair("<path>", ""),
        "NetworkSettings.EndpointID": is_theirs_alone,
        "NetworkSettings.Gateway": is_theirs_alone,
        "NetworkSettings.IPAddress": is_theirs_alone,
        "NetworkSettings.IPPrefixLen": pair(16, 0),
        "NetworkSettings.MacAddress": is_theirs_alone,
        "NetworkSettings.Networks.*.DriverOpts": pair({}, None),
        "NetworkSettings.Networks.bridge.Gateway": is_theirs_alone,
        "NetworkSettings.Networks.bridge.IPAddress": is_theirs_alone,
        "NetworkSettings.Networks.bridge.IPPrefixLen": pair(16, 0),
        "NetworkSettings.Networks.bridge.MacAddress": is_theirs_alone,
        "NetworkSettings.Networks.*.EndpointID": is_theirs_alone,
        "NetworkSettings.Networks.*.NetworkID": is_theirs_alone,
        "NetworkSettings.SandboxID": is_theirs_alone,
        "NetworkSettings.SandboxKey": lambda theirs, ours: ours == "" or ours.endswith("/ns/net"),
        "Pod": is_ours_alone,
        "State.Error": lambda theirs, ours: "" not in (theirs, ours),
    },
    "Networks": {
        "Attachable": pair(True, False),
        "Created": lambda theirs, ours: ours.startswith("0001-"),
        "Driver": pair("bridge", "pasta"),
        "IPAM.Config": pair(_NONE, []),
        "IPAM.Config.*.Gateway": is_any,
        "IPAM.Config.*.Subnet": is_any,
        "Options": is_any,
        "Options.*": is_any,
    },
}
"""For each table of docs/inspect.md and each of its fields: whether these values are what is meant."""
IN_ANY_ORDER = ("Config.Env", "HostConfig.Binds", "Config.OnBuild", "HostConfig.Ulimits")
"""Lists of which docker has no order."""


@pytest.fixture(scope="module")
def seen() -> Iterator[set[tuple[str, str]]]:
    """The tables and fields that have differed, and the sections that were compared ("", NAME). At the end: each
    field of the tables has."""
    found: set[tuple[str, str]] = set()
    yield found
    if {("", section) for section in SECTIONS} <= found:
        stale = {(table, field) for table, fields in MEANT.items() for field in fields} - found
        assert not stale, f"these do not differ: take them out of MEANT and of docs/inspect.md: {sorted(stale)}"


@pytest.mark.parametrize("section", SECTIONS)
def test_fields(engines: tuple[Engine, Engine], section: str, tmp_path: Path, seen: set[tuple[str, str]]) -> None:
    judge, subject = engines

    def told(engine: Engine, name: str) -> list[Answer]:
        return played(engine, _PLACES[name], SECTIONS[section][name], tmp_path / f"{_PLACES[name]}")

    def both(name: str) -> tuple[list[Answer], list[Answer]]:
        return told(judge, name), told(subject, name)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = dict(zip(SECTIONS[section], pool.map(both, SECTIONS[section]), strict=True))
    wrong = [line for name, (theirs, ours) in answers.items() for line in compared(name, theirs, ours, seen)]
    seen.add(("", section))
    assert not wrong, "\n" + "\n".join(wrong)


def compared(name: str, theirs: list[Answer], ours: list[Answer], seen: set[tuple[str, str]]) -> Iterator[str]:
    """What is wrong with our answers, in lines."""
    for their, our in zip(theirs, ours, strict=True):
        if their.code != our.code or (their.line.startswith("fields") and not (their.out and our.out)):
            yield f"=== {name}\ndocker: {their}\nlamina: {our}"
    table = {"network": "Networks", "volume": "Volumes"}.get(theirs[-1].line.split()[1], "Containers")
    one, other = fields_of(theirs[-1]), fields_of(ours[-1])
    for field in one | other:
        values = one.get(field, _NONE), other.get(field, _NONE)
        if same(field, *values):
            continue
        pattern = next((word for word in MEANT.get(table, {}) if fits(word, field)), "")
        seen.add((table, pattern))
        if not (pattern and MEANT[table][pattern](*values)):
            shown = " | ".join("(none)" if value is _NONE else json.dumps(value) for value in values)
            yield f"=== {name}\n{field}: {shown}"


def fields_of(answer: Answer) -> dict[str, Any]:
    return {line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in answer.out.splitlines()}


def same(field: str, theirs: Any, ours: Any) -> bool:
    if field in ("State.Pid", "RestartCount"):
        return (theirs > 0) == (ours > 0)
    if isinstance(theirs, list) and isinstance(ours, list) and field in IN_ANY_ORDER:
        return sorted(map(str, theirs)) == sorted(map(str, ours))
    return bool(theirs == ours and type(theirs) is type(ours))


def fits(pattern: str, field: str) -> bool:
    """``*``: any name; at the end any names."""
    text = re.escape(pattern).replace(r"\.\*", r"\.[^.]+")
    return re.fullmatch(text.removesuffix(r"[^.]+") + ".+" if pattern.endswith(".*") else text, field) is not None


def test_the_differences_are_in_the_documentation() -> None:
    found: dict[str, list[str]] = {}
    for line in DOCUMENTED.read_text().splitlines():
        if line.startswith("## "):
            fields = found.setdefault(line[3:], [])
        elif line.startswith("| `"):
            fields += re.findall(r"`([^`]+)`", line.split("|")[1])
    tables = {name: sorted(fields) for name, fields in found.items() if fields}
    assert tables == {name: sorted(fields) for name, fields in MEANT.items()}
