"""`lamina serve` as a process of its own, as users start it: it can be killed and started again on its port."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from docker_engine import die_with_us
from support import free_port

_PATIENCE = 60  # seconds until a server must listen, or have stopped


class ServerProcess:
    """A server over the store ``root``. ``options`` are further words of the command line; ``log`` gets its stderr.

    ``start`` returns when the server listens. ``port`` stays the same over restarts. The kernel kills the server when
    the thread that started it ends.
    """

    def __init__(
        self, root: Path | str, *options: str, log: Path, environment: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self.root = root
        self.options: Sequence[str] = options
        self.log = log
        self.port = port or free_port()
        self.highest_memory = 0  # bytes, over all processes that have run
        self._environment = {**os.environ, "PYTHONWARNINGS": "error", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """``host:port``, for use in references."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        command = [sys.executable, "-m", "lamina", "--root", str(self.root), "serve", "--port", str(self.port)]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                preexec_fn=die_with_us,  # noqa: PLW1509
            )
        self._await_line(self._process)
        return self

    def _await_line(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the line that tells the address; it is printed when the server listens."""
        assert process.stdout is not None
        deadline = time.monotonic() + _PATIENCE
        told = b""
        while not re.search(rb"https?://[^\s]+:\d+.*\n", told):
            ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not piece:
                process.kill()
                process.wait()
                raise AssertionError(f"lamina serve did not start: {told!r} {self.log.read_text()[-3000:]}")
            told += piece

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def memory(self) -> int:
        """Most bytes of memory that the running process ever had resident; it is noted in ``highest_memory``."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        found = re.search(r"VmHWM:\s*(\d+) kB", status)
        now = int(found[1]) << 10 if found else 0
        self.highest_memory = max(self.highest_memory, now)
        return now

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self.memory()
        self._process.kill()
        self._end(self._process)

    def stop(self) -> int:
        """Ctrl-C's friend SIGTERM; the exit code."""
        assert self._process is not None
        self.memory()
        self._process.send_signal(signal.SIGTERM)
        return self._end(self._process)

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        try:
            code = process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"lamina serve did not stop in {_PATIENCE} s") from None
        finally:
            assert process.stdout is not None
            process.stdout.close()
        return code

    def close(self) -> None:
        if self.running():
            self.kill()


@contextmanager
def serving(root: Path | str, *options: str, log: Path, **keywords: Mapping[str, str]) -> Iterator[ServerProcess]:
    """A server during the block."""
    server = ServerProcess(root, *options, log=log, **keywords)
    try:
        yield server.start()
    finally:
        server.close()
