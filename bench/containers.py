"""Containers in the background by lamina, podman and docker, in turn: start, stop, remove, and what stays in memory.

    python bench/containers.py [--count 50] [--idle 50,100] [--rounds 3] [--engines lamina,podman,docker]

As root, on a journaled ext4 of its own (ground.py). The image is one static program (busybox); containers have no
network. podman is that of LAMINA_PEERS (tests/peers.sh) or of PATH, with conmon and runc; dockerd and docker are
those of PATH, and the daemon runs already. A peer that is not here gets a line that says so.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from container_engines import ENGINES, WORDS, Engine, descendants, proportional, timed, write_root
from ground import file_system, unmount_below
from meter import adopt

AT_ONCE = 8


Measure = Callable[[Engine, int], dict[str, list[float]]]
"""Seconds (or bytes) of each turn, by what was measured. The number counts the round."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=50, help="how many containers (default 50)")
    parser.add_argument("--idle", default="50,100", help="how many stay, for the memory (default 50,100)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each engine has its turn (default 3)")
    parser.add_argument("--engines", default="lamina,podman,docker")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs use compiled modules, as when installed
    os.environ["PODMAN_IGNORE_CGROUPSV1_WARNING"] = "1"
    adopt()
    names = options.engines.split(",")
    with file_system() as place, ExitStack() as stack:
        write_root(place / "root.tar")
        engines = [stack.enter_context(ENGINES[name](place)) for name in names]
        present = [engine for engine in engines if engine is not None]
        measures: list[tuple[str, Measure]] = [
            (f"{options.count} containers", one_by_one(options.count)),
            ("at once", at_once(options.count)),
            ("latency", latency),
            *((f"{idle} idle containers", memory(int(idle))) for idle in options.idle.split(",") if idle),
        ]
        for engine in present:  # what is made once is made, the programs are in memory
            engine.start("first")
            engine.remove("first")
        for title, measure in measures:
            found: dict[tuple[str, str], list[float]] = {}
            for number in range(1 if "idle" in title else options.rounds):
                for engine in present:
                    for what, values in measure(engine, number).items():
                        found.setdefault((what, engine.name), []).extend(values)
            print(f"\n{title}")
            for (what, name), values in sorted(found.items()):
                print(f"  {what:<46}{name:<10}{shown(what, values)}", flush=True)
        unmount_below(place)
    return 0


def shown(what: str, values: list[float]) -> str:
    factor, unit = (1e-6, "MB") if "memory" in what else (1e3, "ms")
    median, low, high = (factor * one for one in (statistics.median(values), min(values), max(values)))
    return f"{median:>9.1f} {unit} ({low:.1f}-{high:.1f})"


# -- what is measured


def one_by_one(count: int) -> Measure:
    def measure(engine: Engine, number: int) -> dict[str, list[float]]:
        names = [f"one{number}-{place}" for place in range(count)]
        return {
            "run -d, each": [timed(engine.start, name) for name in names],
            "rm -f of a running one, each": [timed(engine.remove, name) for name in names],
        }

    return measure


def at_once(count: int) -> Measure:
    def measure(engine: Engine, number: int) -> dict[str, list[float]]:
        names = [f"many{number}-{place}" for place in range(count)]
        return {
            f"{count} x run -d, {AT_ONCE} at once": [timed(together, engine.start, names)],
            f"{count} x rm -f, {AT_ONCE} at once": [timed(together, engine.remove, names)],
        }

    return measure


def together(work: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, names))


def latency(engine: Engine, number: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def note(what: str, work: Callable[..., object], *words: str) -> None:
        found.setdefault(what, []).append(timed(work, *words))

    for turn in range(5):
        name = f"late{number}-{turn}"
        note("run in front, to its first output", in_front, *words_of(engine, name))
        engine.remove(name)
        note("run -d, to its return", engine.start, name)
        note("exec of true", engine, "exec", name, "true")
        note("stop, of a program that listens", engine, "stop", name)
        note("start", engine, "start", name)
        note("restart", engine, "restart", name)
        note("logs", engine, "logs", name)
        note("ps -a", engine, "ps", "-a")
        with subprocess.Popen([*engine.command, "wait", name], stdout=subprocess.DEVNULL) as waiting:
            time.sleep(0.5)  # it waits
            begin = time.perf_counter()
            engine("kill", name)
            waiting.wait(30)
            found.setdefault("kill, until wait returns", []).append(time.perf_counter() - begin)
        note("rm of a stopped one", engine, "rm", name)
    return found


def words_of(engine: Engine, name: str) -> list[str]:
    return [*engine.command, "run", "--network", "none", "--name", name, "app", *WORDS]


def in_front(*words: str) -> None:
    """`run` until its program has said something."""
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()


def memory(count: int) -> Measure:
    """The proportional memory of all processes that are there for the containers, but for their own."""

    def measure(engine: Engine, number: int) -> dict[str, list[float]]:
        before = descendants({os.getpid()})
        names = [f"idle{number}-{place}" for place in range(count)]
        for name in names:
            engine.start(name)
        helpers = descendants({os.getpid()}) - before
        kinds = sorted({Path(f"/proc/{pid}/comm").read_text().strip() for pid in helpers})
        found = {f"memory of a container, {', '.join(kinds)}": [sum(map(proportional, helpers)) / count]}
        base = sum(map(proportional, descendants(engine.base) - helpers))
        if base:
            found["memory of the daemons"] = [base]
        together(engine.remove, names)
        return found

    return measure


if __name__ == "__main__":
    sys.exit(main())
