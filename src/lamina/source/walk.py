"""The one walk over the graph of documents: indexes, what they list, and manifests.

It tells four things apart, as types: a document that is ``Known``, one that is ``Absent``, one that is ``Damaged``
(its bytes are not what its digest promises, or can't be read), and whole bytes in which lamina reads no document
(``Unread``). What follows from each is for the caller to decide.
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
    """Read whole: the bytes are those of its digest, and they are a document."""

    descriptor: Descriptor
    document: Manifest | Index


@dataclass(frozen=True, slots=True)
class Absent:
    """The place does not have it."""

    descriptor: Descriptor
    error: LaminaError


@dataclass(frozen=True, slots=True)
class Damaged:
    """It is there, but with other bytes than its digest promises, or the disk fails to give them."""

    descriptor: Descriptor
    error: LaminaError


@dataclass(frozen=True, slots=True)
class Unread:
    """Its bytes are whole, but no document that lamina reads: a layer, an unknown type, a malformed manifest."""

    descriptor: Descriptor
    error: LaminaError


Found = Known | Absent | Damaged | Unread
Look = Callable[[Descriptor], Found]


def look(
    read: Callable[[Descriptor], bytes], descriptor: Descriptor, *, what: str = "", announced: bool = True
) -> Found:
    """What one document is. ``read`` gives its verified bytes, as ``Reader.manifest`` does. ``announced``: whether
    the descriptor's media type has to agree. Raises what ``read`` raises besides (RemoteFailure, AccessDenied)."""
    try:
        raw = read(descriptor)
    except NotFound as error:
        return Absent(descriptor, error)
    except (InvalidContent, SystemFailure) as error:
        return Damaged(descriptor, error)
    except Unsupported as error:  # a digest that can't be verified here
        return Unread(descriptor, error)
    try:
        document = parse(raw, descriptor.media_type if announced else None, what or str(descriptor.digest))
    except (InvalidContent, Unsupported) as error:
        return Unread(descriptor, error)
    return Known(descriptor, document)


def looking(reader: Reader, what: str = "") -> Look:
    """``look`` at the documents of a place; ``what`` names the image in messages."""
    return lambda descriptor: look(reader.manifest, descriptor, what=what)


def listed(found: Found) -> Iterable[Descriptor]:
    """The documents that an index lists. A hostile one may list layers and things that nobody knows: those are not
    read as documents."""
    if isinstance(found, Known) and isinstance(found.document, Index):
        return [child for child in found.document.manifests if is_known_document(child.media_type)]
    return ()


def walk(
    look: Callable[[Descriptor], T],
    tops: Iterable[Descriptor],
    *,
    into: Callable[[T], Iterable[Descriptor]],
    deepest: int | None = MAX_NESTING,
    children_first: bool = False,
    what: str = "",
) -> Iterator[T]:
    """What ``look`` says of each document that ``tops`` lead to, each once, depth first and in the order of the
    indexes. ``into`` chooses which documents to go on to (``listed``: all). An index comes before what it lists, or
    (``children_first``) after it.

    Raises InvalidDocument where indexes are nested more than ``deepest`` deep (None: no limit: a loop is impossible,
    and a place that is walked through has few).
    """
    seen: set[Digest] = set()
    pending = [_Step(top, 0) for top in tops][::-1]
    left: list[T] = []  # looked at; their turn comes when what they list has had its own
    while pending:
        step = pending.pop()
        if step.leaves:
            yield left.pop()
            continue
        if step.descriptor.digest in seen:
            continue
        seen.add(step.descriptor.digest)
        found = look(step.descriptor)
        children = [_Step(child, step.depth + 1) for child in into(found)]
        if children and deepest is not None and step.depth >= deepest:
            raise InvalidDocument(
                f"{what or step.descriptor.digest}: indexes are nested more than {deepest} deep",
                hint="refused as a bomb",
            )
        if children_first:
            left.append(found)
            pending.append(_Step(step.descriptor, step.depth, leaves=True))
        pending += children[::-1]
        if not children_first:
            yield found


class _Step:
    __slots__ = ("depth", "descriptor", "leaves")

    def __init__(self, descriptor: Descriptor, depth: int, *, leaves: bool = False) -> None:
        self.descriptor, self.depth, self.leaves = descriptor, depth, leaves


def below(reader: Reader, top: Descriptor) -> Iterator[Descriptor]:
    """Everything that a document leads to as far as it is there, itself among it: documents, configs and layers."""
    seen: set[Digest] = set()
    for found in walk(looking(reader), [top], into=listed, deepest=None):
        named = [found.descriptor]
        if isinstance(found, Known):
            named += found.document.manifests if isinstance(found.document, Index) else blobs(found.document)
        for one in named:
            if one.digest not in seen:
                seen.add(one.digest)
                yield one


def blobs(manifest: Manifest) -> list[Descriptor]:
    """What a manifest names: its config, then its layers."""
    return [manifest.config, *manifest.layers]
