"""Searching names in the heap gives the same rows as checking each name."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import LaminaError, UsageError
from lamina.layer.attribute_filter import LETTERS, Filter, parse_kinds, parse_owner, parse_perm, parse_size
from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.name_search import Pattern, expression, glob, rows_holding, rows_that_fit
from support import rounds

names = st.lists(st.sampled_from(["a", "ab", "b", ".", "-", "é", "aab", "*"]), min_size=1, max_size=4).map("".join)
some_paths = st.lists(names, min_size=1, max_size=3).map("/".join)
layers: Any = st.lists(some_paths, max_size=12)
globs = st.lists(
    st.sampled_from(["a", "ab", "b", "*", "?", "[ab]", "[!a]", "[é.]", "/", "\\*", "[a-b]", "["]),
    min_size=1,
    max_size=5,
).map("".join)
regexes = st.lists(
    st.sampled_from(
        [
            "a",
            "ab",
            "b",
            ".",
            "a*",
            "b+",
            "(ab)?",
            "(a|b)",
            "[ab]",
            "[^a]",
            "^",
            "$",
            "\\.",
            "a{2}",
            "\\w",
            "|",
            "[]a]",
        ]
    ),
    min_size=1,
    max_size=5,
).map("".join)


def index_of(found: list[str]) -> LayerIndex:
    builder = IndexBuilder()
    builder.add(b"", int(Kind.DIRECTORY))
    for path in found:
        builder.add(path.encode(), int(Kind.FILE))
        builder.add(path.encode(), int(Kind.OPAQUE))
    return builder.finish(0)


def naive(index: LayerIndex, pattern: Pattern) -> list[int]:
    return [row for row in range(len(index)) if index.basename(row) and pattern.fits(index.path(row))]


@settings(max_examples=rounds(500), deadline=None)
@given(layers, globs)
def test_a_glob_finds_the_matching_rows(found: list[str], text: str) -> None:
    index = index_of(found)
    assert list(rows_that_fit(index, glob(text.encode()))) == naive(index, glob(text.encode()))


@settings(max_examples=rounds(500), deadline=None)
@given(layers, regexes)
def test_a_regular_expression_finds_the_matching_rows(found: list[str], text: str) -> None:
    index = index_of(found)
    try:
        pattern = expression(text.encode())
    except UsageError:
        return
    rows = list(rows_that_fit(index, pattern))
    assert rows == naive(index, pattern)
    expected = re.compile(text.encode(), re.DOTALL)
    assert rows == [r for r in range(len(index)) if index.basename(r) and expected.search(index.basename(r))]


@settings(max_examples=rounds(400), deadline=None)
@given(
    names, st.lists(st.sampled_from(["a", "b", "é", "*", "?", "[ab]", "[!b]"]), min_size=1, max_size=5).map("".join)
)
def test_globs_mean_what_fnmatch_means(name: str, text: str) -> None:
    assert glob(text.encode()).fits(name.encode()) == fnmatch.fnmatchcase(name, text)


@pytest.mark.parametrize(
    ("name", "text"), [("é", "??"), ("€", "*??"), ("€", "*?"), ("a€", "?*??"), ("é", "[!b]?"), ("éé", "??")]
)
def test_a_question_mark_matches_one_character_of_several_bytes(name: str, text: str) -> None:
    assert glob(text.encode()).fits(name.encode()) == fnmatch.fnmatchcase(name, text)


@settings(max_examples=rounds(300), deadline=None)
@given(layers, st.sampled_from([b"a", b"ab", b"aa", b"ba", b"\xc3\xa9", b"-"]))
def test_text_is_found_inside_a_name_but_not_across_two_names(found: list[str], text: bytes) -> None:
    index = index_of(found)
    assert list(rows_holding(index, text)) == [row for row in range(len(index)) if text in index.basename(row)]


def test_a_pattern_with_a_slash_means_the_path() -> None:
    for text, path, fits in (
        (b"/etc/*.conf", b"etc/ssl/a.conf", True),
        (b"etc/*", b"etc/x", True),
        (b"etc/*", b"usr/etc/x", False),
        (b"*/etc/*", b"usr/etc/x", True),
        (b"/etc", b"etc", True),
        (b"etc", b"usr/etc", True),
    ):
        assert glob(text).fits(path) is fits, text
    assert expression(b"^/etc/[^/]+$").fits(b"etc/x")
    assert not expression(b"^/etc/[^/]+$").fits(b"etc/x/y")
    assert glob(b"?").fits("é".encode())
    assert glob(b"?").fits(b"\xff")
    assert not glob(b"?").fits(b"\xff\xff")
    assert glob(b"[\xff]").fits(b"\xff")
    assert expression(b"log4j-core-2\\.(1[0-4]|\\d)\\.jar").literal == b"log4j-core-2."


@pytest.mark.parametrize("text", ["(", "[", "*a", "a{2,1}", "(?P<", "\\"])
def test_an_invalid_regular_expression_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a regular expression"):
        expression(text.encode())


@pytest.mark.parametrize("text", [b"", b"a" * 5000, b"a\0b", "[\u1000-\uffff]".encode()])
def test_an_invalid_pattern_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError):
        glob(text)


def test_sizes_permissions_owners_and_types_are_parsed_like_find_does() -> None:
    assert parse_size("+10M") == (10 * (1 << 20) + 1, 1 << 64)
    assert parse_size("-4k") == (0, 4095)
    assert parse_size("1k") == (1, 1024)
    assert parse_size("7") == (7, 7)
    assert parse_size("0") == (0, 0)
    assert parse_size("+1GiB") == ((1 << 30) + 1, 1 << 64)
    assert parse_perm("/6000") == ("/", 0o6000)
    assert parse_perm("-0644") == ("-", 0o644)
    assert parse_perm("755") == ("", 0o755)
    assert parse_owner("0:42") == (0, 42)
    assert parse_owner(":42") == (None, 42)
    assert parse_kinds("f,l") == parse_kinds("lf") == {Kind.FILE, Kind.SYMLINK}
    for parse, bad in (
        (parse_size, ["", "+", "10X", "ten", "1.5M", "--1", "9" * 30]),
        (parse_perm, ["", "8", "u+s", "77777", "/"]),
        (parse_owner, ["", ":", "root", "0:wheel", "-1", "1:2:3"]),
        (parse_kinds, ["", "x", "file", ","]),
    ):
        for text in bad:
            with pytest.raises(LaminaError) as caught:
                parse(text)
            assert caught.value.exit_code == 2


rows_of: Any = st.lists(
    st.tuples(
        st.sampled_from(list(Kind)),
        st.sampled_from([0o644, 0o755, 0o4755]),
        st.sampled_from([0, 5]),
        st.sampled_from([0, 7]),
        st.integers(0, 5),
    ),
    max_size=10,
)
filters = st.builds(
    Filter,
    st.frozensets(st.sampled_from([int(kind) for kind in LETTERS.values()]), max_size=2),
    st.sampled_from([None, (0, 2), (3, 9)]),
    st.sampled_from([None, ("/", 0o6000), ("-", 0o755), ("", 0o644)]),
    st.sampled_from([None, 0, 5]),
    st.sampled_from([None, 7]),
)


@settings(max_examples=rounds(400), deadline=None)
@given(rows_of, filters)
def test_filtering_columns_gives_the_same_rows_as_filtering_entries(entries: Any, wanted: Filter) -> None:
    builder = IndexBuilder()
    for kind, mode, uid, gid, size in entries:
        builder.add(b"x", int(kind), mode, uid, gid, size)
    index = builder.finish(0)
    expected = [
        row
        for row, kind in enumerate(index.kind)
        if kind == Kind.HARDLINK or (kind < Kind.WHITEOUT and wanted.fits(index, row))
    ]
    assert wanted.rows(index, None) == expected
    assert wanted.rows(index, range(len(index))) == expected
