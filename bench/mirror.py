"""`lamina serve --mirror` beside docker-registry as a pull-through cache: a blob that many clients want at once and
that is not there yet (cold), and again (warm).

    python bench/mirror.py [--rounds 3] [--clients 16]

Both mirror one docker-registry on this host; each round pushes a new blob of 200 MB to it. Everything is on a
journaled ext4 of its own (root only). Needs: registry (`tests/peers.sh`, $LAMINA_PEERS or PATH).
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ground import LAMINA, file_system
from serve import BLOB, Server, fetch, free_port, in_processes, process, push_blob, push_manifest, write_blob


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    with file_system() as place, ExitStack() as stack:
        upstream = stack.enter_context(registry(place, "upstream"))
        mirrors = [
            stack.enter_context(lamina(place, upstream)),
            stack.enter_context(registry(place, "proxy", upstream)),
        ]
        for mirror in mirrors:
            fetch_nothing(mirror.port)
        found: dict[tuple[str, str], list[float]] = {}
        for round_ in range(options.rounds):
            for mirror in mirrors if round_ % 2 else reversed(mirrors):
                blob = place / "blob"
                digest = write_blob(blob, BLOB)
                push_blob(upstream.port, "library/app", blob, digest)
                push_manifest(upstream.port, "library/app", "1", digest, BLOB)
                path = f"/v2/library/app/blobs/{digest}"
                fetched = count(place, digest)
                first = first_byte(mirror.port, path)
                for what in ("cold", "warm"):
                    before, began = mirror.cpu(), time.perf_counter()
                    moved = sum(in_processes(options.clients, fetch, mirror.port, path, 1))
                    found.setdefault((mirror.name, f"{what}: MB/s"), []).append(
                        moved / (time.perf_counter() - began) / 1e6
                    )
                    found.setdefault((mirror.name, f"{what}: CPU s"), []).append(mirror.cpu() - before)
                found.setdefault((mirror.name, "first byte, ms"), []).append(first * 1000)
                found.setdefault((mirror.name, "GETs upstream"), []).append(count(place, digest) - fetched)
                found.setdefault((mirror.name, "memory, MB"), []).append(mirror.memory() / 1e6)
        for (name, what), values in sorted(found.items(), key=lambda one: (one[0][1], one[0][0])):
            print(f"  {what:16} {name:10} {statistics.median(values):9.1f} ({min(values):.1f} to {max(values):.1f})")
    return 0


def count(place: Path, digest: str) -> int:
    """How often the blob was asked for at the registry."""
    log = (place / "upstream.log").read_text(errors="replace")
    return sum(f'"GET /v2/library/app/blobs/{digest}' in line for line in log.splitlines())


def first_byte(port: int, path: str) -> float:
    """Seconds until the first bytes of a blob arrive at a client, which goes away then."""
    with socket.create_connection(("127.0.0.1", port)) as one:
        began = time.perf_counter()
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = b""
        while len(head.partition(b"\r\n\r\n")[2]) == 0:
            piece = one.recv(4096)
            assert piece, head
            head += piece
        return time.perf_counter() - began


def fetch_nothing(port: int) -> None:
    """Let the server load what it loads at the first request."""
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
        one.recv(4096)


@contextmanager
def lamina(place: Path, upstream: Server) -> Iterator[Server]:
    port = free_port()
    mirror = f"docker.io=http://127.0.0.1:{upstream.port}"
    words = [*LAMINA, "--root", str(place / "lamina"), "serve", "--port", str(port), "--mirror", mirror]
    with process("lamina", words, port, place / "lamina.log") as server:
        yield server


@contextmanager
def registry(place: Path, name: str, upstream: Server | None = None) -> Iterator[Server]:
    peers = os.environ.get("LAMINA_PEERS") or str(Path.home() / ".cache" / "lamina-peers")
    program = shutil.which("registry", path=f"{peers}/bin:{os.environ['PATH']}")
    if program is None:
        raise SystemExit("registry is not installed: tests/peers.sh builds it")
    port = free_port()
    proxy = f"proxy: {{remoteurl: http://127.0.0.1:{upstream.port}}}\n" if upstream is not None else ""
    (place / f"{name}.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {place}/{name}}}}}\n{proxy}"
    )
    with process("registry", [program, "serve", str(place / f"{name}.yml")], port, place / f"{name}.log") as server:
        yield server


if __name__ == "__main__":
    raise SystemExit(main())
