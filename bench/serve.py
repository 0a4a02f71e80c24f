"""`lamina serve` beside nginx (a static file, sendfile), docker-registry and zot: blobs pulled and pushed, small
manifests, memory, and small requests beside large ones.

    python bench/serve.py [--rounds 5] [--only pull,small,beside,push,memory] [--clients 16] [--names 0]

Everything is on a journaled ext4 of its own, in a loop image (root only), blobs are in the page cache, and the
servers take turns. Clients are processes of Python that throw away what they get (MSG_TRUNC), and ab for small
requests. A figure "/CPU s" counts the processor time of the server alone. `--names N`: the store has N other names.

Needs: nginx, ab (apache2-utils), docker-registry or registry; zot if it is there ($LAMINA_PEERS/bin or PATH).
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ground import LAMINA, file_system, undisturbed
from meter import spent

BLOB = 200 << 20
PIECE = 1 << 20
EMPTY_CONFIG = b"{}"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Server:
    """A server under test: what it is called, its port, and its process."""

    name: str
    port: int
    pid: int
    pushes: bool = True

    def cpu(self) -> float:
        return sum(spent(pid)[0] for pid in self.processes())

    def memory(self) -> int:
        """Bytes that its processes hold now, without what they share (PSS)."""
        total = 0
        for pid in self.processes():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) << 10  # type: ignore[index]
        return total

    def processes(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [self.pid, *map(int, children.split())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--names", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="pull,small,beside,push,memory")
    options = parser.parse_args()
    with file_system() as place, ExitStack() as stack:
        print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores")
        blob = place / "blob"
        digest = write_blob(blob, BLOB)
        servers = [
            stack.enter_context(lamina(place, options.workers, options.names)),
            stack.enter_context(nginx(place, blob, digest, options.workers)),
            *(stack.enter_context(one) for one in registries(place)),
        ]
        for server in servers:
            if server.pushes:
                push_blob(server.port, "app", blob, digest)
                push_manifest(server.port, "app", "1", digest, BLOB)
        for what in options.only.split(","):
            print(f"\n{MEASURES[what].__doc__}".rstrip())
            MEASURES[what](servers, options, place, digest)
    return 0


# measures


def pull(servers: list[Server], options: argparse.Namespace, place: Path, digest: str) -> None:
    """Blob of 200 MB, pulled twice by each client: MB/s, and MB for each second of processor time of the server."""
    for clients in (1, options.clients):
        found: dict[str, list[tuple[float, float]]] = {}
        for server in turns(servers, options.rounds):
            path = f"/v2/app/blobs/{digest}"
            before, began = server.cpu(), time.perf_counter()
            moved = sum(in_processes(clients, fetch, server.port, path, 2))
            seconds = time.perf_counter() - began
            found.setdefault(server.name, []).append((moved / seconds / 1e6, moved / (server.cpu() - before) / 1e6))
        show(f"{clients} clients", found, "MB/s", "MB/CPU s")


def small(servers: list[Server], options: argparse.Namespace, place: Path, digest: str) -> None:
    """Manifests by tag and by digest over 8 kept-alive connections: requests/s, and for each CPU second."""
    manifest = "sha256:" + hashlib.sha256(manifest_of(digest, BLOB)).hexdigest()
    for what, path in (("by tag", "/v2/app/manifests/1"), ("by digest", f"/v2/app/manifests/{manifest}")):
        found: dict[str, list[tuple[float, float]]] = {}
        for server in turns(servers, options.rounds):
            count = 30000 if not server.pushes else 4000
            before = server.cpu()
            done = subprocess.run(
                [
                    "ab",
                    "-q",
                    "-k",
                    "-H",
                    f"Accept: {MANIFEST}",
                    "-c",
                    "8",
                    "-n",
                    str(count),
                    f"http://127.0.0.1:{server.port}{path}",
                ],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            rate = float(re.search(r"Requests per second:\s+([\d.]+)", done)[1])  # type: ignore[index]
            assert "Non-2xx" not in done, done
            found.setdefault(server.name, []).append((rate, count / (server.cpu() - before)))
        show(what, found, "/s", "/CPU s")


def beside(servers: list[Server], options: argparse.Namespace, place: Path, digest: str) -> None:
    """Manifests asked one after the other, while 16 clients pull the blob: median and 99th percentile in ms."""
    found: dict[str, list[tuple[float, float]]] = {}
    for server in turns(servers, options.rounds):
        stop = multiprocessing.Event()
        times = multiprocessing.Queue()  # type: ignore[var-annotated]
        asker = multiprocessing.Process(target=ask, args=(server.port, "/v2/app/manifests/1", stop, times))
        asker.start()
        sum(in_processes(options.clients, fetch, server.port, f"/v2/app/blobs/{digest}", 2))
        stop.set()
        seen = sorted(times.get())
        asker.join()
        found.setdefault(server.name, []).append((statistics.median(seen) * 1000, seen[int(len(seen) * 0.99)] * 1000))
    show("beside 16 pulls", found, "ms median", "ms p99", better=min)


def push(servers: list[Server], options: argparse.Namespace, place: Path, digest: str) -> None:
    """Blobs of 100 MB, random, pushed by POST and PUT, each with its manifest: MB/s, and MB for each CPU second."""
    size = 100 << 20
    for clients in (1, 4):
        found: dict[str, list[tuple[float, float]]] = {}
        for turn, server in enumerate(turns([one for one in servers if one.pushes], options.rounds)):
            paths = []
            for number in range(clients):
                path = place / f"push-{number}"
                paths.append((path, write_blob(path, size)))
            os.sync()
            before, began = server.cpu(), time.perf_counter()
            with_threads([partial(push_image, server.port, f"p{turn}", path, digest, size) for path, digest in paths])
            seconds = time.perf_counter() - began
            moved = size * clients
            found.setdefault(server.name, []).append((moved / seconds / 1e6, moved / (server.cpu() - before) / 1e6))
        show(f"{clients} clients", found, "MB/s", "MB/CPU s")


def memory(servers: list[Server], options: argparse.Namespace, place: Path, digest: str) -> None:
    """32 clients that pull 1 GB each, and 32 that push 256 MB, at once: the most memory (PSS) of the server in MB."""
    big = place / "big"
    size = 1 << 30
    big_digest = write_blob(big, size)
    part = place / "part"
    write_blob(part, size >> 2)
    for server in servers:
        if not server.pushes:
            continue
        push_blob(server.port, "app", big, big_digest)
        idle = server.memory()
        highest = [0]
        done = threading.Event()

        def watch(server: Server = server, highest: list[int] = highest, done: threading.Event = done) -> None:
            while not done.wait(0.1):
                highest[0] = max(highest[0], server.memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        pulling = in_processes_begun(32, fetch, server.port, f"/v2/app/blobs/{big_digest}", 1)
        pushing = in_processes_begun(32, push_and_cancel, server.port, str(part), size >> 2)
        for one in (*pulling, *pushing):
            one.join()
        done.set()
        watcher.join()
        print(f"  {server.name:24} {highest[0] / 1e6:8.0f} MB (idle {idle / 1e6:.0f})")


MEASURES: dict[str, Callable[[list[Server], argparse.Namespace, Path, str], None]] = {
    "pull": pull,
    "small": small,
    "beside": beside,
    "push": push,
    "memory": memory,
}


def turns(servers: list[Server], rounds: int) -> Iterator[Server]:
    for round_ in range(rounds):
        order = servers[round_ % len(servers) :] + servers[: round_ % len(servers)]
        yield from order


def show(
    title: str,
    found: dict[str, list[tuple[float, float]]],
    first: str,
    second: str,
    better: Callable[[float, float], float] = max,
) -> None:
    """Print medians, and the ratio of the first server to each other one, round by round (above 1: it is better)."""
    print(f"  {title}")
    names = list(found)
    ours = found[names[0]]
    for name in names:
        pairs = zip(ours, found[name], strict=True)
        ratios = [(a[0] / b[0]) if better is max else (b[0] / a[0]) for a, b in pairs]
        middle = [statistics.median(one[place] for one in found[name]) for place in (0, 1)]
        print(
            f"    {name:24} {middle[0]:9.1f} {first:10} {middle[1]:9.1f} {second:10}"
            f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


# clients


def fetch(port: int, path: str, times: int) -> int:
    """GET over one connection, and throw the bytes away; how many there were."""
    moved = 0
    buffer = bytearray(PIECE)
    with socket.create_connection(("127.0.0.1", port)) as one:
        for _ in range(times):
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                piece = one.recv(4096)
                assert piece, head
                head += piece
            assert b" 200 " in head.split(b"\r\n")[0], head
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
            left = length - len(head.partition(b"\r\n\r\n")[2])
            while left:
                count = one.recv_into(buffer, min(left, PIECE), socket.MSG_TRUNC)
                assert count, left
                left -= count
            moved += length
    return moved


def ask(port: int, path: str, stop: object, times: object) -> None:
    seen = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not stop.is_set():  # type: ignore[attr-defined]
        began = time.perf_counter()
        connection.request("GET", path, headers={"Accept": MANIFEST})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        seen.append(time.perf_counter() - began)
        time.sleep(0.002)
    times.put(seen)  # type: ignore[attr-defined]


def in_processes_begun(count: int, work: Callable[..., object], *arguments: object) -> list[multiprocessing.Process]:
    begun = [multiprocessing.Process(target=work, args=arguments) for _ in range(count)]
    for one in begun:
        one.start()
    return begun


def in_processes(count: int, work: Callable[..., int], *arguments: object) -> list[int]:
    if count == 1:
        return [work(*arguments)]
    with multiprocessing.Pool(count) as pool:
        return pool.starmap(work, [arguments] * count, chunksize=1)


def with_threads(work: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def begin_upload(connection: http.client.HTTPConnection, repository: str) -> str:
    connection.request("POST", f"/v2/{repository}/blobs/uploads/")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 202, answer.status
    location = answer.headers["Location"]
    return re.sub(r"^https?://[^/]+", "", location)


def push_blob(port: int, repository: str, path: Path, digest: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    location = begin_upload(connection, repository)
    with path.open("rb") as file:
        send(connection, "PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", file)
    connection.close()


def send(connection: http.client.HTTPConnection, method: str, url: str, file: object) -> None:
    """Send a file by sendfile, as Go's clients do."""
    size = os.fstat(file.fileno()).st_size  # type: ignore[attr-defined]
    connection.putrequest(method, url)
    connection.putheader("Content-Length", str(size))
    connection.putheader("Content-Type", "application/octet-stream")
    connection.endheaders()
    connection.sock.sendfile(file)  # type: ignore[arg-type]
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status in (201, 202, 204), (answer.status, text)


