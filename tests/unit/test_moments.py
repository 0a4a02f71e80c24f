"""Lengths of time and moments, as docker's command line writes them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lamina.errors import UsageError
from lamina.spec.duration import nanoseconds, of_option
from lamina.spec.moment import parse_moment, rfc3339

_S = 10**9
_NOW = 1_764_380_000 * _S


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "XXX-02:30")  # two and a half hours east
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", _NOW - 600 * _S),
        ("1h30m", _NOW - 5400 * _S),
        ("1.5s", _NOW - 1_500_000_000),
        ("-5s", _NOW + 5 * _S),
        ("0", 0),
        ("10", 10 * _S),
        ("1764380000", _NOW),
        ("1764380000.25", _NOW + 250_000_000),
        ("2026-01-31", 1_769_817_600 * _S - 9000 * _S),
        ("2026-01-31Z", 1_769_817_600 * _S),
        ("2026-01-31T12", 1_769_860_800 * _S - 9000 * _S),
        ("2026-01-31T12:00:00Z", 1_769_860_800 * _S),
        ("2026-01-31T12:00:00.000000001Z", 1_769_860_800 * _S + 1),
        ("2026-01-31T12:00:00+02:30", 1_769_860_800 * _S - 9000 * _S),
        ("2026-01-31T12:00:00-0100", 1_769_860_800 * _S + 3600 * _S),
    ],
)
def test_moment(text: str, expected: int) -> None:
    assert parse_moment(text, _NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-13-01", "2026-01-31T25", "2026-01-31T12:00:00X", "1" * 30, "١٢", "10m " * 3]
)
def test_a_text_that_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_moment(text, _NOW)


def test_a_moment_is_printed_with_nine_digits_and_its_zone() -> None:
    assert rfc3339(_NOW + 5) == "2025-11-29T01:33:20.000000005Z"
    assert rfc3339(_NOW + 5, local=True) == "2025-11-29T04:03:20.000000005+02:30"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 30 * _S),
        ("1m30s", 90 * _S),
        ("1.5ms", 1_500_000),
        ("0", 0),
        ("1h0.5m", 3630 * _S),
    ],
)
def test_length_of_time(text: str, expected: int) -> None:
    assert nanoseconds(text) == of_option(text, "--x") == expected


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "-1s", "1" * 50 + "s"])
def test_an_option_that_is_no_length_of_time_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--wait"):
        of_option(text, "--wait")
