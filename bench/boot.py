"""Time from `lamina boot` to the first output of the program, beside QEMU started by hand with the same files.

    python bench/boot.py KERNEL LAYOUT:NAME [--rounds 5] [--machine KIND]

As root. ``KERNEL``: a vmlinuz, with its modules in ../lib/modules. ``LAYOUT:NAME``: an image of an OCI layout, with a
shell. By hand means the script that `lamina vm-disk` writes: the same kernel, layers and EROFS image, the program on
the serial console. lamina has as much as that (`--network none`), what it has by default, and the first boot of an
image, whose EROFS image is not there. Takes turns; prints medians and ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ground import LAMINA
from meter import run

ASKED = 1.2
WORD = b"here-it-is"
PROGRAM = ["sh", "-c", f"echo {WORD.decode()}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kernel", help="a vmlinuz")
    parser.add_argument("image", help="LAYOUT:NAME")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--machine", default="q35", help="QEMU's kind of machine (default q35)")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="lamina-bench-", dir="/var/tmp") as place:
        top = Path(place)
        kind = ["--kernel", os.path.abspath(options.kernel), "--machine", options.machine]
        boot = ["boot", "-q", "--rm", *kind]
        words = [*LAMINA, "--root", str(top / "store")]
        run([*words, "copy", f"oci:{os.path.abspath(options.image)}", "app"])
        run([*words, "boot", "-q", "--rm", *kind, "app", *PROGRAM])
        files = ["vm-disk", *kind[:2], "-o", str(top / "machine"), "app", *PROGRAM]
        run([*words, *files])
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "by hand": lambda: timed([str(top / "machine" / "qemu.sh")], str(top / "machine")),
            "lamina": lambda: timed([*words, *boot, "--network", "none", "app", *PROGRAM]),
            "lamina, its network": lambda: timed([*words, *boot, "app", *PROGRAM]),
            "lamina, first": lambda: first(top / "new", options.image, [*boot, "--network", "none", "app", *PROGRAM]),
        }
        for _ in range(options.rounds):
            for name, take in ways.items():
                found.setdefault(name, []).append(take())
    print(f"{'':20} {'output':>8} {'least':>8} {'most':>8} {'end':>8}   seconds (output, end: medians)")
    medians = {}
    for name, times in found.items():
        outputs = [output for output, _ in times]
        medians[name] = statistics.median(outputs)
        figures = (medians[name], min(outputs), max(outputs), statistics.median(end for _, end in times))
        print(f"{name:20} " + " ".join(f"{figure:8.2f}" for figure in figures))
    hand = medians.pop("by hand")
    for name, median in medians.items():
        ratio = median / hand
        print(f"{name} / by hand: {ratio:.2f}, asked {ASKED}: {'reached' if ratio <= ASKED else 'NOT reached'}")
    return 0


def timed(words: Sequence[str], directory: str = "/") -> tuple[float, float]:
    """Seconds to the first output of the program, and to the end of the command."""
    begun, output = time.monotonic(), 0.0
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=directory) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if WORD in line and not output:
                output = time.monotonic() - begun
    if not output or process.returncode:
        raise SystemExit(f"{words[0]} did not do it: exit code {process.returncode}")
    return output, time.monotonic() - begun


def first(store: Path, image: str, words: Sequence[str]) -> tuple[float, float]:
    """The first boot in a new store; making it is not counted."""
    start = [*LAMINA, "--root", str(store)]
    run([*start, "copy", f"oci:{os.path.abspath(image)}", "app"])
    try:
        return timed([*start, *words])
    finally:
        run([*start, "unmount", "--all"])
        shutil.rmtree(store)


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("this needs root")
    sys.exit(main())
