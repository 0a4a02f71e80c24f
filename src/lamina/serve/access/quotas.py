"""Quotas: how many bytes repositories may hold, with what open uploads to them have received."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.serve.access.rules import Quota
from lamina.serve.names import familiar
from lamina.serve.routes import ApiError
from lamina.text import human_size

if TYPE_CHECKING:
    from lamina.serve.permit import Holdings

LIFE = 10.0
"""Seconds for which a count is believed. What this server takes in meanwhile is added; what another one takes in is
not, so a quota may be exceeded by what arrives elsewhere in this time."""
AGAIN = 1.0
"""Seconds for which a count is believed by which there is no room: much may have been deleted since."""
_MOST = 10_000

Key = Quota | tuple[Quota, str]


@dataclass
class _Count:
    """What a quota covers: the bytes in all, and the bytes that each open upload has of them."""

    held: int
    made: float
    uploads: dict[str, int] = field(default_factory=dict)


class Quotas:
    """Checks quotas by counts that are remembered for a short time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._counts: dict[Key, _Count] = {}
        self._coming: dict[Key, int] = {}
        """Bytes that are being taken in, of which a count may not know yet."""
        self._writing: dict[str, tuple[str, int]] = {}
        """The uploads to which requests write now: their repositories and sizes, of which a count may not know."""

    def check(self, quotas: Sequence[Quota], repository: str, more: int, place: Holdings) -> None:
        """Check that ``more`` bytes fit into every quota of a repository. Raises ApiError (403 DENIED)."""
        for quota in self._of(quotas, repository):
            self._fit(quota, repository, place, lambda _: more)

    @contextmanager
    def room(self, quotas: Sequence[Quota], repository: str, more: int, place: Holdings) -> Iterator[None]:
        """Check the same, and count the bytes: as coming while the block runs, as held if it succeeds. Raises
        ApiError."""
        coming: list[Key] = []
        try:
            for quota in self._of(quotas, repository):
                key = _key(quota, repository)

                def take(_: _Count, key: Key = key) -> None:
                    self._coming[key] = self._coming.get(key, 0) + more

                self._fit(quota, repository, place, lambda _: more, take)
                coming.append(key)
            yield
        except BaseException:
            self._came(coming, more, taken=0)
            raise
        self._came(coming, more, taken=more)

    @contextmanager
    def upload(self, quotas: Sequence[Quota], repository: str, ident: str, place: Holdings) -> Iterator[QuotaUpload]:
        """The upload to which a request writes while the block runs."""
        try:
            yield QuotaUpload(self, self._of(quotas, repository), repository, ident, place)
        finally:
            with self._guard:
                self._writing.pop(ident, None)

    def fit_upload(
        self, quotas: Sequence[Quota], repository: str, ident: str, size: int, place: Holdings, *, take: bool
    ) -> None:
        """Check that an upload of this size fits into the quotas, and with ``take`` count it so. Raises ApiError."""

        def taken(count: _Count) -> None:
            count.held += size - count.uploads.get(ident, 0)
            count.uploads[ident] = size
            self._writing[ident] = repository, size

        for quota in quotas:
            self._fit(
                quota, repository, place, lambda count: size - count.uploads.get(ident, 0), taken if take else None
            )

    def end_upload(self, quotas: Sequence[Quota], repository: str, ident: str, *, held: bool) -> None:
        """An upload is no longer open. ``held``: its bytes are a blob of the repository now."""
        with self._guard:
            self._writing.pop(ident, None)
            for quota in quotas:
                count = self._counts.get(_key(quota, repository))
                size = count.uploads.pop(ident, 0) if count is not None else 0
                if count is not None and not held:
                    count.held -= size

    def _came(self, keys: Sequence[Key], more: int, *, taken: int) -> None:
        """Bytes that were coming are no longer; ``taken`` of them are held."""
        with self._guard:
            for key in keys:
                left = self._coming.pop(key) - more
                if left:
                    self._coming[key] = left
                if key in self._counts:
                    self._counts[key].held += taken

    def _fit(
        self,
        quota: Quota,
        repository: str,
        place: Holdings,
        more_than: Callable[[_Count], int],
        take: Callable[[_Count], None] | None = None,
    ) -> None:
        """Raise ApiError unless so many bytes more than counted fit; then call ``take`` under the guard."""
        key = _key(quota, repository)
        for life in (LIFE, min(LIFE, AGAIN)):
            known = self._counted(quota, repository, place, life)
            with self._guard:
                count = self._counts.get(key, known)
                held, more = count.held + self._coming.get(key, 0), more_than(count)
                if held + more <= quota.size:
                    if take is not None:
                        take(count)
                    return
        what = familiar(repository) if quota.each else ", ".join(p.text for p in quota.repositories)
        raise ApiError(
            403,
            "DENIED",
            f"the quota of {what} is {human_size(quota.size)}: {human_size(held)} are in use, "
            f"{human_size(more)} more do not fit",
        )

    @staticmethod
    def _of(quotas: Sequence[Quota], repository: str) -> list[Quota]:
        if not quotas:
            return []
        name = familiar(repository)
        return [quota for quota in quotas if quota.covers(name)]

    def _counted(self, quota: Quota, repository: str, place: Holdings, life: float) -> _Count:
        """What a quota covers, as it was at most ``life`` seconds ago."""
        key, now = _key(quota, repository), time.monotonic()
        with self._guard:
            known = self._counts.get(key)
        if known is not None and now < known.made + life:
            return known
        if quota.each:
            received = place.uploads.received(repository)
            held = place.usage(repository)
        else:
            received = place.uploads.received()
            held = sum(place.usage(name) for name in place.names() if quota.covers(familiar(name)))

        def is_covered(name: str) -> bool:
            return name == repository if quota.each else quota.covers(familiar(name))

        uploads = {ident: size for ident, (name, size) in received.items() if is_covered(name)}
        with self._guard:
            for ident, (name, size) in self._writing.items():
                if is_covered(name):
                    uploads[ident] = max(size, uploads.get(ident, 0))
            if len(self._counts) >= _MOST:
                self._counts.clear()
            count = self._counts[key] = _Count(held + sum(uploads.values()), now, uploads)
        return count


class QuotaUpload:
    """One upload and the quotas of its repository."""

    def __init__(
        self, quotas: Quotas, covering: Sequence[Quota], repository: str, ident: str, place: Holdings
    ) -> None:
        self._quotas, self._covering = quotas, covering
        self._repository, self._ident, self._place = repository, ident, place

    def check(self, size: int) -> None:
        """Check that there is room for an upload of this size. Raises ApiError (403 DENIED)."""
        self._fit(size, take=False)

    def grow(self, size: int) -> None:
        """Check the same, and count the upload with this size. Raises ApiError (403 DENIED)."""
        self._fit(size, take=True)

    def ended(self, *, held: bool) -> None:
        """The upload is no longer open. ``held``: its bytes are a blob of the repository now."""
        self._quotas.end_upload(self._covering, self._repository, self._ident, held=held)

    def _fit(self, size: int, *, take: bool) -> None:
        self._quotas.fit_upload(self._covering, self._repository, self._ident, size, self._place, take=take)


def _key(quota: Quota, repository: str) -> Key:
    return (quota, repository) if quota.each else quota
