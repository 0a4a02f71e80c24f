"""Logs of containers by lamina, podman and docker, in turn: a program writes lines of 100 bytes; then they are read.

    python bench/logs.py [--megabytes 1000] [--single 50] [--rounds 3] [--engines lamina,podman,docker]

As root, on a journaled ext4 of its own (ground.py). Each form of log takes turns with the others, in a container of
its own. The program is busybox's cat, which writes up to 64 KiB at once; for ``--single`` it is dd, which writes each
line by itself. Seconds of processor are of all processes of the engine and of the container together. Prints the
median and the range, and how often the fastest time of lamina's form goes into that of the peer's: over 1 is ahead.
podman and docker: as in containers.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from container_engines import ENGINES, Engine, processor_time, reap, timed, write_root
from ground import file_system, unmount_below
from meter import Failed, adopt

LINE = 100
BLOCK = 10_000_000
FORMS = {
    "lamina": ("local", "json-file", "k8s-file"),
    "podman": ("k8s-file",),
    "docker": ("local", "json-file"),
}
KEEP_ALL = {("docker", "local"): ("max-size=9g", "max-file=2", "compress=false")}
Spent = tuple[float, float]
"""Seconds, and seconds of processor."""
Found = dict[tuple[str, str], list[Spent | str]]
"""What each turn took, by what was measured and the form of the log."""


class Form:
    """An engine with one of its log drivers."""

    def __init__(self, engine: Engine, driver: str) -> None:
        self.engine, self.driver = engine, driver
        self.name = f"{engine.name} {driver}"

    def start(self, name: str, *words: str) -> None:
        more = [f"--log-opt={one}" for one in KEEP_ALL.get((self.engine.name, self.driver), ())]
        self.engine("run", "-d", "--network=none", "--log-driver", self.driver, *more, "--name", name, "app", *words)

    def run(self, name: str, *words: str) -> None:
        self.start(name, *words)
        self.engine("wait", name)

    def read(self, name: str, size: int, *options: str) -> None:
        """Through a pipe; the bytes are counted."""
        with subprocess.Popen(self._logs(name, options), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            space, count = bytearray(1 << 20), 0
            while got := process.stdout.readinto(space):  # type: ignore[attr-defined]
                count += got
        if process.returncode or count < size:
            raise Failed(f"logs {' '.join(options)} gave {count} bytes, not {size}")

    def discard(self, name: str, *options: str) -> None:
        subprocess.run(self._logs(name, options), check=True, stdout=subprocess.DEVNULL)

    def follow(self, name: str, size: int, *words: str) -> None:
        self.start(name, *words)
        self.read(name, size, "-f")

    def _logs(self, name: str, options: tuple[str, ...]) -> list[str]:
        return [*self.engine.command, "logs", *options, name]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="what the program writes (default 1000)")
    parser.add_argument("--single", type=int, default=50, help="megabytes in lines of one write each (default 50)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each form has its turn (default 3)")
    parser.add_argument("--engines", default="lamina,podman,docker")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs use compiled modules, as when installed
    os.environ["PODMAN_IGNORE_CGROUPSV1_WARNING"] = "1"
    adopt()
    with file_system() as place, ExitStack() as stack:
        write_root(place / "root.tar", {"lines": lines()})
        engines = [stack.enter_context(ENGINES[name](place)) for name in options.engines.split(",")]
        forms = [Form(one, driver) for one in engines if one is not None for driver in FORMS[one.name]]
        found: Found = {}
        for number in range(options.rounds):
            for form in forms:
                for what, values in measured(form, number, options.megabytes, options.single):
                    found.setdefault((what, form.name), []).append(values)
        report(found, forms)
        unmount_below(place)
    return 0


def lines() -> bytes:
    """A block of different lines, with what the forms must escape in some of them."""
    text = []
    for number in range(BLOCK // LINE):
        quote = '"' if number % 10 == 0 else "'"
        item = number * 7919 % 10007
        text.append(f"{number:08d} GET /api/v1/items/{item} agent={quote}probe{quote} took {number % 997} us ")
    return "".join(f"{line:-<{LINE - 1}.{LINE - 1}}\n" for line in text).encode()


def measured(form: Form, number: int, megabytes: int, single: int) -> Iterator[tuple[str, Spent | str]]:
    """What was measured, and what it took, or why it failed."""
    name, size = f"log{number}", megabytes * 1_000_000
    blocks = " ".join(["/lines"] * -(-size // BLOCK))
    words = ("sh", "-c", f"cat {blocks}")
    size = -(-size // BLOCK) * BLOCK

    def note(what: str, work: Callable[..., object], *given: object) -> tuple[str, Spent | str]:
        os.sync()
        tops = {os.getpid(), *form.engine.base}
        reap()
        before = processor_time(tops)
        try:
            seconds = timed(work, *given)
        except Failed as error:
            return what, str(error)
        reap()
        return what, (seconds, processor_time(tops) - before)

    yield note("run -d, wait", form.run, name, *words)
    yield note("logs, to /dev/null", form.discard, name)
    yield note("logs, to a pipe", form.read, name, size)
    yield note("logs -t, to a pipe", form.read, name, size, "-t")
    yield note("logs --tail 10, to a pipe", form.read, name, 10 * LINE, "--tail", "10")
    form.engine.remove(name)
    yield note("run -d, logs -f to a pipe", form.follow, name, size, *words)
    form.engine.remove(name)
    if single:
        count = single * 1_000_000
        words = ("sh", "-c", f"cat {' '.join(['/lines'] * -(-count // BLOCK))} | dd bs={LINE} 2>/dev/null")
        yield note("run -d, wait: a write for each line", form.run, name, *words)
        form.engine.remove(name)


def report(found: Found, forms: list[Form]) -> None:
    for what in dict.fromkeys(what for what, _ in found):
        print(f"\n{what}")
        for form in forms:
            spent = [one for one in found[what, form.name] if not isinstance(one, str)]
            if not spent:
                print(f"  {form.name:<20}fails: {found[what, form.name][-1]}")
                continue
            seconds, processor = zip(*spent, strict=True)
            shown = f"{statistics.median(seconds):>8.2f} s ({min(seconds):.2f}-{max(seconds):.2f})"
            ratios = []
            for other in forms:
                if form.engine.name != "lamina" or other.engine.name == "lamina" or other.driver != form.driver:
                    continue
                theirs = [one[0] for one in found[what, other.name] if not isinstance(one, str)]
                if theirs:
                    ratios.append(f"{min(theirs) / min(seconds):.2f}x of {other.engine.name}")
            print(f"  {form.name:<20}{shown:<28}processor {min(processor):>6.2f} s  {', '.join(ratios)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
