"""What a registry server needs of the place that it serves, as protocols: its blobs, its tags, and its uploads.

A directory and an object store are two implementations; ``store.Store`` is the first. Modules import this one under
``TYPE_CHECKING`` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from lamina.source.protocols import Blob, Lister, Reader, Session
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest


class BlobPlace(Protocol):
    """Blobs by digest, verified and immutable. A session writes them (``Session.put_blob``)."""

    def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None if it is not there."""
        ...

    def get(self, descriptor: Descriptor) -> Blob:
        """The blob; any range of it can be opened. Raises BlobNotFound, at the latest when it is opened."""
        ...

    def delete(self, digest: Digest) -> bool:
        """Remove a blob; the caller must know that nothing needs it. Returns False if it is not there."""
        ...

    def __iter__(self) -> Iterator[Digest]:
        """All digests, in any order."""
        ...


class TagPlace(Protocol):
    """Names, and what they point to."""

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        """As ``Lister.names``."""
        ...

    def swap(self, name: str, old: Digest | None, new: Descriptor | None) -> bool:
        """Compare and swap: if the canonical ``name`` points to ``old`` (None: does not exist), make it point to
        ``new`` (None: remove the name; the document stays). Returns False if it points to something else."""
        ...

    def forget(self, names: list[str], digest: Digest) -> None:
        """Remove these names of a document, and the document too if it has no other name."""
        ...


class UploadPlace(Protocol):
    """Blobs that are being uploaded. An upload outlives a lost connection and a restart of the server. Each method
    that takes the ``ident`` of an upload raises NotFound if it does not exist."""

    def create(self) -> str:
        """Begin an upload. Returns its ident: 32 random hex digits, so that nobody can guess it."""
        ...

    def size(self, ident: str) -> int:
        """The number of bytes received."""
        ...

    def append(self, ident: str, pieces: Iterable[bytes]) -> int:
        """Append bytes. Returns how many were received in total. If ``pieces`` raises, the bytes so far are kept."""
        ...

    def held(self, ident: str) -> AbstractContextManager[None]:
        """Lock the upload while the block runs: one request at a time writes to it. Raises Conflict."""
        ...

    def cancel(self, ident: str) -> None:
        """Remove the upload."""
        ...


class ServingSession(Session, Protocol):
    """The session of a server, which lasts as long as the server."""

    def put_upload(self, descriptor: Descriptor, ident: str) -> bool:
        """As ``put_blob``, from the bytes of an upload. The upload is removed, also if its bytes are wrong."""
        ...

    def protect_only(self, digests: Iterable[Digest]) -> None:
        """From now on protect only these objects of those that have no name yet."""
        ...


class Readable(Reader, Lister, Protocol):
    """A place that can be served read-only."""


class Served(Readable, Protocol):
    """A place that can also be served for writing."""

    @property
    def blobs(self) -> BlobPlace: ...

    @property
    def tags(self) -> TagPlace: ...

    @property
    def uploads(self) -> UploadPlace: ...

    def session(self, purpose: str) -> AbstractContextManager[ServingSession]: ...
