"""The record of a container holds all its options, and they can be read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import StoreDamaged, Unsupported
from lamina.light import as_dict, replace
from lamina.run.container.record import from_json, to_json, wanted_of
from lamina.run.options import ContainerOptions, Device, Edits, Hook, Mount, Node, Ulimit, Userns
from lamina.spec.digest import Digest
from lamina.spec.json import read_own, write_own
from lamina.store.containers import Container
from lamina.store.store import Store

FULL = ContainerOptions(
    command=("sh", "-c", "echo \udcff"),
    entrypoint="",
    env=(("A", "1"), ("B", "")),
    mounts=(Mount("bind", "/a", "/b", ("ro", "rslave")), Mount("tmpfs", "", "/t", ("size=1m",))),
    user="1:2",
    tty=True,
    cpus=1.5,
    memory=1 << 30,
    userns=Userns("keep-id", 5, None),
    labels={"x": "y", "version": "7"},
    groups=("audio", "7"),
    devices=(Device("/dev/a", "/dev/b", "r"),),
    edits=Edits(
        env=("C=D",),
        nodes=(Node("/dev/n", "/dev/m", "c", 1, 2, mode=0o600),),
        mounts=(Mount("bind", "/lib", "/lib"),),
        hooks=(Hook("createRuntime", "/hook", ("a",), ("E=F",), 3),),
        groups=(44,),
    ),
    ulimits=(Ulimit("nofile", 1, 2),),
    sysctls=(("net.core.somaxconn", "1"),),
    stop_timeout=-1,
)


@pytest.mark.parametrize("wanted", [ContainerOptions(), FULL])
def test_options_survive_a_round_trip_through_json(wanted: ContainerOptions) -> None:
    written = json.loads(json.dumps(to_json(wanted)))
    assert written["version"] == 1
    assert set(written) == {"version", *as_dict(wanted)}
    assert from_json(written) == wanted


def test_fields_of_a_newer_lamina_are_ignored_at_every_level() -> None:
    value = to_json(FULL)
    value |= {"later": [1], "userns": {**value["userns"], "later": {}}}
    value["mounts"] = [{**one, "later": 1} for one in value["mounts"]]
    assert from_json(read_own(write_own(value))) == FULL


def container(wanted: dict[str, Any] | None) -> Container:
    return Container("c" * 64, "c", "app", str(Digest.of(b"")), "m", 1, (), 1.0, wanted=wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"command": "sh"},
        {"command": None},
        {"tty": "yes"},
        {"mounts": [{"kind": "bind"}]},
        {"mounts": ["/a:/b"]},
        {"userns": "auto"},
        {"edits": {"hooks": [7]}},
        {"memory": {}},
        {"labels": []},
    ],
)
def test_malformed_options_are_a_damaged_record(change: dict[str, Any]) -> None:
    with pytest.raises(StoreDamaged, match="the record of the container c is damaged"):
        wanted_of(container({**to_json(FULL), **change}))


@pytest.mark.parametrize(
    ("wanted", "why"), [(None, "does not hold its options"), ({"version": 2}, "another version of lamina")]
)
def test_a_record_without_readable_options_is_unsupported(wanted: dict[str, Any] | None, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        wanted_of(container(wanted))


def test_records_of_an_older_and_of_a_newer_lamina_are_read_and_written(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    one = container(to_json(FULL))
    directory = Path(store.containers.path(one.id))
    directory.mkdir(parents=True)
    record = directory / "container.json"
    old = {key: item for key, item in as_dict(one).items() if key not in ("wanted", "unknown")}
    record.write_text(write_own(old))
    assert store.containers.get("c") == replace(one, wanted=None)
    newer = old | {"wanted": {**to_json(FULL), "later": {"deep": [1]}}, "health": {"state": ["a", 1]}}
    record.write_text(write_own(newer))
    read = store.containers.get("c")
    assert wanted_of(read) == FULL
    store.containers.write(replace(read, exit_code=3))
    assert json.loads(record.read_text()) == json.loads(write_own(newer | {"exit_code": 3}))
    (directory / "upper/written").mkdir(parents=True)
    record.write_text(write_own(old | {"wanted": [1]}))
    assert store.containers.get(one.id, damaged=True).is_damaged
