"""What `runc exec` passes on of a terminal: the carriage returns that it took too late."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.run.terminal import LateReturns

LINES = st.lists(st.binary(max_size=4).map(lambda line: line.replace(b"\n", b"").rstrip(b"\r")), max_size=6)


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[one:other] for one, other in pairwise(edges)]


ENDS = st.sampled_from([b"", b"\r", b"50%\r", b"> "])


@given(early=LINES, later=LINES, end=ENDS, cuts=st.lists(st.integers(0, 99)))
def test_lines_have_one_carriage_return_however_early_they_came(
    early: list[bytes], later: list[bytes], end: bytes, cuts: list[int]
) -> None:
    change = LateReturns()
    came = b"".join([*(line + b"\r\r\n" for line in early), *(line + b"\r\n" for line in later), end])
    passed = b"".join(map(change, [*_pieces(came, cuts), b""]))
    assert passed == b"".join([*(line + b"\r\n" for line in (*early, *later)), end])


@pytest.mark.parametrize("text", [b"one\r\na\r\r\n", b"one\r\n\r\r\r\n", b"\r\r", b"", b"no line"])
def test_what_a_program_writes_itself_stays(text: bytes) -> None:
    for size in (1, 2, 100):
        change = LateReturns()
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert b"".join(map(change, [*pieces, b""])) == text


def test_nothing_but_carriage_returns_waits_for_what_follows() -> None:
    change = LateReturns()
    assert change(b"10%\r") == b"10%"
    assert change(b"20%\r") == b"\r20%"
    assert change(b"") == b"\r"
