"""The real docker: a daemon of our own that leaves nothing behind, and its client."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import require_root, require_tool

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, linux/prctl.h
_START = 60  # seconds


class Docker:
    """docker's client, connected to one daemon."""

    def __init__(self, address: str, home: str) -> None:
        self.command = [client(), "--host", address]
        self.top = os.path.dirname(address.removeprefix("unix://"))  # of the daemon's directories
        own = {"HOME": home, "DOCKER_CONFIG": home}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")} | own

    def __call__(
        self, *words: str, input: bytes | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self.command, *words],
            capture_output=True,
            input=input,
            env=self.environment | environment,
            check=False,
            timeout=120,
        )

    def ok(self, *words: str, input: bytes | None = None) -> str:
        """What a command prints that must succeed."""
        done = self(*words, input=input)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def export(self, image: str, target: Path) -> None:
        """Write the files of a container of an image that is there to a tar; both are removed then."""
        container = self.ok("create", image, "true")
        try:
            self.ok("export", "-o", str(target), container)
        finally:
            self.ok("rm", container)
            self.ok("rmi", image)

    @property
    def version(self) -> tuple[int, ...]:
        """The daemon's version."""
        told = self.ok("version", "--format", "{{.Server.Version}}")
        return tuple(int(part) for part in told.partition("+")[0].partition("-")[0].split("."))

    @functools.cached_property
    def driver(self) -> str:
        """How the daemon stores layers: overlay2, or vfs where the file system allows no other."""
        return self.ok("info", "--format", "{{.Driver}}")


def client() -> str:
    """The client that comes with Debian's daemon, before one that somebody installed."""
    return shutil.which("docker", path=f"/usr/bin:{os.environ.get('PATH', os.defpath)}") or "docker"


@contextmanager
def docker_daemon(*options: str, network: bool = False) -> Iterator[Docker]:
    """dockerd with these options. It lives in its own PID and mount namespaces: at the end, or when this process
    dies, the kernel kills all its processes and takes away all its mounts. ``network``: it also has a network
    namespace of its own, with docker's bridge in it; else no network. Missing as ``require_tool``."""
    require_root()
    require_tool("docker", "dockerd", "unshare")
    with tempfile.TemporaryDirectory(prefix="ld-", ignore_cleanup_errors=True) as top:  # sockets want a short path
        address = f"{top}/docker.sock"
        home = Path(top, "home")
        home.mkdir()
        bridge = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh") if network else ()
        command = [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *bridge,
            *("dockerd", "--host", f"unix://{address}", "--data-root", f"{top}/data", "--exec-root", f"{top}/exec"),
            *("--pidfile", f"{top}/pid", "--log-level", "warn"),
            *(() if network else ("--bridge", "none", "--iptables=false")),
            *options,
        ]
        with open(f"{top}/log", "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_us,  # noqa: PLW1509
            )
        try:
            _wait(process, address, f"{top}/log")
            yield Docker(f"unix://{address}", str(home))
        finally:
            process.kill()
            process.wait()


def die_with_us() -> None:
    """For ``preexec_fn``: when the process that started this one dies, the kernel kills it."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _wait(process: subprocess.Popen[bytes], address: str, log: str) -> None:
    """Wait until the daemon answers."""
    deadline = time.monotonic() + _START
    while True:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                one.connect(address)
                one.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b" 200 " in one.recv(100):  # it takes connections before it can answer
                    return
            except OSError:
                pass
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"dockerd did not start: {Path(log).read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)
