"""What builds take by lamina, BuildKit and buildah, in turn, with ratios.

    python bench/build.py [--rounds 5] [--only copy,cached,runs,changed]

As root, on a journaled ext4 of its own (see ground.py). The base is one static program (busybox). buildkitd and
buildctl are those of LAMINA_PEERS (tests/peers.sh) or of PATH. The daemon runs already when the clock starts, and it
makes an image in its content store (`--output type=image`), as lamina and buildah make one in theirs. buildah runs
with its cache (`--layers`) and with runc (`--isolation oci`). A peer that is not here gets a line that says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from engines import environment, version
from ground import LAMINA, file_system, unmount_below
from meter import Bill, Clock, Failed, Runner, Series, adopt, daemon, in_turn, note, run, spent
from report import Verdict, faster, unmeasured, within
from starting import prepare

Build = Callable[[Bill, Path], None]
"""Build the context in this directory."""
Opened = Callable[[Path], AbstractContextManager[Build]]
"""Make a store ready in an empty directory."""
PEAK = 150_000_000
FILES, MANY = 10_000, 50_000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--only", default=",".join(MEASURES), help="comma-separated: " + ", ".join(MEASURES))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs use compiled modules, as when installed
    adopt()
    with file_system() as place:
        ready = place / "ready"
        ready.mkdir()
        words = [*LAMINA, "--root", str(ready / "lamina")]
        prepare(words, ready / "image.tar")
        run([*words, "save", "-q", "--type", "oci-dir", "-o", str(ready / "layout"), "start:1"])
        engines = [lamina(ready), buildkit(ready), buildah(ready)]
        verdicts: list[Verdict] = []
        for name in options.only.split(","):
            verdicts += MEASURES[name](ready, engines, options.rounds, place)
        unmount_below(place)
    for told in verdicts:
        word = {True: "reached", False: "NOT reached", None: "not measured"}[told.reached]
        print(f"{told.measure}: {told.measured}, asked {told.asked}: {word}")
    return 0


class Engine:
    """``missing``: why it can't build."""

    def __init__(self, name: str, detail: str, opened: Opened, missing: str = "") -> None:
        self.name, self.detail, self.opened, self.missing = name, detail, opened, missing

    def runner(self, context: Path, before: Callable[[], None] | None = None) -> Runner:
        """One build; with ``before`` the one after a first build and that."""

        def turn(store: Path, clock: Clock) -> None:
            with self.opened(store) as build:
                if before is not None:
                    build(Bill(), context)
                    before()
                bill = clock.start()
                build(bill, context)
                clock.stop()

        return Runner(self.name, self.detail, turn, self.missing)


def measured(
    title: str,
    context: Path,
    engines: list[Engine],
    rounds: int,
    place: Path,
    before: Callable[[], None] | None = None,
) -> list[Series]:
    found = in_turn(title, [one.runner(context, before) for one in engines], rounds, place)
    print(f"{title:22} {'median':>8} {'least':>8} {'most':>8} {'CPU':>8} {'peak':>8}   ms, MB")
    for one in found:
        if one.complete:
            figures = [
                1e3 * part for part in (one.median, min(one.seconds), max(one.seconds), sum(one.cpu) / len(one.cpu))
            ]
            figures.append(one.peak / 1e6)
            print(f"{one.name:22} " + " ".join(f"{figure:8.0f}" for figure in figures) + f"   {one.detail}")
        else:
            print(f"{one.name:22} {unmeasured(one)}")
    return found


def copy(ready: Path, engines: list[Engine], rounds: int, place: Path) -> list[Verdict]:
    context = written(ready / "copy", "COPY . /srv/\n", FILES)
    ours, kit, other = measured("copy 10,000 files", context, engines, rounds, place)
    return [
        faster("COPY of 10,000 files", 4, other, ours),
        faster("COPY of 10,000 files", 1.2, kit, ours),
        _memory("COPY of 10,000 files", ours),
    ]


def cached(ready: Path, engines: list[Engine], rounds: int, place: Path) -> list[Verdict]:
    steps = [f"ENV N{number}=1" if number % 4 else f"COPY f/{number} /srv/{number}" for number in range(10)]
    steps += [f"RUN echo {number} >/out{number}" for number in range(10)]
    context = written(ready / "cached", "".join(f"{step}\n" for step in steps), 10)
    ours, kit, _ = measured("20 steps, cached", context, engines, rounds, place, lambda: None)
    return [
        _least("20 steps, all cached", 0.35, ours),
        within("20 steps, all cached, lamina / BuildKit", 0.5, ours, kit),
    ]


def runs(ready: Path, engines: list[Engine], rounds: int, place: Path) -> list[Verdict]:
    context = written(ready / "runs", "RUN true\n" * 10, 0)
    ours, kit, other = measured("10 times RUN true", context, engines, rounds, place)
    return [
        within("ten RUN steps of true, lamina / buildah", 0.5, ours, other),
        within("ten RUN steps of true, lamina / BuildKit", 1, ours, kit),
    ]


def changed(ready: Path, engines: list[Engine], rounds: int, place: Path) -> list[Verdict]:
    context = written(ready / "changed", "COPY . /srv/\nRUN true\n", MANY)

    def change() -> None:
        (context / "f/777").write_text(f"changed at {time.time()}\n")

    ours, *_ = measured("one of 50,000 changed", context, engines, rounds, place, change)
    return [_least("rebuild after one of 50,000 files changed", 1.5, ours), _memory("the same", ours)]


