"""Pushes to a registry that misbehaves, and what is not sent twice."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import AccessDenied, InvalidContent, LaminaError, RemoteFailure
from lamina.remote.client import Access
from lamina.remote.credentials import Credential
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.remote.upload import SMALL
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.manifest import build_manifest
from lamina.transfer.copy import Copied, copy
from support import lamina, running, write_layout
from unruly import Answer, Seen, Unruly

SIZE = 3_000_000


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout")
    write_layout(directory, "app", [[("a", random.Random(3).randbytes(SIZE))], [("c", b"small")]])
    return directory


def access(**changes: object) -> Access:
    return Access(**{"first_wait": 0.001, **changes})  # type: ignore[arg-type]


def give(layout: Path, server: Unruly, **changes: object) -> Copied:
    return copy(
        LayoutReader(str(layout)), Repository(server.image, access(**changes), Registries()), [("app", server.image)]
    )[0]


def check_there(layout: Path, server: Unruly) -> None:
    reader = LayoutReader(str(layout))
    top = reader.resolve("app")
    assert server.manifests["1"] == (top.media_type, reader.manifest(top))
    document = json.loads(server.manifests["1"][1])
    for value in [document["config"], *document["layers"]]:
        assert len(server.blobs[value["digest"]]) == value["size"]


def patches(server: Unruly) -> list[Seen]:
    return server.requests("PATCH", "/uploads/")


def test_a_second_push_sends_nothing(layout: Path) -> None:
    with Unruly() as server:
        give(layout, server)
        check_there(layout, server)
        assert len(patches(server)) == 1  # the large one streams, the small ones go with their PUT
        assert "content-range" not in patches(server)[0].headers
        assert len(server.requests("PUT", "/manifests/")) == 1
        done = give(layout, server)
        assert all(blob.reused for blob in done.blobs if blob.what != "manifest")
        assert len(patches(server)) == 1
        order = [seen.path for seen in server.seen if seen.method == "PUT"]
        assert "/manifests/" in order[-1] or "/manifests/1" in order[len(order) // 2]


@pytest.mark.parametrize("at", [0, 1, 100_000, SIZE - 1])
def test_a_cut_upload_resumes_after_the_bytes_that_the_registry_has(layout: Path, at: int) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(cut=at) if seen.method == "PATCH" and len(patches(server)) == 1 else None

    with Unruly(rule=rule) as server:
        give(layout, server)
        check_there(layout, server)
        sent = patches(server)
        assert len(sent) == 2
        total = sum(one.received for one in sent)
        assert total <= SIZE * 1.02
        if at > 1:
            assert sent[1].headers["content-range"].startswith(f"{at}-")


def test_an_upload_cut_repeatedly_without_progress_is_an_error(layout: Path) -> None:
    with Unruly(rule=lambda server, seen: Answer(cut=0) if seen.method == "PATCH" else None) as server:
        with pytest.raises(RemoteFailure):
            give(layout, server)
        assert "1" not in server.manifests


def test_413_falls_back_to_chunks(layout: Path) -> None:
    limit = 1 << 20

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "PATCH" and int(seen.headers["content-length"]) > limit:
            return Answer(413, {"Connection": "close"})
        return None

    with Unruly(rule=rule) as server:
        give(layout, server)
        check_there(layout, server)
        taken = [one.headers for one in patches(server) if int(one.headers["content-length"]) <= limit]
        assert [headers["content-range"].partition("-")[0] for headers in taken] == ["0", "1048576", "2097152"]


def test_a_proxy_that_accepts_no_chunk_is_an_error(layout: Path) -> None:
    with Unruly(rule=lambda server, seen: Answer(413) if seen.method == "PATCH" else None) as server:
        with pytest.raises(RemoteFailure, match="does not accept 1048576 bytes in one request"):
            give(layout, server)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_temporary_errors_are_retried(layout: Path, status: int) -> None:
    counts: dict[str, int] = {}

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        key = seen.method + seen.path.rpartition("/")[0]
        counts[key] = counts.get(key, 0) + 1
        again = seen.method in ("POST", "PATCH") or "/manifests/" in seen.path
        return Answer(status, {"Retry-After": "0"}) if again and counts[key] == 1 else None

    with Unruly(rule=rule) as server:
        give(layout, server)
        check_there(layout, server)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_retry_after_is_honoured_in_an_upload(layout: Path, method: str) -> None:
    times: list[float] = []

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        large = seen.method == "PATCH" or (seen.method == "PUT" and seen.headers.get("content-length") == "0")
        if seen.method != method or not large:
            return None
        times.append(time.monotonic())
        return Answer(429, {"Retry-After": "1"}) if len(times) == 1 else None

    with Unruly(rule=rule) as server:
        give(layout, server)
        check_there(layout, server)
    assert times[1] - times[0] >= 1.0


def test_rate_limit_of_an_hour_is_not_waited_for(layout: Path) -> None:
    limit = Answer(429, {"Retry-After": "3600"})
    with Unruly(rule=lambda server, seen: limit if seen.method == "PATCH" else None) as server:
        with pytest.raises(RemoteFailure, match="3600 s"):
            give(layout, server)
        assert len(patches(server)) == 1


def test_after_a_416_the_upload_asks_for_the_offset(layout: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method != "PATCH":
            return None
        if len(patches(server)) == 1:
            return Answer(cut=500_000)
        return Answer(416, {"Range": "0-499999"}) if len(patches(server)) == 2 else None

    with Unruly(rule=rule) as server:
        give(layout, server)
        check_there(layout, server)
        assert patches(server)[2].headers["content-range"].startswith("500000-")


def test_an_upload_restarts_if_its_session_is_unknown(layout: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "PATCH" and len(patches(server)) == 1:
            server.uploads.clear()
            return Answer(503)
        return None

    with Unruly(rule=rule) as server:
        give(layout, server)
        check_there(layout, server)


def test_a_lost_answer_to_the_last_put_is_not_an_error(layout: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "PUT" and "digest=" in seen.path and int(seen.headers["content-length"]) == 0:
            ident = seen.path.partition("?")[0].rpartition("/")[2]
            answer = server.taken(seen, b"")
            assert answer.status == 201, ident
            return Answer(cut=0, headers={"Content-Length": "10"})
        return None

    with Unruly(rule=rule) as server:
        give(layout, server)
        check_there(layout, server)


def test_a_registry_that_rejects_the_digest_is_an_error(layout: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "PUT" and "digest=" in seen.path:
            return Answer(400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}')
        return None

    with Unruly(rule=rule) as server, pytest.raises(InvalidContent, match="DIGEST_INVALID"):
        give(layout, server)


def test_a_damaged_local_blob_is_reported_as_such(tmp_path: Path) -> None:
    write_layout(tmp_path, "app", [[("a", random.Random(4).randbytes(SIZE))]])
    large = max((tmp_path / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(large.read_bytes())
    data[1_000_000] ^= 1
    large.write_bytes(data)
    with Unruly() as server:
        with pytest.raises(InvalidContent, match="does not match its digest"):
            give(tmp_path, server)
        assert not server.manifests


def test_expired_token_in_the_middle(layout: Path) -> None:
    issued: list[str] = []
    ended: set[str] = set()

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.path.startswith("/token"):
            issued.append(f"t{len(issued)}")
            return Answer(200, {}, b'{"token":"%s"}' % issued[-1].encode())
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        if seen.method == "PATCH" and len(patches(server)) == 1:
            ended.add(token)
        if token not in issued or token in ended:
            realm = f'Bearer realm="http://{server.name}/token",service="s",scope="repository:app:pull,push"'
            return Answer(401, {"WWW-Authenticate": realm})
        return None

    with Unruly(rule=rule) as server:
        give(layout, server)
        check_there(layout, server)
    assert len(issued) >= 2


def test_mount_from_another_repository_and_what_is_refused(layout: Path) -> None:
    mounts: list[str] = []

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "POST" and "mount=" in seen.path:
            mounts.append(seen.path)
            if len(mounts) == 1:
                return Answer(201)
            if len(mounts) == 2:
                return Answer(403)
        return None

    with Unruly(rule=rule) as server:
        repository = Repository(server.image, access(), Registries(), mount_from=lambda d: [f"{server.name}/base"])
        done = copy(LayoutReader(str(layout)), repository, [("app", server.image)])[0]
        assert [blob.reused for blob in done.blobs].count(True) == 1
        assert all("from=base" in path for path in mounts)
        assert len(mounts) == 3


def test_an_upload_redirected_to_another_host_has_no_credential(layout: Path) -> None:
    with Unruly() as other:

        def rule(server: Unruly, seen: Seen) -> Answer | None:
            if "authorization" not in seen.headers and seen.path != "/v2/":
                return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
            if seen.method == "POST":
                answer = other.taken(Seen("POST", "/v2/app/blobs/uploads/", {}), b"")
                return Answer(202, {"Location": f"http://{other.name}{answer.headers['Location']}"})
            return None

        with Unruly(rule=rule) as server:
            give(
                layout, server, credential=lambda host, path: Credential("me", "pw") if host == server.name else None
            )
        assert other.blobs
        assert all("authorization" not in one.headers for one in other.seen)


@pytest.mark.parametrize("location", ["ftp://x/y", "http://u:p@127.0.0.1/x", "https://[::1", "http://x:99999/", None])
def test_an_upload_without_a_valid_location_is_an_error(layout: Path, location: str | None) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(202, {"Location": location} if location else {}) if seen.method == "POST" else None

    with Unruly(rule=rule) as server, pytest.raises(LaminaError):
        give(layout, server)


def test_refused_push(layout: Path) -> None:
    with Unruly(rule=lambda server, seen: Answer(403) if seen.method == "POST" else None) as server:
        with pytest.raises(AccessDenied, match="lamina login"):
            give(layout, server)


def test_a_rejected_manifest_is_an_error(layout: Path) -> None:
    body = b'{"errors":[{"code":"MANIFEST_INVALID","message":"no thanks"}]}'

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(400, {}, body) if "/manifests/" in seen.path and seen.method == "PUT" else None

    with Unruly(rule=rule) as server, pytest.raises(InvalidContent, match="no thanks"):
        give(layout, server)


def test_referrers_without_the_api_are_kept_by_tag() -> None:
    """distribution-spec: a registry that does not answer OCI-Subject leaves the index of referrers to the client."""
    with Unruly() as server:
        repository = Repository(server.image, access(), Registries())
        empty = Descriptor.of(mediatype.OCI_EMPTY, b"{}")
        subject = build_manifest(empty, [], artifact_type="application/x.subject")
        made = []
        with repository.session("test") as session:
            session.put_blob(empty, BytesBlob(empty, b"{}"))
            session.put_manifest(subject.descriptor, subject.raw)
            for number in range(2):
                referrer = build_manifest(
                    empty,
                    [],
                    artifact_type=f"application/x.sig{number}",
                    subject=subject.descriptor,
                    annotations={"n": str(number)},
                )
                session.put_manifest(referrer.descriptor, referrer.raw)
                made.append(referrer)
        tag = str(subject.descriptor.digest).replace(":", "-")
        assert len(json.loads(server.manifests[tag][1])["manifests"]) == 2
        found = repository.referrers(subject.descriptor.digest)
        assert [(one.digest, one.artifact_type, dict(one.annotations)) for one in found] == [
            (one.descriptor.digest, f"application/x.sig{number}", {"n": str(number)})
            for number, one in enumerate(made)
        ]


def test_two_pushes_of_one_image_use_separate_uploads(tmp_path: Path) -> None:
    layout, root = tmp_path / "l", tmp_path / "s"
    write_layout(layout, "app", [[("a", random.Random(6).randbytes(SIZE))]])
    assert lamina("load", "-i", str(layout), root=root).returncode == 0
    second = threading.Barrier(2, timeout=20)

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "PATCH":
            second.wait()  # both are under way at once
        return None

    with Unruly(rule=rule) as server:
        with (
            running("push", "app", server.image, root=root) as one,
            running("push", "app", server.image, root=root) as two,
        ):
            for process in (one, two):
                _, stderr = process.communicate(timeout=30)
                assert process.returncode == 0, stderr
        assert len({seen.path.partition("?")[0] for seen in patches(server)}) == 2
    assert not list((root / "ingest").glob("push-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_push_resumes_where_it_stopped(tmp_path: Path, number: int) -> None:
    size = 60_000_000  # more than the buffers between the two hold
    layout, root = tmp_path / "l", tmp_path / "s"
    write_layout(layout, "app", [[("a", random.Random(5).randbytes(size))]], compress=False)
    assert lamina("load", "-i", str(layout), root=root).returncode == 0
    reached = threading.Event()

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method != "PATCH" or len(patches(server)) > 1:
            return None
        reached.set()
        return _Half(server)

    class _Half(Answer):
        """Takes half, and then waits."""

        def __init__(self, server: Unruly) -> None:
            super().__init__(cut=size // 2, stall=True)
            self.server = server

    with Unruly(rule=rule) as server:
        with running("push", "app", server.image, root=root) as process:
            assert reached.wait(20)
            deadline = time.monotonic() + 20
            while patches(server)[0].received < size // 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(number)
            start = time.monotonic()
            _, stderr = process.communicate(timeout=10)
            assert time.monotonic() - start < 1.0
        assert b"Traceback" not in stderr
        done = lamina("push", "app", server.image, root=root)
        assert done.returncode == 0, done.stderr
        second = patches(server)[1]
        assert second.headers["content-range"].startswith(f"{size // 2}-")
        assert sum(one.received for one in patches(server)) < size * 1.02
        assert not list((root / "ingest").glob("push-*"))
        assert size > SMALL
