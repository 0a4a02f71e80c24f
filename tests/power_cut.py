"""Power cuts: the disk as it is at a random moment, mounted again in another boot: no named image is lost or wrong.

    python tests/power_cut.py [--rounds 50] [--seed N]

Root, Linux, mkfs.xfs and mkfs.ext4. The store is on an ext4 with a journal, on a loop device with direct I/O over a
file of an XFS. A reflink of that file is the disk at one moment, without what was in the page cache only. Each round
a process pulls, loads, appends, tags, mounts, unpacks, removes and prunes until the cut, and says what is done. Then
the copy is mounted, with another boot ID, and every image that was named when the power failed is read whole: from
its blobs, through its layers, from a mount and from an unpacked tree.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from lamina.archive.layout import LayoutReader, LayoutWriter  # noqa: E402
from lamina.edit.append import append  # noqa: E402
from lamina.edit.publish import Packing, Revision  # noqa: E402
from lamina.layer.entry import Entry, Kind  # noqa: E402
from lamina.remote.client import Access  # noqa: E402
from lamina.remote.registries import Registries  # noqa: E402
from lamina.remote.repository import Repository  # noqa: E402
from lamina.source.stack import Stack  # noqa: E402
from lamina.spec.digest import Digest  # noqa: E402
from lamina.spec.platform import Platform  # noqa: E402
from lamina.store.fsck import fsck  # noqa: E402
from lamina.store.prune import prune  # noqa: E402
from lamina.store.remove import remove_images  # noqa: E402
from lamina.store.retention import apply_keep  # noqa: E402
from lamina.store.store import Store  # noqa: E402
from lamina.transfer.copy import copy  # noqa: E402
from lamina.view.overlay.mount import mount, unmount  # noqa: E402
from support import write_layout  # noqa: E402
from unruly import Unruly  # noqa: E402

BOOT = Path("/proc/sys/kernel/random/boot_id")
MOST = 2.5  # seconds until the cut, at most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="lamina-cut-", dir="/var/tmp") as top:
        # leftovers of a cut are removed with this directory
        os.environ["TMPDIR"], tempfile.tempdir = top, top
        done = rounds(Path(top), options.rounds, random.Random(seed))
    print(f"{len(done)} power cuts, {sum(done)} images that were named, 0 lost, 0 wrong bytes")
    return 0


def rounds(top: Path, count: int, chance: random.Random) -> list[int]:
    """How many named images were found whole after each cut. Raises AssertionError with what was lost or wrong."""
    found = []
    with ExitStack() as stack:
        disk = stack.enter_context(mounted_image(top / "outer", "mkfs.xfs", "-q", "-m", "reflink=1", direct=False))
        layouts(top / "layout", chance)
        servers = [stack.enter_context(Unruly(top / "layout", ref)) for ref in ("one", "two")]
        for number in range(count):
            found.append(cut(top, disk, [server.image for server in servers], chance))
            print(f"cut {number + 1}: {found[-1]} images are whole", flush=True)
    return found


def layouts(place: Path, chance: random.Random) -> None:
    """Two images that share their first layer, a third one; of bytes that compress as files do."""
    known = [chance.randbytes(60) for _ in range(3000)]

    def files(prefix: str, count: int) -> list[tuple[str, bytes]]:
        return [(f"{prefix}/{n}", b"".join(chance.choices(known, k=chance.randrange(20_000)))) for n in range(count)]

    base, own = files("base", 12), files("one", 8)
    write_layout(place, "one", [base, own])
    write_layout(place, "two", [base, files("two", 6), [("base/.wh.3", b"")]])
    write_layout(place, "three", [own, files("three", 5)], compress=False)


@contextmanager
def mounted_image(image: Path, *make: str, size: int = 3 << 30, direct: bool = True) -> Iterator[Path]:
    """A directory on a new file system in a file. ``direct``: what it has on its disk is in the file at once."""
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([*make, str(image)], check=True)
    with attached(image, direct=direct) as place:
        yield place


@contextmanager
def attached(image: Path, *, direct: bool = True) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="lamina-cut-", dir="/run"))
    words = ["losetup", f"--direct-io={'on' if direct else 'off'}", "--find", "--show", str(image)]
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", device, str(place)], check=True)
        try:
            yield place
        finally:
            for _ in range(50):
                if subprocess.run(["umount", "-R", str(place)], check=False, capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)
        place.rmdir()


def cut(top: Path, disk: Path, images: list[str], chance: random.Random) -> int:
    """One round. ``disk``: a file system with reflinks."""
    log, seed = top / "log", chance.randrange(1 << 30)
    log.write_bytes(b"")
    with mounted_image(disk / "image", "mkfs.ext4", "-q", "-F", size=1 << 30) as place:
        words = [sys.executable, __file__, "work", str(place / "store"), str(log), str(top / "layout"), str(seed)]
        keep = chance.choice(["blob+tar", "blob+tar", "tar", "blob"])
        view = chance.choice(["", "overlay"])  # a tar for an overlay is written through the page cache
        with subprocess.Popen([*start(place), *words, keep, view, *images]) as process:
            try:
                while not log.stat().st_size and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(chance.random() * MOST)
                # what is done is read before the power fails: what comes after counts neither way
                acknowledged = log.read_text()
                subprocess.run(["cp", "--reflink=always", str(disk / "image"), str(disk / "copy")], check=True)
                after = log.read_text()
                assert process.poll() is None, "the work ended by itself"
            finally:
                process.kill()
    with attached(disk / "copy") as place:
        words = [sys.executable, __file__, "look", str(place / "store"), keep, acknowledged, after]
        done = subprocess.run([*start(place), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"seed of the round {seed}, keep {keep}, view {view}:\n{after}\n{done.stdout}{done.stderr}"
    )
    for name in ("image", "copy"):
        (disk / name).unlink()
    return int(done.stdout)


def start(place: Path) -> list[str]:
    """A new boot: the command sees another boot ID, and its mounts end with it."""
    boot = Path(tempfile.gettempdir(), f"lamina-cut-boot-{os.getpid()}")
    boot.write_text(f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:36]}\n")
    script = f'mount --make-rprivate / && mount --bind {boot} {BOOT} && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def work(root: str, log: str, layout: str, seed: str, keep: str, view: str, *images: str) -> None:
    """Change the store until the power fails. Lines of the log: what begins, and what is done."""
    chance = random.Random(int(seed))
    store = Store.open(root, keep=keep, view=view)
    with open(log, "a", encoding="utf-8", buffering=1) as told:
        for number in itertools.count():
            verb, name = (
                chance.choice(
                    [
                        "pull",
                        "pull",
                        "pull",
                        "load",
                        "load",
                        "append",
                        "append",
                        "tag",
                        "mount",
                        "unpack",
                        "rmi",
                        "prune",
                    ]
                ),
                "",
            )
            named = sorted(name for name, _ in store.names() if name)
            if verb in ("append", "tag", "mount", "unpack", "rmi") and not named:
                continue
            source = chance.choice(named) if named else ""
            if verb in ("pull", "load", "append", "tag"):
                name = f"docker.io/library/{verb}-{chance.randrange(3)}:latest"
            elif verb == "rmi":
                name = source
            told.write(json.dumps(["begin", verb, name]) + "\n")
            one_step(store, verb, name, source, layout, chance, number, images, keep)
            digest = str(store.resolve(name).digest) if name and verb != "rmi" else ""
            told.write(json.dumps(["done", verb, name, digest]) + "\n")


def one_step(
    store: Store,
    verb: str,
    name: str,
    source: str,
    layout: str,
    chance: random.Random,
    number: int,
    images: tuple[str, ...],
    keep: str,
) -> None:
    if verb == "pull":
        image = chance.choice(images)
        copy(Repository(image, Access(first_wait=0.001), Registries()), store, [(image, name)])
    elif verb == "load":
        wanted = chance.sample(["one", "two", "three"], chance.randrange(1, 4))  # several: they wait together
        copy(LayoutReader(layout), store, [(one, name) for one in wanted])
    elif verb == "append":
        data = chance.randbytes(9) * 100_000
        items = [(Entry(b"more", Kind.FILE, 0o644, size=len(data)), data)]
        revision = Revision(f"step {number}", packing=Packing(epoch=0))
        append(store.stack(source, Platform.host()), items, store, name, revision)
    elif verb == "tag":
        store.tag(name, store.resolve(source))
    elif verb in ("mount", "unpack"):
        show(store, store.stack(source, Platform.host()), verb)
    elif verb == "rmi":
        remove_images(store, [name])
    else:
        prune(store, grace=0)
        if keep == "tar":
            apply_keep(store, "tar", grace=0)


def show(store: Store, stack: Stack, verb: str) -> dict[str, str]:
    """The digests of an image's files, as a mount has them."""
    target = tempfile.mkdtemp(prefix="lamina-cut-mnt-")
    mount(store, stack, target, view="overlay" if verb == "unpack" else "")
    try:
        files = [path for path in sorted(Path(target).rglob("*")) if path.is_file()]
        return {str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    finally:
        unmount(store, target)
        os.rmdir(target)


def look(root: str, keep: str, acknowledged: str, after: str) -> None:
    """After the cut: print how many named images there are; all are whole."""
    begun, sure = expected(acknowledged), set()
    for line in after[len(acknowledged) :].splitlines() + acknowledged.splitlines()[-1:]:
        sure.add(json.loads(line)[2])  # what was under way may have come to its end, or not
    store = Store.open(root, create=False, keep=keep)
    names = {name: str(top.digest) for name, top in store.names() if name}
    for name, digest in begun.items():
        if name not in sure:
            assert names.get(name) == digest, f"{name} is {names.get(name)}, and was {digest}"
    for name in names:
        check(store, name)
    problems = [one.what for one in fsck(store) if one.severity == "error"]
    assert problems == [], problems
    print(len(names))


def expected(text: str) -> dict[str, str]:
    """Names and digests after what is done."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        what, verb, name, *digest = json.loads(line)
        if what == "done" and verb == "rmi":
            found.pop(name, None)
        elif what == "done" and name:
            found[name] = digest[0]
    return found


def check(store: Store, name: str) -> None:
    stack = store.stack(name, Platform.host())
    content = {}
    tree = stack.tree()
    for node in range(len(tree.names)):
        if tree.is_alive(node) and tree.kids[node] is None and not tree.entry(node).link:
            with stack.open_file(node) as stream:
                content[os.fsdecode(tree.path(node))] = hashlib.sha256(stream.read()).hexdigest()
    for layer in stack.layers:
        with layer.open() as stream:
            assert Digest.of(stream.read()) == layer.diff_id, f"{name}: {layer.diff_id} is wrong"
    for verb in ("mount", "unpack"):
        shown = show(store, stack, verb)
        wrong = {path for path in shown.keys() | content if shown.get(path) != content.get(path)}
        assert not wrong, f"{name}: {verb} shows {sorted(wrong)[:3]} wrong"
    if all(store.blobs.has(layer.descriptor) for layer in stack.layers):
        with tempfile.TemporaryDirectory() as out:
            copy(store, LayoutWriter(out), [(name, "x")])


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    elif sys.argv[1:2] == ["look"]:
        look(*sys.argv[2:])
    else:
        sys.exit(main())
