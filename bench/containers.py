"""Containers in the background by lamina, podman and docker, in turn: start, stop, remove, and what stays in memory.

    python bench/containers.py [--count 50] [--idle 50,100] [--rounds 3] [--engines lamina,podman,docker]

As root, on a journaled ext4 of its own (ground.py). The image is one static program (busybox); containers have no
network. podman is that of LAMINA_PEERS (tests/peers.sh) or of PATH, with conmon and runc; dockerd and docker are
those of PATH, and the daemon runs already. A peer that is not here gets a line that says so.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from engines import Peers
from ground import LAMINA, file_system, quiet, unmount_below
from meter import adopt, daemon

AT_ONCE = 8
WORDS = ("sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 3600 & wait $!; done")


class Engine:
    """``command``: the words before a verb. ``base``: processes that it always needs."""

    def __init__(self, name: str, command: Sequence[str], *, base: Sequence[int] = ()) -> None:
        self.name, self.command, self.base = name, list(command), set(base)

    def __call__(self, *words: str) -> None:
        quiet(*self.command, *words)

    def start(self, name: str) -> None:
        self("run", "-d", "--network", "none", "--name", name, "app", *WORDS)

    def remove(self, name: str) -> None:
        self("rm", "-f", name)


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


def timed(work: Callable[..., object], *given: object) -> float:
    begin = time.perf_counter()
    work(*given)
    return time.perf_counter() - begin


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def in_container(pid: int) -> bool:
    """Whether a process is the container's own: its first one's root is no longer the host's."""
    try:
        return os.path.exists(f"/proc/{pid}/root/.bench")
    except OSError:
        return True


def proportional(pid: int) -> int:
    """Bytes of memory, those that several processes share in parts."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def descendants(tops: set[int]) -> set[int]:
    """These processes and what they started, without the containers' own. We are a subreaper (``adopt``): what a
    command left running is ours."""
    parents = {}
    for pid in pids():
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text()
            parents[pid] = int(fields.rpartition(")")[2].split()[1])
    found = set(tops)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid for pid in found if pid in parents and not in_container(pid)}


# -- engines


def write_root(path: Path) -> None:
    shell = shutil.which("busybox")
    if shell is None:
        sys.exit("busybox is not installed")
    data = Path(shell).read_bytes()
    with tarfile.open(path, "w") as tar:
        for name in ("bin/sh", "bin/sleep", "bin/echo", "bin/true"):
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(data)
            tar.addfile(info, io.BytesIO(data))
        tar.addfile(tarfile.TarInfo(".bench"))


@contextmanager
def lamina(place: Path) -> Iterator[Engine]:
    engine = Engine("lamina", [*LAMINA, "--root", str(place / "lamina")])
    engine("import", str(place / "root.tar"), "app")
    yield engine


@contextmanager
def podman(place: Path) -> Iterator[Engine | None]:
    peers = os.environ.get("LAMINA_PEERS", Path.home() / ".cache/lamina-peers")
    program = Peers(Path(peers)).newer("podman") or shutil.which("podman")
    if program is None:
        print("podman: not here")
        yield None
        return
    options = ["--root", str(place / "podman"), "--runroot", str(place / "prun"), "--storage-driver", "overlay"]
    engine = Engine("podman", [program, *options, "--runtime", "runc", "--cgroup-manager", "cgroupfs"])
    engine("import", "-q", str(place / "root.tar"), "app")
    yield engine


@contextmanager
def docker(place: Path) -> Iterator[Engine | None]:
    client = shutil.which("docker", path=f"/usr/bin:{os.environ.get('PATH', os.defpath)}")  # Debian's, of one age
    if client is None or shutil.which("dockerd") is None:
        print("docker: not here")
        yield None
        return
    address = f"unix://{place}/docker.sock"
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd", "--host", address]
    words += ["--data-root", f"{place}/docker", "--exec-root", f"{place}/dexec", "--pidfile", f"{place}/docker.pid"]
    words += ["--bridge", "none", "--iptables=false", "--log-level", "warn"]
    with daemon(words, os.environ, place / "docker.log") as pid:
        engine = Engine("docker", [client, "--host", address], base=[pid])
        end = time.monotonic() + 60
        while subprocess.run([*engine.command, "version"], capture_output=True, check=False).returncode:
            if time.monotonic() > end:
                raise SystemExit(f"dockerd did not start: see {place}/docker.log")
            time.sleep(0.1)
        engine("import", str(place / "root.tar"), "app")
        yield engine


ENGINES = {"lamina": lamina, "podman": podman, "docker": docker}


if __name__ == "__main__":
    sys.exit(main())
