"""Protocols of everything that holds images, and the plain values that pass between floors (floor 5).

A place (the store, an OCI layout, an archive, later a registry) implements some of ``Reader``, ``Writer``,
``Deleter``, ``Lister``, in files named after the operation family. A blob is a descriptor and a way to open it.
Nothing here touches a disk or a network.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from types import TracebackType

from lamina.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidContent,
    InvalidDocument,
    LimitExceeded,
    NotFound,
    SizeMismatch,
    Unsupported,
    UsageError,
)
from lamina.events import BlobProgress, Cancel, OnEvent, ignore
from lamina.light import TYPE_CHECKING, Protocol, Value, field, replace, runtime_checkable
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import History, ImageConfig, chain_ids
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Index, Manifest, is_selectable, parse, select

if TYPE_CHECKING:
    from typing import Self

    from lamina.layer.index import LayerIndex
    from lamina.spec.platform import Platform
    from lamina.union.stacked import Stacked
    from lamina.union.tree import Stored, Tree, Union


class Stream(Protocol):
    """Bytes to be read once, front to back."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


@runtime_checkable
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


class BytesBlob:
    """A small ``Blob`` in memory."""

    origin = ""

    def __init__(self, descriptor: Descriptor, data: bytes) -> None:
        self.descriptor = descriptor
        self._data = data

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        return io.BytesIO(self._data[start:end])


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


@runtime_checkable
class Referrers(Protocol):
    """A place that knows which manifests have another one as their subject (signatures, attestations)."""

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """Manifests whose ``subject`` is this one; artifactType and annotations are filled in."""
        ...


@runtime_checkable
class TarReader(Protocol):
    """A place that has uncompressed tars of layers beside their blobs."""

    def tar(self, layer: Descriptor, diff_id: Digest) -> Blob | None:
        """The layer's tar as a blob of its own, whose digest is the diff_id; None where it is not there, or not known
        to be sound."""
        ...


@runtime_checkable
class TarWriter(Protocol):
    """A place that keeps layers as uncompressed tars."""

    def put_tar(
        self, layer: Descriptor, tar: Blob, *, on_event: OnEvent = ignore, cancel: Cancel | None = None
    ) -> None:
        """As ``Writer.put_blob``, of the layer that ``layer`` is the compressed form of."""
        ...


class Writer(Protocol):
    """A place that images can be written to. ``takes_indexes`` is False where only single manifests fit in;
    ``takes_sparse`` is False where an index may only list what is there;
    ``reads_back`` is True where what was put is at once and cheaply read by the ``Reader`` that it is as well;
    ``takes_foreign`` is False where layers that may not be distributed don't go."""

    takes_indexes: bool
    takes_sparse: bool
    reads_back: bool
    takes_foreign: bool

    @property
    def location(self) -> str: ...

    def session(self, purpose: str) -> AbstractContextManager[None]:
        """Everything is written inside one session: it keeps gc away from what is not tagged yet, and closes
        what has an end (an archive). Leaving it with an exception leaves nothing half-written visible."""
        ...

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> bool:
        """Whether the blob is there, whole, and need not be put (the session then protects it). ``diff_id``: of a
        layer, whose derived data counts as well where the place keeps any."""
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


@runtime_checkable
class Maker(Protocol):
    """A place without manifests of its own: they are made for what is there."""

    def makes(self, descriptor: Descriptor) -> bool:
        """Whether this manifest was made here."""
        ...


@runtime_checkable
class Knower(Protocol):
    """A place that knows an image again by its config, whatever its manifest."""

    def same_image(self, manifest: Manifest, name: str) -> Descriptor | None:
        """The whole image there with this config, and so with these layers, however they are compressed; the index
        that has it, where ``name`` points to one. It is protected as by ``Writer.has``. None where there is none."""
        ...


