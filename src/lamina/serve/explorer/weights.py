"""Sizes of an image for drawing: layers, the rectangles of a treemap, waste and ghosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.insight.as_json import cache_json, copies_json, ghost_json, layer_json, rewrite_json
from lamina.insight.du import Weight, weigh
from lamina.insight.ghosts import Ghost, hidden_sizes
from lamina.insight.layer_report import report_layers
from lamina.insight.waste import Waste, efficiency
from lamina.serve.explorer.asked import Asked
from lamina.text import json_path, json_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.serve.explorer.opened import OpenImage

MAX_DEPTH = 4
MAX_RECTANGLES = 2000
FIRST = 20
MAX_COPIES = 20


def stack_report(image: OpenImage) -> dict[str, Any]:
    """Return what each layer does, and totals."""
    stack, tree = image.stack, image.tree
    reports = report_layers(stack)
    layers = []
    for report in reports:
        value = layer_json(report)
        del value["shared_with"]  # needs all images: it is asked for by itself
        layers.append(value)
    content = sum(report.content_size for report in reports)
    hidden = sum(hidden_sizes(tree).values())
    return {
        "image": stack.name,
        "digest": str(stack.manifest.descriptor.digest),
        "platform": str(stack.config.platform),
        "layers": layers,
        "total": {
            "size": sum(report.size for report in reports),
            "content": content,
            "visible": content - hidden,
            "hidden": hidden,
            "paths": len(tree),
            "efficiency": efficiency(tree),
        },
        "warnings": list(tree.warnings),
    }


def treemap(image: OpenImage, path: bytes, depth: int, limit: int) -> dict[str, Any]:
    """Return nested rectangles, the largest first: what `du` finds, ``depth`` levels deep. Raises PathNotFound."""
    found = weigh(image.tree, path, depth=depth, files=True)
    top = found[-1]
    below: dict[bytes, list[Weight]] = {}
    start = len(top.path)
    for weight in found[:-1]:
        if len(weight.path) > start or not start:
            below.setdefault(weight.path.rpartition(b"/")[0], []).append(weight)
    for children in below.values():
        children.sort(key=lambda one: (-one.size, one.path))
    kept = _largest(found[:-1], limit)

    def drawn(weight: Weight) -> dict[str, Any]:
        value = {**_rectangle(image, weight), "children": [], "rest": {"count": 0, "size": 0}}
        for child in below.get(weight.path, ()):
            if child.path in kept:
                value["children"].append(drawn(child))
            else:
                value["rest"]["count"] += 1
                value["rest"]["size"] += child.size
        return value

    digest = str(image.stack.manifest.descriptor.digest)
    return {"image": image.stack.name, "digest": digest, **drawn(top)}


def _largest(found: Sequence[Weight], limit: int) -> set[bytes]:
    """The paths of the largest rectangles; those above one that is kept are kept too, because they are as large."""
    order = sorted(found, key=lambda one: (-one.size, one.path.count(b"/"), one.path))
    return {one.path for one in order[:limit]}


def _rectangle(image: OpenImage, weight: Weight) -> dict[str, Any]:
    most = max(weight.sizes, key=lambda layer: (weight.sizes[layer], -layer), default=None)
    return {
        **json_path(weight.path),
        **json_text(weight.path.rpartition(b"/")[2], "name"),
        "kind": "directory" if weight.is_directory else "file",
        "size": weight.size,
        "files": weight.files,
        "layer": None if most is None else image.first + most,
        "layers": {str(image.first + layer): size for layer, size in sorted(weight.sizes.items())},
    }


def waste_page(found: Waste, image: OpenImage, asked: Asked) -> dict[str, Any]:
    """Return waste in short, or a page of one kind of it. Raises Refused."""
    kinds: dict[str, list[Any]] = {
        "rewrites": list(found.rewrites),
        "copies": list(found.copies),
        "caches": list(found.caches),
    }
    kind = asked.choice("kind", "", *kinds)
    if kind:
        offset, limit = asked.page()
        items = kinds[kind]
        shown = [_WRITERS[kind](one) for one in items[offset : offset + limit]]
        return {"kind": kind, "offset": offset, "total": len(items), "items": shown}
    return {
        "image": image.stack.name,
        "digest": str(image.stack.manifest.descriptor.digest),
        "efficiency": found.efficiency,
        "content": found.content,
        "hidden": {
            "size": sum(found.hidden.values()),
            "layers": {str(layer): size for layer, size in found.hidden.items()},
        },
        **{kind: [_WRITERS[kind](one) for one in items[:FIRST]] for kind, items in kinds.items()},
        "totals": {
            "rewrites": {"count": len(found.rewrites), "size": sum(one.size for one in found.rewrites)},
            "copies": {"count": len(found.copies), "size": sum(one.wasted for one in found.copies)},
            "caches": {"count": len(found.caches), "size": sum(one.size for one in found.caches)},
        },
    }


_WRITERS: dict[str, Any] = {
    "rewrites": rewrite_json,
    "copies": lambda one: {**copies_json(one, MAX_COPIES), "count": len(one.paths)},
    "caches": cache_json,
}


def ghosts_page(found: list[Ghost], image: OpenImage, asked: Asked) -> dict[str, Any]:
    """Return a page of what is hidden, the largest first. Raises Refused."""
    offset, limit = asked.page()
    return {
        "image": image.stack.name,
        "digest": str(image.stack.manifest.descriptor.digest),
        "hidden": {"paths": sum(one.paths for one in found), "size": sum(one.size for one in found)},
        "offset": offset,
        "total": len(found),
        "ghosts": [{**ghost_json(one), "node": one.node} for one in found[offset : offset + limit]],
    }
