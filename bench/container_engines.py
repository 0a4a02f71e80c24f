"""Lamina, podman and docker as engines of containers that live in the background, each with a store of its own, and
what their processes use. The image ``app`` is one static program (busybox).
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from engines import Peers
from ground import LAMINA, quiet
from meter import CLOCK, daemon

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


def reap() -> None:
    """Wait for what our programs left and what has ended since (``adopt``). No other child may run."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def processor_time(tops: set[int]) -> float:
    """Seconds of these processes, of what they started, and of those of them that have ended and were waited for."""
    total = 0
    for pid in descendants(tops):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / CLOCK


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


def write_root(path: Path, files: Mapping[str, bytes] = {}) -> None:
    """The root file system of the image, as a tar, with these files more."""
    shell = shutil.which("busybox")
    if shell is None:
        sys.exit("busybox is not installed")
    data = Path(shell).read_bytes()
    with tarfile.open(path, "w") as tar:
        for name in ("bin/sh", "bin/sleep", "bin/echo", "bin/true", "bin/cat", "bin/dd"):
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o644, len(content)
            tar.addfile(info, io.BytesIO(content))
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


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine | None]]] = {
    "lamina": lamina,
    "podman": podman,
    "docker": docker,
}
