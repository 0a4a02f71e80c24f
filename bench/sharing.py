"""What a second image costs that shares layers with the first: time, and memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import statistics
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
    grown, first = [], []
    for _ in range(bench.rounds):
        trees = [run([*words, "mount", name]).strip() for name in (image, "second")]
        drop_caches()
        before = cached()
        read_all(trees[0])
        between = cached()
        read_all(trees[1])
        after = cached()
        first.append((between - before) / 1e6)
        grown.append((after - between) / 1e6)
        note(f"cache: the first {first[-1]:.0f} MB, the second {grown[-1]:.1f} MB more")
        run([*words, "umount", "--all"])
    section = Section("Page cache of a second image")
    section.verdicts.append(
        Verdict("page cache that a second image adds (one more file of 1 MiB)", f"at most {ASKED_CACHE / 1e6:.0f} MB",
                spread(grown, "MB", 1), statistics.median(grown) * 1e6 <= ASKED_CACHE)
    )  # fmt: skip
    section.remarks.append(
        f"`Cached` of /proc/meminfo; caches dropped, node read in full: {spread(first, 'MB', 0)}; then the second."
    )
    return [section]


def cached() -> int:
    found = re.search(r"^Cached:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10


def read_all(tree: str) -> None:
    """Every byte of every regular file; in a process of its own, as an application would."""
    run(["find", tree, "-type", "f", "-exec", "cat", "{}", "+"])
