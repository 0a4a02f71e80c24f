"""Listing the store."""

from __future__ import annotations

from collections.abc import Iterator

from lamina.light import TYPE_CHECKING
from lamina.spec.descriptor import Descriptor

if TYPE_CHECKING:
    from lamina.store.refs import Refs


class StoreLister:
    """``Lister`` of the store."""

    refs: Refs

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        return self.refs.names()
