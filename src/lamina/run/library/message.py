"""Messages between a library's process and its helper processes: Python values and open files, over a private
socket.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from typing import Any

_LENGTH = struct.Struct("=Q")
_MAX_FILES = 8


def send(connection: socket.socket, value: object, files: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError (the other side has gone)."""
    import socket as sockets

    data = pickle.dumps(value)
    head = _LENGTH.pack(len(data))
    if files:
        sockets.send_fds(connection, [head], files)
    else:
        connection.sendall(head)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """Receive one message and its files, which are not inheritable. Raises EOFError (the other side has gone),
    OSError."""
    import socket as sockets

    head, files, _, _ = sockets.recv_fds(connection, _LENGTH.size, _MAX_FILES)
    try:
        for file in files:
            os.set_inheritable(file, False)
        head += _exactly(connection, _LENGTH.size - len(head))
        return pickle.loads(_exactly(connection, _LENGTH.unpack(head)[0])), files
    except BaseException:
        for file in files:
            os.close(file)
        raise


def _exactly(connection: socket.socket, size: int) -> bytes:
    pieces = []
    while size:
        piece = connection.recv(min(size, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


class Caller:
    """The process that asked for a job, as the job sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __call__(self, value: object, *files: int) -> None:
        """Send it a value, with open files. Raises OSError (it has gone)."""
        send(self._connection, value, files)

    def when_gone(self, action: Callable[[], object]) -> None:
        """Call this, in a thread, as soon as the caller closes the connection, or writes no more to it. Start no
        process after this."""
        import threading

        def watch() -> None:
            with suppress(OSError):
                self._connection.recv(1)
            action()

        threading.Thread(target=watch, name="lamina-caller", daemon=True).start()
