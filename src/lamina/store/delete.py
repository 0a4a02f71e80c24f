"""Removing names from the store, and documents together with their names. gc removes what nothing needs any more."""

from __future__ import annotations

from lamina.errors import BlobNotFound
from lamina.light import TYPE_CHECKING
from lamina.spec.descriptor import Descriptor

if TYPE_CHECKING:
    from lamina.store.refs import Entries, Refs


class StoreDeleter:
    """``Deleter`` of the store."""

    def __init__(self, refs: Refs) -> None:
        self._refs = refs

    def untag(self, name: str) -> Descriptor:
        descriptor = self._refs.get(name)
        self._refs.unset([name], keep_untagged=True)
        return descriptor

    def delete(self, descriptor: Descriptor) -> None:
        def change(entries: Entries) -> Entries:
            kept = [entry for entry in entries if entry.digest != descriptor.digest]
            if len(kept) == len(entries):
                raise BlobNotFound(f"no image {descriptor.digest} in the store", hint="see `lamina images`")
            return kept

        self._refs.update(change)