def _least(measure: str, asked: float, ours: Series) -> Verdict:
    if wrong := unmeasured(ours):
        return Verdict(measure, f"at most {asked} s", wrong, None)
    return Verdict(measure, f"at most {asked} s", f"{ours.median:.2f} s", ours.median <= asked)


def _memory(measure: str, ours: Series) -> Verdict:
    if wrong := unmeasured(ours):
        return Verdict(f"{measure}: peak memory", "at most 150 MB", wrong, None)
    return Verdict(f"{measure}: peak memory", "at most 150 MB", f"{ours.peak / 1e6:.0f} MB", ours.peak <= PEAK)


MEASURES = {"copy": copy, "cached": cached, "runs": runs, "changed": changed}


def written(context: Path, steps: str, files: int) -> Path:
    """A context with a Dockerfile and files of 100 bytes to 8 KB, a thousand in ``f``, a hundred in others."""
    (context / "f").mkdir(parents=True)
    (context / "Dockerfile").write_text(f"FROM base\n{steps}")
    for number in range(files):
        directory = context / "f" if number < 1000 else context / f"d{number // 100}"
        directory.mkdir(exist_ok=True)
        (directory / str(number)).write_bytes(b"%d\n" % number * (20 + number * 7919 % 1300))
    return context


def lamina(ready: Path) -> Engine:
    @contextmanager
    def opened(store: Path) -> Iterator[Build]:
        words = [*LAMINA, "--root", str(store / "lamina")]
        run([*words, "copy", "-q", f"oci:{ready / 'layout'}", "base"])

        def build(bill: Bill, context: Path) -> None:
            bill.run([*words, "build", "-q", "-t", "made", str(context)])

        yield build

    return Engine("lamina", "", opened)


def buildkit(ready: Path) -> Engine:
    directory = Path(os.environ.get("LAMINA_PEERS", Path.home() / ".cache/lamina-peers")) / "bin"
    path = f"{directory}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    server, client = shutil.which("buildkitd", path=path), shutil.which("buildctl", path=path)
    if server is None or client is None:
        return Engine("BuildKit", "", _nothing, "not here: buildkitd, buildctl")
    layout = ready / "layout"
    digest = run([*LAMINA, "--root", str(ready / "lamina"), "inspect", "--format", "{{.Digest}}", "start:1"]).strip()

    @contextmanager
    def opened(store: Path) -> Iterator[Build]:
        env = environment(store)
        address = f"unix://{store}/socket"
        words = [server, "--root", f"{store}/root", "--addr", address, "--config", "/dev/null", "--oci-worker=true",
                 "--containerd-worker=false", "--oci-worker-binary", "runc", "--oci-worker-net", "host"]  # fmt: skip
        call = [client, "--addr", address]
        with daemon(words, env, store / "log") as pid:
            _await(lambda: run([*call, "debug", "workers"], env=env), store / "log")

            def build(bill: Bill, context: Path) -> None:
                before, _ = spent(pid)
                bill.run([*call, "build", "--progress", "plain", "--frontend", "dockerfile.v0",
                          "--local", f"context={context}", "--local", f"dockerfile={context}",
                          "--oci-layout", f"base={layout}", "--opt", f"context:base=oci-layout://base@{digest}",
                          "--output", "type=image,name=made"], env=env)  # fmt: skip
                cpu, peak = spent(pid)
                bill.cpu += cpu - before
                bill.peak = max(bill.peak, peak)

            try:
                yield build
            finally:
                unmount_below(store)

    return Engine("BuildKit", f"{version(server)}, overlayfs", opened)


def buildah(ready: Path) -> Engine:
    program = shutil.which("buildah")
    if program is None:
        return Engine("buildah", "", _nothing, "not here")

    @contextmanager
    def opened(store: Path) -> Iterator[Build]:
        settings, policy = store / "containers.conf", store / "policy.json"
        settings.write_text('[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        env = environment(store) | {"CONTAINERS_CONF": str(settings), "BUILDAH_RUNTIME": "runc"}
        call = [program, "--root", str(store / "r"), "--runroot", str(store / "x"), "--storage-driver", "overlay"]
        rules = ["--signature-policy", str(policy)]
        made = run([*call, "pull", "-q", *rules, f"oci:{ready / 'layout'}"], env=env).split()[-1]
        run([*call, "tag", made, "localhost/base:latest"], env=env)

        def build(bill: Bill, context: Path) -> None:
            how = ["-q", "--layers", "--pull-never", "--isolation", "oci", "--network", "host"]
            bill.run([*call, "bud", *how, *rules, "-t", "made", str(context)], env=env)

        try:
            yield build
        finally:
            unmount_below(store)

    return Engine("buildah", f"{version(program)}, overlay", opened)


@contextmanager
def _nothing(_: Path) -> Iterator[Build]:
    yield lambda bill, context: None


def _await(ask: Callable[[], object], log: Path) -> None:
    for _ in range(400):
        try:
            ask()
            return
        except Failed:
            time.sleep(0.05)
    lines = log.read_text(errors="replace").splitlines()
    note(f"{log}: {(lines or [''])[-1]:.300}")
    raise Failed("the daemon does not start")


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("this needs root")
    raise SystemExit(main())
