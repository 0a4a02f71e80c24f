"""One request that appends to an upload: its body becomes one object, written while it arrives. A body that breaks
off is kept as far as it came. A very long one becomes several objects: a killed server loses the last one at most."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lamina.errors import Conflict
from lamina.objects import keys
from lamina.objects.documents import Upload, with_part, without_last
from lamina.objects.long_object import PART, LongObject, Senders, put

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket, Version
    from lamina.spec.digest import Hasher

LONGEST = 1 << 30
"""Bytes of an object, about: what a killed server loses at most of an upload."""

SLOWEST = 1800.0
"""Seconds after which an object is closed, so that slow clients lose little as well."""


@dataclass
class Writer:
    """An upload that this server writes to: its state as this server wrote it last; the number of the next part; the
    hash of all bytes, if this server has seen all."""

    state: Upload
    version: Version
    number: int = 0
    hasher: Hasher | None = None


class Appending:
    """One call of ``append``."""

    def __init__(self, bucket: Bucket, senders: Senders, writer: Writer, ident: str) -> None:
        self._bucket, self._senders, self._writer, self._ident = bucket, senders, writer, ident
        self._object = self._new()
        self._since = time.monotonic()

    def run(self, pieces: Iterable[bytes]) -> None:
        """Raises what ``pieces`` raises; the bytes so far are kept."""
        kept = broken = False
        try:
            for piece in pieces:
                if not piece:
                    continue
                if self._writer.state.finishing:
                    raise Conflict(f"upload {self._ident} is being finished", hint="start a new upload")
                if self._writer.hasher is not None:
                    self._writer.hasher.update(piece)
                broken = True
                self._object.add(bytes(piece))
                if self._object.size >= LONGEST or time.monotonic() - self._since > SLOWEST:
                    self._settle()
                broken = False
        finally:
            # also if the client has gone: what it has sent is kept
            try:
                if not broken:
                    self._settle()
                    kept = True
            finally:
                self._object.drop()
                if not kept:
                    self._writer.hasher = None  # it has seen bytes that are not kept

    def _new(self) -> LongObject:
        return LongObject(
            self._bucket, keys.part(self._ident, self._writer.state.epoch, self._writer.number), self._senders
        )

    def _settle(self) -> None:
        """Close the object, then say in the state that its bytes are there."""
        one, state, stale = self._object, self._writer.state, list[str]()
        number, size = self._writer.number, one.size
        if not size:
            return
        self._writer.number += 1  # also if this fails: a key is used once
        if one.is_short:
            tail = one.take()
            state, tail = self._joined(state, tail, stale)
            size = len(tail)
            put(self._bucket, keys.part(self._ident, state.epoch, number), tail, self._senders)
        else:
            one.close()
        state = replace(state, runs=with_part(state.runs, state.epoch, number, size))
        write_state(self._bucket, self._ident, self._writer, state)
        self._bucket.delete_all(stale)
        self._object, self._since = self._new(), time.monotonic()

    def _joined(self, state: Upload, tail: bytes, stale: list[str]) -> tuple[Upload, bytes]:
        """Join the last bytes with objects before them that are as small: many small requests do not make many small
        objects, and each byte is written again only a few times."""
        while state.runs:
            last = state.runs[-1]
            if last.size > len(tail) or last.size + len(tail) > PART:
                break
            key = keys.part(self._ident, last.epoch, last.first + last.count - 1)
            tail = b"".join(self._bucket.stream(key, 0, last.size)) + tail
            state = replace(state, runs=without_last(state.runs))
            stale.append(key)
        return state, tail


def write_state(bucket: Bucket, ident: str, writer: Writer, state: Upload) -> None:
    """Raises Conflict if another server has taken over."""
    version = bucket.swap(keys.upload(state.repository, ident), state.to_bytes(), writer.version)
    if version is None:
        raise Conflict(f"upload {ident} was taken over or removed by another request", hint="ask for its status")
    writer.state, writer.version = state, version
