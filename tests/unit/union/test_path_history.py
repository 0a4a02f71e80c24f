"""The history of a path, field by field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lamina.errors import PathNotFound
from lamina.layer.build_layer import index_of
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.union.merge import merge
from lamina.union.path_history import PathHistory, State, StateEnd, histories_under, path_history, summaries_under

F, D, L, H, W, OPQ = (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK, Kind.WHITEOUT, Kind.OPAQUE)
CHAR = Kind.CHAR


def of(kind: Kind, path: bytes, mode: int = 0o644, **more: Any) -> Entry:
    return Entry(path, kind, mode, **more)


def stack(*layers: list[Entry]) -> list[LayerIndex]:
    return [index_of(layer) for layer in layers]


def test_a_history_has_every_state_and_what_ended_it() -> None:
    first, second, third = of(F, b"a/b", size=1), of(F, b"a/b", size=2), of(F, b"a/b", size=2, uid=5)
    tree = merge(stack([first], [second], [of(W, b"a")], [third]))
    assert path_history(tree, b"a/b") == PathHistory(
        b"a/b",
        False,
        (
            State(3, True, third, None, ("owner (0:0 to 5:0)",), 3),
            State(1, True, second, StateEnd("whiteout", 2, b"a"), ("size (1 to 2)",), 1),
            State(0, True, first, StateEnd("replaced", 1, b"a/b"), (), 0),
        ),
        (),
    )
    assert [one.path for one in histories_under(tree, b"a")] == [b"a", b"a/b"]
    assert list(histories_under(tree, b"a"))[1] == path_history(tree, b"a/b")


def test_a_directory_is_restated_by_the_next_layer_that_states_it() -> None:
    made, opened, closed = of(D, b"d", 0o755), of(D, b"d", 0o777), of(D, b"d", 0o700)
    tree = merge(stack([of(F, b"d/x")], [made], [of(F, b"n")], [opened], [closed], [of(OPQ, b""), of(F, b"m")]))
    told = path_history(tree, b"d")
    assert told == PathHistory(
        b"d",
        True,
        (
            State(4, True, closed, StateEnd("opaque", 5, b"d"), ("mode (0777 to 0700)",), 4),
            State(3, True, opened, StateEnd("restated", 4, b"d"), ("mode (0755 to 0777)",), 3),
            State(1, True, made, StateEnd("restated", 3, b"d"), (), 1),
            State(0, False, of(D, b"d", 0o755), StateEnd("restated", 1, b"d"), (), 0),
        ),
        (),
    )
    assert next(histories_under(tree, b"d")) == told


FOLDER = of(D, b"d", 0o700)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        # a directory that is empty now had something
        ([[of(F, b"d/x")], [of(W, b"d/x")]], [(b"d", 0, 1), (b"d/x", 1, 1)]),
        ([[of(F, b"d/x")], [of(OPQ, b"d"), of(F, b"d/y")]], [(b"d", 0, 1), (b"d/x", 1, 1), (b"d/y", 0, 1)]),
        # a file was or became a directory, which has the entries in it
        ([[of(F, b"d")], [of(F, b"d/x")]], [(b"d", 0, 2), (b"d/x", 0, 1)]),
        ([[of(F, b"d/x")], [of(F, b"d")]], [(b"d", 0, 2), (b"d/x", 1, 1)]),
        ([[of(F, b"d")], [of(F, b"d/x")], [of(F, b"d")]], [(b"d", 0, 3), (b"d/x", 1, 1)]),
        # directories that followed each other had the same names
        ([[of(F, b"d/x")], [of(W, b"d"), of(F, b"d/x")]], [(b"d", 0, 2), (b"d/x", 0, 2)]),
        ([[of(F, b"d/x")], [of(W, b"d"), of(F, b"d/x")], [of(W, b"d")]], [(b"d", 1, 2), (b"d/x", 1, 2)]),
        ([[of(F, b"d/x")], [of(F, b"d/x")], [of(W, b"d/x")], [of(F, b"d/x")]], [(b"d", 0, 1), (b"d/x", 0, 3)]),
        # a directory has a state for each layer that states it, in each of its lives
        ([[FOLDER], [FOLDER], [FOLDER]], [(b"d", 0, 3)]),
        ([[FOLDER], [FOLDER], [of(W, b"d"), FOLDER], [FOLDER]], [(b"d", 0, 4)]),
        ([[of(F, b"d/x")], [FOLDER], [of(F, b"d")]], [(b"d", 0, 3), (b"d/x", 1, 1)]),
    ],
)
def test_a_summary_agrees_with_the_full_history(
    layers: list[list[Entry]], expected: list[tuple[bytes, int, int]]
) -> None:
    tree = merge(stack([of(F, b"c"), of(F, b"e")], *layers))
    found = list(summaries_under(tree, b"d"))
    assert [(one.path, one.hidden, one.states) for one in found] == expected
    told = list(histories_under(tree, b"d"))
    assert [(one.path, one.hidden, len(one.states)) for one in told] == expected
    assert told == [replace(path_history(tree, one.path), idle_whiteouts=()) for one in found]
    for one, full in zip(found, told, strict=True):
        assert (tree.path(one.node), tree.entry(one.node)) == (one.path, full.states[0].entry)
        assert [state.layer for state in full.states] == sorted((s.layer for s in full.states), reverse=True)
    every = [one.path for one in summaries_under(tree, b"")]
    assert every == [b"", b"c", *(path for path, _, _ in expected), b"e"]


def test_the_root_has_a_state_for_each_layer_that_states_it() -> None:
    root = of(D, b"", 0o700)
    implied = State(0, False, of(D, b"", 0o755), None, (), 0)
    assert path_history(merge(stack([of(F, b"a")], [of(F, b"b")])), b"") == PathHistory(b"", False, (implied,), ())
    tree = merge(stack([of(F, b"a")], [root]))
    assert path_history(tree, b"") == PathHistory(b"", False, (State(1, True, root, None, (), 1),), ())
    told = path_history(merge(stack([root], [replace(root, mode=0o755)])), b"")
    assert [(state.layer, state.ended) for state in told.states] == [(1, None), (0, StateEnd("restated", 1, b""))]


def test_a_hardlink_has_the_files_attributes_its_own_path_and_the_layer_that_holds_the_content() -> None:
    file = of(F, b"d/f", 0o600, size=7)
    tree = merge(stack([of(F, b"n")], [of(F, b"x"), of(F, b"y"), file], [of(H, b"e/h", link=b"d/f")]))
    (state,) = path_history(tree, b"e/h").states
    assert (state.layer, state.holder, state.entry) == (2, 1, replace(file, path=b"e/h"))
    (state,) = path_history(tree, b"d/f").states
    assert (state.layer, state.holder, state.entry) == (1, 1, file)
    (state,) = path_history(tree, b"x").states
    assert (state.layer, state.holder) == (1, 1)


LINK = of(L, b"p", 0o777, link=b"a")
FILE = of(F, b"p", size=3, mtime=5)


@pytest.mark.parametrize(
    ("below", "above", "changed"),
    [
        (FILE, FILE, ()),
        (FILE, of(F, b"p", size=4, mtime=5), ("size (3 to 4)",)),
        (FILE, of(F, b"p", 0o4755, size=3, mtime=5), ("mode (0644 to 4755)",)),
        (FILE, of(F, b"p", size=3, mtime=5, uid=1), ("owner (0:0 to 1:0)",)),
        (FILE, of(F, b"p", size=3, mtime=5, gid=2), ("owner (0:0 to 0:2)",)),
        (FILE, of(F, b"p", size=3, mtime=6), ("time",)),
        (FILE, of(F, b"p", size=3, mtime=5, xattrs={b"user.a": b"1"}), ("xattrs",)),
        (LINK, of(L, b"p", 0o777, link=b"b"), ("target",)),
        (LINK, LINK, ()),
        (FILE, of(L, b"p", link=b"a", mtime=5), ("kind (file to symlink)",)),  # neither its size nor its target
        (of(L, b"p", link=b"a", mtime=5), FILE, ("kind (symlink to file)",)),
        (of(CHAR, b"p", rdev=(1, 3)), of(CHAR, b"p", rdev=(1, 5)), ("device",)),
        (
            of(D, b"p", 0o755, mtime=1),
            of(F, b"p", 0o600, size=9, mtime=2, uid=3, gid=4),
            ("kind (directory to file)", "mode (0755 to 0600)", "owner (0:0 to 3:4)", "time"),
        ),
    ],
)
def test_a_state_names_what_differs_from_the_one_below(below: Entry, above: Entry, changed: tuple[str, ...]) -> None:
    newest, oldest = path_history(merge(stack([below], [of(W, b"p"), above])), b"p").states
    assert newest.changed == changed
    assert oldest.changed == ()


@pytest.mark.parametrize(
    ("path", "idle"),
    [
        (b"f", ()),  # hid one
        (b"a/b/f", ()),  # hid one
        (b"g", (1, 3)),
        (b"a/b/g", (2,)),
        (b"b/g", ()),
        (b"a/b", ()),
    ],
)
def test_a_whiteout_that_hid_nothing_is_listed_as_without_effect(path: bytes, idle: tuple[int, ...]) -> None:
    known = [of(F, name) for name in (b"f", b"a/b/f", b"b/g")]
    added = [of(F, b"g"), of(F, b"a/b/g")]
    tree = merge(
        stack(
            known,
            [of(W, b"f"), of(W, b"a/b/f"), of(W, b"g"), of(W, b"g"), of(OPQ, b"n")],
            [of(W, b"a/b/g")],
            [*added, of(W, b"g")],
        )
    )
    assert path_history(tree, path).idle_whiteouts == idle


@pytest.mark.parametrize("read", [path_history, lambda tree, path: list(histories_under(tree, path))])
def test_the_error_for_an_unknown_path_quotes_the_path(read: Any) -> None:
    with pytest.raises(PathNotFound) as caught:
        read(merge(stack([of(F, b"a")])), b"d/\xff\xc3\xa4")
    assert (caught.value.message, caught.value.hint) == (
        "/d/\\xff\u00e4 was not found in any layer",
        "list the files with `lamina ls`",
    )
