"""The kind of an error depends on its type, not on the text of its message."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import re
from pathlib import Path

import pytest

from lamina.errors import (
    AccessDenied,
    DiskFull,
    InvalidDocument,
    LaminaError,
    RateLimited,
    RemoteFailure,
    StoreDamaged,
    SystemFailure,
    Unsupported,
)
from lamina.host.files import failure
from lamina.objects.failures import StorageFailure
from lamina.serve.busy import Busy
from lamina.serve.failures import answered, fault, plain
from lamina.serve.http_message import Request, Response
from lamina.serve.routes import parse_target
from lamina.serve.server import RegistryServer
from lamina.store.store import Store


def put(server: RegistryServer, path: str, body: bytes) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("PUT", path, body, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"})
        answer = connection.getresponse()
        errors = json.loads(answer.read() or b'{"errors":[{"code":""}]}')["errors"]
        assert "/var" not in str(errors)  # directories of the server
        return answer.status, errors[0]["code"]
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DiskFull("no room on /var"), 507),
        (failure(OSError(errno.EMFILE, "", "/var/x")), 503),
        (SystemFailure("a full moon"), 500),
        (StoreDamaged("the full index is broken"), 500),
        (Unsupported("full"), 500),
    ],
)
def test_a_full_disk_is_507(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: LaminaError, status: int) -> None:
    def answer(request: object) -> None:
        raise error

    with RegistryServer(Store.open(str(tmp_path)), writable=True) as server:
        monkeypatch.setattr(server.api, "answer", answer)
        assert put(server, "/v2/app/manifests/1", b"{}")[0] == status


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("docker.io limits the rate", retry_after=30),
        Busy("too much is being fetched", hint="wait", retry_after=10),
    ],
)
def test_the_limit_of_another_registry_is_no_fault_of_the_storage(error: LaminaError) -> None:
    assert plain(error)[2] == error.message


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (DiskFull("/srv/store/ingest: no space left on device"), 507, "the disk of the registry is full"),
        (failure(OSError(errno.EIO, "Input/output error"), "/srv/store/blobs/sha256/00"), 500, "the registry failed"),
        (StoreDamaged("/srv/store/index.json is damaged"), 500, "the registry failed"),
        (InvalidDocument("/srv/store/index.json: not JSON"), 500, "the registry failed"),
        (AccessDenied("s3://bucket/srv/store denies writing blobs"), 500, "the registry failed"),
        (StorageFailure("s3://bucket/srv/store failed at writing blobs"), 503, "the storage of the registry"),
        (RemoteFailure("docker.io can't be reached"), 502, "docker.io can't be reached"),
        (ZeroDivisionError("/srv/store"), 500, "the server failed"),
    ],
)
def test_clients_get_an_id_and_the_log_the_reason(
    error: LaminaError, status: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = Request("GET", parse_target("/v2/app/manifests/1"), {}, iter(()))

    def answer(request: Request) -> Response:
        raise error

    response = answered(answer, request) if isinstance(error, LaminaError) else fault(error, request)
    said = json.loads(response.body)["errors"][0]["message"]
    ident = response.headers["X-Request-Id"]
    assert response.status == status
    assert re.fullmatch(rf"{text}.* \(request {ident}\)", said)
    assert "/srv" not in said
    logged = caplog.records[-1]
    assert f"request {ident} (GET manifest app 1) failed" in logged.getMessage()
    assert str(error) in caplog.text
    assert bool(logged.exc_info) == (not isinstance(error, LaminaError))


def test_a_manifest_that_speaks_of_digests_is_not_one_with_another_digest(tmp_path: Path) -> None:
    bad = json.dumps({"schemaVersion": 2, "config": {"mediaType": "a/b", "digest": "nothing", "size": 1}}).encode()
    other = json.dumps({"schemaVersion": 2, "digest": 1}).encode()
    with RegistryServer(Store.open(str(tmp_path)), writable=True) as server:
        for body in (bad, other):
            assert put(server, "/v2/app/manifests/1", body) == (400, "MANIFEST_INVALID")
        empty = hashlib.sha256(b"{}").hexdigest()
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{empty}", "size": 2}
        kind = "application/vnd.oci.image.manifest.v1+json"
        good = json.dumps(
            {"schemaVersion": 2, "mediaType": kind, "artifactType": "a/b", "config": config, "layers": []}
        ).encode()
        wrong = "sha256:" + "0" * 64
        assert put(server, f"/v2/app/manifests/{wrong}", good) == (400, "DIGEST_INVALID")
        right = "sha256:" + hashlib.sha256(good).hexdigest()
        assert put(server, f"/v2/app/manifests/{right}", good) == (404, "MANIFEST_BLOB_UNKNOWN")
