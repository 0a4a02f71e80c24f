"""Copying images between places: the manifest first, then the missing blobs in parallel, and the name last.

Documents are copied byte for byte, so their digests stay the same. A blob that the target has is not copied; a blob
that a manifest names several times is copied once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from lamina.errors import AccessDenied, BlobNotFound, Conflict, InvalidDocument, NotFound, RemoteFailure, UsageError
from lamina.events import BlobDone, BlobStarted, Cancel, Event, OnEvent, Tagged, Warned, ignore
from lamina.source.abilities import (
    finds_same_image,
    gives_tars,
    lists_referrers,
    makes_manifests,
    takes_tars,
    writes_batches,
)
from lamina.source.select import choose, not_as_asked, read_config
from lamina.source.walk import Absent, Classified, Classifier, Known, classify, listed_documents, walk
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Index, Manifest, is_selectable, parse
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.transfer.documents import Documents
from lamina.transfer.parallel import for_each

if TYPE_CHECKING:
    from lamina.source.protocols import Reader, Session, Writer

_FEW = 1 << 20  # bytes
Wanted = tuple[Descriptor, str, Digest | None]
"""A blob to copy: its descriptor, what it is, and its diff_id if it is a layer."""


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
class Plan:
    """What one image needs, in the order in which it is written. Only for use in this package."""

    top: Descriptor
    documents: list[tuple[Descriptor, bytes, str]] = field(default_factory=list)  # children before parents
    blobs: dict[Digest, Wanted] = field(default_factory=dict)
    moved: dict[Digest, Moved] = field(default_factory=dict)  # copied to the target during planning
    sent_again: dict[Digest, Moved] = field(default_factory=dict)  # because the target lost it


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a copy will bring to its target under one name, before anything is copied.

    The ``name`` at the source, the name at the target, the descriptor that it will point to, the documents
    (descriptor, bytes, "index" or "manifest"; children before parents), and the blobs (descriptor, "config", "layer"
    or "blob").
    """

    source: Reader
    name: str
    target: Session
    target_name: str
    top: Descriptor
    documents: tuple[tuple[Descriptor, bytes, str], ...]
    blobs: tuple[Wanted, ...]

    def moves(self) -> list[Descriptor]:
        """The blobs that the target does not have. A registry is asked about each blob."""
        return [blob for blob, _, diff_id in self.blobs if not self.target.has(blob, diff_id)]


Admission = Callable[[Proposal], bool]
"""Called for each image, and each referrer, after planning and before copying. False leaves the image out. An
exception ends the copy; a policy raises AccessDenied."""


def admit_all(proposal: Proposal) -> bool:
    """The default: everything is copied."""
    return True


