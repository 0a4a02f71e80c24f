"""Marking: find what names, containers and running processes need. Nothing is deleted here.

A document is read by its digest alone. Its needs are remembered only if everything was read completely: the document,
and the config of an image. Missing objects are never remembered, because they may arrive at any moment. If a
document that must exist is damaged or lost, its needs are unknown: marking then fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.errors import DigestMismatch, InvalidContent, LimitExceeded, NotFound, StoreDamaged, SystemFailure
from lamina.light import replace
from lamina.source.walk import Absent, Damaged, Known, Unrecognized, classify, manifest_blobs, walk
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Index
from lamina.spec.reference import Reference
from lamina.store.blobs import DAMAGED
from lamina.store.derived import hash_of
from lamina.store.name_table import EVERY
from lamina.store.refs import FETCHED, Entries, name_of

if TYPE_CHECKING:
    from typing import TypeGuard, TypeVar

    from lamina.store.store import Store

    T = TypeVar("T")

IMAGE, CONTAINER, PROCESS, PIN = "image", "container", "process", "pin"
ANY_TYPE = "application/octet-stream"


@dataclass
class Marked:
    """What is needed: blobs, and the diff_ids of layers."""

    blobs: set[Digest] = field(default_factory=set)
    diff_ids: set[Digest] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that needs objects: an IMAGE (``name`` is canonical, "" for none), a CONTAINER, a PROCESS or a PIN.

    ``documents``: what it names. ``must_exist``: these documents may not be missing; ``all_must_exist``: nor may what
    indexes list. ``may_exist``: digests of any kind, which need not exist.
    """

    kind: str
    name: str
    documents: tuple[Digest, ...] = ()
    must_exist: frozenset[Digest] = frozenset()
    may_exist: tuple[Digest, ...] = ()
    all_must_exist: bool = False

    def needs(self, digest: Digest) -> bool:
        """Whether a document that it reaches may not be missing."""
        return self.all_must_exist or digest in self.must_exist


@dataclass(frozen=True, slots=True)
class Needs:
    """What one document needs directly. This never changes, because the bytes of a digest never change. ``flaw``: the
    config is missing or damaged; then the diff_ids are unknown and this must not be remembered."""

    documents: tuple[Descriptor, ...] = ()
    blobs: tuple[Digest, ...] = ()
    diff_ids: tuple[Digest, ...] = ()
    flaw: Absent | Damaged | None = None


State = Needs | Absent | Damaged | Unrecognized
Memory = dict[Digest, Needs | Unrecognized]
"""Documents that were read completely. The second mark, under the lock, reads only what is new."""


def image_holders(entries: Entries) -> list[Holder]:
    """One holder for each entry of index.json. The documents that an entry records as fetched must exist."""
    found = []
    for entry in entries:
        fetched = entry.annotations.get(FETCHED, "")
        children = [Digest(*text.split(":", 1)) for text in fetched.split(",") if ":" in text]
        must_exist = frozenset([entry.digest, *children])
        found.append(Holder(IMAGE, name_of(entry), (entry.digest,), must_exist, all_must_exist=fetched == EVERY))
    return found


def container_holders(store: Store) -> list[Holder]:
    """Each container needs its manifest, and those of the images that are mounted into it; it also needs their
    layers, whatever the manifests say."""
    manifests = [
        (one.name, digest)
        for one in store.containers.every()
        if one.manifest
        for digest in (Digest.parse(one.manifest), *(image.digest for image, _ in one.mounted_images))
    ]
    found = [Holder(CONTAINER, name, (digest,), frozenset([digest])) for name, digest in manifests]
    return [*found, Holder(CONTAINER, "", may_exist=tuple(store.containers.digests()))]


def root_holders(store: Store, grace: float) -> list[Holder]:
    """One holder for each pin, and for each process that uses the store or ended less than ``grace`` seconds ago."""
    return [
        Holder(PIN if root.pin else PROCESS, root.pin or root.purpose, may_exist=tuple(root.digests))
        for root in store.roots.effective(grace=grace)
    ]


def pushed_holders(store: Store) -> list[Holder]:
    """What clients of a registry server have pushed, or rely on, and no name needs yet."""
    if not os.path.isdir(store.paths.repositories):
        return []
    from lamina.store.members import Members

    return [Holder(PROCESS, "pushes to lamina serve", may_exist=tuple(Members(store.paths).protected()))]


def retry_if_names_change(store: Store, work: Callable[[Entries], T]) -> T:
    """Call ``work`` with the names, without the lock. If it finds something damaged or missing, and the names have
    changed meanwhile, call it again: another process may have removed that image. Raises what ``work`` raises if the
    names did not change."""
    while True:
        entries = store.refs.entries()
        try:
            return work(entries)
        except (StoreDamaged, FileNotFoundError):
            if store.refs.entries() == entries:
                raise


