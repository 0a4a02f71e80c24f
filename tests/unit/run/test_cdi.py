"""CDI devices: how their files are read, and the errors for malformed files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidDocument, NotFound, UsageError
from lamina.run.cdi import edits_of, gpus, is_name, parse
from lamina.run.options import Edits, Hook, Mount, Node

SPEC: dict[str, Any] = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/net",
    "annotations": {"made": "here"},
    "devices": [
        {
            "name": "one",
            "containerEdits": {
                "env": ["ONE=1"],
                "deviceNodes": [
                    {
                        "path": "/dev/one",
                        "hostPath": "/dev/null",
                        "type": "c",
                        "major": 1,
                        "minor": 3,
                        "fileMode": 438,
                    },
                    {"path": "/dev/two", "permissions": "rw", "uid": 1, "gid": 2},
                ],
                "mounts": [
                    {"hostPath": "/lib/a.so", "containerPath": "/usr/lib/a.so", "options": ["ro", "nosuid", "rbind"]}
                ],
                "additionalGids": [44],
            },
        },
        {"name": "all", "containerEdits": {"env": ["ALL=1"]}},
        {"name": "0", "containerEdits": {}},
    ],
    "containerEdits": {
        "env": ["VENDOR=yes"],
        "hooks": [
            {"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"], "env": ["A=1"], "timeout": 5}
        ],
    },
}
COMMON = Edits(env=("VENDOR=yes",), hooks=(Hook("createContainer", "/bin/hook", ("hook", "x"), ("A=1",), 5),))
ONE = Edits(
    env=("ONE=1",),
    nodes=(
        Node("/dev/one", "/dev/null", "c", 1, 3, "rwm", 438),
        Node("/dev/two", "/dev/two", "", 0, 0, "rw", None, 1, 2),
    ),
    mounts=(Mount("bind", "/lib/a.so", "/usr/lib/a.so", ("ro", "nosuid")),),
    groups=(44,),
)


def test_a_cdi_file_is_parsed() -> None:
    found = parse(SPEC, "/etc/cdi/x.json")
    assert (found.kind, found.common) == ("vendor.com/net", COMMON)
    assert dict(found.devices) == {"one": ONE, "all": Edits(env=("ALL=1",)), "0": Edits()}


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ((), [], "the file"),
        (("cdiVersion",), "new", "cdiVersion"),
        (("cdiVersion",), None, "cdiVersion"),
        (("kind",), "vendor", "kind"),
        (("kind",), 7, "kind"),
        (("devices",), [], "devices"),
        (("devices",), {"name": "x"}, "devices"),
        (("devices", 0), "one", "devices[0]"),
        (("devices", 0, "name"), "a b", "devices[0].name"),
        (("devices", 1, "name"), "one", "devices[1].name"),
        (("devices", 0, "containerEdits"), [], "devices[0].containerEdits"),
        (("devices", 0, "containerEdits", "env"), ["NAME"], "containerEdits.env"),
        (("devices", 0, "containerEdits", "env"), ["A=\0"], "containerEdits.env"),
        (("devices", 0, "containerEdits", "env"), "A=1", "env"),
        (("devices", 0, "containerEdits", "deviceNodes", 0, "path"), "dev/one", "deviceNodes[0].path"),
        (("devices", 0, "containerEdits", "deviceNodes", 0, "path"), "/dev/../one", "deviceNodes[0].path"),
        (("devices", 0, "containerEdits", "deviceNodes", 0, "type"), "x", "deviceNodes[0].type"),
        (("devices", 0, "containerEdits", "deviceNodes", 0, "major"), -1, "deviceNodes[0].major"),
        (("devices", 0, "containerEdits", "deviceNodes", 0, "major"), True, "deviceNodes[0].major"),
        (("devices", 0, "containerEdits", "deviceNodes", 0, "permissions"), "rx", "deviceNodes[0].permissions"),
        (("devices", 0, "containerEdits", "mounts", 0, "type"), "ext4", "mounts[0].type"),
        (("devices", 0, "containerEdits", "mounts", 0, "hostPath"), None, "mounts[0].hostPath"),
        (("devices", 0, "containerEdits", "additionalGids"), ["video"], "additionalGids"),
        (("containerEdits", "hooks", 0, "hookName"), "later", "hooks[0].hookName"),
        (("containerEdits", "hooks", 0, "path"), "hook", "hooks[0].path"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_one_line_that_names_the_place(
    tmp_path: Path, place: tuple[Any, ...], value: Any, named: str
) -> None:
    spec: Any = copy.deepcopy(SPEC)
    at = spec
    for key in place[:-1]:
        at = at[key]
    if place:
        at[place[-1]] = value
    else:
        spec = value
    with pytest.raises(InvalidDocument) as error:
        parse(spec, "/etc/cdi/x.json")
    assert "/etc/cdi/x.json is malformed" in error.value.message
    assert named in error.value.message
    assert "\n" not in error.value.message


def written(directory: Path, name: str, spec: Any) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(spec if isinstance(spec, str) else json.dumps(spec))


YAML = """
cdiVersion: "0.5.0"
kind: nvidia.com/gpu
devices:
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/null
"""


def test_cdi_devices_are_looked_up_in_the_last_directory_first(tmp_path: Path) -> None:
    etc, run = tmp_path / "etc", tmp_path / "run"
    directories = (str(etc), str(run), str(tmp_path / "nowhere"))
    written(etc, "x.json", SPEC)
    written(etc, "gpu.yaml", YAML)
    written(etc, "notes.txt", "{")
    assert edits_of(["vendor.com/net=one", "vendor.com/net=one", "nvidia.com/gpu=all"], directories) == Edits(
        env=("VENDOR=yes", "ONE=1"),
        nodes=(*ONE.nodes, Node("/dev/null", "/dev/null", "", 0, 0)),
        mounts=ONE.mounts,
        hooks=COMMON.hooks,
        groups=(44,),
    )
    other = {"cdiVersion": "0.6.0", "kind": "vendor.com/net", "devices": [{"name": "one"}]}
    written(run, "y.json", other)
    assert edits_of(["vendor.com/net=one"], directories) == Edits()
    written(run, "z.json", other)
    with pytest.raises(UsageError, match=r"y\.json and in .*z\.json"):
        edits_of(["vendor.com/net=one"], directories)
    with pytest.raises(NotFound, match=r"vendor\.com/net=two.*known: .*vendor\.com/net=all"):
        edits_of(["vendor.com/net=two"], directories)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bad.json", "{"),
        ("bad.json", "[]"),
        ("bad.json", '{"kind": "a.b/c", "kind": "a.b/d"}'),
        ("bad.json", "\xff"),
        ("bad.yaml", "a: [1"),
        ("bad.yaml", "- 1"),
        ("bad.yaml", "!!python/object/apply:os.system [true]"),
        ("bad.yml", "\x00"),
        ("bad.yaml", ""),
    ],
)
def test_a_malformed_cdi_file_is_an_error_only_if_no_other_file_has_the_device(
    tmp_path: Path, name: str, text: str
) -> None:
    written(tmp_path / "etc", "good.json", SPEC)
    written(tmp_path / "etc", name, text)
    warned: list[str] = []
    found = edits_of(["vendor.com/net=all"], (str(tmp_path / "etc"),), warned.append)
    assert found.env == ("VENDOR=yes", "ALL=1")
    assert [name in line and "\n" not in line for line in warned] == [True]
    with pytest.raises(InvalidDocument, match=name):
        edits_of(["vendor.com/net=gone"], (str(tmp_path / "etc"),))


def test_without_cdi_files_no_device_is_found() -> None:
    with pytest.raises(NotFound, match="no CDI file is there"):
        edits_of(["nvidia.com/gpu=all"], ("/nowhere",))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("vendor.com/class=name", True),
        ("nvidia.com/gpu=0:1", True),
        ("/dev/fuse", False),
        ("/dev/a=b", False),
        ("vendor/class", False),
        ("vendor.com/class=", False),
        ("vendor.com/class=a b", False),
        ("", False),
    ],
)
def test_cdi_names_are_recognized(word: str, expected: bool) -> None:
    assert is_name(word) == expected


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("all", ["all"]),
        ("2", ["0", "1"]),
        ("device=1", ["1"]),
        ('"device=0,2"', ["0", "2"]),
        ("device=GPU-1a2b", ["GPU-1a2b"]),
        ("count=all,capabilities=utility", ["all"]),
        ("driver=nvidia,count=1", ["0"]),
    ],
)
def test_gpus_are_cdi_devices(word: str, names: list[str]) -> None:
    assert gpus(word) == [f"nvidia.com/gpu={name}" for name in names]


@pytest.mark.parametrize("word", ["", "none", "device=", "-1", "0", "count=x", "device=a b", "12345"])
def test_invalid_values_of_gpus_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="does not say which GPUs"):
        gpus(word)
