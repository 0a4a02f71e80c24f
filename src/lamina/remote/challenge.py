"""What a registry asks for when it answers 401, and what a token server answers (pure).

RFC 9110 11.6.1 (WWW-Authenticate); distribution's token authentication and scope documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from lamina.errors import InvalidContent, InvalidDocument, LaminaError
from lamina.light import Value, pattern
from lamina.remote.loopback import is_loopback
from lamina.spec.json import load

MAX_HEADER = 16 << 10
MAX_TOKEN = 1 << 20
DEFAULT_LIFE = 60  # seconds, where the server says nothing, and the least there is
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_GAP = pattern(r"[\s,]*")
_SCHEME = pattern(rf"({_TOKEN})(?=\s|,|$)\s*")
_PARAMETER = pattern(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)(?:"|$)|([^\s,"]*))')
_TOKEN68 = pattern(r"[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")


class Challenge(Value):
    """``scheme`` and the keys of ``parameters`` in lower case."""

    scheme: str
    parameters: Mapping[str, str]


class Token(Value):
    """``expires`` on the clock that ``now`` was taken from, in seconds. It is a secret: its repr is not."""

    value: str
    expires: float

    def __repr__(self) -> str:
        return f"<Token until {self.expires:.0f}>"


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of all WWW-Authenticate headers, several in one among them. What can't be read is passed over:
    registries are sloppy here."""
    found: list[Challenge] = []
    for header in headers:
        if len(header) <= MAX_HEADER:
            found += _parse(header)
    return tuple(found)


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while gap := _GAP.match(header, at):
        at = gap.end()
        scheme = _SCHEME.match(header, at)
        if scheme is None:
            at = header.find(",", at)  # junk: what follows it may be good
            if at < 0:
                break
            continue
        at = scheme.end()
        parameters: dict[str, str] = {}
        blob = _TOKEN68.match(header, at)
        if blob:
            at = blob.end()
        while parameter := _PARAMETER.match(header, at):
            quoted, plain = parameter[2], parameter[3]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(parameter[1].lower(), value)
            at = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


def parse_token(raw: bytes, now: float, what: str) -> Token:
    """A token server's answer: ``token`` or ``access_token``, with its life counted from ``now`` (our clock: theirs
    may be wrong). Raises InvalidDocument."""
    try:
        value = load(raw, what, limit=MAX_TOKEN)
    except LaminaError as error:
        raise InvalidDocument(f"{what} can't be read: {error.message}", hint="is that a token server?") from None
    token = value.get("token") or value.get("access_token")
    # printable ASCII only: it goes into a header
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidDocument(f"{what} holds no token", hint="is that a token server?")
    life = value.get("expires_in")
    seconds = life if type(life) is int and DEFAULT_LIFE <= life < 10**9 else DEFAULT_LIFE
    return Token(token, now + seconds)


def scope(kind: str, name: str, actions: str) -> str:
    """``repository:library/debian:pull``."""
    return f"{kind}:{name}:{actions}"


def merge_scopes(scopes: Iterable[str]) -> list[str]:
    """One scope a resource, its actions together, in the order in which they came. Names may hold colons."""
    actions: dict[str, dict[str, None]] = {}
    for text in scopes:
        resource, colon, what = text.rpartition(":")
        if colon and resource:
            actions.setdefault(resource, {}).update(dict.fromkeys(what.split(",")))
    return [f"{resource}:{','.join(what)}" for resource, what in actions.items()]


def check_realm(realm: str, host: str, plain: bool) -> None:
    """That credentials may go to ``realm``: https, or plain http on a loopback host, or (``plain``: the registry is
    spoken to in plain http, because the user said so) on the registry's own host. Raises InvalidContent."""
    if not _safe(realm, host, plain):
        raise InvalidContent(
            f"{host} sends for a token to {realm[:200]!r}",
            hint="credentials go to https only; ask the registry's makers",
        )


def _safe(realm: str, host: str, plain: bool) -> bool:
    if not realm.isascii() or not realm.isprintable() or " " in realm:
        return False
    try:
        parts = urlsplit(realm)
        name, own = parts.hostname, urlsplit(f"//{host}").hostname
        _ = parts.port  # read for its check
    except ValueError:  # brackets that are no IPv6 address, a port beyond 65535
        return False
    if not name or parts.username is not None or "\\" in parts.netloc:  # where it ends, not all are agreed
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (is_loopback(name) or (plain and name == own)))
