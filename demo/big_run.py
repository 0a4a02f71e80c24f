"""Runs the images as containers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from big_images import POSTGRES
from big_shell import LAMINA, Failed, environment, tell

_PATIENCE = 90.0  # seconds that a server has to answer, and to end; machines that QEMU emulates are slow

Output = IO[str] | int


class Run:
    """`lamina run` with a store and the network of this host."""

    def __init__(self, store: Path) -> None:
        self._store = store

    verb: tuple[str, ...] = ("run", "--network", "host")

    def start(self, name: str, image: str, words: Sequence[str], *, out: Output) -> subprocess.Popen[str]:
        """Start a container of ``image`` that runs ``words``, by default the program of the image. Its output goes to
        ``out``."""
        verb, *options = self.verb
        typed = [verb, "--rm", "--name", name, *options, image, *words]
        print("$ lamina", " ".join(typed), flush=True)
        return _started([*LAMINA, *typed], environment(self._store), out)


class Boot(Run):
    """`lamina boot`: a virtual machine, one port of which is the same port of this host."""

    def __init__(self, store: Path, port: int) -> None:
        super().__init__(store)
        self.verb = ("boot", "-p", f"127.0.0.1:{port}:{port}")


def boot_and_run(store: Path, image: str) -> None:
    """Check that one image does its work on the kernel of this host, and on its own."""
    port = free_port()
    words = ["node", "/srv/app/server.js", str(port)]
    with server(Run(store), "demo-container", image, words):
        expect("the web server, as a container", "hello from node", fetched(f"http://127.0.0.1:{port}/"))
    with server(Boot(store, port), "demo-machine", image, [*words, "0.0.0.0"]):
        expect("the web server, as a machine", "hello from node", fetched(f"http://127.0.0.1:{port}/"))
    uname = ["node", "-p", "require('os').release()"]
    tell(f"the kernel of this host: {output(Run(store), 'demo-uname', image, uname)}")
    tell(f"the kernel of the image: {output(Boot(store, port), 'demo-uname', image, uname)}")


def run_all(containers: Run, web: str, database: str, squares: str) -> None:
    """Check that each image does its work. Raises Failed with the name of the one that did not."""
    port = free_port()
    with server(containers, "demo-web", web, ["node", "/srv/app/server.js", str(port)]):
        expect("the web server", "hello from node", fetched(f"http://127.0.0.1:{port}/"))

    port = free_port()
    words = [f"{POSTGRES}/postgres", "-D", "/srv/data", "-p", str(port), "-k", "/tmp"]
    with server(containers, "demo-database", database, words):
        wait_for(port)
        psql = ["psql", "-h", "127.0.0.1", "-p", str(port), "-At", "-c"]
        expect("the database", "1", output(containers, "demo-psql", database, [*psql, "select 1"]), whole=True)
        query = "select string_agg(name, ' ' order by since) from engines"
        expect(
            "its table", "docker podman lamina", output(containers, "demo-psql", database, [*psql, query]), whole=True
        )

    expect("the C# program", "1 4 9 16 25", output(containers, "demo-squares", squares, []))


@contextmanager
def server(containers: Run, name: str, image: str, words: Sequence[str]) -> Iterator[None]:
    """Run a container during the block; then it gets SIGTERM and must end with success. Its output is shown if
    something fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            with _running(containers.start(name, image, words, out=log), name):
                yield
        except (Failed, OSError):
            log.seek(0)
            print("".join(f"   | {line}" for line in log.readlines()[-15:]), end="", flush=True)
            raise


@contextmanager
def _running(process: subprocess.Popen[str], name: str) -> Iterator[None]:
    try:
        yield
        if process.poll() is not None:
            raise Failed(f"{name} ended by itself with {process.returncode}")
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} does not end {_PATIENCE:.0f} seconds after SIGTERM") from None
        if code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            raise Failed(f"{name} ended with {code} after SIGTERM")
        tell(f"{name} ended with {code} after SIGTERM")
    finally:
        _ended(process)


def _ended(process: subprocess.Popen[str]) -> None:
    """End the process: first with SIGTERM, because a killed `lamina run` can't remove its container."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def output(containers: Run, name: str, image: str, words: Sequence[str]) -> str:
    process = containers.start(name, image, words, out=subprocess.PIPE)
    try:
        text, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failed(f"{image} says nothing in {_PATIENCE:.0f} seconds") from None
    finally:
        _ended(process)
    if process.returncode:
        raise Failed(f"{image} ended with {process.returncode}")
    return text.strip()


def expect(who: str, wanted: str, found: str, *, whole: bool = False) -> None:
    tell(f"{who}: {found}")
    if (found != wanted) if whole else (wanted not in found):
        raise Failed(f"{who} says {found!r:.200}, expected {wanted!r}")


def fetched(url: str) -> str:
    wait_for(int(url.rstrip("/").rpartition(":")[2]))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with direct.open(url, timeout=_PATIENCE) as answer:
                return str(answer.read(10_000), "utf-8", "replace").strip()
        except OSError:  # the port of a machine is open before its server is
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def wait_for(port: int) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise Failed(f"nothing answers on port {port} after {_PATIENCE:.0f} seconds") from None
            time.sleep(0.1)
        else:
            return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _started(command: Sequence[str | Path], env: dict[str, str], out: Output) -> subprocess.Popen[str]:
    error = None if out == subprocess.PIPE else out  # a program's errors are for the person who looks on
    # PATH is also used for the programs of this host that set up the container
    env = {"PATH": os.environ.get("PATH", os.defpath), **env}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, env=env, text=True)
