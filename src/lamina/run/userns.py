"""The ids of a container with a user namespace of its own: an unused block of ids, or the caller's own id kept."""

from __future__ import annotations

from lamina.errors import Unsupported
from lamina.host import privileges
from lamina.run.options import Userns
from lamina.view.owners import Owners

_IDS = 1 << 16
_HIGH = 0x70000000


def auto(identity: str) -> Owners:
    """A block of ids above all that are in use, chosen by the container's id (pure)."""
    block = (0, _HIGH + int(identity[:3], 16) * _IDS, _IDS)
    return Owners((block,), (block,))


def keep_id(wanted: Userns) -> tuple[Owners, tuple[int, int]]:
    """podman's keep-id, as ids of this plain user's namespace; and the caller's ids inside. Raises Unsupported."""
    users, groups = privileges.maps()
    if privileges.is_root() or users[0][2] != 1:
        raise Unsupported(
            "keep-id is for plain users: root has all IDs already", hint="leave --userns out, or use auto"
        )
    further = [sum(count for first, _, count in ranges if first) for ranges in (users, groups)]
    if not all(further):
        raise Unsupported(
            "keep-id needs further ids for the other users of the image, and this user has none",
            hint="add lines to /etc/subuid and /etc/subgid, and install newuidmap (package uidmap)",
        )
    me = (users[0][1] if wanted.uid is None else wanted.uid, groups[0][1] if wanted.gid is None else wanted.gid)
    return Owners(keep_id_ranges(me[0], further[0]), keep_id_ranges(me[1], further[1])), me


def keep_id_ranges(own: int, further: int) -> tuple[privileges.Range, ...]:
    """Map ``own`` to the caller, which is 0 in its namespace, and the ids below and above to the ``further`` ids,
    in order (pure)."""
    found = [(0, 1, min(own, further)), (own, 0, 1), (own + 1, own + 1, further - own)]
    return tuple(one for one in found if one[2] > 0)


def add_caller(passwd: bytes, group: bytes, me: tuple[int, int], name: str, home: str) -> tuple[bytes, bytes]:
    """passwd and group of an image, with a line for the caller (called ``name``) if they have none (pure)."""
    uid, gid = me
    taken = {line.partition(b":")[0] for line in passwd.split(b"\n")}
    word = name if name and name.encode() not in taken else str(uid)
    if not _has(passwd, uid):
        passwd = _more(passwd, f"{word}:*:{uid}:{gid}::{home}:/bin/sh")
    if not _has(group, gid):
        taken = {line.partition(b":")[0] for line in group.split(b"\n")}
        group = _more(group, f"{word if word.encode() not in taken else gid}:*:{gid}:")
    return passwd, group


def caller_name() -> str:
    """The name of the user who made this namespace, "" if it has none."""
    import pwd

    try:
        return pwd.getpwuid(privileges.maps()[0][0][1]).pw_name
    except KeyError:
        return ""


def _has(table: bytes, number: int) -> bool:
    return any(line.split(b":")[2:3] == [b"%d" % number] for line in table.split(b"\n"))


def _more(table: bytes, line: str) -> bytes:
    return table + (b"" if not table or table.endswith(b"\n") else b"\n") + line.encode() + b"\n"
