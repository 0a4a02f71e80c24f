"""The model of explore: marks, sizes and rows at each layer, compared with a brute-force comparison of the unions."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings

from generated import build, numbered, stacks
from lamina.errors import InvalidLayer
from lamina.insight.explore_state import Explorer, Mark
from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex
from lamina.source.stack import Stack
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.union.merge import merge
from lamina.union.tree import Tree
from support import index_of, make_tar, rounds


@dataclass
class Layer:
    made: LayerIndex
    tar: bytes = b""
    descriptor: Descriptor = Descriptor.of(mediatype.OCI_LAYER, b"")  # noqa: RUF009
    diff_id: Digest = Digest.of(b"")  # noqa: RUF009

    def index(self) -> LayerIndex:
        return self.made

    def open(self, start: int = 0, end: int | None = None) -> io.BytesIO:
        return io.BytesIO(self.tar[start:end])


def explorer(*layers: list[Any]) -> Explorer:
    tars = [make_tar(layer) for layer in layers]
    return Explorer(Stack("app", None, None, tuple(Layer(index_of(tar), tar) for tar in tars)))  # type: ignore[arg-type]


def shown(one: Explorer) -> dict[str, str]:
    """Path to mark, for all open rows."""
    letters = {Mark.SAME: " ", Mark.ADDED: "A", Mark.CHANGED: "M", Mark.REMOVED: "R"}
    return {one.path(row.node).decode("utf-8", "replace"): letters[row.mark] for row in one.rows}


def all_open(one: Explorer, layer: int, *, aggregated: bool = False) -> dict[str, str]:
    one.select(layer)
    one.compare(aggregated=aggregated)
    one.opened = set(range(len(one.tree.names)))
    one._rows = None
    return shown(one)


LOWER = [("d/", None), ("d/a", b"1"), ("d/b", b"22"), ("e/f", b"333"), ("keep", b"k")]
UPPER = [("d/.wh.a", b""), ("d/b", b"2222"), ("d/c", b"5"), (".wh.e", b""), ("new/x", b"7")]


def test_marks_of_one_layer_and_of_all() -> None:
    one = explorer(LOWER, UPPER, [("keep", b"K")])
    assert all_open(one, 0) == {"d": "A", "d/a": "A", "d/b": "A", "e": "A", "e/f": "A", "keep": "A"}
    second = {
        "d": " ",
        "d/a": "R",
        "d/b": "M",
        "d/c": "A",
        "e": "R",
        "e/f": "R",
        "keep": " ",
        "new": "A",
        "new/x": "A",
    }
    assert all_open(one, 1) == second
    assert all_open(one, 2) == {"d": " ", "d/b": " ", "d/c": " ", "keep": "M", "new": " ", "new/x": " "}
    assert all_open(one, 2, aggregated=True) == {**second, "keep": "M"}
    assert set(all_open(one, 0, aggregated=True).values()) == {" "}


def test_sizes_and_what_is_touched() -> None:
    one = explorer(LOWER, UPPER)
    all_open(one, 1)
    rows = {one.path(row.node): row for row in one.rows}
    assert (rows[b"d"].size, rows[b"d"].touched) == (5, True)
    assert (rows[b"e"].size, rows[b"e/f"].size) == (3, 3)
    assert not rows[b"keep"].touched
    assert one.total.content == 1 + 2 + 3 + 1 + 4 + 1 + 1
    assert one.total.visible == 4 + 1 + 1 + 1
    assert one.total.efficiency < 1


def test_a_file_that_replaces_a_directory_is_one_row_above_the_removed_paths() -> None:
    one = explorer([("x/", None), ("x/old", b"o")], [("x", b"now a file")])
    assert all_open(one, 1) == {"x": "M", "x/old": "R"}
    node = one.rows[0].node
    before = one.before(node)
    assert before is not None
    assert (before.kind, one.entry(node).kind) == (Kind.DIRECTORY, Kind.FILE)


def test_a_directory_that_one_layer_removes_and_makes_again() -> None:
    one = explorer(
        [("x/same", b"1"), ("x/old", b"2")], [(".wh.x", b""), ("x/", None), ("x/same", b"3"), ("x/new", b"4")]
    )
    assert all_open(one, 1) == {"x": "M", "x/same": "M", "x/old": "R", "x/new": "A"}


def test_a_directory_stated_again_is_modified_where_its_attributes_are() -> None:
    again = [("d/", None, {"mtime": 5}), ("e/", None, {"mode": 0o700})]
    one = explorer([("d/", None), ("e/", None)], again)
    assert all_open(one, 1) == {"d": " ", "e": "M"}
    assert one.entry(one.rows[1].node).mode == 0o700
    one.select(0)
    assert one.entry(one.rows[1].node).mode == 0o755


def test_marks_hidden_leave_the_ways_to_the_others() -> None:
    one = explorer(LOWER, UPPER)
    all_open(one, 1)
    one.toggle_mark(Mark.SAME)
    assert "keep" not in shown(one)
    assert "d" in shown(one)  # leads to what changed
    for mark in (Mark.ADDED, Mark.CHANGED):
        one.toggle_mark(mark)
    assert shown(one) == {"d": " ", "d/a": "R", "e": "R", "e/f": "R"}


def test_filter() -> None:
    one = explorer(LOWER, UPPER)
    one.toggle_all()
    one.select(1)
    one.filter("/[bc]$")
    assert shown(one) == {"d": " ", "d/b": "M", "d/c": "A"}
    one.toggle_mark(Mark.ADDED)
    assert shown(one) == {"d": " ", "d/b": "M"}
    one.filter("keep")
    one.toggle_mark(Mark.SAME)
    assert shown(one) == {}
    one.toggle_mark(Mark.SAME)
    assert shown(one) == {"keep": " "}
    one.filter("E/F")
    assert shown(one) == {"e": "R", "e/f": "R"}
    one.filter("(no expression")
    assert shown(one) == {}
    one.filter("")
    assert set(shown(one)) == {"d", "e", "keep"}  # closed again


def test_directories_are_opened_on_demand_and_all_can_be_closed() -> None:
    one = explorer([*LOWER, ("d/deep/x", b"")])
    assert set(shown(one)) == {"d", "d/a", "d/b", "d/deep", "e", "e/f", "keep"}  # the first level is open
    one = explorer(LOWER)
    one.toggle_all()
    assert set(shown(one)) == {"d", "e", "keep"}
    one.toggle(one.rows[0].node)
    assert set(shown(one)) == {"d", "d/a", "d/b", "e", "keep"}
    one.toggle_all()
    assert set(shown(one)) == {"d", "e", "keep"}
    one.toggle_all()
    assert len(one.rows) == 6


def test_preview_of_visible_and_removed_files() -> None:
    one = explorer(
        [("text", "gr\u00fc\u00df".encode()), ("gone", b"was here"), ("binary", b"a\0b"), ("latin", b"\xe9")],
        [(".wh.gone", b"")],
    )
    one.select(1)
    rows = {one.path(row.node): row.node for row in one.rows}
    assert one.preview(rows[b"text"]) == "gr\u00fc\u00df"
    assert one.preview(rows[b"gone"]) == "was here"
    assert one.removed_by(rows[b"gone"]) == 1
    assert one.preview(rows[b"binary"]) is None
    assert one.preview(rows[b"latin"]) is None
    cut = explorer([("f", b"x" * ((64 << 10) - 1) + "\u00e9".encode())])
    assert cut.preview(cut.rows[0].node) == "x" * ((64 << 10) - 1)


def paths(tree: Tree) -> dict[bytes, int]:
    return {tree.path(node): node for node in tree.walk() if node}


@given(stacks)
@settings(max_examples=rounds(300), deadline=None)
def test_marks_are_the_difference_of_the_unions(stack: Any) -> None:
    indexes = [build(layer) for layer in numbered(stack)]
    unions: list[set[bytes]] = [set()]
    try:
        for count in range(1, len(indexes) + 1):
            unions.append(set(paths(merge(indexes[:count]))))
    except InvalidLayer:
        return
    one = Explorer(Stack("app", None, None, tuple(Layer(index) for index in indexes)))  # type: ignore[arg-type]
    for number in range(len(indexes)):
        all_open(one, number)
        marks = {one.path(row.node): row.mark for row in one.rows}
        assert len(marks) == len(one.rows)
        below, now = unions[number], unions[number + 1]
        assert set(marks) == below | now
        assert {path for path, mark in marks.items() if mark == Mark.REMOVED} == below - now
        assert {path for path, mark in marks.items() if mark == Mark.ADDED} == now - below
