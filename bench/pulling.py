"""Pull to something that can be read, as root and as a plain user, against every peer."""

from __future__ import annotations

import pwd
import re
import shutil
import statistics
from pathlib import Path

from engines import (
    Peers,
    containerd,
    lamina,
    lamina_for_user,
    layer_digests,
    podman,
    shell,
    skopeo_umoci,
)
from meter import Clock, Failed, Runner, Series
from report import Section, Verdict, faster, spread, unmeasured, within
from stage import Bench

ASKED_PULL = {"node": (6.0, 8.0), "pyml": (4.0, 5.0)}  # times faster than podman, than skopeo + umoci
ASKED_PIPELINE = 0.7
ASKED_CPU = 2.2
ASKED_UNPACKED = 2.5
ASKED_USER = 3.0


def pulls(bench: Bench) -> list[Section]:
    return [pull(bench, ref, *ASKED_PULL[ref]) for ref in ASKED_PULL]


def pull(bench: Bench, ref: str, podman_asked: float, umoci_asked: float) -> Section:
    image, peers = bench.image(ref), bench.peers
    digests = layer_digests(image)
    first, second = podmans(peers, image), umocis(peers, image)
    snapshotters = [containerd(peers, one, image) for one in ("erofs", "overlayfs")]
    least = shell(bench.host, ref, digests)
    ours, unpacked = lamina(image), lamina(image, view="overlay", name="lamina, unpacked tree")
    runners = [*first, *second, *snapshotters, least, ours, unpacked]
    rows = bench.in_turn(f"pull {ref}", runners)
    them, us, tree = rows[: len(runners) - 2], rows[-2], rows[-1]
    measure = f"pull to mounted, {ref}"
    section = Section(f"Pull {ref}: {len(digests)} layers", rows=rows)
    verdicts = section.verdicts
    verdicts += [faster(measure, podman_asked, one, us) for one in them[: len(first)]]
    verdicts += [faster(measure, umoci_asked, one, us) for one in them[len(first) : len(first) + len(second)]]
    measured = [one for one in them[-3:-1] if one.complete]
    best = min(measured, key=lambda one: one.median) if measured else them[-3]
    verdicts.append(faster(f"{measure} (containerd's best)", 1, best, us, strictly=True))
    verdicts.append(within(f"{measure}, against the pipeline", ASKED_PIPELINE, us, them[-1]))
    if ref == "node":
        verdicts.append(cpu(us))
    verdicts += [faster(f"pull to an unpacked tree, {ref}", ASKED_UNPACKED, one, tree) for one in them[: len(first)]]
    return section


def podmans(peers: Peers, image: str, user: str = "") -> list[Runner]:
    names = zip(peers.all("podman"), ("podman", "newer podman"), strict=True)
    return [podman(program, image, user) if program else missing(name) for program, name in names]


def umocis(peers: Peers, image: str) -> list[Runner]:
    skopeo = shutil.which("skopeo") or ""
    names = zip(peers.all("umoci"), ("umoci", "newer umoci"), strict=True)
    return [skopeo_umoci(skopeo, program, image) if program else missing(name) for program, name in names]


def missing(name: str) -> Runner:
    def never(_: Path, clock: Clock) -> None:
        raise Failed("not here")

    return Runner(name, "", never, "not here")


def cpu(ours: Series) -> Verdict:
    measure, asked = "CPU for node", f"at most {ASKED_CPU} s"
    if not ours.complete:
        return Verdict(measure, asked, unmeasured(ours), None)
    told = f"{spread(ours.cpu, 's')}, peak {ours.peak / 1e6:.0f} MB"
    return Verdict(measure, asked, told, statistics.median(ours.cpu) <= ASKED_CPU)


def as_user(bench: Bench) -> list[Section]:
    section = Section(f"As the plain user {bench.user or '(none)'}")
    measure, asked = "as a plain user, pull to a usable tree", f"{ASKED_USER:g}x"
    wrong = why_not(bench.user)
    if wrong:
        section.verdicts = [Verdict(measure, asked, wrong, None)]
        return [section]
    for ref in ASKED_PULL:
        image = bench.image(ref)
        peers = podmans(bench.peers, image, bench.user)
        rows = bench.in_turn(f"user, {ref}", [*peers, lamina_for_user(image, bench.user)])
        section.verdicts += [faster(f"{measure}, {ref}", ASKED_USER, one, rows[-1]) for one in rows[:-1]]
        for row in rows:
            row.name = f"{ref}: {row.name}"
        section.rows += rows
    return [section]


def why_not(user: str) -> str:
    """Why nothing can be measured as this user, or "" if it can."""
    if not user:
        return "skipped: no --user given"
    try:
        pwd.getpwnam(user)
    except KeyError:
        return f"skipped: no user {user}"
    if not re.search(rf"^{re.escape(user)}:", Path("/etc/subuid").read_text(), re.MULTILINE):
        return f"skipped: {user} has no subordinate IDs in /etc/subuid"
    return ""
