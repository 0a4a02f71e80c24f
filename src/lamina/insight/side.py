"""One side of a comparison: an image, a range of its layers, a container, or a directory of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lamina.layer.content import Content, open_content
from lamina.source import Stack, Stream
from lamina.union.merge import merge
from lamina.union.tree import Tree

if TYPE_CHECKING:
    from lamina.layer.index import LayerIndex
    from lamina.spec.digest import Digest
    from lamina.spec.image_config import ImageConfig


class SideLayer(Protocol):
    """What is needed of a layer. Two layers of one ``diff_id`` hold the same bytes."""

    @property
    def diff_id(self) -> Digest: ...

    def index(self) -> LayerIndex: ...

    def open(self, start: int = 0, end: int | None = None) -> Stream: ...


class Side:
    """``kind`` is "image", "container" or "directory"; ``config`` and ``digest`` (the manifest's) are None where
    there is none; ``first`` is the number (from 1) of ``layers[0]``."""

    def __init__(
        self,
        name: str,
        layers: Sequence[SideLayer],
        *,
        kind: str = "image",
        config: ImageConfig | None = None,
        digest: Digest | None = None,
        first: int = 1,
        tree: Tree | None = None,
    ) -> None:
        self.name = name
        self.layers = tuple(layers)
        self.kind = kind
        self.config = config
        self.digest = digest
        self.first = first
        self._tree = tree

    @classmethod
    def of(cls, stack: Stack) -> Side:
        """An image, or a range of its layers."""
        return cls(
            stack.name,
            stack.layers,
            config=stack.config,
            digest=stack.manifest.descriptor.digest,
            first=stack.first,
            tree=stack.tree(),
        )

    @property
    def tree(self) -> Tree:
        """The union of the layers, merged on first need."""
        if self._tree is None:
            self._tree = merge([layer.index() for layer in self.layers])
        return self._tree

    def open(self, node: int) -> Content:
        """The content of the regular file ``node``, seen or hidden."""
        layer, row = self.tree.content(node)
        return open_content(self.layers[layer].index(), row, self.layers[layer].open)
