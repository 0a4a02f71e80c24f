"""Proving an image where it is: every digest, every size, every diff_id, nothing kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lamina.config import MAX_LAYER
from lamina.errors import BlobNotFound, Cancelled, LaminaError
from lamina.events import BlobDone, BlobStarted, Cancel, OnEvent, ignore
from lamina.layer.read import LayerReader
from lamina.source import Reader, prove_diff_id, read_config, verified
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, parse, select
from lamina.spec.platform import Platform
from lamina.transfer.parallel import each


@dataclass(frozen=True, slots=True)
class Checked:
    """One document or blob; ``problem`` is "" where it is what it should be."""

    descriptor: Descriptor
    what: str
    problem: str = ""


def validate(
    reader: Reader,
    name: str,
    *,
    platform: Platform,
    all_platforms: bool = False,
    max_layer: int = MAX_LAYER,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> list[Checked]:
    """Read all that the image has and prove it. A problem does not end it; what can't be reached at all does.
    Raises ReferenceNotFound, AccessDenied, RemoteFailure, Cancelled."""
    top = reader.resolve(name)
    checked: list[Checked] = []
    blobs: dict[Digest, tuple[Descriptor, str, Digest | None]] = {}
    for descriptor, document, problem in _documents(reader, top, platform, all_platforms):
        what = "index" if isinstance(document, Index) else "manifest"
        checked.append(Checked(descriptor, what, problem))
        if not isinstance(document, Manifest):
            continue
        diff_ids: tuple[Digest | None, ...] = (None,) * len(document.layers)
        if document.is_image:
            try:
                diff_ids = read_config(reader, document, name).diff_ids
            except LaminaError as error:
                checked.append(Checked(document.config, "config", error.message))
        blobs.setdefault(document.config.digest, (document.config, "config", None))
        for layer, diff_id in zip(document.layers, diff_ids, strict=True):
            blobs.setdefault(layer.digest, (layer, "layer", diff_id))
    results: dict[Digest, Checked] = {}

    def work(blob: tuple[Descriptor, str, Digest | None], stop: Cancel) -> None:
        results[blob[0].digest] = _one(reader, *blob, max_layer, on_event, stop)

    each(sorted(blobs.values(), key=lambda blob: -blob[0].size), work, cancel)
    return checked + [results[digest] for digest in blobs]


def _documents(
    reader: Reader, top: Descriptor, platform: Platform, all_platforms: bool
) -> Iterator[tuple[Descriptor, Manifest | Index | None, str]]:
    pending, seen = [(top, True)], set()
    while pending:
        descriptor, needed = pending.pop(0)
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        try:
            raw = reader.manifest(descriptor)
            if not mediatype.is_known_document(descriptor.media_type):
                continue
            document = parse(raw, descriptor.media_type, str(descriptor.digest))
            if isinstance(document, Index):
                chosen = document.manifests if all_platforms else (select(document, platform),)
                pending += [(child, not all_platforms) for child in chosen]
        except BlobNotFound as error:
            if needed:  # an index may name what was never fetched
                yield descriptor, None, error.message
            continue
        except LaminaError as error:
            yield descriptor, None, error.message
            continue
        yield descriptor, document, ""


def _one(
    reader: Reader,
    descriptor: Descriptor,
    what: str,
    diff_id: Digest | None,
    max_layer: int,
    on_event: OnEvent,
    cancel: Cancel,
) -> Checked:
    on_event(BlobStarted(descriptor.digest, descriptor.size, what))
    compression = mediatype.compression(descriptor.media_type)
    layer = None
    try:
        if diff_id is not None and compression is not None:
            layer = LayerReader(
                compression, max_layer=max_layer, what=f"layer {descriptor.digest}", algorithm=diff_id.algorithm
            )
        for data in verified(reader.blob(descriptor), on_event=on_event, cancel=cancel):
            for _ in layer.feed(data) if layer is not None else ():
                pass
        if layer is not None and diff_id is not None:
            prove_diff_id(descriptor.digest, diff_id, layer.finish().diff_id)
    except BlobNotFound as error:
        if mediatype.is_foreign(descriptor.media_type):
            return Checked(descriptor, "foreign layer")
        return Checked(descriptor, what, error.message)
    except Cancelled:
        raise
    except LaminaError as error:
        return Checked(descriptor, what, error.message)
    on_event(BlobDone(descriptor.digest, descriptor.size, what))
    return Checked(descriptor, what)
