"""What registries do differently: pages, mounts, chunks, digests, referrers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import re
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.errors import DigestMismatch, InvalidDocument, RemoteFailure, Unsupported, UsageError
from lamina.remote.client import Access, Client
from lamina.remote.credentials import Credential
from lamina.remote.list import catalog
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.serve.server import RegistryServer
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from socks_proxy import SocksProxy
from support import lamina, write_layout
from unruly import Answer, Seen, Unruly


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout")
    write_layout(directory, "app", [[("a", random.Random(3).randbytes(3_000_000))], [("c", b"small")]])
    return directory


def repository(server: Unruly, **changes: object) -> Repository:
    return Repository(server.image, Access(**{"first_wait": 0.001, **changes}), Registries())  # type: ignore[arg-type]


@pytest.mark.parametrize("absolute", [False, True])
def test_pages_are_followed_by_their_link(absolute: bool) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "/tags/list" not in seen.path and "_catalog" not in seen.path:
            return None
        path = seen.path.partition("?")[0]
        number = int(seen.path.partition("page=")[2] or 0)
        key = "tags" if "tags" in path else "repositories"
        body = json.dumps({"name": "app", key: [f"t{number}"]}).encode()
        start = f"http://{server.name}" if absolute else ""
        link = {"Link": f'<{start}{path}?page={number + 1}>; rel="next"'} if number < 3 else {}
        return Answer(200, link, body)

    with Unruly(rule=rule) as server:
        assert list(repository(server).tags()) == ["t0", "t1", "t2", "t3"]
        assert len(list(catalog(Client(server.name, Access())))) == 4


@pytest.mark.parametrize("link", ["</v2/app/tags/list>", "<http://192.0.2.1/v2/app/tags/list>", "<https://[::1>"])
def test_pages_that_loop_or_lead_to_another_host_are_errors(link: str) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(200, {"Link": f'{link}; rel="next"'}, b'{"tags": ["a"]}') if "/tags/" in seen.path else None

    with Unruly(rule=rule) as server, pytest.raises(RemoteFailure, match="next page"):
        list(repository(server).tags())


@pytest.mark.parametrize("body", [b'{"tags": null}', b"{}"])
def test_no_tags(body: bytes) -> None:
    with Unruly(rule=lambda server, seen: Answer(200, {}, body) if "/tags/" in seen.path else None) as server:
        assert list(repository(server).tags()) == []


def test_digest_is_a_head_alone(layout: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        answer = server.plain(seen)
        if "/manifests/" in seen.path:
            answer.headers["Docker-Content-Digest"] = "sha256:" + hashlib.sha256(answer.body).hexdigest()
        return answer

    with Unruly(layout, rule=rule) as server:
        found = repository(server).head(server.image)
        assert [seen.method for seen in server.requests("HEAD", "/manifests/")] == ["HEAD"]
        assert not server.requests("GET", "/manifests/")
        server.rule = None  # without the header it has to be computed
        assert repository(server).head(server.image).digest == found.digest
        assert len(server.requests("GET", "/manifests/")) == 1


def test_a_stated_digest_is_verified(layout: Path) -> None:
    algorithm = ["sha256"]

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        answer = server.plain(seen)
        if "/manifests/" in seen.path:
            digest = hashlib.new(algorithm[0], answer.body + (b"x" if algorithm[0] == "sha256" else b"")).hexdigest()
            answer.headers["Docker-Content-Digest"] = f"{algorithm[0]}:{digest}"
        return answer

    with Unruly(layout, rule=rule) as server:
        with pytest.raises(DigestMismatch):
            repository(server).resolve(server.image)
        algorithm[0] = "sha512"
        assert repository(server).resolve(server.image).digest.algorithm == "sha512"


def test_a_mount_requests_both_scopes_and_a_202_continues_as_an_upload(layout: Path) -> None:
    scopes: list[str] = []

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.path.startswith("/token"):
            scopes.append(seen.path)
            return Answer(200, {}, b'{"token":"t"}')
        if seen.headers.get("authorization") != "Bearer t":
            return Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{server.name}/token",service="s"'})
        return None  # a mount is answered 202 with an upload, as registries do that don't mount

    with Unruly(rule=rule) as server:
        target = Repository(
            server.image, Access(first_wait=0.001), Registries(), mount_from=lambda d: [f"{server.name}/base"]
        )
        copy(LayoutReader(str(layout)), target, [("app", server.image)])
        assert any("repository%3Abase%3Apull" in path and "repository%3Aapp%3Apull%2Cpush" in path for path in scopes)
        posts = server.requests("POST", "/uploads/")
        assert len(posts) == 3  # one session a blob: the one that the mount opened is used
        assert all("mount=" in seen.path for seen in posts)
        assert "1" in server.manifests


def test_monolithic_put_has_no_content_range(layout: Path) -> None:
    with Unruly() as server:
        copy(LayoutReader(str(layout)), repository(server), [("app", server.image)])
        puts = server.requests("PUT", "/uploads/")
        assert puts
        assert all("content-range" not in seen.headers for seen in puts)


def test_least_chunk_of_the_registry_is_kept(layout: Path) -> None:
    least = 2_500_000

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "POST":
            answer = server.taken(seen, b"")
            answer.headers["OCI-Chunk-Min-Length"] = str(least)
            return answer
        if seen.method == "PATCH" and "content-range" not in seen.headers:
            return Answer(413)
        return None

    with Unruly(rule=rule) as server:
        copy(LayoutReader(str(layout)), repository(server), [("app", server.image)])
        sizes = [int(seen.headers["content-length"]) for seen in server.requests("PATCH", "/uploads/")[1:]]
        assert sizes[0] == least


def test_a_damaged_local_blob_cancels_the_upload(tmp_path: Path) -> None:
    write_layout(tmp_path, "app", [[("a", random.Random(4).randbytes(2_000_000))]])
    large = max((tmp_path / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(large.read_bytes())
    data[1_000_000] ^= 1
    large.write_bytes(data)
    with Unruly() as server:
        with pytest.raises(DigestMismatch):
            copy(LayoutReader(str(tmp_path)), repository(server), [("app", server.image)])
        assert len(server.requests("DELETE", "/uploads/")) == 1


def test_referrers_in_pages_and_twice(layout: Path) -> None:
    with Unruly(layout) as server:
        subject = repository(server).resolve(server.image)
        one = Descriptor.of(mediatype.OCI_MANIFEST, b"1")

        def rule(server: Unruly, seen: Seen) -> Answer | None:
            if "/referrers/" not in seen.path:
                return None
            last = "page=1" in seen.path
            entries = [one.to_json(), Descriptor.of(mediatype.OCI_MANIFEST, b"2" if last else b"3").to_json()]
            link = {} if last else {"Link": f'<{seen.path}?page=1>; rel="next"'}
            return Answer(200, link, json.dumps({"schemaVersion": 2, "manifests": entries}).encode())

        server.rule = rule
        assert len(repository(server).referrers(subject.digest)) == 3


def test_signatures_by_tag_travel_with_referrers(layout: Path) -> None:
    """cosign names a signature after the digest that it signs."""
    with Unruly(layout) as source, Unruly() as target:
        top = repository(source).resolve(source.image)
        empty = Descriptor.of(mediatype.OCI_EMPTY, b"{}")
        signature = build_manifest(empty, [], artifact_type="application/x.sig")
        source.blobs[str(empty.digest)] = b"{}"
        tag = str(top.digest).replace(":", "-") + ".sig"
        for name in (tag, str(signature.descriptor.digest)):
            source.manifests[name] = (signature.media_type, signature.raw)
        copy(repository(source), repository(target), [(source.image, target.image)])
        assert tag not in target.manifests
        copy(repository(source), repository(target), [(source.image, target.image)], referrers=True)
        assert target.manifests[tag][1] == signature.raw


def test_deleting_where_tags_can_not_be_deleted(layout: Path) -> None:
    with Unruly(layout, rule=lambda server, seen: Answer(405) if seen.method == "DELETE" else None) as server:
        with pytest.raises(Unsupported, match="can't delete tags") as caught:
            repository(server).untag(server.image)
        assert "@sha256:" in str(caught.value)


def test_manifest_of_four_mebibytes_passes(tmp_path: Path) -> None:
    empty = Descriptor.of(mediatype.OCI_EMPTY, b"{}")
    manifest = build_manifest(
        empty, [], artifact_type="application/x", annotations={"pad": "x" * (4 * 1024 * 1024 - 500)}
    )
    writer = LayoutWriter(str(tmp_path / "l"))
    with writer.session("test") as session:
        session.put_blob(empty, BytesBlob(empty, b"{}"))
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("big", manifest.descriptor)
    with RegistryServer(Store.open(str(tmp_path / "s")), writable=True) as server:
        target = f"docker://{server.name}/big:1"
        assert lamina("copy", f"oci:{tmp_path}/l:big", target, root=tmp_path / "x").returncode == 0
        assert lamina("copy", target, f"oci:{tmp_path}/back:big", root=tmp_path / "x").returncode == 0
        assert LayoutReader(str(tmp_path / "back")).resolve("big").digest == manifest.descriptor.digest


def test_foreign_layers_are_not_pushed(tmp_path: Path) -> None:
    foreign = Descriptor.of(mediatype.OCI_FOREIGN_GZIP, b"licensed")
    empty = Descriptor.of(mediatype.OCI_EMPTY, b"{}")
    manifest = build_manifest(empty, [foreign], artifact_type="application/x")
    writer = LayoutWriter(str(tmp_path))
    with writer.session("test") as session:
        for descriptor, data in ((empty, b"{}"), (foreign, b"licensed")):
            session.put_blob(descriptor, BytesBlob(descriptor, data))
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("app", manifest.descriptor)
    with Unruly() as server:
        copy(LayoutReader(str(tmp_path)), repository(server), [("app", server.image)])
        assert list(server.blobs) == [str(empty.digest)]
        assert "1" in server.manifests


def test_proxy_of_the_environment_is_asked_and_loopback_is_not(layout: Path, tmp_path: Path) -> None:
    with Unruly(layout) as server, Unruly(layout) as proxy:
        env = {"HTTP_PROXY": f"http://me:pw@{proxy.name}", "http_proxy": f"http://me:pw@{proxy.name}"}
        assert lamina("digest", server.image, "--tls-verify=false", root=tmp_path, **env).returncode == 0
        assert not proxy.seen
        # a host that only the proxy can reach
        env |= {"HTTPS_PROXY": f"http://{proxy.name}", "https_proxy": f"http://{proxy.name}"}
        lamina("digest", "registry.invalid/app:1", "--tls-verify=false", root=tmp_path, **env)
        asked = [(seen.method, seen.path) for seen in proxy.seen]
        assert ("CONNECT", "registry.invalid:443") in asked or ("GET", "http://registry.invalid/v2/") in asked


@pytest.mark.parametrize(
    "place", ["host:SECRET", "[::1", "", ":3128", "127.0.0.1:99999", "me:SECRET@host:80:90", "me:SECRET@"]
)
def test_an_invalid_proxy_url_is_an_error(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{place}")
    with pytest.raises(UsageError, match="HTTPS_PROXY") as raised:
        Client("registry.invalid", Access()).request("GET", "/v2/")
    assert "SECRET" not in str(raised.value)


def test_password_of_a_proxy_has_any_letters(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Unruly(layout) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:%E2%82%AC\u20ac%FF@{proxy.name}")
        client = Client("registry.invalid", Access(attempts=1), insecure=True)
        client._base_url = "http://registry.invalid"
        client.request("GET", "/v2/").release()
        secret = base64.b64encode(b"me:\xe2\x82\xac\xe2\x82\xac\xff").decode()
        assert proxy.seen[0].headers["proxy-authorization"] == f"Basic {secret}"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("login", [None, ("me", "p@ss:w\u00f6rd")])
def test_socks_proxy_is_gone_through_and_resolves_names(
    layout: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str, login: tuple[str, str] | None
) -> None:
    pytest.importorskip("socks")
    with Unruly(layout) as server, SocksProxy({"registry.invalid": place_of(server)}, login) as proxy:
        who = f"{quote(login[0])}:{quote(login[1])}@" if login else ""
        monkeypatch.setenv(variable, f"{scheme}://{who}{proxy.place}")
        client = Client("registry.invalid", Access(attempts=1), insecure=True)
        client._base_url = "http://registry.invalid"
        client.request("GET", "/v2/").release()
        client.close()
        assert [seen.path for seen in server.seen] == ["/v2/"]  # the path alone: SOCKS proxies read no HTTP
        assert proxy.asked == ["registry.invalid"]
        assert "proxy-authorization" not in server.seen[0].headers


@pytest.mark.parametrize(
    ("address", "login", "said"),
    [
        ("socks5://{place}", None, "the proxy fails: .*unreachable"),
        ("socks5://me:SECRET@{place}", ("me", "other"), "the proxy fails: .*authentication"),
        ("socks5://{place}", ("me", "other"), "the proxy fails: "),
        ("socks5://127.0.0.1:1", None, "the proxy fails: Connection refused"),
    ],
)
def test_failures_of_a_socks_proxy_name_the_proxy(
    monkeypatch: pytest.MonkeyPatch, address: str, login: tuple[str, str] | None, said: str
) -> None:
    pytest.importorskip("socks")
    with SocksProxy({}, login) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", address.format(place=proxy.place))
        with pytest.raises(RemoteFailure, match=said) as raised:
            Client("registry.invalid", Access(attempts=1)).request("GET", "/v2/")
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("scheme", "message", "hint"),
    [
        ("socks5", "PySocks is not installed", r"pip install 'lamina\[socks\]'"),
        ("SOCKS5H", "PySocks is not installed", r"pip install 'lamina\[socks\]'"),
        ("socks4", "the proxy scheme socks4: is not supported", "socks5://HOST:PORT"),
        ("quic", "the proxy scheme quic: is not supported", "socks5://HOST:PORT"),
    ],
)
def test_proxy_that_cannot_be_used_is_refused_and_never_left_out(
    layout: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, message: str, hint: str
) -> None:
    monkeypatch.setitem(sys.modules, "socks", None)  # as where it is not installed
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:1")
    with pytest.raises(Unsupported, match=message) as raised:
        Client("registry.invalid", Access()).request("GET", "/v2/")
    assert re.search(hint, raised.value.hint or "")


def place_of(server: Unruly) -> tuple[str, int]:
    host, _, port = server.name.partition(":")
    return host, int(port)


def test_credentials_of_one_host_are_not_for_another(layout: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def credential(host: str, path: str) -> Credential | None:
        asked.append(f"{host}/{path}")
        return None

    challenge = Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
    with Unruly(layout, rule=lambda server, seen: challenge if seen.path != "/v2/" else None) as server:
        with pytest.raises(Exception, match="denies access"):
            repository(server, credential=credential).resolve(server.image)
        assert asked == [f"{server.name}/app"]


def test_memory_of_a_pull_is_bounded(tmp_path: Path) -> None:
    """A layer of 150,000 entries and one of 400 MB: their size is not what memory grows with."""
    many, large = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=many, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(150_000):
            tar.addfile(tarfile.TarInfo(f"usr/lib/package-{number // 50}/file-{number}.js"))
            tar.members = []  # type: ignore[attr-defined]
    block = random.Random(1).randbytes(1 << 20)
    with tarfile.open(fileobj=large, mode="w") as tar:
        info = tarfile.TarInfo("large")
        info.size = 100 << 20
        tar.addfile(info, io.BytesIO(block * 100))
    write_layout(tmp_path / "l", "app", [many.getvalue(), large.getvalue()], compress=False)
    with RegistryServer(LayoutReader(str(tmp_path / "l"))) as server:
        words = ["--root", str(tmp_path / "s"), "pull", "-q", f"{server.name}/app"]
        # its own high-water mark: what wait4 tells counts the pages of the process that forked
        code = (
            f"import sys\nfrom lamina.cli import run\nassert run({words!r}) == 0\n"
            "print([l for l in open('/proc/self/status') if 'VmHWM' in l][0].split()[1], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stderr.split()[-1]) < 100_000  # KiB


def blob_of(size: int) -> tuple[Descriptor, BytesBlob]:
    data = random.Random(size).randbytes(size)
    descriptor = Descriptor.of("application/octet-stream", data)
    return descriptor, BytesBlob(descriptor, data)


@pytest.mark.parametrize(
    ("size", "answer"),
    [(1000, Answer(cut=10)), *((size, Answer(status)) for size in (1000, 600_000) for status in (408, 429, 503))],
)
def test_end_of_an_upload_is_tried_again(size: int, answer: Answer) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return answer if seen.method == "PUT" and len(server.requests("PUT", "/uploads/")) == 1 else None

    with Unruly(rule=rule) as server:
        descriptor, blob = blob_of(size)
        with repository(server).session("test") as session:
            assert session.put_blob(descriptor, blob)
        assert str(descriptor.digest) in server.blobs


@pytest.mark.parametrize("status", [400, 403, 405, 501])
def test_a_blob_that_can_not_be_mounted_is_sent(status: int) -> None:
    body = b'{"errors":[{"code":"UNSUPPORTED","message":"no"}]}'
    with Unruly(rule=lambda server, seen: Answer(status, {}, body) if "mount=" in seen.path else None) as server:
        descriptor, blob = blob_of(1000)
        target = Repository(server.image, Access(), Registries(), mount_from=lambda d: [f"{server.name}/other"])
        with target.session("test") as session:
            assert session.put_blob(descriptor, blob)
        assert str(descriptor.digest) in server.blobs


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500, 501])
def test_a_recorded_upload_that_is_unknown_is_forgotten(tmp_path: Path, status: int) -> None:
    store = Store.open(str(tmp_path))

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(status) if seen.method == "GET" and "/uploads/" in seen.path else None

    with Unruly(rule=rule) as server:
        descriptor, blob = blob_of(600_000)
        with store.push_journal.note(f"{server.name}/app@{descriptor.digest}") as note:
            assert note is not None
            note.set(f"http://{server.name}/v2/app/blobs/uploads/old")
        target = Repository(server.image, Access(first_wait=0.001), Registries(), journal=store.push_journal)
        with target.session("test") as session:
            assert session.put_blob(descriptor, blob)
        assert not list((tmp_path / "ingest").iterdir())


def test_first_answer_of_a_blob_that_can_not_be_used(layout: Path) -> None:
    with Unruly(
        layout, rule=lambda server, seen: Answer(206, {}, b"x") if "/blobs/" in seen.path else None
    ) as server:
        digest, data = max(server.blobs.items(), key=lambda item: len(item[1]))
        with pytest.raises(RemoteFailure, match="another range"):
            repository(server).blob(
                Descriptor("application/octet-stream", Digest.parse(digest), len(data))
            ).open().read()


def test_answers_that_are_not_lists_are_errors(layout: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "/referrers/" in seen.path:
            return Answer(200, {}, b'{"schemaVersion":2,"manifests":5}')
        if "/tags/" in seen.path:
            return Answer(200, {"Link": "<" * 60_000}, b'{"tags":["1"]}')
        return Answer(200, {}, b'{"repositories":["*","a*b"]}') if "_catalog" in seen.path else None

    with Unruly(layout, rule=rule) as server:
        with pytest.raises(InvalidDocument, match="not a list"):
            repository(server).referrers(Digest.of(b""))
        with pytest.raises(RemoteFailure, match="is invalid"):
            list(repository(server).tags())
        done = lamina(
            "sync", f"docker://{server.name}/*:1", "--dry-run", "--format", "json", root=layout.parent / "none"
        )
        assert json.loads(done.stdout) == []


def test_target_pinned_to_another_digest_is_refused(layout: Path, tmp_path: Path) -> None:
    with Unruly() as server:
        for target in (f"docker://{server.name}/app@{Digest.of(b'other')}", f"example.com/app@{Digest.of(b'other')}"):
            done = lamina("copy", f"oci:{layout}:app", target, root=tmp_path)
            assert done.returncode == 5, done.stderr
        assert not server.manifests
        assert list(Store.open(str(tmp_path)).names()) == []


def test_index_that_calls_a_layer_a_manifest_does_not_have_it_read(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [[("a", random.Random(8).randbytes(5_000_000))]])
    reader = LayoutReader(str(tmp_path / "l"))
    top = reader.resolve("app")
    layer = json.loads(reader.manifest(top))["layers"][0]
    host = Platform.host().to_json()
    entries = [
        {**top.to_json(), "platform": host},
        {**layer, "mediaType": mediatype.OCI_MANIFEST, "platform": {"os": "plan9", "architecture": "mips"}},
    ]
    raw = json.dumps({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries}).encode()
    index = Descriptor.of(mediatype.OCI_INDEX, raw)
    writer = LayoutWriter(str(tmp_path / "l"))
    with writer.session("test") as session:
        session.put_manifest(index, raw)
        session.tag("index", index)
    store = Store.open(str(tmp_path / "s"))
    copy(LayoutReader(str(tmp_path / "l")), store, [("index", "app")])
    assert store.stack("app", Platform.host()).layers


@pytest.mark.parametrize("header", ["Retry-After", "OCI-Chunk-Min-Length", "Content-Length"])
def test_invalid_numbers_in_headers_are_ignored(layout: Path, header: str) -> None:
    """str.isdigit takes a superscript, int does not."""

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "HEAD" and header == "Content-Length":
            return Answer(200, {header: "\u00b2"})
        if seen.method == "POST" and header == "OCI-Chunk-Min-Length":
            answer = server.taken(seen, b"")
            answer.headers[header] = "\u00b2"
            return answer
        if seen.method == "POST" and header == "Retry-After" and len(server.requests("POST", "/uploads/")) == 1:
            return Answer(429, {header: "\u00b2"})
        return None

    with Unruly(rule=rule) as server:
        descriptor, blob = blob_of(600_000)
        with repository(server).session("test") as session:
            assert session.put_blob(descriptor, blob)


@pytest.mark.parametrize("path", ["/v2/app/tags/list?" + "a=b&" * 101, "http://[/v2/", "/v2/app/tags/list?n=%C2%B2"])
def test_bad_addresses_have_an_answer(layout: Path, path: str) -> None:
    with (
        RegistryServer(LayoutReader(str(layout))) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_other_processes_can_write_while_a_server_runs(layout: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with RegistryServer(store, writable=True):
        thread = threading.Thread(target=copy, args=(LayoutReader(str(layout)), store, [("app", "app")]), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert [name for name, _ in store.names()] == ["docker.io/library/app:latest"]
