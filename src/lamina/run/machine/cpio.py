"""cpio archives in the format newc, as the kernel unpacks them: an initramfs (pure).

The same members give the same bytes: inode numbers are positions, times are zero. Format:
Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from lamina.errors import UsageError
from lamina.light import Value

_MAGIC = b"070701"
_END = b"TRAILER!!!"
_ALIGNMENT = 4
_MOST = 0xFFFFFFFF


class Member(Value):
    """``path``: relative, without a slash at its ends. ``mode``: with the format bits (``stat.S_IFREG``...).
    ``content``: of a file, or the target of a symlink. ``device``: the major and minor number of a device node."""

    path: bytes
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Member:
    return Member(path.encode(), stat.S_IFDIR | mode)


def file(path: str, content: bytes, mode: int = 0o644) -> Member:
    return Member(path.encode(), stat.S_IFREG | mode, content)


def symlink(path: str, target: str) -> Member:
    return Member(path.encode(), stat.S_IFLNK | 0o777, target.encode())


def fifo(path: str, mode: int = 0o600) -> Member:
    return Member(path.encode(), stat.S_IFIFO | mode)


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> Member:
    return Member(path.encode(), stat.S_IFCHR | mode, b"", (major, minor))


def archive(members: Iterable[Member]) -> Iterator[bytes]:
    """Yield the archive in pieces. Directories come before what is in them: the kernel makes none by itself. Raises
    UsageError (a name with NUL, a file of 4 GiB)."""
    for number, member in enumerate(members, 1):
        yield from _entry(number, member)
    yield from _entry(0, Member(_END, 0))


def _entry(number: int, member: Member) -> Iterator[bytes]:
    if b"\0" in member.path or len(member.content) > _MOST:
        raise UsageError(f"the file {member.path!r:.200} can't be in an initramfs", hint="leave it out")
    links = 2 if stat.S_ISDIR(member.mode) else 1
    major, minor = member.device
    numbers = (number, member.mode, 0, 0, links, 0, len(member.content), 0, 0, major, minor, len(member.path) + 1, 0)
    head = _MAGIC + b"".join(b"%08X" % one for one in numbers) + member.path + b"\0"
    yield head + bytes(-len(head) % _ALIGNMENT)
    if member.content:
        yield member.content
        yield bytes(-len(member.content) % _ALIGNMENT)
