"""Programs that are asked and answer."""

from __future__ import annotations

import sys

import pytest

from lamina.errors import SystemFailure
from lamina.run.child import output_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no posix_spawn")


def test_what_it_says_and_how_it_ends() -> None:
    assert output_of(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\nerr")


def test_it_has_no_input() -> None:
    assert output_of(["cat"]) == (0, "")


def test_much_is_read_to_its_end() -> None:
    code, said = output_of(["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"])
    assert (code, len(said)) == (0, 1_000_000)


def test_a_signal_is_no_success() -> None:
    assert output_of(["sh", "-c", "kill -9 $$"])[0] == -9


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemFailure, match="no-such-program"):
        output_of(["no-such-program"])
