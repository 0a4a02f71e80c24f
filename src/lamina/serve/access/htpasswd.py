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
from concurrent.futures import Future

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


class Busy(Exception):
    """Too many passwords are being checked."""


class PasswordCheck:
    """Checks passwords. A good one is remembered for a minute, by a hash with a key of this process, together with
    the entry of the user: a changed entry is checked anew."""

    def __init__(self, waiting: int = 16) -> None:
        """``waiting``: how many passwords may be checked, or wait for it, at once."""
        self._key = os.urandom(32)
        self._good: OrderedDict[bytes, float] = OrderedDict()
        self._running: dict[bytes, Future[bool]] = {}
        self._guard = threading.Lock()
        self._cores = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))  # bcrypt takes one each
        self._places = threading.BoundedSemaphore(waiting)  # a thread in each waits, and can't do other work
        self._nobody = ""

    def remembers(self, users: Mapping[str, str], name: str, password: str) -> bool:
        """Whether this password was found good less than a minute ago: an answer without bcrypt."""
        hashed = users.get(name)
        if hashed is None:
            return False
        mark = self._mark(name, password, hashed)
        with self._guard:
            return self._is_good(mark)

    def check(self, users: Mapping[str, str], name: str, password: str) -> bool:
        """Whether the password is that of the user. It takes as long for a user who does not exist. Raises Busy."""
        if self.remembers(users, name, password):
            return True
        raw = password.encode("utf-8", "surrogateescape")
        if not raw or len(raw) > MAX_PASSWORD or b"\0" in raw:
            return False
        hashed = users.get(name)
        mark = self._mark(name, password, hashed or "")
        with self._guard:
            if self._is_good(mark):  # its check has ended since
                return True
            running = self._running.get(mark)
            if running is None:
                mine = self._running[mark] = Future()
        if running is not None:  # many clients of one user begin at once
            return running.result()
        try:
            good = self._compared(raw, hashed or self._stand_in(users)) and hashed is not None
        except BaseException as error:
            mine.set_exception(Busy() if isinstance(error, Busy) else RuntimeError("the password was not checked"))
            raise
        else:
            mine.set_result(good)
            if good:  # before it is no longer running: who comes in between would check again
                self._remember(mark)
        finally:
            with self._guard:
                del self._running[mark]
        return good

    def _compared(self, raw: bytes, hashed: str) -> bool:
        import bcrypt

        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            with self._cores:
                return bcrypt.checkpw(raw, hashed.encode("ascii"))
        finally:
            self._places.release()

    def _is_good(self, mark: bytes) -> bool:
        """Under the guard: whether a check of this password is remembered."""
        until = self._good.get(mark)
        return until is not None and time.monotonic() < until

    def _remember(self, mark: bytes) -> None:
        with self._guard:
            self._good[mark] = time.monotonic() + _LIFE
            while len(self._good) > _REMEMBERED:
                self._good.popitem(last=False)

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
