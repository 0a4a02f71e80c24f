"""What the verbs that look into images print as JSON, and what the explorer's pages read (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.layer.entry import Entry, Kind
from lamina.text import json_path, json_text

if TYPE_CHECKING:
    from typing import Any

    from lamina.insight.blame import Blame
    from lamina.insight.ghosts import Ghost
    from lamina.insight.layer_report import LayerReport
    from lamina.insight.side import Side
    from lamina.insight.waste import Cache, Copies, Rewrite
    from lamina.union.tree import Union


def entry_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as a JSON value: size in bytes, mode as octal text, mtime in nanoseconds."""
    value: dict[str, Any] = {
        **json_path(entry.path),
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": entry.mtime,
    }
    if entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
        value |= json_text(entry.link, "target")
    if entry.kind in (Kind.CHAR, Kind.BLOCK):
        value["rdev"] = list(entry.rdev)
    if entry.xattrs:
        value["xattrs"] = {
            name.decode("utf-8", "backslashreplace"): content.hex() for name, content in sorted(entry.xattrs.items())
        }
    return value


def file_size(entry: Entry | None) -> int:
    """Return the bytes of content of a regular file; 0 for anything else."""
    return entry.size if entry is not None and entry.kind == Kind.FILE else 0


def content_sum(side: Side, node: int) -> tuple[int, str]:
    """Return size and digest of a regular file."""
    from lamina.insight.compare_content import digest_of

    return side.tree.entry(node).size, f"sha256:{digest_of(side, node).hex()}"


def node_json(tree: Union, first: int, node: int) -> dict[str, Any]:
    """Return a node of a union with its layer. ``first``: the number of the lowest layer, from 1."""
    stated = tree.layer(node)
    return {**entry_json(tree.entry(node)), "layer": None if stated is None else first + stated}


def blame_json(item: Blame) -> dict[str, Any]:
    """Return the history of a path, the newest state first."""
    return {
        **json_path(item.path),
        "hidden": item.hidden,
        "states": [
            {
                "layer": state.layer,
                "digest": state.digest,
                "step": state.step,
                "visible": not item.hidden and number == 0,
                "entry": entry_json(state.entry),
                "changed": list(state.changed),
                "ended": state.ended
                and {"how": state.ended.how, "layer": state.ended.layer, **json_path(state.ended.path, "by")},
            }
            for number, state in enumerate(item.states)
        ],
        "whiteouts": [{"layer": layer, **json_path(path)} for layer, path in item.whiteouts],
    }


def layer_json(layer: LayerReport) -> dict[str, Any]:
    """Return what a layer does to the union."""
    return {
        "number": layer.number,
        "digest": str(layer.digest),
        "diff_id": str(layer.diff_id),
        "chain_id": str(layer.chain_id),
        "media_type": layer.media_type,
        "size": layer.size,
        "tar_size": layer.tar_size,
        "content_size": layer.content_size,
        "entries": layer.entries,
        "adds": layer.adds,
        "replaces": layer.replaces,
        "restates": layer.restates,
        "hides": layer.hides,
        "step": layer.step,
        "created": layer.created,
        "shared_with": list(layer.shared_with),
        "warnings": list(layer.warnings),
    }


def ghost_json(ghost: Ghost) -> dict[str, Any]:
    """Return something hidden, with what hid it."""
    return {
        **json_path(ghost.path),
        "kind": ghost.kind.name.lower(),
        "size": ghost.size,
        "paths": ghost.paths,
        "layers": list(ghost.layers),
        "hidden_by": ghost.hidden_by,
        "how": ghost.how,
    }


def rewrite_json(one: Rewrite) -> dict[str, Any]:
    """Return a file that a layer contains again."""
    return {
        **json_path(one.path),
        "size": one.size,
        "layer": one.layer,
        "below": one.below,
        "changed": list(one.changed),
    }


def copies_json(one: Copies, most: int | None = None) -> dict[str, Any]:
    """Return files with the same content. ``most``: leave out paths after this number."""
    return {"size": one.size, "wasted": one.wasted, "paths": [json_path(path) for path in one.paths[:most]]}


def cache_json(one: Cache) -> dict[str, Any]:
    """Return the files of a package manager's cache."""
    return {"name": one.name, "size": one.size, "files": one.files, "layers": sorted(one.layers)}
