"""Concurrency: several verbs on one container, and many processes in one store."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from integration.run.test_run import LOWER, make_store, members, mounts_of, out, run, wait_for
from lamina.edit.publish import Packing, Revision
from lamina.errors import Conflict
from lamina.run.container.commit import commit, container_changes
from lamina.run.container.life import create
from lamina.run.container.life import run as run_container
from lamina.run.container.mount import opened
from lamina.run.container.record import stack_of
from lamina.run.file_copy import copy_in, copy_out
from lamina.run.options import ContainerOptions
from lamina.spec.platform import Platform
from lamina.store.fsck import fsck
from lamina.store.store import Store
from support import lamina, require_root, require_tool, rounds, running

FILES = {f"f{number}": b"%d\n" % number * 1000 for number in range(60)}


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    layer = members(("data/", None), ("data/file", LOWER), *((f"many/{name}", data) for name, data in FILES.items()))
    store = make_store(tmp_path, [layer])
    yield store
    lamina("rm", "--all", "--force", root=store)
    assert mounts_of(store) == []


def started(root: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lamina", "--root", str(root), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def all_end_well(processes: list[subprocess.Popen[bytes]]) -> list[bytes]:
    results = [process.communicate(timeout=120) for process in processes]
    assert [(process.returncode, error) for process, (_, error) in zip(processes, results, strict=True)] == [
        (0, b"")
    ] * len(processes)
    return [said for said, _ in results]


def test_two_cp_into_a_stopped_container_both_arrive(root: Path, tmp_path: Path) -> None:
    data = os.urandom(2_000_000)
    (tmp_path / "big").write_bytes(data)
    assert run(root, "--name", "c", "app", "true").returncode == 0
    for number in range(3):
        all_end_well([started(root, "cp", str(tmp_path / "big"), f"c:/{name}{number}") for name in "xyz"])
    changed = lamina("diff", "c", root=root).stdout.decode().split()[1::2]
    assert sorted(changed) == sorted(f"/{name}{number}" for name in "xyz" for number in range(3))
    assert lamina("cp", "c:/y1", str(tmp_path / "back"), root=root).returncode == 0
    assert (tmp_path / "back").read_bytes() == data


def test_threads_of_one_process_work_in_one_container(root: Path, tmp_path: Path) -> None:
    assert run(root, "--name", "c", "app", "true").returncode == 0
    (tmp_path / "file").write_bytes(LOWER * 1000)
    gate = threading.Barrier(8)

    def work(number: int) -> list[str]:
        store = Store.open(str(root))
        one = store.containers.get("c")
        stack = stack_of(store, one)
        gate.wait()
        with opened(store, stack, one) as inside:
            copy_in(str(tmp_path / "file"), inside, f"/new{number}")
        if number % 2:
            commit(store, stack, one, f"made:{number}", Revision(packing=Packing(epoch=0)))
        with opened(store, stack, one) as inside:
            copy_out(inside, f"/new{number}", str(tmp_path / f"out{number}"))
        return [os.fsdecode(change.path) for change in container_changes(store, stack, one)]

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(work, range(8)))
    for number in range(8):
        assert (tmp_path / f"out{number}").read_bytes() == LOWER * 1000
        assert f"new{number}" in seen[number]
    assert set(max(seen, key=len)) == {f"new{number}" for number in range(8)}
    assert lamina("fsck", root=root).returncode == 0


def test_a_container_is_not_started_twice(root: Path) -> None:
    """Two processes try at the same time: one runs it, the other gets an error."""
    store = Store.open(str(root))
    stack = store.stack("app", Platform.host())
    words = ContainerOptions(command=("sh", "-c", "echo x >> /x"), network="none")
    made = create(store, stack, words)
    gate = threading.Barrier(4)

    def start(_: int) -> str:
        mine = Store.open(str(root))
        gate.wait()
        try:
            return f"ended {run_container(mine, stack, mine.containers.get(made.id)).code}"
        except Conflict as error:
            return error.message

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(start, range(4)))
    count = said.count("ended 0")
    assert count >= 1
    assert said.count(f"the container {made.name} is running") == 4 - count
    with opened(store, stack, made) as inside:
        assert inside.read("/x") == b"x\n" * count


def test_the_end_of_a_container_waits_for_a_cp_that_works_in_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("copied")
    words = ("--name", "c", "--rm", "--network", "none", "app", "sh", "-c", "echo up; read x")
    with running("run", "-i", *words, root=root, stdin=subprocess.PIPE) as process:
        wait_for(process, b"up\n")
        store = Store.open(str(root))
        one = store.containers.get("c")
        stack = stack_of(store, one)
        with opened(store, stack, one) as inside:
            assert process.stdin is not None
            process.stdin.close()  # the program ends
            while not waits(process.pid):
                assert process.poll() is None
            assert os.path.ismount(root / "containers" / one.id / "rootfs")
            copy_in(str(tmp_path / "file"), inside, "/in")
            assert (root / "containers" / one.id / "upper/in").read_text() == "copied"
            assert process.poll() is None
        assert process.wait(60) == 1
    assert os.listdir(root / "containers") == []


def waits(pid: int) -> bool:
    """Whether a process waits for a lock."""
    with open("/proc/locks", encoding="ascii") as file:
        return any("->" in words and str(pid) in words for words in map(str.split, file))


@pytest.mark.parametrize("verb", ["commit", "diff", "export"])
def test_rm_waits_for_readers_of_the_writable_layer(root: Path, tmp_path: Path, verb: str) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do mkdir /new$i; done"
    assert run(root, "--name", "c", "app", "sh", "-c", script).returncode == 0
    store = Store.open(str(root))
    one = store.containers.get("c")
    with store.containers.using(one, shared=True):
        words = {"commit": ("commit", "c", "new"), "diff": ("diff", "c"), "export": ("export", "c", "-q", "-o")}[verb]
        if verb == "export":
            words = (*words, str(tmp_path / "tar"))
        done = lamina(*words, root=root)  # they share
        assert done.returncode == 0, done.stderr
        removing = started(root, "rm", "c")
        while not waits(removing.pid):
            assert removing.poll() is None
        assert len(list((root / "containers" / one.id / "upper").glob("new*"))) == 9
    all_end_well([removing])
    assert os.listdir(root / "containers") == []


def test_commands_that_wait_for_a_container_report_its_removal(root: Path, tmp_path: Path) -> None:
    assert run(root, "--name", "c", "app", "touch", "/x").returncode == 0
    store = Store.open(str(root))
    one = store.containers.get("c")
    with store.containers.using(one):
        verbs = (
            ("cp", "c:/x", str(tmp_path)),
            ("diff", "c"),
            ("diff", "app", "c"),
            ("commit", "c", "new"),
            ("export", "c", "-q", "-o", str(tmp_path / "tar")),
            ("rm", "c"),
        )
        waiting = [started(root, *words) for words in verbs]
        while not all(waits(process.pid) for process in waiting):
            assert all(process.poll() is None for process in waiting)
        (tmp_path / "gone").mkdir()
        os.rename(root / "containers" / one.id, tmp_path / "gone" / one.id)
    said = [process.communicate(timeout=60)[1] for process in waiting]
    assert [process.returncode for process in waiting] == [3, 3, 3, 3, 3, 0]
    assert all(b"the container c was not found: another process has removed it" in text for text in said[:-1])
    assert not (tmp_path / "tar").exists()


def test_a_new_volume_of_several_containers_is_whole_for_each(root: Path) -> None:
    count = ("app", "sh", "-c", "cat /many/* | wc -c; ls /many | wc -l")
    expected = b"%d\n%d\n" % (sum(map(len, FILES.values())), len(FILES))
    for number in range(3):
        words = ("run", "--rm", "--network", "none", "-v", f"vol{number}:/many", *count)
        assert all_end_well([started(root, *words) for _ in range(4)]) == [expected] * 4
    assert lamina("volume", "ls", "-q", root=root).stdout.split() == [b"vol0", b"vol1", b"vol2"]


def test_an_empty_volume_in_use_is_not_replaced(root: Path) -> None:
    """rename(2) would replace an empty directory."""
    words = (
        "--rm",
        "--name",
        "a",
        "--network",
        "none",
        "-v",
        "v:/nothing",
        "app",
        "sh",
        "-c",
        "echo up; read x; >/nothing/y",
    )
    with running("run", "-i", *words, root=root, stdin=subprocess.PIPE) as process:
        wait_for(process, b"up\n")
        place = (root / "volumes/v").stat().st_ino
        assert out(root, "-v", "v:/many", "app", "sh", "-c", "ls /many | wc -l") == "0\n"
        assert (root / "volumes/v").stat().st_ino == place
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(60) == 0
    assert os.listdir(root / "volumes/v") == ["y"]


TURNS = rounds(6, 3)
STRESS = """
import random, subprocess, sys
root, mine, seed, turns = sys.argv[1:]
chosen = random.Random(int(seed))

