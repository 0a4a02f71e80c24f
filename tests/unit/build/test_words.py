"""Words of Dockerfiles. ``interop/test_dockerfile_oracle.py`` compares them with BuildKit's lexer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.dockerfile.words import (
    MAX_DEPTH,
    MAX_MATCHED,
    MAX_PATTERN,
    MAX_TEXT,
    SPACES,
    BadExpansion,
    document_expansion,
    expand,
    expand_document,
    expand_known,
    expand_words,
    expansion,
    raw_words,
)

VALUES = {"x": "abcabc", "e": "", "p": "/usr/local/a.tar.gz", "w": "two words"}

EXPANDED = [
    ("$x-${x}", "abcabc-abcabc"),
    ("${y:-z}${e:-z}${y-z}${e-z}", "zzz"),
    ("${x:+z}${e:+z}${e+z}${y+z}", "zz"),
    ("${p##*/} ${p#*/} ${p%.*} ${p%%.*}", "a.tar.gz usr/local/a.tar.gz /usr/local/a.tar /usr/local/a"),
    ("${x/b/Q} ${x//b/Q} ${x//?/.}", "aQcabc aQcaQc ......"),
    ("${y:-${z:-$x}}", "abcabc"),
    ("'$x' \"$x\" \\$x", "$x abcabc $x"),
    ('"a\\"b" a\\ b', 'a"b a b'),
    ("$(date) $ a$", "$(date) $ a$"),
    ("~/a*b?", "~/a*b?"),
]


@pytest.mark.parametrize(("text", "expected"), EXPANDED)
def test_quotes_escapes_and_variables_are_replaced(text: str, expected: str) -> None:
    assert expand(text, VALUES.get) == expected


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("'a", "a single quote (') has no end in \"'a\"", "add the second quote"),
        ('"a', "a double quote (\") has no end in '\"a'", "add the second quote"),
        ("${x", "${ has no }", "add the }"),
        ("${x:-a", "${ has no }", "add the }"),
        ("${}", "a name must follow ${", "write a dollar"),
        ("${x!y}", "unknown form ${name!...}", "choose one of"),
        ("${x:#y}", "unknown form ${name:#...}", "choose one of"),
        ("${x/a}", "${name/pattern/text} has no second /", "add it"),
        ("${x#\\q}", "an invalid escape \\q", ""),
        ("${y:?give it}", "y: give it", ""),
        ("${y?}", "y: is not set", ""),
        ("${e:?}", "e: is empty", ""),
    ],
)
def test_a_bad_word_says_what_is_wrong(text: str, problem: str, hint: str) -> None:
    with pytest.raises(BadExpansion) as caught:
        expand(text, VALUES.get)
    assert caught.value.message.startswith(problem)
    assert hint in (caught.value.hint or "")


def test_the_escape_character_can_be_a_backtick() -> None:
    assert expand("C:\\a`$x $x", VALUES.get, "`") == "C:\\a$x abcabc"


def test_words_are_split_after_variables_are_replaced() -> None:
    assert expand_words("$w \"$w\" a$e '' ${y}", VALUES.get) == ["two", "words", "two words", "a"]
    assert expand_words("80${y:-80} 1", VALUES.get) == ["8080", "1"]


def test_documents_keep_quotes() -> None:
    assert expand_document("'$x' \"$x\" \\$x ${y:-'a'}", VALUES.get) == "'abcabc' \"abcabc\" $x 'a'"


def test_texts_for_people_keep_variables_that_are_not_set() -> None:
    assert expand_known("make $x ${y} $y ${y:-z}", VALUES.get) == "make abcabc ${y} $y ${y:-z}"


def test_looked_up_names_are_returned() -> None:
    found = expansion("$x $y ${e:-$z} '$q'", VALUES.get)
    assert (found.found, found.missing) == ({"x", "e"}, {"y", "z"})
    assert document_expansion("'$q'", VALUES.get).missing == {"q"}


def test_raw_words_keep_quotes_and_the_space_of_here_documents() -> None:
    assert raw_words("cat << E 'a b' \"$x\" <<-'F'") == ["cat", "<< E", "'a b'", '"$x"', "<<-'F'"]


def test_nesting_is_limited() -> None:
    def nested(levels: int) -> str:
        return "${y:-" * levels + "z" + "}" * levels

    assert expand(nested(MAX_DEPTH), VALUES.get) == "z"
    with pytest.raises(BadExpansion, match="more than 64 levels"):
        expand(nested(MAX_DEPTH + 1), VALUES.get)


def test_the_length_is_limited() -> None:
    value = "a" * (MAX_TEXT // 2)
    assert len(expand("$x$x", {"x": value}.get)) == MAX_TEXT
    for text in ("$x$x.", '"$x$x."', "${x//a/aaa}", "${y:-$x$x.}"):
        with pytest.raises(BadExpansion, match="longer than"):
            expand(text, {"x": value}.get)
    assert len(expand_document("$x" * 3, {"x": value}.get)) == MAX_TEXT // 2 * 3
    with pytest.raises(BadExpansion, match="longer than 8,388,608"):
        expand_document("$x" * 70, {"x": value}.get)


def test_patterns_are_limited() -> None:
    assert expand("${x#*b}", {"x": "a" * (MAX_MATCHED - 1) + "b"}.get) == ""
    with pytest.raises(BadExpansion, match="too long for the pattern"):
        expand("${x#*b}", {"x": "a" * (MAX_MATCHED + 1)}.get)
    with pytest.raises(BadExpansion, match="more than 4,096 characters"):
        expand("${x#" + "a" * (MAX_PATTERN + 1) + "}", VALUES.get)


def test_a_pattern_with_many_stars_does_not_take_forever() -> None:
    """A regular expression that goes back would take years."""
    pattern = "*a" * 40 + "b"
    assert expand(f"${{x#{pattern}}}", {"x": "a" * 2000}.get) == "a" * 2000
    assert expand(f"${{x##{pattern}}}", {"x": "a" * 2000 + "b"}.get) == ""


def test_a_star_stays_in_its_line() -> None:
    assert expand("${x#*b} ${x%b*}", {"x": "a\nb"}.get) == "a\nb a\n"


@given(st.text(max_size=60), st.sampled_from(["\\", "`"]))
def test_words_lose_nothing_but_spaces(text: str, escape: str) -> None:
    try:
        found = expansion(text, VALUES.get, escape)
    except BadExpansion:
        return
    spaces = str.maketrans("", "", SPACES)
    assert "".join(found.words).translate(spaces) == found.text.translate(spaces)


@given(st.text(alphabet=st.characters(exclude_characters="$\\'\"<\ufeff"), max_size=60))
def test_text_without_special_characters_stays(text: str) -> None:
    assert expand(text, VALUES.get) == text
