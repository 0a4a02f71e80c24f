"""`lamina find` over a synthetic store: 10,000 images over 400 layers of 10,000 entries, 4,000,000 distinct paths.

python bench/find.py [DIRECTORY]     (the store is made there once, about 0.6 GB; default: the user's cache)

Prints the time of the whole command (best of three, files in the page cache), and for comparison that of going once
over the same heaps of names with nothing but `bytes.find`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.spec.reference import CONTAINERD_NAME, REF_NAME
from lamina.store.store import Store

IMAGES, LEVELS, PER_LEVEL, ENTRIES = 10_000, 8, 50, 10_000
ROUNDS = 3
_STAMP = "synthetic-2"


def make(root: Path) -> Store:
    """The store, unless it is there. Its layers have an index and nothing else: no blob, no tar."""
    stamp = root.parent / f"{root.name}.{_STAMP}"
    if stamp.exists():
        return Store.open(str(root), create=False)
    shutil.rmtree(root, ignore_errors=True)
    store = Store.open(str(root))
    diff_ids = [[_layer(store, level, number) for number in range(PER_LEVEL)] for level in range(LEVELS)]
    entries = []
    for number in range(IMAGES):
        chosen = [diff_ids[level][number // (level + 1) % PER_LEVEL] for level in range(LEVELS)]
        entries.append(_image(root, number, chosen))
    store.refs.update(lambda _: entries)
    stamp.touch()
    return store


def _layer(store: Store, level: int, number: int) -> Digest:
    builder = IndexBuilder()
    which = level * PER_LEVEL + number
    for row in range(ENTRIES):
        if row % 40 == 0:
            folder = b"usr/lib/python3/dist-packages/package%03d_%05d" % (which, row // 40)
            builder.add(folder, Kind.DIRECTORY, 0o755, mtime=1_700_000_000)
        else:
            builder.add(
                folder + b"/module_%07d.py" % (which * ENTRIES + row), Kind.FILE, 0o644, size=row, mtime=1_700_000_000
            )
    if which == LEVELS * PER_LEVEL // 2:
        builder.add(b"etc/needle.conf", Kind.FILE, 0o600, size=7, mtime=1_700_000_000)
    index = builder.finish(0)
    diff_id = Digest.of(bytes(index.buffer))  # of anything: there is no tar
    path = store.paths.layer_index(diff_id)
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(bytes(index.buffer))
    return diff_id


def _image(root: Path, number: int, diff_ids: list[Digest]) -> Descriptor:
    image = ImageConfig.build(Platform.host(), diff_ids=diff_ids, cmd=[f"/bin/service-{number}"])
    raw = json.dumps(image.json).encode()
    layers = [Descriptor(mediatype.OCI_LAYER_GZIP, Digest.of(str(d).encode()), 1_000_000) for d in diff_ids]
    manifest = build_manifest(Descriptor.of(mediatype.OCI_CONFIG, raw), layers)
    for data in (raw, manifest.raw):
        (root / "blobs" / "sha256" / Digest.of(data).encoded).write_bytes(data)
    name = f"docker.io/synthetic/app{number:05d}:1"
    return manifest.descriptor.with_annotations({REF_NAME: name, CONTAINERD_NAME: name})


def timed(root: Path, *words: str) -> tuple[float, int]:
    """Seconds of the whole command, best of a few; lines of its answer."""
    best, lines = float("inf"), 0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "lamina", "--root", str(root), "find", *words], capture_output=True, check=True
        )
        best = min(best, time.perf_counter() - start)
        lines = done.stdout.count(b"\n")
    return best, lines


def scan(root: Path) -> tuple[float, int]:
    """Seconds for one look at every byte of every heap of names, and how many bytes that are."""
    start, size = time.perf_counter(), 0
    for path in (root / "layers").glob("*/*/index"):
        heap = LayerIndex.load(str(path)).names
        bytes(heap).find(b"needle.conf")
        size += len(heap)
    return time.perf_counter() - start, size


def main() -> None:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = Path(sys.argv[1] if sys.argv[1:] else os.path.join(cache, "lamina-bench", "find"))
    root.parent.mkdir(parents=True, exist_ok=True)
    make(root)
    members = Path(Store.open(str(root), create=False).paths.layer_map)
    members.unlink(missing_ok=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lamina", "--root", str(root), "find", "none"], check=True)
    print(f"the first find, which reads {IMAGES} manifests and configs: {time.perf_counter() - start:.2f} s")
    for words in (
        ("needle.conf",),
        ("needle*",),
        ("*/needle.conf",),
        ("-E", r"need.e\.conf$"),
        ("module_123456?.py",),
        ("--perm", "/6000"),
        ("none",),
    ):
        seconds, lines = timed(root, *words)
        print(f"find {' '.join(words):24} {seconds:.2f} s, {lines} lines")
    seconds, size = scan(root)
    print(f"for comparison, in one process: {size / 1e6:.0f} MB of names checked and looked through: {seconds:.2f} s")


if __name__ == "__main__":
    main()
