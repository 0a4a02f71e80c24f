"""Object storage against real S3 servers: what the registry relies on, and servers that are killed or cut off."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from lamina.errors import AccessDenied, Conflict, DigestMismatch, NotFound, RateLimited
from lamina.objects import keys, open_uploads
from lamina.objects.address import open_bucket
from lamina.objects.bucket import Bucket
from lamina.objects.bucket_format import format_document
from lamina.objects.failures import StorageFailure
from lamina.objects.fsck import Checker
from lamina.objects.gc import Collector
from lamina.objects.place import open_place
from lamina.objects.repositories import ObjectRepositories
from lamina.serve.api import Api
from lamina.serve.failures import answered
from lamina.serve.http_message import Request
from lamina.serve.routes import parse_target
from lamina.serve.self_signed import SelfSigned
from lamina.source.upload_limits import Opener
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, build_manifest
from object_storage import KINDS, SECRET, S3Server, s3_server
from server_process import ServerProcess, serving
from support import lamina

REPOSITORY = "docker.io/library/app"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module", params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(request.param, tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def url(storage: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A place of its own in the bucket."""
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    return f"{storage.url}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


@pytest.fixture
def bucket(url: str) -> Bucket:
    return open_bucket(url)


def push_blob(place: ObjectRepositories, data: bytes, repository: str = REPOSITORY) -> Descriptor:
    ident = place.uploads.create(repository)
    with place.uploads.held(repository, ident):
        place.uploads.append(repository, ident, [data])
        place.uploads.finish(repository, ident, Digest.of(data))
    return Descriptor(LAYER, Digest.of(data), len(data))


def push(place: ObjectRepositories, tag: str, *layers: bytes, repository: str = REPOSITORY) -> Manifest:
    described = [push_blob(place, layer, repository) for layer in (b"{}", *layers)]
    config = Descriptor(CONFIG, described[0].digest, described[0].size)
    document = build_manifest(config, described[1:], annotations={"tag": tag})
    place.put_manifest(repository, document.descriptor, document.raw, [tag])
    return document


def keys_of(bucket: Bucket, *prefixes: str) -> list[str]:
    return [one.key for prefix in prefixes for one in bucket.list(prefix)]


def test_uploads_of_each_client_have_a_limit_at_all_servers(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_uploads, "BELIEVED", 0.0)
    monkeypatch.setattr(open_uploads, "_AGAIN", 0.0)
    alice, bob = Opener("user alice", most=2), Opener("user bob", most=2)
    one, two = ObjectRepositories(bucket).uploads, ObjectRepositories(bucket).uploads
    first = one.create(REPOSITORY, alice)
    two.create("docker.io/library/other", alice)
    for uploads in (one, two):
        with pytest.raises(RateLimited, match="2 uploads of this client"):
            uploads.create("docker.io/library/third", alice)
    two.create(REPOSITORY, bob)
    two.cancel(REPOSITORY, first)
    one.create(REPOSITORY, alice)


def test_conditional_puts_and_lists_are_what_the_registry_relies_on(bucket: Bucket) -> None:
    version = bucket.create("t/x", b"1")
    assert version is not None
    assert bucket.create("t/x", b"2") is None
    second = bucket.swap("t/x", b"2", version)
    assert second is not None
    assert bucket.swap("t/x", b"3", version) is None
    assert bucket.swap("t/none", b"3", version) is None
    found = bucket.get("t/x")
    assert found is not None
    assert (found.data, found.version) == (b"2", second)
    for name in ("a/b,", "a/b/c,", "a/b-c,", "a.x,", "localhost:5000/x,", "a_b,"):
        bucket.put(f"names/{name}", b"1")
    listed = keys_of(bucket, "names")
    assert listed == sorted(listed)
    assert [one.key for one in bucket.list("names", "names/a/b-c,")] == [
        one for one in listed if one > "names/a/b-c,"
    ]
    assert b"".join(bucket.stream("t/x", 0, 1)) == b"2"
    bucket.delete_all(["t/x", "t/never"])
    bucket.delete("t/x")
    assert bucket.get("t/x") is bucket.head("t/x") is None


