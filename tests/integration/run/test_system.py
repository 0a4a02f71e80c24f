"""docker's `system prune` and `system df`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members
from lamina.archive.layout import LayoutReader
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import lamina, made_once, require_root, require_tool, write_layout


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    make_store(top, [members()])
    write_layout(top / "other", "other", [[("f", b"1" * 50_000)]], config={"config": {"Labels": {"tier": "front"}}})
    copy(LayoutReader(str(top / "other")), Store.open(str(top / "store")), [("other", "other")])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    yield tmp_path / "store"
    lamina("rm", "--all", "--force", root=tmp_path / "store")


def ok(root: Path, *words: str, code: int = 0) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == code, done
    return done.stdout.decode()


@pytest.fixture
def used(root: Path) -> Path:
    """A container that runs, one that has ended and one that was made, with an anonymous and a named volume."""
    ok(root, "run", "-d", "--network", "none", "--name", "live", "app", "sleep", "100")
    ok(root, "run", "--network", "none", "--name", "dead", "-l", "keep", "-v", "named:/v", "app", "true")
    ok(root, "create", "--network", "none", "--name", "made", "app", "true")
    ok(root, "volume", "create")
    return root


def test_prune_keeps_what_is_used(used: Path) -> None:
    dead = ok(used, "ps", "-aq", "--no-trunc", "-f", "name=dead").strip()
    made = ok(used, "ps", "-aq", "--no-trunc", "-f", "name=made").strip()
    said = ok(used, "system", "prune", "-f")
    assert said.startswith(f"Deleted Containers:\n{dead}\n{made}\n\n")
    assert said.splitlines()[-1].startswith("Total reclaimed space: ")
    assert ok(used, "ps", "-a", "--format", "{{.Names}}") == "live\n"
    assert len(ok(used, "volume", "ls", "-q").split()) == 2
    assert set(ok(used, "images", "--format", "{{.Repository}}").split()) == {"app", "other"}
    assert "container prune" in ok(used, "events", "--no-stream", "-f", "event=prune")


def test_prune_all_keeps_the_images_of_containers_and_volumes_with_a_name(used: Path) -> None:
    said = ok(used, "system", "prune", "-af", "--volumes")
    assert "untagged: docker.io/library/other:latest" in said
    assert "app" not in said
    assert "Deleted Volumes:\n" in said
    assert ok(used, "images", "--format", "{{.Repository}}") == "app\n"
    assert ok(used, "volume", "ls", "-q") == "named\n"
    assert ok(used, "exec", "live", "true") == ""
    ok(used, "rm", "-f", "live")
    assert "untagged: docker.io/library/app:latest" in ok(used, "system", "prune", "-af")
    assert ok(used, "images", "-q") == ""


def test_filters(used: Path) -> None:
    ok(used, "system", "prune", "-f", "--filter", "label!=keep")
    assert ok(used, "ps", "-a", "--format", "{{.Names}}").split() == ["dead", "live"]
    ok(used, "system", "prune", "-af", "--filter", "until=1h")
    assert ok(used, "ps", "-a", "--format", "{{.Names}}").split() == ["dead", "live"]
    ok(used, "system", "prune", "-af", "--filter", "label=tier=back")
    assert set(ok(used, "images", "--format", "{{.Repository}}").split()) == {"app", "other"}
    ok(used, "system", "prune", "-af", "--filter", "label=tier=front")
    assert ok(used, "images", "--format", "{{.Repository}}") == "app\n"
    ok(used, "system", "prune", "-f", "--filter", "colour=red", code=2)
    ok(used, "system", "prune", "-f", "--volumes", "--filter", "until=1h", code=2)


def test_the_question_names_what_will_go(root: Path) -> None:
    done = lamina("system", "prune", "--volumes", "--filter", "label=x", root=root, input=b"n\n")
    assert done.returncode == 1
    for line in ("all stopped containers", "all anonymous volumes", "all dangling images", "- label=x", "[y/N]"):
        assert line in done.stderr.decode()
    assert lamina("system", "prune", root=root, input=b"").returncode == 2


def test_df(used: Path) -> None:
    rows = {row["Type"]: row for row in json.loads(ok(used, "system", "df", "--format", "json"))}
    assert list(rows) == ["Images", "Containers", "Local Volumes", "Build Cache"]
    assert [(row["TotalCount"], row["Active"]) for row in rows.values()] == [(2, 1), (3, 1), (2, 1), (0, 0)]
    assert rows["Images"]["Size"] > rows["Images"]["Reclaimable"] > 0
    shown = ok(used, "system", "df").splitlines()
    assert shown[0].split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert shown[2].split()[:3] == ["Containers", "3", "1"]
    assert ok(used, "system", "df", "--format", "{{.Type}}={{.Total}}").split("\n")[0] == "Images=2"
    listed = ok(used, "system", "df", "-v")
    for word in ("live", "named", "other", "UNIQUE SIZE", "Build cache usage: "):
        assert word in listed


def test_df_of_the_store_counts_volumes_apart_from_containers(root: Path) -> None:
    fill = "head -c 300000 /dev/zero >/d/f; head -c 100000 /dev/zero >/own"
    ok(root, "run", "--network", "none", "--name", "c", "-v", "data:/d", "app", "sh", "-c", fill)
    ok(root, "run", "--rm", "--network", "none", "-v", "idle:/d", "app", "sh", "-c", "head -c 200000 /dev/zero >/d/f")
    found = json.loads(ok(root, "df", "--format", "json"))
    assert found["volumes"] >= 500_000
    assert 200_000 <= found["volumes_reclaimable"] < 300_000
    is_on_disk = not list(root.glob("containers/*/memory"))  # as on most file systems
    assert (100_000 if is_on_disk else 0) <= found["containers"] < 300_000
    parts = ("images", "held", "build", "unneeded", "ingest", "containers", "volumes", "frame")
    assert found["total"] == sum(found[name] for name in parts)
    (line,) = (line for line in ok(root, "df").splitlines() if line.startswith("volumes "))
    assert line.endswith(f" {found['volumes']} bytes, {found['volumes_reclaimable']} of them in no container")


def test_a_host_without_a_store_has_nothing(tmp_path: Path) -> None:
    assert ok(tmp_path / "none", "system", "prune", "-af") == "Total reclaimed space: 0B\n"
    assert ok(tmp_path / "none", "system", "df").splitlines()[1].split() == ["Images", "0", "0", "0B", "0B"]
