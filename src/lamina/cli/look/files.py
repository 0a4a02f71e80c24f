"""Verbs that look into the union: ls, cat, stat, tree, blame."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.format.output import emit, emit_json, emit_json_list, emit_template, table, write
from lamina.cli.format.text import clean, human_size, mode_text
from lamina.cli.options import format_option, image_argument, platform_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import PathNotFound, UsageError
from lamina.layer.entry import Kind
from lamina.places import to_bytes

if TYPE_CHECKING:
    from lamina.insight.blame import Blame, Line
    from lamina.source.stack import Stack
    from lamina.union.tree import Tree, Union

LETTER = {
    Kind.FILE: "-",
    Kind.DIRECTORY: "d",
    Kind.SYMLINK: "l",
    Kind.HARDLINK: "h",
    Kind.CHAR: "c",
    Kind.BLOCK: "b",
    Kind.FIFO: "p",
    Kind.WHITEOUT: "w",
    Kind.OPAQUE: "o",
}
KIND = {kind: kind.name.lower() for kind in Kind}
FEW = 16
"""Up to this many paths are looked up one by one; for more, a merge of the whole image is cheaper."""


@lru_cache(maxsize=1000)
def iso(nanoseconds: int) -> str:
    """Format a time in UTC, to the second. A time outside of Python's calendar stays a number."""
    seconds = nanoseconds // 1_000_000_000
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}"


@command(
    "ls",
    "lamina ls -la debian:12 /etc\nlamina ls -lhS debian:12 /usr/lib\nlamina ls -R debian:12~1 /usr/lib",
    context_settings={"help_option_names": ["--help"]},  # -h is for sizes, as with ls
)
@image_argument()
@click.argument("paths", nargs=-1)
@click.option("-l", "--long", "long_", is_flag=True, help="Show mode, owner, size, time and layer of each entry.")
@click.option("-R", "--recursive", is_flag=True, help="List everything below.")
@click.option("-d", "--directory", is_flag=True, help="List the directory itself, not its content.")
@click.option("-h", "--human-readable", "human", is_flag=True, help="With -l, print sizes like 12.3MB.")
@click.option("-t", "by_time", is_flag=True, help="Sort by time, newest first.")
@click.option("-S", "by_size", is_flag=True, help="Sort by size, largest first.")
@click.option("-r", "--reverse", is_flag=True, help="Reverse the order.")
@click.option(
    "-i", "--inode", is_flag=True, help="Show a number before each name; hard links of one file have the same number."
)
@click.option("-a", "--all", "all_", is_flag=True, help="Accepted as in ls; all names are always shown.")
@click.option("-A", "--almost-all", is_flag=True, help="Same as -a.")
@click.option("-1", "one", is_flag=True, help="Accepted as in ls; each name is always on its own line.")
@click.option("-n", "--numeric-uid-gid", "numeric", is_flag=True, help="Same as -l; owners are always numbers.")
@click.option("-0", "--null", is_flag=True, help="Print raw names, each followed by a zero byte, for scripts.")
@platform_option
@format_option
@click.pass_obj
def ls(
    session: Session,
    image: str,
    paths: tuple[str, ...],
    long_: bool,
    recursive: bool,
    directory: bool,
    human: bool,
    by_time: bool,
    by_size: bool,
    reverse: bool,
    inode: bool,
    all_: bool,
    almost_all: bool,
    one: bool,
    numeric: bool,
    null: bool,
    format: str | None,
) -> None:
    """List files and directories of an image. Nothing is unpacked."""
    long_ = long_ or numeric
    if null and sys.stdout.isatty():
        raise UsageError("-0 does not print raw names to a terminal", hint="leave -0 out, or pipe the output")
    stack = session.stack(image)
    first, detailed = stack.first, long_ or format not in (None, "table")
    if recursive or len(paths) > FEW or inode:
        stack.union()
    found: list[Iterable[tuple[Union, bytes, int]]] = []  # look up all paths before printing any
    for path in paths or ("/",):
        top, typed = to_bytes(path), os.fsencode(path)  # print names as they were typed, as ls does
        prefix = typed.rstrip(b"/") + b"/" if len(paths) > 1 else b""
        tree, node = _listing(stack, top, directory, detailed)
        if directory or not tree.is_directory(node):
            found.append([(tree, typed or b"/", node)])
        elif recursive:
            found.append(_all_below(tree, node, prefix))
        else:
            found.append([(tree, prefix + name, child) for name, child in sorted(tree.children(node).items())])
    nodes = (node for some in found for node in _sorted(some, by_time, by_size, reverse))
    if null:
        for _, name, _ in nodes:
            sys.stdout.buffer.write(name + b"\0")
        sys.stdout.buffer.flush()
    elif detailed:
        if format == "json":
            from lamina.insight.as_json import node_json

            emit_json_list(node_json(tree, first, node) for tree, _, node in nodes)
            return
        rows = (_ls_row(tree, first, name, node) for tree, name, node in nodes)
        if format in (None, "table"):
            fields = ["Mode", "Links", "Owner", "HumanSize" if human else "Size", "Time", "Layer", "Text"]
            if inode:
                fields.insert(0, "Inode")
            right = [number for number, field in enumerate(fields) if field in _NUMBERS]
            table(([*map(str, map(row.__getitem__, fields))] for row in rows), right=right)
        else:
            emit_template(rows, {}, format)
    elif inode:
        table([[str(tree.inode(node)), clean(name)] for tree, name, node in nodes], right=(0,))
    else:
        for _, name, _ in nodes:
            write(clean(name))