def test_many_threads_change_one_object_and_none_is_lost(bucket: Bucket, url: str) -> None:
    bucket.put("counter", b"0 start")
    buckets = [bucket, open_bucket(url)]

    def count(number: int) -> None:
        for turn in range(10):
            while True:
                found = buckets[number % 2].get("counter")
                assert found is not None
                value = int(found.data.split()[0]) + 1
                if buckets[number % 2].swap("counter", f"{value} {number} {turn}".encode(), found.version):
                    break

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    last = bucket.get("counter")
    assert last is not None
    assert int(last.data.split()[0]) == 80


def test_a_fixed_tag_is_won_by_one_of_many_clients_of_two_servers(bucket: Bucket, url: str) -> None:
    places = [ObjectRepositories(bucket), ObjectRepositories(open_bucket(url))]
    documents = [push(places[0], f"own{number}") for number in range(8)]
    gate = threading.Barrier(8)

    def race(number: int) -> bool:
        document = documents[number]
        gate.wait()
        try:
            places[number % 2].put_manifest(REPOSITORY, document.descriptor, document.raw, ["v1"], fixed=["v1"])
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, range(8)))
    assert won.count(True) == 1
    assert places[0].find(REPOSITORY, "v1").digest == documents[won.index(True)].descriptor.digest
    for place in places:
        place.close()


def test_names_and_tags_are_paged(bucket: Bucket) -> None:
    place = ObjectRepositories(bucket)
    names = ["docker.io/library/a", "docker.io/library/a-b", "docker.io/library/a/b", "ghcr.io/x", "localhost:5000/y"]
    for name in names:
        for tag in ("v1", "V2", "v1.1", "_z"):
            push(place, tag, repository=name)
    assert place.names() == sorted(names)
    assert place.names("docker.io/library/a", 2) == sorted(names)[1:3]
    assert place.tags(names[0]) == sorted(["v1", "V2", "v1.1", "_z"])
    assert place.tags(names[0], "_z", 1) == ["v1"]
    place.untag(names[0], "v1")
    assert place.tags(names[0]) == sorted(["V2", "v1.1", "_z"])
    with pytest.raises(NotFound):
        place.untag(names[0], "v1")
    with pytest.raises(NotFound):
        place.tags("docker.io/library/none")
    assert place.usage(names[0]) > 2
    place.close()


def in_pieces(data: bytes, size: int = 250_000) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def test_a_blob_of_several_objects_is_read_in_any_range(bucket: Bucket) -> None:
    place = ObjectRepositories(bucket)
    data = os.urandom(20 << 20)
    ident = place.uploads.create(REPOSITORY)
    for start, end in ((0, 5 << 20), (5 << 20, 10 << 20), (10 << 20, 20 << 20)):
        place.uploads.append(REPOSITORY, ident, in_pieces(data[start:end]))
    blob = place.blob(REPOSITORY, place.uploads.finish(REPOSITORY, ident, Digest.of(data)).digest)
    assert blob.descriptor.size == len(data)
    assert len(keys_of(bucket, "data")) > 1
    for start, end in ((0, None), (1, 2), (8 << 20, None), ((8 << 20) - 1, (16 << 20) + 1), (len(data) - 1, None)):
        with blob.open(start, end) as stream:
            assert b"".join(iter(lambda: stream.read(100_000), b"")) == data[start:end]
    place.close()


@pytest.mark.parametrize("size", [1, 8 << 20, (8 << 20) + 1, (8 << 20) + 2, (16 << 20) + 1, 37_000_001])
def test_a_body_is_one_object_of_any_size(bucket: Bucket, size: int) -> None:
    place = ObjectRepositories(bucket)
    data = os.urandom(size)
    ident = place.uploads.create(REPOSITORY)
    place.uploads.append(REPOSITORY, ident, in_pieces(data))
    place.uploads.finish(REPOSITORY, ident, Digest.of(data))
    (key,) = keys_of(bucket, "data")
    assert b"".join(bucket.stream(key, 0, size)) == data
    place.close()


