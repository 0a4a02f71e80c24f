"""The store as one object: a bundle without logic of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cached_property

from lamina.config import KEEP, MAX_LAYER
from lamina.light import TYPE_CHECKING
from lamina.store.blobs import Blobs
from lamina.store.delete import StoreDeleter
from lamina.store.layers import Layers
from lamina.store.list import StoreLister
from lamina.store.paths import Paths, open_frame
from lamina.store.read import StoreReader
from lamina.store.refs import Refs
from lamina.store.roots import Roots
from lamina.store.write import StoreWriter

if TYPE_CHECKING:
    from lamina.spec.platform import Platform
    from lamina.store.containers import Containers
    from lamina.store.find import Search
    from lamina.store.uploads import Uploads


class Store(StoreReader, StoreWriter, StoreDeleter, StoreLister):
    """Reader, Writer, Deleter and Lister over ``blobs``, ``refs``, ``layers``, ``roots`` and
    ``containers``."""

    def __init__(self, paths: Paths, *, max_layer: int = MAX_LAYER, keep: str = KEEP) -> None:
        self.paths = paths
        self.max_layer = max_layer
        self.keep = keep
        self.location = f"the store {paths.root}"
        self.blobs = Blobs(paths)
        self.refs = Refs(paths)
        self.layers = Layers(paths, max_layer, keep)
        self.roots = Roots(paths)
        self._session = None
        self._guard = threading.Lock()

    @cached_property
    def containers(self) -> Containers:
        """The containers, running or not."""
        from lamina.store.containers import Containers

        return Containers(self.paths)

    @cached_property
    def uploads(self) -> Uploads:
        """The upload sessions of pushes."""
        from lamina.store.uploads import Uploads

        return Uploads(self.paths)

    def find(
        self,
        pattern: str | None = None,
        *,
        images: Sequence[str] = (),
        platform: Platform | None = None,
        regex: bool = False,
        digest: str = "",
        type: str = "",
        size: str = "",
        perm: str = "",
        owner: str = "",
        ghosts: bool = False,
    ) -> Search:
        """Files of all images, or of ``images``, by name, attributes or content, in the words of the command:
        ``for one in store.find("*.pem", perm="/077", ghosts=True)``. It iterates over ``Found`` values: an entry of a
        layer, and each ``Place`` where an image has it. Raises UsageError, Unsupported (as ``store.find.Query.of``),
        ReferenceNotFound (a name of ``images``), StoreDamaged, SystemFailure."""
        from lamina.spec.platform import Platform
        from lamina.store.find import Query, find

        query = Query.of(
            pattern, regex=regex, digest=digest, type=type, size=size, perm=perm, owner=owner, ghosts=ghosts
        )
        return find(self, query, platform or Platform.host(), images)

    @classmethod
    def open(cls, root: str, *, create: bool = True, max_layer: int = MAX_LAYER, keep: str = KEEP) -> Store:
        """The store at ``root``, made there if ``create``; ``keep``: what stays of layers that come in
        (``config.KEEPS``). Raises NotFound, Unsupported (another format), StoreDamaged, SystemFailure."""
        return cls(open_frame(os.path.abspath(root), create=create), max_layer=max_layer, keep=keep)