def _listing(stack: Stack, top: bytes, itself: bool, detailed: bool) -> tuple[Union, int]:
    """Look up what ``ls`` lists: a symlink that leads nowhere stands for itself."""
    try:
        return stack.listing(top, follow=not itself, into=not itself, links=detailed)
    except PathNotFound:
        if stack.leads_to(top) is None:
            raise
        return stack.listing(top, follow=False, into=False, links=detailed)


_NUMBERS = ("Inode", "Links", "Size", "HumanSize", "Layer")
_Named = tuple["Union", bytes, int]


def _sorted(found: Iterable[_Named], by_time: bool, by_size: bool, reverse: bool) -> Iterable[_Named]:
    """Sort as requested. The sort is stable."""
    if not (by_time or by_size):
        return reversed(list(found)) if reverse else found
    key = attrgetter("mtime" if by_time else "size")
    ordered = sorted(found, key=lambda one: key(one[0].entry(one[2])), reverse=True)
    return ordered[::-1] if reverse else ordered


def _all_below(tree: Union, node: int, prefix: bytes) -> Iterator[tuple[Union, bytes, int]]:
    at = len(tree.path(node)) + 1 if node else 0
    for below in tree.walk(node):
        if below != node:
            yield tree, prefix + tree.path(below)[at:], below


def _ls_row(tree: Union, first: int, name: bytes, node: int) -> dict[str, Any]:
    entry, stated = tree.entry(node), tree.layer(node)
    text = clean(name)
    if entry.kind == Kind.SYMLINK:
        text += f" -> {clean(entry.link)}"
    device = entry.kind in (Kind.CHAR, Kind.BLOCK)
    layer = None if stated is None else first + stated
    size = f"{entry.rdev[0]}, {entry.rdev[1]}" if device else entry.size
    return {
        "Name": clean(name),
        "Text": text,
        "Inode": tree.inode(node),
        "Path": "/" + clean(entry.path),
        "Kind": entry.kind.name.lower(),
        "Mode": mode_text(LETTER[entry.kind], entry.mode),
        "Links": tree.links(node),
        "Owner": f"{entry.uid}:{entry.gid}",
        "UID": entry.uid,
        "GID": entry.gid,
        "Size": size,
        "HumanSize": size if device else human_size(entry.size),
        "Time": iso(entry.mtime),
        "Target": clean(entry.link),
        "Layer": "-" if layer is None else layer,
    }


