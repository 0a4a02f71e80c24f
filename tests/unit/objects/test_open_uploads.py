"""Object storage: which uploads are open, as all servers see it."""

from __future__ import annotations

import random
import time

import pytest
from obstore.exceptions import GenericError

from lamina.errors import RateLimited
from lamina.objects import keys, open_uploads
from lamina.objects.failures import failure
from lamina.objects.repositories import ObjectRepositories
from lamina.source import upload_limits
from lamina.spec.digest import Digest
from object_model import AtOnce, ModelBucket, Stage

MINE, OTHERS = "docker.io/me/app", "docker.io/bob/app"


@pytest.fixture
def bucket() -> ModelBucket:
    bucket = ModelBucket(Stage(random.Random(1), 0.0).step)
    bucket.time = time.time()
    return bucket


def server(bucket: ModelBucket) -> ObjectRepositories:
    return ObjectRepositories(bucket, clock=bucket.clock, pool=AtOnce())


def test_all_servers_see_what_open_uploads_have_received(bucket: ModelBucket) -> None:
    one, two = server(bucket).uploads, server(bucket).uploads
    first, second = one.create(MINE), two.create(OTHERS)
    one.append(MINE, first, [b"12345"])
    two.append(OTHERS, second, [b"123"])
    assert one.received() == two.received() == {first: (MINE, 5), second: (OTHERS, 3)}
    assert two.received(MINE) == {first: (MINE, 5)}
    two.append(MINE, first, [b"6"])
    one.cancel(OTHERS, second)
    assert one.received() == {first: (MINE, 6)}
    two.finish(MINE, first, Digest.of(b"123456"))
    assert one.received() == {}


def test_the_number_of_open_uploads_has_a_limit(bucket: ModelBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_limits, "MOST_EACH", 2)
    monkeypatch.setattr(upload_limits, "MOST", 3)
    one, two = server(bucket).uploads, server(bucket).uploads
    idents = [one.create(MINE), one.create(MINE)]
    with pytest.raises(RateLimited, match="to this repository"):
        two.create(MINE)
    two.create(OTHERS)
    with pytest.raises(RateLimited, match="to this registry"):
        two.create("docker.io/third/app")
    one.cancel(MINE, idents[0])
    with pytest.raises(RateLimited):  # a count is believed for a moment
        two.create(MINE)
    monkeypatch.setattr(open_uploads, "_AGAIN", 0.0)
    two.create(MINE)
    monkeypatch.setattr(open_uploads, "BELIEVED", 0.0)
    with pytest.raises(RateLimited):
        one.create(MINE)


def test_uploads_of_each_client_have_a_limit(bucket: ModelBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_uploads, "BELIEVED", 0.0)
    monkeypatch.setattr(open_uploads, "_AGAIN", 0.0)
    alice, bob = (upload_limits.Opener(name, most=2) for name in ("192.0.2.1", "user bob"))
    one, two = server(bucket).uploads, server(bucket).uploads
    first = one.create(MINE, alice)
    two.create(OTHERS, alice)
    for place in (one, two, server(bucket).uploads):
        with pytest.raises(RateLimited, match="2 uploads of this client"):
            place.create("docker.io/third/app", alice)
    two.create(MINE, bob)
    two.create(MINE)
    two.append(MINE, first, [b"1"])
    two.finish(MINE, first, Digest.of(b"1"))
    one.create(MINE, alice)
    # an ident is in URLs of the storage: without the key, nobody finds out by it whose upload it was
    assert upload_limits.client_mark_in(first) != upload_limits.mark_of_client(alice.name)


def test_what_clients_left_behind_does_not_keep_others_out(
    bucket: ModelBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_limits, "MOST_EACH", 2)
    bucket.time -= 4000
    idents = [server(bucket).uploads.create(MINE) for _ in range(2)]
    bucket.time += 4000
    uploads = server(bucket).uploads
    uploads.create(MINE)
    uploads.append(MINE, idents[0], [b"1"])  # it can still be gone on with
    with pytest.raises(RateLimited):
        server(bucket).uploads.create(MINE)


def test_writing_is_tried_once_a_minute(bucket: ModelBucket) -> None:
    place = server(bucket)
    place.check_writing()
    (key,) = [key for key in bucket.objects if key.startswith(keys.CLOCK)]  # gc removes it when it is old
    del bucket.objects[key]
    place.check_writing()
    assert key not in bucket.objects


def test_a_host_without_ca_certificates_is_told_what_is_missing() -> None:
    text = (
        'Generic HTTP client error: builder error\n source: General("No CA certificates were loaded from the system")'
    )
    found = failure(GenericError(text), "s3://images", "its settings")
    assert "this host has no CA certificates" in found.message
    assert "certificate is not trusted" not in str(found)
