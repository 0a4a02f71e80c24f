"""Who asks: from the Authorization header, or the client certificate, to a user."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lamina.serve.access.authorization import Basic, Bearer, parse_authorization
from lamina.serve.access.buckets import Buckets
from lamina.serve.access.htpasswd import MAX_PASSWORD, Busy, PasswordCheck
from lamina.serve.access.rules_file import is_user_name
from lamina.serve.access.tokens import ACCESS, BadToken, Claims, Tokens
from lamina.serve.client_key import address_key
from lamina.serve.http_message import Asker
from lamina.serve.routes import ApiError

FAILURES_BURST, FAILURES_RATE = 10, 1 / 6
"""Wrong passwords that an address may send at once, and a second after that."""
_BY_CERTIFICATE = "certificate"


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Current(Protocol[T_co]):
    """What may change while the server runs."""

    @property
    def value(self) -> T_co: ...


@dataclass(frozen=True, slots=True)
class Constant(Generic[T]):
    """What does not change."""

    value: T


@dataclass(frozen=True, slots=True)
class Identity:
    """``user`` is "" for anonymous. ``claims`` are those of the token, None where there is none: then the rules
    alone decide."""

    user: str = ""
    claims: Claims | None = None
    mark: str = ""


class Refused(Exception):
    """Credentials are not accepted. ``error`` is the word of RFC 6750 for a challenge; ``user``: who it claims to
    be."""

    def __init__(self, message: str, error: str = "", user: str = "") -> None:
        super().__init__(message)
        self.error = error
        self.user = user


class LoginRefused(ApiError):
    """The response to credentials that are not accepted. ``claimed``: the user that they name."""

    def __init__(self, refused: Refused, challenge: str) -> None:
        super().__init__(401, "UNAUTHORIZED", str(refused), WWW_Authenticate=challenge)
        self.claimed = refused.user


class Identifier:
    """Finds out who asks. ``users`` are the hashes of passwords by name."""

    def __init__(self, users: Current[Mapping[str, str]], tokens: Current[Tokens]) -> None:
        self._users = users
        self._tokens = tokens
        self._passwords = PasswordCheck()
        self._failures = Buckets(FAILURES_RATE, FAILURES_BURST)

    def identify(self, header: str | None, asker: Asker) -> Identity:
        """Find the sender of an Authorization header. ``asker.name`` is the name in the client's certificate. Raises
        Refused, ApiError (429: too many wrong passwords)."""
        try:
            given = parse_authorization(header)
        except ValueError as error:
            raise Refused(str(error)) from None
        if isinstance(given, Basic):
            return self.by_password(given.name, given.password, asker.address)
        if isinstance(given, Bearer):
            return self.by_token(given.token, asker)
        if asker.name and is_user_name(asker.name):
            return Identity(asker.name, mark=_BY_CERTIFICATE)
        return Identity()

    def by_password(self, name: str, password: str, address: str) -> Identity:
        """The user with this password. Raises Refused, ApiError (429)."""
        users = self._users.value
        if not self._passwords.remembers(users, name, password):
            self._check_guesses(address)
            if len(password.encode("utf-8", "surrogateescape")) > MAX_PASSWORD:
                raise self._wrong(f"a password has at most {MAX_PASSWORD} bytes", name, address)
            try:
                good = self._passwords.check(users, name, password)
            except Busy:
                raise too_many(1, "too many logins at once") from None
            if not good:
                raise self._wrong("the user name or the password is wrong", name, address)
        return Identity(name, mark=self._tokens.value.mark_of(users[name]))

    def by_token(self, token: str, asker: Asker, kind: str = ACCESS) -> Identity:
        """The user of a token of this kind. Raises Refused."""
        tokens = self._tokens.value
        try:
            claims = tokens.check(token, kind=kind)
        except BadToken as error:
            raise Refused(str(error), "invalid_token") from None
        if self._mark_now(tokens, claims, asker) != claims.mark:
            raise Refused("the token's user or password has changed", "invalid_token", claims.user)
        return Identity(claims.user, claims, claims.mark)

    def _mark_now(self, tokens: Tokens, claims: Claims, asker: Asker) -> str | None:
        """The mark that a token of this user would get now; None if there is no such user."""
        if not claims.user:
            return ""
        if claims.mark == _BY_CERTIFICATE:
            return _BY_CERTIFICATE if asker.name == claims.user else None
        hashed = self._users.value.get(claims.user)
        return None if hashed is None else tokens.mark_of(hashed, claims.key)

    def _check_guesses(self, address: str) -> None:
        wait = self._failures.wait(address_key(address), time.monotonic())
        if wait:
            raise too_many(wait, "too many wrong passwords from this address")

    def _wrong(self, message: str, name: str, address: str) -> Refused:
        self._failures.charge(address_key(address), time.monotonic())
        return Refused(message, user=name)


def too_many(wait: float, why: str) -> ApiError:
    seconds = max(1, int(wait + 0.999))
    return ApiError(429, "TOOMANYREQUESTS", f"{why}: try again in {seconds} s", Retry_After=str(seconds))
