"""Mounts of one store by several threads and processes at once, beside commands that remove images."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import lamina as library
from lamina.archive.layout import LayoutReader
from lamina.errors import SystemFailure
from lamina.host.mountinfo import mounts as mountinfo
from lamina.settings import VIEWS
from lamina.spec.platform import Platform
from lamina.store.gc import collect
from lamina.store.store import Store
from lamina.store.unions import make_union
from lamina.transfer.copy import copy
from lamina.view import kernel
from lamina.view.overlay.mount import mount, mounts, unmount
from support import require_root, write_layout

BASE = [(f"d{number}/f", f"{number}".encode()) for number in range(40)]


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A cold store with "a" and "b" on one base."""
    found = Store.open(str(tmp_path / "s"))
    for name in "ab":
        write_layout(tmp_path / "l", name, [BASE, [(name, name.encode() * 9)]])
        copy(LayoutReader(str(tmp_path / "l")), found, [(name, name)])
    yield found
    for one in mounts(found):
        unmount(found, one.target)


def below(store: Store) -> list[str]:
    """What is mounted in the store."""
    return [one.target for one in mountinfo() if one.target.startswith(store.paths.root + os.sep)]


def at_once(count: int, work: Callable[[int], object]) -> None:
    """``work`` in as many threads, which all begin at the same moment. Raises what the first of them raised."""
    start = threading.Barrier(count)
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "fuse"])
def test_threads_mount_a_cold_image(store: Store, view: str) -> None:
    image = library.open("a", root=store.paths.root, settings=None)
    seen = []
    inside = threading.Barrier(8)

    def work(_: int) -> None:
        own = Store.open(store.paths.root, view=view)
        place = mount(own, image.stack, view=view).target
        try:
            inside.wait(timeout=60)  # all of them stand at once
            seen.append((place, Path(place, "a").read_bytes(), Path(place, "d7/f").read_bytes()))
            inside.wait(timeout=60)
        finally:
            unmount(own, place)

    at_once(8, work)
    assert {said[1:] for said in seen} == {(b"a" * 9, b"7")}
    assert len({said[0] for said in seen}) == 8
    assert mounts(store) == []
    assert below(store) == []
    assert list(store.roots) == []


def test_nested_uses_of_one_image_have_places_of_their_own(store: Store) -> None:
    image = library.open("a", root=store.paths.root)
    with image.mount() as first:
        with image.mount() as second:
            assert first != second
            assert Path(second, "a").read_bytes() == Path(first, "a").read_bytes() == b"a" * 9
        assert not os.path.exists(second)
        assert Path(first, "a").read_bytes() == b"a" * 9
    assert not os.path.exists(first)
    assert below(store) == []


def test_a_block_ends_well_where_somebody_else_has_unmounted_all(store: Store) -> None:
    image = library.open("a", root=store.paths.root)
    with image.mount() as place:
        unmount(store, place)
    assert below(store) == []
    assert list(store.roots) == []


def test_gc_never_sees_a_half_made_union(store: Store) -> None:
    """A collection that comes between the directory and its record would take the directory away."""
    stack = store.stack("a", Platform.host())
    stop = threading.Event()
    failed: list[BaseException] = []

    def sweep() -> None:
        while not stop.is_set():
            try:
                collect(store)
            except BaseException as error:
                failed.append(error)
                return

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        for number in range(300):
            directory = make_union(store.paths, f"{number:064x}", stack.diff_ids)
            assert os.listdir(directory) == ["layers"]
    finally:
        stop.set()
        thread.join()
    assert failed == []
    assert len(os.listdir(store.paths.unions)) == 300


def test_the_mount_point_of_a_killed_mount_is_removed_by_the_next_gc(store: Store) -> None:
    with ExitStack() as left:
        image = library.open("a", root=store.paths.root)
        place = left.enter_context(image.mount())
        alone = os.path.join(os.path.dirname(place), "union-0123456789ab")
        os.mkdir(alone)
        collect(store)
        assert not os.path.exists(alone)
        assert Path(place, "a").read_bytes() == b"a" * 9


def test_a_mount_that_fails_leaves_no_part_mounted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_mount = kernel.mount

    def refusing(kind: str, *arguments: Any, **more: Any) -> None:
        if kind == "overlay":
            raise SystemFailure("overlay: refused")
        kernel_mount(kind, *arguments, **more)

    monkeypatch.setattr(kernel, "mount", refusing)
    with pytest.raises(SystemFailure, match="refused"):
        mount(store, store.stack("a", Platform.host()), view="erofs")
    assert below(store) == []
    assert list(store.roots) == []
    made = [name for key in os.listdir(store.paths.unions) for name in os.listdir(store.paths.union(key))]
    assert not [name for name in made if name.startswith("union-")]
