"""Large images: a thousand layers, files over 4 GiB, and the memory of a second image."""

from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from integration.view.test_mount import loaded, resident, stack_of
from lamina.archive.layout import LayoutReader
from lamina.layer.index import IndexBuilder
from lamina.source.stack import Stack
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.store import derived
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.view.overlay.mount import mount, unmount
from lamina.view.parts import parts_of
from support import require_root, write_layout

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def test_a_thousand_layers(tmp_path: Path) -> None:
    """The kernel stacks at most 500: by the rule they become one part, with a thousand tars."""
    layers = [[(f"f{number}", f"{number}".encode()), ("same", f"{number}".encode())] for number in range(40)]
    store, place = loaded(tmp_path, layers), tmp_path / "mnt"  # type: ignore[arg-type]
    stack = stack_of(store)
    stack = replace(stack, layers=stack.layers * 25, steps=(), _cache={})
    (part,) = parts_of(store, stack)
    assert len(part.layers) == 1000
    mount(store, stack, str(place))
    try:
        found = {path.name: path.read_bytes() for path in below(place)}
        assert found == {**{f"f{number}": f"{number}".encode() for number in range(40)}, "same": b"39"}
    finally:
        unmount(store, str(place))


def large(store: Store, stack: Stack) -> Stack:
    """The stack with one more layer: a file of 5 GiB with data only at its ends, and a file after it."""
    diff_id = Digest.of(b"a made-up layer")
    os.makedirs(store.paths.layer(diff_id))
    size, builder = 5 * GIB + 100, IndexBuilder()
    info = tarfile.TarInfo("large")
    info.size = size
    with open(store.paths.tar(diff_id), "wb") as tar:
        tar.write(info.tobuf(tarfile.GNU_FORMAT))
        tar.write(b"first")
        tar.seek(512 + size - 4)
        tar.write(b"last")
        at = 512 + -(-size // 512) * 512
        tar.seek(at)
        behind = tarfile.TarInfo("behind")
        behind.size = 6
        tar.write(behind.tobuf(tarfile.GNU_FORMAT) + b"behind".ljust(512, b"\0") + bytes(1024))
        end = tar.tell()
    builder.add(b"large", 0, 0o644, size=size, offset=512)
    builder.add(b"behind", 0, 0o644, size=6, offset=at + 512)
    with open(store.paths.layer_index(diff_id), "wb") as index:
        for piece in builder.chunks(end):
            index.write(piece)
    derived.note_written(
        store.paths.tar(diff_id), within=store.paths.ingest
    )  # no blob proves it: it was written just now
    descriptor = Descriptor("application/vnd.oci.image.layer.v1.tar", diff_id, end)
    return replace(stack, layers=(*stack.layers, store.layers.get(descriptor, diff_id)), steps=(), _cache={})


@pytest.mark.parametrize("view", ["erofs", "erofs-merged"])
def test_a_file_over_4_gib(tmp_path: Path, view: str) -> None:
    store = loaded(tmp_path, [[("below", b"below")]])
    stack, place = large(store, stack_of(store)), tmp_path / "mnt"
    assert os.stat(store.paths.tar(stack.diff_ids[1])).st_blocks < 1000  # a hole
    mount(store, stack, str(place), view=view)
    try:
        assert sorted(os.listdir(place)) == ["behind", "below", "large"]
        with open(place / "large", "rb") as file:
            assert file.read(10) == b"first" + bytes(5)
            assert file.seek(0, os.SEEK_END) == 5 * GIB + 100
            file.seek(4 * GIB - 3)
            assert file.read(6) == bytes(6)
            file.seek(5 * GIB + 90)
            assert file.read() == bytes(6) + b"last"
        assert (place / "behind").read_bytes() == b"behind"
        assert (place / "below").read_bytes() == b"below"
    finally:
        unmount(store, str(place))


def below(where: Path) -> Iterator[Path]:
    for directory, _, files in os.walk(where):
        yield from (Path(directory, name) for name in files)


def test_a_second_image_takes_little_disk_and_memory(tmp_path: Path) -> None:
    """Both read in full: the pages of a shared layer are counted once, the second image adds its own file's."""
    source = random.Random(7)
    base = [(f"lib/{number}", source.randbytes(200_000)) for number in range(40)]
    store = Store.open(str(tmp_path / "s"))
    sizes = []
    for name in ("app", "other"):
        write_layout(tmp_path / name, name, [base, [(name, source.randbytes(50_000))]])
        copy(LayoutReader(str(tmp_path / name)), store, [(name, name)])
        sizes.append(sum(path.stat().st_blocks * 512 for path in below(tmp_path / "s")))
    assert sizes[1] - sizes[0] < 300_000
    places = [tmp_path / "first", tmp_path / "second"]
    os.sync()  # a tar that the disk does not have yet is read through its page cache
    try:
        for name, place in zip(("app", "other"), places, strict=True):
            mount(store, store.stack(name, Platform.host()), str(place))
        tars = [path for path in below(tmp_path / "s" / "layers") if path.name == "tar"]
        for path in tars:  # they were written a moment ago
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert [resident(path) for path in tars] == [0, 0, 0]
        whole = 40 * -(-200_000 // 4096)
        for place in places:
            files = list(below(place))
            before = {path: resident(path) for path in files}
            assert all(path.read_bytes() for path in files)
            added = sum(resident(path) - before[path] for path in files)
            if place == places[0]:
                assert added == whole + -(-50_000 // 4096)
            else:  # all of the base was there already
                assert added == -(-50_000 // 4096)
        assert sum(map(resident, tars)) < 50  # no byte is kept twice
    finally:
        for place in places:
            unmount(store, str(place))
