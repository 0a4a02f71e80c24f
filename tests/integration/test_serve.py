"""`lamina serve` with other clients, and after lost connections."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import SystemFailure, UsageError
from lamina.serve.server import RegistryServer
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.manifest import build_index, build_manifest
from lamina.store.gc import collect
from lamina.store.members import Members
from lamina.store.remove import remove_images
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import lamina, running, write_layout

CONTENT = random.Random(7).randbytes(700_000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_layout(tmp_path / "l", "app", [[("a", CONTENT)], [("b", b"top")]])
    store = Store.open(str(tmp_path / "s"))
    copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app:1"), ("app", "ghcr.io/me/app:2")])
    return store


@pytest.fixture
def server(store: Store) -> Iterator[RegistryServer]:
    with RegistryServer(store) as server:
        yield server


@pytest.fixture
def writable(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(Store.open(str(tmp_path / "w")), writable=True) as server:
        yield server


def ask(
    server: RegistryServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def manifest_of(server: RegistryServer, name: str = "app", tag: str = "1") -> dict[str, Any]:
    status, _, raw = ask(server, "GET", f"/v2/{name}/manifests/{tag}")
    assert status == 200
    value: dict[str, Any] = json.loads(raw)
    return value


def test_reading(server: RegistryServer, store: Store) -> None:
    assert ask(server, "GET", "/v2/")[0] == 200
    assert json.loads(ask(server, "GET", "/v2/_catalog")[2]) == {"repositories": ["app", "ghcr.io/me/app"]}
    assert json.loads(ask(server, "GET", "/v2/app/tags/list")[2]) == {"name": "app", "tags": ["1"]}
    for path in ("/v2/library/app/manifests/1", "/v2/app/manifests/1", "/v2/me/app/manifests/2?ns=ghcr.io"):
        status, headers, raw = ask(server, "GET", path)
        assert status == 200
        assert headers["content-type"] == mediatype.OCI_MANIFEST
        assert headers["docker-content-digest"] == "sha256:" + hashlib.sha256(raw).hexdigest()
        assert ask(server, "HEAD", path)[1]["content-length"] == str(len(raw))
        assert ask(server, "GET", path, If_None_Match=headers["etag"])[0] == 304
    layer = manifest_of(server)["layers"][0]
    path = f"/v2/app/blobs/{layer['digest']}"
    whole = ask(server, "GET", path)[2]
    assert "sha256:" + hashlib.sha256(whole).hexdigest() == layer["digest"]
    status, headers, part = ask(server, "GET", path, Range="bytes=1000-1999")
    assert (status, part, headers["content-range"]) == (206, whole[1000:2000], f"bytes 1000-1999/{len(whole)}")
    assert ask(server, "GET", path, Range=f"bytes={len(whole)}-")[0] == 416
    assert ask(server, "HEAD", path)[2] == b""


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/app/manifests/9", 404),
        ("GET", "/v2/none/tags/list", 404),
        ("GET", f"/v2/app/blobs/sha256:{'0' * 64}", 404),
        ("GET", "/v2/app/blobs/sha256:zz", 400),
        ("GET", "/v2/app/blobs/sha256:../../../../etc/passwd", 400),
        ("POST", "/v2/app/blobs/uploads/", 405),
        ("PUT", "/v2/app/manifests/1", 405),
        ("DELETE", "/v2/app/manifests/1", 405),
        ("GET", "/v2/app/blobs/uploads/../../x", 405),
        ("GET", "/nothing", 404),
        ("PUT", "/v2/", 405),
    ],
)
def test_invalid_requests_are_refused(server: RegistryServer, method: str, path: str, status: int) -> None:
    found, _, body = ask(server, method, path)
    assert found == status
    assert json.loads(body)["errors"][0]["code"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "127.0.0.1:5000"}, 200),
        ({"Host": "[::1]:5000"}, 200),
        ({"Host": "evil.example.com"}, 403),
        ({"Host": "evil.example.com:5000"}, 403),
        ({"Origin": "https://evil.example.com"}, 403),
    ],
)
def test_web_pages_are_kept_out(server: RegistryServer, headers: dict[str, str], status: int) -> None:
    assert ask(server, "GET", "/v2/", **headers)[0] == status


def test_garbage_does_not_stop_it(server: RegistryServer) -> None:
    for raw in (
        b"\0\1\2\r\n\r\n",
        b"GET " + b"/" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"GET /v2/ HTTP/9\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            try:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError:  # it may hang up first
                pass
    assert ask(server, "GET", "/v2/")[0] == 200


def begin(server: RegistryServer) -> str:
    status, headers, _ = ask(server, "POST", "/v2/new/app/blobs/uploads/")
    assert status == 202
    return headers["location"]


def test_a_tls_handshake_is_answered_in_plain_http(server: RegistryServer) -> None:
    """By its first bytes docker, BuildKit and others know that they may try again without TLS."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as one:
        one.sendall(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\r\n")
        assert one.recv(100).startswith(b"HTTP/1.1 400 ")


def test_upload_survives_a_cut_and_a_restart(tmp_path: Path) -> None:
    root = tmp_path / "w"
    digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    with RegistryServer(Store.open(str(root)), writable=True) as server:
        location = begin(server)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            head = f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
            connection.sendall(head.encode() + CONTENT[:300_000])
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and ask(server, "GET", location)[1].get("range") != "0-299999":
                time.sleep(0.01)
        assert ask(server, "GET", location)[1]["range"] == "0-299999"
    with RegistryServer(Store.open(str(root)), writable=True) as server:
        status, headers, _ = ask(server, "PATCH", location, CONTENT[:5], Content_Range="0-4")
        assert (status, headers["range"]) == (416, "0-299999")
        size = len(CONTENT)
        assert ask(server, "PATCH", location, CONTENT[300_000:], Content_Range=f"300000-{size - 1}")[0] == 202
        assert ask(server, "PUT", f"{location}?digest={digest}", b"")[0] == 201
        assert ask(server, "GET", f"/v2/new/app/blobs/{digest}")[2] == CONTENT
        assert not list((root / "ingest").iterdir())


def test_wrong_digest_never_becomes_a_blob(writable: RegistryServer, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    for digest in (wrong, "sha512:" + "0" * 128, "md5:" + "0" * 32):
        status, _, body = ask(writable, "PUT", f"{begin(writable)}?digest={digest}", CONTENT)
        assert (status, json.loads(body)["errors"][0]["code"]) == (400, "DIGEST_INVALID")
    assert not [name for _, _, names in os.walk(tmp_path / "w/blobs") for name in names]
    assert not list((tmp_path / "w/ingest").iterdir())


def test_chunked_transfer_encoding(writable: RegistryServer) -> None:
    digest = "sha256:" + hashlib.sha256(b"abcdef").hexdigest()
    connection = http.client.HTTPConnection("127.0.0.1", writable.port, timeout=10)
    connection.request("PUT", f"{begin(writable)}?digest={digest}", iter([b"abc", b"def"]), encode_chunked=True)
    assert connection.getresponse().status == 201
    connection.close()


def test_deleted_tag_leaves_an_untagged_image_only_where_it_was_the_last(store: Store, tmp_path: Path) -> None:
    copy(store, target := Store.open(str(tmp_path / "t")), [("app:1", f"app:{tag}") for tag in ("1", "2")])
    ((_, image), _) = target.names()
    with RegistryServer(target, writable=True) as server:
        path = f"/v2/app/manifests/{image.digest}"
        assert ask(server, "DELETE", "/v2/app/manifests/1")[0] == 202
        assert [name for name, _ in target.names()] == ["docker.io/library/app:2"]
        assert ask(server, "DELETE", "/v2/app/manifests/1")[0] == 404
        assert ask(server, "DELETE", "/v2/app/manifests/2")[0] == 202
        assert [(name, one.digest) for name, one in target.names()] == [("", image.digest)]
        assert ask(server, "GET", path)[0] == 200
        assert json.loads(ask(server, "GET", "/v2/app/tags/list")[2]) == {"name": "app", "tags": []}
        assert ask(server, "DELETE", path)[0] == 202
        assert list(target.names()) == []
        assert ask(server, "GET", path)[0] == 404


def test_delete_by_digest_spares_other_repositories(store: Store, tmp_path: Path) -> None:
    copy(
        store, target := Store.open(str(tmp_path / "t")), [("app:1", name) for name in ("app:1", "app:2", "other:1")]
    )
    digest = next(target.names())[1].digest
    with RegistryServer(target, writable=True) as server:
        assert ask(server, "DELETE", f"/v2/app/manifests/{digest}")[0] == 202
        assert [name for name, _ in target.names()] == ["docker.io/library/other:1"]
        assert ask(server, "GET", "/v2/other/manifests/1")[0] == 200


def test_manifest_of_another_repository_is_not_taken_for_copied(store: Store, tmp_path: Path) -> None:
    """Clients ask by digest before they send: what is only named elsewhere would go with that name."""
    subject = next(store.names())[1]
    copy(store, target := Store.open(str(tmp_path / "t")), [("app:1", "app:1")])
    referrer = build_manifest(
        Descriptor.of("application/vnd.oci.empty.v1+json", b"{}"), [], subject=subject, artifact_type="a/b"
    )
    with RegistryServer(target, writable=True) as server:
        for repository in ("app", "copy"):
            status = ask(server, "POST", f"/v2/{repository}/blobs/uploads/?digest={referrer.config.digest}", b"{}")[0]
            assert status == 201
            path = f"/v2/{repository}/manifests/{referrer.descriptor.digest}"
            assert ask(server, "HEAD", path)[0] == 404
            kind = {"Content-Type": referrer.descriptor.media_type}
            assert ask(server, "PUT", path, referrer.raw, **kind)[0] == 201
            assert ask(server, "GET", path)[0] == 200
            found = json.loads(ask(server, "GET", f"/v2/{repository}/referrers/{subject.digest}")[2])["manifests"]
            assert [one["digest"] for one in found] == [str(referrer.descriptor.digest)]


def test_children_of_an_index_are_found_where_it_is(store: Store, tmp_path: Path) -> None:
    child = next(store.names())[1]
    target = Store.open(str(tmp_path / "t"))
    copy(store, target, [("app:1", "other:1")])
    index = build_index([child])
    with target.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
        session.tag("app:all", index.descriptor)
    with RegistryServer(target) as server:
        assert ask(server, "GET", f"/v2/app/manifests/{child.digest}")[0] == 200
        assert ask(server, "GET", f"/v2/third/manifests/{child.digest}")[0] == 404


def test_manifests_are_checked(writable: RegistryServer) -> None:
    missing = {"mediaType": mediatype.OCI_LAYER, "digest": "sha256:" + "0" * 64, "size": 5}
    manifest = {"schemaVersion": 2, "mediaType": mediatype.OCI_MANIFEST, "config": missing, "layers": []}
    for body, status in ((json.dumps(manifest).encode(), 404), (b"{", 400), (b"[]", 400), (b"x" * (5 << 20), 413)):
        found, _, _ = ask(writable, "PUT", "/v2/new/app/manifests/1", body, Content_Type=mediatype.OCI_MANIFEST)
        assert found == status
    assert ask(writable, "GET", "/v2/new/app/tags/list")[0] == 404


def test_gc_leaves_what_was_uploaded_but_not_named(writable: RegistryServer, tmp_path: Path) -> None:
    digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    assert ask(writable, "PUT", f"{begin(writable)}?digest={digest}", CONTENT)[0] == 201
    collect(Store.open(str(tmp_path / "w")))
    assert ask(writable, "HEAD", f"/v2/new/app/blobs/{digest}")[0] == 200


def test_gc_deletes_images_that_lost_their_name_while_the_server_runs(
    writable: RegistryServer, tmp_path: Path
) -> None:
    """A name protects what was pushed; the server itself protects only what waits for one, also for somebody else."""
    write_layout(tmp_path / "l", "app", [[("a", b"1")]])
    store = Store.open(str(tmp_path / "w"))
    with_name, waiting = Store.open(str(tmp_path / "mine")), hashlib.sha256(CONTENT).hexdigest()
    copy(LayoutReader(str(tmp_path / "l")), with_name, [("app", "app")])
    assert ask(writable, "PUT", f"{begin(writable)}?digest=sha256:{waiting}", CONTENT)[0] == 201
    target = f"{writable.name}/other/app:1"
    assert lamina("push", "-q", "app", target, root=tmp_path / "mine").returncode == 0
    assert [list(root.digests) for root in store.roots] == [[]]
    assert [digest.encoded for digest in Members(store.paths).protected()] == [waiting]
    collect(store)
    assert len(list(store.blobs)) == 4
    remove_images(store, [name for name, _ in store.names()])
    assert [digest.encoded for digest in store.blobs] == [waiting]
    assert lamina("push", "-q", "app", target, root=tmp_path / "mine").returncode == 0
    assert len(list(store.blobs)) == 4


def test_a_push_that_has_its_name_succeeds_where_its_protection_cant_be_ended(
    writable: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layout(tmp_path / "l", "app", [[("a", b"1")]])
    assert lamina("load", "-i", str(tmp_path / "l"), root=tmp_path / "mine").returncode == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Members, "settle", full)
    assert lamina("push", "-q", "app", f"{writable.name}/x/app:1", root=tmp_path / "mine").returncode == 0
    assert len(Members(Store.open(str(tmp_path / "w")).paths).protected()) == 3


def test_only_loopback_addresses_and_only_a_writable_place_with_writable(store: Store, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "example.com", "::"):
        with pytest.raises(UsageError, match="loopback"):
            RegistryServer(store, host=host)
    with pytest.raises(UsageError, match="can't be written to"):
        RegistryServer(LayoutReader(str(tmp_path / "l")), writable=True)
    with RegistryServer(store) as server, pytest.raises(SystemFailure):
        RegistryServer(store, port=server.port)


def test_a_layout_can_be_served(store: Store, tmp_path: Path) -> None:
    with RegistryServer(LayoutReader(str(tmp_path / "l"))) as server:
        done = lamina("pull", f"{server.name}/app:latest", root=tmp_path / "x")
        assert done.returncode == 0, done.stderr
        assert lamina("validate", f"{server.name}/app:latest", "-q", root=tmp_path / "x").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_at_once_with_an_open_connection(store: Store, tmp_path: Path, number: int) -> None:
    with running("serve", "--port", "0", root=tmp_path / "s") as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.endswith("(read-only)\n")
        port = int(line.split(" on http://127.0.0.1:")[1].split()[0])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            start = time.monotonic()
            process.send_signal(number)
            _, stderr = process.communicate(timeout=10)
            assert time.monotonic() - start < 8  # far less than an idle connection may last
    assert (process.returncode, stderr) == (0, b"")


def test_store_stays_whole_when_the_server_is_killed(tmp_path: Path) -> None:
    root = tmp_path / "w"
    write_layout(tmp_path / "l", "app", [[("a", CONTENT)]])
    with running("serve", "--port", "0", "--writable", root=root) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().decode().split(" on http://127.0.0.1:")[1].split()[0])
        target = f"docker://127.0.0.1:{port}/x/app:1"
        assert lamina("copy", f"oci:{tmp_path}/l:app", target, root=tmp_path / "o").returncode == 0
        process.kill()
        process.communicate()
    assert lamina("fsck", root=root).returncode == 0
    assert lamina("cat", "x/app:1", "/a", root=root).stdout == CONTENT
