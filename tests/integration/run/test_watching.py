"""`top` and `stats` of running containers, with the numbers that the kernel has of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_changing import a_container, fine, refused
from integration.run.test_run import make_store, members, mounts_of, run
from lamina.cli.containers.stats import binary_size
from lamina.run.inspection.usage import Usage, measure
from lamina.store.store import Store
from support import lamina, made_once, plain_user, require_root, require_tool, write_layout

TWO = "sleep 100 & exec sleep 200"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox", "ps")


def make(top: Path) -> None:
    make_store(top, [members()])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    store = tmp_path / "store"
    yield store
    lamina("rm", "--all", "--force", root=store)
    assert mounts_of(store) == []


def table(text: str) -> list[dict[str, str]]:
    """The rows of a table whose columns are at least two spaces apart."""
    titles, *rows = (re.split(r"\s{2,}", line.strip()) for line in text.splitlines())
    return [dict(zip(titles, row, strict=True)) for row in rows]


@pytest.mark.parametrize("flags", [(), ("--runtime", "bwrap"), ("--pid", "host")])
def test_top_shows_the_processes_of_the_container_alone(root: Path, flags: tuple[str, ...]) -> None:
    require_tool("bwrap")
    with a_container(root, TWO, *flags):
        found = {row["CMD"]: row for row in table(fine(root, "top", "c"))}
        assert {"sleep 100", "sleep 200"} <= set(found)
        assert all("bwrap" in command for command in set(found) - {"sleep 100", "sleep 200"})
        row = found["sleep 200"]
        assert list(row) == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert (row["UID"], row["TTY"], row["TIME"]) == ("root", "?", "00:00:00")
        assert row["C"].isdigit()
        assert found["sleep 100"]["PPID"] == row["PID"]
        assert re.fullmatch(r"\d\d:\d\d", row["STIME"])
        assert Path(f"/proc/{row['PID']}/cmdline").read_bytes() == b"sleep\x00200\x00"
        assert fine(root, "inspect", "-f", "{{.State.Pid}}", "c").strip() == row["PID"]


def test_top_with_options_of_ps_and_with_columns(root: Path) -> None:
    with a_container(root, TWO, "-u", "web", "--cap-add", "SYS_TIME"):
        by_ps = table(fine(root, "top", "c", "-eo", "pid,args"))
        assert sorted(row["COMMAND"] for row in by_ps) == ["sleep 100", "sleep 200"]
        mine = table(fine(root, "top", "c", "-o", "pid,rss,args"))  # ps alone would show those of this terminal
        assert sorted(row["COMMAND"] for row in mine) == ["sleep 100", "sleep 200"]
        assert {row["USER"] for row in table(fine(root, "top", "c", "aux"))} == {
            by_ps[0].get("USER", "33"),
            "www-data",
        } - {"33"}
        columns = table(fine(root, "top", "c", "pid,ppid", "user", "group", "huser", "state", "capbnd", "comm"))
        first = next(row for row in columns if row["PID"] == "1")
        assert (first["PPID"], first["USER"], first["GROUP"], first["STATE"], first["COMMAND"]) == (
            *("0", "web", "web", "S", "sleep"),
        )
        assert "SYS_TIME" in first["BOUNDING CAPS"].split(",")
        assert {row["PPID"] for row in columns} == {"0", "1"}
        shown = json.loads(fine(root, "top", "--format", "json", "c"))
        assert shown["Titles"][-1] == "CMD"
        assert len(shown["Processes"]) == 2
        assert "shows no PID" in refused(root, 2, "top", "c", "-o", "args")
        assert "unknown gnu long option" in refused(root, 6, "top", "c", "--nonsense")


def test_top_and_stats_of_a_container_that_does_not_run(root: Path) -> None:
    assert run(root, "--name", "c", "app", "true").returncode == 0
    assert "does not run" in refused(root, 5, "top", "c")
    assert "no container" in refused(root, 3, "top", "nothing")
    assert "no container" in refused(root, 3, "stats", "--no-stream", "nothing")
    (row,) = table(fine(root, "stats", "--no-stream", "c"))
    assert (row["CPU %"], row["MEM USAGE / LIMIT"], row["PIDS"]) == ("0.00%", "0B / 0B", "0")
    assert table(fine(root, "stats", "--no-stream")) == []
    assert [row["NAME"] for row in table(fine(root, "stats", "--no-stream", "--all"))] == ["c"]


def test_stats_are_those_of_the_cgroup(root: Path) -> None:
    busy = "head -c 30000000 /dev/zero >/tmp/x; while :; do :; done"
    with a_container(root, busy, "-m", "64m", "--pids-limit", "9"):
        (row,) = table(fine(root, "stats", "--no-stream", "c"))
        assert list(row) == [
            *("CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"),
        ]
        assert float(row["CPU %"].rstrip("%")) > 5
        assert row["MEM USAGE / LIMIT"].endswith(" / 64MiB")
        assert (row["NET I/O"], row["PIDS"]) == ("0B / 0B", "1")
        (podmans,) = json.loads(fine(root, "stats", "--no-stream", "--format", "json"))
        assert (podmans["name"], podmans["pids"]) == ("c", "1")
        shown = json.loads(fine(root, "stats", "--no-stream", "--format", "{{json .}}", "c"))
        assert set(shown) == {
            *("BlockIO", "CPUPerc", "Container", "ID", "MemPerc", "MemUsage", "Name", "NetIO", "PIDs"),
        }
        store = Store.open(str(root))
        usage = measure(store, store.containers.get("c"))
        assert usage.exact
        assert usage.limit == 64 << 20
        assert 0 < usage.memory < 64 << 20
        assert usage.cpu > 0


@pytest.mark.parametrize("flags", [(), ("--pids-limit", "50", "-m", "64m")])
def test_without_a_whole_cgroup_stats_are_sums_over_processes(root: Path, flags: tuple[str, ...]) -> None:
    require_tool("bwrap")
    with a_container(root, TWO, "--runtime", "bwrap", *flags):
        done = lamina("stats", "--no-stream", "c", root=root)
        assert done.returncode == 0
        assert done.stderr.count(b"\n") == 1
        assert b"sums over the processes" in done.stderr
        (row,) = table(done.stdout.decode())
        assert int(row["PIDS"]) >= 2
        assert not row["MEM USAGE / LIMIT"].startswith("0B")
        assert row["MEM USAGE / LIMIT"].endswith(" / 64MiB") == bool(flags)


def test_stats_of_named_containers_end_with_them(root: Path) -> None:
    with a_container(root, TWO) as process:
        command = [sys.executable, "-m", "lamina", "--root", str(root), "stats", "-i", "0.1", "c"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as shown:
            assert shown.stdout is not None
            assert shown.stdout.readline().startswith(b"CONTAINER ID")
            fine(root, "kill", "c")
            process.communicate(timeout=30)
            out, _ = shown.communicate(timeout=30)
        assert shown.returncode == 0
        assert b"\x1b" not in out


def test_a_plain_user_sees_its_own_containers() -> None:
    require_tool("bwrap")
    with plain_user("lamina-test") as (top, user):
        write_layout(top / "layout", "app", [members()])
        assert user("load", "-i", str(top / "layout")).returncode == 0
        done = user("run", "-d", "--network", "none", "--name", "c", "app", "sleep", "100")
        assert done.returncode == 0, done.stderr
        try:
            (row, *_) = [row for row in table(user("top", "c").stdout.decode()) if row["CMD"] == "sleep 100"]
            assert row["UID"] == "lamina-test"
            (numbers,) = table(user("stats", "--no-stream", "c").stdout.decode())
            assert int(numbers["PIDS"]) >= 1
            done = user("pause", "c")
            assert (done.returncode, b"it has no cgroup" in done.stderr) == (7, True)
            done = user("update", "-m", "64m", "c")
            assert (done.returncode, b"there is no cgroup for this user" in done.stderr) == (7, True)
            assert user("update", "--restart", "always", "c").returncode == 0
            assert user("rename", "c", "d").returncode == 0
        finally:
            user("rm", "--all", "--force")


def test_the_share_of_a_processor() -> None:
    before = Usage(at=1_000_000_000, cpu=500_000_000)
    assert Usage(at=3_000_000_000, cpu=1_000_000_000).cpu_percent(before) == 25
    assert Usage(at=3_000_000_000, cpu=4_500_000_000).cpu_percent(before) == 200
    assert before.cpu_percent(before) == 0
    assert Usage(at=3_000_000_000, cpu=0).cpu_percent(before) == 0  # it was started again


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (675840, "660KiB"),
        (64 << 20, "64MiB"),
        (25277952000, "23.54GiB"),
        (1 << 60, "1024PiB"),
    ],
)
def test_sizes_are_dockers(size: int, text: str) -> None:
    assert binary_size(size) == text


def test_a_hostile_name_of_a_process_is_shown_on_one_line(root: Path) -> None:
    with a_container(root, "exec sh -c 'sleep 300; :' '\n\x1b[31m'"):
        said = fine(root, "top", "c")
        assert "\x1b" not in said
        assert "\\n\\x1b[31m" in said
        assert len(said.splitlines()) == 3
