"""Makes an index of several images, usually of several platforms, under one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamina.events import BlobDone, Cancel, OnEvent, Tagged, ignore
from lamina.light import TYPE_CHECKING, replace
from lamina.source.select import read_config
from lamina.spec.descriptor import Descriptor
from lamina.spec.manifest import Index, build_index, parse
from lamina.spec.platform import Platform
from lamina.transfer.copy import Admission, Job, Proposal, admit_all
from lamina.transfer.documents import Documents

if TYPE_CHECKING:
    from lamina.source.protocols import Reader, Writer


def make_index(
    sources: Sequence[tuple[Reader, str]],
    target: Writer,
    name: str,
    *,
    known: Index | None = None,
    annotations: Mapping[str, str] | None = None,
    admit: Admission = admit_all,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> Index | None:
    """Make an index of these images, with everything that it names, at ``target`` under ``name``. If a source is an
    index, its entries are used. An image replaces the one of the same platform in ``known`` (the index to add to).

    ``admit`` decides about each image, then about the index. An image that is not admitted is left out of the index.
    Returns None if the index was not admitted; then no name is written. Raises what ``copy`` raises,
    ReferenceNotFound.
    """
    stop = Cancel(cancel)
    old = list(known.manifests) if known is not None else []
    new: list[Descriptor] = []
    try:
        with target.session(f"index {name}") as session:
            documents = Documents(session, on_event)
            for reader, inside in sources:
                top = reader.resolve(inside)
                job = Job(reader, session, Platform.host(), True, inside, on_event, stop, admit=admit)
                plan = job.planned(top)
                if not job.admits(plan, inside, name):
                    continue
                job.run(plan, documents)
                for entry in _entries(reader, top, inside):
                    old = [known_entry for known_entry in old if not _same_place(known_entry, entry)]
                    new = [*(other for other in new if other.digest != entry.digest), entry]
            stated = {**(known.annotations if known is not None else {}), **(annotations or {})}
            index = build_index([*old, *new], annotations=stated or None)
            document = (index.descriptor, index.raw, "index")
            if not admit(Proposal(sources[0][0], name, session, name, index.descriptor, (document,), ())):
                return None
            documents.put(index.descriptor, index.raw, lambda blobs: None)  # it lists documents alone
            on_event(BlobDone(index.descriptor.digest, index.descriptor.size, "index"))
            documents.tag(name, index.descriptor)
            on_event(Tagged(name, index.descriptor.digest))
    finally:
        stop.close()
    return index


def _entries(reader: Reader, top: Descriptor, what: str) -> list[Descriptor]:
    document = parse(reader.manifest(top), top.media_type, what)
    if isinstance(document, Index):
        return list(document.manifests)
    entry = Descriptor(top.media_type, top.digest, top.size)
    if not document.is_image:
        return [replace(entry, artifact_type=document.as_referrer().artifact_type)]
    return [replace(entry, platform=read_config(reader, document, what).platform)]


def _same_place(old: Descriptor, new: Descriptor) -> bool:
    return old.digest == new.digest or (old.platform is not None and old.platform == new.platform)
