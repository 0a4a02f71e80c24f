"""The only walk over the graph of documents: indexes, the documents they list, and manifests.

Each document is classified as one of four types: ``Known``; ``Absent``; ``Damaged`` (its bytes do not match its
digest or can't be read); ``Unrecognized`` (its bytes are intact, but not a document that lamina can read). The caller
decides what follows from each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lamina.errors import InvalidContent, InvalidDocument, LaminaError, NotFound, SystemFailure, Unsupported
from lamina.light import TYPE_CHECKING
from lamina.source.select import MAX_NESTING
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, parse
from lamina.spec.mediatype import is_known_document

if TYPE_CHECKING:
    from typing import TypeVar

    from lamina.source.protocols import Reader

    T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known:
    """The document was read: its bytes match its digest, and they parse."""

    descriptor: Descriptor
    document: Manifest | Index


@dataclass(frozen=True, slots=True)
class Absent:
    """The document was not found in this place."""

    descriptor: Descriptor
    error: LaminaError


@dataclass(frozen=True, slots=True)
class Damaged:
    """The document is there, but its bytes do not match its digest, or the disk fails to read them."""

    descriptor: Descriptor
    error: LaminaError


@dataclass(frozen=True, slots=True)
class Unrecognized:
    """The bytes are intact, but not a document that lamina can read: a layer, an unknown type, or a malformed
    manifest."""

    descriptor: Descriptor
    error: LaminaError


Classified = Known | Absent | Damaged | Unrecognized
Classifier = Callable[[Descriptor], Classified]


def classify(
    read: Callable[[Descriptor], bytes], descriptor: Descriptor, *, what: str = "", check_media_type: bool = True
) -> Classified:
    """Read and classify one document. ``read`` returns its verified bytes, as ``Reader.manifest`` does.
    ``check_media_type``: the media type must agree with the descriptor's. Raises what ``read`` raises besides
    (RemoteFailure, AccessDenied)."""
    try:
        raw = read(descriptor)
    except NotFound as error:
        return Absent(descriptor, error)
    except (InvalidContent, SystemFailure) as error:
        return Damaged(descriptor, error)
    except Unsupported as error:  # the digest's algorithm can't be computed here
        return Unrecognized(descriptor, error)
    try:
        document = parse(raw, descriptor.media_type if check_media_type else None, what or str(descriptor.digest))
    except (InvalidContent, Unsupported) as error:
        return Unrecognized(descriptor, error)
    return Known(descriptor, document)


def classifier(reader: Reader, what: str = "") -> Classifier:
    """Return ``classify`` bound to a place; ``what`` names the image in errors."""
    return lambda descriptor: classify(reader.manifest, descriptor, what=what)


def listed_documents(found: Classified) -> Iterable[Descriptor]:
    """Return the documents that an index lists. Layers and unknown types, which a hostile index may list, are left
    out."""
    if isinstance(found, Known) and isinstance(found.document, Index):
        return [child for child in found.document.manifests if is_known_document(child.media_type)]
    return ()


def walk(
    classify: Callable[[Descriptor], T],
    tops: Iterable[Descriptor],
    *,
    children: Callable[[T], Iterable[Descriptor]],
    max_depth: int | None = MAX_NESTING,
    children_first: bool = False,
    what: str = "",
) -> Iterator[T]:
    """Yield what ``classify`` returns for each document reachable from ``tops``: each document once, depth first, in
    the order of the indexes. ``children`` returns the documents to visit next (``listed_documents``: all that an
    index lists). An index comes before the documents it lists; with ``children_first``, after them.

    Raises InvalidDocument if indexes are nested more than ``max_depth`` levels. None means no limit: a loop is
    impossible, and a local place has few levels.
    """
    seen: set[Digest] = set()
    pending = [_Step(top, 0) for top in tops][::-1]
    left: list[T] = []  # documents whose children are visited first
    while pending:
        step = pending.pop()
        if step.leaves:
            yield left.pop()
            continue
        if step.descriptor.digest in seen:
            continue
        seen.add(step.descriptor.digest)
        found = classify(step.descriptor)
        below = [_Step(child, step.depth + 1) for child in children(found)]
        if below and max_depth is not None and step.depth >= max_depth:
            raise InvalidDocument(
                f"{what or step.descriptor.digest}: indexes are nested more than {max_depth} deep",
                hint="report it to the publisher of the image",
            )
        if children_first:
            left.append(found)
            pending.append(_Step(step.descriptor, step.depth, leaves=True))
        pending += below[::-1]
        if not children_first:
            yield found


class _Step:
    __slots__ = ("depth", "descriptor", "leaves")

    def __init__(self, descriptor: Descriptor, depth: int, *, leaves: bool = False) -> None:
        self.descriptor, self.depth, self.leaves = descriptor, depth, leaves


def reachable(reader: Reader, top: Descriptor) -> Iterator[Descriptor]:
    """Yield everything reachable from a document that is present, including itself: documents, configs and layers."""
    seen: set[Digest] = set()
    for found in walk(classifier(reader), [top], children=listed_documents, max_depth=None):
        named = [found.descriptor]
        if isinstance(found, Known):
            named += found.document.manifests if isinstance(found.document, Index) else manifest_blobs(found.document)
        for one in named:
            if one.digest not in seen:
                seen.add(one.digest)
                yield one


def manifest_blobs(manifest: Manifest) -> list[Descriptor]:
    """List the blobs of a manifest: its config, then its layers."""
    return [manifest.config, *manifest.layers]
