"""One side of a comparison: an image, a range of its layers, a container, or a directory of this machine."""

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
        stack: Stack | None = None,
    ) -> None:
        self.name = name
        self.layers = tuple(layers)
        self.kind = kind
        self.config = config
        self.digest = digest
        self.first = first
        self._stack = stack
        """What the layers are, where they are an image's: it knows whether they were merged before."""
        self._tree: Tree | None = None
        self._ahead: dict[int, ReadAhead] = {}

    @classmethod
    def of(cls, stack: Stack) -> Side:
        """An image, or a range of its layers."""
        return cls(
            stack.name,
            stack.layers,
            config=stack.config,
            digest=stack.manifest.descriptor.digest,
            first=stack.first,
            stack=stack,
        )

    def __reduce__(self) -> tuple[Callable[..., Side], tuple[object, ...]]:
        """An image is opened again where it is; of a container or a directory only the description is pickled."""
        if self._stack is not None and self._stack.again is not None:
            return Side.of, (self._stack,)
        return ToldSide, (self.name, self.kind, self.config, self.digest, self.first, self.depth)

    @property
    def depth(self) -> int:
        """How many layers."""
        return len(self.layers)

    def layer_of(self, node: int) -> int | None:
        """The number of the layer that states the node; None for what no layer states, or is not there (-1)."""
        origin = None if node < 0 else self.tree.origin(node)
        return None if origin is None else self.first + origin[0]

    @property
    def tree(self) -> Tree:
        """The union of the layers, merged on first need."""
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
        """Merge both sides; what they have alike at the bottom only once, and nothing where one was merged before
        (then the other is, when it is asked). Raises InvalidLayer, LimitExceeded."""
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
        """Bytes of the regular file ``node``."""
        layer, row = self.tree.content(node)
        size: int = self.tree.layers[layer].size[row]
        return size

    def open(self, node: int) -> Content:
        """The content of the regular file ``node``, seen or hidden."""
        layer, row = self.tree.content(node)
        return open_content(self.layers[layer].index(), row, self.layers[layer].open)

    def read(self, node: int, limit: int = SMALL) -> bytes:
        """The content of the regular file ``node``, at most the first ``limit`` bytes. Cheap for many small files in
        the order of their archive. Raises InvalidContent, SystemFailure."""
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


class ToldSide(Side):
    """A side that was pickled: what it was called, but not its files."""

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
            hint="ask for texts and layers where it was made",
        )
