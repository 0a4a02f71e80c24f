"""The store as one object, composed of its parts; it has no logic of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property

from lamina.light import TYPE_CHECKING
from lamina.settings import KEEP, MAX_LAYER
from lamina.store.blobs import Blobs
from lamina.store.layers import Layers
from lamina.store.paths import Paths, open_root
from lamina.store.read import StoreReader
from lamina.store.refs import Refs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Unpack

    from lamina.settings import Settings
    from lamina.source.accepts import Accepts
    from lamina.source.protocols import Blob, Deleter, Session, Writer
    from lamina.source.search import Search, Words
    from lamina.source.served import Repositories, Served, WritableRepositories
    from lamina.source.stack import Stack
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest
    from lamina.spec.platform import Platform
    from lamina.store.containers import Containers
    from lamina.store.push_journal import PushJournal
    from lamina.store.roots import Roots
    from lamina.store.serving_rules import ServingRules
    from lamina.store.session import StoreSession
    from lamina.store.tags import Tags
    from lamina.store.volumes import Volumes

    def _fits(store: Store, session: StoreSession) -> tuple[Served, Writer, Deleter, Session]:
        """Let the type checker verify what the store implements."""
        return store, store, store, session


class Store:
    """``Reader``, ``Writer``, ``Deleter`` and ``Lister``: each call is passed to the part that does the work."""

    def __init__(self, paths: Paths, *, max_layer: int = MAX_LAYER, keep: str = KEEP, view: str = "") -> None:
        self.paths = paths
        self.max_layer = max_layer
        self.keep = keep
        self.view = view
        self.blobs = Blobs(paths)
        self.refs = Refs(paths)
        self.layers = Layers(paths, max_layer, keep, view)
        self.reader = StoreReader(paths, self.blobs, self.refs, self.layers)
        self.location = self.reader.location
        self.serving_rules: ServingRules | None = None
        """The rules of a server of this store; None for the defaults."""

    @property
    def is_writable(self) -> bool:
        """Whether this process may write to the store, and its file system is writable."""
        return os.access(self.paths.root, os.W_OK)

    @cached_property
    def accepts(self) -> Accepts:
        """As ``Writer.accepts``."""
        from lamina.source.accepts import Accepts

        return Accepts()

    @cached_property
    def roots(self) -> Roots:
        """What running processes need, and pins."""
        from lamina.store.roots import Roots

        return Roots(self.paths)

    @cached_property
    def tags(self) -> Tags:
        """Reads and changes the names."""
        from lamina.store.tags import Tags

        return Tags(self.refs, self.blobs, self.layers)

    @cached_property
    def containers(self) -> Containers:
        """The containers, running or not."""
        from lamina.store.containers import Containers

        return Containers(self.paths)

    @cached_property
    def volumes(self) -> Volumes:
        """The volumes of containers."""
        from lamina.store.volumes import Volumes

        return Volumes(self.paths)

    @cached_property
    def push_journal(self) -> PushJournal:
        """The upload sessions of pushes from this store."""
        from lamina.store.push_journal import PushJournal

        return PushJournal(self.paths)

    def resolve(self, name: str) -> Descriptor:
        """As ``StoreReader.resolve``."""
        return self.reader.resolve(name)

    def manifest(self, descriptor: Descriptor) -> bytes:
        """As ``Reader.manifest``."""
        return self.reader.manifest(descriptor)

    def blob(self, descriptor: Descriptor) -> Blob:
        """As ``Reader.blob``."""
        return self.reader.blob(descriptor)

    def tar(self, layer: Descriptor, diff_id: Digest) -> Blob | None:
        """As ``TarReader.tar``."""
        return self.reader.tar(layer, diff_id)

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """As ``Referrers.referrers``."""
        return self.reader.referrers(subject)

    def stack(self, name: str, platform: Platform) -> Stack:
        """As ``StoreReader.stack``."""
        return self.reader.stack(name, platform)

    def stack_at(self, descriptor: Descriptor, platform: Platform, name: str) -> Stack:
        """As ``StoreReader.stack_at``."""
        return self.reader.stack_at(descriptor, platform, name)

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        """As ``Lister.names``."""
        return self.refs.names()

    def session(self, purpose: str) -> AbstractContextManager[StoreSession]:
        """As ``Writer.session``. A process may have several sessions at once."""
        from lamina.store.session import Parts, open_session

        parts = Parts(self.paths, self.refs, self.layers, self.roots, self.max_layer, self.keep, self.view)
        return open_session(parts, purpose)

    def repositories(self) -> AbstractContextManager[WritableRepositories]:
        """As ``Served.repositories``, by the rules that ``serving_rules`` has."""
        from lamina.store.leftovers import SERVING
        from lamina.store.serving import serving
        from lamina.store.serving_rules import ServingRules

        return serving(self.reader, self.serving_rules or ServingRules(), self.session(SERVING))

    def reading(self) -> Repositories:
        """As ``Indexed.reading``."""
        from lamina.store.repositories import StoreRepositories
        from lamina.store.serving_rules import ServingRules

        return StoreRepositories(self.reader, self.serving_rules or ServingRules())

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """As ``Tags.give``. A name for a document that is already here needs no session."""
        self.tags.give(name, descriptor)

    def untag(self, name: str) -> Descriptor:
        """As ``Deleter.untag``."""
        return self.tags.untag(name)

    def delete(self, descriptor: Descriptor) -> None:
        """As ``Deleter.delete``."""
        self.tags.delete(descriptor)

    def find(
        self,
        pattern: str | None = None,
        *,
        images: Sequence[str] = (),
        platform: Platform | None = None,
        **words: Unpack[Words],
    ) -> Search:
        """Find files in all images, or in ``images``, by name, attributes or content: ``for one in
        store.find("*.pem", perm="/077", ghosts=True)``. Yields ``Found`` values: an entry of a layer, and each
        ``Occurrence`` where an image has it. ``words``: see ``source.search.Words``; they are the options of the
        command. Raises what ``Query.of`` and ``store.find.find`` raise."""
        from lamina.source.search import Query
        from lamina.spec.platform import Platform
        from lamina.store.find import find

        return find(self.reader, Query.of(pattern, **words), platform or Platform.host(), images)

    @classmethod
    def of(cls, settings: Settings, *, create: bool = True) -> Store:
        """The store that the settings name. Raises what ``open`` raises."""
        return cls.open(
            settings.root, create=create, max_layer=settings.max_layer, keep=settings.keep, view=settings.view
        )

    @classmethod
    def open(
        cls, root: str, *, create: bool = True, max_layer: int = MAX_LAYER, keep: str = KEEP, view: str = ""
    ) -> Store:
        """Open the store at ``root``; make it if ``create``. ``keep``: what is kept of new layers (``config.KEEPS``).
        ``view``: how unions are mounted (``config.VIEWS``), "" for the first that works. Raises NotFound, Unsupported
        (another format), StoreDamaged, SystemFailure."""
        return cls(open_root(os.path.abspath(root), create=create), max_layer=max_layer, keep=keep, view=view)
