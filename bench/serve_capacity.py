"""What a `lamina serve` needs for its work: processor time and memory, over a store and over object storage.

    python bench/serve_capacity.py [--s3 ENDPOINT --bucket NAME]

Processor time, not elapsed time: it says how much a core can do, also where the machine is busy and the clients are
on the same machine. The credentials of --s3 are those of the environment (AWS_ACCESS_KEY_ID, ...).
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from meter import spent

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PIECE = random.Random(1).randbytes(1 << 20)
CLIENTS = 64


class Server:
    def __init__(self, root: str, words: list[str]) -> None:
        command = [sys.executable, "-m", "lamina", "--root", root, "serve", "--port", "0", "--writable", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)", self.process.stdout.readline())
        assert found is not None
        self.host, self.port = found[1], int(found[2])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=300)

    def cpu(self, work: Callable[[], None]) -> float:
        """Seconds of processor time that the server needs for some work."""
        before = spent(self.process.pid)[0]
        work()
        return spent(self.process.pid)[0] - before

    def memory(self) -> int:
        """The most bytes that it had resident since the last reset."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s*(\d+)", status)
        assert found is not None
        return int(found[1]) << 10


def push(server: Server, repository: str, number: int, size: int) -> str:
    """Push a blob that no other push has; its digest."""
    head = f"{repository} {number} ".encode().ljust(64)
    digest = hashlib.sha256(head)
    for _ in range(size >> 20):
        digest.update(PIECE)
    connection = server.connect()
    connection.request("POST", f"/v2/{repository}/blobs/uploads/")
    answer = connection.getresponse()
    answer.read()
    place = answer.headers["Location"]
    place += ("&" if "?" in place else "?") + f"digest=sha256:{digest.hexdigest()}"

    def pieces() -> Iterator[bytes]:
        yield head
        for _ in range(size >> 20):
            yield PIECE

    length = str(len(head) + (size >> 20 << 20))
    connection.request("PUT", place, pieces(), {"Content-Length": length, "Content-Type": "application/octet-stream"})
    answer = connection.getresponse()
    told = answer.read()
    assert answer.status == 201, told
    connection.close()
    return f"sha256:{digest.hexdigest()}"


def pull(server: Server, repository: str, digest: str) -> None:
    connection = server.connect()
    connection.request("GET", f"/v2/{repository}/blobs/{digest}")
    answer = connection.getresponse()
    assert answer.status == 200
    while answer.read(1 << 20):
        pass
    connection.close()


def manifests(server: Server, repository: str, config: str, number: int) -> None:
    connection = server.connect()
    descriptor = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 64}
    raw = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": []}).encode()
    connection.request("PUT", f"/v2/{repository}/manifests/1", raw, {"Content-Type": MANIFEST})
    answer = connection.getresponse()
    told = answer.read()
    assert answer.status == 201, told
    for _ in range(number):
        connection.request("GET", f"/v2/{repository}/manifests/1", headers={"Accept": MANIFEST})
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()


def at_once(work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(name: str, server: Server) -> None:
    gigabyte = 1000 << 20
    digests = [""]

    def push_one() -> None:
        digests[0] = push(server, "capacity/one", 0, gigabyte)

    idle = server.memory()
    pushed = server.cpu(push_one)
    pulled = server.cpu(lambda: pull(server, "capacity/one", digests[0]))
    config = push(server, "capacity/one", 1, 0)
    small = server.cpu(lambda: manifests(server, "capacity/one", config, 3000))
    at_once(lambda number: push(server, "capacity/many", number, 20 << 20))
    pushing = server.memory()
    at_once(lambda number: pull(server, "capacity/one", digests[0]) if number < 8 else None)
    print(
        f"{name}: idle {idle >> 20} MiB; push {1 / pushed:.2f} GB and pull {1 / pulled:.2f} GB per second of a core; "
        f"{3000 / small:.0f} manifests per second of a core; "
        f"{CLIENTS} pushes at once: {pushing >> 20} MiB; and pulls of 1 GB: {server.memory() >> 20} MiB",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--s3", metavar="ENDPOINT", help="measure over this S3 server too")
    parser.add_argument("--bucket", default="images")
    options = parser.parse_args()
    forms: list[tuple[str, list[str]]] = [("store", [])]
    if options.s3:
        os.environ["AWS_ENDPOINT_URL"] = options.s3
        forms.append(("object storage", ["--storage", f"s3://{options.bucket}/capacity"]))
    for name, words in forms:
        with tempfile.TemporaryDirectory(prefix="lamina-capacity-") as top:
            server = Server(f"{top}/store", words)
            try:
                measure(name, server)
            finally:
                server.process.kill()
                server.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
