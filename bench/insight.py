"""`lamina diff` of two images beside unpacking both and `diff -r`.

    python bench/insight.py LAYOUT [--rounds 5] [--pair pyml,pyml-v2]

LAYOUT is an OCI layout with real images. Peer and lamina take turns, the order changes from round to round,
caches are warm: what is printed are medians and ratios. Both images are loaded into a store before, which is not
measured. Two ways unpack: lamina, and umoci straight from the layout (which inflates as well). Everything is on a
journaled ext4 of its own, as in bench/wire.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ground import LAMINA, clear, file_system, quiet
from wire import compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pair", default="pyml,pyml-v2")
    options = parser.parse_args()
    names = options.pair.split(",")
    with file_system() as place:
        print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores; ratios to the peer")
        store, trees = place / "store", place / "trees"
        for name in names:
            quiet(*LAMINA, "--root", str(store), "copy", "-q", f"oci:{options.layout}:{name}", name)

        def by_lamina() -> None:
            differs(*LAMINA, "--root", str(store), "diff", *names)

        def by_unpacking() -> None:
            trees.mkdir()
            for name in names:
                quiet(*LAMINA, "--root", str(store), "unpack", name, str(trees / name))
            differs("diff", "-r", "--no-dereference", *(str(trees / name) for name in names))

        def by_umoci() -> None:
            trees.mkdir()
            for name in names:
                quiet("umoci", "raw", "unpack", "--image", f"{options.layout}:{name}", str(trees / name))
            differs("diff", "-r", "--no-dereference", *(str(trees / name) for name in names))

        peers: dict[str, Callable[[], None]] = {"unpack and diff -r": by_unpacking}
        if shutil.which("umoci"):
            peers["umoci and diff -r"] = by_umoci
        for peer, run in peers.items():
            compare(f"diff {' '.join(names)}", {peer: run, "lamina": by_lamina}, options.rounds, lambda: clear(trees))
    return 0


def differs(*words: str) -> None:
    """Run something that ends with 1 where two sides differ, as they must here."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 1:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