def lamina(*words):
    done = subprocess.run([sys.executable, "-m", "lamina", "--root", root, *words], capture_output=True)
    if b"Traceback" in done.stderr or b"[Errno" in done.stderr or done.returncode not in (0, 3, 5, 125):
        print(words, done.returncode, done.stderr.decode())
    return done

for turn in range(int(turns)):
    name = f"{mine}-{turn}"
    done = lamina("run", "--network", "none", "--name", name, "-v", f"vol{turn}:/many", "app", "sh", "-c",
                  f"ls /many | wc -l; echo {name} > /name")
    if done.returncode or done.stdout != b"60\\n":
        print("run", done)
    for _ in range(2):
        other = f"{chosen.choice('abc')}-{chosen.randrange(turn + 1)}"
        verb = chosen.choice(("in", "out", "diff", "commit", "rm"))
        if verb == "in":
            lamina("cp", sys.argv[0], f"{other}:/in-{mine}-{turn}")
        elif verb == "out":
            lamina("cp", f"{other}:/name", f"{root}/../{mine}")
        elif verb == "commit":
            lamina("commit", other, f"made:{mine}{turn}")
        else:
            lamina(verb, other)
    lamina("run", "--rm", "--network", "none", "app", "true")
    if turn % 2:
        lamina("prune")
