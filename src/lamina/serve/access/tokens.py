"""Tokens that the server issues: JWTs signed with a key that all servers behind one address share (RFC 7519; docker's
token specification)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lamina.errors import SystemFailure, UsageError
from lamina.host.files import replace_file, reported
from lamina.serve.access.rules import DELETE, PULL, PUSH
from lamina.serve.access.scopes import CATALOG, EVERY, MAX_SCOPES, Scope

ACCESS, REFRESH = "access", "refresh"
LIFE = 300
"""Seconds for which an access token is valid."""
REFRESH_LIFE = 365 * 86400
"""Seconds for which a refresh token is valid: what ``docker login`` keeps instead of the password. It ends earlier
with the password that it was issued for."""
LEEWAY = 30  # seconds by which the clocks of two servers may differ
SERVICE = "lamina-registry"
"""Whom tokens are for. Servers with other keys do not accept them, whatever they say."""
MAX_TOKEN = 32 << 10
_REMEMBERED = 4096
_ALGORITHM = "HS256"
_KEY_BYTES = 32


class BadToken(Exception):
    """A token is not valid. The text says why, without any part of the token."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says. ``scopes`` maps a repository to actions; ``catalog``: the list of repositories;
    ``key``: the name of the key that signed it."""

    user: str
    scopes: Mapping[str, frozenset[str]]
    catalog: bool
    mark: str
    key: str


def parse_keys(raw: bytes, path: str) -> list[bytes]:
    """Parse a file of keys, one a line in base64: the first signs, all are accepted. Raises UsageError."""
    keys = []
    for line in raw.split():
        try:
            key = base64.b64decode(line, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) < _KEY_BYTES:
            raise UsageError(
                f"{path}: a key is not base64 of at least {_KEY_BYTES} bytes",
                hint=f"make one with `openssl rand -base64 {_KEY_BYTES}`, or remove the file: the server makes one",
            )
        keys.append(key)
    if not keys:
        raise UsageError(f"{path} has no key", hint="remove the file: the server makes one")
    return keys


def make_key_file(path: str) -> None:
    """Create the file of keys with a random key if it does not exist, readable by its owner only. Raises
    SystemFailure (also if others can read a file that exists)."""
    with reported(path):
        if not os.path.lexists(path):
            os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
            fresh = base64.b64encode(os.urandom(_KEY_BYTES)) + b"\n"
            temporary = f"{path}.{os.urandom(6).hex()}.new"
            replace_file(temporary, [fresh], mode=0o600)
            try:
                os.link(temporary, path)  # two servers that start at once take one key
            except FileExistsError:
                pass
            finally:
                os.unlink(temporary)
        if os.name == "posix" and os.stat(path).st_mode & 0o077:
            raise SystemFailure(f"{path}: others can read this secret key", hint=f"run `chmod 600 {path}`")


class Tokens:
    """Issues and checks tokens for one ``service``, with ``keys`` (the first signs)."""

    def __init__(self, keys: list[bytes], service: str, *, life: int = LIFE) -> None:
        self._keys = {_kid(key): key for key in keys}
        self._first = _kid(keys[0])
        self._good: OrderedDict[bytes, tuple[Claims, int]] = OrderedDict()
        self._guard = threading.Lock()
        self.service = service
        self.life = life

    def issue(
        self, user: str, scopes: Iterable[Scope], *, kind: str = ACCESS, mark: str = "", now: float | None = None
    ) -> str:
        """A token for ``user`` ("" is anonymous). ``mark`` is checked by the caller when the token is used."""
        import jwt

        begun = int(time.time() if now is None else now)
        claims = {
            "iss": self.service,
            "aud": self.service,
            "sub": user,
            "typ": kind,
            "iat": begun,
            "nbf": begun,
            "exp": begun + (self.life if kind == ACCESS else REFRESH_LIFE),
            "jti": os.urandom(16).hex(),
            "pwd": mark,
            "access": [
                {"type": scope.kind, "name": scope.name, "actions": sorted(scope.actions)} for scope in scopes
            ],
        }
        return jwt.encode(claims, self._keys[self._first], algorithm=_ALGORITHM, headers={"kid": self._first})

    def check(self, token: str, *, kind: str = ACCESS) -> Claims:
        """Check a token: its signature by one of the keys, its kind, who issued it for whom, and its time. A good
        one is remembered until it expires. Raises BadToken."""
        if len(token) > MAX_TOKEN or not token.isascii():
            raise BadToken("the token is too large or not a token")
        mark = hashlib.sha256(f"{kind} {token}".encode()).digest()
        with self._guard:
            known = self._good.get(mark)
        if known is not None and time.time() < known[1]:
            return known[0]
        claims, end = self._verified(token, kind)
        with self._guard:
            self._good[mark] = claims, end
            while len(self._good) > _REMEMBERED:
                self._good.popitem(last=False)
        return claims

    def _verified(self, token: str, kind: str) -> tuple[Claims, int]:
        """The claims of a token, and when it expires. Raises BadToken."""
        import jwt

        try:
            kid = str(jwt.get_unverified_header(token).get("kid"))
        except (jwt.PyJWTError, RecursionError):
            raise BadToken("this is not a token of this registry") from None
        key = self._keys.get(kid)
        if key is None:
            raise BadToken("the token was signed with a key that this registry does not know")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=self.service,
                issuer=self.service,
                leeway=LEEWAY,
                options={"require": ["exp", "nbf", "iat", "iss", "aud", "sub", "jti"]},
            )
        except jwt.ExpiredSignatureError:
            raise BadToken("the token has expired") from None
        except jwt.InvalidAudienceError:
            raise BadToken("the token is for another service") from None
        except (jwt.PyJWTError, RecursionError):
            raise BadToken("the token is not valid") from None
        if claims.get("typ") != kind:
            raise BadToken("the token is of another kind")
        return _claims(claims, kid), int(claims["exp"])

    def mark_of(self, secret: str, key: str = "") -> str:
        """A short hash of a user's entry, with the first key or the one with this name: it says whether a password
        has changed, and nothing else."""
        return hmac.digest(self._keys[key or self._first], b"mark\0" + secret.encode(), hashlib.sha256).hex()[:32]


def _claims(claims: dict[str, Any], key: str) -> Claims:
    user, mark, access = claims.get("sub"), claims.get("pwd"), claims.get("access")
    if not isinstance(user, str) or not isinstance(mark, str) or not isinstance(access, list):
        raise BadToken("the token is not valid")
    scopes: dict[str, frozenset[str]] = {}
    catalog = False
    for entry in access[:MAX_SCOPES]:
        kind, name, actions = entry["type"], entry["name"], frozenset(entry["actions"])  # signed: we made it
        if kind == "repository":
            scopes[name] = scopes.get(name, frozenset()) | (actions & {PULL, PUSH, DELETE})
        elif name == CATALOG and EVERY in actions:
            catalog = True
    return Claims(user, scopes, catalog, mark, key)


def _kid(key: bytes) -> str:
    return hashlib.sha256(b"kid\0" + key).hexdigest()[:16]
