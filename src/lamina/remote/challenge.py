"""Parsing of challenges in 401 answers, and of a token server's answers (pure).

RFC 9110, section 11.6.1 (WWW-Authenticate); distribution's documents on token authentication and scope.
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
DEFAULT_LIFE = 60  # seconds; used if the server states nothing, and the minimum
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_GAP = pattern(r"[\s,]*")
_SCHEME = pattern(rf"({_TOKEN})(?=\s|,|$)\s*")
_PARAMETER = pattern(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)(?:"|$)|([^\s,"]*))')
_TOKEN68 = pattern(r"[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")


class Challenge(Value):
    """A challenge; ``scheme`` and the keys of ``parameters`` are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


class Token(Value):
    """A token. ``expires`` is in seconds on the clock of ``now``. The value is secret, so it is not in the repr."""

    value: str
    expires: float

    def __repr__(self) -> str:
        return f"<Token until {self.expires:.0f}>"


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Return all challenges of all WWW-Authenticate headers; a header may have several. Unreadable ones are skipped,
    because registries are sloppy here."""
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
            at = header.find(",", at)  # junk: what follows may be good
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
    """Parse a token server's answer: ``token`` or ``access_token``, with its lifetime counted from ``now`` on our
    clock (theirs may be wrong). Raises InvalidDocument."""
    try:
        value = load(raw, what, limit=MAX_TOKEN)
    except LaminaError as error:
        raise InvalidDocument(
            f"{what} can't be read: {error.message}", hint="check the realm: it may not be a token server"
        ) from None
    token = value.get("token") or value.get("access_token")
    # printable ASCII only, because it is sent in a header
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidDocument(f"{what} has no token", hint="check the realm: it may not be a token server")
    life = value.get("expires_in")
    seconds = life if type(life) is int and DEFAULT_LIFE <= life < 10**9 else DEFAULT_LIFE
    return Token(token, now + seconds)


def scope(kind: str, name: str, actions: str) -> str:
    """Return a scope such as ``repository:library/debian:pull``."""
    return f"{kind}:{name}:{actions}"


def merge_scopes(scopes: Iterable[str]) -> list[str]:
    """Merge scopes to one for each resource, with all its actions, in their original order. Names may
    contain colons."""
    actions: dict[str, dict[str, None]] = {}
    for text in scopes:
        resource, colon, what = text.rpartition(":")
        if colon and resource:
            actions.setdefault(resource, {}).update(dict.fromkeys(what.split(",")))
    return [f"{resource}:{','.join(what)}" for resource, what in actions.items()]


def check_realm(realm: str, host: str, plain: bool) -> None:
    """Check that credentials may be sent to ``realm``: by https, by plain http to a loopback host (``Client`` asks
    one only for a registry that is there too), or with ``plain`` (the user allowed plain http to the registry) by
    plain http to the registry's own host. Raises InvalidContent."""
    if not _safe(realm, host, plain):
        raise InvalidContent(
            f"{host} names an unsafe token server: {realm[:200]!r}",
            hint="report it to the registry's operator: credentials are only sent by https",
        )


def _safe(realm: str, host: str, plain: bool) -> bool:
    if not realm.isascii() or not realm.isprintable() or " " in realm:
        return False
    try:
        parts = urlsplit(realm)
        name, own = parts.hostname, urlsplit(f"//{host}").hostname
        _ = parts.port  # checks the port
    except ValueError:  # brackets without an IPv6 address, a port beyond 65535
        return False
    # programs disagree about where such a host ends
    if not name or parts.username is not None or "\\" in parts.netloc:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (is_loopback(name) or (plain and name == own)))
