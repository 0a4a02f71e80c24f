"""A soak of containers (`make soak`): commands at random, several at once, some of them and some monitors killed by
SIGKILL; and then nothing may be left.

    python tests/soak_containers.py [--seconds 600] [--containers 200] [--processes 8] [--seed N]

Containers start, write a log of 10 MB, are executed in, stopped, restarted, paused and removed. In the end `ps` must
tell the truth about each process; after `rm --all --force` no process, mount, cgroup, runtime's state, namespace,
interface or port is left, and the store is whole. Root, loopback only.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from support import busybox, lamina, write_layout

LINES = 160_000
"""Lines of 63 bytes that a container writes into its log: 10 MB."""
LINE = re.compile(rb"ready|TERM|end|line x{57}|line (x{57})?")
_PROGRAMS = {
    "live": 'trap "echo TERM; exit 3" TERM\necho ready\nwhile :; do sleep 0.2; done\n',
    "writes": f'yes "line {"x" * 57}" | head -n $((${{1:-{LINES}}})); echo end\n',
    "short": "echo ready; sleep 0.1; exit ${1:-0}\n",
    "deaf": 'trap "" TERM\necho ready\nwhile :; do sleep 0.2; done\n',
}
_APPLETS = "sh echo sleep yes head true cat kill touch wc"
_EXPECTED = {0, 3, 4, 5, 125, 126, 127, 137, 143}
"""Exit codes that commands may have that meet others' work: not found, a conflict, a program that was killed."""
_PATIENCE = 120  # seconds that a command may take


@dataclass
class Report:
    """``wrong``: what must not be, in words."""

    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    identities: set[str] = field(default_factory=set)
    monitors_killed: int = 0

    def __str__(self) -> str:
        lines = [
            f"{sum(self.done.values())} commands: " + ", ".join(f"{k} {n}" for k, n in sorted(self.done.items()))
        ]
        lines.append("exit codes: " + ", ".join(f"{k} {n}" for k, n in sorted(self.codes.items())))
        lines.append(f"{len(self.identities)} containers; {self.monitors_killed} monitors killed")
        return "\n".join([*lines, *(f"WRONG: {one}" for one in self.wrong), "" if self.wrong else "nothing is left"])


