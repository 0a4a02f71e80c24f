"""Tars and images that were cut or changed behind lamina's back: fsck finds them, a mount never shows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from integration.view.test_mount import BIG, loaded, stack_of
from lamina.store.fsck import fsck
from lamina.store.store import Store
from lamina.view.check import check_unions
from lamina.view.lower import write_images
from lamina.view.mount import mount, unmount
from lamina.view.parts import image_of, parts_of
from support import lamina, require_root

LAYERS: list[list[Any] | bytes] = [[("a", BIG), ("d/x", b"x")], [("b", b"2"), ("d/.wh.x", b"")]]


def cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2 // 512 * 512)


def emptied(path: str) -> None:
    os.truncate(path, 0)


def changed(path: str) -> None:
    """One bit, far from where anybody looks first."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) * 2 // 3)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


DAMAGES = pytest.mark.parametrize("damage", [cut, emptied, changed])


def images(store: Store) -> list[str]:
    stack = stack_of(store)
    parts = parts_of(store, stack)
    write_images(store, stack, parts)
    return [image_of(store, part) for part in parts]


@DAMAGES
def test_fsck_finds_a_tar(tmp_path: Path, damage: Any) -> None:
    store = loaded(tmp_path, LAYERS)
    tar = store.paths.tar(stack_of(store).diff_ids[0])
    whole = Path(tar).read_bytes()
    damage(tar)
    said = lamina("fsck", root=tmp_path / "s")
    assert (said.returncode, b"tar of layer" in said.stdout) == (1, True)
    assert lamina("fsck", "--repair", root=tmp_path / "s").returncode == 0
    assert Path(tar).read_bytes() == whole
    assert fsck(store) == []


@DAMAGES
def test_fsck_finds_an_image(tmp_path: Path, damage: Any) -> None:
    store = loaded(tmp_path, LAYERS)
    first, second = images(store)
    assert list(check_unions(store)) == []
    whole = Path(first).read_bytes()
    damage(first)
    said = lamina("fsck", root=tmp_path / "s")
    assert said.returncode == 1
    assert b"derived: " + first.encode() in said.stdout
    assert second.encode() not in said.stdout
    assert lamina("fsck", "--repair", root=tmp_path / "s").returncode == 0
    assert not os.path.exists(first)
    assert lamina("fsck", root=tmp_path / "s").returncode == 0
    assert images(store) == [first, second]
    assert Path(first).read_bytes() == whole


@DAMAGES
@pytest.mark.parametrize("view", ["erofs", "erofs-merged"])
def test_a_damaged_image_is_not_mounted_but_made_again(tmp_path: Path, damage: Any, view: str) -> None:
    require_root()
    store = loaded(tmp_path, LAYERS)
    stack, place = stack_of(store), tmp_path / "mnt"
    parts = parts_of(store, stack, merged=view == "erofs-merged")
    write_images(store, stack, parts)
    for part in parts:
        damage(image_of(store, part))
    mount(store, stack, str(place), view=view)
    try:
        assert (place / "a").read_bytes() == BIG
        assert sorted(os.listdir(place)) == ["a", "b", "d"]
        assert os.listdir(place / "d") == []
    finally:
        unmount(store, str(place))
    assert list(check_unions(store)) == []


@pytest.mark.parametrize("damage", [cut, emptied, os.unlink])
def test_a_cut_tar_is_not_mounted_but_made_again(tmp_path: Path, damage: Any) -> None:
    require_root()
    store = loaded(tmp_path, LAYERS)
    stack, place = stack_of(store), tmp_path / "mnt"
    damage(store.paths.tar(stack.diff_ids[0]))
    mount(store, stack, str(place))
    try:
        assert (place / "a").read_bytes() == BIG
    finally:
        unmount(store, str(place))
    assert fsck(store) == []
