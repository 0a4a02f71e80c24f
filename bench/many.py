"""Commands on much at once: a store of 5,000 images, and an image of 300,000 entries. Seconds of the whole command by
the clock and of the processor (user and system), and its peak memory; each command runs in a process of its own.

python bench/many.py [--images N] [--entries N] [DIRECTORY]     (all is made anew below DIRECTORY, or in /tmp)

The aim of issue 21: 2 s and 250 MB (10^6 bytes) each, `load` 2 s for each 1,000 images.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator

from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item, LayerWriter
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.spec.reference import REF_NAME

SECONDS, MEGABYTES = 2.0, 250
A_DIRECTORY = 100  # files
SHARED = 200  # files of the layer that all the small images have
_TIME = 1_700_000_000_000_000_000


def spent(root: str, *words: str) -> tuple[float, float, float]:
    """Seconds by the clock and of the processor, and MB at the peak."""
    start = time.monotonic()
    process = os.fork()
    if not process:
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        os.execv(sys.executable, [sys.executable, "-m", "lamina", "--root", root, *words])
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"lamina {' '.join(words)} failed: {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def in_a_child(work: Iterable[object]) -> None:
    """A program inherits the peak of the process that starts it: this one stays small."""
    process = os.fork()
    if not process:
        for _ in work:
            pass
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        raise SystemExit("the images could not be written")


def _file(path: bytes, text: bytes) -> Item:
    return Entry(path, Kind.FILE, 0o644, size=len(text), mtime=_TIME), text


def _path(number: int) -> bytes:
    return b"usr/lib/package%05d/module_%07d.py" % (number // A_DIRECTORY, number)


def lower(entries: int) -> Iterator[Item]:
    """Two thirds of the entries."""
    for number in range(entries * 2 // 3):
        yield _file(_path(number), b"value = %d\nname = 'module %d'\n" % (number, number))


def upper(entries: int) -> Iterator[Item]:
    """The rest: half of it hides files of the lower layer, one by one; so do whiteouts of every tenth directory."""
    half = entries // 6
    for directory in range(0, half // A_DIRECTORY, 10):
        yield Entry(b"usr/lib/package%05d" % (entries * 2 // 3 // A_DIRECTORY - 1 - directory), Kind.WHITEOUT), None
    for number in range(half):
        yield _file(_path(number), b"value = %d  # patched\n" % number)
    for number in range(half):
        yield _file(b"srv/data%05d/record_%07d" % (number // A_DIRECTORY, number), b"%d\n" % number)


def write_tar(path: str, items: Iterable[Item]) -> Iterator[None]:
    with open(path, "wb") as file:
        writer = LayerWriter(file.write)
        for number, (entry, content) in enumerate(items):
            writer.add(entry, content)
            if number % 1000 == 0:
                yield
        writer.close()


def _layer(items: Iterable[Item]) -> bytes:
    pieces: list[bytes] = []
    writer = LayerWriter(pieces.append)
    for entry, content in items:
        writer.add(entry, content)
    writer.close()
    return b"".join(pieces)


def write_archive(path: str, images: int) -> Iterator[None]:
    """An oci-archive: each image has the same lower layer, and a small one of its own."""
    shared = _layer(_file(b"usr/share/t%d" % number, b"%d\n" % number) for number in range(SHARED))
    entries = []
    with tarfile.open(path, "w") as archive:

        def put(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        def blob(data: bytes) -> Digest:
            digest = Digest.of(data)
            put(f"blobs/sha256/{digest.encoded}", data)
            return digest

        put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        base = Descriptor(mediatype.OCI_LAYER, blob(shared), len(shared))
        for number in range(images):
            own = _layer([_file(b"srv/app%d.conf" % number, b"number = %d\n" % number)])
            digest = blob(own)
            config = ImageConfig.build(Platform.host(), diff_ids=[base.digest, digest], cmd=["/srv/app"])
            raw = json.dumps(config.json).encode()
            blob(raw)
            layers = [base, Descriptor(mediatype.OCI_LAYER, digest, len(own))]
            manifest = build_manifest(Descriptor.of(mediatype.OCI_CONFIG, raw), layers)
            blob(manifest.raw)
            name = f"docker.io/generated/app{number:05d}:1"
            entries.append(manifest.descriptor.with_annotations({REF_NAME: name}).to_json())
            yield
        put("index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())


def write_saved(path: str, images: int) -> Iterator[None]:
    """What an old docker saves: configs and layers without manifests."""
    listed = []
    with tarfile.open(path, "w") as archive:

        def put(name: str, data: bytes) -> str:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            return name

        for number in range(images):
            own = _layer([_file(b"srv/app%d.conf" % number, b"number = %d\n" % number)])
            config = ImageConfig.build(Platform.host(), diff_ids=[Digest.of(own)], cmd=["/srv/app"])
            layer = put(f"{number}/layer.tar", own)
            names = [f"generated/saved{number:05d}:1"]
            listed.append({"Config": put(f"{number}.json", config.raw), "RepoTags": names, "Layers": [layer]})
            yield
        put("manifest.json", json.dumps(listed).encode())


def tell(what: str, seconds: float, processor: float, peak: float, aim: float = SECONDS) -> None:
    over = [f"{aim:g} s"] * (seconds > aim) + [f"{MEGABYTES} MB"] * (peak > MEGABYTES)
    figures = f"{seconds:6.2f} s {processor:6.2f} s CPU {peak:5.0f} MB"
    print(f"{what:44} {figures}{'   over ' + ', '.join(over) if over else ''}", flush=True)


def large(top: str, entries: int) -> None:
    root, tars = os.path.join(top, "large"), [os.path.join(top, name) for name in ("lower.tar", "upper.tar")]
    for tar, items in zip(tars, (lower(entries), upper(entries)), strict=True):
        in_a_child(write_tar(tar, items))
    spent(root, "import", tars[0], "one")
    spent(root, "import", tars[1], "two")
    in_a_child(joined(root))
    print(f"an image of {entries} entries in two layers (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    for words in (
        ("blame", "-r", "app", "/"),
        ("blame", "-r", "--format", "json", "app", "/"),
        ("ghosts", "app"),
        ("ghosts", "--no-secrets", "--paths", "app"),
        ("find", "*.py"),
        ("find", "--format", "{{.Path}}", "*.py"),
        ("find", "--format", "json", "*.py"),
        ("find", "--ghosts", "module_*"),
        ("export", "app"),
        ("flatten", "--compression", "none", "app", "-t", "flat"),
        ("flatten", "app", "-t", "flat:gzip"),
    ):
        tell(" ".join(words), *spent(root, *words))


def joined(root: str) -> Iterator[None]:
    """Make ``app``: the layer of ``two`` on that of ``one``."""
    from lamina.edit.publish import publish
    from lamina.store.store import Store

    store = Store.open(root)
    stacks = [store.stack(name, Platform.host()) for name in ("one", "two")]
    config = ImageConfig.build(Platform.host(), diff_ids=[stack.diff_ids[0] for stack in stacks])
    layers = [stack.layers[0].descriptor for stack in stacks]
    publish(store, "app", layers, config, docker=False, purpose="bench")
    yield


def small(top: str, images: int) -> None:
    root, archive = os.path.join(top, "small"), os.path.join(top, "images.tar")
    in_a_child(write_archive(archive, images))
    print(f"{images} images of two layers (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    tell("load -i", *spent(root, "load", "-i", archive), images * SECONDS / 1000)
    os.unlink(archive)
    in_a_child(write_saved(archive, images))
    saved = os.path.join(top, "saved")
    tell("load -i, docker's", *spent(saved, "load", "-i", archive), images * SECONDS / 1000)
    tell("load -i, docker's again", *spent(saved, "load", "-i", archive), images * SECONDS / 1000)
    os.unlink(archive)
    for words in (("images",), ("find", "t4?"), ("find", "t4?"), ("find", "app*.conf"), ("prune", "--all", "-f")):
        tell(" ".join(words), *spent(root, *words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--entries", type=int, default=300_000)
    parser.add_argument("directory", nargs="?")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lamina-many-", dir=given.directory) as top:
        if given.entries:
            large(top, given.entries)
        if given.images:
            small(top, given.images)


if __name__ == "__main__":
    main()