class Soak:
    """``mark``: a word that is in the names and in the environment of all containers of this soak."""

    def __init__(self, top: Path, *, seconds: float, containers: int, processes: int, seed: int, ports: bool) -> None:
        self.root = top / "store"
        self.seconds, self.slots, self.processes, self.seed, self.ports = seconds, containers, processes, seed, ports
        self.mark = f"soak{os.getpid()}"
        self.report = Report()
        self._lock = threading.Lock()
        self._before = outside()
        self._environment = {**os.environ, "LAMINA_ROOT": str(self.root), "PYTHONWARNINGS": "error"}
        layer = [
            ("bin/", None),
            ("bin/busybox", busybox(), {"mode": 0o755}),
            *((f"bin/{name}", "-> busybox") for name in _APPLETS.split()),
            *((f"bin/{name}", b"#!/bin/sh\n" + text.encode(), {"mode": 0o755}) for name, text in _PROGRAMS.items()),
            ("tmp/", None),
        ]
        write_layout(top / "layout", "app", [layer])
        assert lamina("load", "-q", "-i", str(top / "layout"), root=self.root).returncode == 0

    def run(self) -> Report:
        end = time.monotonic() + self.seconds
        threads = [threading.Thread(target=self._work, args=(number, end)) for number in range(self.processes)]
        threads += [threading.Thread(target=work, args=(end,)) for work in (self._kill_monitors, self._look)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._check_truth()
        self._check_logs()
        self._check_nothing_left()
        return self.report

    # -- the storm

    def _work(self, number: int, end: float) -> None:
        chance = random.Random(self.seed * 1000 + number)
        while time.monotonic() < end:
            name = f"{self.mark}-{chance.randrange(self.slots)}"
            verb = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            words = self._words(verb, name, chance)
            self._command(verb, words, chance.uniform(0, 0.4) if chance.random() < 0.08 else None)

    def _words(self, verb: str, name: str, chance: random.Random) -> list[str]:
        if verb in ("run", "create"):
            flags = ["-d"] if verb == "run" else []
            flags += chance.choice([[], [], ["--rm"], ["--restart", "always"], ["--restart", "on-failure:3"]])
            published = self.ports and chance.random() < 0.1
            flags += ["-p", "127.0.0.1::80"] if published else ["--network", "none"]
            flags += ["-v", "/data"] if chance.random() < 0.2 else []
            program = chance.choice(["live", "live", "live", "writes", "writes 1000", "short", "short 2", "deaf"])
            return [verb, *flags, "--name", name, "-e", f"SOAK={name}", "app", *program.split()]
        flags = {
            "stop": ["-t", str(chance.choice([0, 1]))],
            "restart": ["-t", "0"],
            "rm": ["-f", "-v"],
            "logs": ["--tail", str(chance.choice([1, 100, 10**9]))],
            "kill": chance.choice([[], ["-s", "TERM"], ["-s", "HUP"]]),
        }.get(verb, [])
        if verb == "exec":
            return [
                "exec",
                name,
                "sh",
                "-c",
                chance.choice(["true", "cat /proc/self/stat", "echo x >/tmp/f", "exit 4"]),
            ]
        if verb == "exec -d":
            return ["exec", "-d", name, "sleep", "30"]
        if verb == "ps":
            return ["ps", "-a", "-q"]
        return [verb, *flags, name]

    def _command(self, verb: str, words: list[str], kill_after: float | None) -> None:
        """Run a command, which may be killed meanwhile, and judge its end."""
        with subprocess.Popen(
            [sys.executable, "-m", "lamina", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if verb == "run" else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment,
        ) as process:
            try:
                out, error = process.communicate(timeout=_PATIENCE if kill_after is None else kill_after)
            except subprocess.TimeoutExpired:
                process.kill()
                out, error = process.communicate()
                if kill_after is None:
                    self._wrong(f"{' '.join(words)} did not end in {_PATIENCE} s: {error!r:.300}")
                    return
        with self._lock:
            self.report.done[verb] += 1
            self.report.codes[f"{verb}:{process.returncode}"] += 1
            self.report.identities |= {word for word in (out or b"").decode().split() if len(word) == 64}
        if process.returncode == -signal.SIGKILL and kill_after is not None:
            return
        if process.returncode == 6 and b"ended before the program started" in error:
            return  # its monitor was killed
        if process.returncode == 1 and verb == "logs" and b"has no log" in error:
            return  # with --rm, and not started yet: as one that runs in front
        if process.returncode not in _EXPECTED or b"Traceback" in error:
            self._wrong(
                f"{' '.join(words)}: exit code {process.returncode}: {error.decode(errors='replace')[-1500:]}"
            )

    def _wrong(self, what: str) -> None:
        with self._lock:
            self.report.wrong.append(what)

    def _kill_monitors(self, end: float) -> None:
        chance = random.Random(self.seed)
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.2, 2))
            found = list(self._monitors())
            if found:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(found), signal.SIGKILL)
                    self.report.monitors_killed += 1

    def _look(self, end: float) -> None:
        """Learn which containers there are: the ids of those that a killed command made are printed nowhere."""
        while time.monotonic() < end:
            with suppress(OSError):
                self.report.identities |= {name[:16] for name in os.listdir(self.root / "containers")}
            time.sleep(0.05)

    # -- what there must be

    def _monitors(self) -> Iterator[int]:
        for pid, words, _ in processes():
            if b"lamina-monitor" in words and self.mark.encode() in words:
                yield pid

    def _programs(self) -> dict[int, str]:
        """The processes of containers, and the container of each."""
        found = {}
        for pid, _, environment in processes():
            match = re.search(rb"(?:^|\0)SOAK=(%s-\d+)\0" % self.mark.encode(), environment)
            if match:
                found[pid] = match[1].decode()
        return found

    def _lamina(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        done = lamina(*words, root=self.root)
        if done.returncode or b"Traceback" in done.stderr:
            self._wrong(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr.decode()[-1500:]}")
        return done

    def _shown(self) -> dict[str, str]:
        done = self._lamina("ps", "-a", "--format", "{{.Names}} {{.State}}")
        return dict(line.split() for line in done.stdout.decode().splitlines())

    def _check_truth(self) -> None:
        """What `ps` says is what runs."""
        for _ in range(50):  # between the look at the one and the look at the other, containers end
            before, states, after = self._programs(), self._shown(), self._programs()
            unknown = set(before.values()) & set(after.values()) - {
                name for name, state in states.items() if state in ("running", "paused", "restarting")
            }
            dead = (
                {name for name, state in states.items() if state in ("running", "paused")}
                - set(before.values())
                - set(after.values())
            )
            if not unknown and not dead:
                return
            time.sleep(0.2)
        if unknown:
            self._wrong(
                f"these have processes, but do not run by `ps`: {sorted((n, states.get(n)) for n in unknown)}"
            )
        if dead:
            self._wrong(f"these run by `ps`, but have no process: {sorted(dead)}")

    def _check_logs(self) -> None:
        """Logs consist of the lines that were written; a killed monitor may have cut one."""
        broken = 0
        for name in self._shown():
            done = lamina("logs", name, root=self.root)
            if done.returncode not in (0, 3):  # it may be gone
                self._wrong(f"logs {name}: exit code {done.returncode}: {done.stderr.decode()[-500:]}")
            broken += sum(not LINE.fullmatch(line) for line in done.stdout.splitlines())
        cutting = sum(self.report.done[verb] for verb in ("kill", "stop", "restart", "rm"))
        if broken > self.report.monitors_killed + cutting:
            self._wrong(f"{broken} lines of logs are none that a container has written")

    def _check_nothing_left(self) -> None:
        self._lamina("rm", "--all", "--force", "--volumes")
        end = time.monotonic() + 10
        while time.monotonic() < end and (left := self._left()):
            time.sleep(0.2)
        for what in left:
            self._wrong(f"left after rm --all --force: {what}")
        done = self._lamina("fsck")
        if done.returncode:
            self._wrong(f"fsck: {done.stdout.decode()[-1000:]}")

    def _left(self) -> list[str]:
        found = [f"the container {name} {state}" for name, state in self._shown().items()]
        found += [f"the process {pid} of {name}" for pid, name in self._programs().items()]
        found += [f"the monitor {pid}" for pid in self._monitors()]
        found += [f"containers/{name}" for name in os.listdir(self.root / "containers")]
        volumes = self.root / "volumes"
        found += [f"volumes/{name}" for name in (os.listdir(volumes) if volumes.is_dir() else ())]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"the mount {line.split()[4]}" for line in mounts if str(self.root) in line.split()[4]]
        known = {one[:16] for one in self.report.identities}
        found += [path for path in outside() - self._before if any(one in path for one in known)]
        for pid, words, _ in processes():
            if any(one.encode() in words for one in known) or str(self.root).encode() + b"/containers" in words:
                found.append(f"the process {pid}: {words!r:.200}")
        return found


