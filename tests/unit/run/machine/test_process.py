"""The file that names the process of a machine, and whose lock tells whether anything of it lives."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import Conflict, SystemFailure
from lamina.run.machine import process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="machines run on Linux")


def test_end_waits_for_what_the_killed_relay_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU has the disk open until it has ended."""
    ready, tell = os.pipe()
    waits, release = os.pipe()
    relay = os.fork()
    if relay == 0:
        try:
            process.hold(str(tmp_path))
            if os.fork() == 0:
                os.close(release)
                os.write(tell, b"1")
                os.read(waits, 1)  # until the test closes its end
            else:
                os.close(release)
                signal.pause()
        finally:
            os._exit(0)
    os.read(ready, 1)
    ended = []

    def sleep(seconds: float) -> None:
        if not ended:
            ended.append(os.waitstatus_to_exitcode(os.waitpid(relay, 0)[1]))
            os.close(release)

    monkeypatch.setattr(process.time, "sleep", sleep)
    process.end(str(tmp_path))
    assert ended == [-signal.SIGKILL]
    with process.kept_out(str(tmp_path)):
        pass
    for descriptor in (ready, tell, waits):
        os.close(descriptor)


def test_a_machine_that_runs_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = process.hold(str(tmp_path))
    monkeypatch.setattr(process, "_PATIENCE", 0)
    with pytest.raises(Conflict, match="have not ended"):
        process.hold(str(tmp_path))
    with pytest.raises(Conflict), process.kept_out(str(tmp_path)):
        pass
    received = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    process.kill(str(tmp_path), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert received == [signal.SIGUSR1]
    os.close(held)
    process.end(str(tmp_path))  # nothing runs: nobody is killed, though the pid is this process's


def test_a_file_of_another_process_with_the_same_pid(tmp_path: Path) -> None:
    (tmp_path / "relay").write_text(f"{os.getpid()} 1")
    process.end(str(tmp_path))
    with pytest.raises(SystemFailure, match="does not run"):
        process.kill(str(tmp_path), signal.SIGTERM)


def test_kill_ends_a_relay_that_does_not_end_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, tell = os.pipe()
    relay = os.fork()
    if relay == 0:
        try:
            signal.signal(process.KILL, lambda *_: os.write(tell, b"asked"))
            process.hold(str(tmp_path))
            os.write(tell, b"ready")
            while True:
                signal.pause()
        finally:
            os._exit(0)
    assert os.read(ready, 5) == b"ready"
    monkeypatch.setattr(process, "_KILLING", -1.0)
    monkeypatch.setattr(process.time, "sleep", lambda seconds: None)
    heard = []
    monkeypatch.setattr(process, "_process", _after(lambda: heard.append(os.read(ready, 5)), process._process))
    process.kill(str(tmp_path), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(relay, 0)[1]) == -signal.SIGKILL
    assert heard == [b"asked"]
    for descriptor in (ready, tell):
        os.close(descriptor)


def _after(second: Callable[[], object], function: Callable[[str], int]) -> Callable[[str], int]:
    """``function``, whose second call is made after ``second``."""
    calls = []

    def call(bundle: str) -> int:
        calls.append(bundle)
        if len(calls) == 2:
            second()
        return function(bundle)

    return call
