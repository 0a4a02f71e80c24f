"""The note that an EROFS image was verified: valid for that very file in this boot, and for no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import StoreDamaged
from lamina.union.merge import merge
from lamina.view.erofs import intact
from lamina.view.erofs.read import ErofsImage
from lamina.view.erofs.write import BLOCK, write_erofs
from support import layer_index


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tree = merge([layer_index(("a", b"x" * 700)), layer_index(("b", b"y"))])
    path = tmp_path / "erofs"
    path.write_bytes(write_erofs(tree))
    return path


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intact, "_SETTLED", -1.0)


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> ErofsImage:
        raise AssertionError(path)

    monkeypatch.setattr(ErofsImage, "load", refuse)


def test_an_image_file_is_verified_once(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    found = intact.lengths(str(image))
    blocks = [count for count, _ in ErofsImage.load(str(image)).devices]
    assert found is not None
    assert [one.stop - 1 for one in found] == [count * BLOCK for count in blocks]
    assert all(len(one) == BLOCK for one in found)
    unread(monkeypatch)
    assert intact.lengths(str(image)) == found


def test_a_file_that_was_just_written_is_verified_again(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intact, "_SETTLED", 3600.0)
    assert intact.lengths(str(image)) is not None
    assert os.listdir(image.parent) == ["erofs"]
    monkeypatch.setattr(ErofsImage, "load", lambda path: (_ for _ in ()).throw(StoreDamaged("cut")))
    assert intact.lengths(str(image)) is None


@pytest.mark.parametrize("how", ["boot", "byte", "size", "another", "note", "no note"])
def test_a_changed_or_unnoted_file_is_verified_again(image: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    settle(monkeypatch)
    found = intact.lengths(str(image))
    data = image.read_bytes()
    times = image.stat()
    while (
        image.with_name("clock").write_bytes(b"") or image.with_name("clock").stat().st_ctime_ns == times.st_ctime_ns
    ):
        pass  # the kernel's clock goes on: a file's times tell a change
    if how == "boot":
        monkeypatch.setattr(intact, "boot_id", lambda: "another")
    elif how == "byte":
        with image.open("r+b") as file:
            file.seek(len(data) // 2)
            file.write(bytes([data[len(data) // 2] ^ 1]))
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif how == "size":
        image.write_bytes(data[:-512])
    elif how == "another":
        image.unlink()
        image.write_bytes(data)
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif how == "note":
        note = image.with_name("whole")
        note.write_text(note.read_text()[:-3])
    else:
        image.with_name("whole").unlink()
    asked: list[str] = []
    load = ErofsImage.load
    monkeypatch.setattr(ErofsImage, "load", lambda path: asked.append(path) or load(path))
    assert intact.lengths(str(image)) == (None if how in ("byte", "size") else found)
    assert asked == [str(image)]


def test_a_missing_image_file_is_not_intact(tmp_path: Path) -> None:
    assert intact.lengths(str(tmp_path / "erofs")) is None
