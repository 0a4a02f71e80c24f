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
    """Blobs by digest, verified and immutable. They are put by a session (``Session.put_blob``)."""

    def size(self, digest: Digest) -> int | None:
        """Bytes, or None where it is not there."""
        ...

    def get(self, descriptor: Descriptor) -> Blob:
        """The blob, of which any range can be opened. Raises BlobNotFound, at the latest when it is opened."""
        ...

    def delete(self, digest: Digest) -> bool:
        """Remove a blob that nothing needs any more (the caller knows that); False where it is not there."""
        ...

    def __iter__(self) -> Iterator[Digest]:
        """All that is there, in no order."""
        ...


class TagPlace(Protocol):
    """Names, and what they point to."""

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        """As ``Lister.names``."""
        ...

    def swap(self, name: str, old: Digest | None, new: Descriptor | None) -> bool:
        """Compare and swap: where the canonical ``name`` points to ``old`` (None: it is not there), let it point to
        ``new`` (None: remove it; the document stays). False where it points to something else."""
        ...

    def forget(self, names: list[str], digest: Digest) -> None:
        """Remove these names of a document, and the document where it has no other name."""
        ...


class UploadPlace(Protocol):
    """Blobs on their way in, which outlive a cut connection and the server. Each method that takes the ``ident`` of
    an upload raises NotFound where there is none."""

    def create(self) -> str:
        """Begin an upload; its ident (32 hex digits, which nobody guesses)."""
        ...

    def size(self, ident: str) -> int:
        """Bytes received."""
        ...

    def append(self, ident: str, pieces: Iterable[bytes]) -> int:
        """Add bytes; how many were received in all. What came stays, also where ``pieces`` breaks off."""
        ...

    def held(self, ident: str) -> AbstractContextManager[None]:
        """One request at a time writes to an upload. Raises Conflict."""
        ...

    def cancel(self, ident: str) -> None:
        """Drop it."""
        ...


class ServingSession(Session, Protocol):
    """The session of a server, which lasts as long as the server."""

    def put_upload(self, descriptor: Descriptor, ident: str) -> bool:
        """As ``put_blob``, of the bytes of an upload. The upload is gone afterwards, also where they don't agree."""
        ...

    def protect_only(self, digests: Iterable[Digest]) -> None:
        """Of what has no name yet, protect only these from now on."""
        ...


class Readable(Reader, Lister, Protocol):
    """What can be served to those who read."""


class Served(Readable, Protocol):
    """What can be served to those who write too."""

    @property
    def blobs(self) -> BlobPlace: ...

    @property
    def tags(self) -> TagPlace: ...

    @property
    def uploads(self) -> UploadPlace: ...

    def session(self, purpose: str) -> AbstractContextManager[ServingSession]: ...
