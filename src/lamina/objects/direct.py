"""Long reads from S3 by a socket of one's own, with or without TLS: an event loop can send what arrives without a
thread. Everything else is obstore's."""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import threading
import time
import urllib.parse
from functools import cache
from typing import Self

from lamina.objects.failures import StorageFailure

WORTH = 1 << 20
"""Shorter reads are not worth a connection of their own."""

_PIECE = 256 << 10
_CONNECT, _READ = 5.0, 60.0
_HEAD = 64 << 10
_REFUSED = 600.0
"""Seconds for which obstore reads alone, after the storage has refused a request that it may allow obstore."""


class DirectPieces:
    """The bytes of an answer of the storage: an iterator of pieces for threads, ``source`` and what follows it
    for an event loop."""

    def __init__(self, connection: socket.socket, first: bytes, left: int, location: str) -> None:
        self._connection, self._first, self._left = connection, first, left
        self._location = location

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Raises StorageFailure if the connection breaks."""
        first, self._first = self._first, b""
        if first:
            return first
        if not self._left:
            self.close()
            raise StopIteration
        try:
            self._connection.settimeout(_READ)
            piece = self._connection.recv(min(_PIECE, self._left))
        except OSError:
            piece = b""
        if not piece:
            self.close()
            raise StorageFailure(f"{self._location} broke off an answer", hint="try again")
        self._left -= len(piece)
        return piece

    def source(self) -> int | None:
        """The descriptor that can be read when more bytes come; None if the next bytes came with the head, or all
        were read."""
        return None if self._first or not self._left else self._connection.fileno()

    def arrived(self, size: int) -> bytes | memoryview | None:
        """Take at most so many bytes without waiting. None: none has come. b"": only a thread can go on, or find out
        what is wrong."""
        try:
            if self._connection.gettimeout() != 0:
                self._connection.setblocking(False)
            piece = self._received(min(size, self._left))
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            return b""
        except OSError:
            piece = b""
        if not piece:
            self.close()
        self._left -= len(piece)
        return piece

    def passable(self) -> int:
        """How many bytes come without TLS, and with no others between them. The storage may send more than it was
        asked for."""
        return 0 if isinstance(self._connection, ssl.SSLSocket) else self._left

    def taken(self, size: int) -> None:
        """So many bytes were taken from the descriptor by the kernel."""
        self._left -= size

    def close(self) -> None:
        self._connection.close()

    def _received(self, size: int) -> bytes | memoryview:
        if not isinstance(self._connection, ssl.SSLSocket):
            return self._connection.recv(size)
        # TLS gives 16 KiB at a time
        buffer = memoryview(bytearray(size))
        filled = 0
        while filled < size:
            try:
                count = self._connection.recv_into(buffer[filled:])
            except OSError:
                if filled:  # what has come is not lost; the next call meets the error again
                    break
                raise
            if not count:
                break
            filled += count
        # a few bytes do not keep the whole buffer, while they wait for a slow client
        return buffer[:filled] if filled > size // 2 else bytes(buffer[:filled])


class DirectReads:
    """Reads ranges of objects by signed URLs. ``location`` is for messages."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._refused = -_REFUSED
        self._guard = threading.Lock()

    @property
    def usable(self) -> bool:
        """Whether the storage has not refused a request lately."""
        with self._guard:
            return time.monotonic() - self._refused >= _REFUSED

    def read(self, url: str, start: int, end: int) -> DirectPieces | None:
        """Ask for the bytes from ``start`` to ``end`` of an object. None if the storage does not answer with exactly
        them: obstore finds out why."""
        connection: socket.socket | None = None
        try:
            connection = _connected(urllib.parse.urlsplit(url))
            status, first = _asked(connection, url, start, end)
            if first is not None:
                found, connection = connection, None
                return DirectPieces(found, first, end - start - len(first), self._location)
            if 300 <= status < 500 and status not in (404, 408, 429):  # encryption with own keys, for example
                self._refuse()
        except ssl.SSLCertVerificationError:  # obstore may be told to trust others
            self._refuse()
        except (OSError, ValueError, http.client.HTTPException):
            pass
        finally:
            if connection is not None:
                connection.close()
        return None

    def _refuse(self) -> None:
        with self._guard:
            self._refused = time.monotonic()


def _connected(parts: urllib.parse.SplitResult) -> socket.socket:
    host = parts.hostname or ""
    encrypted = parts.scheme == "https"
    connection = socket.create_connection((host, parts.port or (443 if encrypted else 80)), _CONNECT)
    if not encrypted:
        return connection
    try:
        # otherwise the request waits for the acknowledgement of the handshake, which may take 40 ms
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return trusting().wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _asked(connection: socket.socket, url: str, start: int, end: int) -> tuple[int, bytes | None]:
    """Send the request, and read the head of the answer. Returns its status, and the first bytes of the body;
    None if it is not the answer that was asked for."""
    parts = urllib.parse.urlsplit(url)
    asked = (
        f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nRange: bytes={start}-{end - 1}\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    connection.settimeout(_READ)
    connection.sendall(asked.encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(_HEAD)
        if not piece or len(head) > _HEAD:
            raise http.client.HTTPException
        head += piece
    head, _, first = head.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    version, status, *_ = line.split()
    headers = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    is_asked = (
        version.startswith(b"HTTP/1.")
        and status == b"206"
        and "Transfer-Encoding" not in headers
        and headers.get("Content-Encoding", "identity") == "identity"
        and headers.get("Content-Length") == str(end - start)
        and headers.get("Content-Range", "").startswith(f"bytes {start}-{end - 1}/")
        and len(first) <= end - start
    )
    if is_asked and not first:  # wait for the first bytes: a connection that ends here is not an answer
        first = connection.recv(min(_PIECE, end - start))
    return int(status), first if is_asked and first else None


@cache
def trusting() -> ssl.SSLContext:
    """The certificates that obstore trusts: those of SSL_CERT_FILE and SSL_CERT_DIR alone if one of them is set,
    otherwise the system's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    file, directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or directory:
        context.load_verify_locations(file or None, directory or None)
    else:
        context.load_default_certs()
    return context
