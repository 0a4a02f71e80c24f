"""Files of users (htpasswd with bcrypt), and the check of a password."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping

from lamina.errors import Unsupported, UsageError
from lamina.serve.access.rules_file import is_user_name

MAX_PASSWORD = 72
"""Bytes of a password that bcrypt takes; it would ignore the rest."""
COST = 10
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_REMEMBERED = 1024
_LIFE = 60.0  # seconds for which a good password need not be checked again
_HINT = "make it with `lamina passwd FILE USER` or `htpasswd -B`"


def parse_htpasswd(raw: bytes, path: str) -> dict[str, str]:
    """Parse a file of lines ``user:hash``; empty lines and lines that start with # are skipped. Returns the hashes by
    user. Raises UsageError (a line that is not valid; a hash that is not bcrypt)."""
    try:
        text = raw.decode("utf-8")
    except ValueError:
        raise UsageError(f"{path} is not UTF-8", hint=_HINT) from None
    users: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, hashed = line.partition(":")
        if not colon or not is_user_name(name):
            raise UsageError(f"{path}, line {number}: this is not USER:HASH", hint=_HINT)  # it may hold a secret
        found = _BCRYPT.fullmatch(hashed)
        if found is None:
            raise UsageError(f"{path}, line {number}: the hash of {name!r:.60} is not bcrypt", hint=_HINT)
        if not 4 <= int(found[1]) <= 16:
            raise UsageError(
                f"{path}, line {number}: the hash of {name!r:.60} has the cost {found[1]}", hint="use 10 to 14"
            )
        if name in users:
            raise UsageError(f"{path}, line {number}: {name!r:.60} is there twice", hint="remove one of the lines")
        users[name] = hashed
    return users


def hashed_password(password: str, cost: int = COST) -> str:
    """The bcrypt hash of a password. Raises UsageError (empty, more than 72 bytes, a NUL), Unsupported."""
    raw = password.encode("utf-8", "surrogateescape")
    if not raw or b"\0" in raw:
        raise UsageError("the password is empty or has a NUL", hint="choose another password")
    if len(raw) > MAX_PASSWORD:
        raise UsageError(
            f"the password has {len(raw)} bytes: bcrypt takes at most {MAX_PASSWORD}",
            hint="choose a shorter password",
        )
    try:
        import bcrypt
    except ImportError:
        raise Unsupported("the package bcrypt is not installed", hint="run `pip install 'lamina[serve]'`") from None
    return bcrypt.hashpw(raw, bcrypt.gensalt(cost, b"2b")).decode("ascii").replace("$2b$", "$2y$", 1)


class PasswordCheck:
    """Checks passwords. A good one is remembered for a minute, by a hash with a key of this process, together with
    the entry of the user: a changed entry is checked anew."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._good: OrderedDict[bytes, float] = OrderedDict()
        self._guard = threading.Lock()
        self._busy = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))  # bcrypt takes a core each
        self._nobody = ""

    def remembers(self, users: Mapping[str, str], name: str, password: str) -> bool:
        """Whether this password was found good less than a minute ago: an answer without bcrypt."""
        hashed = users.get(name)
        if hashed is None:
            return False
        mark = self._mark(name, password, hashed)
        with self._guard:
            until = self._good.get(mark)
            return until is not None and time.monotonic() < until

    def check(self, users: Mapping[str, str], name: str, password: str) -> bool:
        """Whether the password is that of the user. It takes as long for a user who does not exist."""
        import bcrypt

        if self.remembers(users, name, password):
            return True
        raw = password.encode("utf-8", "surrogateescape")
        if not raw or len(raw) > MAX_PASSWORD or b"\0" in raw:
            return False
        hashed = users.get(name)
        with self._busy:
            good = bcrypt.checkpw(raw, (hashed or self._stand_in(users)).encode("ascii"))
        if hashed is None or not good:
            return False
        with self._guard:
            self._good[self._mark(name, password, hashed)] = time.monotonic() + _LIFE
            while len(self._good) > _REMEMBERED:
                self._good.popitem(last=False)
        return True

    def _mark(self, name: str, password: str, hashed: str) -> bytes:
        parts = "\0".join((name, hashed, password)).encode("utf-8", "surrogateescape")
        return hmac.digest(self._key, parts, hashlib.sha256)

    def _stand_in(self, users: Mapping[str, str]) -> str:
        """A hash for users who do not exist, with the cost of the first entry."""
        import bcrypt

        first = next(iter(users.values()), "")
        cost = int(first[4:6]) if first else COST
        if not self._nobody.startswith(f"$2b${cost:02}$"):
            self._nobody = bcrypt.hashpw(os.urandom(16).hex().encode(), bcrypt.gensalt(cost, b"2b")).decode("ascii")
        return self._nobody
