"""Changing the names of the store: give, compare and swap, forget, remove. gc deletes what nothing names any more."""

from __future__ import annotations

from collections.abc import Iterator

from lamina.errors import BlobNotFound
from lamina.light import TYPE_CHECKING
from lamina.store.completeness import fetched_children
from lamina.store.name_table import name_of
from lamina.store.refs import Refs, name_for

if TYPE_CHECKING:
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest
    from lamina.store.blobs import Blobs
    from lamina.store.layers import Layers
    from lamina.store.name_table import Change, NameTable


class Tags:
    """Changes of names; ``Deleter`` of the store."""

    def __init__(self, refs: Refs, blobs: Blobs, layers: Layers) -> None:
        self._refs = refs
        self._blobs = blobs
        self._layers = layers

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        """As ``Lister.names``."""
        return self._refs.names()

    def give(self, name: str, descriptor: Descriptor) -> None:
        """Make ``name``, in any form that docker accepts ("" for none), point to a document that is here. Raises
        UsageError, Conflict (the name contains another digest), BlobNotFound."""
        self._refs.set(name_for(name, descriptor), descriptor, self._fetched)

    def swap(self, name: str, old: Digest | None, new: Descriptor | None) -> bool:
        """Compare and swap: if the canonical ``name`` points to ``old`` (None: does not exist), make it point to
        ``new`` (None: remove the name; the document stays). Returns False if it points to something else. Raises what
        ``give`` raises."""
        full = name_for(name, new) if new is not None else name
        return self._refs.swap(full, old, new, self._fetched)

    def forget(self, names: list[str], digest: Digest) -> None:
        """Remove these names of a document, and the document too if it has no other name."""
        self._refs.unset(names, keep_untagged=False, untagged=digest)

    def untag(self, name: str) -> Descriptor:
        """As ``Deleter.untag``."""
        descriptor = self._refs.get(name)
        self._refs.unset([name], keep_untagged=True)
        return descriptor

    def delete(self, descriptor: Descriptor) -> None:
        """As ``Deleter.delete``."""

        def change(table: NameTable) -> Change:
            names = [name_of(entry) for entry in table.of(descriptor.digest)]
            if not names:
                raise BlobNotFound(f"no image {descriptor.digest} in the store", hint="see `lamina images`")
            return table.removing(names, keep_untagged=False, untagged=descriptor.digest)

        self._refs.change(change)

    def _fetched(self, top: Descriptor, known: frozenset[str]) -> str:
        return fetched_children(top, known, self._blobs, self._layers)
