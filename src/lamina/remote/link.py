"""The ``Link`` header of paginated lists, by RFC 8288 and as registries write it (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lamina.errors import RemoteFailure
from lamina.light import pattern

MAX_LINK = 8 << 10  # characters of a header that are parsed
_TARGET = pattern(r"[\s,]*(?:<([^>]*)>|([^\s;<>]+))\s*")
_PARAMETER = pattern(r';\s*([A-Za-z0-9!#$&+.^_`|~*-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?\s*')


def next_page(headers: Iterable[str], what: str) -> str | None:
    """Return the URL of the next page as written; None if this is the last.

    Some registries omit the angle brackets, some the relation: a URL without a relation counts as the next page.
    Raises RemoteFailure for an unreadable header, because a list must not be cut short silently.
    """
    for header in headers:
        if len(header) > MAX_LINK:
            raise _unread(header, what)
        for target, relations in _links(header, what):
            if relations is None or "next" in relations:
                return target
    return None


def _links(header: str, what: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield each URL with its relations in lower case; None if it has none."""
    at = 0
    while header[at:].strip(" \t,"):
        found = _TARGET.match(header, at)
        if found is None:
            raise _unread(header, what)
        at = found.end()
        relations: list[str] | None = None
        while parameter := _PARAMETER.match(header, at):
            at = parameter.end()
            if parameter[1].lower() == "rel":
                value = parameter[3] if parameter[2] is None else parameter[2]
                relations = (value or "").lower().split()
        if header[at:].strip() and header[at] != ",":
            raise _unread(header, what)
        yield found[2] if found[1] is None else found[1], relations


def _unread(header: str, what: str) -> RemoteFailure:
    return RemoteFailure(
        f"{what}: the link to the next page is invalid: {header[:200]!r}",
        hint="report it to the registry's operator",
    )
