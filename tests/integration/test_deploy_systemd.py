"""deploy/systemd: systemd accepts the units, and the server starts, reports and stops as they expect."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_engine import die_with_us
from support import free_port, require_tool

UNITS = Path(__file__).resolve().parents[2] / "deploy/systemd"
SERVICE = UNITS / "lamina-serve.service"
_NO_WRITABLE_CODE = (65, 1)  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: what MemoryDenyWriteExecute asks for


def settings(name: str) -> list[str]:
    """The values of a setting of the service."""
    lines = SERVICE.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def words_of_the_service() -> list[str]:
    """The command line that systemd would run, with this Python's lamina."""
    (options,) = (
        one.strip('"').removeprefix("LAMINA_SERVE_OPTIONS=")
        for one in settings("Environment")
        if one.startswith('"LAMINA_SERVE_OPTIONS=')
    )
    program, *words = shlex.split(settings("ExecStart")[0].replace("$LAMINA_SERVE_OPTIONS", options))
    assert program.endswith("/lamina")
    return [sys.executable, "-m", "lamina", *words]


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    require_tool("systemd-analyze")
    for unit in UNITS.glob("lamina-serve.*"):
        text = unit.read_text().replace("/opt/lamina/bin/lamina", sys.executable)
        (tmp_path / unit.name).write_text(text)
    words = ["systemd-analyze", "verify", *(str(one) for one in sorted(tmp_path.iterdir()))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would read the state of the service from."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.settimeout(60)
        yield one


def test_a_socket_of_systemd_is_served_and_the_state_is_reported(tmp_path: Path, notified: socket.socket) -> None:
    require_tool("systemd-socket-activate")
    pytest.importorskip("uvicorn")
    port = free_port()
    given = {
        "LAMINA_ROOT": str(tmp_path / "store"),
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "400000",
    }
    passed = [f"--setenv={name}={value}" for name, value in given.items()]
    process = subprocess.Popen(
        ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", *passed, *words_of_the_service()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ},
        preexec_fn=_restricted,  # noqa: PLW1509
    )
    try:
        assert process.stderr is not None
        while b"Listening on" not in (line := process.stderr.readline()):
            assert line, "systemd-socket-activate has ended"
        # the first connection starts the server; it is accepted and answered although nothing ran before
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=60) as answer:
            assert answer.status == 200
        states = notified.recv(4096)
        assert b"READY=1" in states
        while b"WATCHDOG=1" not in notified.recv(4096):
            pass
        process.send_signal(signal.SIGHUP)  # ExecReload: it goes on
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        while b"STOPPING=1" not in notified.recv(4096):
            pass
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def _restricted() -> None:
    die_with_us()
    ctypes.CDLL(None).prctl(*_NO_WRITABLE_CODE, 0, 0, 0)  # kernels before 6.3 refuse it: then without
