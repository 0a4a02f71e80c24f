"""Validates an image in its place: every digest, size and diff_id; nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lamina.errors import BlobNotFound, Cancelled, LaminaError, NotFound
from lamina.events import BlobDone, BlobStarted, Cancel, OnEvent, ignore
from lamina.layer.codec import layer_decoder
from lamina.layer.decode import LayerReader
from lamina.light import TYPE_CHECKING
from lamina.settings import MAX_LAYER
from lamina.source.select import choose, read_config
from lamina.source.verify import prove_diff_id, verified
from lamina.source.walk import Absent, Classified, Known, Unrecognized, classifier, walk
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest
from lamina.spec.platform import Platform
from lamina.transfer.parallel import for_each

if TYPE_CHECKING:
    from lamina.source.protocols import Reader


@dataclass(frozen=True, slots=True)
class Checked:
    """One checked document or blob; ``problem`` is "" if it is right."""

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
    """Read and verify everything that the image has. A problem does not stop it, but an unreachable place does.
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

    for_each(sorted(blobs.values(), key=lambda blob: -blob[0].size), work, cancel)
    return checked + [results[digest] for digest in blobs]


def _documents(
    reader: Reader, top: Descriptor, platform: Platform, all_platforms: bool
) -> Iterator[tuple[Descriptor, Manifest | Index | None, str]]:
    unmet: dict[Descriptor, str] = {}  # indexes without an entry for the platform

    def wanted(found: Classified) -> Iterable[Descriptor]:
        if not (isinstance(found, Known) and isinstance(found.document, Index)):
            return ()
        if all_platforms:
            return found.document.manifests
        try:
            return (choose(reader, found.document, platform, "the index"),)
        except NotFound as error:
            unmet[found.descriptor] = error.message
            return ()

    for found in walk(classifier(reader), [top], children=wanted):
        descriptor = found.descriptor
        if isinstance(found, Known):
            yield descriptor, None if descriptor in unmet else found.document, unmet.get(descriptor, "")
        elif isinstance(found, Absent) and all_platforms and descriptor != top:
            continue  # an index may list images that were never fetched
        elif not isinstance(found, Unrecognized) or mediatype.is_known_document(descriptor.media_type):
            yield descriptor, None, found.error.message


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
    layer = None
    try:
        if diff_id is not None and mediatype.is_layer(descriptor.media_type):
            layer = LayerReader(
                max_layer=max_layer,
                what=f"layer {descriptor.digest}",
                algorithm=diff_id.algorithm,
                inflate=layer_decoder(descriptor, diff_id),
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
