"""What a place of images can do, as protocols: ``Reader``, ``Writer`` (whose ``Session`` writes), ``Deleter``,
``Lister``, and the blobs and layers that they give. A place implements some of them, and ``source.abilities`` tells
at run time which. Modules import this one under ``TYPE_CHECKING`` only. Nothing here touches a disk or a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from lamina.events import Cancel, OnEvent, ignore
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest

if TYPE_CHECKING:
    from typing import Self

    from lamina.layer.index import LayerIndex
    from lamina.source.presence import Presence
    from lamina.source.takes import Takes


class Stream(Protocol):
    """Bytes to be read once, front to back."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Abortable(Protocol):
    """A stream that another thread may stop: its ``read`` fails at once."""

    def abort(self) -> None: ...


class Blob(Protocol):
    """A content-addressed blob: what it is, and how to get at its bytes (not verified: the writer does that)."""

    @property
    def descriptor(self) -> Descriptor: ...

    @property
    def origin(self) -> str:
        """The repository (``host/path``) that has the blob and gives it again at any time; "" for a local place."""
        ...

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        """The bytes from ``start`` up to ``end`` (exclusive; None: to the end). Raises BlobNotFound."""
        ...


class Reader(Protocol):
    """A place that images can be read from. ``location`` names it in messages."""

    @property
    def location(self) -> str: ...

    def resolve(self, name: str) -> Descriptor:
        """The manifest or index that ``name`` stands for; "" is the only image there. Raises ReferenceNotFound."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The document's bytes, verified against the descriptor. Raises BlobNotFound, InvalidContent."""
        ...

    def blob(self, descriptor: Descriptor) -> Blob:
        """Raises BlobNotFound (at the latest when the blob is first read)."""
        ...


class Referrers(Protocol):
    """A place that knows which manifests have another one as their subject (signatures, attestations)."""

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """Manifests whose ``subject`` is this one; artifactType and annotations are filled in."""
        ...


class TarReader(Protocol):
    """A place that has uncompressed tars of layers beside their blobs."""

    def tar(self, layer: Descriptor, diff_id: Digest) -> Blob | None:
        """The layer's tar as a blob of its own, whose digest is the diff_id; None where it is not there, or not known
        to be sound."""
        ...


class TarWriter(Protocol):
    """A session of a place that keeps layers as uncompressed tars."""

    def put_tar(
        self, layer: Descriptor, tar: Blob, *, on_event: OnEvent = ignore, cancel: Cancel | None = None
    ) -> None:
        """As ``Session.put_blob``, of the layer that ``layer`` is the compressed form of."""
        ...


class Writer(Protocol):
    """A place that images can be written to: ``with writer.session("pull") as session``."""

    @property
    def location(self) -> str: ...

    @property
    def takes(self) -> Takes: ...

    def session(self, purpose: str) -> AbstractContextManager[Session]:
        """A new session. Everything is written in one: it keeps gc away from what is not tagged yet, and closes
        what has an end (an archive). Leaving it with an exception leaves nothing half-written visible. Several
        sessions of one place are independent of each other; a place that can have only one at a time says so."""
        ...


class Session(Protocol):
    """What is written to a place together. Several threads may call ``has`` and ``put_blob`` at the same time."""

    @property
    def location(self) -> str: ...

    @property
    def takes(self) -> Takes: ...

    @property
    def reader(self) -> Reader | None:
        """Reads what was put, at once and cheaply; None where the place can't."""
        ...

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        """Whether the blob is there, whole, and need not be put (the session then protects it); if not, who is known
        to have it. ``diff_id``: of a layer, whose derived data counts as well where the place keeps any."""
        ...

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        """Copy and verify: size, digest and, where ``diff_id`` is given, the uncompressed bytes' digest. False
        where no bytes had to move: another process brought them in, the target knows them by ``diff_id``, or gets
        them from the blob's origin. Raises InvalidContent and leaves nothing where they don't agree."""
        ...

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        """Verify and write a manifest or an index. What it names must be there before (an index may be sparse)."""
        ...

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let ``name`` point to the manifest or index; "" lists it without a name."""
        ...


class Maker(Protocol):
    """A place without manifests of its own: they are made for what is there."""

    def makes(self, descriptor: Descriptor) -> bool:
        """Whether this manifest was made here."""
        ...


class Knower(Protocol):
    """A session of a place that knows an image again by its config, whatever its manifest."""

    def same_image(self, manifest: Manifest, name: str) -> Descriptor | None:
        """The whole image there with this config, and so with these layers, however they are compressed; the index
        that has it, where ``name`` points to one. It is protected as by ``Session.has``. None where there is none."""
        ...


class Gatherer(Protocol):
    """A session that takes many images faster when each need not be there before the next one comes."""

    def gathering(self) -> AbstractContextManager[None]:
        """What is put and named in the block may come to the place, durable and visible to others,
        later than each call returns; at the latest when the block ends. Where it ends with an exception, the images
        that were named before have their names all the same."""
        ...

    def give_names(self) -> None:
        """Bring what waits to its place: what comes next may take long."""
        ...


class Deleter(Protocol):
    """A place that images can be removed from."""

    def untag(self, name: str) -> Descriptor:
        """Remove the name; what it pointed to stays. Raises ReferenceNotFound."""
        ...

    def delete(self, descriptor: Descriptor) -> None:
        """Remove the manifest or index and all names of it. Raises BlobNotFound."""
        ...


class Lister(Protocol):
    """A place that can say what it holds."""

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        """Each name with what it points to; "" for an image without a name."""
        ...


class LayerHandle(Protocol):
    """One layer as a place offers it: its index, and its uncompressed tar. Of a layer that is elsewhere the index may
    be known all the same."""

    @property
    def descriptor(self) -> Descriptor: ...

    @property
    def diff_id(self) -> Digest: ...

    def presence(self) -> Presence:
        """Whether its bytes are here, elsewhere (``index`` and ``open`` may have to fetch them), or nowhere."""
        ...

    def index(self) -> LayerIndex: ...

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        """Bytes of the uncompressed tar."""
        ...
