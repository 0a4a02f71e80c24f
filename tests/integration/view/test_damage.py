"""Truncated or changed tars and images: fsck finds them, and a mount never shows them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from integration.view.test_mount import BIG, loaded, stack_of
from lamina.host.process_identity import boot_id
from lamina.store import derived
from lamina.store.fsck import fsck
from lamina.store.store import Store
from lamina.view.check import check_unions
from lamina.view.overlay.lower import unpack_parts, write_images
from lamina.view.overlay.mount import mount, unmount
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


def grown(path: str) -> None:
    Path(path).parent.joinpath("more").touch()


def open_to_all(path: str) -> None:
    os.chmod(path, 0o777)


def turned(path: str) -> None:
    os.unlink(path)
    os.symlink("a", path)


@pytest.mark.parametrize(
    ("damage", "name", "word"),
    [
        (cut, "a", "bytes instead of"),
        (emptied, "a", "has 0 bytes"),
        (changed, "a", "has different content"),
        (changed, "sparse", "has different content"),
        (os.unlink, "d/x", "is missing"),
        (grown, "d/x", "/d/more is not in the image"),
        (open_to_all, "d/x", "has the mode 0777 instead of 0644"),
        (open_to_all, "d", "has the mode 0777 instead of 0755"),
        (turned, "d/x", "is not a file"),
        (turned, "link", "has another target"),
        (turned, "fifo", "is not a fifo"),
    ],
)
def test_fsck_finds_an_unpacked_tree(tmp_path: Path, damage: Any, name: str, word: str) -> None:
    require_root()
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"1" * 8192)
        file.truncate(1 << 20)
    command = ["tar", "-c", "--sparse", "--format=gnu", "-C", str(tmp_path), "sparse"]
    sparse = subprocess.run(command, capture_output=True, check=True).stdout
    first = [("a", BIG), ("d/x", b"x"), ("link", "-> d/x"), ("fifo", "fifo"), ("hard", "= a"), ("null", "c 1 3")]
    store = loaded(tmp_path, [first, sparse, [("b", b"2"), ("d/y", b"y")]])
    stack = stack_of(store)
    trees = unpack_parts(store, stack)
    assert list(check_unions(store)) == []
    there = next(tree for tree in trees if os.path.lexists(os.path.join(tree, name)))
    damage(os.path.join(there, name))
    said = lamina("fsck", root=tmp_path / "s")
    assert said.returncode == 1
    (line,) = [line for line in said.stdout.decode().splitlines() if line.startswith("derived: ")]
    assert line.startswith(f"derived: {there}: /")
    assert word in line
    # a mounted tree is kept
    mounted = mount(store, stack, str(tmp_path / "mnt"), view="overlay")
    assert b"uses it" in lamina("fsck", "--repair", root=tmp_path / "s").stdout
    assert os.path.isdir(there)
    unmount(store, mounted.target)
    assert lamina("fsck", "--repair", root=tmp_path / "s").returncode == 0
    assert not os.path.exists(there)
    assert lamina("fsck", root=tmp_path / "s").returncode == 0
    assert unpack_parts(store, stack) == trees
    assert list(check_unions(store)) == []


def test_fsck_finds_what_a_tree_hides(tmp_path: Path) -> None:
    require_root()
    store = loaded(tmp_path, LAYERS)
    upper = unpack_parts(store, stack_of(store))[-1]
    marked = os.path.lexists(os.path.join(upper, "d/x"))
    assert list(check_unions(store)) == []
    if marked:  # else the store is on an overlayfs, and one tree shows all
        os.unlink(os.path.join(upper, "d/x"))
        (finding,) = check_unions(store)
        assert finding.what == f"{upper}: /d/x is missing"
    (Path(upper) / "d/x").write_text("x")
    (finding,) = check_unions(store)
    assert finding.what.startswith(f"{upper}: /d/x is n")


def test_a_tree_unpacked_before_a_crash_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    store = loaded(tmp_path, LAYERS)
    stack = stack_of(store)
    trees = unpack_parts(store, stack)
    notes = [Path(f"{tree}.written") for tree in trees]
    synced: list[str] = []
    monkeypatch.setattr(derived, "sync_files", synced.append)
    # the machine crashed: the names of files are there, their bytes are not
    for tree, note in zip(trees, notes, strict=True):
        note.write_text(note.read_text().replace(boot_id(), "another-boot"))
        (tree_file,) = [name for name in ("a", "b") if os.path.exists(os.path.join(tree, name))][:1]
        emptied(os.path.join(tree, tree_file))
    assert unpack_parts(store, stack) == trees
    assert list(check_unions(store)) == []
    assert [note.read_text().split()[0] for note in notes] == [boot_id()] * len(trees)
    inodes = [os.stat(tree).st_ino for tree in trees]
    assert unpack_parts(store, stack) == trees
    assert synced == []
    # some time later it is on the disk, and made sure of, once
    for note in notes:
        *words, _ = note.read_text().split()
        note.write_text(" ".join([*words, f"{time.monotonic() - 100:.0f}\n"]))
    assert unpack_parts(store, stack) == unpack_parts(store, stack) == trees
    assert (synced, [note.read_text().split()[0] for note in notes]) == (trees, ["disk"] * len(trees))
    assert [os.stat(tree).st_ino for tree in trees] == inodes


def test_a_tree_without_a_note_is_made_again(tmp_path: Path) -> None:
    """A note may be lost in a crash, with what it speaks of."""
    require_root()
    store = loaded(tmp_path, [[("a", b"1")]])
    (tree,) = unpack_parts(store, stack_of(store))
    Path(f"{tree}.written").unlink()
    emptied(os.path.join(tree, "a"))
    assert unpack_parts(store, stack_of(store)) == [tree]
    assert Path(tree, "a").read_bytes() == b"1"


def test_a_mounted_tree_is_not_unpacked_again(tmp_path: Path) -> None:
    """A lamina that left no notes has mounted it, and was replaced since."""
    require_root()
    store = loaded(tmp_path, LAYERS)
    stack, place = stack_of(store), tmp_path / "mnt"
    mount(store, stack, str(place), view="overlay")
    try:
        trees = unpack_parts(store, stack)
        inodes = [os.stat(tree).st_ino for tree in trees]
        for tree in trees:
            Path(f"{tree}.written").unlink()
        assert unpack_parts(store, stack) == trees
        assert [os.stat(tree).st_ino for tree in trees] == inodes
        assert (place / "a").read_bytes() == BIG
    finally:
        unmount(store, str(place))


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
