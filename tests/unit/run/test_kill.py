"""Signals reach the right process, even if its pid is reused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import SystemFailure
from lamina.run import network
from lamina.run.bubblewrap import process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux's")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as one:
        yield one
        one.kill()


def test_a_signal_reaches_the_program(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "process_of", lambda bundle: child.pid)
    process.kill(str(tmp_path), 0)
    process.kill(str(tmp_path), signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM


def test_a_reused_pid_gets_no_signal(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "_PATIENCE", 0)
    answers: list[int] = []

    def told(bundle: str) -> int:
        if answers:
            return answers.pop(0)
        raise ProcessLookupError

    monkeypatch.setattr(process, "process_of", told)
    for numbers in ([child.pid, os.getpid()], [child.pid], []):
        answers[:] = numbers
        with pytest.raises(SystemFailure, match="no process"):
            process.kill(str(tmp_path), signal.SIGKILL)
        assert answers == []
    assert child.poll() is None


@pytest.mark.parametrize("name", ["pasta", "pasta.avx2"])
def test_a_left_over_pasta_is_ended(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/bin/cat")
    with subprocess.Popen([tmp_path / name], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdin is not None
        assert one.stdout is not None
        one.stdin.write(b"x")
        assert one.stdout.read(1) == b"x"  # it runs: only now the kernel surely shows its new name
        (tmp_path / "pasta.pid").write_text(f"{one.pid}\n")
        network.Pasta.close_left(str(tmp_path))
        assert one.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("text", ["{}", "nothing", "", "999999999"])
def test_another_process_with_the_pid_of_a_pasta_is_left_alone(
    text: str, child: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (tmp_path / "pasta.pid").write_text(text.format(child.pid))
    network.Pasta.close_left(str(tmp_path))
    assert child.poll() is None
