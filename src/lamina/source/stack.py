"""An image, or a range of its layers, ready to be looked into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from lamina.errors import (
    UsageError,
)
from lamina.light import TYPE_CHECKING, Value, field, replace
from lamina.spec.digest import Digest
from lamina.spec.image_config import History, ImageConfig, chain_ids
from lamina.spec.manifest import Manifest

if TYPE_CHECKING:
    from lamina.source.protocols import LayerHandle, Stream
    from lamina.union.stacked import Stacked
    from lamina.union.tree import Stored, Tree, Union


class Stack(Value):
    """An image, or a range of its layers, ready to be looked into: what ``view``, ``edit`` and ``insight`` take.

    ``layers`` are bottom first; ``first`` is the number (from 1) that ``layers[0]`` has in the whole image;
    ``steps`` holds, for each layer, the build step that made it where the history says so.
    """

    name: str
    manifest: Manifest
    config: ImageConfig
    layers: tuple[LayerHandle, ...]
    steps: tuple[History | None, ...] = ()
    first: int = 1
    look: Callable[[Stack], Union] | None = None
    """A shorter way to ``union``, where there is one."""
    kept: Callable[[Stack], Union | None] | None = None
    """What was merged and written down before, if it was: nothing is merged for it."""
    again: tuple[Callable[..., Stack], tuple[object, ...]] | None = field(
        default_factory=lambda: None, repr=False, compare=False
    )
    """How another process opens the whole image, as a function and its arguments."""
    _cache: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[..., Stack], tuple[object, ...]]:
        """Pickled by where it is: layers hold open files. Raises TypeError where nothing says where that is."""
        if self.again is None:
            raise TypeError(f"the image {self.name} can't be pickled: it was not opened by a name")
        return _opened_again, (*self.again, self.first, len(self.layers))

    def __copy__(self) -> Stack:
        return self

    def __deepcopy__(self, memo: object) -> Stack:
        return self

    @cached_property
    def diff_ids(self) -> tuple[Digest, ...]:
        return tuple(layer.diff_id for layer in self.layers)

    @cached_property
    def chain_ids(self) -> tuple[Digest, ...]:
        """image-spec config.md, "Layer ChainID"; of these layers alone where the stack is a range."""
        return chain_ids(self.diff_ids)

    def slice(self, low: int, high: int | None) -> Stack:
        """Layers ``low`` to ``high``, both counted from 1 at the bottom. Raises UsageError out of range."""
        top = self.first + len(self.layers) - 1
        high = top if high is None else high
        if high > top or low < self.first or low > high + 1:
            raise UsageError(
                f"{self.name} has layers {self.first} to {top}, not {low} to {high}",
                hint="layers are counted from 1 at the bottom; see `lamina layers`",
            )
        cut = slice(low - self.first, high - self.first + 1)
        return replace(self, layers=self.layers[cut], steps=self.steps[cut], first=low, _cache={})

    def tree(self) -> Tree:
        """The union of the layers, merged on first need."""
        tree = self.merged()
        if tree is None:
            from lamina.union.merge import merge

            tree = merge([layer.index() for layer in self.layers])
            self.remember(tree)
        return tree

    def merged(self) -> Tree | None:
        """The union, where it was merged already."""
        return self._cache.get("tree")  # type: ignore[return-value]

    def remember(self, tree: Tree) -> None:
        """``tree`` is the union of just these layers: nobody has to merge them again."""
        self._cache["tree"] = tree

    def union(self) -> Union:
        """The union for a few questions: merged, unless ``look`` has it without."""
        found = self._known()
        if found is None:
            found = self._cache["union"] = self.look(self) if self.look else self.tree()
        return found

    def _known(self) -> Union | None:
        found = self._cache.get("tree")
        return self._cache.get("union") if found is None else found  # type: ignore[return-value]

    def glance(self, paths: Iterable[bytes]) -> Tree:
        """The union as far as it concerns these literal paths, without merging the rest; the whole one where it was
        merged already. Raises InvalidLayer."""
        if "tree" in self._cache:
            return self.tree()
        from lamina.union.partial import Glance

        return Glance().tree([layer.index() for layer in self.layers], paths)

    def lookup(self, path: bytes, *, follow: bool = False) -> tuple[Union, int]:
        """``path`` looked up (``Union.lookup``): in what is merged or kept, else in as little of the layers as that
        takes. Raises PathNotFound, InvalidLayer."""
        union = self._ready()
        if union is not None:
            return union, union.lookup(path, follow=follow)
        from lamina.union.partial import Glance

        return Glance().lookup([layer.index() for layer in self.layers], path, follow=follow)

    def listing(
        self, path: bytes, *, follow: bool = True, into: bool = True, links: bool = True
    ) -> tuple[Union, int]:
        """As ``lookup``; with ``into``, of a directory also what stands in it, and with ``links`` how many names each
        file has. Raises PathNotFound, InvalidLayer."""
        union = self._ready()
        if union is not None:
            return union, union.lookup(path, follow=follow)
        from lamina.union.partial import Glance

        indexes = [layer.index() for layer in self.layers]
        return Glance().listing(indexes, path, follow=follow, into=into, links=links)

    def _ready(self) -> Union | None:
        """The whole union where it is merged or kept, or where so many questions have come that it is the shorter
        way."""
        union = self._known()
        if union is None and self.kept is not None:
            union = self._cache["union"] = self.kept(self)
        if union is None:
            asked: int = self._cache.get("asked", 0) + 1  # type: ignore[operator]
            self._cache["asked"] = asked
            if asked > MANY_QUESTIONS:
                union = self.union()
        return union

    def stacked(self) -> list[Stacked]:
        """The layers' own trees in overlay's form, made on first need. Raises Unsupported (``union.stacked``)."""
        found = self._cache.get("stacked")
        if found is None:
            from lamina.union.stacked import stacked

            found = self._cache["stacked"] = stacked([layer.index() for layer in self.layers])
        return found  # type: ignore[return-value]

    def open_file(self, node: int) -> Stream:
        """The content of the union's regular file ``node``. Sparse members are given whole, holes as zeros."""
        return self.open_stored(self.tree().stored(node))

    def open_content(self, layer: int, row: int) -> Stream:
        """As ``open_file``, of the entry in ``row`` of layer ``layer`` (from 0)."""
        from lamina.layer.file_content import open_content

        return open_content(self.layers[layer].index(), row, self.layers[layer].open)

    def open_stored(self, stored: Stored) -> Stream:
        """As ``open_file``, of what ``Union.stored`` says."""
        from lamina.layer.file_content import Content

        return Content(stored.size, stored.offset, stored.sparse, self.layers[stored.layer].open)


def _opened_again(open_again: Callable[..., Stack], given: tuple[object, ...], first: int, count: int) -> Stack:
    whole = open_again(*given)
    return whole if (first, count) == (1, len(whole.layers)) else whole.slice(first, first + count - 1)


MANY_QUESTIONS = 100
"""Lookups in one stack from which on it is merged: a merge costs as much as some 200 (node, 46,204 entries)."""
