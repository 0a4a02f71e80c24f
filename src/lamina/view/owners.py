"""Whose the files of an image are where they stand, when the ids of the image are others' outside (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.light import Value
from lamina.rights import Range


class Owners(Value):
    """A user namespace's ids of users and of groups; none of them: the image's ids as they are."""

    users: tuple[Range, ...] = ()
    groups: tuple[Range, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.users)

    @property
    def word(self) -> str:
        """The same for the same ids, "" where they are the image's own."""
        if not self:
            return ""
        import hashlib

        return hashlib.sha256(repr((self.users, self.groups)).encode()).hexdigest()[:16]

    @property
    def root(self) -> tuple[int, int]:
        return self.outside(0, 0)

    def has(self, uid: int, gid: int) -> bool:
        """Whether both ids are there inside."""
        return not self or (_moved(uid, self.users) is not None and _moved(gid, self.groups) is not None)

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Who a user and group of the image are outside; root, where the namespace has them not."""
        if not self:
            return uid, gid
        user, group = _moved(uid, self.users), _moved(gid, self.groups)
        return (
            _moved(0, self.users) or 0 if user is None else user,
            _moved(0, self.groups) or 0 if group is None else group,
        )

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The way back; root's, where nobody inside is that outside."""
        if not self:
            return uid, gid
        return _moved(uid, _turned(self.users)) or 0, _moved(gid, _turned(self.groups)) or 0


AS_STATED = Owners()


def _moved(number: int, ranges: Sequence[Range]) -> int | None:
    for first, outside, count in ranges:
        if first <= number < first + count:
            return outside + number - first
    return None


def _turned(ranges: Sequence[Range]) -> list[Range]:
    return [(outside, inside, count) for inside, outside, count in ranges]
