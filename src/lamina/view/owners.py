"""Whose the files of an image are where they stand, when the ids of the image are others' outside (pure)."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from lamina.host.privileges import MAX_ID, Range
from lamina.light import Value


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
        """Whether both ids exist inside."""
        return _moved(uid, self.users or _ALL) is not None and _moved(gid, self.groups or _ALL) is not None

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Who a user and group of the image are outside; root of the namespace where it does not have them."""
        user, group = _moved(uid, self.users or _ALL), _moved(gid, self.groups or _ALL)
        return (
            _moved(0, self.users) or 0 if user is None else user,
            _moved(0, self.groups) or 0 if group is None else group,
        )

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The way back; root where nobody inside has that id outside."""
        users, groups = _turned(self.users or _ALL), _turned(self.groups or _ALL)
        return _moved(uid, users) or 0, _moved(gid, groups) or 0

    def has_outside(self, uid: int, gid: int) -> tuple[bool, bool]:
        """Whether somebody inside is this user outside, and whether a group is this group."""
        users, groups = _turned(self.users or _ALL), _turned(self.groups or _ALL)
        return _moved(uid, users) is not None, _moved(gid, groups) is not None


_ALL: tuple[Range, ...] = ((0, 0, MAX_ID + 1),)
AS_STATED = Owners()


def kept_mode(mode: int, *, user: bool, group: bool) -> int:
    """The mode of a file without the set-id bit of an owner that it could not get: as another user's or group's,
    often root's, the program would get rights that the image did not give it. ``user``, ``group``: whether it got
    them."""
    return mode & ~(0 if user else stat.S_ISUID) & ~(0 if group else stat.S_ISGID)


def _moved(number: int, ranges: Sequence[Range]) -> int | None:
    for first, outside, count in ranges:
        if first <= number < first + count:
            return outside + number - first
    return None


def _turned(ranges: Sequence[Range]) -> list[Range]:
    return [(outside, inside, count) for inside, outside, count in ranges]
