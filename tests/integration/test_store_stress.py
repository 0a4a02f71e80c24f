"""Servers of one store, gc and commands at once, in processes that are killed at any moment: what was acknowledged is
whole, and the store is clean."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import BlobNotFound, Conflict, NotFound
from lamina.source.served import WritableRepositories
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import build_manifest, parse
from lamina.store.fault import NAME_POINTS, SERVE_POINTS
from lamina.store.fsck import fsck
from lamina.store.gc import collect
from lamina.store.online_gc import collect_in_turn
from lamina.store.prune import prune
from lamina.store.serving_rules import ServingRules
from lamina.store.store import Store
from support import rounds

REPOSITORIES = ["docker.io/library/a", "docker.io/library/b", "host:5000/c/d"]
POOL = [b"blob %d " % number * 50 for number in range(6)]
EMPTY = Descriptor.of("application/vnd.oci.empty.v1+json", b"{}")


class Client:
    """Pushes and deletes as clients do. What was acknowledged is in ``log``; what may be gone is there before."""

    def __init__(self, place: WritableRepositories, log: Path, name: str, seed: int) -> None:
        self.place = place
        self.chance = random.Random(seed)
        self.name = name
        self.log = log
        self.own: list[tuple[str, str, Digest]] = []
        self.count = 0

    def note(self, *words: object) -> None:
        with self.log.open("ab", buffering=0) as file:
            file.write(" ".join(map(str, words)).encode() + b"\n")

    def step(self) -> None:
        repository = self.chance.choice(REPOSITORIES)
        kind = self.chance.randrange(10)
        if kind < 7 or not self.own:
            self.push(repository)
        elif kind < 8:
            repository, tag, digest = self.own.pop(self.chance.randrange(len(self.own)))
            self.note("deletes", repository, tag, digest)
            self.place.delete_manifest(repository, digest)
        elif kind < 9:
            repository, tag, digest = self.own.pop(self.chance.randrange(len(self.own)))
            self.note("untags", repository, tag, digest)
            self.place.untag(repository, tag)
        else:
            try:
                self.place.delete_blob(repository, Digest.of(self.chance.choice(POOL)))
            except BlobNotFound:
                pass

    def push(self, repository: str) -> None:
        self.count += 1
        tag = f"{self.name}-{os.getpid()}-{self.count}"
        blobs = [*self.chance.sample(POOL, self.chance.randrange(1, 4)), f"of {tag} alone".encode()]
        manifest = build_manifest(
            EMPTY,
            [Descriptor.of("application/vnd.example", blob) for blob in blobs],
            annotations={"tag": tag},
            artifact_type="a/b",
        )
        for _ in range(5):
            for blob in (b"{}", *blobs):
                self.bring(repository, blob)
            try:
                self.place.put_manifest(repository, manifest.descriptor, manifest.raw, [tag])
            except BlobNotFound:
                continue  # deleted by another client, or by gc after the grace time: push again
            self.note("has", repository, tag, manifest.descriptor.digest)
            self.own.append((repository, tag, manifest.descriptor.digest))
            return

    def bring(self, repository: str, blob: bytes) -> None:
        digest = Digest.of(blob)
        if self.place.keep(repository, digest):
            return
        if self.place.mount(repository, digest, self.chance.choice(REPOSITORIES)):
            return
        ident = self.place.uploads.create(repository)
        try:
            with self.place.uploads.held(repository, ident):
                self.place.uploads.append(repository, ident, [blob[:20], blob[20:]])
                self.place.uploads.finish(repository, ident, digest)
        except (NotFound, Conflict):
            pass  # prune has removed it


def clients(root: Path, log: Path, name: str, seed: int, until: float, grace: float, threads: int = 2) -> None:
    store = Store.open(str(root))
    store.serving_rules = ServingRules(grace=grace)
    failed: list[BaseException] = []
    with store.repositories() as place:

        def work(number: int) -> None:
            client = Client(place, log, f"{name}{number}", seed + number)
            try:
                while time.monotonic() < until:
                    client.step()
            except BaseException as error:  # reported below
                failed.append(error)
                raise

        running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for one in running:
            one.start()
        for one in running:
            one.join()
    if failed:
        raise failed[0]


def collector(root: Path, seed: int, until: float) -> None:
    chance = random.Random(seed)
    store = Store.open(str(root))
    while time.monotonic() < until:
        kind = chance.randrange(4)
        if kind == 0:
            prune(store, grace=0)
        elif kind == 1:
            collect_in_turn(store, 0.01)
        elif kind == 2:
            store.refs.fold()
        else:
            collect(store, grace=0)


def forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def check(root: Path, logs: list[Path]) -> int:
    """Each acknowledged manifest is whole. Returns how many there are."""
    has: dict[tuple[bytes, bytes, bytes], None] = {}
    gone: set[tuple[bytes, ...]] = set()
    for log in logs:
        for line in log.read_bytes().splitlines() if log.exists() else ():
            kind, *what = line.split()
            if kind == b"has":
                has[what[0], what[1], what[2]] = None
            else:
                gone.add(tuple(what))
    store = Store.open(str(root))
    count = 0
    with store.repositories() as place:
        for repository, tag, digest in has:
            if (repository, tag, digest) in gone:
                continue
            count += 1
            top = place.find(repository.decode(), tag.decode())
            assert str(top.digest).encode() == digest
            assert place.find(repository.decode(), top.digest).digest == top.digest
            document = parse(place.manifest(top), top.media_type)
            for one in (document.config, *document.layers):  # type: ignore[union-attr]
                assert Digest.of(store.blobs.read(one)) == one.digest
    found = [one.what for one in fsck(Store.open(str(root)), repair=True) if one.severity != "leftover"]
    assert found == []
    assert [one.what for one in fsck(Store.open(str(root)), repair=True) if one.severity != "leftover"] == []
    return count


@pytest.mark.parametrize("grace", [3600.0, 0.05])
def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path, grace: float) -> None:
    """A grace time that is much too short makes pushes fail, and loses nothing either."""
    root, seed = tmp_path / "s", random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    end = time.monotonic() + rounds(60, 6)
    logs: list[Path] = []
    Store.open(str(root))

    def start(number: int) -> int:
        if number == 0:
            return forked(lambda: collector(root, chance.randrange(1 << 30), end))
        logs.append(tmp_path / f"log{len(logs)}")
        log, own = logs[-1], chance.randrange(1 << 30)
        return forked(lambda: clients(root, log, f"w{number}", own, end, grace))

    running = {number: start(number) for number in range(4)}
    codes = []
    while time.monotonic() < end:
        time.sleep(chance.random() * 0.4)
        number = chance.randrange(4)
        os.kill(running[number], signal.SIGKILL)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(running[number], 0)[1]))
        running[number] = start(number)
    codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in running.values()]
    assert set(codes) <= {0, -signal.SIGKILL}
    assert check(root, logs) > 0


@pytest.mark.parametrize("point", [*SERVE_POINTS, *NAME_POINTS, "manifest.written", "gc.locked", "gc.blob-removed"])
def test_a_kill_at_each_point_of_a_server_loses_nothing(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.store import fault

    root, log = tmp_path / "s", tmp_path / "log"
    store = Store.open(str(root))
    with store.repositories() as place:
        client = Client(place, log, "before", 1)
        for _ in range(15):
            client.step()
    for path in (root / "repositories").rglob("sha*"):
        os.utime(path, (0, 1))  # protection that has ended, long ago

    def work() -> None:
        monkeypatch.setattr(fault, "_CHOSEN", point)
        store = Store.open(str(root))
        store.serving_rules = ServingRules(grace=0)
        for seed in range(50):
            with store.repositories() as place:
                client = Client(place, log, f"killed{seed}", seed)
                for _ in range(10):
                    client.step()
            collect(store, grace=0)

    if point == "names.log-made":
        (root / "index.json.log").unlink()
    code = os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])
    assert code == -signal.SIGKILL
    assert check(root, [log]) > 0
    store = Store.open(str(root))
    with store.repositories() as place:
        client = Client(place, log, "after", 2)
        for _ in range(10):
            client.step()
    collect(store, grace=0)
    assert check(root, [log]) > 0