def copy(
    source: Reader,
    target: Writer,
    pairs: Sequence[tuple[str, str]],
    *,
    platform: Platform | None = None,
    all_platforms: bool = False,
    index_only: bool = False,
    referrers: bool = False,
    admit: Admission = admit_all,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> list[Copied]:
    """Copy each pair (name at the source, name at the target).

    From an index, the manifest of the platform is copied (``platform``, or the host's), with ``all_platforms``
    every manifest, with ``index_only`` none. If the target can hold an index, the name keeps the digest of the index.
    An image for another platform than ``platform`` is copied with a warning. ``referrers``: also copy what refers to
    the image (signatures, attestations, SBOMs). ``admit`` decides which images are copied; the others are not in the
    result.

    Raises ReferenceNotFound, NotFound (platform), InvalidContent, SystemFailure, RemoteFailure, AccessDenied,
    Cancelled. Then no image gets a name.
    """
    wanted = platform or Platform.host()
    stop = Cancel(cancel)
    copied: list[Copied] = []
    try:
        tops = [source.resolve(name) for name, _ in pairs]  # before the target is made: a name may not exist
        with target.session(f"copy from {source.location}") as session, _batch(source, session, tops):
            for top, (name, target_name) in zip(tops, pairs, strict=True):
                what = name or source.location
                job = Job(source, session, wanted, all_platforms, what, on_event, stop)
                job = replace(job, asked=platform is not None, index_only=index_only, admit=admit)
                with _named(what, target_name):
                    done = _copied(job, top, name, target_name, referrers=referrers)
                    copied += [done] if done is not None else []
    finally:
        stop.close()
    return copied


class SessionWriter:
    """A ``Writer`` that returns one open session again and again, so that several copies write together."""

    def __init__(self, session: Session) -> None:
        self.location = session.location
        self.accepts = session.accepts
        self._session = session

    def session(self, purpose: str) -> AbstractContextManager[Session]:
        return nullcontext(self._session)


def _batch(source: Reader, target: Session, tops: Sequence[Descriptor]) -> AbstractContextManager[None]:
    """Write them as a batch if several images come from this host. From a registry, one image may take minutes, and
    the others should not wait for it to get their names."""
    if len(tops) > 1 and writes_batches(target) and _is_local(source, tops[0]):
        return target.batch()
    return nullcontext()


def _is_local(source: Reader, *blobs: Descriptor) -> bool:
    """Whether the blobs are on this host."""
    with suppress(NotFound):  # the copy reports what is missing; an archive makes its manifests
        return not any(source.blob(blob).origin for blob in blobs)
    return True


@contextmanager
def _named(what: str, target_name: str) -> Iterator[None]:
    """Add the name of the image to errors that a registry returns for a blob."""
    try:
        yield
    except (RemoteFailure, AccessDenied) as error:
        if what in error.message or (target_name and target_name in error.message):
            raise
        whole = f"{what} to {target_name}" if target_name not in ("", what) else what
        raise type(error)(f"{whole}: {error.message}", hint=error.hint) from error


def _copied(job: Job, top: Descriptor, name: str, target_name: str, *, referrers: bool) -> Copied | None:
    """Copy one image; None if it was not admitted."""
    target, on_event = job.target, job.on_event
    same = _same_image(job, top, target_name)
    if same is not None:
        return _named_again(job, same, name, target_name)
    plan = job.planned(top)
    if not job.admits(plan, name, target_name):
        return None
    documents = Documents(target, on_event)
    blobs = job.run(plan, documents)
    job.cancel.check()
    if referrers:
        blobs += _referrers(job, plan, documents, name, target_name)
    documents.tag(target_name, plan.top)
    on_event(Tagged(target_name, plan.top.digest))
    return Copied(target_name, plan.top, tuple(plan.sent_again.get(blob.descriptor.digest, blob) for blob in blobs))


def _same_image(job: Job, top: Descriptor, target_name: str) -> Descriptor | None:
    """The same image at the target, if it is there and the source has only made its manifest: an archive of `docker
    save` must not become a second image."""
    source, target = job.source, job.target
    if not makes_manifests(source) or not finds_same_image(target) or not source.has_made(top):
        return None
    manifest = parse(source.manifest(top), top.media_type, job.what)
    if not isinstance(manifest, Manifest):
        return None
    same = target.same_image(manifest, target_name)
    if same is not None:
        job.check_platform(read_config(source, manifest, job.what))
    return same


def _named_again(job: Job, same: Descriptor, name: str, target_name: str) -> Copied | None:
    """Give another name to an image that is at the target; None if that was not admitted."""
    if not job.admits(Plan(same), name, target_name):
        return None
    job.target.tag(target_name, same)
    job.on_event(BlobDone(same.digest, same.size, "manifest", reused=True))
    job.on_event(Tagged(target_name, same.digest))
    return Copied(target_name, same, (Moved(same, "manifest", True),))


def _referrers(job: Job, plan: Plan, documents: Documents, name: str, target_name: str) -> list[Moved]:
    """Copy what refers to the image's documents, and what refers to that. The source lists referrers, and cosign
    derives tags from a digest."""
    moved: list[Moved] = []
    seen: set[Digest] = set()
    pending = [descriptor.digest for descriptor, _, _ in plan.documents]
    while pending:
        subject = pending.pop()
        if subject in seen:
            continue
        seen.add(subject)
        found: list[tuple[str, Descriptor]] = []
        if lists_referrers(job.source):
            # Name it by its digest: `prune` deletes documents without a name.
            here = _repository(target_name)
            listed = job.source.referrers(subject)
            found += [(f"{here}@{descriptor.digest}" if here else "", descriptor) for descriptor in listed]
        found += _digest_tags(job.source, name, target_name, subject)
        for tag, descriptor in found:
            inner = job.planned(descriptor)
            if not job.admits(inner, name, tag):
                continue
            moved += job.run(inner, documents)
            documents.tag(tag, inner.top)
            pending += [document.digest for document, _, _ in inner.documents]
    return moved


def _digest_tags(source: Reader, name: str, target_name: str, subject: Digest) -> list[tuple[str, Descriptor]]:
    """The descriptors that the source has under tags made from the digest, with their names at the target."""
    there, here = _repository(name), _repository(target_name)
    found = []
    for suffix in ("sig", "att", "sbom"):
        tag = f"{subject.algorithm}-{subject.encoded}.{suffix}"
        try:
            found.append((f"{here}:{tag}" if here else tag, source.resolve(f"{there}:{tag}" if there else tag)))
        except NotFound:
            continue
    return found


def _repository(name: str) -> str:
    try:
        return Reference.parse(name).repository
    except UsageError:
        return ""


@dataclass(frozen=True, slots=True)
class Job:
    """The copy of one image."""

    source: Reader
    target: Session
    platform: Platform
    all_platforms: bool
    what: str
    on_event: OnEvent
    cancel: Cancel
    asked: bool = False  # whether the caller asked for the platform
    index_only: bool = False  # copy the index without the manifests that it lists
    admit: Admission = admit_all

    def admits(self, plan: Plan, name: str, target_name: str) -> bool:
        """Whether the image may be copied."""
        documents, blobs = tuple(plan.documents), tuple(plan.blobs.values())
        return self.admit(Proposal(self.source, name, self.target, target_name, plan.top, documents, blobs))

    def run(self, plan: Plan, documents: Documents) -> list[Moved]:
        """Copy blobs, then documents, children first. Returns what was copied, in manifest order, parents first."""
        waiting = [blob for digest, blob in plan.blobs.items() if digest not in plan.moved]
        moved = {**plan.moved, **_move_blobs(self, waiting)}
        for descriptor, raw, what in plan.documents:
            reused = bool(self.target.has(descriptor))
            documents.put(descriptor, raw, lambda blobs: self._send_again(plan, blobs))
            moved[descriptor.digest] = Moved(descriptor, what, reused)
            self.on_event(BlobDone(descriptor.digest, descriptor.size, what, reused))
        order = [descriptor.digest for descriptor, _, _ in reversed(plan.documents)] + list(plan.blobs)
        return [moved[digest] for digest in order if digest in moved]

    def _send_again(self, plan: Plan, blobs: Iterable[Descriptor]) -> None:
        """Copy those of the blobs that the target does not have any more."""

        def on_event(event: Event) -> None:
            if not (isinstance(event, BlobDone) and event.reused):  # the listener knows those
                self.on_event(event)

        waiting = [plan.blobs[blob.digest] for blob in blobs if blob.digest in plan.blobs]
        moved = _move_blobs(replace(self, on_event=on_event), waiting)
        plan.sent_again |= {digest: one for digest, one in moved.items() if not one.reused}

    def planned(self, top: Descriptor) -> Plan:
        classify_once = cache(self._classify)
        plan = Plan(self._single(top, classify_once))
        for found in walk(classify_once, [plan.top], children=self._wanted, children_first=True, what=self.what):
            if isinstance(found, Absent) and self.all_platforms and found.descriptor != plan.top:
                # A sparse index: what the source does not have can't be copied.
                if self.target.accepts.sparse or self.target.has(found.descriptor):
                    continue
                raise BlobNotFound(
                    f"{self.what} lists {found.descriptor.digest}, which is not at {self.source.location}",
                    hint="fetch it with `lamina pull --all-platforms`, or leave --all-platforms out",
                )
            if not isinstance(found, Known):
                raise found.error
            self._add_document(plan, found)
        return plan

    def _classify(self, descriptor: Descriptor) -> Classified:
        return classify(self.source.manifest, descriptor, what=self.what)

    def _single(self, top: Descriptor, classify: Classifier) -> Descriptor:
        """``top``; or one manifest of it, if the target takes no index, or does not take this one: a registry refuses
        an index that lists manifests which it lacks."""
        if self.target.accepts.indexes and (self.target.accepts.sparse or self.all_platforms or self.index_only):
            return top

        def chosen(found: Classified) -> tuple[Descriptor, ...]:
            if not (isinstance(found, Known) and isinstance(found.document, Index)):
                return ()
            if self.target.accepts.indexes and not any(map(is_selectable, found.document.manifests)):
                return ()  # an index of artifacts: copy all of it
            if self.all_platforms:
                raise Conflict(
                    f"{self.target.location} can hold only one platform of an image",
                    hint="write an oci-archive, or leave --all-platforms out",
                )
            return (choose(self.source, found.document, self.platform, self.what),)

        first, *below = walk(classify, [top], children=chosen, what=self.what)
        if not below:
            return top
        one = below[-1].descriptor
        if self.target.accepts.indexes:
            if all(child.digest == one.digest or self.target.has(child) for child in listed_documents(first)):
                return top
            self.on_event(
                Warned(f"{self.what}: only its image for {self.platform} is copied; use --all-platforms to copy all")
            )
        return one

    def _add_document(self, plan: Plan, found: Known) -> None:
        descriptor, document = found.descriptor, found.document
        if isinstance(document, Index):
            plan.documents.append((descriptor, document.raw, "index"))
            return
        diff_ids: Sequence[Digest | None] = [None] * len(document.layers)
        if document.is_image:
            config = self._config(plan, document)
            diff_ids = config.diff_ids
            if descriptor == plan.top:
                self.check_platform(config)
        _add_blob(plan, document.config, "config", None, self.what)
        for layer, diff_id in zip(document.layers, diff_ids, strict=True):
            known = mediatype.is_layer(layer.media_type) and mediatype.compression(layer.media_type) is not None
            _add_blob(plan, layer, "layer" if diff_id else "blob", diff_id if known else None, self.what)
        plan.documents.append((descriptor, document.raw, "manifest"))

    def check_platform(self, config: ImageConfig) -> None:
        """Warn if a single-platform image is for another platform than the one that was asked for."""
        warning = not_as_asked(config, self.platform) if self.asked else ""
        if warning:
            self.on_event(Warned(f"{self.what}: {warning}"))

    def _wanted(self, found: Classified) -> Iterable[Descriptor]:
        """The documents of an index to copy: all, or that of the platform; all if the index is not an image
        (artifacts, referrers)."""
        if self.index_only:
            return ()
        documents = listed_documents(found)
        if self.all_platforms or not isinstance(found, Known) or not isinstance(found.document, Index):
            return documents
        if any(is_selectable(entry) for entry in documents):
            return (choose(self.source, found.document, self.platform, self.what),)
        return documents

    def _config(self, plan: Plan, manifest: Manifest) -> ImageConfig:
        """Read the config, which lists the diff_ids of the layers. If the target can be read, copy the config there
        first: then it is fetched once, however many processes want it."""
        descriptor = manifest.config
        reader = self.target.reader if self.admit is admit_all else None  # nothing is copied before it is admitted
        if reader is not None and descriptor.size <= MAX_DOCUMENT:
            moved = _move(self, descriptor, "config", None, self.cancel)
            if moved is not None:
                plan.moved[descriptor.digest] = moved
            return read_config(reader, manifest, self.what)
        return read_config(self.source, manifest, self.what)


def _add_blob(plan: Plan, descriptor: Descriptor, kind: str, diff_id: Digest | None, what: str) -> None:
    known = plan.blobs.get(descriptor.digest)
    if known is None:
        plan.blobs[descriptor.digest] = (descriptor, kind, diff_id)
        return
    if known[0].size != descriptor.size:
        raise InvalidDocument(
            f"{what} states two sizes for {descriptor.digest}: {known[0].size} and {descriptor.size}",
            hint="report it to the publisher of the image: the manifest is malformed",
        )
    if diff_id is None or known[2] == diff_id:
        return
    if known[2] is not None:
        raise InvalidDocument(
            f"{what} states two diff_ids for {descriptor.digest}",
            hint="report it to the publisher of the image: its config does not fit its layers",
        )
    if known[1] == "config":
        raise InvalidDocument(
            f"{what} states {descriptor.digest} as its config and as a layer",
            hint="report it to the publisher of the image: the manifest is malformed",
        )
    plan.blobs[descriptor.digest] = (descriptor, kind, diff_id)  # it was named before with an unknown type


def _move_blobs(job: Job, waiting: Sequence[Wanted]) -> dict[Digest, Moved]:
    """Copy blobs, several at once. The largest starts first, because it takes the longest."""
    moved: dict[Digest, Moved] = {}

    def work(wanted: Wanted, cancel: Cancel) -> None:
        descriptor, kind, diff_id = wanted
        result = _move(job, descriptor, kind, diff_id, cancel)
        if result is not None:
            moved[descriptor.digest] = result

    if _is_small_and_local(job, [descriptor for descriptor, _, _ in waiting]):
        for blob in waiting:
            job.cancel.check()
            work(blob, job.cancel)
        return moved
    if writes_batches(job.target):
        job.target.commit_names()
    for_each(sorted(waiting, key=lambda blob: -blob[0].size), work, job.cancel)
    return moved


def _is_small_and_local(job: Job, blobs: Sequence[Descriptor]) -> bool:
    """Whether the blobs are so few bytes, and all on this host, that starting threads would take longer than the
    copy."""
    return (
        job.target.reader is not None and sum(blob.size for blob in blobs) <= _FEW and _is_local(job.source, *blobs)
    )


def _move(job: Job, descriptor: Descriptor, kind: str, diff_id: Digest | None, cancel: Cancel) -> Moved | None:
    on_event = job.on_event
    if mediatype.is_foreign(descriptor.media_type) and not job.target.accepts.foreign:
        on_event(
            Warned(f"layer {descriptor.digest} may not be distributed: it is not written to {job.target.location}")
        )
        return None
    if job.target.has(descriptor, diff_id):
        on_event(BlobDone(descriptor.digest, descriptor.size, kind, reused=True))
        return Moved(descriptor, kind, True)
    on_event(BlobStarted(descriptor.digest, descriptor.size, kind))
    try:
        if _move_tar(job, descriptor, diff_id, cancel):
            on_event(BlobDone(descriptor.digest, descriptor.size, kind))
            return Moved(descriptor, kind, False)
        blob = job.source.blob(descriptor)
        new = job.target.put_blob(descriptor, blob, diff_id=diff_id, on_event=on_event, cancel=cancel)
    except BlobNotFound:
        if not mediatype.is_foreign(descriptor.media_type):
            raise
        what = f"layer {descriptor.digest} may not be distributed and was not found at {job.source.location}"
        on_event(Warned(f"{what}: it is left out"))
        return None
    on_event(BlobDone(descriptor.digest, descriptor.size, kind, reused=not new))
    return Moved(descriptor, kind, not new)


def _move_tar(job: Job, layer: Descriptor, diff_id: Digest | None, cancel: Cancel) -> bool:
    """Copy the plain tar if the target keeps tars and the source has this one; then nothing is fetched or
    decompressed."""
    if diff_id is None or not gives_tars(job.source) or not takes_tars(job.target):
        return False
    tar = job.source.tar(layer, diff_id)
    if tar is not None:
        job.target.put_tar(layer, tar, on_event=job.on_event, cancel=cancel)
    return tar is not None
