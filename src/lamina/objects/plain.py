"""Long reads from storage over plain http, by a socket of one's own: an event loop can send what arrives without a
thread. Everything else, and storage over https, is obstore's."""

from __future__ import annotations

import http.client
import socket
import urllib.parse
from typing import Self

from lamina.objects.failures import StorageFailure

WORTH = 1 << 20
"""Shorter reads are not worth a connection of their own."""

_PIECE = 256 << 10
_CONNECT, _READ = 5.0, 60.0


class PlainPieces:
    """The bytes of an answer of the storage: an iterator of pieces, and a socket for who can wait without a thread.
    ``left``: how many are still to come out of the socket."""

    def __init__(self, connection: socket.socket, first: bytes, left: int, location: str) -> None:
        self.socket, self.left = connection, left
        self._first, self._location = first, location

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Raises StorageFailure if the connection breaks."""
        first, self._first = self._first, b""
        if first:
            return first
        if not self.left:
            self.close()
            raise StopIteration
        try:
            self.socket.settimeout(_READ)
            piece = self.socket.recv(min(_PIECE, self.left))
        except OSError:
            piece = b""
        if not piece:
            self.close()
            raise StorageFailure(f"{self._location} broke off an answer", hint="try again")
        self.left -= len(piece)
        return piece

    @property
    def waits(self) -> bool:
        """Whether bytes that have come with the head come first."""
        return bool(self._first)

    def close(self) -> None:
        self.socket.close()


def read_plainly(url: str, start: int, end: int, location: str) -> PlainPieces | None:
    """Ask for the bytes from ``start`` to ``end`` of an object by its signed URL. None if the storage does not answer
    with them: obstore finds out why."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_CONNECT)
    try:
        connection.connect()
        connection.sock.settimeout(_READ)
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity", "Connection": "close"}
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        if answer.status == 206 and answer.length == end - start and not answer.chunked:
            # what was read ahead with the head; from here on nothing is between us and the socket
            first = answer.read1(_PIECE)
            if not first:  # the storage has closed the connection
                return None
            return PlainPieces(_detached(answer), first, end - start - len(first), location)
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    return None


def _detached(answer: http.client.HTTPResponse) -> socket.socket:
    """The socket of an answer, which closes its own."""
    try:
        return socket.socket(fileno=socket.dup(answer.fileno()))
    finally:
        answer.close()
