"""Ignore files, patterns and modes mean what moby's and BuildKit's own packages make of them: on tables and on
generated text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit_oracle import Oracle, running_oracle
from lamina.build.patterns import globs, modes
from lamina.build.patterns.ignore import Patterns, read_ignore_file
from lamina.errors import UsageError
from support import rounds

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with running_oracle() as found:
        yield found


ERROR = "error"
TABLE: list[tuple[list[str], list[str]]] = [
    (["*"], ["a", "a/b"]),
    (["*", "!a"], ["a", "a/b", "b"]),
    (["a", "!a/b"], ["a", "a/b", "a/c", "a/b/c"]),
    (["a/*", "!a/b*"], ["a", "a/b", "a/bc/d", "a/c"]),
    (["**/*.go", "!main.go"], ["main.go", "x/main.go", "x/y.go", "x.go/y"]),
    (["**"], ["a", "a/b"]),
    (["a/**"], ["a", "a/b", "a/b/c", "ab"]),
    (["a/**/b"], ["a/b", "a/x/b", "a/x/y/b", "ab", "a/b/c"]),
    (["**/b"], ["b", "a/b", "ab", "a/b/c"]),
    (["**b"], ["b", "ab", "a/b", "a/bc"]),
    (["a?c", "[a-c]x", "[^a]y", "\\*z"], ["abc", "a/c", "bx", "dx", "ay", "by", "*z", "az"]),
    (["/a", "b/", "./c", "d/../e", "f//g"], ["a", "b", "b/x", "c", "d", "e", "f/g"]),
    (["  a  ", "", " ! b"], ["a", "b"]),
    (["a.b", "a+b", "a(b)", "a$"], ["a.b", "axb", "a+b", "aab", "a(b)", "a$", "a"]),
    (["a|b*", "a{2}*", "[[:alpha:]]*", "\\d*"], ["a", "b", "xb", "aa", "a{2}", "x", "1", "d"]),
    (["[", "a"], ["a"]),
    (["a/[", "a"], ["a"]),
    (["!"], ["a"]),
    (["*", "!*.md", "README*.md", "!README-secret.md"], ["x", "a.md", "README.md", "README-secret.md"]),
    (["*/*/temp*", "!**/keep/**"], ["a/b/tempx", "a/temp", "a/b/temp/keep/x"]),
    (["node_modules", "!node_modules/keep/*"], ["node_modules", "node_modules/x", "node_modules/keep/y"]),
    (["\ufeffa", "\xa0b\xa0", "\x1cc"], ["a", "\ufeffa", "b", "c", "\x1cc"]),
    (["é*", "**/日?"], ["é", "éa", "x/日本"]),
]
PIECES = [
    *"abc./-!^|{}()+$ #0x\\[]?*",
    *("**", "**/", "/**", "[a-c]", "[^a]", "[^/]", "[/]", "[]a]", "[\\]]", "[*]", "[?]", "[\\d]", "[a\\-z]", "[a-"),
    *("{2}", "{1,2}", "[[:alpha:]]", "\\d", "\\w", "\\b", "\\.", "\\x41", "\\12", "\\1", "\\Q", "\\E", ".."),
    *("a/b", "foo", "é", "\ufeff", "\n", "\t", "\x1c", "\xa0"),
]
NAMES = [*"abcx01-^{|[]*!$ +A\\\n", "foo", "aa", "ab", "é", "\ufeff"]
patterns = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
lists = st.lists(st.tuples(st.sampled_from(["", "", "", "!"]), patterns).map("".join), min_size=1, max_size=4)
paths = st.lists(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("".join), min_size=1, max_size=4
).map("/".join)  # fmt: skip


def check_matches(oracle: Oracle, given: list[str], tried: list[str]) -> None:
    answer = oracle("matches", Patterns=given, Paths=tried)
    try:
        mine = Patterns(given)
    except UsageError:
        assert "error" in answer
        return
    assert "error" not in answer
    for path, alone, walked in zip(tried, answer["Matches"], answer["Walked"], strict=True):
        assert _or_error(lambda path=path: mine.match(path)[0]) == _told(alone), path
        assert _or_error(lambda path=path: _walked(mine, path)) == _told(walked), path


def _walked(mine: Patterns, path: str) -> bool:
    above, matched = None, False
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        matched, above = mine.match("/".join(parts[:end]), above)
    return matched


def _or_error(ask: Any) -> bool | str:
    try:
        found: bool = ask()
    except UsageError:
        return ERROR
    return found


def _told(value: bool | str) -> bool | str:
    return ERROR if isinstance(value, str) else value


@pytest.mark.parametrize(("given", "tried"), TABLE)
def test_patterns(oracle: Oracle, given: list[str], tried: list[str]) -> None:
    check_matches(oracle, given, tried)


@settings(max_examples=rounds(2000), deadline=None)
@given(lists, st.lists(paths, min_size=1, max_size=8))
def test_generated_patterns(oracle: Oracle, given: list[str], tried: list[str]) -> None:
    near = [globs.clean("/" + one.lstrip("!").replace("*", "ab").replace("?", "c")).strip("/") for one in given]
    check_matches(oracle, given, [*tried, *filter(None, near)])


@settings(max_examples=rounds(1000), deadline=None)
@given(st.lists(st.one_of(patterns, st.sampled_from(["", "#x", "\r", " ! a", "\ufeffa"])), max_size=5))
def test_generated_ignore_files(oracle: Oracle, lines: list[str]) -> None:
    data = "\n".join(lines).encode()
    assert read_ignore_file(data) == (oracle("ignorefile", data=data)["Patterns"] or [])


@settings(max_examples=rounds(1500), deadline=None)
@given(patterns, st.lists(paths, min_size=1, max_size=6))
def test_generated_globs(oracle: Oracle, pattern: str, tried: list[str]) -> None:
    answer = oracle("glob", Text=pattern, Paths=tried)
    assert [globs.clean(path) for path in tried] == answer["Clean"]
    try:
        mine = globs.Glob(pattern)
    except UsageError:  # BuildKit asks path.Match too, which looks at the whole pattern
        assert ERROR in map(_told, answer["Matches"]) or not any(answer["Matches"])
        return
    assert [mine.matches(path) for path in tried] == answer["Matches"]


STARS = st.lists(st.sampled_from(["*", "**", "**/", "/", "a", "b", "ab", "?", "[ab]", "\\*"]), min_size=3, max_size=9)
SHORT = st.text("ab/", min_size=1, max_size=9).map(globs.clean).map(lambda path: path.strip("/") or "a")


@settings(max_examples=rounds(3000), deadline=None)
@given(STARS.map("".join).filter(lambda text: text.count("*") <= 8), st.lists(SHORT, min_size=5, max_size=30))
def test_many_stars_share_short_paths(oracle: Oracle, pattern: str, tried: list[str]) -> None:
    check_matches(oracle, [pattern], tried)
    answer = oracle("glob", Text=pattern, Paths=tried)
    assert [globs.Glob(pattern).matches(path) for path in tried] == answer["Matches"]


CLAUSES = st.tuples(
    st.lists(st.sampled_from("ugoa"), max_size=3).map("".join),
    st.lists(
        st.tuples(st.sampled_from("+-="), st.lists(st.sampled_from("rwxXstugo"), max_size=4).map("".join)).map(
            "".join
        ),
        min_size=1,
        max_size=2,
    ).map("".join),
).map("".join)
MODES = [0, 0o644, 0o755, 0o4711, 0o2070, 0o1777, 0o600, 0o007]
GO = {0o4000: 1 << 23, 0o2000: 1 << 22, 0o1000: 1 << 20}
GO_DIRECTORY = 1 << 31


def _go(mode: int, directory: bool) -> int:
    bits = mode & 0o777 | (GO_DIRECTORY if directory else 0)
    for bit, flag in GO.items():
        bits |= flag if mode & bit else 0
    return bits


@settings(max_examples=rounds(1500), deadline=None)
@given(
    st.one_of(
        st.lists(CLAUSES, min_size=1, max_size=3).map(",".join),
        st.text("ugoarwxXst+-=,7", min_size=1, max_size=6),
    )
)
def test_generated_modes(oracle: Oracle, text: str) -> None:
    given = [(mode, directory) for mode in MODES for directory in (False, True)]
    answer = oracle("chmod", Text=text, Modes=[_go(*one) for one in given])
    try:
        mine = modes.change(text)
    except UsageError:
        assert "error" in answer
        return
    assert "error" not in answer
    assert [mine(*one) for one in given] == answer["Modes"]
