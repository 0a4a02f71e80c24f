"""One side of a comparison: an image, a range of its layers, a container, or a directory of this host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from lamina.errors import Unsupported
from lamina.layer.file_content import SMALL, Content, ReadAhead, open_content
from lamina.source.stack import Stack
from lamina.union.merge import merge, merge_both
from lamina.union.tree import Tree

if TYPE_CHECKING:
    from lamina.layer.index import LayerIndex
    from lamina.source.protocols import Stream
    from lamina.spec.digest import Digest
    from lamina.spec.image_config import ImageConfig


class SideLayer(Protocol):
    """The parts of a layer that a comparison needs. Layers with the same ``diff_id`` have the same bytes."""

    @property
    def diff_id(self) -> Digest: ...

    def index(self) -> LayerIndex: ...

    def open(self, start: int = 0, end: int | None = None) -> Stream: ...


class Side:
    """One side. ``kind`` is "image", "container" or "directory". ``config`` and ``digest`` (of the manifest) are None
    if there is none. ``first`` is the number of ``layers[0]``, from 1."""

    def __init__(
        self,
        name: str,
        layers: Sequence[SideLayer],
        *,
        kind: str = "image",
        config: ImageConfig | None = None,
        digest: Digest | None = None,
        first: int = 1,
        stack: Stack | None = None,
    ) -> None:
        self.name = name
        self.layers = tuple(layers)
        self.kind = kind
        self.config = config
        self.digest = digest
        self.first = first
        self._stack = stack
        """The stack of an image's layers, which knows whether they were merged before."""
        self._tree: Tree | None = None
        self._ahead: dict[int, ReadAhead] = {}

    @classmethod
    def of(cls, stack: Stack) -> Side:
        """Make a side from an image or a range of its layers."""
        return cls(
            stack.name,
            stack.layers,
            config=stack.config,
            digest=stack.manifest.descriptor.digest,
            first=stack.first,
            stack=stack,
        )

    def __reduce__(self) -> tuple[Callable[..., Side], tuple[object, ...]]:
        """Pickle the side. An image is opened again by its name; of a container or a directory only the description
        is pickled."""
        if self._stack is not None and self._stack.reopened_by is not None:
            return Side.of, (self._stack,)
        return PickledSide, (self.name, self.kind, self.config, self.digest, self.first, self.depth)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.layers)

    def layer_of(self, node: int) -> int | None:
        """Return the number of the layer that states the node; None if no layer does, or for -1."""
        origin = None if node < 0 else self.tree.origin(node)
        return None if origin is None else self.first + origin[0]

    @property
    def tree(self) -> Tree:
        """The union of the layers, merged on the first access."""
        if self._tree is None:
            self._tree = self._stack.tree() if self._stack else merge([layer.index() for layer in self.layers])
        return self._tree

    def _is_merged(self) -> bool:
        return self._tree is not None or (self._stack is not None and self._stack.merged() is not None)

    def _remember(self, tree: Tree) -> None:
        self._tree = tree
        if self._stack is not None:
            self._stack.remember(tree)

    def merge_with(self, other: Side) -> None:
        """Merge both sides, and common lowest layers only once. Does nothing if one side was merged before; the other
        is then merged when needed. Raises InvalidLayer, LimitExceeded."""
        shared = 0
        for layer, twin in zip(self.layers, other.layers, strict=False):
            if layer.diff_id != twin.diff_id:
                break
            shared += 1
        if shared and not (self._is_merged() or other._is_merged()):
            ours, theirs = ([layer.index() for layer in side.layers] for side in (self, other))
            one, another = merge_both(ours, theirs, shared)
            self._remember(one)
            other._remember(another)

    def size(self, node: int) -> int:
        """Return the size of the regular file ``node`` in bytes."""
        layer, row = self.tree.content(node)
        size: int = self.tree.layers[layer].size[row]
        return size

    def open(self, node: int) -> Content:
        """Open the content of the regular file ``node``, visible or hidden."""
        layer, row = self.tree.content(node)
        return open_content(self.layers[layer].index(), row, self.layers[layer].open)

    def read(self, node: int, limit: int = SMALL) -> bytes:
        """Read at most the first ``limit`` bytes of the regular file ``node``. Cheap for many small files in archive
        order. Raises InvalidContent, SystemFailure."""
        layer, row = self.tree.content(node)
        index = self.layers[layer].index()
        size = min(index.size[row], limit)
        if 0 < size <= SMALL and index.sparse(row) is None:
            if layer not in self._ahead:
                self._ahead[layer] = ReadAhead(index.tar_size, self.layers[layer].open)
            data = self._ahead[layer].read(index.offset[row], size)
            if len(data) == size:
                return data
        with self.open(node) as stream:
            return stream.read(size)


class PickledSide(Side):
    """A side that was unpickled: its description without its files."""

    def __init__(
        self,
        name: str,
        kind: str,
        config: ImageConfig | None,
        digest: Digest | None,
        first: int,
        depth: int,
    ) -> None:
        super().__init__(name, (), kind=kind, config=config, digest=digest, first=first)
        self._depth = depth

    @property
    def depth(self) -> int:
        return self._depth

    def layer_of(self, node: int) -> int | None:
        return None

    @property
    def tree(self) -> Tree:
        raise self._absent()

    def open(self, node: int) -> Content:
        raise self._absent()

    def _absent(self) -> Unsupported:
        return Unsupported(
            f"the files of the {self.kind} {self.name} were not pickled with the difference",
            hint="read texts and layers in the process that made the difference",
        )
