"""What a registry server needs of the place that it serves, as protocols: repositories with manifests, tags and
blobs, and the uploads of clients.

``source.repositories`` implements the reading half over any place that lists its names, ``store.repositories`` all of
it over the store, ``objects`` all of it over object storage. Modules import this one under ``TYPE_CHECKING`` only.

A repository is given as ``Reference.repository``: host and path, canonical (``docker.io/library/app``). Every method
that reads or changes the place may raise LaminaError (SystemFailure, DiskFull) if the place itself fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from lamina.source.protocols import Blob, Lister, Reader, Stream
from lamina.source.upload_limits import Opener
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest


class Repositories(Protocol):
    """Repositories that can be read. A blob or a manifest is *in* a repository if it was pushed or mounted there, or
    if a manifest that is in the repository names it; and if it was not deleted there since. Nothing that is only in
    another repository is ever found."""

    @property
    def location(self) -> str:
        """The place, for messages."""
        ...

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        """The repositories, sorted; those greater than ``after``, at most ``limit``."""
        ...

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        """The tags of a repository, sorted, from ``after`` as in ``names``. Raises NotFound if there is no such
        repository; one that has lost its last tag still exists."""
        ...

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        """The manifest or index with this tag or digest; its media type is the document's. Raises NotFound."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of a document that ``find`` has returned, verified. Raises BlobNotFound, InvalidContent."""
        ...

    def blob(self, repository: str, digest: Digest) -> Blob:
        """A blob of the repository; its descriptor has the true size. Raises BlobNotFound."""
        ...

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """The manifests of the repository whose subject is this one, with artifactType and annotations, sorted by
        digest. Empty if there are none, or no such repository."""
        ...

    def usage(self, repository: str) -> int:
        """The bytes that the repository holds, for quotas: of each manifest and blob once. 0 if there is no such
        repository."""
        ...


class UploadPlace(Protocol):
    """Blobs that are being uploaded to a repository. An upload outlives a lost connection, and a restart of the
    server. Each method that takes the ``ident`` of an upload raises NotFound if it does not exist in this
    repository."""

    def create(self, repository: str, opener: Opener | None = None) -> str:
        """Begin an upload. Returns its ident, 32 hex digits (``upload_limits.new_ident``): nobody can guess it.
        ``opener``: the client, if there is a limit for each. Raises RateLimited if too many are open."""
        ...

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        """The open uploads, of all servers: by ident, the repository and the bytes received. ``repository``: of this
        one alone."""
        ...

    def size(self, repository: str, ident: str) -> int:
        """The number of bytes received."""
        ...

    def append(self, repository: str, ident: str, pieces: Iterable[bytes]) -> int:
        """Append bytes. Returns how many were received in total. If ``pieces`` raises, the bytes so far are kept."""
        ...

    def held(self, repository: str, ident: str) -> AbstractContextManager[None]:
        """Lock the upload while the block runs: one request at a time writes to it. Raises Conflict."""
        ...

    def finish(self, repository: str, ident: str, digest: Digest) -> Descriptor:
        """Verify the bytes, and make them a blob of the repository: durable when this returns, and protected from gc
        until a manifest names it or the grace time is over. The upload is removed, also if its bytes are wrong.
        Raises InvalidContent, Unsupported (the algorithm)."""
        ...

    def cancel(self, repository: str, ident: str) -> None:
        """Remove the upload."""
        ...


