"""Which user of this machine is at the other end of a loopback connection."""

from __future__ import annotations

import socket
import struct

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_OWN, _OTHER, _USER, _INODE = 1, 2, 7, 9  # columns
UNKNOWN = -1
"""The user of a socket that nobody has open any more, or that the kernel does not list."""


def user_of_peer(connection: socket.socket) -> int | None:
    """Return the user id of the process that has opened the other end; ``UNKNOWN`` if there is none. None where the
    system does not tell (it is not Linux). Raises OSError (the connection has ended)."""
    own, peer = connection.getsockname(), connection.getpeername()
    wanted = set(_ends(peer, own))
    tables = 0
    for path in _TABLES:
        try:
            with open(path, encoding="ascii") as table:
                next(table, None)
                tables += 1
                for line in table:
                    words = line.split()
                    if (words[_OWN], words[_OTHER]) in wanted:
                        return int(words[_USER]) if words[_INODE] != "0" else UNKNOWN  # it was closed: no user
        except FileNotFoundError:
            continue
    return UNKNOWN if tables else None


def _ends(first: tuple[str, int], second: tuple[str, int]) -> list[tuple[str, str]]:
    """The two ends as the kernel writes them; those of IPv4 also in the form of a socket for IPv6."""
    if ":" in first[0]:
        ends = (first, second)
        one, other = ((socket.inet_pton(socket.AF_INET6, end[0].partition("%")[0]), end[1]) for end in ends)
        return [(_written(*one), _written(*other))]
    one, other = ((socket.inet_aton(end[0]), end[1]) for end in (first, second))
    mapped = bytes(10) + b"\xff\xff"
    return [
        (_written(*one), _written(*other)),
        (_written(mapped + one[0], one[1]), _written(mapped + other[0], other[1])),
    ]


def _written(address: bytes, port: int) -> str:
    """An end in hexadecimal, in words of 32 bits as this machine stores them."""
    words = struct.unpack(f"={len(address) // 4}I", address)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
