"""What `keep` costs and saves: disk, time of pull and load, 100 random files; the three modes side by side.

    python bench/keep.py LAYOUT [--rounds 5] [--refs node,pyml] [--place DIR]

LAYOUT is an OCI layout with real images. The modes take turns, the order changes from round to round, caches are
warm; printed are medians and ratios to blob+tar. "cat": one run of the command line that prints 100 files; "a file":
the same files one by one in this process, median and 90th percentile in ms.
A load knows no registry: keep=tar has the blobs too.

Everything is on a journaled ext4 of its own in a loop image (root only), or in --place.
Needs: docker-registry or registry.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lamina
from ground import LAMINA, clear, file_system, quiet, registry, text
from lamina.layer.entry import Kind
from lamina.settings import KEEPS, Settings

FILES = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--refs", default="node,pyml")
    parser.add_argument("--place", type=Path, help="a directory on the file system to measure on")
    options = parser.parse_args()
    with given(options.place) if options.place else file_system() as place, registry(place / "registry") as host:
        print(
            f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores; ratios to {KEEPS[0]}"
        )
        for ref in options.refs.split(","):
            quiet(*LAMINA, "copy", "-q", f"oci:{options.layout}:{ref}", f"docker://{host}/fx/{ref}:1")
            measure(place, options.layout, host, ref, options.rounds)
    return 0


@contextmanager
def given(directory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lamina-keep-", dir=directory) as place:
        yield Path(place)


def measure(place: Path, layout: Path, host: str, ref: str, rounds: int) -> None:
    name = f"{host}/fx/{ref}:1"

    def store(keep: str) -> Path:
        return place / keep

    def run(*words: str) -> Callable[[str], None]:
        return lambda keep: quiet(*LAMINA, "--root", str(store(keep)), *words)

    def pull(keep: str) -> None:
        run("pull", "-q", "--keep", keep, name)(keep)

    def load(keep: str) -> None:
        run("copy", "-q", "--keep", keep, f"oci:{layout}:{ref}", name)(keep)

    compare(f"load {ref}", load, rounds, before=lambda keep: clear(store(keep)))
    compare(f"pull {ref}", pull, rounds, before=lambda keep: clear(store(keep)))
    show(f"disk {ref}", {keep: disk(store(keep)) / 1e6 for keep in KEEPS}, "MB")
    paths = some_files(store(KEEPS[0]), name)
    compare(f"cat {FILES} files of {ref}", run("cat", name, *paths), rounds)
    compare(f"unpack {ref}", run("unpack", name, str(place / "tree")), 1, before=lambda _: clear(place / "tree"))
    clear(place / "tree")
    for keep in KEEPS:
        one_by_one(store(keep), name, paths, keep)
        clear(store(keep))


def some_files(root: Path, name: str) -> list[str]:
    tree = lamina.open(name, settings=Settings.load(flags={"root": str(root)})).tree
    files = [os.fsdecode(tree.path(node)) for node in tree.walk() if tree.kind(node) == Kind.FILE]
    return ["/" + path for path in random.Random(1).sample(sorted(files), FILES)]


def one_by_one(root: Path, name: str, paths: list[str], keep: str) -> None:
    image = lamina.open(name, settings=Settings.load(flags={"root": str(root)}))
    image.stat(paths[0])
    took, sizes = [], []
    for path in paths:
        start = time.perf_counter()
        sizes.append(len(image.read_bytes(path)))
        took.append((time.perf_counter() - start) * 1000)
    took.sort()
    largest = max(sizes) / 1e6
    print(
        f"  a file, {keep}: {took[FILES // 2]:.2f} ms, 90 % {took[FILES * 9 // 10]:.2f} ms (up to {largest:.1f} MB)"
    )


def disk(root: Path) -> int:
    total: int = json.loads(text(*LAMINA, "--root", str(root), "df", "--format", "json"))["total"]
    return total


def compare(
    title: str, run: Callable[[str], None], rounds: int, before: Callable[[str], None] = lambda keep: None
) -> None:
    times: dict[str, list[float]] = {keep: [] for keep in KEEPS}
    for number in range(rounds + 1):  # the first round only warms
        for keep in KEEPS if number % 2 else KEEPS[::-1]:
            before(keep)
            os.sync()
            start = time.monotonic()
            run(keep)
            if number:
                times[keep].append(time.monotonic() - start)
    show(title, {keep: statistics.median(found) for keep, found in times.items()}, "s")


def show(title: str, found: dict[str, float], unit: str) -> None:
    first = found[KEEPS[0]]
    told = ", ".join(f"{keep} {value:.2f} {unit} ({value / first:.2f})" for keep, value in found.items())
    print(f"{title}: {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
