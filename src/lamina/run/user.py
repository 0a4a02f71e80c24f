"""Who a container runs as: names resolved in the image's own passwd and group (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from lamina.errors import NotFound, UsageError
from lamina.light import Value

MAX_ID = 0xFFFFFFFE


class User(Value):
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve_user(wanted: str, passwd: bytes, group: bytes) -> User:
    """``wanted``: ``USER[:GROUP]``, each a name or a number; "" is root. ``passwd`` and ``group``: the files' bytes.

    A name must be there; a number need not. Additional groups are those of the user's name, unless a group is given.
    Raises NotFound, UsageError.
    """
    name, colon, group_name = (wanted or "0").partition(":")
    if not name or (colon and not group_name):
        raise UsageError(f"{wanted!r:.80} is no USER[:GROUP]", hint="names or numbers")
    uid, gid, home, known = _user(name, passwd)
    if group_name:
        return User(uid, _group(group_name, group), (), home)
    groups = sorted({number for number, members in _groups(group) if known and known in members} - {gid})
    return User(uid, gid, tuple(groups), home)


def _user(name: str, passwd: bytes) -> tuple[int, int, str, bytes]:
    wanted = name.encode()
    number = _number(wanted)
    for fields in _lines(passwd, 7):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is None or gid is None:
            continue
        if fields[0] == wanted or (number is not None and uid == number):
            return uid, gid, fields[5].decode("utf-8", "replace") or "/", fields[0]
    if number is None:
        raise NotFound(f"the image has no user {name!r:.80}", hint="see its /etc/passwd, or give a number")
    return number, 0, "/root" if number == 0 else "/", b""


def _group(name: str, group: bytes) -> int:
    wanted = name.encode()
    number = _number(wanted)
    for fields in _lines(group, 3):
        gid = _number(fields[2])
        if gid is not None and fields[0] == wanted:
            return gid
    if number is None:
        raise NotFound(f"the image has no group {name!r:.80}", hint="see its /etc/group, or give a number")
    return number


def _groups(group: bytes) -> Iterator[tuple[int, list[bytes]]]:
    for fields in _lines(group, 4):
        gid = _number(fields[2])
        if gid is not None:
            yield gid, fields[3].split(b",")


def _lines(text: bytes, columns: int) -> Iterator[list[bytes]]:
    for line in text.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) >= columns and not line.startswith(b"#"):
            yield fields


def _number(text: bytes) -> int | None:
    if not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number <= MAX_ID else None
