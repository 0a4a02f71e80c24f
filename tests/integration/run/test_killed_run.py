"""`run`, `cp`, `commit` and `rm` under kill -9: the next command finds an undamaged store and clears up."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members, mounts_of, run, wait_for
from lamina.store.fault import RUN_POINTS
from lamina.store.fsck import fsck
from lamina.store.store import Store
from support import lamina, require_root, require_tool, running

UP = ("app", "sh", "-c", "echo up; exec sleep 600")
VOLUME = {"one": b"1\n", "two": b"2\n"}


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    layer = members(("data/", None), *((f"data/{name}", text) for name, text in VOLUME.items()))
    yield make_store(tmp_path, [layer])
    lamina("rm", "--all", "--force", root=tmp_path / "store")
    lamina("umount", "--all", root=tmp_path / "store")


def nothing_is_left(root: Path) -> None:
    """After `rm -fa` and `prune`: no mount, no container, no state of a runtime, no leftover."""
    identities = os.listdir(root / "containers")
    for words in (("rm", "--force", "--all"), ("prune",)):
        done = lamina(*words, root=root)
        assert (done.returncode, done.stderr) == (0, b""), words
    assert mounts_of(root) == []
    assert os.listdir(root / "containers") == []
    assert os.listdir(root / "roots") == []
    assert not {name for name in identities if Path("/run/lamina-runtime", name).exists()}
    assert not {*os.listdir(root / "volumes")} - {"vol", ".vol.json"}
    assert [finding.what for finding in fsck(Store.open(str(root)))] == []


@pytest.mark.parametrize("point", RUN_POINTS)
def test_after_a_kill_at_each_point_the_next_command_clears_up(root: Path, tmp_path: Path, point: str) -> None:
    (tmp_path / "file").write_text("copied")
    sequence = [
        ("run", "--rm", "--network", "none", "-v", "vol:/data", "app", "true"),
        ("run", "--network", "none", "--name", "c", "app", "sh", "-c", "echo x > /x"),
        ("cp", str(tmp_path / "file"), "c:/y"),
        ("commit", "c", "new"),
        ("rm", "c"),
    ]
    codes = []
    for words in sequence:
        codes.append(lamina(*words, root=root, LAMINA_FAULT=point).returncode)
        if codes[-1]:
            break
    assert codes[-1] == -signal.SIGKILL, codes
    done = run(root, "--rm", "app", "true")
    assert (done.returncode, done.stderr) == (0, b"")
    assert mounts_of(root) == []
    for line in lamina("ps", "-a", "--format", "{{.ID}} {{.State}}", root=root).stdout.decode().splitlines():
        identity, status = line.split(maxsplit=1)
        assert status.startswith("exited")
        found = lamina("diff", identity, root=root)
        assert found.returncode == 0, found.stderr
        assert lamina("cp", f"{identity}:/data/one", str(tmp_path / "out"), root=root).returncode == 0
        assert (tmp_path / "out").read_bytes() == VOLUME["one"]
    if (root / "volumes/vol").exists():
        assert {path.name: path.read_bytes() for path in (root / "volumes/vol").iterdir()} == VOLUME
    assert lamina("fsck", root=root).returncode == 0
    nothing_is_left(root)


def first_process(root: Path) -> int:
    """The pid of the program. The runtime writes it while it starts."""
    (bundle,) = root.glob("containers/*/bundle")
    for _ in range(2000):
        with suppress(FileNotFoundError):
            if text := (bundle / "pid").read_text():
                return int(text)
        time.sleep(0.01)
    raise AssertionError("the runtime told no number")


def ended(pid: int) -> None:
    """Wait until there is no such process."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([watched], [], [], 60)[0]
    finally:
        os.close(watched)