@runtime_checkable
class Gatherer(Protocol):
    """A place that takes many images faster when each need not be there before the next one comes."""

    def gathering(self) -> AbstractContextManager[None]:
        """Inside a session: what is put and named in the block may come to the place, durable and visible to others,
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


@runtime_checkable
class Lister(Protocol):
    """A place that can say what it holds."""

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        """Each name with what it points to; "" for an image without a name."""
        ...


class LayerHandle(Protocol):
    """One layer as a place offers it: its index, and its uncompressed tar."""

    @property
    def descriptor(self) -> Descriptor: ...

    @property
    def diff_id(self) -> Digest: ...

    def index(self) -> LayerIndex: ...

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        """Bytes of the uncompressed tar."""
        ...


class Stack(Value):
    """An image, or a range of its layers, ready to be looked into: what ``view``, ``edit`` and ``insight`` take.

    ``layers`` are bottom first; ``first`` is the number (from 1) that ``layers[0]`` has in the whole image;
    ``steps`` holds, for each layer, the build step that made it where the history says so.
    """

    name: str
    manifest: Manifest
    config: ImageConfig
    layers: tuple[LayerHandle, ...]
    steps: tuple[History | None, ...] = ()
    first: int = 1
    look: Callable[[Stack], Union] | None = None
    """A shorter way to ``union``, where there is one."""
    kept: Callable[[Stack], Union | None] | None = None
    """What was merged and written down before, if it was: nothing is merged for it."""
    again: tuple[Callable[..., Stack], tuple[object, ...]] | None = field(
        default_factory=lambda: None, repr=False, compare=False
    )
    """How another process opens the whole image, as a function and its arguments."""
    _cache: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[..., Stack], tuple[object, ...]]:
        """Pickled by where it is: layers hold open files. Raises TypeError where nothing says where that is."""
        if self.again is None:
            raise TypeError(f"the image {self.name} can't be pickled: it was not opened by a name")
        return _opened_again, (*self.again, self.first, len(self.layers))

    def __copy__(self) -> Stack:
        return self

    def __deepcopy__(self, memo: object) -> Stack:
        return self

    @cached_property
    def diff_ids(self) -> tuple[Digest, ...]:
        return tuple(layer.diff_id for layer in self.layers)

    @cached_property
    def chain_ids(self) -> tuple[Digest, ...]:
        """image-spec config.md, "Layer ChainID"; of these layers alone where the stack is a range."""
        return chain_ids(self.diff_ids)

    def slice(self, low: int, high: int | None) -> Stack:
        """Layers ``low`` to ``high``, both counted from 1 at the bottom. Raises UsageError out of range."""
        top = self.first + len(self.layers) - 1
        high = top if high is None else high
        if high > top or low < self.first or low > high + 1:
            raise UsageError(
                f"{self.name} has layers {self.first} to {top}, not {low} to {high}",
                hint="layers are counted from 1 at the bottom; see `lamina layers`",
            )
        cut = slice(low - self.first, high - self.first + 1)
        return replace(self, layers=self.layers[cut], steps=self.steps[cut], first=low, _cache={})

    def tree(self) -> Tree:
        """The union of the layers, merged on first need."""
        tree = self.merged()
        if tree is None:
            from lamina.union.merge import merge

            tree = merge([layer.index() for layer in self.layers])
            self.remember(tree)
        return tree

    def merged(self) -> Tree | None:
        """The union, where it was merged already."""
        return self._cache.get("tree")  # type: ignore[return-value]

    def remember(self, tree: Tree) -> None:
        """``tree`` is the union of just these layers: nobody has to merge them again."""
        self._cache["tree"] = tree

    def union(self) -> Union:
        """The union for a few questions: merged, unless ``look`` has it without."""
        found = self._known()
        if found is None:
            found = self._cache["union"] = self.look(self) if self.look else self.tree()
        return found

    def _known(self) -> Union | None:
        found = self._cache.get("tree")
        return self._cache.get("union") if found is None else found  # type: ignore[return-value]

    def glance(self, paths: Iterable[bytes]) -> Tree:
        """The union as far as it concerns these literal paths, without merging the rest; the whole one where it was
        merged already. Raises InvalidLayer."""
        if "tree" in self._cache:
            return self.tree()
        from lamina.union.glance import Glance

        return Glance().tree([layer.index() for layer in self.layers], paths)

    def lookup(self, path: bytes, *, follow: bool = False) -> tuple[Union, int]:
        """``path`` looked up (``Union.lookup``): in what is merged or kept, else in as little of the layers as that
        takes. Raises PathNotFound, InvalidLayer."""
        union = self._ready()
        if union is not None:
            return union, union.lookup(path, follow=follow)
        from lamina.union.glance import Glance

        return Glance().lookup([layer.index() for layer in self.layers], path, follow=follow)

    def listing(
        self, path: bytes, *, follow: bool = True, into: bool = True, links: bool = True
    ) -> tuple[Union, int]:
        """As ``lookup``; with ``into``, of a directory also what stands in it, and with ``links`` how many names each
        file has. Raises PathNotFound, InvalidLayer."""
        union = self._ready()
        if union is not None:
            return union, union.lookup(path, follow=follow)
        from lamina.union.glance import Glance

        indexes = [layer.index() for layer in self.layers]
        return Glance().listing(indexes, path, follow=follow, into=into, links=links)

    def _ready(self) -> Union | None:
        """The whole union where it is merged or kept, or where so many questions have come that it is the shorter
        way."""
        union = self._known()
        if union is None and self.kept is not None:
            union = self._cache["union"] = self.kept(self)
        if union is None:
            asked: int = self._cache.get("asked", 0) + 1  # type: ignore[operator]
            self._cache["asked"] = asked
            if asked > MANY_QUESTIONS:
                union = self.union()
        return union

    def stacked(self) -> list[Stacked]:
        """The layers' own trees in overlay's form, made on first need. Raises Unsupported (``union.stacked``)."""
        found = self._cache.get("stacked")
        if found is None:
            from lamina.union.stacked import stacked

            found = self._cache["stacked"] = stacked([layer.index() for layer in self.layers])
        return found  # type: ignore[return-value]

    def open_file(self, node: int) -> Stream:
        """The content of the union's regular file ``node``. Sparse members are given whole, holes as zeros."""
        return self.open_stored(self.tree().stored(node))

    def open_content(self, layer: int, row: int) -> Stream:
        """As ``open_file``, of the entry in ``row`` of layer ``layer`` (from 0)."""
        from lamina.layer.content import open_content

        return open_content(self.layers[layer].index(), row, self.layers[layer].open)

    def open_stored(self, stored: Stored) -> Stream:
        """As ``open_file``, of what ``Union.stored`` says."""
        from lamina.layer.content import Content

        return Content(stored.size, stored.offset, stored.sparse, self.layers[stored.layer].open)


