"""A lookup of one path in a large image: how many bytes of the indexes are copied."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from lamina.image import Image
from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.source.stack import Stack
from lamina.spec.digest import Digest
from lamina.union.merge import merge
from lamina.union.partial import PartialMerge
from lamina.union.path_history import path_history

ENTRIES = 46_000


def test_a_lookup_in_46000_entries_reads_few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = IndexBuilder()
    for number in range(ENTRIES):
        builder.add(
            b"usr/lib/modules/package%05d/module_%07d.js" % (number // 20, number), int(Kind.FILE), size=number
        )
    layer = builder.finish(0)
    read: list[int] = []

    for name in ("basename", "_basenames", "directory_name", "directory_paths", "_fetch"):
        _count(monkeypatch, name, read)
    path = b"usr/lib/modules/package01000/module_0020007.js"
    tree, node = PartialMerge().lookup([layer, layer], path, follow=True)
    assert tree.entry(node).size == 20007
    assert len(path_history(tree, path).states) == 2
    glanced = sum(read)
    assert glanced < 1 << 20
    read.clear()
    merge([layer, layer])
    assert sum(read) > 1 << 20 > 4 * glanced


class _Layer:
    """A layer handle over an index in memory; what is read of its tar is not asked here."""

    def __init__(self, index: LayerIndex, number: int) -> None:
        self.diff_id = Digest.of(b"%d" % number)
        self._index = index

    def index(self) -> LayerIndex:
        return self._index

    def open(self, start: int = 0, end: int | None = None) -> io.BytesIO:
        return io.BytesIO(b"x" * ((end or 0) - start))


def test_the_first_look_at_one_path_merges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """ls, stat, reading and blame, of an image that was never looked at before and that has hardlinks."""
    layers = []
    for which in range(2):
        builder = IndexBuilder()
        for number in range(ENTRIES // 2):
            path = b"usr/lib/package%05d/module_%07d.js" % (number // 20, number)
            builder.add(path, int(Kind.FILE), size=number)
        builder.add(b"usr/lib/package01000/again_%d.js" % which, int(Kind.HARDLINK), link=path)
        layers.append(_Layer(builder.finish(1 << 30), which))
    read: list[int] = []
    for name in ("basename", "_basenames", "directory_name", "directory_path", "directory_paths", "_fetch"):
        _count(monkeypatch, name, read)
    monkeypatch.setattr("lamina.union.merge.merge", None)  # nobody may
    monkeypatch.setattr("lamina.union.partial.merge", None)
    stack: Any = Stack("made", None, None, tuple(layers), (None, None))  # type: ignore[arg-type]
    image = Image(stack)
    last = f"/usr/lib/package01149/module_{ENTRIES // 2 - 1:07}.js"
    first = "/usr/lib/package01000/module_0020000.js"
    looks: list[tuple[Callable[[], Any], Any]] = [
        (lambda: len(image.listdir("/usr/lib/package01000")), 22),
        (lambda: len(image.listdir("/")), 1),
        (lambda: image.stat(first).size, 20_000),
        (lambda: len(image.read_bytes(first)), 20_000),
        (lambda: len(path_history(stack.partial([first[1:].encode()]), first[1:].encode()).states), 2),
        (lambda: [union.links(node) for union, node in [stack.listing(last[1:].encode(), into=False)]], [2]),
    ]
    for look, expected in looks:
        read.clear()
        assert look() == expected
        assert 0 < sum(read) < 1 << 18


def _count(monkeypatch: pytest.MonkeyPatch, name: str, read: list[int]) -> None:
    real = getattr(LayerIndex, name)

    def count(index: LayerIndex, *arguments: Any) -> Any:
        found = real(index, *arguments)
        read.append(len(found) if isinstance(found, bytes) else sum(map(len, found)))
        return found

    monkeypatch.setattr(LayerIndex, name, count)
