"""A registry that misbehaves on request: what no real one will do when a test wants it. In memory, on loopback."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from lamina.archive.layout import LayoutReader


@dataclass
class Seen:
    """One request. ``sent``: bytes of a blob's body that were written to the client."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0
    received: int = 0


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None  # bytes of the body after which the connection is closed
    drip: float = 0.0  # seconds between bytes
    endless: bool = False
    stall: bool = False  # nothing more until the test is over


Rule = Callable[["Unruly", Seen], Answer | None]


class Unruly:
    """Serves an image of a layout as ``NAME/app:1``; ``rule`` may answer first. With ``uploads`` it takes pushes into
    ``blobs`` and ``manifests``."""

    def __init__(self, layout: Path | str | None = None, ref: str = "app", rule: Rule | None = None) -> None:
        self.rule = rule
        self.seen: list[Seen] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.over = threading.Event()
        self._made = 0
        self._guard = threading.Lock()
        if layout is not None:
            self._fill(LayoutReader(str(layout)), ref)
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.name = f"127.0.0.1:{self.port}"
        self.image = f"{self.name}/app:1"

    def _fill(self, layout: LayoutReader, ref: str) -> None:
        top = layout.resolve(ref)
        raw = layout.manifest(top)
        self.manifests["1"] = self.manifests[str(top.digest)] = (top.media_type, raw)
        document = json.loads(raw)
        for value in [document["config"], *document["layers"]]:
            path = Path(layout.directory) / "blobs" / value["digest"].replace(":", "/")
            self.blobs[value["digest"]] = path.read_bytes()

    def requests(self, method: str = "GET", part: str = "/blobs/") -> list[Seen]:
        return [one for one in self.seen if one.method == method and part in one.path]

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in json.loads(self.manifests["1"][1])["layers"]]

    def note(self, seen: Seen) -> None:
        with self._guard:
            self.seen.append(seen)

    def plain(self, seen: Seen) -> Answer:
        """What a well-behaved registry says."""
        path = urlsplit(seen.path).path
        if path == "/v2/":
            return Answer(200, {}, b"{}")
        if found := re.fullmatch(r"/v2/.+/manifests/(.+)", path):
            if found[1] not in self.manifests:
                return Answer(404)
            media_type, raw = self.manifests[found[1]]
            return Answer(200, {"Content-Type": media_type}, raw)
        if found := re.fullmatch(r"/v2/.+/blobs/([a-z0-9]+:.+)", path):
            if found[1] not in self.blobs:
                return Answer(404)
            data = self.blobs[found[1]]
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers.get("range", ""))
            if wanted:
                start, end = int(wanted[1]), min(len(data), int(wanted[2] or len(data)) + 1)
                if start >= len(data):
                    return Answer(416)
                return Answer(206, {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end])
            return Answer(200, {}, data)
        return Answer(404)

    def taken(self, seen: Seen, body: bytes) -> Answer:
        """Pushes."""
        parts = urlsplit(seen.path)
        if found := re.fullmatch(r"/v2/.+/manifests/(.+)", parts.path):
            self.manifests[found[1]] = (seen.headers["content-type"], body)
            return Answer(201)
        if parts.path.endswith("/uploads/"):
            with self._guard:
                self._made += 1
                ident = f"u{self._made}"
                self.uploads[ident] = bytearray()
            return Answer(202, {"Location": f"{parts.path}{ident}?state=a"})
        ident = parts.path.rpartition("/")[2]
        if ident not in self.uploads:
            return Answer(404)
        data = self.uploads[ident]
        state = {"Location": f"{parts.path}?state={len(data)}", "Range": f"0-{max(0, len(data) - 1)}"}
        if seen.method == "GET":
            return Answer(204, state)
        if seen.method == "PATCH":
            return Answer(202, state)
        if seen.method == "PUT":
            digest = parse_qs(parts.query)["digest"][0]
            if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
                return Answer(400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"not what was sent"}]}')
            self.blobs[digest] = bytes(data)
            return Answer(201)
        return Answer(405)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Cut connections are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: Unruly

    def handle_any(self) -> None:
        seen = Seen(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        self.owner.note(seen)
        answer = self.owner.rule(self.owner, seen) if self.owner.rule is not None else None
        body = b""
        if self.command in ("PUT", "PATCH", "POST"):
            body = self._body(seen, answer)
        if answer is None:
            writing = self.command in ("PUT", "PATCH", "POST", "DELETE") or "/uploads/" in self.path
            answer = self.owner.taken(seen, body) if writing else self.owner.plain(seen)
        self._send(seen, answer)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_POST = do_DELETE = handle_any  # noqa: N815

    def _body(self, seen: Seen, answer: Answer | None) -> bytes:
        """Reads it, or with ``cut`` only so much of it, and hangs up. What a session got stays."""
        left = int(seen.headers.get("content-length", "0"))
        limit = answer.cut if answer is not None and answer.cut is not None else left
        ident = urlsplit(self.path).path.rpartition("/")[2]
        store = (
            self.owner.uploads.get(ident, bytearray()) if answer is None or answer.cut is not None else bytearray()
        )
        data = bytearray()
        while left > 0 and limit > 0:
            piece = self.rfile.read1(min(left, limit, 65536))
            if not piece:
                break
            data += piece
            store += piece
            left -= len(piece)
            limit -= len(piece)
            seen.received += len(piece)
        if answer is not None and answer.cut is not None and left > 0:
            if answer.stall:
                self.owner.over.wait(30)
            self._hang_up()
            raise ConnectionAbortedError
        return bytes(data)

    def _send(self, seen: Seen, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = dict(answer.headers)
        if not answer.endless:
            headers.setdefault("Content-Length", str(len(answer.body)))
        for key, value in headers.items():
            self.send_header(key, value)
        if answer.endless:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        body = answer.body if answer.cut is None else answer.body[: answer.cut]
        if answer.drip:
            for at in range(len(body)):
                if self.owner.over.wait(answer.drip):
                    break
                self.wfile.write(body[at : at + 1])
                seen.sent += 1
        else:
            for at in range(0, len(body), 4096):
                self.wfile.write(body[at : at + 4096])
                seen.sent += len(body[at : at + 4096])
        deadline = time.monotonic() + 60
        while answer.endless and not self.owner.over.is_set() and time.monotonic() < deadline:
            self.wfile.write(b"\0" * 65536)
        if answer.stall:
            self.wfile.flush()
            self.owner.over.wait(60)
        if answer.cut is not None or answer.stall or answer.endless:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""