def _opened_again(open_again: Callable[..., Stack], given: tuple[object, ...], first: int, count: int) -> Stack:
    whole = open_again(*given)
    return whole if (first, count) == (1, len(whole.layers)) else whole.slice(first, first + count - 1)


MANY_QUESTIONS = 100
"""Lookups in one stack from which on it is merged: a merge costs as much as some 200 (node, 46,204 entries)."""
MAX_NESTING = 8  # indexes within indexes; the spec sets no bound, a loop is impossible, a bomb is not


def choose(reader: Reader, index: Index, platform: Platform, what: str) -> Descriptor:
    """``select``; of entries that state no platform the config is looked at, unless another is just what is wanted.
    Raises NotFound, RemoteFailure, AccessDenied."""
    entries = [entry for entry in index.manifests if is_selectable(entry)]
    unstated = [entry for entry in entries if entry.platform is None][:MAX_UNSTATED]
    wanted = platform.candidates()[0]
    if len(entries) > 1 and not any(entry.platform and wanted.accepts(entry.platform) for entry in entries):
        known = {entry.digest: _platform_of(reader, entry, what) for entry in unstated}
        stated = {digest: found for digest, found in known.items() if found is not None}
        return select(index, platform, what, known=stated)
    return select(index, platform, what)


def _platform_of(reader: Reader, entry: Descriptor, what: str) -> Platform | None:
    """By its config; None for what is no image, not here (an index may be sparse), or damaged."""
    try:
        document = parse(reader.manifest(entry), entry.media_type, what)
        return read_config(reader, document, what).platform if isinstance(document, Manifest) else None
    except (NotFound, InvalidContent, Unsupported):
        return None


def not_as_asked(config: ImageConfig, asked: Platform) -> str:
    """What to warn of where an image of one platform is for another than was asked for; "" where it is right. As
    docker and podman do it is taken all the same: what configs say of their architecture is often wrong."""
    if asked.runs(config.stated_platform):
        return ""
    return f"{config.platform} is the image's one platform, and {asked} was asked for"


MAX_UNSTATED = 64
"""Entries of one index without a platform that are looked at."""


def find_manifest(reader: Reader, descriptor: Descriptor, platform: Platform, what: str) -> Manifest:
    """The manifest that ``descriptor`` stands for, through as many indexes as need be.

    Raises NotFound where an index has nothing for the platform, BlobNotFound where its choice is not there.
    """
    for depth in range(MAX_NESTING):
        try:
            raw = reader.manifest(descriptor)
        except BlobNotFound as error:
            if not depth:
                raise
            raise BlobNotFound(
                f"{what}: the image for {platform} is not at {reader.location}: {error.message}",
                hint=f"fetch it: `lamina pull --platform {platform} {what:.200}`",
            ) from None
        document = parse(raw, descriptor.media_type, what)
        if isinstance(document, Manifest):
            return document
        descriptor = choose(reader, document, platform, what)
    raise InvalidDocument(f"{what}: indexes are nested more than {MAX_NESTING} deep", hint="refused as a bomb")


