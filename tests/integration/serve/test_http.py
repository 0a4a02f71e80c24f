"""The HTTP of the server: what clients may send, in bytes, and what they get."""

from __future__ import annotations

import hashlib
import json
import random
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lamina.errors import DiskFull
from lamina.serve.api import open_api
from lamina.serve.asgi.application import Site
from lamina.serve.asgi.background import in_background
from lamina.serve.asgi.callers import Callers
from lamina.serve.asgi.forwarded import parse_networks
from lamina.serve.asgi.limits import Limits
from lamina.serve.asgi.listen import Address
from lamina.serve.http_message import Request, Response
from lamina.spec import mediatype
from lamina.spec.digest import Digest
from lamina.store.store import Store

CONTENT = random.Random(5).randbytes(1_500_000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
LIMITS = Limits(body=4 << 20, head=8 << 10, connections=100, grace=5)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["errors"][0]["code"])


class Wire:
    """A connection, on which bytes are sent as they are."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.file = self.socket.makefile("rb")

    def send(self, text: str | bytes) -> None:
        self.socket.sendall(text.encode("latin-1") if isinstance(text, str) else text)

    def answer(self, *, head: bool = False) -> Answer:
        """Read one answer; ``head``: that of a HEAD request."""
        line = self.file.readline()
        assert line, "the connection was closed"
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        size = 0 if head or status in (100, 204, 304) else int(headers["content-length"])
        return Answer(status, headers, self.file.read(size))

    def at_end(self) -> bool:
        """Whether the server has closed the connection, and sent nothing more."""
        try:
            return self.file.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@dataclass
class World:
    port: int
    store: Store
    site: Site

    @contextmanager
    def wire(self) -> Iterator[Wire]:
        wire = Wire(self.port)
        try:
            yield wire
        finally:
            wire.close()

    def ask(self, text: str | bytes, *, head: bool = False) -> Answer:
        with self.wire() as wire:
            wire.send(text)
            return wire.answer(head=head)

    def push(self, content: bytes, repository: str = "app") -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        target = f"/v2/{repository}/blobs/uploads/?digest={digest}"
        found = self.ask(request("POST", target, content))
        assert found.status == 201, found
        return digest


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextmanager
def world(directory: Path, limits: Limits = LIMITS, **parts: object) -> Iterator[World]:
    store = Store.open(str(directory / "store"))
    with ExitStack() as stack:
        api = stack.enter_context(open_api(store, writable=True))
        site = Site(api.answer, limits, local=True, **parts)  # type: ignore[arg-type]
        address = stack.enter_context(in_background(site))
        yield World(address.port, store, site)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as found:
        yield found


# blobs


def test_a_blob_comes_whole_in_ranges_and_not_at_all_if_known(server: World) -> None:
    assert server.push(CONTENT) == DIGEST
    target = f"/v2/app/blobs/{DIGEST}"
    with server.wire() as wire:  # all on one connection
        wire.send(request("GET", target))
        whole = wire.answer()
        assert (whole.status, whole.body) == (200, CONTENT)
        assert whole.headers["docker-content-digest"] == DIGEST
        wire.send(request("HEAD", target))
        head = wire.answer(head=True)
        assert (head.status, head.headers["content-length"]) == (200, str(len(CONTENT)))
        for text, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=262143-262145", 262143, 262146),
            ("bytes=-5", len(CONTENT) - 5, len(CONTENT)),
            ("bytes=1000000-", 1000000, len(CONTENT)),
        ):
            wire.send(request("GET", target, Range=text))
            part = wire.answer()
            assert (part.status, part.body) == (206, CONTENT[start:end])
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
        wire.send(request("GET", target, Range=f"bytes={len(CONTENT)}-"))
        assert wire.answer().status == 416
        for known in (whole.headers["etag"], f'"other", {whole.headers["etag"]}', f"W/{whole.headers['etag']}", "*"):
            wire.send(request("GET", target, If_None_Match=known))
            assert wire.answer().status == 304
        wire.send(request("GET", target, If_None_Match='"other"'))
        assert wire.answer().body == CONTENT
        wire.send(request("GET", target, Range="bytes=0-9", If_Range=whole.headers["etag"]))
        assert wire.answer().body == CONTENT[:10]
        wire.send(request("GET", target, Range="bytes=0-9", If_Range='"other"'))
        assert wire.answer().body == CONTENT


def test_an_empty_blob(server: World) -> None:
    digest = server.push(b"")
    assert server.ask(request("GET", f"/v2/app/blobs/{digest}")).body == b""
    assert server.ask(request("GET", f"/v2/app/blobs/{digest}", Range="bytes=0-")).status == 416


def test_requests_in_a_pipeline_are_answered_in_their_order(server: World) -> None:
    server.push(CONTENT)
    with server.wire() as wire:
        wire.send(
            request("GET", f"/v2/app/blobs/{DIGEST}")
            + request("GET", "/v2/")
            + request("HEAD", f"/v2/app/blobs/{DIGEST}")
            + request("GET", "/v2/none/tags/list")
        )
        assert wire.answer().body == CONTENT
        assert wire.answer().body == b"{}"
        assert wire.answer(head=True).headers["content-length"] == str(len(CONTENT))
        assert wire.answer().code == "NAME_UNKNOWN"


def test_garbage_after_a_request_does_not_get_into_its_answer(server: World) -> None:
    server.push(CONTENT)
    with server.wire() as wire:
        wire.send(request("GET", f"/v2/app/blobs/{DIGEST}") + b"\0\0 no request at all\r\n\r\n")
        assert wire.answer().body == CONTENT
        assert wire.at_end()


def test_a_client_may_close_its_half_and_still_gets_the_answer(server: World) -> None:
    server.push(CONTENT)
    with server.wire() as wire:
        wire.send(request("GET", f"/v2/app/blobs/{DIGEST}"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.answer().body == CONTENT


def test_http_1_0_is_answered_and_closed(server: World) -> None:
    with server.wire() as wire:
        wire.send("GET /v2/ HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert wire.answer().body == b"{}"
        assert wire.at_end()


@pytest.mark.parametrize("body", [b"", b"x" * 100_000])
def test_a_client_that_offers_another_protocol_is_answered_in_this_one(server: World, body: bytes) -> None:
    method, target = ("POST", "/v2/app/blobs/uploads/") if body else ("GET", "/v2/")
    with server.wire() as wire:
        wire.send(request(method, target, body, Connection="Upgrade, HTTP2-Settings", Upgrade="h2c"))
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (202 if body else 200, "close")
        assert wire.at_end()  # the client sends its next request on another connection, and waits for nothing here


def test_a_file_that_is_shorter_than_the_blob_cuts_the_connection(
    server: World, caplog: pytest.LogCaptureFixture
) -> None:
    digest = server.push(CONTENT)
    path = Path(server.store.blobs.path(Digest.parse(digest)))
    whole = server.site.answer

    def shrunk(asked: Request) -> Response:
        """The file shrinks after its size was told."""
        response = whole(asked)
        path.chmod(0o644)
        path.write_bytes(CONTENT[:300_000])
        return response

    with in_background(Site(shrunk)) as address:
        wire = Wire(address.port)
        wire.send(request("GET", f"/v2/app/blobs/{digest}"))
        answer = wire.answer()
        assert int(answer.headers["content-length"]) == len(CONTENT)
        assert len(answer.body) <= 300_000
        assert wire.at_end()
        wire.close()
    said = [
        (record.getMessage(), bool(record.exc_info)) for record in caplog.records if record.name == "lamina.serve"
    ]
    assert said == [
        (f"the response to GET '/v2/app/blobs/{digest}' was cut off: the blob has ended too early", False)
    ]


def test_who_is_gone_before_the_head_of_the_answer_is_no_fault(
    server: World, caplog: pytest.LogCaptureFixture
) -> None:
    digest = server.push(CONTENT)
    begun, gone = threading.Event(), threading.Event()

    def slow(asked: Request) -> Response:
        if asked.route.kind == "blob":
            begun.set()
            gone.wait(20)
        return server.site.answer(asked)

    with in_background(Site(slow)) as address:
        wire = Wire(address.port)
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        wire.send(request("GET", f"/v2/app/blobs/{digest}"))
        assert begun.wait(20)
        wire.close()
        for _ in range(2):  # the event loop has seen the reset when it answers others
            with closing(Wire(address.port)) as other:
                other.send(request("GET", "/v2/"))
                assert other.answer().status == 200
        gone.set()
    assert [record.getMessage() for record in caplog.records] == []


# bodies


def test_a_body_in_chunks(server: World) -> None:
    location = server.ask(request("POST", "/v2/app/blobs/uploads/")).headers["location"]
    with server.wire() as wire:
        wire.send(f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(CONTENT), 70_001):
            piece = CONTENT[start : start + 70_001]
            wire.send(b"%x;name=value\r\n%s\r\n" % (len(piece), piece))
        wire.send(b"0\r\nTrailer: x\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.headers["range"]) == (202, f"0-{len(CONTENT) - 1}")
        wire.send(request("PUT", f"{location}?digest={DIGEST}"))
        assert wire.answer().status == 201
    assert server.ask(request("GET", f"/v2/app/blobs/{DIGEST}")).body == CONTENT


def test_expect_100_continue(server: World) -> None:
    head = f"POST /v2/app/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    with server.wire() as wire:
        wire.send(f"{head}Content-Length: {len(CONTENT)}\r\n\r\n")
        assert wire.answer().status == 100
        wire.send(CONTENT)
        assert wire.answer().status == 201


def test_what_is_refused_is_not_asked_for(server: World) -> None:
    with server.wire() as wire:
        wire.send("PUT /v2/app/blobs/uploads/00/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n")
        wire.send("Content-Length: 1000000\r\n\r\n")
        assert wire.answer().status in (400, 404)  # and not 100
        assert wire.at_end()


@pytest.mark.parametrize("target", ["/v2/app/blobs/uploads/?digest={digest}", "/v2/app/manifests/1"])
def test_a_body_over_the_limit_is_refused_by_its_length(server: World, target: str) -> None:
    with server.wire() as wire:
        method = "PUT" if "manifests" in target else "POST"
        wire.send(f"{method} {target.format(digest=DIGEST)} HTTP/1.1\r\nHost: localhost\r\n")
        wire.send(f"Content-Length: {LIMITS.body + 1}\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")


def test_a_body_over_the_limit_is_refused_while_it_comes(server: World) -> None:
    location = server.ask(request("POST", "/v2/app/blobs/uploads/")).headers["location"]
    with server.wire() as wire:
        wire.send(f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
        for _ in range(5):
            wire.send(piece)
        answer = wire.answer()
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")
        assert answer.headers["connection"] == "close"


def test_a_client_that_still_sends_reads_why_it_was_refused(server: World) -> None:
    """The server reads a rest of the body: a reset would take the answer away from the client."""
    with server.wire() as wire:
        body = bytes(3 << 20)
        wire.send(request("PUT", f"/v2/app/blobs/uploads/{'0' * 32}?digest={DIGEST}", body))
        answer = wire.answer()
        assert answer.status == 404
        assert answer.code == "BLOB_UPLOAD_UNKNOWN"


def test_a_broken_chunk_is_refused_and_the_bytes_before_it_are_kept(server: World) -> None:
    location = server.ask(request("POST", "/v2/app/blobs/uploads/")).headers["location"]
    with server.wire() as wire:
        wire.send(f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.send(b"4\r\nabcd\r\n")
        wire.send(b"zz\r\nxx\r\n")
        answer = wire.answer()
        assert (answer.status, answer.code) == (400, "UNSUPPORTED")
        assert wire.at_end()
    assert server.ask(request("GET", "/v2/")).status == 200


# what is not a request


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("\0\1\2\r\n\r\n", 400),
        ("GET\r\n\r\n", 400),
        ("GET /v2/ HTTP/9.9\r\n\r\n", 400),
        ("FROB /v2/ HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", 400),
        ("GET /v2/\x80\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: " + "y" * 9000 + "\r\n\r\n", 431),
        ("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n" + "X: y\r\n" * 300 + "\r\n", 431),
        ("GET /v2/" + "a" * 9000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    ],
)
def test_malformed_requests_get_json_and_are_closed(server: World, text: str, status: int) -> None:
    with server.wire() as wire:
        wire.send(text)
        answer = wire.answer()
        assert answer.status == status
        assert answer.code == "UNSUPPORTED"
        assert wire.at_end()
    assert server.ask(request("GET", "/v2/")).body == b"{}"


def test_a_head_without_end_is_refused_before_it_fills_the_memory(server: World) -> None:
    with server.wire() as wire:
        wire.send("GET /v2/ HTTP/1.1\r\nX: ")
        with suppress(OSError):  # the server closes at some moment
            for _ in range(1600):
                wire.send(b"y" * 65536)
            pytest.fail("the server takes 100 MB of one header")
    with server.wire() as wire:
        wire.send(b"\r\n" * 8)  # a few empty lines are fine
        wire.send(request("GET", "/v2/"))
        assert wire.answer().status == 200


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/v2/app/blobs/sha256:" + "0" * 64, 404, "BLOB_UNKNOWN"),
        ("POST", "/v2/app/blobs/uploads/?digest=sha256:" + "0" * 64, 400, "DIGEST_INVALID"),
        ("GET", "/v2/app/blobs/sha256:zz", 400, "DIGEST_INVALID"),
        ("PATCH", "/v2/app/blobs/uploads/" + "0" * 32, 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/app/blobs/uploads/..%2f..%2fetc", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET", "/v2/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("PUT", "/v2/app/manifests/1", 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/App/manifests/1", 400, "NAME_INVALID"),
        ("GET", "/v2/..%2f..%2fetc/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/none/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/_catalog?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("PATCH", "/v2/app/manifests/1", 405, "UNSUPPORTED"),
        ("PUT", "/v2/", 405, "UNSUPPORTED"),
        ("GET", "/v3/", 404, "UNSUPPORTED"),
        ("POST", "/healthz", 405, "UNSUPPORTED"),
    ],
)
def test_each_error_of_the_spec_has_its_code(server: World, method: str, target: str, status: int, code: str) -> None:
    answer = server.ask(request(method, target, b"x" if method in ("PUT", "POST", "PATCH") else b""))
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["content-type"] == "application/json"


def test_a_manifest_that_names_a_missing_blob(server: World) -> None:
    config = {"mediaType": mediatype.OCI_CONFIG, "digest": "sha256:" + "1" * 64, "size": 5}
    raw = {"schemaVersion": 2, "mediaType": mediatype.OCI_MANIFEST, "config": config, "layers": []}
    answer = server.ask(
        request("PUT", "/v2/app/manifests/1", json.dumps(raw).encode(), Content_Type=mediatype.OCI_MANIFEST)
    )
    assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")


def test_an_upload_out_of_order(server: World) -> None:
    location = server.ask(request("POST", "/v2/app/blobs/uploads/")).headers["location"]
    answer = server.ask(request("PATCH", location, b"abc", Content_Range="5-7"))
    assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID")
    assert re.fullmatch("0-0", answer.headers["range"])


# limits


def test_more_connections_than_allowed_are_refused(tmp_path: Path) -> None:
    with world(tmp_path, Limits(connections=3, grace=2)) as server, ExitStack() as stack:
        for _ in range(3):
            wire = stack.enter_context(server.wire())
            wire.send(request("GET", "/v2/"))
            assert wire.answer().status == 200
        refused = stack.enter_context(server.wire())
        assert refused.answer().status == 503
        assert refused.at_end()


def test_requests_over_the_bound_wait_and_then_are_refused(tmp_path: Path) -> None:
    hold = threading.Event()
    entered = threading.Semaphore(0)

    def answer(asked: Request) -> Response:
        entered.release()
        hold.wait(20)
        return Response(200, {}, b"{}")

    site = Site(answer, Limits(reading=2, waiting=0.2, grace=2))
    with in_background(site, stopping=hold.set) as address:
        wires = [Wire(address.port) for _ in range(3)]
        for wire in wires[:2]:
            wire.send(request("GET", "/v2/"))
        for _ in range(2):
            assert entered.acquire(timeout=10)
        wires[2].send(request("GET", "/v2/"))
        refused = wires[2].answer()
        assert (refused.status, refused.code) == (503, "TOOMANYREQUESTS")
        assert int(refused.headers["retry-after"]) >= 1
        hold.set()
        for wire in wires[:2]:
            assert wire.answer().status == 200
        for wire in wires:
            wire.close()


# proxies and web pages


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "127.0.0.1:5000"}, 200),
        ({"Host": "[::1]:5000"}, 200),
        ({"Host": "evil.example.com"}, 403),
        ({"Origin": "https://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/v2/", "/healthz", "/"])
def test_web_pages_are_kept_out(server: World, headers: dict[str, str], status: int, path: str) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items())
    found = server.ask(f"GET {path} HTTP/1.1\r\n{lines}\r\n").status
    assert found == (404 if path == "/" and status == 200 else status)


def test_what_clients_have_uploaded_is_no_page_and_no_script_for_browsers(server: World) -> None:
    server.push(CONTENT)
    for path in (f"/v2/app/blobs/{DIGEST}", "/v2/app/manifests/none", "/v2/"):
        headers = server.ask(request("GET", path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/v2/", "/token", "/", "/healthz"])
def test_a_page_of_another_site_can_not_even_load_what_it_may_not_read(server: World, path: str) -> None:
    told = server.ask(request("GET", path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors"))
    assert told.status == 403


def test_who_waits_for_another_registry_keeps_no_place_of_others() -> None:
    hold = threading.Event()
    entered = threading.Semaphore(0)

    def answer(asked: Request) -> Response:
        if asked.route.name == "far":
            entered.release()
            hold.wait(20)
        return Response(200, {}, b"{}")

    limits = Limits(reading=1, elsewhere=1, waiting=10, grace=2)
    site = Site(answer, limits, is_elsewhere=lambda route: route.name == "far")
    with in_background(site, stopping=hold.set) as address:
        far, near = Wire(address.port), Wire(address.port)
        far.send(request("GET", "/v2/far/tags/list"))
        assert entered.acquire(timeout=10)
        near.send(request("GET", "/v2/near/tags/list"))
        assert near.answer().status == 200
        hold.set()
        assert far.answer().status == 200
        far.close()
        near.close()


def test_proxies_are_believed_only_if_they_are_trusted(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str | None]] = []

    def answer(asked: Request) -> Response:
        seen.append((asked.asker.address, asked.scheme, asked.headers.get("Host")))
        return Response(200, {}, b"{}")

    told = request(
        "GET",
        "/v2/",
        X_Forwarded_For="6.6.6.6, 203.0.113.7",
        X_Forwarded_Proto="https",
        X_Forwarded_Host="hub.example",
    )
    for trusted in ([], ["127.0.0.1"]):
        with in_background(Site(answer, trusted=parse_networks(trusted))) as address:
            wire = Wire(address.port)
            wire.send(told)
            assert wire.answer().status == 200
            wire.close()
    assert seen == [("127.0.0.1", "http", "localhost"), ("203.0.113.7", "https", "hub.example")]


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
def test_clients_of_a_proxy_that_is_not_trusted_are_not_this_machine(server: World, name: str) -> None:
    told = request("GET", "/metrics", **{name.replace("-", "_"): "127.0.0.1"})
    found = server.ask(told)  # it is for this machine alone, and so is all of it
    assert (found.status, found.code) == (403, "DENIED")
    assert server.ask(told.replace(b"/metrics", b"/v2/")).status == 403
    with in_background(Site(lambda asked: Response(200, {}, b"{}"))) as address, closing(Wire(address.port)) as wire:
        for path, status in (("/metrics", 403), ("/v2/", 200), ("/healthz", 200)):
            wire.send(told.replace(b"/metrics", path.encode()))
            assert wire.answer().status == status
        wire.send(request("GET", "/metrics"))
        assert wire.answer().status == 200


def test_connections_of_one_address_have_a_limit(tmp_path: Path) -> None:
    with world(tmp_path, callers=Callers(2)) as server:
        with server.wire() as first, server.wire() as second:
            for wire in (first, second):
                wire.send(request("GET", "/v2/"))
                assert wire.answer().status == 200
            with server.wire() as third:
                found = third.answer()
                assert (found.status, found.code, third.at_end()) == (429, "TOOMANYREQUESTS", True)
        while server.ask(request("GET", "/v2/")).status != 200:
            pass  # the server has not yet seen that the others are closed
    with world(tmp_path, callers=Callers(1, parse_networks(["127.0.0.1"]))) as server:
        with server.wire() as first, server.wire() as second:
            for wire in (first, second):
                wire.send(request("GET", "/v2/"))
                assert wire.answer().status == 200


def test_a_unix_socket(tmp_path: Path) -> None:
    site = Site(lambda asked: Response(200, {}, asked.asker.address.encode() + b"."))
    with in_background(site, Address(path=str(tmp_path / "socket"))):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(str(tmp_path / "socket"))
            one.sendall(request("GET", "/v2/"))
            assert one.recv(10000).endswith(b"\r\n\r\n.")


# what operators read


def test_metrics_count_requests_and_bytes(server: World) -> None:
    server.push(CONTENT)
    server.ask(request("GET", f"/v2/app/blobs/{DIGEST}"))
    server.ask(request("GET", "/v2/app/manifests/none"))
    text = server.ask(request("GET", "/metrics")).body.decode()
    assert f'lamina_received_bytes_total{{kind="uploads"}} {len(CONTENT)}\n' in text
    assert f'lamina_sent_bytes_total{{kind="blob"}} {len(CONTENT)}\n' in text
    assert 'lamina_requests_total{kind="manifest",method="GET",status="404"} 1\n' in text
    assert 'lamina_request_seconds_count{kind="blob"} 1\n' in text
    assert "\nprocess_resident_memory_bytes " in text


def test_health_says_what_fails(tmp_path: Path) -> None:
    from lamina.errors import SystemFailure

    broken = False

    def check() -> None:
        if broken:
            raise SystemFailure("the disk is gone", hint="look for it")

    for broken in (False, True):
        with in_background(Site(lambda _: Response(200), checks={"disk": check})) as address:
            wire = Wire(address.port)
            wire.send(request("GET", "/healthz") + request("GET", "/readyz"))
            assert wire.answer().status == 200
            ready = wire.answer()
            wire.close()
            assert ready.status == (503 if broken else 200)
            assert (b"the disk is gone" in ready.body) == broken


def test_ready_says_that_writing_is_not_possible(tmp_path: Path) -> None:
    def check() -> None:
        raise DiskFull("the disk is full", hint="free some")

    site = Site(lambda _: Response(200), checks={"names": lambda: None}, writing=check)
    with in_background(site) as address, closing(Wire(address.port)) as wire:
        for path, status in (("/readyz", 200), ("/readyz?writing", 503)):  # images can still be pulled
            wire.send(request("GET", path))
            found = wire.answer()
            assert (found.status, json.loads(found.body)["failing"]) == (status, {"writing": "the disk is full"})


def test_why_it_fails_is_told_to_those_who_may_read_the_metrics(tmp_path: Path) -> None:
    def check() -> None:
        raise DiskFull("/srv/store is full", hint="free some")

    site = Site(lambda _: Response(200), checks={"names": check}, metrics_readers=parse_networks(["192.0.2.1"]))
    with in_background(site) as address, closing(Wire(address.port)) as wire:
        wire.send(request("GET", "/readyz"))
        found = wire.answer()
        assert found.status == 503
        assert b"/srv" not in found.body


def test_a_fault_of_the_server_is_a_500_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def answer(asked: Request) -> Response:
        raise ZeroDivisionError("secret inside")

    with in_background(Site(answer)) as address:
        wire = Wire(address.port)
        wire.send(request("GET", "/v2/"))
        found = wire.answer()
        assert (found.status, found.code) == (500, "UNKNOWN")
        assert b"secret" not in found.body
        wire.send(request("GET", "/healthz"))  # the connection can still be used
        assert wire.answer().status == 200
        wire.close()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 262_144, 262_145, 700_001, 3 << 20])
def test_bodies_of_all_sizes_are_whole_and_the_next_request_follows(server: World, size: int) -> None:
    """Long bodies go around the parser of uvicorn, which must then be at the right place."""
    content = random.Random(size).randbytes(size)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    with server.wire() as wire:
        head = request("POST", f"/v2/app/blobs/uploads/?digest={digest}", content)
        following = request("GET", f"/v2/app/blobs/{digest}") + request("GET", "/v2/")
        for split in (len(head) - size, len(head) - size + 1, len(head) - 1, len(head)):
            wire.send((head + following)[:split])
            wire.send((head + following)[split:])
            assert wire.answer().status == 201
            assert wire.answer().body == content
            assert wire.answer().body == b"{}"