def push_and_cancel(port: int, path: str, size: int) -> None:
    """Send a large blob in one PATCH, and cancel the upload."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    location = begin_upload(connection, "app")
    connection.putrequest("PATCH", location)
    connection.putheader("Content-Length", str(size))
    connection.putheader("Content-Type", "application/octet-stream")
    connection.endheaders()
    with open(path, "rb") as file:
        connection.sock.sendfile(file)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 202, answer.status
    location = re.sub(r"^https?://[^/]+", "", answer.headers["Location"])
    connection.request("DELETE", location)
    answer = connection.getresponse()
    answer.read()


def manifest_of(digest: str, size: int) -> bytes:
    config = "sha256:" + hashlib.sha256(EMPTY_CONFIG).hexdigest()
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size}],
        }
    ).encode()


def push_manifest(port: int, repository: str, tag: str, digest: str, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    config = "sha256:" + hashlib.sha256(EMPTY_CONFIG).hexdigest()
    location = begin_upload(connection, repository)
    connection.request("PUT", f"{location}{'&' if '?' in location else '?'}digest={config}", EMPTY_CONFIG)
    connection.getresponse().read()
    raw = manifest_of(digest, size)
    headers = {"Content-Type": MANIFEST}
    connection.request("PUT", f"/v2/{repository}/manifests/{tag}", raw, headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 201, (answer.status, text)
    connection.close()


def push_image(port: int, repository: str, path: Path, digest: str, size: int) -> None:
    push_blob(port, repository, path, digest)
    push_manifest(port, repository, path.name, digest, size)


def write_blob(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size >> 20):
            piece = os.urandom(1 << 20)
            digest.update(piece)
            file.write(piece)
    path.chmod(0o644)
    return f"sha256:{digest.hexdigest()}"


# servers


@contextmanager
def process(
    name: str, words: list[str], port: int, log: Path, *, pushes: bool = True, **env: str
) -> Iterator[Server]:
    with log.open("wb") as file:
        running = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | env)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if running.poll() is not None:
                    raise SystemExit(log.read_text(errors="replace")) from None
                time.sleep(0.1)
        yield Server(name, port, running.pid, pushes)
    finally:
        with undisturbed():
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(40)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def lamina(place: Path, workers: int, names: int) -> Iterator[Server]:
    port = free_port()
    root = place / "lamina"
    if names:
        fill(root, names)
    words = [*LAMINA, "--root", str(root), "serve", "--writable", "--port", str(port), "--workers", str(workers)]
    with process("lamina", words, port, place / "lamina.log") as server:
        yield server


def fill(root: Path, names: int) -> None:
    """Give a new store this many names of one small image."""
    from lamina.source.verify import BytesBlob
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest
    from lamina.spec.manifest import build_manifest
    from lamina.store.store import Store

    store = Store.open(str(root))
    config = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(EMPTY_CONFIG), len(EMPTY_CONFIG))
    raw = build_manifest(config, []).raw
    descriptor = Descriptor(MANIFEST, Digest.of(raw), len(raw))
    with store.session("bench") as session:
        session.put_blob(config, BytesBlob(config, EMPTY_CONFIG))
        session.put_manifest(descriptor, raw)
        with session.batch():
            for number in range(names):
                session.tag(f"docker.io/library/n{number % 500}:{number}", descriptor)


@contextmanager
def nginx(place: Path, blob: Path, digest: str, workers: int) -> Iterator[Server]:
    top = place / "nginx"
    (top / "www/v2/app/blobs").mkdir(parents=True)
    (top / "www/v2/app/manifests").mkdir(parents=True)
    os.link(blob, top / "www/v2/app/blobs" / digest)
    raw = manifest_of(digest, BLOB)
    for name in ("1", "sha256:" + hashlib.sha256(raw).hexdigest()):
        (top / "www/v2/app/manifests" / name).write_bytes(raw)
    port = free_port()
    (top / "nginx.conf").write_text(
        f"daemon off; worker_processes {workers}; pid {top}/pid; error_log {top}/error.log; user root;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n"
        f"  server {{ listen 127.0.0.1:{port}; root {top}/www; }} }}\n"
    )
    with process("nginx", ["nginx", "-c", f"{top}/nginx.conf"], port, top / "log", pushes=False) as server:
        yield server


def registries(place: Path) -> Iterator[AbstractContextManager[Server]]:
    seen = set()
    peers = os.environ.get("LAMINA_PEERS", str(Path.home() / ".cache/lamina-peers")) + "/bin"
    path = f"{os.environ['PATH']}:{peers}"
    for name in ("registry", "docker-registry"):
        program = shutil.which(name, path=path)
        if program and program not in seen:
            seen.add(program)
            yield docker_registry(place / name, program)
            break
    zot = shutil.which("zot", path=path)
    if zot:
        yield zot_registry(place / "zot", zot)
    else:
        print("zot is not installed")


@contextmanager
def docker_registry(top: Path, program: str) -> Iterator[Server]:
    top.mkdir()
    port = free_port()
    config = top / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {top}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
    )
    words = [program, "serve", str(config)]
    with process("docker-registry", words, port, top / "log", OTEL_TRACES_EXPORTER="none") as server:
        yield server


@contextmanager
def zot_registry(top: Path, program: str) -> Iterator[Server]:
    top.mkdir()
    port = free_port()
    config = top / "config.json"
    config.write_text(
        json.dumps(
            {
                "distSpecVersion": "1.1.1",
                "storage": {"rootDirectory": f"{top}/data", "gc": False},
                "http": {"address": "127.0.0.1", "port": str(port)},
                "log": {"level": "error"},
            }
        )
    )
    with process("zot", [program, "serve", str(config)], port, top / "log") as server:
        yield server


if __name__ == "__main__":
    raise SystemExit(main())
