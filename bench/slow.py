"""An ordinary cloud volume: a disk that takes 150 MB/s. Pull to mounted, and up to the end of a first program, which
reads what the disk may not have yet. Every engine alike, daemons too.
"""

from __future__ import annotations

from engines import containerd, lamina, layer_digests, podman, shell
from ground import slow_disk
from meter import Runner, Series
from pulling import missing, podmans, umocis
from report import Section, Verdict, faster, within
from stage import Bench

RATE = 150_000_000
ASKED_CONTAINERD, ASKED_PODMAN = 1.1, 2.5
FIRST = {"node": ("node", "-e", "1"), "pyml": ("python3", "-c", "1")}


def slow(bench: Bench) -> list[Section]:
    with slow_disk(bench.place, RATE) as how:
        sections = [pull(bench, ref) for ref in FIRST] + [
            ran(bench, ref, f" at {RATE / 1e6:.0f} MB/s") for ref in FIRST
        ]
    for section in sections:
        section.remarks.append(f"- the disk: {how} on the loop device of all stores")
    return sections


def first(bench: Bench) -> list[Section]:
    """The first program at full speed."""
    return [ran(bench, ref, "") for ref in FIRST]


def pull(bench: Bench, ref: str) -> Section:
    image, peers = bench.image(ref), bench.peers
    measure = f"pull to mounted at {RATE / 1e6:.0f} MB/s, {ref}"
    erofs, overlay = (containerd(peers, one, image) for one in ("erofs", "overlayfs"))
    podman_ones, umoci_ones = podmans(peers, image), umocis(peers, image)
    least = shell(bench.host, ref, layer_digests(image))
    runners = [erofs, overlay, *podman_ones, *umoci_ones, least, lamina(image)]
    rows = bench.in_turn(f"slow {ref}", runners)
    us, newest = rows[-1], rows[2 + len(podman_ones) - 1]
    section = Section(f"Pull {ref} on a disk of {RATE / 1e6:.0f} MB/s", rows=rows)
    section.verdicts = [
        faster(measure, ASKED_CONTAINERD, rows[0], us),
        faster(measure, ASKED_PODMAN, newest, us),
        faster(measure, 1, rows[1], us, strictly=True),
        within(f"{measure}, against the pipeline", 1, us, rows[-2]),
    ]
    return section


def ran(bench: Bench, ref: str, where: str) -> Section:
    """A pull and the first program in a container of it."""
    image, peers, words = bench.image(ref), bench.peers, FIRST[ref]
    measure = f"pull and run `{' '.join(words)}`{where}"
    podmen: list[Runner] = [
        podman(program, image, first=words) if program else missing(name)
        for program, name in zip(peers.all("podman"), ("podman", "newer podman"), strict=True)
    ]
    them = [*(containerd(peers, one, image, first=words) for one in ("erofs", "overlayfs")), *podmen]
    rows = bench.in_turn(f"first {ref}{where}", [*them, lamina(image, first=words)])
    us, measured = rows[-1], [row for row in rows[:-1] if row.complete]
    section = Section(f"Pull {ref} and run its first program{where}", rows=rows)
    section.verdicts = [best(measure, measured or rows[:1], us)]
    return section


def best(measure: str, them: list[Series], us: Series) -> Verdict:
    return faster(f"{measure} (the peers' best)", 1, min(them, key=lambda one: one.median if one.complete else 0), us,
                  strictly=True)  # fmt: skip
