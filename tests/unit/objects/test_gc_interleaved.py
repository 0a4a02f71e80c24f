"""gc beside pushes, deletions and kills, in random orders of their single requests: no acknowledged manifest ever
loses a blob."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import BlobNotFound, Conflict, NotFound, RemoteFailure
from lamina.objects.bucket import Found
from lamina.objects.failures import StorageFailure
from lamina.objects.fsck import Checker
from lamina.objects.gc import Collector
from lamina.objects.repositories import GRACE, ObjectRepositories
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import build_manifest
from object_model import AtOnce, ModelBucket, Stage

REPOSITORIES = ("docker.io/library/a", "docker.io/library/a/b")
BLOBS = [b"blob %d" % number * (number + 1) for number in range(4)]
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies of a few bytes are sent as bodies of gigabytes are."""
    monkeypatch.setattr("lamina.objects.long_object.PART", 4)
    monkeypatch.setattr("lamina.objects.appending.PART", 4)
    monkeypatch.setattr("lamina.objects.appending.LONGEST", 9)


class World:
    """A bucket with servers, and the manifests that were acknowledged."""

    def __init__(self, seed: int, kills: float) -> None:
        self.choice = random.Random(seed)
        self.stage = Stage(self.choice, kills)
        self.bucket = ModelBucket(self.stage.step)
        self.servers = [self.server(), self.server()]
        self.acknowledged: dict[tuple[str, Digest], list[bytes]] = {}

    def server(self) -> ObjectRepositories:
        return ObjectRepositories(self.bucket, clock=self.bucket.clock, pool=AtOnce())

    def litter(self) -> None:
        """Blobs that were pushed long ago, and that no manifest names."""
        for blob in BLOBS:
            server = self.choice.choice(self.servers)
            repository = self.choice.choice(REPOSITORIES)
            ident = server.uploads.create(repository)
            server.uploads.append(repository, ident, [blob])
            server.uploads.finish(repository, ident, Digest.of(blob))
        self.bucket.advance(2 * GRACE)

    def push(self) -> Callable[[], None]:
        server, repository = self.choice.choice(self.servers), self.choice.choice(REPOSITORIES)
        source = self.choice.choice(REPOSITORIES)
        blobs = self.choice.sample(BLOBS, self.choice.randint(1, 3))
        mounts = self.choice.random() < 0.5
        tag = self.choice.choice(["x", "y"])

        def send(blob: bytes) -> None:
            digest = Digest.of(blob)
            if server.keep(repository, digest) or (mounts and server.mount(repository, digest, source)):
                return
            ident = server.uploads.create(repository)
            with server.uploads.held(repository, ident):
                server.uploads.append(repository, ident, [blob[:3], blob[3:]])
                server.uploads.finish(repository, ident, digest)

        def actor() -> None:
            described = [Descriptor(LAYER, Digest.of(blob), len(blob)) for blob in blobs]
            document = build_manifest(Descriptor(CONFIG, described[0].digest, described[0].size), described)
            for _ in range(5):
                with suppress(BlobNotFound, Conflict, RemoteFailure):
                    for blob in blobs:
                        send(blob)
                    server.put_manifest(repository, document.descriptor, document.raw, [tag])
                    self.acknowledged[repository, document.descriptor.digest] = blobs
                    return
            raise AssertionError("a push does not come to its end")

        return actor

    def delete(self) -> Callable[[], None]:
        server = self.choice.choice(self.servers)
        keys = sorted(self.acknowledged, key=str)
        if not keys:
            return lambda: None
        key = self.choice.choice(keys)

        def actor() -> None:
            self.acknowledged.pop(key, None)
            with suppress(NotFound):
                server.delete_manifest(*key)
            self.acknowledged.pop(key, None)

        return actor

    def collect(self) -> Callable[[], None]:
        def actor() -> None:
            with suppress(Conflict):
                Collector(self.bucket, clock=self.bucket.clock, pool=AtOnce()).run()

        return actor

    def check(self) -> None:
        reader = self.server()
        for (repository, digest), blobs in self.acknowledged.items():
            assert reader.find(repository, digest).digest == digest
            for blob in blobs:
                with reader.blob(repository, Digest.of(blob)).open() as stream:
                    assert stream.read() == blob
        for repository in reader.names():
            for tag in reader.tags(repository):
                if not self.killed:
                    reader.find(repository, tag)

    killed = False


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.0, 0.03]))
def test_no_order_of_requests_loses_a_blob(seed: int, kills: float) -> None:
    world = World(seed, kills)
    world.killed = bool(kills)
    world.litter()
    for _ in range(world.choice.randint(2, 4)):
        actors = [world.push() for _ in range(world.choice.randint(1, 3))]
        # a manifest that is pushed and deleted at the same time may be there afterwards or not: another test
        deleting = world.choice.random() < 0.3
        world.stage.play([*([world.delete()] if deleting else actors), world.collect(), world.collect()])
        world.check()
        world.bucket.advance(world.choice.choice([0.0, GRACE / 3, 2 * GRACE, 30 * GRACE]))
    assert not Checker(world.bucket, pool=AtOnce()).run().damage


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_what_nothing_needs_is_gone_in_the_end(seed: int) -> None:
    world = World(seed, 0.05)
    world.killed = True
    for _ in range(3):
        world.stage.play([world.push(), world.push(), world.collect()])
    world.acknowledged.clear()
    for key in [one for one in world.bucket.objects if "/_manifests/" in one]:
        _, _, rest = key.partition("/")
        repository, _, digest = rest.partition("/_manifests/")
        world.server().delete_manifest(repository, Digest.parse(digest.replace("/", ":")))
    for _ in range(3):
        world.bucket.advance(30 * GRACE)
        world.collect()()
    left = {key.split("/")[0] for key in world.bucket.objects if "_tags" not in key}
    assert left <= {"names", "gc", "lamina.json"}, world.bucket.objects.keys()


class Misled(ModelBucket):
    """Something between us and the storage answers 404 for what is there."""

    hidden = ""

    def get(self, key: str) -> Found | None:
        return None if self.hidden and self.hidden in key else super().get(key)


@pytest.mark.parametrize("hidden", ["/_manifests/", "blobs/"])
def test_gc_deletes_nothing_if_objects_that_are_listed_are_not_found(hidden: str) -> None:
    bucket = Misled()
    place = ObjectRepositories(bucket, clock=bucket.clock, pool=AtOnce())
    described = []
    for blob in BLOBS:
        ident = place.uploads.create(REPOSITORIES[0])
        place.uploads.append(REPOSITORIES[0], ident, [blob])
        place.uploads.finish(REPOSITORIES[0], ident, Digest.of(blob))
        described.append(Descriptor(LAYER, Digest.of(blob), len(blob)))
    config = Descriptor(CONFIG, described[0].digest, described[0].size)
    document = build_manifest(config, described[1:])
    place.put_manifest(REPOSITORIES[0], document.descriptor, document.raw, ["v1"])
    bucket.advance(100 * GRACE)
    bucket.hidden = hidden
    with pytest.raises(StorageFailure, match="does not find"):
        Collector(bucket, clock=bucket.clock, pool=AtOnce()).run()
    bucket.hidden = ""
    assert Checker(bucket, deep=True, pool=AtOnce()).run().damage == []
