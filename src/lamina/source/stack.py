"""An image, or a range of its layers, ready for reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from lamina.errors import PathNotFound, UsageError
from lamina.light import TYPE_CHECKING, Value, field, replace
from lamina.spec.digest import Digest
from lamina.spec.image_config import History, ImageConfig, chain_ids
from lamina.spec.manifest import Manifest

if TYPE_CHECKING:
    from lamina.source.protocols import LayerHandle, Stream
    from lamina.union.stacked import Stacked
    from lamina.union.tree import Stored, Tree, Union


class Stack(Value):
    """An image, or a range of its layers, ready for reading: the input of ``view``, ``edit`` and ``insight``.

    ``layers`` are listed bottom first. ``first`` is the number of ``layers[0]`` in the whole image, from 1. ``steps``
    holds for each layer the build step that made it, if the history has one.
    """

    name: str
    manifest: Manifest
    config: ImageConfig
    layers: tuple[LayerHandle, ...]
    steps: tuple[History | None, ...] = ()
    first: int = 1
    open_union: Callable[[Stack], Union] | None = None
    """A faster way to ``union``, if there is one."""
    stored_union: Callable[[Stack], Union | None] | None = None
    """Returns the union if an earlier call merged it and stored it; it never merges."""
    reopened_by: tuple[Callable[..., Stack], tuple[object, ...]] | None = field(
        default_factory=lambda: None, repr=False, compare=False
    )
    """How another process opens the whole image: a function and its arguments."""
    _cache: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[..., Stack], tuple[object, ...]]:
        """Pickle the stack by its name, because layers hold open files. Raises TypeError if it was not opened by a
        name."""
        if self.reopened_by is None:
            raise TypeError(f"the image {self.name} can't be pickled: it was not opened by a name")
        return _opened_again, (*self.reopened_by, self.first, len(self.layers))

    def __copy__(self) -> Stack:
        return self

    def __deepcopy__(self, memo: object) -> Stack:
        return self

    @cached_property
    def diff_ids(self) -> tuple[Digest, ...]:
        return tuple(layer.diff_id for layer in self.layers)

    @cached_property
    def chain_ids(self) -> tuple[Digest, ...]:
        """The ChainIDs of these layers (image-spec config.md, "Layer ChainID"); in a range they are computed from its
        lowest layer."""
        return chain_ids(self.diff_ids)

    def slice(self, low: int, high: int | None) -> Stack:
        """Return the layers ``low`` to ``high``, both counted from 1 at the bottom. Raises UsageError if they are out
        of range."""
        top = self.first + len(self.layers) - 1
        high = top if high is None else high
        if high > top or low < self.first or low > high + 1:
            raise UsageError(
                f"{self.name} has layers {self.first} to {top}, not {low} to {high}",
                hint="see `lamina layers`: layers are counted from 1 at the bottom",
            )
        cut = slice(low - self.first, high - self.first + 1)
        return replace(self, layers=self.layers[cut], steps=self.steps[cut], first=low, _cache={})

    def tree(self) -> Tree:
        """Return the union of the layers; it is merged on the first call."""
        tree = self.merged()
        if tree is None:
            from lamina.union.merge import merge

            tree = merge([layer.index() for layer in self.layers])
            self.remember(tree)
        return tree

    def merged(self) -> Tree | None:
        """Return the union if it was merged already, else None."""
        return self._cache.get("tree")  # type: ignore[return-value]

    def remember(self, tree: Tree) -> None:
        """Store ``tree`` as the union of these layers, so that they are not merged again."""
        self._cache["tree"] = tree

    def union(self) -> Union:
        """Return the union for a few lookups: ``open_union`` may provide it without a merge."""
        found = self._known()
        if found is None:
            found = self._cache["union"] = self.open_union(self) if self.open_union else self.tree()
        return found

    def _known(self) -> Union | None:
        found = self._cache.get("tree")
        return self._cache.get("union") if found is None else found  # type: ignore[return-value]

    def partial(self, paths: Iterable[bytes]) -> Tree:
        """Return the union restricted to these literal paths, without merging the rest; the whole
        union if it was merged already. Raises InvalidLayer."""
        if "tree" in self._cache:
            return self.tree()
        from lamina.union.partial import PartialMerge

        return PartialMerge().tree([layer.index() for layer in self.layers], paths)

    def lookup(self, path: bytes, *, follow: bool = False) -> tuple[Union, int]:
        """Look up ``path`` (``Union.lookup``) in the merged or stored union, else in only the parts of the layers
        that matter. Raises PathNotFound, InvalidLayer."""
        union = self._ready()
        if union is not None:
            return union, union.lookup(path, follow=follow)
        from lamina.union.partial import PartialMerge

        return PartialMerge().lookup([layer.index() for layer in self.layers], path, follow=follow)

    def leads_to(self, path: bytes) -> bytes | None:
        """Return the literal path of what ``path`` names in the union: symlinks on the way are followed, one at its
        end is not. None if it names nothing. Raises InvalidLayer."""
        try:
            union, node = self.lookup(path)
        except PathNotFound:
            return None
        return union.path(node)

    def listing(
        self, path: bytes, *, follow: bool = True, into: bool = True, links: bool = True
    ) -> tuple[Union, int]:
        """Look up ``path`` as ``lookup`` does. With ``into``, a directory's entries are included; with ``links``, so
        is the number of hard links of each file. Raises PathNotFound, InvalidLayer."""
        union = self._ready()
        if union is not None:
            return union, union.lookup(path, follow=follow)
        from lamina.union.partial import PartialMerge

        indexes = [layer.index() for layer in self.layers]
        return PartialMerge().listing(indexes, path, follow=follow, into=into, links=links)

    def _ready(self) -> Union | None:
        """Return the whole union if it is merged or stored, or if so many lookups came that a merge is cheaper."""
        union = self._known()
        if union is None and self.stored_union is not None:
            union = self._cache["union"] = self.stored_union(self)
        if union is None:
            asked: int = self._cache.get("asked", 0) + 1  # type: ignore[operator]
            self._cache["asked"] = asked
            if asked > MANY_QUESTIONS:
                union = self.union()
        return union

    def stacked(self) -> list[Stacked]:
        """Return the layers' own trees in the form that overlayfs needs; they are made on the first call. Raises
        Unsupported (``union.stacked``)."""
        found = self._cache.get("stacked")
        if found is None:
            from lamina.union.stacked import stacked

            found = self._cache["stacked"] = stacked([layer.index() for layer in self.layers])
        return found  # type: ignore[return-value]

    def open_file(self, node: int) -> Stream:
        """Open the content of the regular file ``node`` of the union. Holes of a sparse file are read as zeros."""
        return self.open_stored(self.tree().stored(node))

    def open_content(self, layer: int, row: int) -> Stream:
        """Open the content of the entry in ``row`` of layer number ``layer`` (from 0)."""
        from lamina.layer.file_content import open_content

        return open_content(self.layers[layer].index(), row, self.layers[layer].open)

    def open_stored(self, stored: Stored) -> Stream:
        """Open the content of a file described by ``Union.stored``."""
        from lamina.layer.file_content import Content

        return Content(stored.size, stored.offset, stored.sparse, self.layers[stored.layer].open)


def _opened_again(open_again: Callable[..., Stack], given: tuple[object, ...], first: int, count: int) -> Stack:
    whole = open_again(*given)
    return whole if (first, count) == (1, len(whole.layers)) else whole.slice(first, first + count - 1)


MANY_QUESTIONS = 100
"""The number of lookups after which a stack is merged: a merge costs about as much as 200 lookups (node, 46,204
entries)."""