def read_config(reader: Reader, manifest: Manifest, what: str) -> ImageConfig:
    """The image config of ``manifest``, verified and with one diff_id a layer. Raises Unsupported for an artifact."""
    if not manifest.is_image:
        raise Unsupported(
            f"{what} is an artifact of type {manifest.artifact_type or manifest.config.media_type!r:.100}, no image",
            hint="it can be copied, but has no layers to look into",
        )
    raw = read_document(reader, manifest.config, what)
    config = ImageConfig.parse(raw, f"the config of {what}", manifest.config_type)
    config.check_layers(len(manifest.layers), what)
    return config


def read_document(reader: Reader, descriptor: Descriptor, what: str) -> bytes:
    """A config or another small blob whole, verified. Raises LimitExceeded (4 MiB), BlobNotFound, InvalidContent."""
    if descriptor.size > MAX_DOCUMENT:
        raise LimitExceeded(f"{what}: a config of {descriptor.size} bytes", hint="the limit is 4 MiB")
    if descriptor.data is not None:
        return descriptor.data
    return b"".join(verified(reader.blob(descriptor)))


def is_plain(layer: Descriptor, diff_id: Digest) -> bool:
    """Whether the layer's blob is the uncompressed tar. Its media type may say otherwise: the digests decide."""
    return layer.digest == diff_id


CHUNK = 1 << 20


def verified(blob: Blob, *, on_event: OnEvent = ignore, cancel: Cancel | None = None) -> Iterator[bytes]:
    """The blob's bytes in pieces of at most 1 MiB, size and digest proved at the end: what was done with them is to
    be undone where this raises. The one place that proves a blob as it streams by.

    Raises SizeMismatch, DigestMismatch, Unsupported (algorithm), Cancelled.
    """
    descriptor, hint = blob.descriptor, damage_hint(blob) or "get it again"
    hasher, done = descriptor.digest.hasher(descriptor.size), 0
    with blob.open() as stream, _woken(stream, cancel):
        while True:
            if cancel is not None:
                cancel.check()
            data = stream.read(min(CHUNK, descriptor.size - done + 1))
            if not data:
                break
            done += len(data)
            if done > descriptor.size:
                raise SizeMismatch(f"blob {descriptor.digest} has more than its {descriptor.size} bytes", hint=hint)
            hasher.update(data)
            yield data
            on_event(BlobProgress(descriptor.digest, done, descriptor.size))
    if done != descriptor.size:
        raise SizeMismatch(f"blob {descriptor.digest} ends after {done} of {descriptor.size} bytes", hint=hint)
    actual = Digest(descriptor.digest.algorithm, hasher.hexdigest())
    if actual != descriptor.digest:
        raise DigestMismatch(
            f"blob {descriptor.digest} has other bytes than its digest says: theirs is {actual}", hint=hint
        )


class PieceStream:
    """A ``Stream`` of pieces that are made on the way."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int = -1, /) -> bytes:
        """Raises what the pieces raise."""
        if size < 0:
            data, self._left = b"".join([self._left, *self._pieces]), b""
            return data
        if not self._left:
            self._left = next(self._pieces, b"")
        data, self._left = self._left[:size], self._left[size:]
        return data

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def damage_hint(blob: Blob) -> str:
    """What to do where the blob's bytes are wrong: its place may know ("" where it does not)."""
    return getattr(blob, "damage_hint", "")


@contextmanager
def told_of(blob: Blob) -> Iterator[None]:
    """What the block says of the blob's content names the blob and its place's hint, where that has one: a decoder
    stops at damage before the digest is proved."""
    try:
        yield
    except InvalidContent as error:
        hint = damage_hint(blob)
        if not hint or hint == error.hint:
            raise
        raise with_hint(error, blob.descriptor.digest, hint) from None


def with_hint(error: InvalidContent, digest: Digest, hint: str) -> InvalidContent:
    """The error with another hint, and the digest of the blob that it is about."""
    named = error.message if str(digest) in error.message else f"blob {digest}: {error.message}"
    return type(error)(named, hint=hint)


def _woken(stream: Stream, cancel: Cancel | None) -> AbstractContextManager[None]:
    if cancel is None or not isinstance(stream, Abortable):
        return nullcontext()
    return cancel.calling(stream.abort)


def prove_diff_id(layer: Digest, stated: Digest, actual: Digest) -> None:
    """Raises DigestMismatch unless the layer unpacks to what the config states."""
    if actual != stated:
        raise DigestMismatch(
            f"layer {layer} unpacks to {actual}, the config says {stated}",
            hint="config and layer don't belong together: get the image again",
        )
