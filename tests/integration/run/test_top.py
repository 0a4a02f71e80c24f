"""The writable layer of containers if the store is on an overlayfs: in memory, or in upper_dir."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lamina as lamina_library
from integration.run.test_run import members, mounts_of
from lamina.run import writable
from lamina.view.upper_check import refusal
from support import PLAIN_USER, lamina, plain_user, require_root, require_tool, write_layout

SAID = (
    b"lamina: warning: the store's file system takes no writable layer: what the container writes is kept in memory"
)
RUN = ("run", "--network", "none")


def layers() -> list[list[Any]]:
    return [members(("old", b"hidden"), ("dir/", None), ("dir/below", b"b")), [(".wh.old", b""), ("new", b"n")]]


@pytest.fixture
def overlay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An overlayfs that every user may write to."""
    require_root()
    require_tool("runc", "busybox")
    for variable in ("LAMINA_UPPER_DIR", "LAMINA_TEST_UPPER"):
        monkeypatch.delenv(variable, raising=False)
    with tempfile.TemporaryDirectory(prefix="lamina-o-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        place = Path(name)
        for part in ("lower", "upper", "work", "all"):
            (place / part).mkdir()
        options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        mounted = not refusal(name)
        if mounted:
            subprocess.run(["mount", "-t", "overlay", "-o", options, "none", place / "all"], check=True)
        place.chmod(0o755)
        (place / "all").chmod(0o1777)
        monkeypatch.setenv("LAMINA_TEST_PLAIN", str(place / "all"))
        yield place / "all"
        if mounted:
            # lazily: on a slow host a process that has just ended may still hold it
            subprocess.run(["umount", "--lazy", place / "all"], check=True)


@pytest.fixture
def root(overlay: Path) -> Iterator[Path]:
    write_layout(overlay / "layout", "app", layers())
    assert lamina("load", "-i", str(overlay / "layout"), root=overlay / "s").returncode == 0
    yield overlay / "s"
    lamina("rm", "--all", "--force", root=overlay / "s")
    assert mounts_of(overlay / "s") == []


@pytest.mark.parametrize("view", ["", "erofs", "erofs-merged", "overlay"])
def test_rm_leaves_nothing(root: Path, view: str) -> None:
    script = "cat /old 2>/dev/null || echo gone; cat /new; echo x > /dir/below; rm /new; cat /dir/below"
    words = ["--view", view] if view else []
    done = lamina(*RUN, "--rm", *words, "app", "sh", "-c", script, root=root)
    assert (done.returncode, done.stdout) == (0, b"gone\nnx\n"), done.stderr
    assert done.stderr.startswith(SAID)
    assert done.stderr.count(b"\n") == 1
    assert os.listdir(root / "containers") == []
    assert mounts_of(root) == []


def test_cp_diff_and_commit_read_a_writable_layer_in_memory(root: Path, tmp_path: Path) -> None:
    assert lamina(*RUN, "--name", "c", "app", "sh", "-c", "echo x > /tmp/mine; rm /new", root=root).returncode == 0
    assert lamina("diff", "c", root=root).stdout == b"D /new\nC /tmp\nA /tmp/mine\n"
    assert lamina("cp", "c:/tmp/mine", str(tmp_path / "got"), root=root).returncode == 0
    assert (tmp_path / "got").read_text() == "x\n"
    assert lamina("cp", str(tmp_path / "got"), "c:/tmp/again", root=root).returncode == 0
    assert lamina("commit", "c", "app:2", root=root).returncode == 0
    assert lamina("cat", "app:2", "/tmp/again", root=root).stdout == b"x\n"
    assert lamina("ls", "app:2", "/new", root=root).returncode == 3
    assert lamina("df", root=root).returncode == 0
    # the host was restarted
    (memory,) = root.glob("containers/*/memory")
    subprocess.run(["umount", memory], check=True)
    for words in (("diff", "c"), ("cp", "c:/tmp/mine", str(tmp_path)), ("commit", "c", "app:3")):
        done = lamina(*words, root=root)
        assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
        assert b"what the container c wrote is gone" in done.stderr
    assert lamina("rm", "c", root=root).returncode == 0
    assert os.listdir(root / "containers") == []


def test_a_name_in_use_is_an_error_and_leaves_nothing(root: Path) -> None:
    assert lamina(*RUN, "--name", "c", "app", "true", root=root).returncode == 0
    before = mounts_of(root)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        for more in ({}, {"LAMINA_UPPER_DIR": elsewhere}):
            done = lamina(*RUN, "--name", "c", "app", "true", root=root, **more)
            assert (done.returncode, b"the name 'c' is taken" in done.stderr) == (125, True), done.stderr
        assert os.listdir(elsewhere) == []
    assert len(os.listdir(root / "containers")) == 1
    assert mounts_of(root) == before


def test_upper_dir_is_used(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        done = lamina(*RUN, "--name", "c", "app", "touch", "/x", root=root, LAMINA_UPPER_DIR=elsewhere)
        assert (done.returncode, done.stderr) == (0, b"")
        (place,) = Path(elsewhere).iterdir()
        assert (place / "upper/x").exists()
        assert lamina("diff", "c", root=root).stdout == b"A /x\n"
        assert lamina("rm", "c", root=root).returncode == 0
        assert lamina(*RUN, "--rm", "app", "touch", "/x", root=root, LAMINA_UPPER_DIR=elsewhere).stderr == b""
        assert list(Path(elsewhere).iterdir()) == []
    for wrong in (str(root), "/nowhere/at/all"):
        done = lamina(*RUN, "--rm", "app", "true", root=root, LAMINA_UPPER_DIR=wrong)
        assert (done.returncode, done.stderr.count(b"\n")) == (125, 1), done.stderr
    assert lamina("ps", "-aq", root=root).stdout == b""


@pytest.mark.parametrize("name", [PLAIN_USER, "59999"])
def test_a_plain_users_memory_ends_with_the_container(overlay: Path, name: str) -> None:
    sleep = f"sleep 9{os.getpid()}"  # another process of the tests may run its twin
    with plain_user(name) as (place, call):
        write_layout(place / "layout", "app", layers())
        assert call("load", "-i", str(place / "layout")).returncode == 0
        done = call(
            *RUN, "--rm", "app", "sh", "-c", "cat /old 2>/dev/null || echo gone; echo x > /dir/below; cat /new"
        )
        assert (done.returncode, done.stdout) == (0, b"gone\nn"), done.stderr
        assert done.stderr.startswith(SAID)
        with call.started(*RUN, "--rm", "--name", "c", "app", "sh", "-c", f"touch /x; echo up; {sleep}") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert call("diff", "c").stdout == b"A /x\n"
            assert call("commit", "c", "app:2").returncode == 0
            process.kill()
            process.wait()
        assert call("ls", "app:2", "/x").returncode == 0
        assert call("rm", "--force", "c").returncode == 0
        assert subprocess.run(["pgrep", "-f", sleep], capture_output=True, check=False).stdout == b""
        done = call(*RUN, "app", "true")
        assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
        assert b"take --rm, or set upper_dir" in done.stderr
        assert call("ps", "-aq").stdout == b""
        shutil.rmtree(place / "store", ignore_errors=True)


def test_a_store_that_supports_writable_layers_holds_them(overlay: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        write_layout(f"{place}/layout", "app", layers())
        assert lamina("load", "-i", f"{place}/layout", root=f"{place}/s").returncode == 0
        done = lamina(*RUN, "--name", "c", "app", "true", root=f"{place}/s")
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(list(Path(place).glob(f"s/containers/*/{writable.UPPER}"))) == 1
        assert lamina("rm", "c", root=f"{place}/s").returncode == 0


def test_info_says_where_containers_can_write(root: Path, tmp_path: Path) -> None:
    views = json.loads(lamina("info", "--format", "json", root=root).stdout)["views"]
    assert views["overlay"] == ""
    assert "upper" in views["upper"]


def test_the_library_has_the_changes_of_a_container_in_memory(root: Path) -> None:
    image = lamina_library.open("app", root=root)
    with image.run(["sh", "-c", "echo x > /tmp/mine"], network="none") as result:
        assert result.exit_code == 0
        assert "kept in memory" in result.warnings[0]
        assert [str(change) for change in result.changes] == ["C /tmp", "A /tmp/mine"]
        assert result.commit("app:2").read_bytes("/tmp/mine") == b"x\n"
    assert os.listdir(root / "containers") == []
    assert mounts_of(root) == []


PLAIN = """
import os, lamina
image = lamina.open("app")
with image.run(["sh", "-c", "echo x > /tmp/mine"], network="none") as result:
    print(*result.changes)
    try:
        result.commit("app:2")
    except lamina.LaminaError as error:
        print(type(error).__name__)
print(os.listdir(os.environ["LAMINA_ROOT"] + "/containers"))
"""


def test_the_library_of_a_plain_user_reads_changes_before_the_memory_is_freed(overlay: Path) -> None:
    require_tool("newuidmap")
    with plain_user(PLAIN_USER) as (where, call):
        write_layout(where / "layout", "app", layers())
        assert call("load", "-i", str(where / "layout")).returncode == 0
        program = [*call.drop, call.python, "-W", "ignore", "-c", PLAIN]
        done = subprocess.run(program, capture_output=True, env=call.environment, cwd=where, check=False)
        assert done.stdout == b"C /tmp A /tmp/mine\nNotFound\n[]\n", done.stderr