@command("cat", "lamina cat debian:12 /etc/os-release\nlamina cat my/app~2 /etc/motd   # as in the lowest two layers")
@image_argument()
@click.argument("paths", nargs=-1, required=True)
@platform_option
@click.pass_obj
def cat(session: Session, image: str, paths: tuple[str, ...]) -> None:
    """Print files of an image, byte for byte. On a terminal control characters are escaped and binary files are
    refused. Symlinks are followed inside the image."""
    stack = session.stack(image)
    if len(paths) > FEW:
        stack.union()
    from lamina.cli.format.content import write_contents

    contents = []
    for path in paths:  # look up all paths before printing any
        union, node = stack.lookup(to_bytes(path), follow=True)
        kind = union.kind(node)
        if kind != Kind.FILE:
            raise UsageError(
                f"{path!r:.200} in {image} is a {kind.name.lower()}", hint="name a regular file, or use `lamina stat`"
            )
        contents.append((path, union.stored(node)))
    write_contents((path, stack.open_stored(stored)) for path, stored in contents)


@command("stat", "lamina stat debian:12 /bin/sh\nlamina stat -L debian:12 /bin/sh --format '{{.Size}}'")
@image_argument()
@click.argument("paths", nargs=-1, required=True)
@click.option("-L", "--dereference", is_flag=True, help="Follow symlinks inside the image.")
@platform_option
@format_option
@click.pass_obj
def stat(session: Session, image: str, paths: tuple[str, ...], dereference: bool, format: str | None) -> None:
    """Show the attributes of paths in an image, and the layer that has them."""
    from lamina.insight.as_json import entry_json

    stack = session.stack(image)
    if len(paths) > FEW:
        stack.union()
    values = []
    for path in paths:
        tree, node = stack.listing(to_bytes(path), follow=dereference, into=False)
        entry, stated = tree.entry(node), tree.layer(node)
        layer = None if stated is None else stack.layers[stated]
        values.append(
            {
                **entry_json(entry),
                "links": tree.links(node),
                "layer": None if stated is None else stack.first + stated,
                "layer_digest": str(layer.descriptor.digest) if layer else None,
                "implied": stated is None,
            }
        )
    if format == "json":
        emit_json(values)
    elif format not in (None, "table"):
        emit_template(
            [{key.title().replace("_", ""): item for key, item in value.items()} for value in values], {}, format
        )
    else:
        for value in values:
            value["mtime"] = iso(value["mtime"])
            rows = [
                [f"{key}:", "-" if item is None else str(item)]
                for key, item in value.items()
                if not key.endswith("_b64")
            ]
            table(rows)


@command("tree", "lamina tree --depth 2 debian:12 /usr")
@image_argument()
@click.argument("path", default="/")
@click.option(
    "-L", "--depth", type=click.IntRange(min=1), default=3, show_default=True, help="Number of levels to show."
)
@click.option("--sizes", is_flag=True, help="Show the size of each file and directory.")
@platform_option
@format_option
@click.pass_obj
def tree(session: Session, image: str, path: str, depth: int, sizes: bool, format: str | None) -> None:
    """Show the files of an image as a tree. The number after each name is the layer that it comes from."""
    opened = session.image(image)
    union, first = opened.tree, opened.stack.first
    top = union.lookup(to_bytes(path), follow=True)
    if format not in (None, "table"):
        within = (node for node in union.walk(top) if _level(union, top, node) <= depth)
        if format == "json":
            from lamina.insight.as_json import node_json

            emit_json_list(node_json(union, first, node) for node in within)
        else:
            emit_template((_ls_row(union, first, union.name(node), node) for node in within), {}, format or "")
        return
    total = _sizes_below(union, top) if sizes else {}
    write(clean(path if path.startswith("/") else "/" + path))
    pending: list[tuple[int, str, bool]] = _branches(union, top, "")
    while pending:
        node, indent, last = pending.pop()
        origin = union.origin(node)
        label = clean(union.name(node))
        if union.kind(node) == Kind.SYMLINK:
            label += f" -> {clean(union.entry(node).link)}"
        size = f"  {human_size(total.get(node, 0))}" if sizes else ""
        write(f"{indent}{'└── ' if last else '├── '}{label}  [{first + origin[0] if origin else '-'}]{size}")
        below = indent + ("    " if last else "│   ")
        if union.is_directory(node) and len(below) // 4 < depth:
            pending += _branches(union, node, below)


