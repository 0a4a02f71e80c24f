"""The one engine that moves images: manifest first, then what is missing, in parallel; the name last.

Documents are copied byte for byte, so digests stay. A blob that the target has is not touched, one that stands
several times in a manifest moves once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from lamina.errors import BlobNotFound, Conflict, InvalidDocument, LimitExceeded
from lamina.events import BlobDone, BlobStarted, Cancel, OnEvent, Tagged, Warned, ignore
from lamina.files import first_error
from lamina.source import MAX_NESTING, Reader, Writer, read_config
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, parse, select
from lamina.spec.platform import Platform


@dataclass(frozen=True, slots=True)
class Moved:
    """One blob of a copied image; ``reused`` if the target had it. ``what``: index, manifest, config, layer, blob."""

    descriptor: Descriptor
    what: str
    reused: bool


@dataclass(frozen=True, slots=True)
class Copied:
    """An image at its target: its name there, what the name points to, and all its blobs in manifest order."""

    name: str
    descriptor: Descriptor
    blobs: tuple[Moved, ...]


@dataclass
class _Plan:
    """What one image needs, in the order in which it is written."""

    top: Descriptor
    documents: list[tuple[Descriptor, bytes, str]] = field(default_factory=list)  # children before parents
    blobs: dict[Digest, tuple[Descriptor, str, Digest | None]] = field(default_factory=dict)


def copy(
    source: Reader,
    target: Writer,
    pairs: Sequence[tuple[str, str]],
    *,
    platform: Platform | None = None,
    all_platforms: bool = False,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> list[Copied]:
    """Copy each (name at the source, name at the target). Of an index, the platform's child is fetched (``platform``
    or this machine's), or every one with ``all_platforms``; the name keeps the index's digest where the target can
    hold an index.

    Raises ReferenceNotFound, NotFound (platform), InvalidContent, SystemFailure, Cancelled. Nothing is named then.
    """
    wanted = platform or Platform.host()
    cancel = cancel or Cancel()
    copied = []
    with target.session(f"copy from {source.location}"):
        for name, target_name in pairs:
            plan = _planned(source, target, source.resolve(name), wanted, all_platforms, name or source.location)
            moved = _move_blobs(source, target, plan, on_event, cancel)
            for descriptor, raw, what in plan.documents:
                reused = target.has(descriptor)
                target.put_manifest(descriptor, raw)
                moved[descriptor.digest] = Moved(descriptor, what, reused)
                on_event(BlobDone(descriptor.digest, descriptor.size, what, reused))
            cancel.check()
            target.tag(target_name, plan.top)
            on_event(Tagged(target_name, plan.top.digest))
            order = [descriptor.digest for descriptor, _, _ in reversed(plan.documents)] + list(plan.blobs)
            copied.append(Copied(target_name, plan.top, tuple(moved[d] for d in order if d in moved)))
    return copied


def _planned(
    source: Reader, target: Writer, top: Descriptor, platform: Platform, all_platforms: bool, what: str
) -> _Plan:
    plan = _Plan(top)
    raw = source.manifest(top)
    document = parse(raw, top.media_type, what)
    depth = 0
    while isinstance(document, Index) and not target.takes_indexes:
        if all_platforms:
            raise Conflict(f"{target.location} holds one platform an image", hint="write an oci-archive instead")
        depth += 1
        if depth > MAX_NESTING:
            raise InvalidDocument(
                f"{what}: indexes are nested more than {MAX_NESTING} deep", hint="refused as a bomb"
            )
        plan.top = select(document, platform, what)
        raw = source.manifest(plan.top)
        document = parse(raw, plan.top.media_type, what)
    _add_document(source, plan, plan.top, raw, document, platform, all_platforms, what, 0)
    return plan


def _add_document(
    source: Reader,
    plan: _Plan,
    descriptor: Descriptor,
    raw: bytes,
    document: Manifest | Index,
    platform: Platform,
    all_platforms: bool,
    what: str,
    depth: int,
) -> None:
    if depth > MAX_NESTING:
        raise LimitExceeded(f"{what}: indexes are nested more than {MAX_NESTING} deep", hint="refused as a bomb")
    if any(descriptor.digest == known.digest for known, _, _ in plan.documents):
        return
    if isinstance(document, Index):
        children = document.manifests if all_platforms else (select(document, platform, what),)
        for child in children:
            try:
                child_raw = source.manifest(child)
            except BlobNotFound:
                if all_platforms:
                    continue  # a sparse index: what the source lacks can't be copied
                raise
            if mediatype.is_manifest(child.media_type) or mediatype.is_index(child.media_type):
                inner = parse(child_raw, child.media_type, what)
                _add_document(source, plan, child, child_raw, inner, platform, all_platforms, what, depth + 1)
        plan.documents.append((descriptor, raw, "index"))
        return
    diff_ids: Sequence[Digest | None] = [None] * len(document.layers)
    if document.is_image:
        diff_ids = read_config(source, document, what).diff_ids
    _add_blob(plan, document.config, "config", None, what)
    for layer, diff_id in zip(document.layers, diff_ids, strict=True):
        known = mediatype.is_layer(layer.media_type) and mediatype.compression(layer.media_type) is not None
        _add_blob(plan, layer, "layer" if diff_id else "blob", diff_id if known else None, what)
    plan.documents.append((descriptor, raw, "manifest"))


def _add_blob(plan: _Plan, descriptor: Descriptor, kind: str, diff_id: Digest | None, what: str) -> None:
    known = plan.blobs.get(descriptor.digest)
    if known is None:
        plan.blobs[descriptor.digest] = (descriptor, kind, diff_id)
        return
    if known[0].size != descriptor.size:
        raise InvalidDocument(
            f"{what} states two sizes for {descriptor.digest}: {known[0].size} and {descriptor.size}",
            hint="the manifest is malformed",
        )
    if known[2] != diff_id and diff_id is not None and known[2] is not None:
        raise InvalidDocument(
            f"{what} states two diff_ids for {descriptor.digest}", hint="config and layers don't belong together"
        )


def _move_blobs(
    source: Reader, target: Writer, plan: _Plan, on_event: OnEvent, cancel: Cancel
) -> dict[Digest, Moved]:
    """All blobs, several at once; the first failure stops the others and is raised."""
    moved: dict[Digest, Moved] = {}
    waiting = list(plan.blobs.values())[::-1]
    errors: list[BaseException] = []
    guard = threading.Lock()
    stop = Cancel()

    def work() -> None:
        while not errors:
            with guard:
                if not waiting:
                    return
                descriptor, kind, diff_id = waiting.pop()
            try:
                cancel.check()
                result = _move(source, target, descriptor, kind, diff_id, on_event, _Either(cancel, stop))
            except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
                errors.append(error)
                stop.set()
                return
            if result is not None:
                moved[descriptor.digest] = result

    threads = [
        threading.Thread(target=work, name="lamina-copy", daemon=True)
        for _ in range(min(len(waiting), 2 * (os.cpu_count() or 1)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join()
        raise
    error = first_error(errors)
    if error is not None:
        raise error
    return moved


class _Either(Cancel):
    """Set when one of two is."""

    def __init__(self, first: Cancel, second: Cancel) -> None:
        super().__init__()
        self._both = (first, second)

    def check(self) -> None:
        for one in self._both:
            one.check()

    @property
    def is_set(self) -> bool:
        return any(one.is_set for one in self._both)


def _move(
    source: Reader,
    target: Writer,
    descriptor: Descriptor,
    kind: str,
    diff_id: Digest | None,
    on_event: OnEvent,
    cancel: Cancel,
) -> Moved | None:
    if target.has(descriptor):
        on_event(BlobDone(descriptor.digest, descriptor.size, kind, reused=True))
        return Moved(descriptor, kind, True)
    on_event(BlobStarted(descriptor.digest, descriptor.size, kind))
    try:
        target.put_blob(descriptor, source.blob(descriptor), diff_id=diff_id, on_event=on_event, cancel=cancel)
    except BlobNotFound:
        if not mediatype.is_foreign(descriptor.media_type):
            raise
        on_event(Warned(f"layer {descriptor.digest} is not distributable and not at {source.location}: left out"))
        return None
    on_event(BlobDone(descriptor.digest, descriptor.size, kind))
    return Moved(descriptor, kind, False)
