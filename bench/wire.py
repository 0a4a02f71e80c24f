"""Pull, push and small questions to a registry on loopback, side by side with what else there is.

    python bench/wire.py LAYOUT [--rounds 5] [--refs node,pyml]

LAYOUT is an OCI layout with real images. Peers take turns with lamina, the order changes from round to round, and
caches are warm: what is printed are medians and ratios. Pull is measured against a shell pipeline that is the least
one can do: per layer, all in parallel, `curl | tee >(sha256sum) | igzip -d | tee >(sha256sum) > tar`. It writes no
blob and no index, and syncs nothing to the disk; lamina does.

Everything is on a journaled ext4 of its own, in a loop image (root only; else in the temporary directory, and it
says so).
Needs: curl, igzip (package isal), skopeo, crane ($LAMINA_PEERS/bin or PATH), docker-registry or registry.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ground import LAMINA, clear, file_system, pipeline, push, quiet, registry, text
from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.serve.server import RegistryServer
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from layer_index import synthetic


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--refs", default="node,pyml")
    parser.add_argument("--only", default="pull,push,questions,memory")
    options = parser.parse_args()
    with file_system() as place, registry(place / "registry") as host:
        print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores; ratios to the peer")
        for ref in options.refs.split(","):
            push(options.layout, ref, host)
        for ref in options.refs.split(",") if "pull" in options.only else ():
            pulls(place, host, ref, options.rounds)
        for ref in options.refs.split(",") if "push" in options.only else ():
            pushes(place, options.layout, ref, options.rounds)
        if "questions" in options.only:
            questions(host, options.refs.split(",")[0], options.rounds)
        if "memory" in options.only:
            memory(place)
    return 0


def pulls(place: Path, host: str, ref: str, rounds: int) -> None:
    target = place / "pull"
    raw = subprocess.run([*LAMINA, "manifest", f"{host}/fx/{ref}:1"], capture_output=True, check=True).stdout
    script = pipeline(host, ref, [layer["digest"] for layer in json.loads(raw)["layers"]], target)

    def shell() -> None:
        target.mkdir()
        quiet("bash", "-c", script)

    def lamina() -> None:
        quiet(*LAMINA, "--root", str(target), "pull", "-q", f"{host}/fx/{ref}:1")

    compare(f"pull {ref}", {"pipeline": shell, "lamina": lamina}, rounds, lambda: clear(target))


def pushes(place: Path, layout: Path, ref: str, rounds: int) -> None:
    """Each into an empty registry of its own: nothing is there to be mounted."""
    root = place / "store"
    quiet(*LAMINA, "--root", str(root), "load", "-q", "-i", str(layout))
    name = next(
        line.split()[0]
        for line in text(*LAMINA, "--root", str(root), "images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
        if line.startswith(f"{ref}:")
    )
    number = [0]
    empty: list[str] = []

    def skopeo() -> None:
        quiet(
            "skopeo",
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            f"oci:{layout}:{ref}",
            f"docker://{empty[0]}/p/x:1",
        )

    def lamina() -> None:
        quiet(*LAMINA, "--root", str(root), "push", "-q", name, f"{empty[0]}/p/x:1")

    @contextmanager
    def fresh() -> Iterator[None]:
        number[0] += 1
        directory = place / f"registry-{number[0]}"
        with registry(directory) as host:
            empty[:] = [host]
            yield
        clear(directory)

    compare(f"push {ref}", {"skopeo": skopeo, "lamina": lamina}, rounds, around=fresh)
    clear(root)


def questions(host: str, ref: str, rounds: int) -> None:
    crane = shutil.which(
        "crane", path=os.pathsep.join([os.environ.get("LAMINA_PEERS", "") + "/bin", os.environ["PATH"]])
    )
    if crane is None:
        print("crane is not there: tags, digest, manifest are not measured")
        return
    for verb, theirs, name in (
        ("tags", "ls", f"{host}/fx/{ref}"),
        ("digest", "digest", f"{host}/fx/{ref}:1"),
        ("manifest", "manifest", f"{host}/fx/{ref}:1"),
    ):
        runs: dict[str, Callable[[], None]] = {
            "crane": lambda theirs=theirs, name=name: quiet(crane, theirs, name),  # type: ignore[misc]
            "lamina": lambda verb=verb, name=name: quiet(*LAMINA, verb, name),  # type: ignore[misc]
        }
        compare(verb, runs, rounds * 3)


def memory(place: Path) -> None:
    """Peak RSS of a pull: a layer of 2 GB that does not compress, and one of 500,000 entries."""
    for title, pieces in (("2 GB of data", incompressible(2 << 30)), ("500,000 entries", synthetic(500_000))):
        layout, target = place / "layout", place / "pull"
        write_image(layout, pieces)
        with RegistryServer(LayoutReader(str(layout))) as server:
            words = ["--root", str(target), "pull", "-q", f"{server.name}/app"]
            code = (
                f"import sys\nfrom lamina.cli import run\nassert run({words!r}) == 0\n"
                "print([l for l in open('/proc/self/status') if 'VmHWM' in l][0].split()[1], file=sys.stderr)"
            )
            start = time.monotonic()
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            took = time.monotonic() - start
        print(
            f"memory, a layer of {title}: peak {int(done.stderr.split()[-1]) / 1024:.0f} MiB ({took:.1f} s)",
            flush=True,
        )
        clear(layout)
        clear(target)


def incompressible(size: int) -> Iterator[bytes]:
    """The tar of one file of random bytes."""
    info = tarfile.TarInfo("large")
    info.size = size
    yield info.tobuf()
    for _ in range(size >> 20):
        yield os.urandom(1 << 20)
    yield bytes(10240)


def write_image(directory: Path, pieces: Iterator[bytes]) -> None:
    """An image of one gzip layer, written as it comes."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    diff_id, digest = hashlib.sha256(), hashlib.sha256()
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    with (blobs / "layer").open("wb") as file:
        for piece in pieces:
            diff_id.update(piece)
            data = packer.compress(piece)
            digest.update(data)
            file.write(data)
        data = packer.flush()
        digest.update(data)
        file.write(data)
    (blobs / "layer").rename(blobs / digest.hexdigest())
    layer = Descriptor(
        mediatype.OCI_LAYER_GZIP, Digest("sha256", digest.hexdigest()), (blobs / digest.hexdigest()).stat().st_size
    )
    config = ImageConfig.build(Platform.host(), diff_ids=[Digest("sha256", diff_id.hexdigest())])
    writer = LayoutWriter(str(directory))
    with writer.session("bench") as session:
        described = Descriptor.of(mediatype.OCI_CONFIG, config.raw)
        session.put_blob(described, BytesBlob(described, config.raw))
        manifest = build_manifest(described, [layer])
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("app", manifest.descriptor)


@contextmanager
def nothing() -> Iterator[None]:
    yield


def compare(
    title: str,
    runs: dict[str, Callable[[], None]],
    rounds: int,
    before: Callable[[], None] = lambda: None,
    around: Callable[[], object] = nothing,
) -> None:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):  # the first round only warms
        order = list(runs.items())
        for name, run in order if number % 2 else order[::-1]:
            before()
            os.sync()
            with around():  # type: ignore[attr-defined]
                start = time.monotonic()
                run()
                if number:
                    times[name].append(time.monotonic() - start)
    before()
    peer = next(iter(runs))
    medians = {name: statistics.median(found) for name, found in times.items()}
    spread = {name: f"{min(found):.3f}-{max(found):.3f}" for name, found in times.items()}
    told = ", ".join(f"{name} {medians[name]:.3f} s ({spread[name]})" for name in runs)
    print(f"{title}: {told}; lamina/{peer} {medians['lamina'] / medians[peer]:.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
