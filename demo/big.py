"""The big demo: real images, of Debian packages, from nothing to running. `make demo-big` runs it, as root.

A base, and on it Node.js, PostgreSQL and .NET with an application each: made, pushed to a registry (`lamina serve`),
pulled into another store, which fetches the base once, and run there. Then with Debian's kernel below: the same
images as virtual machines, which share kernel and base.

Everything happens below one temporary directory, which is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lamina
from big_debian import SUITE, mirrors, sources
from big_images import Workshop
from big_overlay import Overlay
from big_run import Run, boot_and_run, run_all
from big_shell import LAMINA, Failed, environment, lamina_quiet, say, tell
from big_shell import lamina as run_lamina

IMAGES = ("web", "database", "squares")
MACHINES = ("web-machine", "squares-machine")
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "apt-get": "apt",
    "apt-config": "apt",
    "dpkg": "dpkg",
    "unshare": "util-linux",
    "mount": "mount",
    "chroot": "coreutils",
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "busybox": "busybox-static",
}
LAYERS = r"table {{.Number}}\t{{.Digest}}\t{{.Size}}\t{{.Adds}}\t{{.Replaces}}\t{{.Step}}"
ROOM = 4 << 30  # bytes that a run may take


def main() -> int:
    options = arguments()
    urls = {"Debian": options.mirror} if options.mirror else mirrors() if shutil.which("apt-get") else {}
    missing = missing_tools(urls)
    if missing:
        return refuse(missing)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is removed then too
    scratch = Path(tempfile.mkdtemp(prefix="lamina-demo-big-"))
    try:
        trees = (options.cache or scratch) / f"debian-{SUITE}-trees"
        trees.mkdir(mode=0o700, parents=True, exist_ok=True)
        missing = missing_kernel(scratch, trees)
        if missing:
            return refuse(missing)
        start = time.monotonic()
        show(scratch, trees, sources(urls))
        say(f"Done in {time.monotonic() - start:.0f} seconds")
    except subprocess.CalledProcessError as error:
        print(f"demo-big: {error}", file=sys.stderr)
        return 1
    except (Failed, lamina.LaminaError, OSError) as error:
        print(f"demo-big: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo-big: interrupted", file=sys.stderr)
        return 130
    finally:
        if options.keep:
            print(f"kept: {scratch}", flush=True)
        else:
            shutil.rmtree(scratch)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo/big.py", description="Real images from Debian packages, made and run."
    )
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory, and say where it is")
    parser.add_argument("--cache", type=lambda text: Path(text).absolute(), metavar="DIR",
                        help="keep the installed Debian trees there for the next run")  # fmt: skip
    parser.add_argument("--mirror", metavar="URL", help="where Debian is (default: where apt of this host has it)")
    return parser.parse_args()


def missing_tools(urls: dict[str, str]) -> list[str]:
    """What this host lacks, and how to get it."""
    if not sys.platform.startswith("linux"):
        return ["Linux"]
    missing = []
    if os.geteuid() != 0:
        missing.append("root (sudo make demo-big)")
    packages = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if packages:
        missing.append(f"{', '.join(packages)} (apt-get install {' '.join(packages)})")
    if not shutil.which("crun") and not shutil.which("runc"):
        missing.append("crun or runc (apt-get install runc)")
    if not urls:
        missing.append("a Debian mirror that apt knows (apt-get update, or --mirror URL)")
    return missing


def missing_kernel(scratch: Path, trees: Path) -> list[str]:
    if any(sign in f"{scratch}{trees}" for sign in ":,\\"):
        return ["directories without : , \\ in their names (an overlay can't name them)"]
    probe = scratch / "probe"
    (probe / "lower").mkdir(parents=True)
    for name in ("proc", "dev"):
        (probe / "lower" / name).mkdir()
    overlay = Overlay([probe / "lower"], probe)
    done = subprocess.run(overlay.around(["true"]), check=False, capture_output=True)
    if done.returncode:
        return [f"overlay mounts below {scratch.parent} (a container without the right to mount? or set TMPDIR)"]
    free = shutil.disk_usage(scratch).free
    if free < ROOM:
        return [f"{ROOM >> 30} GiB of disk below {scratch.parent}, which has {free >> 20} MiB free (or set TMPDIR)"]
    return []


def refuse(missing: list[str]) -> int:
    print(f"demo-big needs {'; '.join(missing)}", file=sys.stderr)
    return 1


def show(scratch: Path, trees: Path, lines: list[str]) -> None:
    made, registry, other, third = (scratch / name for name in ("store-a", "registry", "store-b", "store-c"))
    workshop = Workshop(made, trees, scratch, lines)
    make(workshop)
    with serving(registry) as host:
        push(made, host, IMAGES)
        names = pull(other, host, IMAGES, ("base",))
        say("4. The images of the second store, run")
        run_all(Run(other), **names)
        make_machines(workshop)
        push(made, host, MACHINES)
        machines = pull(third, host, MACHINES, ("lamina pack --kernel", "base"))
    say("6. One image: as a container, where its kernel is a file like others, and as a virtual machine")
    boot_and_run(third, machines[MACHINES[0]])


def make(workshop: Workshop) -> None:
    say("1. The base: Debian, as one layer")
    workshop.make_base()
    say("2. Three images on the base: a runtime and an application each, as two layers")
    workshop.make_node()
    workshop.make_postgres()
    workshop.make_dotnet()
    print()
    run_lamina(workshop.store, "images")
    for image in IMAGES:
        print()
        run_lamina(workshop.store, "layers", image, "--format", LAYERS)


def make_machines(workshop: Workshop) -> None:
    say("5. Kernel, Debian, runtime, application: a kernel below the same layers")
    workshop.make_kernel()
    for image, name in zip(("web", "squares"), MACHINES, strict=True):
        workshop.make_machine(image, name)
    print()
    run_lamina(workshop.store, "layers", MACHINES[0], "--format", LAYERS)
    kernel = next(path for path in lamina.open("kernel", root=workshop.store).path("/boot").glob("vmlinuz-*"))
    run_lamina(workshop.store, "blame", MACHINES[0], str(kernel))


@contextmanager
def serving(store: Path) -> Iterator[str]:
    """Run `lamina serve --writable` during the block; yields its host and port."""
    say("3. A registry: `lamina serve` over an empty store")
    words = ["serve", "--writable", "--port", "0"]
    print("$ lamina", " ".join(words), "&", flush=True)
    process = subprocess.Popen([*LAMINA, *words], stdout=subprocess.PIPE, text=True, env=environment(store))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://([\d.]+:\d+)", line)
        if found is None:
            raise Failed(f"lamina serve says {line!r}")
        tell(line.strip())
        yield found[1]
    finally:
        process.terminate()
        process.wait()


def push(store: Path, host: str, images: Sequence[str]) -> None:
    for image in images:
        tell_moved(store, image, lamina_quiet(store, "push", image, f"{host}/{image}", "--format", "json"), "pushed")


def pull(store: Path, host: str, images: Sequence[str], common: Sequence[str]) -> dict[str, str]:
    """Pull images into an empty store, which fetches their common layers once: those of the steps that begin so.
    Returns their names there."""
    names = {image: f"{host}/{image}" for image in images}
    for number, (image, name) in enumerate(names.items()):
        there = f"it has the first {len(common)}" if number else "nothing is there yet"
        say(f"   {image}, pulled into {store.name}: {there}")
        if number == 1:
            run_lamina(store, "plan", "pull", name)
        skipped = tell_moved(store, name, lamina_quiet(store, "pull", name, "--format", "json"), "fetched")
        if number and not all(any(step.startswith(one) for step in skipped) for one in common):
            raise Failed(f"a common layer was fetched again for {image}")
    print()
    run_lamina(store, "df")
    return names


def tell_moved(store: Path, image: str, report: str, moved: str) -> list[str]:
    """Show which layers a pull or push has moved and skipped, by their names in the history of the image. Returns the
    skipped ones."""
    steps = {str(layer.digest): str(layer.step.created_by) for layer in lamina.open(image, root=store).layers}
    skipped, sizes = [], {True: 0, False: 0}
    for blob in json.loads(report)[0]["blobs"]:
        sizes[blob["reused"]] += blob["size"]
        step = steps.get(blob["digest"])
        if step is None:
            continue
        tell(f"{'skipped' if blob['reused'] else moved:8} {blob['size'] / 1e6:6.1f} MB  {step}")
        if blob["reused"]:
            skipped.append(step)
    tell(f"in all {sizes[False] / 1e6:.1f} MB {moved}, {sizes[True] / 1e6:.1f} MB skipped: already there")
    return skipped


if __name__ == "__main__":
    sys.exit(main())
