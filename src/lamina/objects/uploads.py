"""Uploads: bytes are kept as parts, objects of their own, until a record names them. Any server can go on with an
upload: its state is an object, changed by comparison.

The server that writes to an upload has its ``epoch``; another server that takes over raises it. What the first one
still writes is then named by nobody, and its next change of the state fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lamina.errors import Conflict, DigestMismatch, NotFound, RemoteFailure, SystemFailure
from lamina.objects import keys
from lamina.objects.appending import Appending, Writer, write_state
from lamina.objects.blob import ANY_TYPE, PartStream
from lamina.objects.documents import REMOVING, Record, Runs, Upload, slices, with_part
from lamina.objects.long_object import LongObject
from lamina.objects.memory import Memory
from lamina.objects.open_uploads import OpenUploads
from lamina.objects.removal import REAL, Patience
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import CANONICAL, Digest, new_hasher

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from lamina.objects.bucket import Bucket, Version
    from lamina.objects.long_object import Senders
    from lamina.objects.records import Records
    from lamina.source.upload_limits import Opener
    from lamina.spec.digest import Hasher

MAX_WRITERS = 1000


class ObjectUploads:
    """``UploadPlace`` of a bucket. ``linked`` puts a blob into a repository; ``joined``: each blob becomes one
    object."""

    def __init__(
        self,
        bucket: Bucket,
        records: Records,
        linked: Callable[[str, Digest, Record], bool],
        senders: Senders,
        pool: Executor,
        *,
        joined: bool = False,
    ) -> None:
        self._bucket, self._records, self._linked = bucket, records, linked
        self._writers: Memory[str, Writer] = Memory(MAX_WRITERS)
        self._held: set[str] = set()
        self._guard = threading.Lock()
        self._senders = senders
        self._joined = joined
        self._open_ones = OpenUploads(bucket, pool)

    def create(self, repository: str, opener: Opener | None = None) -> str:
        ident = self._open_ones.begin(repository, opener)
        state = Upload(repository, epoch=1)
        version = self._bucket.put(keys.upload(repository, ident), state.to_bytes())
        self._writers.put(ident, Writer(state, version, hasher=new_hasher()))
        return ident

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        return self._open_ones.received(repository)

    def size(self, repository: str, ident: str) -> int:
        if ident in self._held:
            return self._writer(repository, ident).state.size
        state, version = self._read(repository, ident)
        known = self._writers.get(ident)
        if known is not None and known.version != version:  # another server has taken over
            self._writers.drop(ident)
        return state.size

    @contextmanager
    def held(self, repository: str, ident: str) -> Iterator[None]:
        with self._guard:
            if ident in self._held:
                raise Conflict(f"upload {ident} is being written to", hint="wait for the other request")
            self._held.add(ident)
        try:
            yield
        finally:
            with self._guard:
                self._held.discard(ident)

    def append(self, repository: str, ident: str, pieces: Iterable[bytes]) -> int:
        writer = self._writer(repository, ident)
        try:
            Appending(self._bucket, self._senders, writer, ident).run(pieces)
        except Conflict:
            self._writers.drop(ident)
            raise
        return writer.state.size

    def finish(self, repository: str, ident: str, digest: Digest) -> Descriptor:
        hasher = digest.hasher()  # raises Unsupported
        writer = self._writer(repository, ident)
        state = writer.state
        if state.finishing not in ("", str(digest)):
            raise Conflict(f"upload {ident} is being finished with another digest", hint="start a new upload")
        if state.finishing:
            done = self._finished_before(repository, ident, digest, writer)
            if done is not None:
                return done
        # from here on no other server appends, nor removes the bytes
        self._write(ident, writer, replace(state, finishing=str(digest)))
        try:
            if digest.algorithm == CANONICAL and writer.hasher is not None:
                hasher = writer.hasher
            else:
                self._hash(ident, state, hasher)
            actual = Digest(digest.algorithm, hasher.hexdigest())
            if actual != digest:
                self._remove(repository, ident, digest)
                raise DigestMismatch(f"the upload has the digest {actual}, not {digest}", hint="send the blob again")
            new = Record(state.size, ident, self._one_part(ident, writer) if self._joined else state.runs)
        except SystemFailure:
            # a request that finishes it as well may have ended meanwhile, and have removed the parts that it joined
            done = self._finished_before(repository, ident, digest, writer)
            if done is not None:
                return done
            if state.finishing:
                raise self._taken(repository, ident, digest) from None
            raise
        while True:
            record = self._records.publish(digest, new)
            if self._linked(repository, digest, record):
                break
            if record.ident == ident:
                raise self._taken(repository, ident, digest)
        if record.ident == ident:
            self._forget(repository, ident)
            if new.runs != state.runs and record.runs == new.runs:  # another server may use the parts
                self._bucket.delete_all(
                    [keys.part(ident, epoch, number) for epoch, number, _, _ in slices(state.runs, 0, state.size)]
                )
        else:
            self._remove(repository, ident, digest)
        return Descriptor(ANY_TYPE, digest, record.size)

    def _finished_before(self, repository: str, ident: str, digest: Digest, writer: Writer) -> Descriptor | None:
        """Go on with an upload whose end was broken off. Its blob may have been made; then gc may have taken it, with
        the bytes of the upload. None if the blob was not made: the bytes are then hashed as they are in the storage.
        Raises RemoteFailure."""
        self._records.rely(digest)
        found = self._records.read(digest)
        if found is None or found[0].ident != ident:
            writer.hasher = None
            return None
        if not self._linked(repository, digest, found[0]):
            raise self._taken(repository, ident, digest)
        self._forget(repository, ident)
        return Descriptor(ANY_TYPE, digest, found[0].size)

    def _taken(self, repository: str, ident: str, digest: Digest) -> RemoteFailure:
        """gc has taken the blob of an upload before it was in a repository: this took hours."""
        self._remove(repository, ident, digest)
        return RemoteFailure(f"upload {ident} was not finished in time", hint="send the blob again")

    def cancel(self, repository: str, ident: str) -> None:
        patience = Patience(REAL)
        while True:
            state, version = self._read(repository, ident)
            if state.finishing:
                raise Conflict(f"upload {ident} is being finished", hint="wait for the other request")
            self._writers.drop(ident)  # a request that writes to it here fails, as one on another server does
            if (
                self._bucket.swap(keys.upload(repository, ident), replace(state, removing=True).to_bytes(), version)
                is not None
            ):
                break
            patience.again()
        self._remove(repository, ident)

    def _read(self, repository: str, ident: str) -> tuple[Upload, Version]:
        found = None
        if len(ident) == 32 and not ident.strip("0123456789abcdef"):
            found = self._bucket.get(keys.upload(repository, ident))
        if found is not None:
            state = Upload.from_bytes(found.data, keys.upload(repository, ident))
            if state.repository == repository and not state.removing:
                return state, found.version
        raise NotFound(f"no upload {ident[:64]!r} in {repository}", hint="start a new upload")

    def _writer(self, repository: str, ident: str) -> Writer:
        """The upload as this server's own. Another server that writes to it fails from now on."""
        known = self._writers.get(ident)
        if known is not None and known.state.repository == repository:
            return known
        state, version = self._read(repository, ident)
        writer = Writer(state, version)
        self._write(ident, writer, replace(state, epoch=state.epoch + 1))
        if not state.size:
            writer.hasher = new_hasher()
        self._writers.put(ident, writer)
        return writer

    def _write(self, ident: str, writer: Writer, state: Upload) -> None:
        try:
            write_state(self._bucket, ident, writer, state)
        except Conflict:
            self._writers.drop(ident)
            raise

    def _hash(self, ident: str, state: Upload, hasher: Hasher) -> None:
        with PartStream(self._bucket, Record(state.size, ident, state.runs), 0, state.size) as stream:
            while piece := stream.read(1 << 20):
                hasher.update(piece)

    def _one_part(self, ident: str, writer: Writer) -> Runs:
        """Join the parts to one object, so that the storage has a URL for it."""
        state = writer.state
        if sum(run.count for run in state.runs) <= 1:
            return state.runs
        number, writer.number = writer.number, writer.number + 1
        one = LongObject(self._bucket, keys.part(ident, state.epoch, number), self._senders)
        with PartStream(self._bucket, Record(state.size, ident, state.runs), 0, state.size) as stream:
            try:
                while piece := stream.piece():
                    one.add(piece)
                one.close()
            finally:
                one.drop()
        return with_part((), state.epoch, number, state.size)

    def _remove(self, repository: str, ident: str, digest: Digest | None = None) -> None:
        """Delete the bytes, unless the blob with this digest has them, then the state."""
        found = None if digest is None else self._records.read(digest)
        if found is None or found[0].ident != ident or found[0].state == REMOVING:
            self._records.discard(ident)
        self._forget(repository, ident)

    def _forget(self, repository: str, ident: str) -> None:
        self._writers.drop(ident)
        self._bucket.delete(keys.upload(repository, ident))
        self._open_ones.ended(repository, ident)
