"""Child processes: their output, their streams, and how they end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lamina.errors import SystemFailure
from lamina.run.child import Streams, output_of, spawned

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no posix_spawn")


def test_output_of_returns_the_exit_code_and_both_outputs() -> None:
    assert output_of(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\nerr")


def test_output_of_gives_the_program_no_input() -> None:
    assert output_of(["cat"]) == (0, "")


def test_output_of_reads_all_output() -> None:
    code, said = output_of(["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"])
    assert (code, len(said)) == (0, 1_000_000)


def test_output_of_returns_a_negative_code_for_a_signal() -> None:
    assert output_of(["sh", "-c", "kill -9 $$"])[0] == -9


def test_output_of_names_a_program_that_was_not_found() -> None:
    with pytest.raises(SystemFailure, match="no-such-program"):
        output_of(["no-such-program"])


def test_a_child_has_the_streams_that_its_caller_chose() -> None:
    (reading, writing), (other, error) = os.pipe(), os.pipe()
    with spawned(["/bin/sh", "-c", "echo out; echo err >&2; cat"], Streams(0, writing, error, False)) as child:
        os.close(writing)
        os.close(error)
        assert child.wait() == 0
    assert (os.read(reading, 100), os.read(other, 100)) == (b"out\n", b"err\n")
    os.close(reading)
    os.close(other)


def test_a_child_that_nobody_waits_for_is_killed() -> None:
    with pytest.raises(ZeroDivisionError), spawned(["/bin/sleep", "600"], Streams(interactive=False)) as child:
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


@pytest.mark.parametrize("prepared", [False, True])
def test_prepare_is_called_in_the_child(prepared: bool, tmp_path: Path) -> None:
    prepare = (lambda: os.chdir(tmp_path)) if prepared else None
    reading, writing = os.pipe()
    with spawned(["/bin/pwd"], Streams(0, writing, 2, False), (), prepare) as child:
        os.close(writing)
        assert child.wait() == 0
    assert (os.read(reading, 1000) == os.fsencode(tmp_path) + b"\n") is prepared
    os.close(reading)
