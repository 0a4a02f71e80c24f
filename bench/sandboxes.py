"""Many containers from one process: `image.run` one after the other and from threads, beside the command line.

    python bench/sandboxes.py [--count 200] [--threads 8]

The image is one static program (busybox), `true` runs without a network. The store is on a journaled ext4 of its own
(ground.py) for root. What is printed is the time for all of them and for one. ``held``: the results are kept in a
list, with their containers, as long as it runs.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lamina
from ground import LAMINA, file_system, quiet

WORDS = ["true"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="how many containers (default 200)")
    parser.add_argument("--threads", type=int, default=8, help="how many at once (default 8)")
    options = parser.parse_args()
    with file_system() as place:
        image = prepared(place)
        image.run(WORDS, network="none").remove()  # what is made once is made, and the helper runs
        root = str(place / "store")

        def command(_: int) -> None:
            quiet(*LAMINA, "--root", root, "run", "--rm", "--network", "none", "app", *WORDS)

        def removed(_: int) -> None:
            image.run(WORDS, network="none").remove()

        measure("lamina run --rm, one after the other", min(options.count, 30), command)
        measure("image.run, one after the other", min(options.count, 30), removed)
        measure("image.run, one after the other", options.count, removed)
        measure(f"image.run, {options.threads} threads", options.count, removed, threads=options.threads)
        held: list[lamina.RunResult] = []
        measure("image.run, held", options.count, lambda _: held.append(image.run(WORDS, network="none")))
        start = time.perf_counter()
        held.clear()
        while os.listdir(place / "store/containers"):
            time.sleep(0.01)
        print(f"{'held ones let go':<40}{options.count:>6}{time.perf_counter() - start:>9.2f} s")
    return 0


def prepared(place: Path) -> lamina.Image:
    shell = shutil.which("busybox")
    if shell is None:
        sys.exit("busybox is not installed")
    with tarfile.open(place / "root.tar", "w") as tar:
        data = Path(shell).read_bytes()
        for name in ("bin/sh", "bin/true"):
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(data)
            tar.addfile(info, io.BytesIO(data))
    quiet(*LAMINA, "--root", str(place / "store"), "import", str(place / "root.tar"), "app")
    return lamina.open("app", root=place / "store")


def measure(what: str, count: int, work: Callable[[int], object], *, threads: int = 1) -> None:
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))
    seconds = time.perf_counter() - start
    print(f"{what:<40}{count:>6}{seconds:>9.2f} s{1000 * seconds / count:>8.1f} ms each", flush=True)


if __name__ == "__main__":
    sys.exit(main())
