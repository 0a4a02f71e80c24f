"""Bytes that wait to be sent: in memory within a budget, in files beyond it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import RemoteFailure
from lamina.objects.bucket import Writing
from lamina.objects.filling import Budget, Filling
from lamina.objects.long_object import LongObject, Senders
from object_model import AtOnce, ModelBucket, ModelWriting


@given(st.lists(st.lists(st.binary(min_size=1, max_size=9), max_size=6), max_size=4), st.integers(0, 30))
def test_bytes_come_out_as_they_came_in(all_pieces: list[list[bytes]], room: int) -> None:
    budget = Budget(room)
    fillings = [Filling(budget) for _ in all_pieces]
    for filling, pieces in zip(fillings, all_pieces, strict=True):
        for piece in pieces:
            filling.add(piece)
        assert budget.left >= 0
    for filling, pieces in zip(fillings, all_pieces, strict=True):
        assert filling.size == sum(map(len, pieces))
        assert b"".join(filling.pieces()) == b"".join(pieces)
    assert budget.left == room


def test_a_full_disk_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def full(descriptor: int, data: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return len(data) - 1 if len(calls) == 3 else write(descriptor, data, at)

    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    filling = Filling(Budget(0))
    for piece in (b"one", b"two", b"three", b"four"):
        filling.add(piece)
    assert b"".join(filling.pieces()) == b"onetwothreefour"
    assert len(calls) == 4


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_an_object_is_the_bytes_that_were_added(pieces: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lamina.objects.long_object.PART", 7)
        bucket, budget = ModelBucket(), Budget(10)
        one = LongObject(bucket, "key", Senders(AtOnce(), budget))
        for piece in pieces:
            one.add(piece)
        assert one.is_short == (sum(map(len, pieces)) <= 7)
        assert bucket.get("key") is None
        one.close()
        found = bucket.get("key")
        assert found is not None
        assert found.data == b"".join(pieces)
        assert budget.left == 10


class Failing(ModelBucket):
    """Storage that does not take the second part."""

    def write(self, key: str, part: int) -> Writing:
        writing = ModelWriting(self, key)
        send = writing.write

        def second_fails(pieces: object) -> None:
            if self.requests:
                raise RemoteFailure("the storage is down")
            send(pieces)  # type: ignore[arg-type]

        writing.write = second_fails  # type: ignore[method-assign]
        return writing


def test_a_failed_part_is_said_and_gives_the_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.objects.long_object.PART", 7)
    bucket, budget = Failing(), Budget(1000)
    one = LongObject(bucket, "key", Senders(AtOnce(), budget))
    with pytest.raises(RemoteFailure):
        for _ in range(10):
            one.add(b"12345")
    one.drop()
    assert budget.left == 1000
    assert not bucket.objects
