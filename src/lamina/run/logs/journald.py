"""The log driver ``journald``: an entry for each line, with docker's fields, over journald's native protocol
(systemd's "Native Journal Protocol"): one datagram an entry, or a sealed memory file for a long one.
"""

from __future__ import annotations

import _socket as socket
import errno
import os
from contextlib import suppress

from lamina.light import TYPE_CHECKING
from lamina.run.logs import loss

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
PIECE = 16 << 10
"""A longer line is split into entries of this many bytes, as docker splits it."""
_RESERVED = ("MESSAGE", "PRIORITY")
"""Fields of the entry itself, which no label can change."""
PRIORITIES = {1: 6, 2: 3}
"""stdout: info, stderr: error, docker's priorities."""
_WAIT = b"\1\0\0\0\0\0\0\0" + bytes(8)  # struct timeval: one second
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2
_F_ADD_SEALS, _ALL_SEALS = 1033, 15


class JournalWriter:
    def __init__(
        self, options: tuple[tuple[str, str], ...], container: Mapping[str, str], *, path: str = SOCKET
    ) -> None:
        given = dict(options)
        self._path = path
        self._waits = given.get("mode") != "non-blocking"
        self._fields = _fields(given, container)
        self._socket: socket.socket | None = None
        self._held = {1: b"", 2: b""}
        self._pieces: dict[int, tuple[str, int]] = {}  # of a line that is split: its ID, and how many there were
        self._hangs = False
        self._lost, self._why = 0, ""

    def write(self, stream: int, data: bytes) -> None:
        text = self._held[stream] + data
        *lines, rest = text.split(b"\n")
        for line in lines:
            self._line(stream, line, partial=False)
        while len(rest) >= PIECE:
            self._line(stream, rest[:PIECE], partial=True)
            rest = rest[PIECE:]
        self._held[stream] = rest

    def end_run(self) -> None:
        for stream, rest in self._held.items():
            if rest:
                self._line(stream, rest, partial=True)
                self._held[stream] = b""
        self._pieces = {}
        if self._lost:
            self._tell_loss()

    def close(self) -> None:
        self.end_run()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _line(self, stream: int, line: bytes, *, partial: bool) -> None:
        while len(line) >= PIECE and not partial:
            self._line(stream, line[:PIECE], partial=True)
            line = line[PIECE:]
        split = b""
        if partial or stream in self._pieces:
            identity, number = self._pieces.pop(stream, ("", 0))
            identity = identity or os.urandom(32).hex()
            split = _split(identity, number + 1, partial)
            if partial:
                self._pieces[stream] = (identity, number + 1)
        if (self._lost and not self._tell_loss()) or not self._send(stream, line, split):
            self._lost += len(line)

    def _tell_loss(self) -> bool:
        text = loss.note(self._lost, self._why)[:-1]
        if self._send(2, text):
            self._lost = 0
        return not self._lost

    def _send(self, stream: int, line: bytes, split: bytes = b"") -> bool:
        entry = b"MESSAGE\n%s%s\nPRIORITY=%d\n%s%s" % (
            len(line).to_bytes(8, "little"),
            line,
            PRIORITIES[stream],
            split,
            self._fields,
        )
        try:
            self._deliver(entry)
        except OSError as error:
            self._why = f"journald: {error.strerror or error}"
            self._hangs = error.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
            if not self._hangs and self._socket is not None:
                self._socket.close()
                self._socket = None
            return False
        self._hangs = False
        return True

    def _deliver(self, entry: bytes) -> None:
        if self._socket is None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _WAIT)
                made.connect(self._path)
            except OSError:
                made.close()
                raise
            self._socket = made
        # waits a second; not again if journald hangs, because the program must not
        flags = 0 if self._waits and not self._hangs else socket.MSG_DONTWAIT
        try:
            self._socket.send(entry, flags)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._deliver_in_memory(entry, flags)

    def _deliver_in_memory(self, entry: bytes, flags: int) -> None:
        import fcntl

        assert self._socket is not None
        descriptor = os.memfd_create("lamina-log", _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
        try:
            view = memoryview(entry)
            while view:
                view = view[os.write(descriptor, view) :]
            fcntl.fcntl(descriptor, _F_ADD_SEALS, _ALL_SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))]
            self._socket.sendmsg([], rights, flags)
        finally:
            with suppress(OSError):
                os.close(descriptor)


def _split(identity: str, number: int, partial: bool) -> bytes:
    """docker's fields of a piece of a line. ``number``: from 1 on. ``partial``: it is not the last piece."""
    fields = b"CONTAINER_PARTIAL_ID=%s\nCONTAINER_PARTIAL_ORDINAL=%d\n" % (identity.encode(), number)
    if partial:
        return fields + b"CONTAINER_PARTIAL_LAST=false\nCONTAINER_PARTIAL_MESSAGE=true\n"
    return fields + b"CONTAINER_PARTIAL_LAST=true\n"


def _fields(given: Mapping[str, str], container: Mapping[str, str]) -> bytes:
    tag = given.get("tag") or container["id"][:12]
    found = {
        "CONTAINER_ID": container["id"][:12],
        "CONTAINER_ID_FULL": container["id"],
        "CONTAINER_NAME": container["name"],
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": container["image"],
        "SYSLOG_IDENTIFIER": tag,
    }
    if given.get("attributes"):
        from lamina.spec.json import read_own

        for name, value in read_own(given["attributes"]).items():
            field = _field_name(name)
            if name != "tag" and field not in _RESERVED and not field.startswith("CONTAINER_PARTIAL_"):
                found.setdefault(field, value)
    lines = b""
    for name, value in found.items():
        data = value.encode("utf-8", "surrogateescape")
        if b"\n" in data:
            lines += b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
        else:
            lines += b"%s=%s\n" % (name.encode(), data)
    return lines


def _field_name(name: str) -> str:
    """A name that journald accepts, made as docker makes it."""
    letters = "".join(one if one.isascii() and one.isalnum() else "_" for one in name.upper())
    return letters.lstrip("_")[:64] or "LABEL"
