"""The image that a build makes: its config and manifest (pure), and how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lamina.build.options import BuildOptions, BuiltImage
from lamina.build.solving.step_result import Result
from lamina.build.steps import BaseStep, Planned, Step
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.image_config import History, ImageConfig
from lamina.spec.json import dump
from lamina.spec.manifest import Manifest, build_index, build_manifest, translate
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.build.solving.shared_cache import Records
    from lamina.source.protocols import Session

_ANNOTATION = re.compile(r"([a-z,-]+)(?:\[([^\]]+)\])?:(.+)", re.DOTALL)
_TYPES = ("manifest", "index", "manifest-descriptor", "index-descriptor")


def image_config(
    planned: Planned, results: Mapping[Step, Result], *, media_type: str, inline: Records | None = None
) -> ImageConfig:
    """The whole config: with the layers, with their times in the history, and with the time of the image. ``inline``:
    the records of the build cache that it shares."""
    layers = results[planned.step].layers if planned.step is not None else ()
    history = _dated(list(_marked(planned, results)))
    created = next((step.created for step in reversed(history) if step.created), None) or _time(planned.epoch)
    config = planned.config.with_layers(
        [layer.diff_id for layer in layers], [step.to_json() for step in history]
    ).with_(created=created)
    raw = config.raw
    if inline is not None:
        from lamina.build.solving.shared_cache import INLINE, listed

        raw = dump({**config.json, INLINE: listed(inline, [layer.descriptor for layer in layers])})
    return ImageConfig.parse(raw, "the config of the build", media_type)


def _time(epoch: int | None) -> str:
    from lamina.edit.publish import timestamp

    return timestamp(epoch)


def _marked(planned: Planned, results: Mapping[Step, Result]) -> Iterator[History]:
    """The history: what made no layer is marked, what made one has its time."""
    chain = []
    step = planned.step
    while step is not None:
        chain.append(step)
        step = step.below
    waiting: list[tuple[bool, str]] = []
    for step in reversed(chain):
        result = results[step]
        if isinstance(step, BaseStep):
            waiting += [(True, layer.created) for layer in result.layers]
        else:
            waiting.append((result.made is not None, result.made.created if result.made else ""))
    made = iter(waiting)
    for entry in planned.history:
        if entry.empty_layer:
            yield entry
            continue
        has_layer, created = next(made, (False, ""))
        yield replace_history(entry, created=entry.created or created or None, empty_layer=not has_layer)


def replace_history(entry: History, *, created: str | None, empty_layer: bool) -> History:
    return History(created, entry.created_by, entry.author, entry.comment, empty_layer)


def _dated(history: list[History]) -> list[History]:
    """Give a time to the entries that have none: of the first new layer, or of the layer before, as BuildKit does."""
    created, is_undated = None, False
    for entry in history:
        if entry.created:
            created = entry.created
            if is_undated:
                break
        else:
            is_undated = True
    dated, is_undated = [], False
    for entry in history:
        if entry.created:
            created = entry.created if is_undated else created
        else:
            is_undated = True
            entry = replace_history(entry, created=created, empty_layer=entry.empty_layer)
        dated.append(entry)
    return dated


def image_manifest(
    config: ImageConfig, layers: Sequence[Descriptor], annotations: Mapping[str, str], *, docker: bool
) -> Manifest:
    """The manifest of one platform's image. Raises Unsupported (a zstd layer in docker's format)."""
    described = [translate(layer, docker) for layer in layers]
    return build_manifest(config.descriptor, described, docker=docker, annotations=annotations or None)


def annotations_for(given: Mapping[str, str], kind: str, platform: Platform | None = None) -> dict[str, str]:
    """Those of ``--annotation`` that belong to a ``kind`` of document: manifest, index, or their descriptors. A key
    without a known type belongs to the manifest. Raises UsageError (a bad platform)."""
    found = {}
    for key, value in given.items():
        match = _ANNOTATION.fullmatch(key)
        kinds = match[1].split(",") if match else []
        if match is None or not set(kinds) <= set(_TYPES):
            kinds, wanted, name = ["manifest"], "", key
        else:
            wanted, name = match[2] or "", match[3]
        if kind in kinds and (not wanted or (platform is not None and Platform.parse(wanted).accepts(platform))):
            found[name] = value
    return found


def write_image(
    session: Session,
    planned: Planned,
    results: Mapping[Step, Result],
    options: BuildOptions,
    inline: Records | None = None,
) -> BuiltImage:
    """Write one platform's config and manifest. ``inline`` as in ``image_config``. Raises SystemFailure,
    UsageError."""
    docker = options.oci is False
    media_type = mediatype.DOCKER_CONFIG if docker else mediatype.OCI_CONFIG
    config = image_config(planned, results, media_type=media_type, inline=inline)
    layers = results[planned.step].layers if planned.step is not None else ()
    annotations = {} if docker else annotations_for(options.annotations, "manifest", planned.platform)
    manifest = image_manifest(config, [layer.descriptor for layer in layers], annotations, docker=docker)
    if not session.has(config.descriptor):
        session.put_blob(config.descriptor, BytesBlob(config.descriptor, config.raw))
    session.put_manifest(manifest.descriptor, manifest.raw)
    return BuiltImage(planned.platform, manifest.descriptor, config)


def write_index(
    session: Session, images: Sequence[BuiltImage], options: BuildOptions, more_entries: Sequence[Descriptor] = ()
) -> Descriptor:
    """Write the index of several platforms. ``more_entries``: those of attestations."""
    docker = options.oci is False
    entries = []
    for image in images:
        more = {} if docker else annotations_for(options.annotations, "manifest-descriptor", image.platform)
        entries.append(replace(image.descriptor, platform=image.platform).with_annotations(more))
    annotations = {} if docker else annotations_for(options.annotations, "index")
    index = build_index([*entries, *more_entries], docker=docker, annotations=annotations or None)
    session.put_manifest(index.descriptor, index.raw)
    return index.descriptor