def mark(store: Store, holders: Iterable[Holder], *, memory: Memory | None = None, strict: bool = True) -> Marked:
    """Find everything that these holders need. A missing object that need not exist needs nothing.

    Raises SystemFailure; StoreDamaged if a needed document or config is damaged, or if one that must exist is lost.
    If ``strict`` is False, a damaged or lost document needs nothing.
    """
    marked, memory = Marked(), {} if memory is None else memory
    named_blobs: set[Digest] = set()  # blobs that manifests name: these are not documents
    damaged_documents: list[tuple[Holder, Damaged]] = []
    for holder in holders:
        may_exist = set(holder.may_exist)
        marked.diff_ids |= may_exist  # a layer that is being pulled has derived data before a manifest names it
        tops = [Descriptor(ANY_TYPE, digest, 0) for digest in (*holder.documents, *sorted(may_exist))]
        for digest, state in walk(_CachedState(store, memory), tops, children=_children, max_depth=None):
            marked.blobs.add(digest)
            if isinstance(state, Needs):
                marked.blobs.update(state.blobs)
                marked.diff_ids.update(state.diff_ids)
                named_blobs.update(state.blobs)
                flaw = state.flaw
                if strict and flaw is not None and (isinstance(flaw, Damaged) or holder.needs(digest)):
                    raise _cannot_delete(holder, "config", flaw)
            elif strict and holder.needs(digest):
                raise _cannot_delete(holder, "manifest", state)
            elif isinstance(state, Damaged):
                damaged_documents.append((holder, state))
    for holder, damaged in damaged_documents if strict else ():
        if damaged.descriptor.digest not in named_blobs:
            raise _cannot_delete(holder, "manifest", damaged)
    return marked


def state_of(store: Store, digest: Digest) -> State:
    """Read and verify a blob as a document. Raises SystemFailure."""
    size = store.blobs.size(digest)
    descriptor = Descriptor(ANY_TYPE, digest, size or 0)
    if size is None:
        return Absent(descriptor, NotFound(f"{digest} is not in the store", hint="load or pull the image again"))
    if size > MAX_DOCUMENT:
        error = LimitExceeded(f"{digest} has {size} bytes, more than a document may", hint="the limit is 4 MiB")
        return Unrecognized(descriptor, error)
    found = classify(store.blobs.read, descriptor, check_media_type=False)
    if not isinstance(found, Known):
        return found
    document = found.document
    if isinstance(document, Index):
        return Needs(documents=tuple(Descriptor(ANY_TYPE, child.digest, 0) for child in document.manifests))
    named = tuple(blob.digest for blob in manifest_blobs(document))
    if not document.is_image:
        return Needs(blobs=named)
    try:
        raw = _config(store, document.config)
    except NotFound as error:
        return Needs(blobs=named, flaw=Absent(document.config, error))
    except (InvalidContent, SystemFailure) as error:
        return Needs(blobs=named, flaw=Damaged(document.config, error))
    try:
        return Needs(blobs=named, diff_ids=ImageConfig.parse(raw).diff_ids)
    except InvalidContent:
        return Needs(blobs=named)  # complete, but without an image config nobody can use its layers


def _config(store: Store, descriptor: Descriptor) -> bytes:
    """Read a config by its digest alone: if a manifest states another size, the manifest is wrong and the blob is not
    damaged. Returns b"" if the blob is too large for a config. Raises NotFound, InvalidContent."""
    size = store.blobs.size(descriptor.digest)
    if size is None or size <= MAX_DOCUMENT:
        return store.blobs.read(replace(descriptor, size=size or 0))
    if hash_of(store.blobs.path(descriptor.digest), descriptor.digest.algorithm) != descriptor.digest.encoded:
        raise DigestMismatch(f"{descriptor.digest} does not match its digest", hint=DAMAGED)
    return b""


class _CachedState:
    """``state_of``, remembered where that is safe."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store, self._memory = store, memory

    def __call__(self, descriptor: Descriptor) -> tuple[Digest, State]:
        digest = descriptor.digest
        known = self._memory.get(digest)
        if known is not None:
            return digest, known
        state = state_of(self._store, digest)
        if _may_be_remembered(state):
            self._memory[digest] = state
        return digest, state


def _may_be_remembered(state: State) -> TypeGuard[Needs | Unrecognized]:
    if isinstance(state, Needs):
        return state.flaw is None
    return isinstance(state, Unrecognized) and not isinstance(state.error, LimitExceeded)  # it was not read


def _children(found: tuple[Digest, State]) -> tuple[Descriptor, ...]:
    state = found[1]
    return state.documents if isinstance(state, Needs) else ()


def _cannot_delete(holder: Holder, what: str, found: State) -> StoreDamaged:
    assert not isinstance(found, Needs)
    digest = found.descriptor.digest
    problem = "missing" if isinstance(found, Absent) else "damaged"
    if isinstance(found, Unrecognized) and not isinstance(found.error, LimitExceeded):
        problem = "not a document that lamina can read"
    if holder.kind == PROCESS:
        who, hint = f"a running process ({holder.name})", "wait for it to end, then run `lamina fsck --repair`"
    elif holder.kind == PIN:
        who, hint = f"the pin {holder.name}", "run `lamina fsck --repair`"
    elif holder.kind == CONTAINER:
        who = f"the container {holder.name}" if holder.name else "a container"
        hint = f"remove it with `lamina rm {holder.name or 'CONTAINER'}`"
    else:
        name = Reference.parse(holder.name).familiar if holder.name else str(digest)
        who = f"the image {name}" if holder.name else f"the untagged image {digest.short}"
        hint = f"remove it with `lamina rmi {name}`"
    if holder.kind in (IMAGE, CONTAINER):
        hint += ", or run `lamina fsck --repair` and pull it again"
    return StoreDamaged(f"nothing was deleted: the {what} {digest} of {who} is {problem}", hint=hint)
