"""Authentication to one host: from a challenge to an Authorization header, with tokens and credentials.

It follows docker's token protocol (distribution: token authentication, scope) and RFC 7617. A token is requested
once, however many threads need it, and again before it expires.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from lamina.errors import AccessDenied, RemoteFailure
from lamina.remote.challenge import Challenge, Token, check_realm, merge_scopes, parse_token
from lamina.remote.credentials import Credential
from lamina.remote.http import MOVED, Answer, joined
from lamina.remote.site import login_hosts_setting, may_have_login

MARGIN = 10.0  # seconds before its expiry from which a token is not used any more
_CLIENT_ID = "lamina"
_MAX_REDIRECTS = 5


class Exchange(Protocol):
    """Sends a request unchanged, with retries and without authentication."""

    def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer: ...


class Authorizer:
    """Authorizes requests to one host. ``find`` returns the credential for the host and is called once; ``plain``
    says whether the host is accessed by plain http. ``login_hosts`` are (registry, host) pairs where the user allows
    logins to be sent."""

    def __init__(
        self,
        host: str,
        find: Callable[[], Credential | None],
        exchange: Exchange,
        *,
        plain: bool,
        login_hosts: Collection[tuple[str, str]] = (),
        bearer: str = "",
    ) -> None:
        self._host = host
        self._find = find
        self._exchange = exchange
        self._plain = plain
        self._login_hosts = login_hosts
        self._bearer = bearer
        self._guard = threading.Lock()
        self._tokens: dict[frozenset[str], Token] = {}
        self._challenge: Challenge | None = None
        self._basic = ""
        self._found: list[Credential | None] = []

    @property
    def credential(self) -> Credential | None:
        if not self._found:
            self._found.append(self._find())
        return self._found[0]

    def header(self, scopes: Sequence[str]) -> str:
        """Return the Authorization header for these scopes; "" if none is known. A token close to its expiry is
        renewed first."""
        if self._bearer:
            return f"Bearer {self._bearer}"
        if self._basic:
            return self._basic
        with self._guard:
            token = self._tokens.get(frozenset(scopes))
            ended = token is None or token.expires - MARGIN < time.monotonic()
            if ended and self._challenge is not None:
                token = self._token(self._challenge, scopes)
            return f"Bearer {token.value}" if token is not None else ""

    def answer(self, challenges: Sequence[Challenge], scopes: Sequence[str], rejected: str) -> bool:
        """Handle a 401. Returns False if there is nothing more to try. Raises AccessDenied (the token server refuses
        the credential), RemoteFailure, InvalidContent."""
        if self._bearer:
            return False
        with self._guard:
            for challenge in challenges:
                if challenge.scheme == "bearer":
                    known = self._tokens.get(frozenset(scopes))
                    if known is not None and f"Bearer {known.value}" != rejected:
                        return True  # another thread was faster
                    self._challenge = challenge
                    return f"Bearer {self._token(challenge, scopes).value}" != rejected
            credential = self.credential
            if any(challenge.scheme == "basic" for challenge in challenges) and credential is not None:
                self._basic = basic(credential)
                return self._basic != rejected
        return False

    def _token(self, challenge: Challenge, scopes: Sequence[str]) -> Token:
        """Request a new token for ``scopes`` and for those in the challenge."""
        realm = challenge.parameters.get("realm", "")
        wanted = [*scopes, *challenge.parameters.get("scope", "").split()]
        asked = [("service", challenge.parameters["service"])] if challenge.parameters.get("service") else []
        asked += [("scope", scope) for scope in merge_scopes(wanted)]
        credential = self.credential
        place = urlsplit(realm).netloc
        answer = None
        if credential is not None and credential.identity_token:
            answer = self._by_identity(realm, asked, credential)
        if answer is None:
            answer = self._by_get(realm, asked, credential)
        with answer:
            raw = answer.read_all(1 << 20, place)
            if answer.status in (401, 403):
                raise AccessDenied(
                    f"access denied: {place} refuses the credential for {self._host}"
                    if credential is not None
                    else f"{place} gives no anonymous token for {self._host}",
                    hint=f"check the name: it may not exist; if it is private, run `lamina login {self._host}`",
                )
            if not 200 <= answer.status < 300:
                raise RemoteFailure(
                    f"{place} gives no token for {self._host}: status {answer.status}", hint="try again later"
                )
        token = parse_token(raw, time.monotonic(), f"the token that {place} gave")
        self._tokens[frozenset(scopes)] = token
        return token

    def _by_get(self, realm: str, asked: list[tuple[str, str]], credential: Credential | None) -> Answer:
        headers = {}
        if credential is not None and credential.username and not credential.identity_token:
            headers["Authorization"] = basic(credential)
            asked = [("account", credential.username), *asked]
        parts = urlsplit(realm)
        query = "&".join(filter(None, (parts.query, urlencode(asked))))
        return self._send("GET", urlunsplit(parts._replace(query=query)), headers)

    def _by_identity(self, realm: str, asked: list[tuple[str, str]], credential: Credential) -> Answer | None:
        """Request a token by OAuth2, for identity tokens; None if the server does not support it."""
        form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", credential.identity_token),
            ("client_id", _CLIENT_ID),
            *((key, value) for key, value in asked if key != "scope"),
            ("scope", " ".join(value for key, value in asked if key == "scope")),
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._send("POST", realm, headers, urlencode(form).encode())
        if answer.status in (404, 405):
            answer.release()
            return None
        return answer

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send a request to a token server and follow its redirects; each host must be one that may get the login."""
        for _ in range(_MAX_REDIRECTS):
            self._check(url)
            answer = self._exchange(method, url, headers, body)
            target = answer.headers.get("Location") if answer.status in MOVED else None
            if target is None or (method != "GET" and answer.status not in (307, 308)):
                break
            answer.release()
            url = joined(url, target)
        return answer

    def _check(self, url: str) -> None:
        """Check that a token may be requested from ``url``. Raises InvalidContent, AccessDenied."""
        check_realm(url, self._host, self._plain)
        place = urlsplit(url).netloc
        if self.credential is not None and not may_have_login(self._host, place, self._login_hosts):
            raise AccessDenied(
                f"{self._host} asks for its login to be sent to {place[:200]}, which is another site",
                hint=f"if you trust it, set {login_hosts_setting(self._host, place)}; "
                f"if not, run `lamina logout {self._host}`",
            )


def basic(credential: Credential) -> str:
    """Return the header for basic authentication (RFC 7617)."""
    pair = f"{credential.username}:{credential.password}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"
