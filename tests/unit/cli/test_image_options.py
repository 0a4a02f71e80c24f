"""Words of an entrypoint or a command, as they are given on the command line."""

from __future__ import annotations

import pytest

from lamina.cli.image_options import ImageOptions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["a", "b c"]', ["a", "b c"]),
        ('[""]', [""]),
        ("[]", []),
        ("a 'b c'", ["a", "b c"]),
        ("[ -f /x ]", ["[", "-f", "/x", "]"]),
        ("[1]", ["[1]"]),
        ("", []),
    ],
)
def test_a_json_array_is_one_and_all_else_is_a_shells_line(text: str, words: list[str]) -> None:
    changes = ImageOptions(cmd=text, entrypoint=text).changes(None)
    assert (changes["cmd"], changes["entrypoint"]) == (words, words)