def test_a_body_that_breaks_off_is_kept_and_goes_on_at_another_server(bucket: Bucket, url: str) -> None:
    first, second = ObjectRepositories(bucket), ObjectRepositories(open_bucket(url))
    data = os.urandom(30 << 20)

    def broken() -> Iterator[bytes]:
        yield from in_pieces(data[: 19 << 20])
        raise ConnectionError

    ident = first.uploads.create(REPOSITORY)
    with pytest.raises(ConnectionError):
        first.uploads.append(REPOSITORY, ident, broken())
    assert second.uploads.size(REPOSITORY, ident) == 19 << 20
    second.uploads.append(REPOSITORY, ident, in_pieces(data[19 << 20 :]))
    second.uploads.finish(REPOSITORY, ident, Digest.of(data))
    assert len(keys_of(bucket, "data")) == 2
    with first.blob(REPOSITORY, Digest.of(data)).open() as stream:
        assert stream.read() == data
    for place in (first, second):
        place.close()


def test_a_very_long_body_is_kept_now_and_then(bucket: Bucket, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.objects.appending.LONGEST", 10 << 20)
    first, second = ObjectRepositories(bucket), ObjectRepositories(open_bucket(url))
    data = os.urandom(30 << 20)
    seen = []

    def watched() -> Iterator[bytes]:
        for piece in in_pieces(data):
            yield piece
            seen.append(second.uploads.size(REPOSITORY, ident))

    ident = first.uploads.create(REPOSITORY)
    first.uploads.append(REPOSITORY, ident, watched())
    assert len(set(seen)) >= 3
    first.uploads.finish(REPOSITORY, ident, Digest.of(data))
    with second.blob(REPOSITORY, Digest.of(data)).open() as stream:
        assert stream.read() == data
    for place in (first, second):
        place.close()


def test_many_bodies_at_once_arrive_whole(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.objects.repositories.WAITING", 1 << 20)  # the rest waits in files
    place = ObjectRepositories(bucket)

    def one(number: int) -> None:
        data = number.to_bytes(4, "big") * (5 << 20)
        ident = place.uploads.create(REPOSITORY)
        place.uploads.append(REPOSITORY, ident, in_pieces(data))
        place.uploads.finish(REPOSITORY, ident, Digest.of(data))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert len(keys_of(bucket, "data")) == 8
    assert Checker(bucket, deep=True).run().blobs == 8
    place.close()


def test_many_small_chunks_make_few_parts(bucket: Bucket) -> None:
    place = ObjectRepositories(bucket)
    data = os.urandom(64 * 1000)
    ident = place.uploads.create(REPOSITORY)
    for at in range(0, len(data), 1000):
        with place.uploads.held(REPOSITORY, ident):
            assert place.uploads.size(REPOSITORY, ident) == at
            assert place.uploads.append(REPOSITORY, ident, [data[at : at + 1000]]) == at + 1000
    assert len(keys_of(bucket, "data")) < 8
    place.uploads.finish(REPOSITORY, ident, Digest.of(data))
    with place.blob(REPOSITORY, Digest.of(data)).open() as stream:
        assert stream.read() == data
    assert not keys_of(bucket, "uploads")
    place.close()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_upload_goes_on_at_another_server(bucket: Bucket, url: str, algorithm: str) -> None:
    first, second = ObjectRepositories(bucket), ObjectRepositories(open_bucket(url))
    data = os.urandom(9 << 20)
    ident = first.uploads.create(REPOSITORY)
    first.uploads.append(REPOSITORY, ident, [data[: 5 << 20]])
    assert second.uploads.size(REPOSITORY, ident) == 5 << 20
    second.uploads.append(REPOSITORY, ident, [data[5 << 20 :]])
    with pytest.raises(Conflict):  # it was taken over
        first.uploads.append(REPOSITORY, ident, [b"too late"])
    with pytest.raises(NotFound):
        second.uploads.size("docker.io/library/other", ident)
    digest = Digest.of(data, algorithm)
    assert second.uploads.finish(REPOSITORY, ident, digest).size == len(data)
    with first.blob(REPOSITORY, digest).open() as stream:
        assert stream.read() == data
    for place in (first, second):
        place.close()


def test_a_wrong_digest_leaves_nothing(bucket: Bucket) -> None:
    place = ObjectRepositories(bucket)
    ident = place.uploads.create(REPOSITORY)
    place.uploads.append(REPOSITORY, ident, [b"these bytes"])
    with pytest.raises(DigestMismatch):
        place.uploads.finish(REPOSITORY, ident, Digest.of(b"other bytes"))
    assert keys_of(bucket, "data", "uploads", "blobs", "repositories") == []
    ident = place.uploads.create(REPOSITORY)
    place.uploads.append(REPOSITORY, ident, [b"these bytes"])
    place.uploads.cancel(REPOSITORY, ident)
    assert keys_of(bucket, "data", "uploads", "blobs", "repositories") == []
    place.close()


def test_gc_frees_what_was_deleted_and_nothing_else(bucket: Bucket) -> None:
    place = ObjectRepositories(bucket)
    kept = push(place, "kept", b"shared", b"only in kept")
    gone = push(place, "gone", b"shared", b"only in gone")
    place.delete_manifest(REPOSITORY, gone.descriptor.digest)
    with pytest.raises(NotFound):
        place.find(REPOSITORY, "gone")
    assert Collector(bucket).run().blobs == []  # the grace time protects it
    done = Collector(bucket, grace=-2, abandoned=-2).run()  # storage tells the time in seconds
    assert (done.blobs, done.size) == ([Digest.of(b"only in gone")], len(b"only in gone"))
    assert place.find(REPOSITORY, "kept").digest == kept.descriptor.digest
    report = Checker(bucket, deep=True).run()
    assert (report.damage, report.notes, report.blobs) == ([], [], 3)
    push(place, "gone", b"shared", b"only in gone")  # and it can come back
    assert Checker(bucket, deep=True).run().damage == []
    place.close()


def test_a_delete_that_was_interrupted_is_ended_by_the_next_one(bucket: Bucket) -> None:
    place = ObjectRepositories(bucket)
    gone = push(place, "gone", b"one layer").descriptor.digest
    for key in keys_of(bucket, "repositories"):
        if "/_manifests/" in key and gone.encoded in key:
            bucket.delete(key)  # as far as a server came that was killed then
    assert place.tags(REPOSITORY) == ["gone"]
    with pytest.raises(NotFound):
        ObjectRepositories(bucket).delete_manifest(REPOSITORY, gone)
    assert place.tags(REPOSITORY) == []
    place.close()


def test_fsck_finds_what_is_missing_or_damaged(bucket: Bucket) -> None:
    place = ObjectRepositories(bucket)
    document = push(place, "x", b"one layer", b"another layer")
    parts = keys_of(bucket, "data")
    for key in parts:
        found = bucket.get(key)
        assert found is not None
        if found.data == b"one layer":
            bucket.put(key, b"bad layer")
        if found.data == b"another layer":
            bucket.delete(key)
    assert len(Checker(bucket).run().damage) == 1
    assert len(Checker(bucket, deep=True).run().damage) == 2
    for key in keys_of(bucket, "blobs"):
        if document.config.digest.encoded in key:
            bucket.delete(key)
    assert any(str(document.config.digest) in line for line in Checker(bucket).run().damage)
    place.close()


def test_what_is_wrong_with_the_storage_is_said_without_secrets(
    storage: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageFailure, match="bucket of s3://nowhere/x does not exist"):
        open_bucket("s3://nowhere/x").get("k")
    place = ObjectRepositories(open_bucket("s3://nowhere/x"))
    for method, path in (("GET", "/v2/app/manifests/1"), ("GET", "/v2/_catalog"), ("POST", "/v2/app/blobs/uploads/")):
        response = answered(Api(place, place).answer, Request(method, parse_target(path), {}, iter(())))
        assert (method, path, response.status) == (method, path, 503)  # not 404: the image may well exist
    place.close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(AccessDenied) as refused:
        open_bucket(url).get("k")
    assert "not-the-secret" not in str(refused.value)
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) < 300


# real servers


def call(
    server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def servers(storage: S3Server, url: str, tmp_path: Path, stack: ExitStack, count: int) -> list[ServerProcess]:
    return [
        stack.enter_context(
            serving(
                tmp_path / "none",
                "--storage",
                url,
                "--writable",
                log=tmp_path / f"log{number}",
                environment=dict(storage.environment),
            )
        )
        for number in range(count)
    ]


def test_a_server_killed_in_mid_push_loses_nothing(storage: S3Server, url: str, tmp_path: Path) -> None:
    data = os.urandom(48 << 20)
    with ExitStack() as stack:
        first, second = servers(storage, url, tmp_path, stack, 2)
        status, headers, _ = call(first, "POST", "/v2/app/blobs/uploads/")
        assert status == 202
        location = headers["location"]
        assert call(first, "PATCH", location, data[: 20 << 20])[0] == 202

        # the rest is being sent when the server dies
        connection = http.client.HTTPConnection("127.0.0.1", first.port, timeout=60)
        connection.putrequest("PATCH", location)
        connection.putheader("Content-Length", str(28 << 20))
        connection.endheaders()
        connection.send(data[20 << 20 : 40 << 20])
        first.kill()
        connection.close()

        status, headers, _ = call(second, "GET", location)
        assert status == 204
        received = int(headers["range"].partition("-")[2]) + 1
        assert received >= 20 << 20
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        rest = data[received:]
        status, headers, told = call(second, "PATCH", location, rest, Content_Range=f"{received}-{len(data) - 1}")
        assert status == 202, told
        status, _, told = call(second, "PUT", f"{headers['location']}?digest={digest}")
        assert status == 201, told
        config = b"{}"
        described = f"sha256:{hashlib.sha256(config).hexdigest()}"
        assert call(second, "POST", f"/v2/app/blobs/uploads/?digest={described}", config)[0] == 201
        document = build_manifest(
            Descriptor(CONFIG, Digest.parse(described), 2), [Descriptor(LAYER, Digest.parse(digest), len(data))]
        )
        assert call(second, "PUT", "/v2/app/manifests/v1", document.raw, Content_Type=document.media_type)[0] == 201
        first.start()
        status, _, found = call(first, "GET", f"/v2/app/blobs/{digest}")
        assert (status, found == data) == (200, True)
        assert call(first, "GET", "/v2/app/manifests/v1")[2] == document.raw
    report = Checker(open_bucket(url), deep=True).run()
    assert (report.damage, report.manifests, report.blobs) == ([], 1, 2)


@contextmanager
def cutting(port: int, after: int, times: int) -> Iterator[int]:
    """The port of a proxy that cuts the first long answers after so many bytes."""
    left = [times]
    guard = threading.Lock()

    def move(source: socket.socket, target: socket.socket, limited: bool) -> None:
        moved = 0
        with suppress(OSError):
            while piece := source.recv(65536):
                moved += len(piece)
                if limited and moved > after:
                    with guard:
                        cut, left[0] = left[0] > 0, left[0] - 1
                    if cut:
                        break
                    limited = False
                target.sendall(piece)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                opened.extend((client, server))
                for words in ((client, server, False), (server, client, True)):
                    threads.append(threading.Thread(target=move, args=words))
                    threads[-1].start()

    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            threads[0].join()
            for one in opened:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            for thread in threads[1:]:
                thread.join()
            for one in opened:
                one.close()
    assert left[0] <= 0, "nothing was cut"


def test_an_answer_of_the_storage_that_breaks_off_is_completed(
    storage: S3Server, url: str, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(20 << 20)
    place = ObjectRepositories(bucket)
    digest = push_blob(place, data).digest
    place.close()
    with cutting(storage.port, 3 << 20, 2) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with ObjectRepositories(open_bucket(url)).blob(REPOSITORY, digest).open(5) as stream:
            assert stream.read() == data[5:]
    with cutting(storage.port, 3 << 20, 3) as port:
        environment = {**storage.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        with serving(tmp_path / "none", "--storage", url, log=tmp_path / "log", environment=environment) as server:
            assert call(server, "GET", f"/v2/app/blobs/{digest}")[2] == data
            status, _, body = call(server, "GET", f"/v2/app/blobs/{digest}", Range="bytes=7-9000006")
            assert (status, body) == (206, data[7:9000007])


def test_storage_by_https_is_used_if_its_certificate_is_trusted(tmp_path: Path) -> None:
    data = os.urandom(20 << 20)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with s3_server("versitygw", tmp_path / "s3", https=True) as storage, ExitStack() as stack:
        (server,) = servers(storage, storage.url, tmp_path, stack, 1)
        assert call(server, "POST", f"/v2/app/blobs/uploads/?digest={digest}", data)[0] == 201
        with cutting(storage.port, 3 << 20, 3) as port:
            environment = {**storage.environment, "AWS_ENDPOINT_URL": f"https://127.0.0.1:{port}"}
            log = tmp_path / "cut"
            with serving(tmp_path / "none", "--storage", storage.url, log=log, environment=environment) as cut:
                assert call(cut, "GET", f"/v2/app/blobs/{digest}")[2] == data
                status, _, body = call(cut, "GET", f"/v2/app/blobs/{digest}", Range="bytes=7-9000006")
                assert (status, body) == (206, data[7:9000007])
        other = SelfSigned(str(tmp_path / "other"), ("127.0.0.1",))
        other.renew()
        environment = {**storage.environment, "SSL_CERT_FILE": other.ca}
        log = tmp_path / "distrustful"
        with serving(tmp_path / "none", "--storage", storage.url, log=log, environment=environment) as distrustful:
            assert call(distrustful, "GET", f"/v2/app/blobs/{digest}")[0] == 503


def test_storage_that_is_down_is_said_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(3 << 20)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with s3_server("versitygw", tmp_path / "s3") as storage, ExitStack() as stack:
        (server,) = servers(storage, storage.url, tmp_path, stack, 1)
        location = call(server, "POST", "/v2/app/blobs/uploads/")[1]["location"]
        assert call(server, "PATCH", location, data[: 1 << 20])[0] == 202
        storage.kill()
        status, headers, body = call(server, "PATCH", location, data[1 << 20 :])
        assert (status, headers["retry-after"]) == (503, "5")
        assert json.loads(body)["errors"][0]["code"] == "UNAVAILABLE"
        assert SECRET.encode() not in body
        storage.start()
        status, headers, _ = call(server, "GET", location)
        assert (status, headers["range"]) == (204, f"0-{(1 << 20) - 1}")
        assert call(server, "PATCH", location, data[1 << 20 :])[0] == 202
        assert call(server, "PUT", f"{location}?digest={digest}")[0] == 201
        assert call(server, "GET", f"/v2/app/blobs/{digest}")[2] == data


def test_images_are_read_by_name(url: str, bucket: Bucket) -> None:
    place = ObjectRepositories(bucket)
    document = push(place, "v1", b"layer")
    place.close()
    reader = open_place(url)
    assert list(reader.names()) == [(f"{REPOSITORY}:v1", document.descriptor)]
    descriptor = reader.resolve("app:v1")
    assert reader.manifest(descriptor) == document.raw
    with reader.blob(document.layers[0]).open() as stream:
        assert stream.read() == b"layer"
    with pytest.raises(NotFound):
        reader.resolve("app:v2")


def test_an_endpoint_that_does_not_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    with pytest.raises(StorageFailure):
        open_bucket("s3://images").get("k")


def test_prune_and_fsck_on_the_command_line(url: str, bucket: Bucket, tmp_path: Path) -> None:
    run = partial(lamina, root=tmp_path / "none")
    place = ObjectRepositories(bucket)
    document = push(place, "x", b"one layer")
    place.close()
    done = run("prune", "--storage", url, "--format", "json")
    assert json.loads(done.stdout) == {"deleted": [], "freed": 0, "uploads": 0, "dry_run": False}
    assert run("prune", "--storage", url, "--all").returncode == 2
    done = run("fsck", "--storage", url)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        b"2 blobs (11B), 1 manifest and 1 tag checked, 0 problems",
    )
    (key,) = [one.key for one in bucket.list("data") if one.size == 9]
    bucket.put(key, b"bad layer")
    assert run("fsck", "--storage", url, "--quick").returncode == 0
    done = run("fsck", "--storage", url, "--repair", "--format", "json")
    assert done.returncode == 1
    assert str(document.layers[0].digest) in json.loads(done.stdout)["findings"][0]["what"]
    push(ObjectRepositories(bucket), "x", b"one layer")  # the damaged blob was forgotten
    assert run("fsck", "--storage", url).returncode == 0
    bucket.put(keys.FORMAT, format_document(2))
    for verb in ("fsck", "prune"):
        done = run(verb, "--storage", url)
        assert (done.returncode, done.stdout) == (7, b"")
        assert f"{url} has the unknown format 2".encode() in done.stderr
        assert b"Traceback" not in done.stderr
    done = run("fsck", "--storage", "s3://")
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)


def test_a_server_collects_garbage_from_time_to_time(storage: S3Server, url: str, tmp_path: Path) -> None:
    bucket = open_bucket(url)
    bucket.put("repositories/app/_tags/broken-off", b'{"gone": "1"}')
    with serving(
        tmp_path / "none",
        "--storage",
        url,
        "--writable",
        "--gc",
        "1s",
        log=tmp_path / "log",
        environment=dict(storage.environment),
    ):
        deadline = time.monotonic() + 60
        while bucket.get("gc/lease") is None and time.monotonic() < deadline:
            time.sleep(0.05)
    assert bucket.get("gc/lease") is not None
    assert "failed" not in (tmp_path / "log").read_text()


def test_clients_are_sent_to_the_storage(storage: S3Server, url: str, tmp_path: Path) -> None:
    data = os.urandom(40 << 20)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with serving(
        tmp_path / "none",
        "--storage",
        url,
        "--writable",
        "--redirect",
        log=tmp_path / "log",
        environment=dict(storage.environment),
    ) as server:
        assert call(server, "POST", f"/v2/app/blobs/uploads/?digest={digest}", data)[0] == 201
        status, headers, body = call(server, "GET", f"/v2/app/blobs/{digest}")
        assert (status, body) == (307, b"")
        with urllib.request.urlopen(headers["location"], timeout=60) as answer:
            assert answer.read() == data
        ranged = urllib.request.Request(headers["location"], headers={"Range": "bytes=5-9"})
        with urllib.request.urlopen(ranged, timeout=60) as answer:
            assert answer.read() == data[5:10]
        assert SECRET not in headers["location"]
        status, headers, _ = call(server, "HEAD", f"/v2/app/blobs/{digest}")
        assert (status, headers["content-length"]) == (200, str(len(data)))
    assert len(keys_of(open_bucket(url), "data")) == 1
    assert Checker(open_bucket(url), deep=True).run().damage == []


def test_several_processes_and_the_explorer_serve_one_bucket(storage: S3Server, url: str, tmp_path: Path) -> None:
    place = ObjectRepositories(open_bucket(url))
    document = push(place, "v1", b"layer")
    place.close()
    with serving(
        tmp_path / "none",
        "--storage",
        url,
        "--workers",
        "2",
        log=tmp_path / "log",
        environment={**storage.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    ) as server:
        for _ in range(8):  # each worker answers some
            status, _, body = call(server, "GET", "/v2/app/manifests/v1")
            assert (status, body) == (200, document.raw)
            assert call(server, "GET", f"/v2/app/blobs/{document.layers[0].digest}")[2] == b"layer"
        assert call(server, "POST", "/v2/app/blobs/uploads/")[0] == 405
        status, _, body = call(server, "GET", "/explore/api/repositories")
        assert status == 200, body
        assert b'"app"' in body


def test_storage_that_cannot_be_read_is_said_when_the_server_starts(storage: S3Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(
        tmp_path / "none", "--storage", "s3://no-such-bucket/x", log=log, environment=dict(storage.environment)
    ):
        deadline = time.monotonic() + 60
        while "warning: " not in (said := log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "no-such-bucket" in said
    assert SECRET not in said
