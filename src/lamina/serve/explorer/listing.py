"""Directories of an image: a page of their entries, with hidden ones on demand; and the history of a path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.errors import PathNotFound
from lamina.insight.as_json import blame_json, node_json
from lamina.insight.blame import blame
from lamina.serve.explorer.asked import Asked, Refused
from lamina.text import json_text

if TYPE_CHECKING:
    from typing import Any

    from lamina.serve.explorer.opened import OpenImage

MAX_LAYERS_SHOWN = 500


def tree_page(image: OpenImage, asked: Asked) -> dict[str, Any]:
    """Return a page of the entries of a directory. Raises Refused, PathNotFound."""
    offset, limit = asked.page()
    hidden = asked.flag("hidden")
    order = asked.choice("sort", "name", "size")
    layer = None
    if asked.text("layer"):
        layer = asked.number("layer", 1, 1 << 20, 1) - image.first
        if not 0 <= layer < len(image.stack.layers):
            top = image.first + len(image.stack.layers) - 1
            raise Refused(400, "bad_request", f"the image has layers {image.first} to {top}")
    node = node_of(image, asked, follow=True)
    children = image.facts.sorted(node, order, hidden or not image.tree.is_alive(node), layer)
    return {
        "image": image.stack.name,
        "digest": str(image.stack.manifest.descriptor.digest),
        "node": entry(image, node),
        "offset": offset,
        "total": len(children),
        "entries": [entry(image, child) for child in children[offset : offset + limit]],
        "hidden_total": len(image.facts.hidden_children(node)),
    }


def node_of(image: OpenImage, asked: Asked, *, follow: bool) -> int:
    """Return the node that is asked for, by number or by path. Raises Refused, PathNotFound."""
    if asked.text("node"):
        node = asked.number("node", 0, 1 << 32)
        if node >= len(image.tree.names):
            raise Refused(404, "not_found", "the image has no such node")
        return node
    path = asked.image_path()
    try:
        return image.tree.lookup(path, follow=follow)
    except PathNotFound:
        if not follow:
            raise
        return image.tree.lookup(path)  # a symlink that leads nowhere stands for itself


def entry(image: OpenImage, node: int) -> dict[str, Any]:
    """Return a node as the page shows it: what `ls` prints, and what is at or below it."""
    tree, facts = image.tree, image.facts
    value = {
        **node_json(tree, image.first, node),
        **json_text(tree.name(node), "name"),
        "node": node,
        "links": tree.links(node),
        "total": facts.sizes[node],
        "files": facts.files[node],
        "layers": [image.first + layer for layer in facts.numbers(node)[:MAX_LAYERS_SHOWN]],
        "children": len(tree.children(node)) if tree.is_alive(node) else 0,
        "hidden_children": len(facts.hidden_children(node)),
        "older": facts.older[node],
    }
    ending = tree.ending(node)
    if ending is None:
        return value | state_json()
    return value | state_json(image.first + ending.layer, ending.how.name.lower())


def state_json(hidden_by: int | None = None, how: str = "") -> dict[str, Any]:
    """Return whether an entry is visible; if not, the number of the layer that hides it and how ("whiteout",
    "opaque", "replaced")."""
    if hidden_by is None:
        return {"state": "visible"}
    return {"state": "hidden", "hidden_by": hidden_by, "how": how}


def path_blame(image: OpenImage, asked: Asked) -> dict[str, Any]:
    """Return the history of a path, as `blame` does. Raises Refused, PathNotFound."""
    return blame_json(blame(image.stack, asked.image_path()))
