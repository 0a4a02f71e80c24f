"""Unpacking: lamina side by side with what else there is.

    python bench/unpack.py LAYOUT [--rounds 5] [--refs node,pyml] [--only local,pull]

LAYOUT is an OCI layout with real images. ``local``: an image that is there already, into a new directory: `lamina
unpack`, `tar x` of the layers' plain tars one after the other (no whiteouts, nothing checked), `umoci unpack` of the
layout (it inflates and verifies; lamina's store has the tars already). ``pull``: from a registry on loopback to
unpacked trees: `lamina pull --unpack`, `podman pull` with the overlay driver. As root; medians of interleaved rounds
after one that only warms, on a journaled ext4 of its own in a loop image, synced between runs.
Needs: tar, umoci, skopeo, podman, docker-registry or registry; what is missing is left out, and said.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ground import LAMINA, clear, file_system, quiet, registry
from lamina.spec.platform import Platform
from lamina.store.store import Store


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--refs", default="node,pyml")
    parser.add_argument("--only", default="local,pull")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("as root: peers give files their owners")
    with file_system() as place:
        print(
            f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores, ext4 with a journal"
        )
        for ref in options.refs.split(",") if "local" in options.only else ():
            local(place, options.layout, ref, options.rounds)
        if "pull" in options.only:
            with registry(place / "registry") as host:
                for ref in options.refs.split(","):
                    quiet("skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false",
                          f"oci:{options.layout}:{ref}", f"docker://{host}/fx/{ref}:1")  # fmt: skip
                    pulls(place, host, ref, options.rounds)
    return 0


def local(place: Path, layout: Path, ref: str, rounds: int) -> None:
    root, target = place / "store", place / "out"
    quiet(*LAMINA, "--root", str(root), "copy", "-q", f"oci:{layout}:{ref}", ref)
    store = Store.open(str(root))
    tars = [store.paths.tar(diff_id) for diff_id in store.stack(ref, Platform.host()).diff_ids]

    def tar() -> None:
        target.mkdir()
        for path in tars:
            quiet("tar", "-x", "-C", str(target), "-f", path)

    runs: dict[str, Callable[[], None]] = {
        "lamina": lambda: quiet(*LAMINA, "--root", str(root), "unpack", "-q", ref, str(target)),
        "tar x": tar,
        "umoci": lambda: quiet("umoci", "unpack", "--image", f"{layout}:{ref}", str(target)),
    }
    compare(f"unpack {ref}", runs, rounds, lambda: clear(target))
    clear(root)


def pulls(place: Path, host: str, ref: str, rounds: int) -> None:
    root, storage = place / "pull", place / "p"
    podman = ["podman", "--root", str(storage), "--runroot", str(place / "r"), "--storage-driver", "overlay"]

    def before() -> None:
        clear(root)
        if storage.exists():
            subprocess.run([*podman, "rmi", "-af"], check=False, capture_output=True)
        clear(storage)

    runs: dict[str, Callable[[], None]] = {
        "lamina": lambda: quiet(*LAMINA, "--root", str(root), "pull", "-q", "--unpack", f"{host}/fx/{ref}:1"),
        "lamina, not unpacked": lambda: quiet(*LAMINA, "--root", str(root), "pull", "-q", f"{host}/fx/{ref}:1"),
        "podman": lambda: quiet(*podman, "pull", "-q", "--tls-verify=false", f"{host}/fx/{ref}:1"),
    }
    compare(f"pull to unpacked {ref}", runs, rounds, before)


def compare(title: str, runs: dict[str, Callable[[], None]], rounds: int, before: Callable[[], None]) -> None:
    """Seconds by the clock and of CPU, with all child processes; ratios to lamina."""
    runs = {name: run for name, run in runs.items() if _there(name)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        order = list(runs.items())
        for name, run in order if number % 2 else order[::-1]:
            before()
            os.sync()
            start, used = time.monotonic(), os.times()
            run()
            took, now = time.monotonic() - start, os.times()
            if number:
                cpu = now.children_user + now.children_system - used.children_user - used.children_system
                times[name].append((took, cpu))
    before()
    ours = statistics.median(took for took, _ in times["lamina"])
    for name, found in times.items():
        took, cpu = statistics.median(one for one, _ in found), statistics.median(one for _, one in found)
        spread = f"{min(one for one, _ in found):.2f}-{max(one for one, _ in found):.2f}"
        print(f"{title}: {name} {took:.2f} s ({spread}), {cpu:.2f} s CPU; {took / ours:.2f} of lamina's", flush=True)


def _there(name: str) -> bool:
    program = name.split(maxsplit=1)[0].rstrip(",")
    if program == "lamina" or shutil.which(program):
        return True
    print(f"{program} is not there: left out")
    return False


if __name__ == "__main__":
    sys.exit(main())
