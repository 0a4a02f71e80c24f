"""Targets of mounts: symlinks of the image are followed inside its root, dangling ones too."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Unsupported
from lamina.run.mount_targets import VisibleFiles, prepare_targets
from lamina.run.rootfs import Inside

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux's")
LINKS = {
    "dangling": "run/nothing/here",
    "absolute": "/run/there",
    "up": "../../../../run/x",
    "var/run": "/run",
    "loop": "loop",
    "to-root": "..",
    "chain": "dangling/more",
    "home/data": "../srv/data",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    for name in ("etc", "run", "var", "home"):
        (top / name).mkdir(parents=True)
    (top / "etc/file").write_text("")
    for name, target in LINKS.items():
        (top / name).symlink_to(target)
    return top


@pytest.mark.parametrize(
    ("path", "covered", "found"),
    [
        ("/etc/file", (), "/etc/file"),
        ("/etc/./missing//name", (), "/etc/missing/name"),
        ("/dangling", (), "/run/nothing/here"),
        ("/dangling/below", (), "/run/nothing/here/below"),
        ("/chain", (), "/run/nothing/here/more"),
        ("/absolute/x", (), "/run/there/x"),
        ("/up", (), "/run/x"),
        ("/var/run/x", (), "/run/x"),
        ("/home/data", (), "/srv/data"),
        ("/to-root", (), "/"),
        ("/missing/../etc/file", (), "/etc/file"),
        ("/etc/file/below", (), "/etc/file/below"),
        ("/home/data", ("/home",), "/home/data"),
        ("/home/data/x", ("/home", "/srv"), "/home/data/x"),
        ("/var/run/x", ("/run",), "/run/x"),
        ("/up", ("/home",), "/run/x"),
    ],
)
def test_place_resolves_symlinks(root: Path, path: str, covered: tuple[str, ...], found: str) -> None:
    with Inside(str(root)) as inside:
        assert inside.place(path, covered) == found


def test_a_symlink_to_itself_is_an_error(root: Path) -> None:
    with Inside(str(root)) as inside, pytest.raises(OSError, match="symbolic links"):
        inside.place("/loop")


def mount(target: str, source: str = "", *options: str) -> dict[str, Any]:
    return {
        "destination": target,
        "type": "bind" if source else "tmpfs",
        "source": source or "tmpfs",
        "options": options,
    }


def test_mount_targets_are_resolved_and_files_of_lamina_come_last(root: Path, tmp_path: Path) -> None:
    file, directory = tmp_path / "file", tmp_path / "directory"
    file.write_text("")
    directory.mkdir()
    mounts = [
        mount("/dangling", str(file)),
        mount("/absolute", str(directory)),
        mount("/var/run/nothing"),
        mount("/home/data"),
    ]
    with Inside(str(root)) as inside:
        found, made = prepare_targets(mounts, inside, (os.getuid(), os.getgid()))
    targets = [one["destination"] for one in found]
    assert targets == ["/run/there", "/run/nothing", "/srv/data", "/run/nothing/here"]
    # nothing is made for a target inside another mount
    assert made == ["/run/there", "/run/nothing", "/srv", "/srv/data"]
    assert (root / "run/there").is_dir()
    assert not (root / "run/nothing/here").exists()


@pytest.mark.parametrize(
    ("options", "there", "kept"), [(("rw",), False, True), (("ro",), False, False), (("ro",), True, True)]
)
def test_files_of_lamina_are_left_out_where_a_read_only_directory_lacks_them(
    root: Path, tmp_path: Path, options: tuple[str, ...], there: bool, kept: bool
) -> None:
    file, directory = tmp_path / "file", tmp_path / "etc"
    file.write_text("")
    directory.mkdir()
    if there:
        (directory / "hosts").write_text("")
    mounts = [mount("/etc/hosts", str(file)), mount("/etc", str(directory), *options)]
    with Inside(str(root)) as inside:
        found, _ = prepare_targets(mounts, inside, (os.getuid(), os.getgid()), ("/etc/hosts",))
        asked, _ = prepare_targets(mounts, inside, (os.getuid(), os.getgid()))
    assert [one["destination"] for one in found] == ["/etc", *(["/etc/hosts"] if kept else [])]
    assert len(asked) == 2


@pytest.mark.parametrize("target", ["/to-root", "/loop", "/loop/below"])
def test_a_target_where_nothing_can_be_mounted_is_refused(root: Path, target: str) -> None:
    with Inside(str(root)) as inside, pytest.raises(Unsupported, match="nothing can be mounted at"):
        prepare_targets([mount(target)], inside, (0, 0))


def test_the_kernels_file_systems_stay_where_they_are_named(root: Path) -> None:
    """The runtimes check these paths for symlinks, because masked paths are below them."""
    (root / "proc").symlink_to("/run/proc")
    with Inside(str(root)) as inside:
        found, _ = prepare_targets([{**mount("/proc"), "type": "proc"}], inside, (os.getuid(), os.getgid()))
    assert found[0]["destination"] == "/proc"


DEVICES = {**mount("/dev"), "type": "tmpfs"}
PROC = {**mount("/proc"), "type": "proc"}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/absolute", "/run/there"),
        ("/home/data/../x", "/srv/x"),
        ("/volume/up/fine", "/run/fine"),
        ("/volume/here/x", "/volume/x"),
        ("/memory/../proc", "/proc"),
        ("/proc/sys/kernel", "/proc/sys/kernel"),
        ("/proc/net/../../self/fd/3", "/self/fd/3"),  # which is what the runtime is told, too
        ("/proc/self/fd/3", ""),
        ("/proc/1/fd", ""),
        ("/proc/net", ""),
        ("/dev/fd/3", ""),
        ("/to-fd/3", ""),
        ("/volume/bad", ""),
        ("/volume/way/bad", ""),
        ("/loop", ""),
    ],
)
def test_a_working_directory_has_its_symlinks_resolved_and_is_not_an_open_file(
    root: Path, tmp_path: Path, path: str, place: str
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    for name, target in {"up": "../run", "here": ".", "bad": "/proc/self/fd/3", "way": "../volume/./"}.items():
        (volume / name).symlink_to(target)
    (root / "to-fd").symlink_to("proc/self/fd")
    mounts = [PROC, DEVICES, mount("/volume", str(volume)), {**mount("/memory"), "type": "tmpfs"}]
    with Inside(str(root)) as inside:
        shown = VisibleFiles(inside, mounts)
        if place:
            assert shown.working_directory(path) == place
        else:
            with pytest.raises(Unsupported, match="the working directory"):
                shown.working_directory(path)
