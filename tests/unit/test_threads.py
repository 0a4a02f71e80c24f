"""Work on a system that can't start more threads (a limit of processes, of the user or of a container)."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from lamina import cli
from lamina.errors import SystemFailure
from lamina.events import Cancel, join
from lamina.store.writeback import sync_together
from lamina.transfer.parallel import for_each


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """So many threads start, and no more."""
    left = [request.param]
    start = threading.Thread.start

    def limited(self: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.mark.parametrize("few", [1], indirect=True)
def test_the_threads_that_run_do_all_the_work(few: None) -> None:
    done: list[int] = []
    for_each(range(9), lambda item, _: done.append(item), Cancel())
    assert sorted(done) == list(range(9))


@pytest.mark.parametrize("few", [0], indirect=True)
def test_it_is_an_error_if_no_thread_can_be_started(few: None) -> None:
    with pytest.raises(SystemFailure, match="no more threads"):
        for_each(range(9), lambda *_: None, Cancel())


@pytest.mark.parametrize("few", [0, 1], indirect=True)
def test_files_are_synced_with_the_threads_that_there_are(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    files = [os.open(tmp_path / str(number), os.O_CREAT | os.O_RDWR) for number in range(5)]
    try:
        sync_together(files)
    finally:
        for file in files:
            os.close(file)
    assert sorted(synced) == sorted(files)


def test_the_command_line_has_one_line_for_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("lamina.cli.plain.answer", refused)
    assert cli.run(["images"]) == 6
    assert capfd.readouterr().err.splitlines() == [
        "lamina: can't start new thread (raise the limit of processes: ulimit -u, --pids-limit)"
    ]


def test_join_waits_for_a_thread_after_an_interrupted_join() -> None:
    """Python before 3.13 takes a thread for an ended one after its join was interrupted."""
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        ended.set()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            join([thread])
        threading.Timer(0.1, go.set).start()
        join([thread])
        assert ended.is_set()
    finally:
        go.set()
        signal.signal(signal.SIGALRM, before)
