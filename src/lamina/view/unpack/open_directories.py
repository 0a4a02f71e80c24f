"""Directories of a tree that is being written, as descriptors: opened name by name, without following symlinks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from lamina.union.tree import Tree

DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_MOST = 200  # descriptors at once: a tree may be deeper than the limit of open files


class OpenDirectories:
    """A cache of directory descriptors below ``top``, by node. It keeps the last one and its parents open."""

    def __init__(self, tree: Tree, top: bytes) -> None:
        """Open ``top``. Raises OSError."""
        self._parents = tree.parents
        self._names = tree.names
        self._nodes = [0]
        self._descriptors = [os.open(top, DIRECTORY)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def at(self, node: int) -> int:
        """Return the descriptor of the directory ``node``; it is valid until the next call. Raises OSError."""
        nodes, descriptors = self._nodes, self._descriptors
        if nodes[-1] == node:
            return descriptors[-1]
        missing = []
        while node not in nodes:
            missing.append(node)
            node = self._parents[node]
        while nodes[-1] != node:
            nodes.pop()
            os.close(descriptors.pop())
        for node in reversed(missing):
            if len(nodes) >= _MOST:
                del nodes[1]
                os.close(descriptors.pop(1))
            descriptors.append(os.open(self._names[node], DIRECTORY, dir_fd=descriptors[-1]))
            nodes.append(node)
        return descriptors[-1]