"""


def test_many_parallel_processes_leave_an_undamaged_store(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "stress.py"
    script.write_text(STRESS)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(root), name, str(random.randrange(1 << 30)), str(TURNS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name in "abc"
    ]
    said = [process.communicate(timeout=300)[0].decode() for process in processes]
    assert said == ["", "", ""]
    assert mounts_of(root) == []
    store = Store.open(str(root))
    assert fsck(store) == []
    rows = json.loads(lamina("ps", "-a", "--format", "json", root=root).stdout)
    assert {row["State"] for row in rows} <= {"exited"}
    assert {row["ExitCode"] for row in rows} <= {0}
    for row in rows:
        (name,) = row["Names"]
        assert lamina("cp", f"{name}:/name", str(tmp_path / "name"), root=root).returncode == 0
        assert (tmp_path / "name").read_text() == f"{name}\n"
    for name, _ in list(store.names()):
        assert out(root, name, "cat", "/data/file").encode() == LOWER
    for number in range(TURNS):
        found = {path.name: path.read_bytes() for path in (root / f"volumes/vol{number}").iterdir()}
        assert found == FILES
    assert lamina("rm", "-fa", root=root).returncode == 0
    assert lamina("prune", root=root).returncode == 0
    assert os.listdir(root / "containers") == []
    assert mounts_of(root) == []
    assert fsck(store) == []
