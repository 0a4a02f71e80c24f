"""What a second image costs that shares layers with the first: time, and memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import lamina
from ground import LAMINA, push
from meter import Failed, drop_caches, note, run
from report import Section, Verdict, spread, unmeasured, within
from stage import Bench

ASKED_SHARED = 1.1  # its own layers' time; a tenth for the noise
ASKED_CACHE = 60e6


def shared(bench: Bench) -> list[Section]:
    """Node where base is already; node's own layers as an image of their own; node where nothing is."""
    own = own_layers(bench)
    node, base = bench.image("node"), bench.image("base")
    rows = bench.in_turn("shared", [
        lamina(own, mount=False, name="node's own layers alone, as an image"),
        lamina(node, mount=False, before=base, name="node after base"),
        lamina(node, mount=False, name="node alone"),
    ])  # fmt: skip
    section = Section("A second image that shares layers: pull", rows=rows)
    section.verdicts.append(
        within("second image that shares layers, against its own layers' time", ASKED_SHARED, rows[1], rows[0])
    )
    if not unmeasured(*rows):
        part = rows[1].median / rows[2].median
        section.remarks.append(f"After base, node takes {part:.2f} of what it takes where nothing is.")
    return [section]


def own_layers(bench: Bench) -> str:
    """An image of node's layers that base has not, in the registry."""
    layout = bench.place / "ready" / "own"
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    source = bench.layout / "blobs/sha256"
    (node, config), (base, _) = _documents(bench.layout, "node"), _documents(bench.layout, "base")
    below = len(base["layers"])
    if node["layers"][:below] != base["layers"]:
        raise Failed("base is not below node in this layout")
    node["layers"] = node["layers"][below:]
    config["rootfs"]["diff_ids"] = config["rootfs"]["diff_ids"][below:]
    config.pop("history", None)
    for layer in node["layers"]:
        digest = layer["digest"].partition(":")[2]
        (blobs / digest).symlink_to(source / digest)
    node["config"] |= _keep(blobs, config)
    index = {"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **_keep(blobs, node),
        "annotations": {"org.opencontainers.image.ref.name": "own"},
    }]}  # fmt: skip
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return push(layout, "own", bench.host)


def _documents(layout: Path, ref: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and config."""
    for one in json.loads((layout / "index.json").read_text())["manifests"]:
        if one.get("annotations", {}).get("org.opencontainers.image.ref.name") == ref:
            manifest = _blob(layout, one)
            return manifest, _blob(layout, manifest["config"])
    raise Failed(f"no {ref} in {layout}")


def _blob(layout: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes())
    return found


def _keep(blobs: Path, document: dict[str, Any]) -> dict[str, Any]:
    raw = json.dumps(document).encode()
    digest = hashlib.sha256(raw).hexdigest()
    (blobs / digest).write_bytes(raw)
    return {"digest": f"sha256:{digest}", "size": len(raw)}


def cache(bench: Bench) -> list[Section]:
    """Two images that share all layers but one small one: what reading the second adds to the page cache."""
    ready = bench.place / "ready"
    ready.mkdir()
    words = [*LAMINA, "--root", str(ready / "lamina")]
    image = bench.image("node")
    (ready / "one").write_bytes(os.urandom(1 << 20))
    run([*words, "pull", "-q", image])
    run([*words, "append", "-q", image, f"{ready / 'one'}:/srv/one", "-t", "second"])
    rounds = []
    for _ in range(bench.rounds):
        trees = [run([*words, "mount", name]).strip() for name in (image, "second")]
        drop_caches()
        rounds.append([read_all(tree) for tree in trees])
        note("cache, MB: " + "; then ".join(f"{one.machine / 1e6:.0f} (readers' {one.readers / 1e6:.0f})"
                                             for one in rounds[-1]))  # fmt: skip
        run([*words, "umount", "--all"])
    section = Section("Page cache of a second image")
    measure, asked = (
        "page cache that a second image adds (one more file of 1 MiB)",
        f"at most {ASKED_CACHE / 1e6:.0f} MB",
    )
    for name, found in (
        ("by the machine's meminfo", [one.machine / 1e6 for _, one in rounds]),
        ("by the readers' memory cgroup", [one.readers / 1e6 for _, one in rounds]),
    ):
        reached = statistics.median(found) * 1e6 <= ASKED_CACHE
        if min(found) >= 0:
            section.verdicts.append(Verdict(f"{measure}, {name}", asked, spread(found, "MB", 1), reached))
        else:
            section.verdicts.append(Verdict(f"{measure}, {name}", asked, f"no sense: {spread(found, 'MB', 1)}", None))
    whole = spread([one.machine / 1e6 for one, _ in rounds], "MB", 0)
    section.remarks.append(
        f"Caches dropped, node read in full: `Cached` of /proc/meminfo grows by {whole}; then the second is read. "
        "meminfo counts what others do meanwhile too; the cgroup only what the reader was first to bring in, and not "
        "what a kernel thread reads for it."
    )
    return [section]


@dataclass(frozen=True)
class Growth:
    """Bytes of page cache: of the whole machine, and charged to the readers' own memory cgroup (-1: no cgroups)."""

    machine: int
    readers: int


def read_all(tree: str) -> Growth:
    """Read every byte of every regular file, in a process of its own, as an application would."""
    # run() would keep the output in memory, which counts for the peaks of later children
    words = ["sh", "-c", 'find "$1" -type f -exec cat {} + >/dev/null', "sh", tree]
    before = cached()
    with memory_group() as group:
        if group is None:
            run(words)
            return Growth(cached() - before, -1)
        run(["sh", "-c", f'echo $$ >"{group}/cgroup.procs" && exec "$@"', "sh", *words])
        told = (group / "memory.stat").read_text()
        charged = re.search(r"^(?:total_cache|file) (\d+)", told, re.MULTILINE)
        return Growth(cached() - before, int(charged[1]) if charged else -1)


@contextmanager
def memory_group() -> Iterator[Path | None]:
    """A memory cgroup, of version 1 or 2, or None where none can be made."""
    for top in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        if (top / "memory.stat").is_file():
            break
    else:
        yield None
        return
    group = top / f"lamina-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def cached() -> int:
    found = re.search(r"^Cached:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10
