"""Secrets that an image gives away: in files, seen or hidden, in its config and its history."""

from __future__ import annotations

from dataclasses import dataclass, field

from lamina.insight.secrets import Suspect, in_file, in_words, is_binary
from lamina.insight.side import SMALL, Side
from lamina.layer.entry import Kind
from lamina.source import Stack

MAX_FILE = 1 << 20
"""Bytes that are looked at of one file."""
MOST = 10_000  # findings of one image
_FIRST = 8192


@dataclass(frozen=True, slots=True)
class Exposed:
    """``where``: "file", "env", "label", "history", or a field of the config; ``name`` the variable, label, or step's
    number (from 1). ``layer`` (from 1) holds it; ``hidden_by`` is the layer that hides the file, None where it is
    visible."""

    suspect: Suspect
    where: str
    name: str = ""
    path: bytes = b""
    layer: int | None = None
    hidden_by: int | None = None


@dataclass
class Search:
    """``files`` were looked into, ``size`` bytes of them; ``binary`` were not text, ``cut`` were looked at only as
    far as ``MAX_FILE``."""

    found: list[Exposed] = field(default_factory=list)
    files: int = 0
    size: int = 0
    binary: int = 0
    cut: int = 0


def search_secrets(stack: Stack, *, entropy: bool = False, max_file: int = MAX_FILE) -> Search:
    """Hidden files first. Raises InvalidContent, SystemFailure."""
    search = Search()
    _search_files(stack, search, entropy, max_file)
    search.found.sort(key=lambda one: (one.hidden_by is None, one.path, one.suspect.line))
    search.found[:0] = _search_words(stack, entropy)
    return search


def _search_files(stack: Stack, search: Search, entropy: bool, max_file: int) -> None:
    side = Side.of(stack)
    tree = side.tree
    names: dict[int, int] = {}  # inode -> a visible name of it
    for link, inode in tree.hardlinks.items():
        if tree.is_alive(link):
            names.setdefault(inode, link)
    places = []
    for node in range(1, len(tree.names)):
        if node not in tree.hardlinks and tree.kids[node] is None and tree.kind(node) == Kind.FILE:
            layer, row = tree.content(node)
            if tree.layers[layer].size[row]:
                places.append((layer, tree.layers[layer].offset[row], node))
    for layer, _, node in sorted(places):  # each archive from front to back
        if len(search.found) >= MOST:
            return
        name = node if tree.is_alive(node) else names.get(node, node)
        path, ending = tree.path(name), tree.ending(name)
        large = side.size(node) > SMALL
        data = side.read(node, min(_FIRST, max_file)) if large else side.read(node, min(SMALL, max_file))
        search.files += 1
        if is_binary(data):
            search.binary += 1
        else:
            if large:
                data = side.read(node, max_file)
            search.cut += side.size(node) > max_file
        search.size += len(data)
        for suspect in in_file(path, data, entropy=entropy):
            by = None if ending is None else stack.first + ending.layer
            search.found.append(Exposed(suspect, "file", "", path, stack.first + layer, by))


def _search_words(stack: Stack, entropy: bool) -> list[Exposed]:
    config = stack.config
    found: list[Exposed] = []

    def look(text: str, where: str, name: str, layer: int | None = None) -> None:
        found.extend(Exposed(suspect, where, name, layer=layer) for suspect in in_words(text, entropy=entropy))

    for line in config.env:
        look(line, "env", line.partition("=")[0])
    for key, value in config.labels.items():
        look(f"{key}={value}", "label", key)
    for where, words in (("cmd", config.cmd), ("entrypoint", config.entrypoint)):
        look(" ".join(words), where, "")
    made = 0
    for number, step in enumerate(config.history, 1):
        made += not step.empty_layer
        layer = made if not step.empty_layer and made <= len(config.diff_ids) else None
        for text in (step.created_by, step.comment):
            look(text, "history", str(number), layer)
    return found[:MOST]
