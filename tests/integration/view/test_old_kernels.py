"""An overlay on a kernel before Linux 6.8, which takes all layers in one option: by mount(2), as such kernels have
it. A newer kernel takes that too."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import Unsupported
from lamina.view import kernel
from support import require_root


@pytest.fixture(autouse=True)
def _old(monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    monkeypatch.setattr(kernel, "release", lambda: (5, 15))
    monkeypatch.setattr(kernel, "_FSOPEN", -1)  # nothing goes that way


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that an overlay can write to: tests may run on an overlayfs, which can't."""
    if "LAMINA_TEST_UPPER" not in os.environ:
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(dir=os.environ["LAMINA_TEST_UPPER"]))
    yield made
    shutil.rmtree(made)


def overlay(top: Path, lowers: list[Path]) -> set[str]:
    """The names in an overlay of the directories, the first one on top, and of an upper one."""
    for name in ("upper", "work", "seen"):
        (top / name).mkdir(parents=True)
    options: list[tuple[str, str | None]] = [("lowerdir+", str(lower)) for lower in lowers]
    options += [
        ("upperdir", str(top / "upper")),
        ("workdir", str(top / "work")),
        ("index", "off"),
        ("volatile", None),
    ]
    before = len(os.listdir("/proc/self/fd"))
    try:
        kernel.mount("overlay", options, str(top / "seen"), attributes=kernel.NO_DEVICES)
    finally:
        assert len(os.listdir("/proc/self/fd")) == before
    try:
        (top / "seen/written").write_text("")
        assert (top / "upper/written").exists()
        return set(os.listdir(top / "seen"))
    finally:
        kernel.unmount(str(top / "seen"))


def made(top: Path, names: list[str]) -> list[Path]:
    for number, name in enumerate(names):
        (top / name).mkdir(parents=True)
        (top / name / str(number)).write_text("")
    return [top / name for name in names]


@pytest.mark.parametrize("name", ["plain", "a:b", "a,b", "a\\b", "a\\:b\\,c", "ü b"])
def test_layers_at_any_path(place: Path, name: str) -> None:
    top = place / name
    assert overlay(top, made(top, ["one", "two"])) == {"0", "1", "written"}


def test_more_layers_than_a_page_has_room_for_their_paths(place: Path) -> None:
    lowers = made(place, [f"{number:0200}" for number in range(60)])
    assert len(overlay(place, lowers)) == 61


def test_more_layers_than_the_kernel_takes_are_one_clear_line(place: Path) -> None:
    lowers = made(place, [str(number) for number in range(300)])
    with pytest.raises(Unsupported, match="this kernel can't stack so many layers"):
        overlay(place, lowers)


@pytest.mark.parametrize(
    ("said", "version"), [("6.1.0-56-cloud-amd64", (6, 1)), ("5.15.0", (5, 15)), ("6.18-rc1", (6, 18)), ("x", (0, 0))]
)
def test_the_kernels_version(monkeypatch: pytest.MonkeyPatch, said: str, version: tuple[int, int]) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "here", said, "#1", "x86_64")))
    assert kernel.release() == version
