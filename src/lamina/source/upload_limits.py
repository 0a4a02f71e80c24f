"""How many uploads may be open at once: begun by clients, and neither finished nor removed.

The ident of an upload ends with a mark of the client that has begun it. So a list of idents is enough to count those
of each client, for every process and server.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from lamina.errors import RateLimited
from lamina.spec.digest import Digest

MOST = 10_000
MOST_EACH = 1_000
"""In all, and to each repository. A client has a few at a time; what clients leave behind is removed after a day."""
MOST_OF_CLIENT = 500
"""Of each client: a user, or an address without one. Fewer than a repository takes, so that no client fills one.
docker has 5 for each push, and many hosts of a build farm may share one user."""
RETRY_AFTER = 60.0
_MARK = 12  # hex digits; those before are random, so that nobody can guess an ident


@dataclass(frozen=True, slots=True)
class Opener:
    """The client that begins an upload: the user or the address (``name``), and how many it may have open."""

    name: str
    most: int = MOST_OF_CLIENT


@dataclass(frozen=True, slots=True)
class Open:
    """How many uploads are open: to one repository, of one client, and in all."""

    each: int
    of_client: int
    total: int


def mark_of_client(name: str, key: bytes = b"") -> str:
    """What stands for a client in the idents of its uploads. ``key``: keeps those who see an ident from finding the
    client by trying names; the same for all servers of a place."""
    return Digest.of(key + name.encode("utf-8", "surrogateescape")).encoded[:_MARK]


def new_ident(mark: str = "") -> str:
    """Make the ident of an upload: 32 hex digits, the last of which are the mark of a client, if there is one."""
    return secrets.token_hex(16)[: 32 - len(mark)] + mark


def client_mark_in(ident: str) -> str:
    return ident[-_MARK:]


def check_open_uploads(there: Open, opener: Opener | None = None) -> None:
    """Check that one more may be opened beside those that are. Raises RateLimited."""
    limits = [(there.each, MOST_EACH, "to this repository"), (there.total, MOST, "to this registry")]
    if opener is not None:
        limits.insert(0, (there.of_client, opener.most, "of this client"))
    for count, most, where in limits:
        if count >= most:
            raise RateLimited(
                f"{count} uploads {where} are open: at most {most} are allowed",
                hint="finish or cancel some",
                retry_after=RETRY_AFTER,
            )
