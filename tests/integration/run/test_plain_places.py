"""Plain users on hosts with a wrong setup: ID maps, a home directory, a umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_run import members
from lamina.errors import SystemFailure
from lamina.host import privileges
from lamina.settings import Settings
from support import PLAIN_USER, PlainUser, plain_user, require_root, require_tool, write_layout

SHOW = ("run", "--rm", "--network", "none", "app", "cat", "/proc/self/uid_map")


@pytest.fixture
def user() -> Iterator[tuple[Path, PlainUser]]:
    require_root()
    require_tool("runc", "busybox", "newuidmap")
    with plain_user(PLAIN_USER) as (top, call):
        write_layout(top / "layout", "app", [members(), [("b", b"2")]])
        yield top, call
        call("umount", "--all")


@pytest.mark.parametrize("program", ["newuidmap", "newgidmap"])
def test_if_newuidmap_fails_only_the_own_id_is_mapped(user: tuple[Path, PlainUser], program: str) -> None:
    top, call = user
    assert call("load", "-i", str(top / "layout")).returncode == 0
    assert len(call(*SHOW).stdout.splitlines()) == 2
    (top / "bin").mkdir()
    (top / "bin" / program).write_text(f"#!/bin/sh\necho {program}: write failed: Invalid argument >&2\nexit 1\n")
    (top / "bin" / program).chmod(0o755)
    path = f"{top}/bin:{os.environ['PATH']}"
    done = call(*SHOW, PATH=path)
    assert (done.returncode, done.stdout.split()[2:]) == (0, [b"1"]), done.stderr
    done = call("run", "--rm", "--network", "none", "-u", "33", "app", "true", PATH=path)
    assert done.returncode == 125
    assert b"user 33" in done.stderr
    assert f"{program}: write failed: Invalid argument".encode() in done.stderr
    assert call("mount", "app", PATH=path).returncode == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(100, 10), (100, 10)], [(100, 10)]),
        ([(100, 10), (105, 10), (110, 5)], [(100, 10), (110, 5)]),
        ([(100, 0), (200, 5)], [(200, 5)]),
        ([(990, 20), (2000, 5)], [(2000, 5)]),
        ([(1001, 5)], [(1001, 5)]),
        ([], []),
    ],
)
def test_overlapping_ranges_of_ids_are_left_out(
    given: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    assert privileges.without_overlaps(given, 1000) == expected


def test_a_home_that_cannot_be_read_has_no_settings(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    assert call("load", "-i", str(top / "layout"), HOME="/root").returncode == 0
    for words in (("images",), ("ls", "app"), SHOW, ("mount", "app"), ("umount", "--all")):
        done = call(*words, HOME="/root")
        assert (done.returncode, done.stderr) == (0, b""), words
    closed = top / "home" / ".config" / "lamina"
    closed.mkdir(parents=True)
    (closed / "config.toml").write_text('view = "fuse"')
    (closed / "config.toml").chmod(0)
    assert (
        b"can't read the settings" in call("images", HOME=f"{top}/home").stderr
    )  # it exists, so it must be readable


def test_settings_of_a_closed_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    environ = {"HOME": str(tmp_path / "no"), "LAMINA_ROOT": "/x"}
    assert Settings.load(environ=environ, system_file=str(tmp_path / "none")).root == "/x"
    (tmp_path / "none").touch()
    with pytest.raises(SystemFailure, match="can't read the settings"):
        Settings.load(environ=environ, system_file=str(tmp_path / "none"))


@pytest.mark.parametrize("mask", ["000", "077"])
def test_any_umask_keeps_the_store_private_and_usable(user: tuple[Path, PlainUser], mask: str) -> None:
    top, call = user

    def masked(*words: str) -> None:
        done = call(*words, before=["sh", "-c", f'umask {mask}; exec "$@"', "sh"])
        assert done.returncode == 0, done.stderr

    masked("load", "-i", str(top / "layout"))
    masked("mount", "app")
    masked("run", "--name", "box", "-v", "data:/data", "--network", "none", "app", "sh", "-c", "echo 1 > /new")
    masked("commit", "box", "new")
    masked("ls", "-lR", "new")
    masked("find", "--digest", "sha256:" + "0" * 64)
    store = top / "store"
    opened = []
    for where, directories, _ in os.walk(store):
        directories[:] = [name for name in directories if not name.startswith(("tree", "upper", "work", "rootfs"))]
        for name in directories:
            mode = (Path(where) / name).lstat().st_mode
            if stat.S_IMODE(mode) & 0o022:
                opened.append(os.path.join(where, name))
    assert opened == []
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    masked("rm", "box")
