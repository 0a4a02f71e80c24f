"""Tags: each is an object, changed by comparison, so that of two servers that move a tag at the same time none loses
the other's change unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lamina.errors import Conflict, NotFound
from lamina.objects import keys
from lamina.objects.documents import TOMBSTONE_SIZE, Tag
from lamina.objects.removal import REAL, Clock, Deadline, Patience
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket, Version
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest


class Tags:
    """The tags of all repositories of a bucket."""

    def __init__(self, bucket: Bucket, clock: Clock = REAL) -> None:
        self._bucket, self._clock = bucket, clock

    def list(self, repository: str, after: str = "") -> Iterator[str]:
        prefix = keys.tags(repository)
        for one in self._bucket.list(prefix, f"{prefix}/{after}" if after else ""):
            if one.size > TOMBSTONE_SIZE:
                yield one.key[len(prefix) + 1 :]

    def get(self, repository: str, tag: str) -> Descriptor | None:
        found = self._read(repository, tag)
        return None if found is None else found[0].descriptor

    def set(self, repository: str, tag: str, descriptor: Descriptor, *, fixed: bool = False) -> None:
        """Point a tag to a document; a ``fixed`` one is only made. Raises Conflict if it points elsewhere."""
        key = keys.tag(repository, tag)
        patience = Patience(self._clock)
        while True:
            data = Tag(descriptor).to_bytes()
            found = self._read(repository, tag)
            if found is None:
                if self._bucket.create(key, data) is not None:
                    return
                patience.again()
                continue
            there, version = found
            if there.descriptor is None:
                if not patience.is_over(version):
                    continue
            elif fixed:
                if there.descriptor.digest == descriptor.digest:
                    return
                raise fixed_tag(repository, tag)
            if self._bucket.swap(key, data, version) is not None:
                return
            patience.again()

    def remove(self, repository: str, tag: str, only: Callable[[Digest], bool] = lambda _: True) -> None:
        """Remove a tag, if ``only`` says so of the document that it points to. Raises NotFound."""
        key = keys.tag(repository, tag)
        patience = Patience(self._clock)
        while True:
            found = self._read(repository, tag)
            if found is None or found[0].descriptor is None:
                raise NotFound(f"no tag {tag[:150]} in {repository}", hint="check the tag")
            if not only(found[0].descriptor.digest):
                return
            deadline = Deadline(self._clock)
            if self._bucket.swap(key, Tag().to_bytes(), found[1]) is None:
                patience.again()
                continue
            if not deadline.over():  # else gc deletes it
                self._bucket.delete(key)
            return

    def sweep(self, key: str, before: float) -> None:
        """Delete the tombstone of a removal that was broken off before this time."""
        found = self._bucket.get(key)
        if found is None or found.modified >= before or Tag.from_bytes(found.data, key).descriptor is not None:
            return
        deadline = Deadline(self._clock)
        if self._bucket.swap(key, Tag().to_bytes(), found.version) is not None and not deadline.over():
            self._bucket.delete(key)

    def _read(self, repository: str, tag: str) -> tuple[Tag, Version] | None:
        key = keys.tag(repository, tag)
        found = self._bucket.get(key)
        return None if found is None else (Tag.from_bytes(found.data, key), found.version)


def fixed_tag(repository: str, tag: str) -> Conflict:
    name = Reference.parse(repository).familiar
    return Conflict(f"tag {tag} of {name} is immutable: it may not be moved", hint="push another tag")