class WritableRepositories(Repositories, Protocol):
    """Repositories that clients can also write to. Each change is durable when its method returns."""

    @property
    def uploads(self) -> UploadPlace: ...

    def check_writing(self) -> None:
        """Check that something can be written now, by writing a little. Raises LaminaError."""
        ...

    def mount(self, repository: str, digest: Digest, source: str) -> bool:
        """Put a blob of the repository ``source`` into ``repository``, protected as by ``UploadPlace.finish``.
        Returns False if ``source`` does not have it."""
        ...

    def keep(self, repository: str, digest: Digest) -> bool:
        """Protect a blob that is in the repository as if it had just been pushed: a client was told that it need not
        send it. Returns False if it is not there (any more)."""
        ...

    def put_manifest(
        self, repository: str, descriptor: Descriptor, raw: bytes, tags: Sequence[str], *, fixed: Collection[str] = ()
    ) -> None:
        """Store a verified document and point ``tags`` to it; without tags it is found by its digest alone. Tags in
        ``fixed`` are only made, never moved. Raises BlobNotFound (what it names is not in the repository; an index
        may be sparse), SizeMismatch (it states a wrong size of what is in the repository), Conflict (a fixed tag
        points to another document; nothing was changed)."""
        ...

    def untag(self, repository: str, tag: str) -> None:
        """Remove a tag; the manifest stays, and is found by its digest. Raises NotFound."""
        ...

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        """Remove a manifest and its tags from the repository, for good. Raises NotFound."""
        ...

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Remove a blob from the repository, for good; gc frees the bytes once nothing needs them. Raises
        BlobNotFound."""
        ...


class Readable(Reader, Lister, Protocol):
    """A place of images that can be served read-only."""


class CopyingRepositories(Protocol):
    """Repositories that are copied from elsewhere when somebody asks for them."""

    def kept(self) -> Repositories:
        """What is here now, without asking elsewhere."""
        ...


class WarningRepositories(Protocol):
    """Repositories whose answers may be old."""

    def warning(self, repository: str, name: str | Digest) -> str:
        """Why the last answer of ``find`` for this name may be old; "" if it is not."""
        ...


class Growing(Stream, Protocol):
    """A stream whose bytes are still coming in."""

    def when_ready(self, call: Callable[[], object]) -> None:
        """Call ``call`` once, from any thread, when ``read`` would not wait."""
        ...


class Indexed(Readable, Protocol):
    """A place that finds what a repository has without reading all its names."""

    def reading(self) -> Repositories:
        """The repositories of the place, for reading."""
        ...


class Served(Readable, Protocol):
    """A place of images that can also be served for writing."""

    def repositories(self) -> AbstractContextManager[WritableRepositories]:
        """Open the place for a server; the block lasts as long as the server."""
        ...


class Pieces(Stream, Protocol):
    """A stream whose bytes come in pieces of less than 1 MiB, which need not be copied."""

    def piece(self) -> bytes:
        """The next piece; b"" at the end."""
        ...


class Piped(Stream, Protocol):
    """A stream whose bytes may come from a socket, which an event loop can read without a thread."""

    def source(self) -> int | None:
        """The descriptor that can be read when the next bytes have come by the socket; None if they come by
        ``read``."""
        ...

    def arrived(self, size: int) -> bytes | memoryview | None:
        """Take at most ``size`` bytes from the socket without waiting. None: wait for the descriptor. b"": the socket
        has ended or can't go on, and ``read`` does."""
        ...

    def passable(self) -> int:
        """How many of the next bytes come by the descriptor as they are, so that the kernel can pass them on. What
        comes behind them may not be passed on."""
        ...

    def taken(self, size: int) -> None:
        """So many bytes were taken from the descriptor by somebody else: the stream goes on behind them."""
        ...


class Linked(Blob, Protocol):
    """A blob that clients can read from another server."""

    def url(self) -> str:
        """A URL for a GET of the whole blob or a range of it, which is valid for some time; "" if there is none."""
        ...


class BlobPlace(Protocol):
    """Blobs by digest, verified and immutable."""

    def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None if it is not there."""
        ...

    def get(self, descriptor: Descriptor) -> Blob:
        """The blob; any range of it can be opened. Raises BlobNotFound, at the latest when it is opened."""
        ...

    def __iter__(self) -> Iterator[Digest]:
        """All digests, in any order."""
        ...


class BlobHolder(Protocol):
    """A place that finds blobs by their digests alone."""

    @property
    def blobs(self) -> BlobPlace: ...
