"""The user of a container: names looked up in the image's passwd and group (pure).

A number is always an id, never a name, as in moby/sys/user: else an image with a user named ``1000`` could turn
``--user 1000`` into root (CVE-2026-46680 was of that kind).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lamina.errors import NotFound, UsageError
from lamina.host.privileges import MAX_ID
from lamina.light import Value

_MAX_DIGITS = 20  # more than any id has: longer numbers are out of range


class User(Value):
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


class _Account(Value):
    """A line of passwd. ``uid`` and ``gid`` may be out of range."""

    name: bytes
    uid: int
    gid: int
    home: bytes


class _Group(Value):
    """A line of group. ``gid`` may be out of range."""

    name: bytes
    gid: int
    members: tuple[bytes, ...]


def resolve_user(wanted: str, passwd: bytes, group: bytes) -> User:
    """``wanted``: ``USER[:GROUP]``, each a name or a number; "" is root, ``:GROUP`` is root with the group,
    ``USER:`` is ``USER``. ``passwd`` and ``group``: the files' bytes.

    A name must be there; a number need not. The first line that fits counts. A number takes its group and its home
    from the line with this uid. Additional groups are those that list the user's name, unless a group is given.
    Raises NotFound, UsageError (an id out of range).
    """
    name, _, group_name = wanted.partition(":")
    name = name or "0"
    number = parse_id(name, "user")
    account = _account(name, number, passwd)
    if account is None:
        uid, gid, home, known = number or 0, 0, "/root" if number == 0 else "/", b""
    else:
        uid = _checked(account.uid, f"the user {name!r:.80} of the image")
        gid = _checked(account.gid, f"the group of the user {name!r:.80} of the image")
        home, known = account.home.decode("utf-8", "replace") or "/", account.name
    if group_name:
        return User(uid, resolve_group(group_name, group), (), home)
    groups = {one.gid for one in _groups(group) if known and known in one.members and one.gid <= MAX_ID}
    return User(uid, gid, tuple(sorted(groups - {gid})), home)


def resolve_group(wanted: str, group: bytes) -> int:
    """The id of a group, by name or number. Raises NotFound, UsageError (an id out of range)."""
    number = parse_id(wanted, "group")
    if number is not None:
        return number
    for one in _groups(group):
        if one.name == _bytes(wanted):
            return _checked(one.gid, f"the group {wanted!r:.80} of the image")
    raise NotFound(f"the image has no group {wanted!r:.80}", hint="see its /etc/group, or give a number")


def misnamed(groups: Iterable[int], table: bytes) -> frozenset[int]:
    """Those of ``groups`` whose number is the name of another group in the image's ``table``: runc looks numbers
    up as names first, and would give the program that other group."""
    numbers = {str(gid).encode(): gid for gid in groups}
    return frozenset(
        numbers[one.name] for one in _groups(table) if one.name in numbers and one.gid != numbers[one.name]
    )


def parse_id(text: str, what: str) -> int | None:
    """The id that ``text`` states, None if it is a name. A number with a sign is not a name. Raises UsageError if
    the number is out of range for ``what``."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    significant = digits.lstrip("0")
    number = MAX_ID + 1 if len(significant) > _MAX_DIGITS else int(significant or "0")
    return _checked(-number if text[0] == "-" else number, f"the {what} {text!r:.80}")


def _checked(number: int, what: str) -> int:
    if not 0 <= number <= MAX_ID:
        raise UsageError(f"{what} is out of range", hint=f"choose one from 0 to {MAX_ID}")
    return number


def _account(name: str, number: int | None, passwd: bytes) -> _Account | None:
    """The line of a uid, or of a name. Raises NotFound if no line has the name."""
    for one in _accounts(passwd):
        if one.uid == number if number is not None else one.name == _bytes(name):
            return one
    if number is None:
        raise NotFound(f"the image has no user {name!r:.80}", hint="see its /etc/passwd, or give a number")
    return None


def _accounts(passwd: bytes) -> Iterator[_Account]:
    for fields in _lines(passwd):
        uid, gid = _number(fields, 2), _number(fields, 3)
        if uid is not None and gid is not None:
            yield _Account(fields[0], uid, gid, fields[5] if len(fields) > 5 else b"")


def _groups(group: bytes) -> Iterator[_Group]:
    for fields in _lines(group):
        gid = _number(fields, 2)
        if gid is not None:
            yield _Group(fields[0], gid, tuple(fields[3].split(b",")) if len(fields) > 3 else ())


def _lines(text: bytes) -> Iterator[list[bytes]]:
    """The columns of each line. Missing columns at its end are empty, as in other engines. A line without an id is
    skipped (other engines take the id for 0)."""
    for line in text.split(b"\n"):
        line = line.strip()
        if line and not line.startswith(b"#"):
            yield line.split(b":")


def _number(fields: list[bytes], column: int) -> int | None:
    text = fields[column] if column < len(fields) else b""
    return int(text) if text.isdigit() and len(text) <= _MAX_DIGITS else None


def _bytes(text: str) -> bytes:
    """The bytes of a name, as in the image's files."""
    return text.encode("utf-8", "surrogateescape")