_WEIGHTS = {
    "run": 20,
    "create": 4,
    "start": 8,
    "stop": 8,
    "restart": 6,
    "kill": 6,
    "rm": 10,
    "exec": 10,
    "exec -d": 3,
    "logs": 6,
    "inspect": 3,
    "pause": 2,
    "unpause": 4,
    "ps": 3,
}


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


def processes() -> Iterator[tuple[int, bytes, bytes]]:
    """The pid, the words and the environment of each process."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                directory = f"/proc/{name}"
                with open(f"{directory}/cmdline", "rb") as words, open(f"{directory}/environ", "rb") as environment:
                    yield int(name), words.read(), environment.read()


def outside() -> set[str]:
    """What containers have outside of their store: cgroups, states of runtimes, files in /run, interfaces, network
    namespaces."""
    found = set()
    for top in ("/sys/fs/cgroup", "/run/lamina-runtime", "/run/netns", "/run/lamina", "/run/lamina-networks"):
        for directory, names, _ in os.walk(top):
            found |= {os.path.join(directory, name) for name in names}
    found |= {os.path.join("/run", name) for name in os.listdir("/run")}
    with suppress(OSError):
        found |= {f"the interface {name}" for name in os.listdir("/sys/class/net")}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--containers", type=int, default=200, help="how many names there are (default 200)")
    parser.add_argument("--processes", type=int, default=8, help="how many commands at once (default 8)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--no-ports", action="store_true", help="publish no ports")
    options = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="lamina-soak-"))
    print(f"seed {options.seed}, in {top}", flush=True)
    soak = Soak(
        top,
        seconds=options.seconds,
        containers=options.containers,
        processes=options.processes,
        seed=options.seed,
        ports=not options.no_ports,
    )
    report = soak.run()
    print(report)
    if not report.wrong:
        shutil.rmtree(top, ignore_errors=True)
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main())
