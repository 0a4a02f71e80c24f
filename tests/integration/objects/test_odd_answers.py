"""Object storage whose answers are odd: what is between it and us answers, or an answer is lost. The storage is a few
lines here; no S3 server is needed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from lamina.objects.address import open_bucket
from lamina.objects.bucket import Bucket
from lamina.objects.direct import DirectPieces
from lamina.objects.failures import StorageFailure
from lamina.objects.keys import FORMAT

PART = 5 << 20
DATA = os.urandom(PART + 100)


class Storage(ThreadingHTTPServer):
    """``kept``: whether an upload of parts becomes an object, though the answer says that it is unknown."""

    kept = 0
    asked = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Storage

    def do_GET(self) -> None:
        if "list-type" in self.path:
            self.answer(404, b"<html>nothing is here</html>")
            return
        if self.path.endswith(FORMAT):
            self.answer(404)
            return
        self.server.asked += 1
        start, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        end = int(last) + 1
        self.send_response(206)
        self.send_header("Content-Length", str(end - int(start)))
        self.send_header("Content-Range", f"bytes {start}-{last}/{len(DATA)}")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.server.asked > 1:  # the first answer breaks off behind its head
            self.wfile.write(DATA[int(start) : end])
        self.close_connection = True

    def do_HEAD(self) -> None:
        if not self.server.kept:
            self.answer(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.kept))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "uploadId" in urlsplit(self.path).query:
            self.answer(404, b"<Error><Code>NoSuchUpload</Code></Error>")
        else:
            self.answer(
                200,
                b"<InitiateMultipartUploadResult><Bucket>images</Bucket><Key>k</Key><UploadId>1</UploadId>"
                b"</InitiateMultipartUploadResult>",
            )

    def do_DELETE(self) -> None:
        self.answer(404, b"<Error><Code>NoSuchUpload</Code></Error>")

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    with Storage(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def bucket(storage: Storage) -> Bucket:
    return open_bucket("s3://images/registry")


def test_a_list_that_is_not_found_is_not_empty(bucket: Bucket) -> None:
    with pytest.raises(StorageFailure):
        list(bucket.list("repositories"))


def test_of_an_answer_that_is_too_long_only_what_was_asked_for_is_passed_on() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(DATA[:5000])
        pieces = DirectPieces(ours, b"", 3000, "here")
        assert pieces.passable() == 3000
        ours.recv(2999)
        pieces.taken(2999)
        assert pieces.passable() == 1
        assert pieces.arrived(5000) == DATA[2999:3000]
        assert (pieces.passable(), pieces.source()) == (0, None)


def test_an_answer_without_its_bytes_is_asked_for_again(bucket: Bucket, storage: Storage) -> None:
    assert b"".join(bucket.stream("k", 10, len(DATA))) == DATA[10:]
    assert storage.asked == 2


@pytest.mark.parametrize("kept", [0, len(DATA) - 1, len(DATA)])
def test_an_object_whose_last_answer_was_lost_is_looked_for(bucket: Bucket, storage: Storage, kept: int) -> None:
    storage.kept = kept
    writing = bucket.write("k", PART)
    writing.write([DATA[: PART + 1]])
    writing.write([DATA[PART + 1 :]])
    if kept == len(DATA):
        writing.close()
    else:
        with pytest.raises(StorageFailure):
            writing.close()
