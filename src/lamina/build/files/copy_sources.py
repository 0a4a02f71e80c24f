"""The words of COPY and ADD in a tree: which files they name, what of them is copied, and the digest of that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.build.patterns import globs
from lamina.build.patterns.ignore import Patterns
from lamina.build.patterns.trees import FileTree, get, missing, picked
from lamina.errors import UsageError
from lamina.layer.entry import Kind

_PIVOT = "/./"


@dataclass(frozen=True, slots=True)
class Match:
    """One file or directory that a word names. ``name``: its last name, as it was written (a symlink's own).
    ``include``: of a directory, only what matches (``--parents``)."""

    node: Any
    name: bytes
    include: Patterns | None = None


def excluding(patterns: Sequence[str]) -> Patterns | None:
    """The patterns of ``--exclude``; None without any. Raises UsageError."""
    return Patterns(patterns) if patterns else None


def matches(tree: FileTree[Any], word: str, *, parents: bool = False, is_path: bool = False) -> list[Match]:
    """What a word names, in order; [] if it is a pattern that nothing matches. ``is_path``: it is a path, not a
    pattern. Symlinks are followed inside the tree. Raises PathNotFound, UsageError (a bad pattern)."""
    if parents:
        return _with_parents(tree, word)
    if is_path:
        path = os.fsencode(globs.clean(f"/{word}"))
        return [Match(get(tree, path), path.rpartition(b"/")[2])]
    literal, pattern = globs.split("/" + word)
    top = os.fsencode(literal)
    if not pattern:
        return [Match(get(tree, top), top.rpartition(b"/")[2])]
    found = []
    for path in _walked(tree, get(tree, top), pattern):
        node = get(tree, top + b"/" + path)
        found.append(Match(node, path.rpartition(b"/")[2]))
    return found


def digest(
    tree: FileTree[Any],
    words: Iterable[str],
    *,
    exclude: Sequence[str] = (),
    parents: bool = False,
    is_path: bool = False,
) -> str:
    """The digest of what COPY with these words reads: names, kinds, modes, content and extended attributes; no times,
    and owners only where they are copied. ``is_path``: the words are paths, not patterns. Raises PathNotFound,
    UsageError."""
    hasher = hashlib.sha256()
    without = excluding(exclude)
    for word in words:
        hasher.update(b"\nword\n")
        for match in matches(tree, word, parents=parents, is_path=is_path):
            hasher.update(b"match %s\0" % match.name)
            if tree.kind(match.node) != Kind.DIRECTORY:
                hasher.update(tree.described(match.node))
                continue
            hasher.update(b"/")
            batch: list[bytes] = []
            for depth, name, node, implied in picked(tree, match.node, match.include, without):
                batch.append(b"%d%c%b\0%b" % (depth, b"i" if implied else b"e", name, tree.described(node)))
                if len(batch) > 1024:
                    hasher.update(b"".join(batch))
                    batch.clear()
            hasher.update(b"".join(batch))
    return f"sha256:{hasher.hexdigest()}"


def _with_parents(tree: FileTree[Any], word: str) -> list[Match]:
    """``--parents``: the path from ``/./`` on (or all of it) is kept in the target."""
    above, pivot, pattern = word.partition(_PIVOT)
    if not pivot:
        above, pattern = "", word
    pattern = globs.clean("/" + pattern).lstrip("/")
    include = Patterns([pattern]) if pattern else None
    found = [Match(match.node, b"", include) for match in matches(tree, above)]
    if not globs.has_wildcards(above) and not globs.has_wildcards(pattern):
        for match in found:
            if next(picked(tree, match.node, include), None) is None and include is not None:
                raise missing(tree, os.fsencode(globs.clean(f"/{above}/{pattern}")))
    for match in found:
        if tree.kind(match.node) != Kind.DIRECTORY:
            raise UsageError(
                f"{above!r:.200} before /./ is not a directory", hint="write a directory there, or leave it out"
            )
    return found


def _walked(tree: FileTree[Any], top: Any, pattern: str) -> Iterator[bytes]:
    """The paths below ``top`` that match, sorted; what is in a directory that matches is not tried."""
    whole = globs.Glob(pattern)
    if whole.parts is None:
        yield from _tried(tree, top, b"", whole)
        return
    parts = [globs.Glob(part) if globs.has_wildcards(part) or "\\" in part else part for part in pattern.split("/")]
    yield from _by_part(tree, top, b"", parts)


def _by_part(tree: FileTree[Any], node: Any, above: bytes, parts: Sequence[globs.Glob | str]) -> Iterator[bytes]:
    first, *rest = parts
    below: Iterable[tuple[bytes, Any]]
    if isinstance(first, str):
        child = tree.child(node, os.fsencode(first))
        below = [] if child is None else [(os.fsencode(first), child)]
    else:
        below = [one for one in tree.children(node) if first.matches(os.fsdecode(one[0]))]
    for name, child in below:
        path = above + name
        if not rest:
            yield path
        elif tree.kind(child) == Kind.DIRECTORY:
            yield from _by_part(tree, child, path + b"/", rest)


def _tried(tree: FileTree[Any], node: Any, above: bytes, pattern: globs.Glob) -> Iterator[bytes]:
    for name, child in tree.children(node):
        path = above + name
        if pattern.matches(os.fsdecode(path)):
            yield path
        elif tree.kind(child) == Kind.DIRECTORY:
            yield from _tried(tree, child, path + b"/", pattern)
