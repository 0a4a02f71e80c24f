"""`pull --unpack`: a layer is unpacked while higher layers are downloaded."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.view.overlay.lower import unpack_parts
from lamina.view.upper_check import refusal
from support import lamina, require_root, running, write_layout
from unruly import Answer, Seen, Unruly

LAYERS = [[("base/a", b"a"), ("gone", b"g")], [("base/b", b"b" * 50_000), (".wh.gone", b"")]]


def trees(root: Path) -> list[Path]:
    """Those that are complete."""
    found = (root / "unions").glob("*/tree*")
    return [path for path in found if path.is_dir() and not path.name.endswith(".tmp")]


class Held:
    """A registry that keeps the upper layer back until it is told."""

    def __init__(self, layout: Path) -> None:
        self.go_on = threading.Event()
        self.server = Unruly(layout, rule=self._rule)

    def _rule(self, server: Unruly, seen: Seen) -> Answer | None:
        if server.layers[1] in seen.path:
            self.go_on.wait(30)
        return None


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    require_root()
    if refusal(str(tmp_path)):
        pytest.skip("one tree shows all layers here")
    write_layout(tmp_path / "l", "app", LAYERS, compress=True)
    one = Held(tmp_path / "l")
    with one.server:
        yield one
        one.go_on.set()


def wait_for_tree(root: Path) -> None:
    deadline = time.monotonic() + 20
    while not trees(root):
        assert time.monotonic() < deadline, "nothing was unpacked"
        time.sleep(0.01)


def test_a_layer_is_unpacked_while_another_is_awaited(held: Held, tmp_path: Path) -> None:
    root = tmp_path / "s"
    with running("pull", "-q", "--unpack", held.server.image, root=root) as process:
        wait_for_tree(root)
        (first,) = trees(root)
        assert (first / "base/a").read_bytes() == b"a"
        before = first.stat().st_ino
        held.go_on.set()
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert len(trees(root)) == 2
    store = Store.open(str(root))
    parts = unpack_parts(store, store.stack(held.server.image, Platform.host()))
    assert os.stat(parts[0]).st_ino == before
    assert lamina("fsck", root=root).returncode == 0


def test_an_interrupt_ends_both(held: Held, tmp_path: Path) -> None:
    root = tmp_path / "s"
    with running("pull", "-q", "--unpack", held.server.image, root=root) as process:
        wait_for_tree(root)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)  # its end of the pipe is closed by the other process too
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    held.go_on.set()
    done = lamina("pull", "-q", "--unpack", held.server.image, root=root)
    assert done.returncode == 0, done.stderr
    assert len(trees(root)) == 2


def test_layers_that_can_not_be_unpacked_ahead_are_unpacked_at_the_end(tmp_path: Path) -> None:
    """A hardlink into a lower layer makes one part of all."""
    require_root()
    for name, layers in (("one", LAYERS[:1]), ("link", [[("a", b"a")], [("b", "= a")]])):
        write_layout(tmp_path / name, "app", layers, compress=True)
        with Unruly(tmp_path / name) as server:
            done = lamina("pull", "-q", "--unpack", server.image, root=tmp_path / f"s-{name}")
        assert done.returncode == 0, done.stderr
        store = Store.open(str(tmp_path / f"s-{name}"))
        before = len(trees(Path(store.paths.root)))
        (part,) = unpack_parts(store, store.stack(server.image, Platform.host()))
        assert len(trees(Path(store.paths.root))) == before  # the pull had made it
        assert sorted(os.listdir(part)) == (["base", "gone"] if name == "one" else ["a", "b"])
