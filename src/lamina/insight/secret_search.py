"""Search for secrets that an image exposes: in visible and hidden files, in its config and its history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lamina.insight.secrets import Sieve, Suspect, in_file, in_words, is_binary
from lamina.insight.side import Side
from lamina.layer.entry import Kind
from lamina.layer.file_content import SMALL
from lamina.source.stack import Stack

MAX_FILE = 1 << 20
"""The most bytes of one file that are searched."""
MOST = 10_000  # findings of one image
_FIRST = 8192
_BATCH = 1 << 20  # bytes of files, and below the number of files, in one batch
_MAX_BATCH = 2000
_FILE = int(Kind.FILE)


@dataclass(frozen=True, slots=True)
class FoundSecret:
    """A finding. ``where`` is "file", "env", "label", "history", or a field of the config; ``name`` is the variable,
    the label, or the number of the step (from 1). ``layer`` (from 1) contains it. ``hidden_by`` is the layer that
    hides the file, None if it is visible."""

    suspect: Suspect
    where: str
    name: str = ""
    path: bytes = b""
    layer: int | None = None
    hidden_by: int | None = None


@dataclass
class SecretSearch:
    """The result of a search: ``files`` were searched, ``size`` bytes of them; ``binary`` were not text, ``cut`` were
    searched only up to ``MAX_FILE``."""

    found: list[FoundSecret] = field(default_factory=list)
    files: int = 0
    size: int = 0
    binary: int = 0
    cut: int = 0


def search_secrets(stack: Stack, *, entropy: bool = False, max_file: int = MAX_FILE) -> SecretSearch:
    """Search an image; hidden files come first. Raises InvalidContent, SystemFailure."""
    search = SecretSearch()
    _search_files(stack, search, entropy, max_file)
    search.found.sort(key=lambda one: (one.hidden_by is None, one.path, one.suspect.line))
    search.found[:0] = _search_words(stack, entropy)
    return search


def _search_files(stack: Stack, search: SecretSearch, entropy: bool, max_file: int) -> None:
    side = Side.of(stack)
    tree = side.tree
    names: dict[int, int] = {}  # inode -> a visible name
    for link, inode in tree.hardlinks.items():
        if tree.is_alive(link):
            names.setdefault(inode, link)
    directories: dict[int, bytes] = {0: b""}  # directories of the files, with a slash at the end

    def path_of(node: int) -> bytes:
        parent = tree.parents[node]
        if parent not in directories:
            directories[parent] = tree.path(parent) + b"/"
        return directories[parent] + tree.names[node]

    for batch in _batches(side, max_file):
        sieve = Sieve([data for _, _, data in batch if not is_binary(data)])
        for layer, node, data in batch:  # for a large file the data is only its start, and is read again
            if len(search.found) >= MOST:
                return
            path = path_of(names.get(node, node) if tree.endings_of[node] else node)
            size = tree.layers[layer].size[tree.rows[node]]
            search.files += 1
            if is_binary(data):
                search.binary += 1
                passes = entropy or sieve.passes(path, b"")
            else:
                if size > SMALL:
                    data = side.read(node, max_file)
                search.cut += size > max_file
                passes = entropy or size > SMALL or sieve.passes(path, data)
            search.size += len(data)
            if not passes:
                continue
            name = node if tree.is_alive(node) else names.get(node, node)
            ending = tree.ending(name)
            by = None if ending is None else stack.first + ending.layer
            for suspect in in_file(path, data, entropy=entropy):
                search.found.append(FoundSecret(suspect, "file", "", path, stack.first + layer, by))


def _batches(side: Side, max_file: int) -> Iterator[list[tuple[int, int, bytes]]]:
    """Yield batches of (layer from 0, node, data) of the non-empty regular files, in archive order; for a large file
    the data is its start."""
    tree = side.tree
    hardlinks, kids, rows, layers = tree.hardlinks, tree.kids, tree.rows, tree.origin_layers
    places: list[list[tuple[int, int]]] = [[] for _ in tree.layers]
    for node in range(1, len(tree.names)):
        if kids[node] is None and node not in hardlinks:
            index, row = tree.layers[layers[node]], rows[node]
            if index.kind[row] == _FILE and index.size[row]:
                places[layers[node]].append((index.offset[row], node))
    batch: list[tuple[int, int, bytes]] = []
    held = 0
    for layer, found in enumerate(places):
        found.sort()
        sizes = tree.layers[layer].size
        for _, node in found:
            large = sizes[rows[node]] > SMALL
            data = side.read(node, min(_FIRST if large else SMALL, max_file))
            batch.append((layer, node, data))
            held += len(data)
            if held >= _BATCH or len(batch) >= _MAX_BATCH:
                yield batch
                batch, held = [], 0
    yield batch


def _search_words(stack: Stack, entropy: bool) -> list[FoundSecret]:
    config = stack.config
    found: list[FoundSecret] = []

    def look(text: str, where: str, name: str, layer: int | None = None) -> None:
        found.extend(FoundSecret(suspect, where, name, layer=layer) for suspect in in_words(text, entropy=entropy))

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
