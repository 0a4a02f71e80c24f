"""The explorer through its real server: how long the first look at an image takes, and each answer once it is warm.

python bench/explorer.py LAYOUT [IMAGE...]     (an OCI layout; default: all its images, and one directory of 50,000)

Starts `lamina serve` over the layout with an empty cache. Prints milliseconds: the first look (all layers are read
and indexed, with progress), the first look after a restart (indexes from the cache), then for each page the first
answer and the median and the worst of 30 more.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

MANY = 50_000
ROUNDS = 30


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def get(self, page: str, **query: object) -> tuple[int, bytes]:
        self._connection.request("GET", f"/explore/api/{page}?{urlencode(query)}")
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def until_ready(self, page: str, **query: object) -> bytes:
        """The answer, asked for again as often as the page asks."""
        while True:
            status, body = self.get(page, **query)
            if status != 202:
                assert status == 200, body
                return body
            time.sleep(0.02)


@contextmanager
def serving(layout: str, cache: str) -> Iterator[Client]:
    command = [sys.executable, "-m", "lamina", "serve", "-p", "0", "--explorer-cache", cache, f"oci:{layout}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = re.search(rb":(\d+) ", process.stdout.readline())
        assert found
        try:
            yield Client(int(found[1]))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def timed(client: Client, page: str, **query: object) -> float:
    start = time.perf_counter()
    client.until_ready(page, **query)
    return (time.perf_counter() - start) * 1000


def measure(client: Client, image: str, other: str) -> None:
    pages: list[tuple[str, dict[str, Any]]] = [
        ("image", {}),
        ("stack", {}),
        ("sharing", {}),
        ("tree", {"path": "/"}),
        ("tree", {"path": "/many", "offset": MANY // 2} if "many" in image else {"path": "/usr/lib"}),
        ("tree", {"path": "/usr", "hidden": 1, "sort": "size"} if "many" not in image else {"path": "/"}),
        ("blame", {"path": "/etc/passwd"} if "many" not in image else {"path": "/many/f00001"}),
        ("treemap", {"path": "/"}),
        ("ghosts", {}),
        ("waste", {}),
        ("search", {"q": "*.so*"}),
        ("file", {"path": "/etc/passwd"} if "many" not in image else {"path": "/many/f00001"}),
    ]
    print(f"\n{image:60} first  median   worst  (ms)")
    for page, query in pages:
        _row(client, page, {"image": image, **query})
    _row(client, "diff", {"before": image, "after": other})
    _row(client, "search", {"q": "passwd"})


def _row(client: Client, page: str, query: dict[str, Any]) -> None:
    first = timed(client, page, **query)
    more = [timed(client, page, **query) for _ in range(ROUNDS)]
    told = " ".join(f"{key}={value}" for key, value in query.items() if key not in ("image", "before", "after"))
    print(f"  {page} {told:50.50}".ljust(58), f"{first:7.0f} {statistics.median(more):7.1f} {max(more):7.1f}")


def main() -> None:
    layout, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as cache:
        with serving(layout, cache) as client:
            found = json.loads(client.until_ready("repositories", limit=100))["repositories"]
            images = [
                tag["image"]
                for one in found
                for tag in json.loads(client.until_ready("tags", repository=one["repository"]))["tags"]
                if not names or one["name"] in names
            ]
            for image in images:
                print(f"{image:58} first look, layers read: {timed(client, 'tree', image=image):8.0f} ms")
        with serving(layout, cache) as client:
            for image in images:
                print(f"{image:58} first look, from cache:  {timed(client, 'tree', image=image):8.0f} ms")
            for image in images:
                measure(client, image, images[-1])
            size = sum(entry.stat().st_size for entry in os.scandir(cache))
            print(f"\ncache: {size / 1e6:.1f} MB for {len(images)} images")


if __name__ == "__main__":
    main()
