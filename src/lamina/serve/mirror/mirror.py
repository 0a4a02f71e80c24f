"""A mirror as one object: its registries, its directory, and what runs while the server does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from lamina.serve.mirror.cache import Cache
from lamina.serve.mirror.fetch import MOST, Fetches
from lamina.serve.mirror.repositories import MirroredRepositories
from lamina.serve.mirror.sweep import Sweeper
from lamina.serve.mirror.upstream import Upstream, Upstreams
from lamina.serve.mirror.writable import WritableMirroredRepositories

if TYPE_CHECKING:
    from lamina.remote.client import Access
    from lamina.source.served import Repositories, WritableRepositories

TTL = 300.0
"""Seconds in which a tag is not asked for again."""


class Mirror:
    """A context manager, which lasts as long as the server. Use it in the process that serves: it has threads."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        directory: str,
        access: Access,
        *,
        insecure: Callable[[str], bool] = lambda host: False,
        ttl: float = TTL,
        size: int | None = None,
        age: float | None = None,
        fetches: int = MOST,
    ) -> None:
        """``directory``: where what was fetched is kept. ``access``, ``insecure``: as ``Upstreams``. ``ttl``: as
        ``MirroredRepositories``. ``size`` (bytes), ``age`` (seconds): as ``Sweeper``. ``fetches``: blobs
        that are fetched from a registry at once. Raises SystemFailure."""
        self._upstreams = Upstreams(upstreams, access, insecure)
        self._cache = Cache(directory)
        self._sweeper = Sweeper(self._cache, size=size, age=age)
        self._fetches = Fetches(self._cache, self._sweeper, fetches)
        self._ttl = ttl

    @property
    def hosts(self) -> list[str]:
        """The registries that are mirrored."""
        return self._upstreams.hosts

    def over(self, place: Repositories) -> MirroredRepositories:
        """The repositories of a place with those of the mirrored registries."""
        return MirroredRepositories(place, self._upstreams, self._cache, self._fetches, self._ttl)

    def over_writable(self, place: WritableRepositories) -> WritableMirroredRepositories:
        """The same for a place that clients write to."""
        return WritableMirroredRepositories(place, self._upstreams, self._cache, self._fetches, self._ttl)

    def __enter__(self) -> Self:
        self._sweeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._fetches.close()
        self._sweeper.close()
        self._upstreams.close()
