"""What each layer of a stack does to the union: what it adds, replaces and hides, and which images share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import LaminaError
from lamina.source.select import find_manifest, read_config
from lamina.source.stack import Stack
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.union.tree import HiddenBy, Tree

if TYPE_CHECKING:
    from lamina.source.served import Readable


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer, counted from 1 at the bottom. In bytes: ``size`` of the blob, ``tar_size`` of the uncompressed tar,
    ``content_size`` of the files in it. ``adds`` are new paths; ``replaces`` are paths that existed below, without
    directories whose attributes are stated again (``restates``); ``hides`` are paths removed by whiteouts.
    ``shared_with`` are names of other images with this layer."""

    number: int
    digest: Digest
    diff_id: Digest
    chain_id: Digest
    media_type: str
    size: int
    tar_size: int
    content_size: int
    entries: int
    adds: int
    replaces: int
    restates: int
    hides: int
    step: str | None
    created: str | None
    shared_with: tuple[str, ...]
    warnings: tuple[str, ...]


def report_layers(stack: Stack, sharers: Mapping[Digest, tuple[str, ...]] | None = None) -> list[LayerReport]:
    """Return a report for each layer, bottom first. ``sharers`` maps each diff_id to other images with it
    (``layer_sharers``)."""
    tree = stack.tree()
    counts = _counts(tree)
    reports = []
    for number, handle in enumerate(stack.layers):
        index = handle.index()
        adds, replaces, restates, hides = counts[number]
        step = stack.steps[number] if number < len(stack.steps) else None
        reports.append(
            LayerReport(
                number=stack.first + number,
                digest=handle.descriptor.digest,
                diff_id=handle.diff_id,
                chain_id=stack.chain_ids[number],
                media_type=handle.descriptor.media_type,
                size=handle.descriptor.size,
                tar_size=index.tar_size,
                content_size=index.content_size,
                entries=len(index),
                adds=adds,
                replaces=replaces,
                restates=restates,
                hides=hides,
                step=(step.created_by or step.comment or None) if step else None,
                created=step.created if step else None,
                shared_with=(sharers or {}).get(handle.diff_id, ()),
                warnings=index.warnings,
            )
        )
    return reports


def layer_sharers(store: Readable, platform: Platform, leave_out: Digest) -> dict[Digest, tuple[str, ...]]:
    """Map each diff_id to the names of local images with it, except the image whose manifest is ``leave_out``.
    Unreadable images are skipped."""
    return sharers_among(_layers_of_images(store, platform), leave_out)


def sharers_among(
    images: Iterable[tuple[str, Digest, Sequence[Digest]]], leave_out: Digest
) -> dict[Digest, tuple[str, ...]]:
    """Map each diff_id to the names of the images with it. Each image is its name, the digest of its manifest, and
    its diff_ids. The image whose manifest is ``leave_out`` is left out."""
    found: dict[Digest, dict[str, None]] = {}
    for name, digest, diff_ids in images:
        if digest != leave_out:
            for diff_id in diff_ids:
                found.setdefault(diff_id, {})[name] = None
    return {diff_id: tuple(names) for diff_id, names in found.items()}


def _layers_of_images(store: Readable, platform: Platform) -> Iterator[tuple[str, Digest, Sequence[Digest]]]:
    for name, descriptor in store.names():
        try:
            manifest = find_manifest(store, descriptor, platform, name)
            if manifest.is_image:
                diff_ids = read_config(store, manifest, name).diff_ids
                yield name or descriptor.digest.short, manifest.descriptor.digest, diff_ids
        except LaminaError:
            continue


def _counts(tree: Tree) -> list[tuple[int, int, int, int]]:
    """Return (adds, replaces, restates, hides) of each layer."""
    count = len(tree.layers)
    made, replaced, restated, hidden = [0] * count, [0] * count, [0] * count, [0] * count
    latest: dict[int, int] = {}  # node -> layer of its state after the current restatement
    for node, layer, _ in reversed(tree.restatements):
        if node:
            restated[latest.get(node, tree.origin_layers[node])] += 1
            latest[node] = layer
    for node in range(1, len(tree.names)):
        made[latest.get(node, tree.origin_layers[node])] += 1
        ending = tree.ending(node)
        if ending is None:
            continue
        if ending.how == HiddenBy.REPLACED:
            replaced[ending.layer] += ending.node == node
        else:
            hidden[ending.layer] += 1
    return [
        (made[number] - replaced[number], replaced[number], restated[number], hidden[number])
        for number in range(count)
    ]
