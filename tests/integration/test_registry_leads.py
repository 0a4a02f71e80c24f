"""Where a registry may lead: a redirect or a token server whose name stands for an address of this machine is not
asked, unless the registry is on this machine itself. Here 127.0.0.2 counts as another machine."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import RemoteFailure
from lamina.remote import connection, http
from lamina.remote.client import Access, Client
from lamina.remote.loopback import is_of_this_machine
from lamina.serve.self_signed import SelfSigned

ELSEWHERE, HERE = "127.0.0.2", "127.0.0.1"
ADDRESSES = ["127.0.0.1:6443", "localhost", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
ADDRESSES += ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"]


class Server(ThreadingHTTPServer):
    """Notes the paths that are asked for, and answers as ``answer`` says: (status, headers)."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.seen: list[str] = []
        self.accepted = 0
        self.answer: Callable[[str], tuple[int, dict[str, str]]] = lambda path: (200, {})
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client has gone

    def get_request(self) -> tuple[socket.socket, Any]:
        self.accepted += 1
        return super().get_request()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        status, headers = self.server.answer(self.path)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        body = b'{"token":"good"}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Net:
    """``names``: the addresses of names, those of the first look first; the last ones stay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elsewhere, self.here = Server(ELSEWHERE), Server(HERE)
        self.names: dict[str, list[list[str]]] = {}
        self.clients: list[Client] = []
        self.looks: dict[str, int] = defaultdict(int)
        real = socket.getaddrinfo

        def resolve(host: str, *arguments: Any, **options: Any) -> Any:
            if host not in self.names:
                return real(host, *arguments, **options)
            looks = self.names[host]
            found = looks[min(self.looks[host], len(looks) - 1)]
            self.looks[host] += 1
            return [one for address in found for one in real(address, *arguments, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        for module in (connection, http):
            monkeypatch.setattr(
                module, "is_of_this_machine", lambda host: host != ELSEWHERE and is_of_this_machine(host)
            )

    def client(self, name: str, server: Server) -> Client:
        client = Client(f"{name}:{server.server_port}", Access(attempts=1), insecure=True)
        client._base_url = f"http://{name}:{server.server_port}"
        self.clients.append(client)
        return client


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    made = Net(monkeypatch)
    yield made
    for client in made.clients:
        client.close()
    for server in (made.elsewhere, made.here):
        server.shutdown()
        server.server_close()


def test_a_redirect_to_a_name_of_this_machine_is_not_followed(net: Net) -> None:
    net.names = {"registry.test": [[ELSEWHERE]], "inside.test": [[HERE]]}
    net.elsewhere.answer = lambda path: (307, {"Location": f"http://inside.test:{net.here.server_port}/secret"})
    with pytest.raises(RemoteFailure, match=r"inside\.test:\d+ is an address of this machine"):
        net.client("registry.test", net.elsewhere).request("GET", "/v2/x")
    assert net.here.accepted == 0


def test_the_address_that_was_checked_is_the_one_that_is_asked(net: Net) -> None:
    net.names = {"registry.test": [[ELSEWHERE]], "blobs.test": [[HERE, ELSEWHERE], [HERE]]}
    target = f"http://blobs.test:{net.elsewhere.server_port}/blob"
    net.elsewhere.answer = lambda path: (200, {}) if path == "/blob" else (307, {"Location": target})
    net.client("registry.test", net.elsewhere).request("GET", "/v2/x").release()
    assert net.looks["blobs.test"] == 1
    with pytest.raises(RemoteFailure, match="an address of this machine"):
        net.client("registry.test", net.elsewhere).request("GET", "/v2/x")
    assert net.here.accepted == 0


def test_certificates_are_checked_by_name_and_not_by_the_address_that_was_found(net: Net, tmp_path: Path) -> None:
    own = SelfSigned(str(tmp_path), ("blobs.test",))
    own.renew()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.certificate, own.key)
    net.elsewhere.socket = context.wrap_socket(net.elsewhere.socket, server_side=True)
    net.names = {"blobs.test": [[ELSEWHERE]], "other.test": [[ELSEWHERE]]}
    transport = http.Transport(cert_dir=str(tmp_path))
    place = f"blobs.test:{net.elsewhere.server_port}"
    transport.send("GET", f"https://{place}/x", {}, elsewhere=True).release()
    with pytest.raises(http.RequestFailed, match="not trusted"):
        transport.send("GET", f"https://{place.replace('blobs', 'other')}/x", {}, elsewhere=True)
    transport.close()


@pytest.mark.parametrize("place", ADDRESSES)
def test_addresses_of_this_machine(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # it may reach the same
    with pytest.raises(http.RequestFailed, match="is an address of this machine"):
        http.Transport().send("GET", f"https://{place}/token", {}, elsewhere=True)


def test_a_token_server_is_not_this_machine_though_its_name_was_elsewhere(net: Net) -> None:
    net.names = {"registry.test": [[ELSEWHERE], [HERE]]}
    realm = f'Bearer realm="http://registry.test:{net.here.server_port}/token"'
    net.elsewhere.answer = lambda path: (401, {"WWW-Authenticate": realm})
    with pytest.raises(RemoteFailure, match="an address of this machine"):
        net.client("registry.test", net.elsewhere).request("GET", "/v2/x")
    net.names["registry.test"] = [[ELSEWHERE]]
    net.elsewhere.answer = lambda path: (401, {"WWW-Authenticate": 'Bearer realm="http://localhost:1/token"'})
    with pytest.raises(RemoteFailure, match="localhost:1 is an address of this machine"):
        net.client("registry.test", net.elsewhere).request("GET", "/v2/x")
    assert net.here.accepted == 0


def test_the_next_page_is_not_of_this_machine_either(net: Net) -> None:
    net.names = {"registry.test": [[ELSEWHERE]], "inside.test": [[HERE]]}
    with pytest.raises(RemoteFailure, match="an address of this machine"):
        net.client("registry.test", net.elsewhere).request("GET", f"http://inside.test:{net.here.server_port}/v2/")
    assert net.here.accepted == 0


def test_a_registry_on_this_machine_may_lead_to_it(net: Net) -> None:
    net.names = {"registry.test": [[HERE]], "inside.test": [[HERE]]}
    host = f"registry.test:{net.here.server_port}"

    def answer(path: str) -> tuple[int, dict[str, str]]:
        if path.startswith("/v2/") and net.here.seen.count(path) == 1:
            return 401, {"WWW-Authenticate": f'Bearer realm="http://{host}/token"', "Connection": "close"}
        if path.startswith("/v2/"):
            return 307, {"Location": f"http://inside.test:{net.here.server_port}/blob"}
        return 200, {}

    net.here.answer = answer
    net.client("registry.test", net.here).request("GET", "/v2/x").release()
    assert net.here.seen == ["/v2/x", "/token", "/v2/x", "/blob"]
