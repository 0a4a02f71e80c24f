"""Texts as Go writes them. The expected ones were printed by Go (strconv.Quote, time.Duration)."""

from __future__ import annotations

import pytest

from lamina.build.dockerfile.go_text import format_duration, plain_list, quoted, quoted_list

QUOTES = [
    ("", '""'),
    ('a "b" \\', '"a \\"b\\" \\\\"'),
    ("\a\b\f\n\r\t\v\0\x1f\x7f", '"\\a\\b\\f\\n\\r\\t\\v\\x00\\x1f\\x7f"'),
    ("\u00e9\u4e2d\U0001f600", '"\u00e9\u4e2d\U0001f600"'),
    ("\u00a0\u200b\u2028\ufeff", '"\\u00a0\\u200b\\u2028\\ufeff"'),
    ("\U0010ffff", '"\\U0010ffff"'),
    ("\udcff", '"\\xff"'),
]


@pytest.mark.parametrize(("text", "expected"), QUOTES)
def test_quoted(text: str, expected: str) -> None:
    assert quoted(text) == expected


def test_lists() -> None:
    assert quoted_list(["a", "b c"]) == '["a" "b c"]'
    assert plain_list(["a", "b c"]) == "[a b c]"
    assert quoted_list([]) == plain_list([]) == "[]"


DURATIONS = [
    (0, "0s"),
    (1, "1ns"),
    (1_100, "1.1\u00b5s"),
    (2_200_000, "2.2ms"),
    (999_999_999, "999.999999ms"),
    (1_000_000_000, "1s"),
    (1_500_000_000, "1.5s"),
    (60_000_000_000, "1m0s"),
    (90_000_000_000, "1m30s"),
    (3_600_000_000_000, "1h0m0s"),
    (93_784_000_000_001, "26h3m4.000000001s"),
    (-1_500_000_000, "-1.5s"),
    (2**63 - 1, "2562047h47m16.854775807s"),
]


@pytest.mark.parametrize(("nanoseconds", "expected"), DURATIONS)
def test_durations(nanoseconds: int, expected: str) -> None:
    assert format_duration(nanoseconds) == expected
