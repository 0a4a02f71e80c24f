"""Owners of set-id programs outside of their image: nobody gets rights that the image did not give."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.layout import LayoutReader
from lamina.host.privileges import MAX_ID
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.transfer.open_stack import open_stack
from lamina.view.owners import Owners
from lamina.view.unpack.check import difference
from lamina.view.unpack.unpack import unpack, unpack_tree
from support import lamina, make_tar, require_root, write_layout

SET_IDS = [
    ("of-root", b"#!", {"mode": 0o6755}),
    ("of-web", b"#!", {"mode": 0o6755, "uid": 33, "gid": 44}),
    ("of-far-user", b"#!", {"mode": 0o6755, "uid": 4_000_000}),
    ("of-far-group", b"#!", {"mode": 0o6755, "gid": 4_000_000}),
    ("plain", b"#!", {"mode": 0o755, "uid": 4_000_000}),
]


def seen(top: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(top.iterdir()):
        state = path.lstat()
        found[path.name] = (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode))
    return found


def stack_of(where: Path, members: list[Any]) -> Stack:
    write_layout(where / "l", "app", [members])
    return open_stack(LayoutReader(str(where / "l")), "app", Platform.host(), "app")


@pytest.mark.parametrize("verb", ["load", "import", "ls", "unpack"])
def test_every_way_in_refuses_the_owner_that_chown_takes_as_unchanged(tmp_path: Path, verb: str) -> None:
    member = ("su", b"#!", {"mode": 0o4755, "uid": MAX_ID + 1, "gid": MAX_ID + 1})
    write_layout(tmp_path / "l", "app", [[member]])
    (tmp_path / "layer.tar").write_bytes(make_tar([member]))
    words = {
        "load": ("load", "-i", str(tmp_path / "l")),
        "import": ("import", str(tmp_path / "layer.tar"), "app"),
        "ls": ("ls", f"oci:{tmp_path}/l:app"),
        "unpack": ("unpack", f"oci:{tmp_path}/l:app", str(tmp_path / "out")),
    }[verb]
    done = lamina(*words, root=tmp_path / "s")
    assert done.returncode == 4, done.stderr
    assert b"has the invalid owner 4294967295:4294967295" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_older_index_never_gives_the_owner_that_chown_takes_as_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can write it today; what was written once is still read."""
    require_root()
    monkeypatch.setattr("lamina.layer.tar.MAX_ID", MAX_ID + 1)
    about = {"uid": MAX_ID + 1, "gid": MAX_ID + 1}
    members = [
        ("su", b"#!", {"mode": 0o6755, **about}),
        ("dir/", None, {**about, "gid": 5}),
        ("link", "-> su", about),
    ]
    report = unpack(stack_of(tmp_path, members), os.fsencode(tmp_path / "out"))
    assert seen(tmp_path / "out") == {"dir": (0, 5, 0o755), "link": (0, 0, 0o777), "su": (0, 0, 0o755)}
    assert len(report.warnings) == 3


def test_root_keeps_the_owners_and_their_bits(tmp_path: Path) -> None:
    require_root()
    unpack(stack_of(tmp_path, SET_IDS), os.fsencode(tmp_path / "out"))
    assert seen(tmp_path / "out") == {
        "of-root": (0, 0, 0o6755),
        "of-web": (33, 44, 0o6755),
        "of-far-user": (4_000_000, 0, 0o6755),
        "of-far-group": (0, 4_000_000, 0o6755),
        "plain": (4_000_000, 0, 0o755),
    }


def test_a_file_that_becomes_owned_by_root_loses_its_set_id_bits(tmp_path: Path) -> None:
    require_root()
    unpack(stack_of(tmp_path, SET_IDS), os.fsencode(tmp_path / "out"), same_owner=False)
    assert seen(tmp_path / "out") == {
        "of-root": (0, 0, 0o6755),
        "of-web": (0, 0, 0o755),
        "of-far-user": (0, 0, 0o2755),
        "of-far-group": (0, 0, 0o4755),
        "plain": (0, 0, 0o755),
    }


def test_what_a_namespace_lacks_becomes_its_roots_without_the_bits(tmp_path: Path) -> None:
    require_root()
    stack = stack_of(tmp_path, SET_IDS)
    owners = Owners(((0, 100_000, 65_536),), ((0, 200_000, 65_536),))
    report = unpack_tree(stack.tree(), stack.layers, os.fsencode(tmp_path / "out"), mapped=owners)
    assert seen(tmp_path / "out") == {
        "of-root": (100_000, 200_000, 0o6755),
        "of-web": (100_033, 200_044, 0o6755),
        "of-far-user": (100_000, 200_000, 0o2755),
        "of-far-group": (100_000, 200_000, 0o4755),
        "plain": (100_000, 200_000, 0o755),
    }
    assert len(report.warnings) == 3
    # fsck takes that for what it is, where it can be
    top = str(tmp_path / "out")
    assert difference(stack.tree(), stack.layers, top, devices=False) == ""
    said = difference(stack.tree(), stack.layers, top, devices=True)
    assert said == "/of-far-group has the mode 4755 instead of 6755"
    for mode in (0o6755, 0o2755, 0o711):
        os.chmod(tmp_path / "out/plain", mode)
        assert "/plain has the mode" in difference(stack.tree(), stack.layers, top, devices=False)
