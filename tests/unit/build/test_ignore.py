"""Ignore files, globs and modes: the rules that people meet. tests/interop compares generated ones with moby's
packages."""

from __future__ import annotations

import pytest

from lamina.build.patterns import globs, modes
from lamina.build.patterns.ignore import MAX_LINE, Patterns, names_of_ignore_files, read_ignore_file
from lamina.errors import LimitExceeded, UsageError


@pytest.mark.parametrize(
    ("patterns", "path", "matches"),
    [
        (["a"], "a", True),
        (["a"], "a/b", True),
        (["a"], "b/a", False),
        (["*"], "a/b", True),
        (["*/b"], "a/b/c", True),
        (["**/b"], "b", True),
        (["**/*.md"], "x/y.md/z", True),
        (["a?"], "a/", False),
        (["a", "!a/keep"], "a/keep", False),
        (["a", "!a/keep"], "a/other", True),
        (["a", "!a/keep", "a/keep/not"], "a/keep/not", True),
        (["*", "!**/*.go"], "x/y.go", False),
        (["!a"], "a", False),
        (["a/b|c"], "a/b|c", True),
        (["a|b*"], "axyz", True),  # moby does not escape the bar
        (["\\*"], "*", True),
        (["\\*"], "a", False),
        (["[[:digit:]]x*"], "7xy", True),
        (["é?"], "éà", True),
        (["\udcff*"], "\udcff1", True),  # not UTF-8
    ],
)
def test_patterns(patterns: list[str], path: str, matches: bool) -> None:
    mine = Patterns(patterns)
    assert mine.match(path)[0] is matches
    above = None
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        walked, above = mine.match("/".join(parts[:end]), above)
    assert walked is matches


@pytest.mark.parametrize("pattern", ["[", "!", "a[", "\\"])
def test_bad_patterns_are_refused_at_once(pattern: str) -> None:
    with pytest.raises(UsageError, match="is not a pattern"):
        Patterns([pattern])


@pytest.mark.parametrize("pattern", ["a*\\p", "b*{2}", "b*{1001}", "[[:no:]]*", "x?\\8"])
def test_patterns_that_go_can_not_compile_are_refused_when_they_are_tried(pattern: str) -> None:
    mine = Patterns([pattern])
    with pytest.raises(UsageError, match="pattern"):
        mine.match("b")


def test_which_directories_must_be_looked_into() -> None:
    assert not Patterns(["a"]).may_except_below("a")
    assert Patterns(["a", "!a/b"]).may_except_below("a")
    assert not Patterns(["a", "!b/c"]).may_except_below("a")
    assert Patterns(["a", "!b*"]).may_except_below("a")
    assert Patterns(["a/b/c"]).may_match_below("a/b")
    assert not Patterns(["a/b/c"]).may_match_below("a/c")
    assert Patterns(["*/c"]).may_match_below("a")


def test_ignore_files() -> None:
    data = "\ufeff# no comment after a mark\n#x\n\n  /a/./b/ \r\n! c/../d\n!\n\t# a pattern\n".encode()
    assert read_ignore_file(data) == ["a/b", "!d", "!", "# a pattern"]
    with pytest.raises(LimitExceeded, match=r"\.dockerignore:2: the line is too long"):
        read_ignore_file(b"a\n" + b"b" * MAX_LINE)


def test_names_of_ignore_files() -> None:
    assert names_of_ignore_files("sub/Dockerfile") == [
        "sub/Dockerfile.containerignore", "sub/Dockerfile.dockerignore", ".containerignore", ".dockerignore"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*", "a", True),
        ("*", "a/b", False),
        ("a/*/c", "a/b/c", True),
        ("a?c", "abc", True),
        ("[a-c]x", "bx", True),
        ("[^a]x", "ax", False),
        ("[^a]x", "/x", True),
        ("*[a/]*x", "a/x", False),  # Go takes the first place that fits
        ("\\[x", "[x", True),
        ("**", "a/b", False),
    ],
)
def test_globs(pattern: str, path: str, matches: bool) -> None:
    assert globs.Glob(pattern).matches(path) is matches


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/a/b", ("/a/b", "")),
        ("/a/*/c", ("/a", "*/c")),
        ("/*", ("/", "*")),
        ("/", ("/", "")),
        ("/a\\*", ("/a\\*", "")),
    ],
)
def test_the_literal_part_of_a_path(path: str, parts: tuple[str, str]) -> None:
    assert globs.split(path) == parts


@pytest.mark.parametrize(
    ("text", "before", "directory", "after"),
    [
        ("755", 0o600, False, 0o755),
        ("04711", 0o600, False, 0o4711),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("go-w", 0o666, False, 0o644),
        ("+x", 0o644, False, 0o755),
        ("g=u", 0o640, False, 0o660),
        ("a=", 0o777, False, 0),
        ("u+s,+t", 0o755, True, 0o5755),
    ],
)
def test_modes(text: str, before: int, directory: bool, after: int) -> None:
    assert modes.change(text)(before, directory) == after


@pytest.mark.parametrize("text", ["", "8", "10000", "0999", "u", "rwx", "u=rwx,", "755x", "+755", "-1"])
def test_texts_that_are_not_a_mode(text: str) -> None:
    with pytest.raises(UsageError, match="is not a mode"):
        modes.change(text)


@pytest.mark.parametrize(
    "pattern",
    ["*a" * 60 + "c", "*" * 200 + "a*" * 100 + "b", "**/*a/" * 40 + "c", "**/" * 200 + "a/**/b", "**/a/" * 60 + "c"],
)
def test_many_stars_take_no_exponential_time(pattern: str) -> None:
    """Nothing measures the time: such a pattern would not end."""
    path = "/".join(["a" * 60] * 3 + ["a"] * 60)
    assert not Patterns([pattern]).match(path)[0]
    assert not Patterns([pattern, "!x"]).match(path)[0]
    assert not globs.Glob(pattern).matches("a" * 250)


def test_stars_that_can_only_be_tried_are_limited() -> None:
    patterns = Patterns(["**/*a" * 40 + "/c"])
    with pytest.raises(UsageError, match="more than 8 stars"):
        patterns.match("a")
    assert Patterns(["**a**b"]).match("a/ab") == (True, 1)
