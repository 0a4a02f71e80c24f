"""The parts of a stack that has known layers below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.view.parts import parts_of
from support import store_with, write_layout

BASE: list[list[Any]] = [
    [("etc/", None), ("etc/conf", b"lower"), ("etc/gone", b"g"), ("dir/", None), ("dir/sub/", None, {"mode": 0o700})],
    [("etc/more", b"m"), ("dir/sub/x", b"x")],
]
MORE: list[list[Any]] = [
    [("etc/.wh.gone", b""), ("etc/conf", b"upper")],
    [("dir/sub/y", b"y"), ("dir/sub/x", b"changed")],
]


def stacks(top: Path) -> tuple[Any, Stack, Stack]:
    """A store, a stack of two layers, and one of four."""
    write_layout(top / "layout", "base", BASE)
    write_layout(top / "layout", "whole", [*BASE, *MORE])
    store = store_with(top / "layout", top / "store", "base", "whole")
    return store, store.stack("base", Platform.host()), store.stack("whole", Platform.host())


def test_new_layers_on_known_ones_are_looked_at_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, other = stacks(tmp_path / "other")
    store, base, whole = stacks(tmp_path)
    expected = [(part.key, part.layers) for part in parts_of(stacks(tmp_path / "third")[0], other)]
    parts_of(store, base)

    def merged(stack: Stack) -> Any:
        raise AssertionError("all layers were merged")

    monkeypatch.setattr(Stack, "stacked", merged)
    parts = parts_of(store, whole)
    assert [(part.key, part.layers) for part in parts] == expected
    for number, part in enumerate(parts[2:], 2):
        tree, _, layers = part.make_tree()
        assert layers == [number]
        assert tree.find(b"etc" if number == 2 else b"dir/sub") is not None


def test_a_layer_with_a_link_to_a_lower_one_is_merged_with_it(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", "base", BASE)
    write_layout(tmp_path / "layout", "whole", [*BASE, [("etc/link", "= etc/conf")]])
    store = store_with(tmp_path / "layout", tmp_path / "store", "base", "whole")
    assert len(parts_of(store, store.stack("base", Platform.host()))) == 2
    assert len(parts_of(store, store.stack("whole", Platform.host()))) == 1
