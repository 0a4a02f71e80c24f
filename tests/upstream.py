"""A registry whose images, answers and faults a test decides, and that notes each request. For mirrors of it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

PIECE = 64 << 10
_PATH = re.compile(r"/v2/(.+)/(manifests|blobs|referrers|tags)/(.+)")


@dataclass
class Registry:
    """Its content by repository. ``gate``: called with the digest and the number of bytes sent before each piece of a
    blob. ``fault``: returns (status, headers) to answer a request (method, path) so, else None. ``changed``: bytes to
    send instead of a blob's own. ``token``: the Authorization header that it wants."""

    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    referrers: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    gate: Callable[[str, int], None] = lambda digest, sent: None
    fault: Callable[[str, str], tuple[int, dict[str, str]] | None] = lambda method, path: None
    changed: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    token: str = ""

    def push(self, repository: str, tag: str, layers: list[bytes]) -> tuple[str, list[str]]:
        """An image of these layers. Returns the digest of its manifest, and those of its layers."""
        config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
        blobs = [Descriptor.of(mediatype.OCI_CONFIG, config)]
        blobs += [Descriptor.of(mediatype.OCI_LAYER, layer) for layer in layers]
        for one, data in zip(blobs, [config, *layers], strict=True):
            self.blobs[repository, str(one.digest)] = data
        value = {
            "schemaVersion": 2,
            "mediaType": mediatype.OCI_MANIFEST,
            "config": blobs[0].to_json(),
            "layers": [one.to_json() for one in blobs[1:]],
        }
        raw = json.dumps(value).encode()
        digest = str(Digest.of(raw))
        for name in (tag, digest):
            self.manifests[repository, name] = (mediatype.OCI_MANIFEST, raw)
        return digest, [str(one.digest) for one in blobs[1:]]

    def count(self, kind: str, method: str = "", part: str = "") -> int:
        """The number of requests of a kind ("manifests", "blobs"...), of a method, with ``part`` in their path."""
        return sum(
            f"/{kind}/" in path and method in ("", one) and part in path for one, path, _ in list(self.requests)
        )


@contextmanager
def upstream(registry: Registry) -> Iterator[str]:
    """Serve it on loopback during the block; ``host:port``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            registry.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
            fault = registry.fault(self.command, self.path)
            if fault is not None:
                self.answer(fault[0], fault[1], b"")
            elif registry.token and self.headers.get("Authorization") != registry.token:
                self.answer(401, {"WWW-Authenticate": 'Basic realm="test"'}, b"")
            elif self.path == "/v2/":
                self.answer(200, {}, b"{}")
            else:
                self.found()

        do_HEAD = do_GET  # noqa: N815

        def found(self) -> None:
            path = _PATH.fullmatch(self.path.partition("?")[0])
            if path is None:
                return self.answer(404, {}, b"")
            repository, kind, name = path.groups()
            if kind == "manifests" and (repository, name) in registry.manifests:
                media_type, raw = registry.manifests[repository, name]
                headers = {"Content-Type": media_type, "Docker-Content-Digest": str(Digest.of(raw))}
                return self.answer(200, headers, raw)
            if kind == "blobs" and (repository, name) in registry.blobs:
                return self.blob(name, registry.changed.get(name, registry.blobs[repository, name]))
            if kind == "tags":
                tags = sorted(tag for own, tag in registry.manifests if own == repository and ":" not in tag)
                if tags:
                    return self.answer(200, {}, json.dumps({"name": repository, "tags": tags}).encode())
            if kind == "referrers":
                listed = registry.referrers.get((repository, name), [])
                value = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": listed}
                return self.answer(200, {"Content-Type": mediatype.OCI_INDEX}, json.dumps(value).encode())
            return self.answer(404, {}, b"")

        def blob(self, digest: str, data: bytes) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            for at in range(start, len(data), PIECE):
                registry.gate(digest, at)
                if digest in registry.cut and at >= registry.cut[digest]:
                    del registry.cut[digest]
                    self.close_connection = True
                    return
                self.wfile.write(data[at : at + PIECE])

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client has gone

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
