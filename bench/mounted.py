"""From a registry on loopback to an image that can be read, side by side with what else there is: issue 10's table.

    python bench/mounted.py LAYOUT [--rounds 5] [--only pull,user,...] [--peers DIR] [--user NAME] [--out FILE]

LAYOUT is an OCI layout with the images base, node and pyml, the first below the others. Run it as root: everything
is on a journaled ext4 of its own in a loop image (below LAMINA_BENCH_DIR, or /var/tmp; 24 GB at most, 7 at least),
and everything that it starts, mounts and writes is removed at its end, also after Ctrl-C. It rewrites RESULTS.md.

Measures: pull (node and pyml, all engines), first (a pull and the first program in a container), slow (both on a disk
that takes 150 MB/s), user (as --user), shared (a second image), run, index (calls erofs.py), cache (a second image's
memory). A peer that is not there gets a line that says so. --peers DIR: newer programs in
DIR/bin (containerd, ctr, mkfs.erofs, podman, umoci), measured beside the machine's own.
Needs: skopeo, docker-registry or registry; for all of it podman, umoci, runc, curl, igzip (package isal).
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
import time
from pathlib import Path

from engines import Peers, version
from ground import LAMINA, clear, file_system, push, registry, registry_program, undisturbed
from meter import Failed, adopt, note, run
from pulling import as_user, pulls
from report import Section, Verdict, machine, render
from running import index, runs
from sharing import cache, shared
from slow import first, slow
from stage import Bench

HERE = Path(__file__).resolve().parent


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    adopt()
    began = time.monotonic()
    sections = []
    try:
        with file_system() as place, registry(place / "registry") as host:
            bench = Bench(place, host, Peers(options.peers), options.rounds, options.drop_caches, options.user,
                          options.layout)  # fmt: skip
            told = facts(bench)
            for ref in ("base", "node", "pyml"):
                push(options.layout, ref, host)
            for name in options.only:
                note(f"== {name}")
                sections += attempt(bench, name)
    except Stopped as error:
        note("interrupted: nothing written")
        return 128 + error.number
    told.append(("took", f"{(time.monotonic() - began) / 60:.0f} minutes"))
    options.out.write_text(render(told, sections))
    note(f"written: {options.out}")
    return 0


class Stopped(BaseException):
    """Raised by a signal, so that everything that was started, mounted and written is removed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stop(number: int, _: object) -> None:
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # once is enough: cleaning up is not to be cut short
    raise Stopped(number)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = os.environ.get("LAMINA_PEERS")
    parser.add_argument("layout", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(MEASURES), help="which measures (default: %(default)s)")
    parser.add_argument("--peers", type=Path, default=Path(peers) if peers else None, metavar="DIR")
    parser.add_argument("--user", default="", metavar="NAME", help="a plain user with subordinate IDs")
    parser.add_argument("--drop-caches", action="store_true", help="before each turn, instead of warm ones")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", metavar="FILE")
    options = parser.parse_args()
    options.only = options.only.split(",")
    wrong = [name for name in options.only if name not in MEASURES]
    if wrong:
        parser.error(f"no measure {', '.join(wrong)}: there are {', '.join(MEASURES)}")
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    if os.geteuid() != 0:
        parser.error("only root can mount: run it as root")
    if not (options.layout / "index.json").is_file():
        parser.error(f"{options.layout} is no OCI layout")
    options.layout = options.layout.resolve()
    options.peers = options.peers.resolve() if options.peers else None
    options.out = options.out.resolve()
    return options


def attempt(bench: Bench, name: str) -> list[Section]:
    """A measure that breaks is a line in the results, and the others go on."""
    try:
        return MEASURES[name](bench)
    except (Failed, OSError) as error:
        note(f"{name} fails: {error}")
        return [Section(name, verdicts=[Verdict(name, "", f"fails: {error}", None)])]
    finally:
        with undisturbed():
            clear(bench.place / "ready")


def facts(bench: Bench) -> list[tuple[str, str]]:
    told = machine(bench.place)
    caches = "dropped before each turn" if bench.drop else "warm: the registry's blobs are in the page cache"
    told += [
        ("caches", caches),
        ("rounds", f"{bench.rounds}, nobody's first one discarded"),
        ("memory", f"no peak below the harness's own {own_peak() / 1e6:.0f} MB can be seen"),
        ("lamina", f"{version_of_lamina()}, Python {platform.python_version()}"),
        ("registry", f"{Path(registry_program()).name} {version(registry_program())}, plain http on loopback"),
    ]
    programs = []
    for name in ("podman", "skopeo", "umoci", "containerd", "mkfs.erofs", "runc", "crun", "igzip"):
        found = [version(one) for one in bench.peers.all(name) if one]
        programs.append(f"{name} {' and '.join(found) if found else 'not here'}")
    told.append(("peers", ", ".join(programs)))
    return told


def own_peak() -> int:
    """What a child inherits as its peak, however small it is."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def version_of_lamina() -> str:
    words = [line.split() for line in run([*LAMINA, "version"]).splitlines()]
    return ", ".join(" ".join(line) for line in words if line and line[0] in ("lamina", "isal"))


MEASURES = {
    "pull": pulls,
    "first": first,
    "slow": slow,
    "user": as_user,
    "shared": shared,
    "run": runs,
    "index": index,
    "cache": cache,
}

if __name__ == "__main__":
    sys.exit(main())
