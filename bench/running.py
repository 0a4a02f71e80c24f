"""What starting a container costs, and what making an image mountable costs."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from ground import LAMINA
from meter import Clock, Runner, Series, note, run
from report import Section, Verdict, spread, unmeasured
from stage import Bench

ASKED_RUN = 1.5
ASKED_INDEX = {46_000: 1.0, 200_000: 4.0}  # CPU seconds
SHORT = 4  # turns a round, of what takes milliseconds
HERE = Path(__file__).resolve().parent


def runs(bench: Bench) -> list[Section]:
    """`true` in a container of node, against runc on node's files in a directory."""
    runc = shutil.which("runc")
    section = Section("Run `true` in a container of node")
    measure, asked = "`run --rm IMAGE true`, less Python's own start", f"at most {ASKED_RUN}x of bare runc"
    if runc is None:
        section.verdicts.append(Verdict(measure, asked, "runc is not here", None))
        return [section]
    ready = bench.place / "ready"
    (ready / "bundle").mkdir(parents=True)
    words = [*LAMINA, "--root", str(ready / "lamina")]
    image = bench.image("node")
    run([*words, "pull", "-q", image])
    run([*words, "unpack", image, str(ready / "bundle/rootfs")])
    run([runc, "spec", "--bundle", str(ready / "bundle")])
    config = json.loads((ready / "bundle/config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["true"]}
    (ready / "bundle/config.json").write_text(json.dumps(config))
    filtered(ready / "bundle", ready / "filtered", config)
    container = [*words, "run", "--rm", "--network", "none"]
    bare = [runc, "--root", str(ready / "runc"), "run", "--bundle"]
    runners = [
        command("bare runc", "`runc run` on a prepared directory, as `runc spec` has it: without a seccomp filter",
                [*bare, str(ready / "bundle"), "bench"]),
        command("lamina by runc", "`lamina run --rm --network none --runtime runc`",
                [*container, "--runtime", runc, image, "true"]),
        command("lamina", "`lamina run --rm --network none`, by the runtime that it chooses",
                [*container, image, "true"]),
        command("python", "`python -c pass`", [sys.executable, "-c", "pass"]),
        command("runc with the filter", "the same with the seccomp filter that lamina's containers have",
                [*bare, str(ready / "filtered"), "bench"]),
    ]  # fmt: skip
    for one in runners:  # the layers' EROFS images are made, the programs are in memory
        one.turn(ready, Clock(False))
    section.rows = bench.in_turn("run", runners, SHORT)
    theirs, by_runc, _, python, with_filter = section.rows
    wrong = unmeasured(theirs, by_runc, python)
    if wrong:
        section.verdicts.append(Verdict(measure, asked, wrong, None))
        return [section]
    for ours in section.rows[1:3]:
        if ours.complete:
            section.verdicts.append(less_start(f"{measure}: {ours.name}", asked, ours, python, theirs))
    if with_filter.complete:
        like = less_start("", "", by_runc, python, with_filter)
        section.remarks.append(f"- lamina by runc, against runc with the same filter: {like.measured}")
    return [section]


def filtered(bundle: Path, target: Path, config: dict[str, Any]) -> None:
    """The same bundle, with the filter of a container that nothing special was asked for."""
    from lamina.run.capability import capabilities
    from lamina.run.seccomp import default_profile, seccomp
    from lamina.spec.platform import Platform

    rules = seccomp(default_profile(), capabilities(), Platform.host().architecture)
    target.mkdir()
    changed = config | {
        "root": config["root"] | {"path": str(bundle / "rootfs")},
        "linux": config["linux"] | {"seccomp": rules},
    }
    (target / "config.json").write_text(json.dumps(changed))


def less_start(measure: str, asked: str, ours: Series, python: Series, runc: Series) -> Verdict:
    rounds = zip(ours.seconds, python.seconds, runc.seconds, strict=True)
    each = [(one - start) / bare for one, start, bare in rounds]
    found = (ours.median - python.median) / runc.median
    told = f"{found:.2f}x ({min(each):.2f}-{max(each):.2f}): {ours.median * 1e3:.0f} ms, "
    told += f"runc {runc.median * 1e3:.0f} ms, Python {python.median * 1e3:.0f} ms"
    return Verdict(measure, asked, told, found <= ASKED_RUN)


def command(name: str, detail: str, words: list[str]) -> Runner:
    def turn(_: Path, clock: Clock) -> None:
        bill = clock.start()
        bill.run(words)
        clock.stop()

    return Runner(name, detail, turn)


def index(bench: Bench) -> list[Section]:
    """erofs.py, a process a round: index the tar, merge, write the EROFS image."""
    section = Section("Index, merge and EROFS image of synthetic layers")
    program = HERE / "erofs.py"
    if not program.is_file():
        section.verdicts.append(
            Verdict("index + merge + EROFS", "1.0 s / 4 s CPU", "bench/erofs.py is not here", None)
        )
        return [section]
    ready = bench.place / "ready"
    ready.mkdir()
    for count, asked in ASKED_INDEX.items():
        tar = ready / f"{count}.tar"
        code = f"import sys; from layer_index import synthetic; sys.stdout.buffer.writelines(synthetic({count}))"
        script = f"cd '{HERE}' && '{sys.executable}' -c '{code}' > '{tar}'"
        run(["sh", "-c", script])
        found = [json.loads(run([sys.executable, str(program), "--once", str(tar)])) for _ in range(bench.rounds)]
        spent = [one["index"] + one["merge"] + one["write"] for one in found]
        peak, allowed = max(one["peak"] for one in found), 60e6 + 100 * count
        name = f"index + merge + EROFS, {count:,} entries"
        section.verdicts += [
            Verdict(f"{name}: CPU", f"at most {asked} s", spread(spent, "s"), statistics.median(spent) <= asked),
            Verdict(
                f"{name}: peak memory", f"at most {allowed / 1e6:.1f} MB", f"{peak / 1e6:.1f} MB", peak <= allowed
            ),
        ]
        section.remarks.append(f"- {count:,}: " + ", ".join(
            f"{part} {statistics.median(one[part] for one in found):.3f} s" for part in ("index", "merge", "write")
        ))  # fmt: skip
        note(f"index, {count}: {spread(spent, 's')} CPU, peak {peak / 1e6:.1f} MB")
    return [section]
