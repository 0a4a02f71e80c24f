"""One path of a large image: how much of the indexes is copied beyond the columns as they are mapped."""

from __future__ import annotations

from typing import Any

import pytest

from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.union.glance import Glance
from lamina.union.merge import merge
from lamina.union.trail import trail

ENTRIES = 46_000


def test_one_path_of_46000_entries_reads_few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = IndexBuilder()
    for number in range(ENTRIES):
        builder.add(
            b"usr/lib/modules/package%05d/module_%07d.js" % (number // 20, number), int(Kind.FILE), size=number
        )
    layer = builder.finish(0)
    read: list[int] = []

    def counted(name: str) -> None:
        real = getattr(LayerIndex, name)

        def count(index: LayerIndex, *arguments: Any) -> Any:
            found = real(index, *arguments)
            read.append(len(found) if isinstance(found, bytes) else sum(map(len, found)))
            return found

        monkeypatch.setattr(LayerIndex, name, count)

    for name in ("basename", "basenames", "directory_name", "_fetch"):
        counted(name)
    path = b"usr/lib/modules/package01000/module_0020007.js"
    tree, node = Glance().lookup([layer, layer], path, follow=True)
    assert tree.entry(node).size == 20007
    assert len(trail(tree, path).states) == 2
    glanced = sum(read)
    assert glanced < 1 << 20
    read.clear()
    merge([layer, layer])
    assert sum(read) > 1 << 20 > 4 * glanced
