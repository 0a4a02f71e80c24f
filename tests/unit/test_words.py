"""Messages, docstrings and comments are in plain words ("X is not a Y", never "X is no Y"), and text that many places
need is made in one."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import lamina
from lamina.text import counted, some

_SOURCE = Path(lamina.__file__).parent
_NO = re.compile(r"(?<!there )\b(?:is|are) no (?!limit|longer|swap)[a-zA-Z{]")
_RIDDLES = re.compile(
    r"(?<![tT]here )\b(?:is|are) no (?!limit|longer)[a-z]|\bwhoever\b|\b(?:^|[.:;] )Who \w+ (?!is\b)|\bupon\b"
    r"|\b(?:has|have) (?:not got|it not|not[.,;])|\bgone on with\b|\bas [\w' ]+ has (?:it|them)\b|\bno matter who\b"
)


def _messages(tree: ast.AST) -> list[str]:
    """Texts of a module that are shown: all but docstrings and attributes' notes."""
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if id(node) in notes | parts:
            continue
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "{" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def _notes(source: str) -> list[str]:
    """Docstrings and comments, each in one line."""
    found = [
        " ".join(node.value.value.split())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return found + [token.string for token in tokens if token.type == tokenize.COMMENT]


@pytest.mark.parametrize("package", sorted({path.relative_to(_SOURCE).parts[0] for path in _SOURCE.rglob("*.py")}))
def test_a_message_says_is_not_a(package: str) -> None:
    place = _SOURCE / package
    for path in place.rglob("*.py") if place.is_dir() else [place]:
        wrong = [text for text in _messages(ast.parse(path.read_text())) if _NO.search(text)]
        assert wrong == [], path


@pytest.mark.parametrize("package", sorted({path.relative_to(_SOURCE).parts[0] for path in _SOURCE.rglob("*.py")}))
def test_docstrings_and_comments_are_plain(package: str) -> None:
    place = _SOURCE / package
    for path in place.rglob("*.py") if place.is_dir() else [place]:
        assert [match[0] for text in _notes(path.read_text()) if (match := _RIDDLES.search(text))] == [], path


def test_a_warning_is_made_in_one_place() -> None:
    made = {
        str(path.relative_to(_SOURCE))
        for path in _SOURCE.rglob("*.py")
        if any(re.match(r"(?:lamina: )?warning: ", text) for text in _messages(ast.parse(path.read_text())))
    }
    assert made == {"cli/__init__.py"}


@pytest.mark.parametrize(
    ("words", "most", "text"),
    [
        ("", 3, ""),
        ("a b c", 3, "a, b, c"),
        ("a b c d", 3, "a, b, c, d"),
        ("a b c d e", 3, "a, b, c and 2 more"),
        ("a b c d e", 5, "a, b, c, d, e"),
    ],
)
def test_a_long_list_is_cut(words: str, most: int, text: str) -> None:
    assert some(words.split(), most) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (1.0, "1 second"),
        (2, "2 seconds"),
        (0.5, "0.5 seconds"),
        (10**9, "1000000000 seconds"),
    ],
)
def test_one_is_singular(count: float, text: str) -> None:
    assert counted(count, "second") == text
