"""Streams over parts, and blobs that are made again while they are removed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import RemoteFailure, SystemFailure
from lamina.objects import keys
from lamina.objects.blob import PartStream
from lamina.objects.documents import Record, Run, Runs, slices, total, with_part, without_last
from lamina.objects.gc import Collector
from lamina.objects.repositories import GRACE, ObjectRepositories
from lamina.spec.digest import Digest
from object_model import AtOnce, ModelBucket, Stage

REPOSITORY = "docker.io/library/app"
IDENT = "0" * 32


@given(st.lists(st.integers(1, 5), max_size=8), st.integers(0, 40), st.integers(0, 40))
def test_slices_are_the_bytes_of_the_range(sizes: list[int], start: int, end: int) -> None:
    runs: Runs = ()
    for number, size in enumerate(sizes):
        runs = with_part(runs, 1, number, size)
    assert total(runs) == sum(sizes)
    every = [(number, at) for number, size in enumerate(sizes) for at in range(size)]
    found = [(number, at) for _, number, first, last in slices(runs, start, end) for at in range(first, last)]
    assert found == every[start:end]
    if runs:
        assert total(without_last(runs)) == sum(sizes[:-1])


class Flaky(ModelBucket):
    """Loses the connection in the middle of each part, once."""

    def __init__(self) -> None:
        super().__init__()
        self.cut: set[str] = set()

    def stream(self, key: str, start: int, end: int) -> Iterator[bytes]:
        whole = b"".join(super().stream(key, start, end))
        if key in self.cut:
            return iter([whole])
        self.cut.add(key)

        def broken() -> Iterator[bytes]:
            yield whole[: len(whole) // 2]
            raise RemoteFailure("the connection was lost")

        return broken()


def test_a_lost_connection_to_the_storage_is_made_again() -> None:
    bucket = Flaky()
    data = random.Random(1).randbytes(1000)
    for number in range(10):
        bucket.put(keys.part(IDENT, 1, number), data[number * 100 : number * 100 + 100])
    record = Record(1000, IDENT, (Run(1, 0, 100, 10),))
    with PartStream(bucket, record, 50, 950) as stream:
        assert b"".join(iter(lambda: stream.read(7), b"")) == data[50:950]
    with PartStream(bucket, record, 0, 1000) as stream:
        assert b"".join(iter(stream.piece, b"")) == data


def test_a_part_that_is_short_is_not_taken_for_whole() -> None:
    bucket = ModelBucket()
    bucket.put(keys.part(IDENT, 1, 0), b"12345")
    bucket.put(keys.part(IDENT, 1, 1), b"1234")
    with pytest.raises(SystemFailure), PartStream(bucket, Record(10, IDENT, (Run(1, 0, 5, 2),)), 0, 10) as stream:
        stream.read()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_a_blob_that_is_pushed_while_it_is_removed_is_there_afterwards(seed: int) -> None:
    choice = random.Random(seed)
    stage = Stage(choice)
    bucket = ModelBucket(stage.step)
    data = b"the same bytes"
    digest = Digest.of(data)

    def upload(server: ObjectRepositories) -> str:
        ident = server.uploads.create(REPOSITORY)
        server.uploads.append(REPOSITORY, ident, [data])
        return ident

    def server() -> ObjectRepositories:
        return ObjectRepositories(bucket, clock=bucket.clock, pool=AtOnce())

    first = server()
    first.uploads.finish(REPOSITORY, upload(first), digest)
    bucket.advance(2 * GRACE)
    servers = [server(), server()]
    idents = [upload(one) for one in servers]

    def finish(number: int) -> None:
        servers[number].uploads.finish(REPOSITORY, idents[number], digest)

    def collect() -> None:
        Collector(bucket, clock=bucket.clock, pool=AtOnce()).run()

    stage.play([collect, lambda: finish(0), lambda: finish(1)])
    with server().blob(REPOSITORY, digest).open() as stream:
        assert stream.read() == data


def test_a_blob_that_another_server_has_deleted_from_a_repository_is_there_again_after_a_push() -> None:
    bucket = ModelBucket()
    first, other = (ObjectRepositories(bucket, clock=bucket.clock, pool=AtOnce()) for _ in range(2))
    source = "docker.io/library/source"

    def push(server: ObjectRepositories, repository: str) -> Digest:
        ident = server.uploads.create(repository)
        server.uploads.append(repository, ident, [b"a blob"])
        return server.uploads.finish(repository, ident, Digest.of(b"a blob")).digest

    digest = push(first, REPOSITORY)
    other.delete_blob(REPOSITORY, digest)
    push(first, REPOSITORY)
    assert other.blob(REPOSITORY, digest).descriptor.size == 6
    push(first, source)
    other.delete_blob(REPOSITORY, digest)
    assert first.mount(REPOSITORY, digest, source)
    assert other.blob(REPOSITORY, digest).descriptor.size == 6
