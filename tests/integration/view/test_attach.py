"""Images mounted from loop devices: forced, or because the file system refuses files; no device is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from integration.view.test_mount import check_view, loaded, stack_of
from lamina.errors import SystemFailure, Unsupported
from lamina.store.derived import note_written, sync_file
from lamina.store.writeback import unwritten
from lamina.view.erofs import attach, loop
from lamina.view.overlay.lower import sweep, write_images
from lamina.view.overlay.mount import Top, mount, mount_union, unmount
from lamina.view.parts import image_of, parts_of
from support import lamina, require_root, require_tool

LAYERS: list[list[Any] | bytes] = [
    [("etc/", None), ("etc/conf", b"lower"), ("etc/gone", b"g"), ("big", bytes(range(256)) * 600)],
    [("etc/.wh.gone", b""), ("etc/conf", b"upper"), ("link", "-> big"), ("x" * 255, b"long")],
]


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.fixture(params=["tmpfs", "overlay"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system whose files the kernel can't mount."""
    place, below = tmp_path / "elsewhere", tmp_path / "below"
    place.mkdir()
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(below)], check=True)
    if request.param == "overlay":  # on the tmpfs: the tests themselves may run on an overlayfs
        for name in ("lower", "upper", "work"):
            (below / name).mkdir()
        options = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "none", str(place)], check=True)
    else:
        subprocess.run(["mount", "--bind", str(below), str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
    subprocess.run(["umount", "-l", str(below)], check=True)


def backing(below: Path) -> list[str]:
    """The files below a directory that loop devices show."""
    found = []
    for name in os.listdir("/sys/block"):
        try:
            path = Path("/sys/block", name, "loop/backing_file").read_text().strip()
        except OSError:
            continue
        if path.startswith(str(below)):
            found.append(path)
    return found


def gone(below: Path) -> bool:
    """Whether no loop device shows a file below; the kernel clears them a moment after the last user went."""
    deadline = time.monotonic() + 10
    while backing(below) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not backing(below)


@pytest.mark.parametrize("view", ["erofs", "erofs-merged"])
def test_from_loop_devices_it_is_the_same(tmp_path: Path, view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forced = partial(attach.mount_erofs, sources=(attach.LOOPS,))
    monkeypatch.setattr("lamina.view.overlay.lower.mount_erofs", forced)
    store = loaded(tmp_path, LAYERS)
    assert check_view(store, tmp_path / "mnt", view, stack_of(store)) == 6
    mount(store, stack_of(store), str(tmp_path / "again"), view=view)
    assert len(backing(tmp_path)) == (4 if view == "erofs" else 3)
    unmount(store, str(tmp_path / "again"))
    assert gone(tmp_path)


@pytest.mark.parametrize("view", ["erofs", "erofs-merged"])
def test_store_on_a_file_system_that_takes_no_files(elsewhere: Path, tmp_path: Path, view: str) -> None:
    store = loaded(elsewhere, LAYERS)
    assert check_view(store, tmp_path / "mnt", view, stack_of(store)) == 6
    assert mount(store, stack_of(store), str(tmp_path / "again")).view == "erofs"
    assert backing(elsewhere) or backing(tmp_path)
    said = lamina("info", root=elsewhere / "s").stdout.decode()
    assert "erofs-loop: works" in said
    assert "erofs: no: mounting erofs" in said
    unmount(store, str(tmp_path / "again"))
    assert gone(elsewhere)
    assert gone(tmp_path)


@pytest.mark.parametrize("source", [attach.FILES, attach.LOOPS])
def test_a_tar_that_the_disk_does_not_have_yet_is_read_through_its_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """A direct read would make the kernel write what it reads, and wait. The bytes are the same either way."""
    if attach.FILES not in probe_sources(tmp_path):
        pytest.skip("this file system mounts no files")
    monkeypatch.setattr("lamina.view.overlay.lower.mount_erofs", partial(attach.mount_erofs, sources=(source,)))
    store = loaded(tmp_path, LAYERS)
    stack, options = stack_of(store), []
    tars = [store.paths.tar(diff_id) for diff_id in stack.diff_ids]
    for synced in (False, True):
        for tar in tars:
            data = Path(tar).read_bytes()
            os.unlink(tar)  # what is written in place of an old file, the kernel writes at once
            Path(tar).write_bytes(data)
            note_written(tar, within=store.paths.ingest)
            if synced:
                sync_file(tar)
        assert [unwritten(tar) > 0 for tar in tars] == [not synced] * 2
        mount(store, stack, str(tmp_path / "mnt"), view="erofs")
        lines = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {tmp_path}/s/" in line]
        options.append({"directio" in line for line in lines if " - erofs " in line})
        assert (tmp_path / "mnt/big").read_bytes() == bytes(range(256)) * 600
        unmount(store, str(tmp_path / "mnt"))
        sweep(store)
    assert options == [{False}, {source == attach.FILES}]


def test_a_disk_with_sectors_of_4_kib_is_not_read_around_the_page_cache(tmp_path: Path) -> None:
    """Files in a tar begin at multiples of 512 bytes: read directly from such a disk they would be I/O errors."""
    require_tool("losetup", "mkfs.ext4", "mount", "umount")
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    words = ["losetup", "--sector-size", "4096", "--find", "--show", str(image)]
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", device], check=True)
        subprocess.run(["mount", device, str(place)], check=True)
        try:
            store = loaded(place, LAYERS)
            for diff_id in stack_of(store).diff_ids:
                sync_file(store.paths.tar(diff_id))
            assert mount(store, stack_of(store), str(tmp_path / "mnt"), view="erofs").view == "erofs"
            assert (tmp_path / "mnt/big").read_bytes() == bytes(range(256)) * 600
            unmount(store, str(tmp_path / "mnt"))
            sweep(store)
        finally:
            subprocess.run(["umount", "-R", str(place)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def probe_sources(place: Path) -> list[str]:
    """What EROFS can be mounted from here."""
    found = []
    for source in (attach.FILES, attach.LOOPS):
        store = loaded(place / source, [[("a", b"1")]])
        (part,) = parts_of(store, stack_of(store))
        write_images(store, stack_of(store), [part])
        (place / source / "mnt").mkdir()
        tars = [store.paths.tar(diff_id) for diff_id in part.layers]
        with suppress(SystemFailure, Unsupported):
            attach.mount_erofs(image_of(store, part), tars, str(place / source / "mnt"), sources=(source,))
            found.append(source)
            subprocess.run(["umount", str(place / source / "mnt")], check=True)
    return found


def test_an_overlayfs_takes_no_writable_top(elsewhere: Path, tmp_path: Path) -> None:
    """One error contains the kernel's message; on a tmpfs the mount works."""
    store = loaded(elsewhere, LAYERS)
    for name in ("upper", "work"):
        (elsewhere / name).mkdir()
    (tmp_path / "mnt").mkdir()
    top = Top(str(elsewhere / "upper"), str(elsewhere / "work"))
    if (
        subprocess.run(["stat", "-f", "-c", "%T", elsewhere], capture_output=True, check=True).stdout
        == b"overlayfs\n"
    ):
        with pytest.raises(Unsupported, match="upper"):
            mount_union(store, stack_of(store), str(tmp_path / "mnt"), top=top)
    else:
        mount_union(store, stack_of(store), str(tmp_path / "mnt"), top=top)
        (tmp_path / "mnt" / "new").touch()
        subprocess.run(["umount", str(tmp_path / "mnt")], check=True)
        assert os.listdir(elsewhere / "upper") == ["new"]
    sweep(store)
    assert gone(elsewhere)


def test_a_killed_process_leaves_no_device(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(8192))
    program = (
        "import sys, time; from lamina.view.erofs.loop import attached\n"
        f"with attached([{str(file)!r}] * 3) as found:\n    print(found, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"/dev/loop" in process.stdout.readline()
        assert len(backing(tmp_path)) == 3
        process.send_signal(signal.SIGKILL)
    assert gone(tmp_path)


def test_devices_are_read_only_and_show_the_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content!" * 1024)
    with loop.attached([str(file)]) as (device,):
        assert Path(device).read_bytes() == file.read_bytes()
        with pytest.raises(PermissionError), open(device, "r+b", buffering=0) as writable:
            writable.write(b"other")
    assert file.read_bytes() == b"content!" * 1024
    assert gone(tmp_path)


def test_files_that_a_loop_device_can_not_show_are_refused(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(bytes(1000))
    with pytest.raises(Unsupported, match="whole number of blocks"), loop.attached([str(odd)]):
        pass
    with pytest.raises(SystemFailure), loop.attached([str(tmp_path / "nothing")]):
        pass
    assert gone(tmp_path)


def test_the_error_names_both_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("image", "tar"):
        (tmp_path / name).write_bytes(bytes(4096))
    paths = (str(tmp_path / "image"), [str(tmp_path / "tar")], str(tmp_path))
    with pytest.raises(SystemFailure, match="from loop devices: "):
        attach.mount_erofs(*paths)
    monkeypatch.setattr(loop, "_CONTROL", str(tmp_path / "nothing"))
    with pytest.raises(SystemFailure) as caught:  # only why the files did not do
        attach.mount_erofs(*paths)
    assert "loop" not in caught.value.message
