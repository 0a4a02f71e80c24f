"""What `run --rm IMAGE true` takes by lamina, podman and docker, in turn, with ratios.

    python bench/starting.py [--rounds 20] [--podman PROGRAM]

As root, on a journaled ext4 of its own (see ground.py). The image is one static program (busybox). All three use the
same runc and no network (`--network none`); lamina and podman also as they are by default. docker needs dockerd
beside its client; its daemon runs already when the clock starts. A peer that is not here gets a line that says so.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engines import environment, version
from ground import LAMINA, file_system, unmount_below
from meter import Bill, Clock, Failed, Runner, Series, adopt, daemon, in_turn, note, run
from report import unmeasured, within

ASKED = {"podman": 0.65, "docker": 0.4}
WORDS = ["run", "--rm", "--network", "none"]
PROGRAM = ["start:1", "true"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="turns of each (default 20)")
    parser.add_argument("--podman", default=shutil.which("podman") or "", help="the podman that is measured")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs use compiled modules, as when installed
    adopt()
    with file_system() as place, ExitStack() as open_:
        ready = place / "ready"
        ready.mkdir()
        archive = ready / "image.tar"
        words = [*LAMINA, "--root", str(ready / "lamina")]
        prepare(words, archive)
        runners = {"lamina": timed("lamina", [*words, *WORDS, *PROGRAM])}
        runners["podman"] = podman(options.podman, ready, archive, WORDS)
        runners["docker"] = open_.enter_context(docker(ready, archive))
        runners["lamina, its network"] = timed("lamina, its network", [*words, "run", "--rm", *PROGRAM])
        runners["podman, its network"] = podman(
            options.podman, ready, archive, ["run", "--rm"], "podman, its network"
        )
        for one in runners.values():  # what is made once is made
            if not one.missing:
                try:
                    one.turn(ready, Clock(False))
                except Failed as error:
                    note(f"{one.name}: {error}")
        found = dict(zip(runners, in_turn("start", list(runners.values()), options.rounds, place), strict=True))
        unmount_below(place)
    print("\n".join(lines(found)))
    return 0


def lines(found: dict[str, Series]) -> Iterator[str]:
    """What was measured, and the ratios that are asked for."""
    yield f"{'':22} {'median':>8} {'least':>8} {'most':>8} {'CPU':>8}   ms"
    for one in found.values():
        if one.complete:
            figures = (one.median, min(one.seconds), max(one.seconds), sum(one.cpu) / len(one.cpu))
            yield f"{one.name:22} " + " ".join(f"{1e3 * figure:8.0f}" for figure in figures) + f"   {one.detail}"
        else:
            yield f"{one.name:22} {unmeasured(one)}"
    pairs = [("lamina", peer, asked) for peer, asked in ASKED.items()]
    pairs.append(("lamina, its network", "podman, its network", ASKED["podman"]))
    for ours, peer, asked in pairs:
        told = within(f"{ours} / {peer}", asked, found[ours], found[peer])
        word = {True: "reached", False: "NOT reached", None: "not measured"}[told.reached]
        yield f"{told.measure}: {told.measured}, asked {told.asked}: {word}"


def prepare(words: list[str], archive: Path) -> None:
    """The image start:1 in lamina's store, and as an archive for the others."""
    program = shutil.which("busybox")
    if program is None:
        raise SystemExit("busybox (static) is not installed")
    tree = archive.with_name("tree.tar")
    with tarfile.open(tree, "w") as tar:
        tar.add(program, "bin/busybox")
        for name in ("bin/true", "bin/sh"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
        passwd = tarfile.TarInfo("etc/passwd")
        passwd.size = len(b"root:x:0:0::/:/bin/true\n")
        tar.addfile(passwd, io.BytesIO(b"root:x:0:0::/:/bin/true\n"))
    run([*words, "import", str(tree), PROGRAM[0]])
    run([*words, "save", "-q", "-o", str(archive), PROGRAM[0]])


def timed(name: str, words: list[str], env: dict[str, str] | None = None, detail: str = "") -> Runner:
    """A runner of one command, whose whole wall time counts. Nothing is synced first: nothing is written."""

    def turn(_: Path, clock: Clock) -> None:
        clock.bill, began = Bill(), time.monotonic()
        clock.bill.run(words, env=env)
        clock.seconds = time.monotonic() - began

    return Runner(name, detail, turn)


def podman(program: str, ready: Path, archive: Path, words: list[str], name: str = "podman") -> Runner:
    if not program:
        return Runner(name, "", lambda directory, clock: None, "not here")
    store = ready / "podman"
    store.mkdir(exist_ok=True)
    settings = store / "containers.conf"
    settings.write_text('[engine]\nlock_type = "file"\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\n')
    env = environment(store) | {"CONTAINERS_CONF": str(settings)}
    command = [program, "--root", str(store / "storage"), "--runroot", str(store / "state"),
               "--tmpdir", str(store / "libpod"), "--storage-driver", "overlay"]  # fmt: skip
    if runc := shutil.which("runc"):
        command += ["--runtime", runc]
    try:
        run([*command, "load", "-q", "-i", str(archive)], env=env)
    except Failed as error:
        return Runner(name, "", lambda directory, clock: None, str(error))
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]  # more is not allowed everywhere
    return timed(name, [*command, *words, *limits, *PROGRAM], env, version(program))


@contextmanager
def docker(ready: Path, archive: Path) -> Iterator[Runner]:
    """docker's client, beside a daemon of its own."""
    absent = [name for name in ("docker", "dockerd") if shutil.which(name) is None]
    if absent:
        yield Runner("docker", "", lambda directory, clock: None, f"not here: {', '.join(absent)}")
        return
    store = ready / "docker"
    store.mkdir()
    env = environment(store) | {"DOCKER_CONFIG": str(store)}
    address = f"unix://{store}/sock"
    server = ["dockerd", "--host", address, "--data-root", str(store / "data"), "--exec-root", str(store / "exec"),
              "--pidfile", str(store / "pid"), "--bridge", "none", "--iptables=false",
              "--storage-driver", "overlay2"]  # fmt: skip
    client = ["docker", "--host", address]
    with daemon(server, env, store / "log"):
        for _ in range(400):
            try:
                told = json.loads(run([*client, "version", "--format", "{{json .}}"], env=env))
                break
            except Failed:
                time.sleep(0.05)
        else:
            log = (store / "log").read_text(errors="replace").splitlines()
            raise SystemExit(f"dockerd does not start: {(log or [''])[-1]:.300}")
        run([*client, "load", "-q", "-i", str(archive)], env=env)
        detail = f"{told['Server']['Version']}, client {told['Client']['Version']}"
        yield timed("docker", [*client, *WORDS, *PROGRAM], env, detail)
    unmount_below(store)


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("this needs root")
    raise SystemExit(main())
