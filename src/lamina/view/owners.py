"""Mapping of the owners of an image's files to the ids of a user namespace (pure)."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from lamina.host.privileges import MAX_ID, Range
from lamina.light import Value


class Owners(Value):
    """The id maps of a user namespace, for users and for groups; empty: the image's ids are used unchanged."""

    users: tuple[Range, ...] = ()
    groups: tuple[Range, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.users)

    @property
    def word(self) -> str:
        """An identifier for the mapping; "" if there is none."""
        if not self:
            return ""
        import hashlib

        return hashlib.sha256(repr((self.users, self.groups)).encode()).hexdigest()[:16]

    @property
    def root(self) -> tuple[int, int]:
        return self.outside(0, 0)

    def has(self, uid: int, gid: int) -> bool:
        """Whether both ids are mapped."""
        return _moved(uid, self.users or _ALL) is not None and _moved(gid, self.groups or _ALL) is not None

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Return the uid and gid on the outside for those of the image; those of the namespace's root if they are not
        mapped."""
        user, group = _moved(uid, self.users or _ALL), _moved(gid, self.groups or _ALL)
        return (
            _moved(0, self.users) or 0 if user is None else user,
            _moved(0, self.groups) or 0 if group is None else group,
        )

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """Return the uid and gid of the image for those on the outside; root's if they are not mapped."""
        users, groups = _turned(self.users or _ALL), _turned(self.groups or _ALL)
        return _moved(uid, users) or 0, _moved(gid, groups) or 0

    def has_outside(self, uid: int, gid: int) -> tuple[bool, bool]:
        """Whether the uid and the gid on the outside are mapped."""
        users, groups = _turned(self.users or _ALL), _turned(self.groups or _ALL)
        return _moved(uid, users) is not None, _moved(gid, groups) is not None


_ALL: tuple[Range, ...] = ((0, 0, MAX_ID + 1),)
AS_STATED = Owners()


def kept_mode(mode: int, *, user: bool, group: bool) -> int:
    """Return the mode of a file without the set-id bits of an owner that it could not get: with another owner, often
    root, the program would get rights that the image did not give it. ``user`` and ``group`` say whether the file got
    them."""
    return mode & ~(0 if user else stat.S_ISUID) & ~(0 if group else stat.S_ISGID)


def _moved(number: int, ranges: Sequence[Range]) -> int | None:
    for first, outside, count in ranges:
        if first <= number < first + count:
            return outside + number - first
    return None


def _turned(ranges: Sequence[Range]) -> list[Range]:
    return [(outside, inside, count) for inside, outside, count in ranges]
