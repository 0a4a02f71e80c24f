"""`ps`: its filters, columns and forms, on containers in every state. No program runs: the records say so."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import make_store
from lamina.cli import run as run_line
from lamina.host.lock import acquire
from lamina.light import replace
from lamina.run.container.life import create
from lamina.run.health import Health
from lamina.run.health_file import _write
from lamina.run.networks.state import write_state
from lamina.run.options import (
    ContainerOptions,
    Mount,
    NetworkEndpoint,
    Port,
    RestartPolicy,
)
from lamina.run.published.shown import Binding, to_json
from lamina.spec.platform import Platform
from lamina.store.containers import EXITED, RESTARTING, RUNNING, Container
from lamina.store.store import Store
from support import made_once, unmount_memory

Out = Callable[..., str]
NAMES = ("plain", "web", "held", "again", "ended", "new", "sick")
WANTED: dict[str, dict[str, Any]] = {
    "web": {
        "ports": (Port(80, 8080), Port(53, 53, "", "udp")),
        "expose": ("7000-7002",),
        "networks": (NetworkEndpoint("front"), NetworkEndpoint("back")),
        "labels": {"tier": "web"},
        "restart": RestartPolicy("on-failure", 3),
        "mounts": (Mount("bind", "/srv/a/very/long/path", "/srv"), Mount("volume", "data", "/data")),
    },
    "held": {"network": "host", "labels": {"tier": "held"}},
    "again": {"restart": RestartPolicy("always")},
    "ended": {"command": ("sh", "-c", "exit 3"), "network": "none"},
}


def make(top: Path) -> None:
    make_store(top, [[("file", b"1")]], ExposedPorts={"443/tcp": {}}, Labels={"of": "image"})


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    root = tmp_path / "store"
    store = Store.open(str(root))
    stack = replace(store.stack("app", Platform.host()), name="app")
    held = []
    now = time.time()
    for name in NAMES:
        one = create(store, stack, ContainerOptions(name=name, **WANTED.get(name, {})))
        changes = states(now)[name]
        if changes:
            store.containers.write(replace(one, **changes))
        if changes.get("status") in (RUNNING, RESTARTING):
            held.append(os.open(store.containers.path(one.id, "lock"), os.O_RDONLY))
            acquire(held[-1], "lock")
        if name == "web":
            bound = [Binding("0.0.0.0", port.host_port, port.port, port.protocol) for port in WANTED[name]["ports"]]
            write_state(store.containers.path(one.id), {"ports": to_json(bound)})
        if name in ("web", "sick"):
            _write(store.containers.path(one.id), Health("healthy" if name == "web" else "starting"))
    yield root
    for descriptor in held:
        os.close(descriptor)
    unmount_memory(root)


def states(now: float) -> dict[str, dict[str, Any]]:
    running = {"status": RUNNING, "since": now - 3700.0}
    return {
        "plain": running,
        "web": {**running, "restarts": 2},
        "held": {**running, "paused": True},
        "again": {"status": RESTARTING, "exit_code": 1, "finished": now - 5},
        "ended": {"status": EXITED, "exit_code": 3, "finished": now - 90, "since": now - 100},
        "new": {},
        "sick": {**running, "since": now - 65},
    }


@pytest.fixture
def out(root: Path, capfd: pytest.CaptureFixture[str]) -> Out:
    def call(*words: str, code: int = 0) -> str:
        capfd.readouterr()
        assert run_line(["--root", str(root), *words]) == code
        said = capfd.readouterr()
        assert (said.err == "") == (code == 0), said.err
        return said.out

    return call


def test_each_state_is_shown_as_docker_shows_it(out: Out) -> None:
    shown = dict(line.split(":", 1) for line in out("ps", "-a", "--format", "{{.Names}}:{{.Status}}").splitlines())
    assert shown == {
        "sick": "Up About a minute (health: starting)",
        "new": "Created",
        "ended": "Exited (3) About a minute ago",
        "again": "Restarting (1) 5 seconds ago",
        "held": "Up About an hour (Paused)",
        "web": "Up About an hour (healthy)",
        "plain": "Up About an hour",
    }
    assert out("ps", "--format", "{{.Names}} {{.State}}").splitlines() == [
        *("sick running", "again restarting", "held paused", "web running", "plain running"),
    ]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["status=paused"], ["held"]),
        (["status=restarting", "status=created"], ["new", "again"]),
        (["health=healthy"], ["web"]),
        (["health=starting"], ["sick"]),
        (["health=none", "status=exited"], ["ended"]),
        (["label!=tier"], ["sick", "new", "ended", "again", "plain"]),
        (["label!=tier=web", "label=tier"], ["held"]),
        (["network=back"], ["web"]),
        (["network=host"], ["held"]),
        (["network=none"], ["ended"]),
        (["publish=80"], []),
        (["publish=8080"], ["web"]),
        (["publish=50-60/udp"], ["web"]),
        (["publish=53"], []),
        (["expose=443", "name=new"], ["new"]),
        (["expose=7001/tcp"], ["web"]),
        (["expose=7001/udp"], []),
        (["restart-policy=always"], ["again"]),
        (["restart-policy=on-failure"], ["web"]),
        (["name=^/web$"], ["web"]),
        (["name=/web"], ["web"]),
        (["volume=data"], ["web"]),
        (["volume=/srv"], ["web"]),
        (["is-task=true"], []),
        (["until=1h"], []),
        (["until=2100-01-01", "name=web"], ["web"]),
        (["exited=3"], ["ended"]),
        (["pod=none"], []),
    ],
)
def test_filters(out: Out, filters: list[str], names: list[str]) -> None:
    given = [word for one in filters for word in ("--filter", one)]
    assert out("ps", "-a", *given, "--format", "{{.Names}}").split() == names


@pytest.mark.parametrize(
    "word",
    ["health=fine", "restart-policy=never", "publish=0", "expose=80/x", "until=someday", "is-task=x", "what=1"],
)
def test_a_bad_filter_is_one_line(out: Out, word: str) -> None:
    assert out("ps", "--filter", word, code=2) == ""


def test_fields_of_docker(out: Out) -> None:
    (web,) = [json.loads(out("ps", "--filter", "name=web", "--format", "{{json .}}"))]
    assert (web["Networks"], web["LocalVolumes"], web["Labels"]) == ("back,front", "1", "of=image,tier=web")
    assert web["Mounts"].split(",") == ["data", "/srv/a/very/lo…"]
    assert (
        out("ps", "--no-trunc", "--filter", "name=web", "--format", "{{.Mounts}}") == "data,/srv/a/very/long/path\n"
    )
    assert out("ps", "--filter", "name=web", "--format", "{{.Restarts}} {{.RestartPolicy}}") == "2 on-failure\n"
    assert out("ps", "-a", "--filter", "name=ended", "--format", "{{.Command}}") == "\"sh -c 'exit 3'\"\n"


def test_json_has_podmans_fields(out: Out) -> None:
    rows = {row["Names"][0]: row for row in json.loads(out("ps", "-a", "--format", "json"))}
    assert list(rows) == [*NAMES[::-1]]
    web, ended = rows["web"], rows["ended"]
    assert (web["State"], web["Exited"], web["ExitCode"], web["Restarts"]) == ("running", False, 0, 2)
    assert (web["Labels"], web["Networks"], web["Mounts"]) == (
        {"of": "image", "tier": "web"},
        ["back", "front"],
        ["/data", "/srv"],
    )
    assert web["ExposedPorts"] == {
        **{str(port): ["tcp"] for port in (80, 443, 7000, 7001, 7002)},
        "53": ["udp"],
    }
    assert (ended["Exited"], ended["ExitCode"], ended["Command"]) == (True, 3, ["sh", "-c", "exit 3"])
    assert ended["ExitedAt"] > ended["StartedAt"] > 1_700_000_000
    assert (rows["new"]["Exited"], rows["new"]["StartedAt"], rows["new"]["Pid"]) == (False, -62135596800, 0)
    assert len(web["ImageID"]) == 64
    assert len(web["Id"]) == 64


def test_order_and_headings(out: Out) -> None:
    names = out("ps", "-a", "--sort", "names", "--format", "{{.Names}}").split()
    assert names == sorted(NAMES)
    assert out("ps", "-a", "--sort", "status", "--format", "{{.State}}").split()[0] == "created"
    assert out("ps", "--noheading", "--filter", "name=web").splitlines()[0].split()[-1] == "web"
    assert out("ps", "--ns").splitlines()[0].split() == [
        *("CONTAINER", "ID", "NAMES", "PID", "CGROUPNS", "IPC", "MNT", "NET", "PIDNS", "USERNS", "UTS"),
    ]
    assert out("ps", "--sort", "beauty", code=2) == ""
    for noun in ("ls", "list", "ps"):
        assert out("container", noun, "-q") == out("ps", "-q")


def test_a_damaged_record_is_listed(out: Out, root: Path) -> None:
    store = Store.open(str(root))
    one: Container = store.containers.get("new")
    Path(store.containers.path(one.id, "container.json")).write_text("{")
    upper = Path(store.containers.path(one.id, "upper"))
    upper.mkdir(exist_ok=True)  # on an overlayfs it is elsewhere
    (upper / "kept").touch()
    assert out("ps", "--filter", "status=damaged", "--format", "{{.Names}} {{.Status}}") == "new Damaged\n"
    assert [row["State"] for row in json.loads(out("ps", "--format", "json"))].count("damaged") == 1