def runtime_of(root: Path, pid: int) -> int:
    """The runtime that waits for a program."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize(
    "then", [("run", "--rm", "--network", "none", "app", "true"), ("prune",), ("umount", "--all")]
)
def test_a_program_outlives_its_killed_lamina_and_is_cleared_up_later(
    root: Path, remove: bool, then: tuple[str, ...]
) -> None:
    more = ("--rm",) if remove else ()
    with running("run", "--name", "c", *more, "--network", "none", *UP, root=root) as process:
        wait_for(process, b"up\n")
        process.kill()
        process.wait(30)
    pid = first_process(root)
    runtime = runtime_of(root, pid)
    assert lamina(*then, root=root).returncode == 0  # the container is not affected
    assert lamina("ps", "--format", "{{.Name}} {{.State}}", root=root).stdout == b"c running\n"
    assert lamina("rm", "c", root=root).returncode == 5
    assert lamina("exec", "c", "cat", "/data/one", root=root).stdout == VOLUME["one"]
    os.kill(pid, signal.SIGKILL)
    ended(runtime)
    assert lamina(*then, root=root).returncode == 0
    assert mounts_of(root) == []
    left = lamina("ps", "-a", "--format", "{{.Name}} {{.State}}", root=root).stdout
    assert left == (b"" if remove else b"c exited\n")
    nothing_is_left(root)


def test_a_program_without_lamina_and_runtime_is_ended_before_anything_is_removed(root: Path) -> None:
    with running("run", "--rm", "--network", "none", *UP, root=root) as process:
        wait_for(process, b"up\n")
        pid = first_process(root)
        runtime = runtime_of(root, pid)
        process.kill()
        process.wait(30)
    os.kill(runtime, signal.SIGKILL)
    ended(runtime)
    assert Path(f"/proc/{pid}").exists()
    done = lamina("prune", root=root)
    assert done.returncode == 0, done.stderr
    ended(pid)
    assert os.listdir(root / "containers") == []
    nothing_is_left(root)


@pytest.mark.parametrize("more", [("--network", "none"), ("--network", "pasta"), ("--userns", "auto")])
def test_stop_ends_a_program_whose_lamina_was_killed_and_clears_up(root: Path, more: tuple[str, ...]) -> None:
    if "pasta" in more:
        require_tool("pasta")
    with running("run", "--name", "c", *more, *UP, root=root) as process:
        wait_for(process, b"up\n")
        process.kill()
        process.wait(30)
    assert lamina("stop", "-t", "0", "c", root=root).returncode == 0
    assert mounts_of(root) == []
    assert lamina("ps", "-a", "--format", "{{.State}}", root=root).stdout == b"exited\n"
    (identity,) = os.listdir(root / "containers")
    assert not Path("/run/lamina-open", identity).exists()
    nothing_is_left(root)


def test_a_container_of_another_pid_namespace_counts_as_running(root: Path, tmp_path: Path) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m", "lamina"]
    command += ["--root", str(root), "run", "--name", "c", "--network", "none", *UP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            wait_for(process, b"up\n")
            # the first process of the namespace: it ends last
            init = os.pidfd_open(int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()))
            assert lamina("ps", "--format", "{{.State}}", root=root).stdout == b"running\n"
            for words, said in (
                (("rm", "c"), b"runs"),
                (("rm", "--force", "c"), b"another namespace of processes"),
                (("kill", "c"), b"another namespace of processes"),
                (("exec", "c", "true"), b"another namespace of processes"),
                (("cp", "c:/data/one", str(tmp_path / "out")), b"another mount namespace"),
            ):
                done = lamina(*words, root=root)
                assert (done.returncode, done.stderr.count(b"\n"), said in done.stderr) == (5, 1, True), done.stderr
            for words in (("prune",), ("umount", "--all"), ("run", "--rm", "--network", "none", "app", "true")):
                assert lamina(*words, root=root).returncode == 0
            assert lamina("ps", "--format", "{{.State}}", root=root).stdout == b"running\n"
            (upper,) = root.glob("containers/*/upper")
            assert upper.is_dir()
        finally:
            process.kill()
    assert select.select([init], [], [], 10)[0]
    os.close(init)
    assert lamina("rm", "c", root=root).returncode == 0
    nothing_is_left(root)


def test_changed_clocks_and_boot_ids_do_not_decide_what_runs(root: Path) -> None:
    with running("run", "--name", "c", "--network", "none", *UP, root=root) as process:
        wait_for(process, b"up\n")
        (record,) = root.glob("containers/*/container.json")
        text = record.read_text()
        assert '"status": "running"' in text
        for path in (record, record.parent / "lock", record.parent):
            os.utime(path, (0, 0))
        for _ in range(2):
            assert lamina("prune", root=root).returncode == 0
            assert lamina("ps", "-q", "--no-trunc", root=root).stdout.strip().decode() == record.parent.name
        assert lamina("rm", "--force", "c", root=root).returncode == 0
        assert process.wait(30) == 137


@pytest.mark.parametrize("words", [("prune",), ("umount", "--all")])
@pytest.mark.parametrize("point", ["container.mounted", "container.ended", "container.unmounted"])
def test_prune_and_umount_clear_what_a_killed_run_had_mounted(root: Path, point: str, words: tuple[str, ...]) -> None:
    killed = lamina("run", "--rm", "--network", "none", "app", "true", root=root, LAMINA_FAULT=point)
    assert killed.returncode == -signal.SIGKILL
    assert mounts_of(root) != []
    assert lamina(*words, root=root).returncode == 0
    assert mounts_of(root) == []
