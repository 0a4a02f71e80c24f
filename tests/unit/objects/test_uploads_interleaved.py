"""An upload that several servers write to, finish and remove at once, in random orders of their single requests:
a blob that was acknowledged is whole."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import Conflict, DigestMismatch, NotFound, RemoteFailure, SystemFailure
from lamina.objects import appending, long_object
from lamina.objects.bucket import Version
from lamina.objects.failures import StorageFailure
from lamina.objects.fsck import Checker
from lamina.objects.gc import Collector
from lamina.objects.repositories import GRACE, ObjectRepositories
from lamina.spec.digest import Digest
from object_model import AtOnce, ModelBucket, Stage

REPOSITORY = "docker.io/library/app"
DATA = bytes(range(40))


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_object, "PART", 7)
        patch.setattr(appending, "PART", 7)
        patch.setattr(appending, "LONGEST", 12)
        yield


class World:
    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.stage = Stage(self.choice, self.choice.choice([0.0, 0.0, 0.02, 0.05]))
        self.bucket = ModelBucket(self.stage.step)
        self.joined = self.choice.random() < 0.4
        self.servers = [self.server(), self.server()]
        self.ident = self.servers[0].uploads.create(REPOSITORY)
        self.acknowledged = False

    def server(self) -> ObjectRepositories:
        return ObjectRepositories(self.bucket, clock=self.bucket.clock, pool=AtOnce(), redirect=self.joined)

    def write(self) -> None:
        """A client that sends what is missing, and finishes the upload."""
        for _ in range(12):
            place = self.choice.choice(self.servers).uploads
            with suppress(Conflict, SystemFailure):
                try:
                    at = place.size(REPOSITORY, self.ident)
                    with place.held(REPOSITORY, self.ident):
                        if place.size(REPOSITORY, self.ident) != at:
                            continue
                        end = at + self.choice.choice([1, 3, 7, 13, 40])
                        middle = (at + end) // 2
                        pieces = [DATA[at:middle], DATA[middle:end]]
                        if place.append(REPOSITORY, self.ident, pieces) >= len(DATA):
                            place.finish(REPOSITORY, self.ident, Digest.of(DATA))
                            self.acknowledged = True
                            return
                except (NotFound, DigestMismatch):
                    return

    def remove(self) -> None:
        with suppress(NotFound, Conflict):
            self.choice.choice(self.servers).uploads.cancel(REPOSITORY, self.ident)

    def collect(self) -> None:
        with suppress(Conflict):
            Collector(self.bucket, clock=self.bucket.clock, pool=AtOnce()).run()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_an_acknowledged_blob_is_whole_and_nothing_stays_in_the_end(seed: int) -> None:
    world = World(seed)
    actors = [world.write, world.write, world.remove, world.collect]
    world.stage.play([world.write, *(one for one in actors if world.choice.random() < 0.5)])
    if world.acknowledged:
        with world.server().blob(REPOSITORY, Digest.of(DATA)).open() as stream:
            assert stream.read() == DATA
    assert not Checker(world.bucket, pool=AtOnce()).run().damage
    for _ in range(3):
        world.bucket.advance(30 * GRACE)
        world.collect()
    assert {key.split("/")[0] for key in world.bucket.objects} <= {"names", "gc"}


class Failing(ModelBucket):
    """Can't write some objects, until it is repaired."""

    broken = ""

    def put(self, key: str, data: bytes) -> Version:
        if self.broken and self.broken in key:
            raise StorageFailure("model: failed")
        return super().put(key, data)


@pytest.mark.parametrize("other_server", [False, True])
@pytest.mark.parametrize("hours", [0, 3])
def test_an_upload_whose_end_failed_is_acknowledged_later_only_if_its_bytes_are_there(
    hours: int, other_server: bool
) -> None:
    bucket = Failing()
    places = [ObjectRepositories(bucket, clock=bucket.clock, pool=AtOnce()) for _ in range(2)]
    uploads, digest = places[0].uploads, Digest.of(DATA)
    ident = uploads.create(REPOSITORY)
    uploads.append(REPOSITORY, ident, [DATA])
    bucket.broken = "/_blobs/"
    with pytest.raises(StorageFailure):
        uploads.finish(REPOSITORY, ident, digest)
    bucket.broken = ""
    bucket.advance(hours * GRACE)
    Collector(bucket, clock=bucket.clock, pool=AtOnce()).run()
    try:
        places[other_server].uploads.finish(REPOSITORY, ident, digest)
    except RemoteFailure:
        assert hours, "the client has to send it again only if gc has taken it"
    else:
        with places[0].blob(REPOSITORY, digest).open() as stream:
            assert stream.read() == DATA
    report = Checker(bucket, deep=True, pool=AtOnce()).run()
    assert (report.damage, report.uploads) == ([], 0)


class Paused(ModelBucket):
    """One request waits for another one."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.goes_on = threading.Event(), threading.Event()
        self.at_stream: Callable[[], None] | None = None

    def create(self, key: str, data: bytes) -> Version | None:
        if key.startswith("blobs/") and not self.reached.is_set():
            self.reached.set()
            assert self.goes_on.wait(20)
        return super().create(key, data)

    def stream(self, key: str, start: int, end: int) -> Iterator[bytes]:
        if self.at_stream is not None:
            now, self.at_stream = self.at_stream, None
            now()
        return super().stream(key, start, end)


def test_two_ends_of_one_upload_at_once_keep_its_bytes() -> None:
    """A client that waited too long tries again at another server, while the first one joins the parts."""
    bucket = Paused()
    first, second = (
        ObjectRepositories(bucket, clock=bucket.clock, pool=AtOnce(), redirect=True).uploads for _ in range(2)
    )
    digest = Digest.of(DATA)
    ident = first.create(REPOSITORY)
    first.append(REPOSITORY, ident, [DATA[:20]])
    first.append(REPOSITORY, ident, [DATA[20:]])
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(first.finish, REPOSITORY, ident, digest)
        assert bucket.reached.wait(20)

        def end_first() -> None:
            bucket.goes_on.set()
            ending.result(20)

        bucket.at_stream = end_first
        assert second.finish(REPOSITORY, ident, digest) == ending.result()
    with ObjectRepositories(bucket, pool=AtOnce()).blob(REPOSITORY, digest).open() as stream:
        assert stream.read() == DATA
    report = Checker(bucket, deep=True, pool=AtOnce()).run()
    assert (report.damage, report.uploads) == ([], 0)
