"""The format of a bucket: written once, and a newer one is refused, also by servers that run."""

from __future__ import annotations

import threading

import pytest

from lamina.errors import StoreDamaged, Unsupported
from lamina.objects import keys
from lamina.objects.bucket import Found
from lamina.objects.bucket_format import EVERY, FORMAT, FormattedBucket, format_document
from lamina.objects.failures import StorageFailure
from lamina.objects.gc import Collector
from object_model import AtOnce, ModelBucket

NEWER = format_document(FORMAT + 1)


@pytest.fixture
def model() -> ModelBucket:
    return ModelBucket()


def opened(model: ModelBucket) -> FormattedBucket:
    return FormattedBucket(model, now=lambda: model.time)


def format_of(model: ModelBucket) -> bytes | None:
    found = model.objects.get(keys.FORMAT)
    return None if found is None else found.data


def test_the_first_write_says_the_format_and_reading_does_not(model: ModelBucket) -> None:
    bucket = opened(model)
    assert bucket.get("k") is None
    assert list(bucket.list("blobs")) == []
    bucket.delete("k")
    assert format_of(model) is None
    bucket.put("k", b"1")
    assert format_of(model) == format_document(1)
    writes = [key for what, key in model.requests if what in ("put", "create")]
    assert writes == [keys.FORMAT, "k"]


@pytest.mark.parametrize("kind", ["create", "swap", "write"])
def test_every_kind_of_write_says_it(model: ModelBucket, kind: str) -> None:
    model.put("there", b"1")
    bucket = opened(model)
    if kind == "create":
        bucket.create("k", b"1")
    elif kind == "swap":
        bucket.swap("there", b"2", {"e_tag": "0"})
    else:
        bucket.write("k", 1)
    assert format_of(model) == format_document()


def test_a_bucket_of_an_older_lamina_is_taken(model: ModelBucket) -> None:
    model.put("blobs/sha256/00", b"record")
    bucket = opened(model)
    assert bucket.get("blobs/sha256/00") is not None
    bucket.put("k", b"1")
    assert opened(model).head("k") is not None


def test_a_newer_format_is_refused_and_nothing_is_written(model: ModelBucket) -> None:
    model.put(keys.FORMAT, NEWER)
    before = dict(model.objects)
    bucket = opened(model)
    for use in (
        lambda: bucket.get("k"),
        lambda: bucket.head("k"),
        lambda: bucket.put("k", b"1"),
        lambda: bucket.write("k", 1),
        lambda: bucket.create("k", b"1"),
        lambda: bucket.swap("k", b"1", {"e_tag": "1"}),
        lambda: bucket.delete("k"),
        lambda: bucket.delete_all(["k"]),
        lambda: bucket.list("blobs"),
        lambda: bucket.stream("k", 0, 1),
    ):
        with pytest.raises(Unsupported, match=f"model: has the unknown format {FORMAT + 1}"):
            use()
    assert model.objects == before


@pytest.mark.parametrize(
    "data", [b"", b"1", b'{"format": "1"}', b'{"format": true}', b'{"format": 0}', b"\xff" * 100]
)
def test_what_is_no_format_is_refused(model: ModelBucket, data: bytes) -> None:
    model.put(keys.FORMAT, data)
    with pytest.raises(StoreDamaged, match=r"lamina/format of model: is not the format"):
        opened(model).get("k")


def test_fields_of_a_format_may_be_added(model: ModelBucket) -> None:
    model.put(keys.FORMAT, b'{"format": 1, "since": "tomorrow"}')
    opened(model).put("k", b"1")
    assert format_of(model) == b'{"format": 1, "since": "tomorrow"}'


def test_a_server_that_runs_stops_writing_when_the_format_is_raised(model: ModelBucket) -> None:
    bucket = opened(model)
    bucket.put("k", b"1")
    model.put(keys.FORMAT, NEWER)
    bucket.put("k", b"2")  # it looks once a minute
    model.advance(EVERY)
    for _ in range(2):
        with pytest.raises(Unsupported):
            bucket.put("k", b"3")
    assert model.objects["k"].data == b"2"
    model.put(keys.FORMAT, format_document())  # it was a mistake
    bucket.put("k", b"4")


def test_the_format_is_asked_for_once_in_a_while(model: ModelBucket) -> None:
    bucket = opened(model)
    for _ in range(100):
        bucket.put("k", b"1")
        bucket.get("k")
    assert model.requests.count(("get", keys.FORMAT)) == 1


def test_another_server_writes_a_newer_format_first(model: ModelBucket) -> None:
    bucket = opened(model)
    bucket.get("k")
    model.put(keys.FORMAT, NEWER)  # between the look and the write
    with pytest.raises(Unsupported):
        bucket.put("k", b"1")
    assert "k" not in model.objects


def test_storage_that_fails_is_asked_again(model: ModelBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = opened(model)

    def broken(key: str) -> Found | None:
        raise StorageFailure("model: failed")

    with monkeypatch.context() as patch:
        patch.setattr(model, "get", broken)
        with pytest.raises(StorageFailure):
            bucket.head("k")
    assert bucket.head("k") is None
    model.advance(EVERY)
    with monkeypatch.context() as patch:
        patch.setattr(model, "get", broken)
        assert bucket.head("k") is None  # the format was known


def test_what_gc_would_delete_is_told_without_a_write(model: ModelBucket) -> None:
    collector = Collector(opened(model), pool=AtOnce())
    collector.plan()
    assert model.objects == {}
    collector.run()
    assert format_of(model) == format_document()


def test_many_threads_write_first(model: ModelBucket) -> None:
    bucket = opened(model)
    threads = [threading.Thread(target=bucket.put, args=(f"k{number}", b"1")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(model.objects) == 9
