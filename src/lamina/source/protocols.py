"""The protocols of a place of images: ``Reader``, ``Writer`` (whose ``Session`` writes), ``Deleter``, ``Lister``, and
the blobs and layers that they give.

A place implements some of them; ``source.abilities`` tells at run time which. Other modules import this one only
under ``TYPE_CHECKING``. Nothing here uses a disk or a network.
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
    from lamina.source.accepts import Accepts
    from lamina.source.presence import Presence


class Stream(Protocol):
    """Bytes that are read once, from front to back."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Abortable(Protocol):
    """A stream that another thread may stop: its ``read`` then fails at once."""

    def abort(self) -> None: ...


class Blob(Protocol):
    """A content-addressed blob: its descriptor, and access to its bytes. The bytes are not verified; the writer does
    that."""

    @property
    def descriptor(self) -> Descriptor: ...

    @property
    def origin(self) -> str:
        """The repository (``host/path``) from which the blob can be fetched again at any time; "" for a local
        place."""
        ...

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        """The bytes from ``start`` up to ``end`` (exclusive; None: to the end). Raises BlobNotFound."""
        ...


class Reader(Protocol):
    """A place that images can be read from. ``location`` names it in messages."""

    @property
    def location(self) -> str: ...

    def resolve(self, name: str) -> Descriptor:
        """The manifest or index that ``name`` points to; "" means the only image there. Raises ReferenceNotFound."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The document's bytes, verified against the descriptor. Raises BlobNotFound, InvalidContent."""
        ...

    def blob(self, descriptor: Descriptor) -> Blob:
        """Raises BlobNotFound (at the latest when the blob is first read)."""
        ...


class Referrers(Protocol):
    """A place that knows which manifests refer to another manifest as their subject (signatures, attestations)."""

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """The manifests whose ``subject`` is this one, with artifactType and annotations."""
        ...


class TarReader(Protocol):
    """A place that has uncompressed tars of layers besides their blobs."""

    def tar(self, layer: Descriptor, diff_id: Digest) -> Blob | None:
        """The layer's tar as a separate blob, whose digest is the diff_id; None if the place does not have it, or
        can't tell that it is correct."""
        ...


class TarWriter(Protocol):
    """A session of a place that keeps layers as uncompressed tars."""

    def put_tar(
        self, layer: Descriptor, tar: Blob, *, on_event: OnEvent = ignore, cancel: Cancel | None = None
    ) -> None:
        """Like ``Session.put_blob``, but from the uncompressed tar. ``layer``: the descriptor of the compressed
        form."""
        ...


class Writer(Protocol):
    """A place that images can be written to: ``with writer.session("pull") as session``."""

    @property
    def location(self) -> str: ...

    @property
    def accepts(self) -> Accepts: ...

    def session(self, purpose: str) -> AbstractContextManager[Session]:
        """Open a session. Every write belongs to one: it protects from gc what has no name yet, and closes what must
        be completed (an archive). If it ends with an exception, nothing half-written becomes visible. Several
        sessions of one place are independent; a place that allows only one at a time documents that."""
        ...


class Session(Protocol):
    """One session of writing to a place. Several threads may call ``has`` and ``put_blob`` at the same time."""

    @property
    def location(self) -> str: ...

    @property
    def accepts(self) -> Accepts: ...

    @property
    def reader(self) -> Reader | None:
        """A reader that sees at once, and at low cost, what was put; None if the place has none."""
        ...

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        """Whether the blob is there, complete, and need not be put (the session then protects it); if not, which
        place is known to have it. ``diff_id``: given for a layer; its derived data must be there too, if the place
        keeps any."""
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
        """Copy and verify the size, the digest and, if ``diff_id`` is given, the digest of the uncompressed bytes.

        Returns False if no bytes had to be copied: another process brought them in, the target knows them by
        ``diff_id``, or it gets them from the blob's origin. Raises InvalidContent, and leaves nothing, if the bytes
        are wrong.
        """
        ...

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        """Verify and write a manifest or an index. Everything that it names must be there already (an index may be
        sparse)."""
        ...

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Make ``name`` point to the manifest or index; "" lists it without a name."""
        ...


class ManifestMaker(Protocol):
    """A place that has no manifests of its own, and makes them for what it holds."""

    def has_made(self, descriptor: Descriptor) -> bool:
        """Whether this manifest was made here."""
        ...


class SameImageFinder(Protocol):
    """A session of a place that recognizes an image by its config, whatever its manifest."""

    def same_image(self, manifest: Manifest, name: str) -> Descriptor | None:
        """The complete image there with this config, and therefore with these layers, however they are compressed. If
        ``name`` points to an index that has it, that index. It is protected as by ``Session.has``. None if there is
        no such image."""
        ...


class BatchWriter(Protocol):
    """A session that brings in many images faster if an image may become visible later than the call returns."""

    def batch(self) -> AbstractContextManager[None]:
        """What is put and named in the block may become durable and visible to others later than each call returns,
        but at the latest when the block ends. If the block ends with an exception, the images that were named before
        still get their names."""
        ...

    def commit_names(self) -> None:
        """Make what waits durable and visible now, before something that may take long."""
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
        """Each name with the descriptor that it points to; "" for an image without a name."""
        ...


class LayerHandle(Protocol):
    """One layer as a place offers it: its index, and its uncompressed tar. The index may be known even if the bytes
    of the layer are elsewhere."""

    @property
    def descriptor(self) -> Descriptor: ...

    @property
    def diff_id(self) -> Digest: ...

    def presence(self) -> Presence:
        """Whether the bytes are here, elsewhere (then ``index`` and ``open`` may have to fetch them), or nowhere."""
        ...

    def index(self) -> LayerIndex: ...

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        """The bytes of the uncompressed tar."""
        ...
