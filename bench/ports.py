"""Throughput of a published port: lamina's forwarder, pasta (what podman uses for plain users), and loopback alone.

    python bench/ports.py [--rounds 5] [--megabytes 2000] [--pasta PROGRAM]

As root. Each way publishes one port of a network namespace in which a small server runs: it sends or takes bytes, and
answers connections. The ways take turns; the client connects to 127.0.0.1, because older pastas (Debian 12) forward
no connection from another address. Prints medians and ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lamina.run.network import NetworkNamespace, Pasta
from lamina.run.published.forwarder import close_left, publish
from lamina.run.published.syntax import parse_published

INSIDE = 5001
SERVER = """\
import socket, sys
server = socket.create_server(("", int(sys.argv[1])), backlog=1024)
print("up", flush=True)
space, data = bytearray(1 << 20), b"x" * (1 << 20)
while True:
    one, _ = server.accept()
    with one:
        word = one.recv(1)
        try:
            if word == b"g":
                while True:
                    one.sendall(data)
            while word == b"p" and one.recv_into(space):
                pass
            if word == b"p":
                one.sendall(b"k")
            if word == b"c":
                one.sendall(b"k")
        except OSError:
            pass
"""
CONNECTIONS = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--megabytes", type=int, default=2000, help="what one turn sends (default 2000)")
    parser.add_argument("--pasta", default=shutil.which("pasta") or "", help="the pasta that is measured")
    options = parser.parse_args()
    ways: dict[str, Callable[[ExitStack], int]] = {"lamina": through_lamina, "loopback": alone}
    if options.pasta:
        ways["pasta"] = lambda opened: through_pasta(opened, options.pasta)
    else:
        print("pasta is not here")
    found: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as opened:
        ports = {name: way(opened) for name, way in ways.items()}
        measures: dict[str, Callable[[int], float]] = {
            "from the container, MB/s": lambda port: got(port, options.megabytes),
            "to the container, MB/s": lambda port: put(port, options.megabytes),
            "connections a second": connections,
        }
        for _ in range(options.rounds):
            for measure, take in measures.items():
                for name, port in ports.items():
                    found.setdefault((measure, name), []).append(take(port))
    print(f"{'':28} " + " ".join(f"{name:>10}" for name in ports) + "   lamina / pasta")
    for measure in measures:
        medians = {name: statistics.median(found[measure, name]) for name in ports}
        ratio = f"{medians['lamina'] / medians['pasta']:.2f}" if "pasta" in medians else "not measured"
        print(f"{measure:28} " + " ".join(f"{medians[name]:10.0f}" for name in ports) + f"   {ratio:>14}")
    return 0


def got(port: int, megabytes: int) -> float:
    left, space = megabytes * 1_000_000, bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"g")
        start = time.perf_counter()
        while left > 0:
            left -= one.recv_into(space)
        return megabytes / (time.perf_counter() - start)


def put(port: int, megabytes: int) -> float:
    data = b"x" * 1_000_000
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"p")
        start = time.perf_counter()
        for _ in range(megabytes):
            one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        one.recv(1)
        return megabytes / (time.perf_counter() - start)


def connections(port: int) -> float:
    start = time.perf_counter()
    for _ in range(CONNECTIONS):
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(b"c")
            one.recv(1)
    return CONNECTIONS / (time.perf_counter() - start)


@contextmanager
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/run") as found:
        yield found


def serve(opened: ExitStack, namespace: str = "") -> None:
    words = [*(["nsenter", f"--net={namespace}"] if namespace else []), sys.executable, "-c", SERVER, str(INSIDE)]
    process = opened.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
    opened.callback(process.kill)
    assert process.stdout is not None
    process.stdout.readline()


def alone(opened: ExitStack) -> int:
    serve(opened)
    return INSIDE


def through_lamina(opened: ExitStack) -> int:
    place = opened.enter_context(directory())
    namespace = Pasta(place)
    opened.callback(namespace.close)
    (port,) = {one.host_port for one in publish(parse_published([str(INSIDE)]), place, namespace.path)}
    opened.callback(close_left, place)
    serve(opened, namespace.path)
    return port


def through_pasta(opened: ExitStack, program: str) -> int:
    place = opened.enter_context(directory())
    namespace = NetworkNamespace(place)
    opened.callback(namespace.close)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = [program, "--config-net", "--quiet", "--runas", "0", "-t", f"{port}:{INSIDE}", "-u", "none"]
    words += ["-T", "none", "-U", "none", "--pid", str(Path(place, "pasta.pid")), "--netns", namespace.path]
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    serve(opened, namespace.path)
    return port


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.exit(main())
