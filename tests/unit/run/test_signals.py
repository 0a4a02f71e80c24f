"""All spellings of signals that docker's users and images use."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from lamina.errors import UsageError
from lamina.run.container.ending import stop_signal
from lamina.run.signals import parse_signal
from lamina.store.containers import Container

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux's")


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("", 15),
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigterm", 15),
        ("Int", 2),
        (" SIGQUIT ", 3),
        ("9", 9),
        ("64", 64),
        ("RTMIN", 34),
        ("SIGRTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("rtmin+3", 37),
        ("RTMIN+30", 64),
        ("SIGRTMAX", 64),
        ("SIGRTMAX-1", 63),
        ("RTMAX-30", 34),
        ("WINCH", 28),
    ],
)
def test_a_signal_is_a_number(word: str, number: int) -> None:
    assert parse_signal(word) == number


@pytest.mark.parametrize(
    "word",
    ["0", "65", "-9", "9999999999", "²", "SIGSIGTERM", "_BLOCK", "_DFL", "NOTHING", "RTMIN+31", "RTMIN-1", "RTMAX+1",
     "RTMIN+", "RTMIN+x", "RTMIN*3", "RTMIN+003", "RT", "T ERM", "SIGTERM\0"],
)  # fmt: skip
def test_unknown_signals_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="unknown signal"):
        parse_signal(word)


CONTAINER = Container("0" * 64, "c", "app", "", "", 0, (), 0.0)


@pytest.mark.parametrize(
    ("asked", "of_image", "number", "warned"),
    [
        ("", "", "15", ""),
        ("", "SIGRTMIN+3", "37", ""),
        ("INT", "SIGRTMIN+3", "2", ""),
        ("", "SIGNONSENSE", "15", "image app has an unknown StopSignal 'SIGNONSENSE'; TERM"),
    ],
)
def test_the_signal_of_stop(asked: str, of_image: str, number: str, warned: str) -> None:
    said: list[str] = []
    assert stop_signal(replace(CONTAINER, stop_signal=asked), of_image, said.append) == number
    assert [warned in text for text in said] == [True] * bool(warned)
