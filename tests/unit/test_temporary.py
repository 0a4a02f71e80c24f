"""Temporary files: a living process keeps its own, and a planted file is neither written to nor removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lamina.archive.tar_output import ArchiveFile
from lamina.host import temporary
from lamina.host.files import replace_file, whole_file
from lamina.host.lock import locked, unheld
from lamina.host.temporary import Temporary, TemporaryDirectory, is_temporary
from lamina.store.ingest import link_or_copy
from lamina.store.paths import write_new


def is_free(path: str) -> bool:
    with unheld(path) as free:
        return free


def test_a_file_is_held_until_it_is_put_or_closed(tmp_path: Path) -> None:
    with Temporary(str(tmp_path), "x") as file:
        assert is_temporary(os.path.basename(file.path))
        assert os.stat(file.path).st_mode & 0o777 == 0o600
        assert not is_free(file.path)
        os.write(file.descriptor, b"new")
        file.put(str(tmp_path / "x"))
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), Temporary(str(tmp_path), "y"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["x"]


def test_temporary_files_of_a_killed_process_are_free_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal\n"
        "from lamina.host.temporary import Temporary, TemporaryDirectory\n"
        "a, b = Temporary(sys.argv[1], 'file'), TemporaryDirectory(sys.argv[1], 'tree')\n"
        "print(flush=True); sys.stdin.read(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 2
    assert [is_free(str(tmp_path / name)) for name in names] == [False, False]
    child.communicate(b"x")
    assert child.returncode == -signal.SIGKILL
    assert [is_free(str(tmp_path / name)) for name in names] == [True, True]


def test_a_file_that_is_checked_for_a_lock_can_not_be_locked_meanwhile(tmp_path: Path) -> None:
    path = str(tmp_path / "part")
    taken = threading.Event()

    def take() -> None:
        with locked(path):
            taken.set()

    Path(path).touch()
    with unheld(path) as free:
        assert free
        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.wait(0.05)
    thread.join()
    assert taken.is_set()


def test_what_is_gone_replaced_or_a_symlink_is_not_free(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.symlink("file", tmp_path / "link")
    assert not is_free(str(tmp_path / "gone"))
    assert not is_free(str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match="symbolic"):
        is_free(str(tmp_path / "link"))


def test_a_sweep_between_making_and_holding_costs_one_more_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, swept = temporary._hold, []

    def sweep_first(descriptor: int, path: str) -> int:
        if len(swept) < 2:
            swept.append(path)
            (os.rmdir if os.path.isdir(path) else os.unlink)(path)
        return hold(descriptor, path)

    monkeypatch.setattr(temporary, "_hold", sweep_first)
    with Temporary(str(tmp_path), "x") as file, TemporaryDirectory(str(tmp_path), "y") as tree:
        assert os.path.exists(file.path)
        assert os.path.isdir(tree.path)
        assert {os.path.basename(file.path), os.path.basename(tree.path)} == set(os.listdir(tmp_path))


def planted(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """A symlink where the next temporary file would be made first; the file that it leads to."""
    victim = directory.parent / f"victim-{name}"
    victim.write_bytes(b"theirs")
    tokens = iter([b"\0" * 6])
    urandom = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: next(tokens, None) or urandom(size))
    os.symlink(victim, directory / f"{name}.{'00' * 6}.tmp")
    return victim


@pytest.mark.parametrize("way", ["replace_file", "whole_file", "write_new", "archive"])
def test_a_planted_link_is_neither_followed_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    victim = planted(directory, monkeypatch, "x")
    target = str(directory / "x")
    with pytest.raises((OSError, Exception), match="exists"):
        if way == "replace_file":
            replace_file(target, [b"ours"])
        elif way == "whole_file":
            with whole_file(target) as file:
                file.write(b"ours")
        elif way == "write_new":
            write_new(target, b"ours")
        else:
            with ArchiveFile(target).writing():
                pass
    assert victim.read_bytes() == b"theirs"
    assert [entry.name for entry in os.scandir(directory)] == [f"x.{'00' * 6}.tmp"]


def test_write_new_keeps_what_is_there(tmp_path: Path) -> None:
    target = str(tmp_path / "x")
    write_new(target, b"first")
    write_new(target, b"second")
    assert Path(target).read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


def test_a_second_name_takes_the_place_of_what_is_there(tmp_path: Path) -> None:
    blob, target = tmp_path / "blob", tmp_path / "tar"
    blob.write_bytes(b"new")
    target.write_bytes(b"old")
    link_or_copy(str(blob), str(target), within=str(tmp_path))
    assert target.read_bytes() == b"new"
    assert os.path.samefile(blob, target)
    assert sorted(os.listdir(tmp_path)) == ["blob", "tar"]


def test_names_stay_below_the_file_systems_limit(tmp_path: Path) -> None:
    name = "é" * 127
    replace_file(str(tmp_path / name), [b"x"])
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(os.name == "nt", reason="no umask")
def test_an_output_file_gets_the_mode_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with whole_file(str(tmp_path / "out")) as file:
            file.write(b"x")
    finally:
        os.umask(old)
    assert os.stat(tmp_path / "out").st_mode & 0o777 == 0o640
