"""The bucket: the few operations that object storage is used for. The only module that talks to it (by obstore)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from lamina.errors import LaminaError, SystemFailure
from lamina.objects.direct import WORTH, DirectReads
from lamina.objects.failures import StorageFailure, failure, is_race, reported

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore

Version = Mapping[str, str]
"""What the storage compares at a conditional put."""

PIECE = 256 << 10
_PAGE = 1000
_READ_SECONDS = 60  # a signature is used at once
_JOINED = 64 << 10  # joining more of what arrives would copy it


@dataclass(frozen=True)
class Found:
    """An object: its bytes, its version, and when it was written (seconds, by the clock of the storage)."""

    data: bytes
    version: Version
    modified: float


@dataclass(frozen=True)
class Listed:
    """An object in a list."""

    key: str
    size: int
    modified: float
    tag: str = ""
    """The ETag, if the list has it."""


class Writing(Protocol):
    """An object that is being written, in parts."""

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write bytes. All parts but the one that these bytes begin are in the storage when this returns."""
        ...

    def close(self) -> None:
        """Make the object: durable, and seen by all, when this returns. What is not closed is never seen."""
        ...


class Bucket(Protocol):
    """Objects by their keys. Each method raises LaminaError if the storage fails. A put is durable, and seen by all,
    when it returns."""

    @property
    def location(self) -> str:
        """The URL, for messages."""
        ...

    def get(self, key: str) -> Found | None: ...

    def head(self, key: str) -> Listed | None: ...

    def put(self, key: str, data: bytes) -> Version: ...

    def write(self, key: str, part: int) -> Writing:
        """Begin an object that need not fit into memory. Nobody sees it before it is closed."""
        ...

    def create(self, key: str, data: bytes) -> Version | None:
        """Put a new object; None if another one has this key."""
        ...

    def swap(self, key: str, data: bytes, version: Version) -> Version | None:
        """Put if the object still has this version; None if another one. ``data`` must differ from all that the
        object ever was."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        ...

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete these objects, those that exist, with few requests."""
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        """The objects below ``prefix/`` whose keys are greater than ``after``, sorted by key."""
        ...

    def stream(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes from ``start`` to ``end``; the request is sent at once. Raises SystemFailure if there is no such
        object."""
        ...

    def url(self, key: str, seconds: int) -> str:
        """A URL with which everybody can read the object for some time; "" if the storage has none."""
        ...


class ObstoreBucket:
    """``Bucket`` by obstore. ``small`` has short timeouts, ``large`` is for the bytes of blobs; ``direct``: objects
    have URLs, by which long reads need no obstore."""

    def __init__(self, small: ObjectStore, large: ObjectStore, location: str, *, direct: bool = False) -> None:
        self._small = small
        self._large = large
        self.location = location
        self._direct = DirectReads(location) if direct else None

    def get(self, key: str) -> Found | None:
        try:
            with reported(self.location, f"reading {key}"):
                found = self._small.get(key)
                data = bytes(found.bytes())
        except FileNotFoundError:
            return None
        return Found(data, _version(found.meta), found.meta["last_modified"].timestamp())

    def head(self, key: str) -> Listed | None:
        try:
            with reported(self.location, f"looking for {key}"):
                found = self._small.head(key)
        except FileNotFoundError:
            return None
        return Listed(key, found["size"], found["last_modified"].timestamp())

    def put(self, key: str, data: bytes) -> Version:
        store = self._small if len(data) <= PIECE else self._large
        try:
            with reported(self.location, f"writing {key}"):
                return _version(store.put(key, data, use_multipart=False))
        except FileNotFoundError:
            raise StorageFailure(f"{self.location} does not take {key}", hint="check the storage's address") from None

    def write(self, key: str, part: int) -> Writing:
        return _ObstoreWriting(self._large, key, part, self.location)

    def create(self, key: str, data: bytes) -> Version | None:
        return self._put_if(key, data, "create")

    def swap(self, key: str, data: bytes, version: Version) -> Version | None:
        return self._put_if(key, data, dict(version))

    def _put_if(self, key: str, data: bytes, mode: Any) -> Version | None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with reported(self.location, f"writing {key}"):
            try:
                return _version(self._small.put(key, data, mode=mode, use_multipart=False))
            except (FileNotFoundError, AlreadyExistsError, PreconditionError):
                pass
            except Exception as error:
                if not is_race(error):
                    raise
        # obstore tries again after a lost answer: what it finds may be our own
        now = self.get(key)
        return now.version if now is not None and now.data == data else None

    def delete(self, key: str) -> None:
        try:
            with reported(self.location, f"deleting {key}"):
                self._small.delete(key)
        except FileNotFoundError:
            pass

    def delete_all(self, keys: Sequence[str]) -> None:
        try:
            with reported(self.location, f"deleting {len(keys)} objects"):
                if keys:
                    self._small.delete(list(keys))
        except FileNotFoundError:
            for key in keys:
                self.delete(key)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        try:
            with reported(self.location, f"listing {prefix}"):
                for page in self._small.list(prefix, offset=after or None, chunk_size=_PAGE):
                    for one in page:
                        yield Listed(
                            one["path"], one["size"], one["last_modified"].timestamp(), one.get("e_tag") or ""
                        )
        except FileNotFoundError:
            # only something between us and the storage can say this. An empty list would let gc delete everything
            raise StorageFailure(
                f"{self.location} does not list {prefix}", hint="check the storage's address"
            ) from None

    def stream(self, key: str, start: int, end: int) -> Iterator[bytes]:
        if start >= end:
            return iter(())
        if self._direct is not None and end - start >= WORTH and self._direct.usable:
            with suppress(LaminaError):  # obstore finds out what is wrong
                found = self._direct.read(self.url(key, _READ_SECONDS), start, end)
                if found is not None:
                    return found
        try:
            with reported(self.location, f"reading {key}"):
                answer = self._large.get(key, options={"range": (start, end)})
        except FileNotFoundError:
            raise SystemFailure(
                f"{key} is not in {self.location}", hint="run `lamina fsck --storage URL` to see what is damaged"
            ) from None
        return self._pieces(key, answer)

    def _pieces(self, key: str, found: GetResult) -> Iterator[bytes]:
        with reported(self.location, f"reading {key}"):
            for piece in found.stream(min_chunk_size=_JOINED):
                yield bytes(piece)  # no copy: it is bytes

    def url(self, key: str, seconds: int) -> str:
        from datetime import timedelta

        import obstore

        try:
            signed: str = obstore.sign(cast("Any", self._large), "GET", key, timedelta(seconds=seconds))
            return signed
        except (TypeError, ValueError):  # memory
            return ""
        except obstore.exceptions.BaseError as error:
            raise failure(error, self.location, f"signing {key}") from None


class _ObstoreWriting:
    """``Writing`` by a multipart upload."""

    def __init__(self, store: ObjectStore, key: str, part: int, location: str) -> None:
        import obstore

        self._store, self._key, self._location = store, key, location
        self._size = 0
        # not store.put(): it would ask for the pieces where no other request can be made
        self._writer = obstore.open_writer(cast("Any", store), key, buffer_size=part, max_concurrency=1)

    def write(self, pieces: Iterable[bytes]) -> None:
        with self._reported():
            last = b""
            for piece in pieces:
                self._write(last)
                last = piece
            # a call of write() first waits for the part that is on its way
            for piece in (last[:-1], last[-1:]):
                self._write(piece)

    def _write(self, piece: bytes) -> None:
        if piece:
            self._writer.write(piece)
            self._size += len(piece)

    def close(self) -> None:
        with self._reported():
            try:
                self._writer.close()
            except Exception:
                if not self._is_there():
                    raise

    def _is_there(self) -> bool:
        """Whether the object was made, though the answer that said so was lost: the upload of its parts is gone then.
        Nobody else writes this key."""
        try:
            return self._store.head(self._key)["size"] == self._size
        except Exception:  # noqa: BLE001 - the first error says more
            return False

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            with reported(self._location, f"writing {self._key}"):
                yield
        except FileNotFoundError:
            raise StorageFailure(
                f"{self._location} has lost what was written to {self._key}", hint="send it again"
            ) from None


def _version(meta: Any) -> Version:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}