def _branches(union: Tree, node: int, indent: str) -> list[tuple[int, str, bool]]:
    children = sorted(union.children(node).items(), reverse=True)
    return [(child, indent, number == 0) for number, (_, child) in enumerate(children)]


def _level(union: Tree, top: int, node: int) -> int:
    level = 0
    while node != top:
        node, level = union.parent(node), level + 1
    return level


def _sizes_below(union: Tree, top: int) -> dict[int, int]:
    total: dict[int, int] = {}
    for node in reversed(list(union.walk(top))):
        if union.kind(node) == Kind.FILE and union.inode(node) == node:
            total[node] = union.entry(node).size
        if node != top:
            parent = union.parent(node)
            total[parent] = total.get(parent, 0) + total.get(node, 0)
    return total


@command("blame", "lamina blame my/app:1 /etc/passwd\nlamina blame -r my/app:1 /etc --format json")
@image_argument()
@click.argument("paths", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Show every path below, including paths that were deleted.")
@platform_option
@format_option
@click.pass_obj
def blame(session: Session, image: str, paths: tuple[str, ...], recursive: bool, format: str | None) -> None:
    """Show the history of paths: the layer and build step that put each there, the older entries that it replaced,
    and the whiteouts that hide it. * marks the entry that is visible in the image. If no layer has or had a path,
    symlinks on its way are followed, and the path that they lead to is shown."""
    from lamina.insight.blame import blame as blame_path
    from lamina.insight.blame import blame_under, line_of, lines_under

    stack = session.stack(image)
    if recursive or len(paths) > FEW:
        stack.tree()
    typed = [to_bytes(path) for path in paths]
    if format == "json" and recursive:
        from lamina.insight.as_json import blame_json

        emit_json_list(blame_json(item) for path in typed for item in blame_under(stack, path))
        return
    if format in (None, "table", "json") and not recursive:
        found = [blame_path(stack, path) for path in typed]
        if format == "json":
            from lamina.insight.as_json import blame_json

            emit_json([blame_json(item) for item in found])
            return
        for number, item in enumerate(found):
            if number:
                write("")
            _blame_text(item)
        return
    if recursive:
        lines = chain.from_iterable(lines_under(stack, path) for path in typed)
    else:
        lines = chain(line_of(blame_path(stack, path)) for path in typed)
    columns = [("Layer", "LAYER"), ("State", "STATE"), ("Shadows", "SHADOWS"), ("Path", "PATH"), ("Step", "STEP")]
    emit(map(_blame_row, lines), columns, format, right=("Layer", "Shadows"))


def _blame_row(line: Line) -> dict[str, Any]:
    return {
        "Path": "/" + clean(line.path),
        "State": "hidden" if line.hidden else KIND[line.kind],
        "Layer": line.layer,
        "Digest": line.digest,
        "Step": line.step or "",
        "Shadows": line.shadows,
    }


def _blame_text(item: Blame) -> None:
    write(f"/{clean(item.path)}" + (" (hidden in the union)" if item.hidden else ""))
    for number, state in enumerate(item.states):
        visible = number == 0 and not item.hidden
        entry = state.entry
        where = f"layer {state.layer}" if state.layer is not None else "implied"
        what = f"{mode_text(LETTER[entry.kind], entry.mode)} {entry.uid}:{entry.gid} {human_size(entry.size)}"
        what += f" {iso(entry.mtime)}"
        if entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
            what += f" -> {clean(entry.link)}"
        write(f"  {'*' if visible else ' '} {where}  {(state.digest or '')[:19]}  {what}")
        if state.step:
            write(f"      by {clean(state.step)}")
        if state.changed:
            write(f"      changed: {', '.join(state.changed)}")
        if state.ended:
            write(f"      {clean(state.ended.text)}")
    for layer, path in item.whiteouts:
        write(f"    layer {layer} has a whiteout of /{clean(path)} that hides nothing")
