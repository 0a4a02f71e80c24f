"""``--dns``, ``--dns-search`` and ``--dns-option``, and a container's resolv.conf with them (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lamina.errors import UsageError

_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:"


def parse_server(word: str) -> str:
    """The address of a name server. Raises UsageError."""
    import ipaddress

    try:
        ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        raise UsageError(
            f"--dns {word!r:.100} is not an address", hint="write it like 10.0.0.53 or fd00::53"
        ) from None
    if set(word.partition("%")[2]) - set(_WORD):
        raise UsageError(f"--dns {word!r:.100} is not an address", hint="write it like 10.0.0.53 or fd00::53")
    return word


def parse_word(word: str, flag: str) -> str:
    """A search domain, or an option of resolv.conf(5). Raises UsageError."""
    if not word or set(word) - set(_WORD):
        raise UsageError(f"{flag} {word!r:.100} is not valid in resolv.conf", hint="use letters, digits, . - _ and :")
    return word


def with_dns(text: str, servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> str:
    """The resolv.conf ``text`` with the given values instead of its own. As with docker, a kind that is not given is
    kept. The search domain ``.`` means no search domain."""
    given = {"nameserver": servers, "search": search, "options": options}
    kept = [line for line in text.splitlines() if not _replaced(line, given)]
    kept += [f"nameserver {one}" for one in servers]
    domains = [one for one in search if one != "."]
    if domains:
        kept.append("search " + " ".join(domains))
    if options:
        kept.append("options " + " ".join(options))
    return "".join(line + "\n" for line in kept)


def _replaced(line: str, given: dict[str, Sequence[str]]) -> bool:
    first: Iterable[str] = line.split()[:1]
    return any(given.get("search" if word == "domain" else word) for word in first)
