"""Tokens and credentials of one host: from a challenge to an Authorization header.

After docker's token protocol (distribution: token authentication, scope) and RFC 7617. A token is asked for once,
however many threads want it, and again before it ends.
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
from lamina.remote.site import how_to_tell, may_have_login

MARGIN = 10.0  # seconds before its end in which a token is not used any more
_CLIENT_ID = "lamina"
_MAX_REDIRECTS = 5


class Exchange(Protocol):
    """Sends a request as it is, with retries and without authentication."""

    def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer: ...


class Authorizer:
    """``find`` gives the credential for this host, asked once; ``plain`` says whether http is spoken to it. ``told``:
    where the user has said that logins may go, as (registry, host)."""

    def __init__(
        self,
        host: str,
        find: Callable[[], Credential | None],
        exchange: Exchange,
        *,
        plain: bool,
        told: Collection[tuple[str, str]] = (),
        bearer: str = "",
    ) -> None:
        self._host = host
        self._find = find
        self._exchange = exchange
        self._plain = plain
        self._told = told
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
        """What is known to open these scopes now; "" for nothing. A token near its end is renewed first."""
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
        """Make of a 401 what opens these scopes. False where nothing more can be done: the 401 stands.
        Raises AccessDenied (the token server refuses the credential), RemoteFailure, InvalidContent."""
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
        """A fresh token for what is wanted, and for what the challenge names on top."""
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
                    f"{place} refuses the credential for {self._host}"
                    if credential is not None
                    else f"{place} gives no anonymous token for {self._host}",
                    hint=f"`lamina login {self._host}`",
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
        """OAuth2's way, for identity tokens; None where the server has it not."""
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
        """Ask a token server, and the one that it redirects to: each must be one that the login may go to."""
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
        """That a token may be asked for there. Raises InvalidContent, AccessDenied."""
        check_realm(url, self._host, self._plain)
        place = urlsplit(url).netloc
        if self.credential is not None and not may_have_login(self._host, place, self._told):
            raise AccessDenied(
                f"{self._host} asks for its login to be sent to {place[:200]}, which is another site",
                hint=f"if you trust it, set {how_to_tell(self._host, place)}; else `lamina logout {self._host}`",
            )


def basic(credential: Credential) -> str:
    """RFC 7617."""
    pair = f"{credential.username}:{credential.password}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"
