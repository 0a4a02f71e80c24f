"""The unpacker creates files in the order of the tars."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from generated import build, numbered, stacks
from lamina.errors import InvalidLayer
from lamina.union.merge import merge
from lamina.view.unpack.unpack import in_tar_order
from support import rounds


@settings(max_examples=rounds(500), deadline=None)
@given(stacks)
def test_everything_but_directories_by_layer_row_and_name(stack: Any) -> None:
    try:
        tree = merge([build(layer) for layer in numbered(stack)])
    except InvalidLayer:
        return
    others = [node for node in tree.walk() if not tree.is_directory(node)]
    assert list(in_tar_order(tree)) == sorted(others, key=lambda node: (*tree.content(node), node))
