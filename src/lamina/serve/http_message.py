"""Requests and responses of the registry, and helpers for several answers (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from lamina.errors import UsageError
from lamina.serve.permit import EVERYTHING, Permit
from lamina.serve.routes import ApiError, Route
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.source.protocols import Blob


@dataclass(frozen=True)
class Asker:
    """The client: ``address`` of the connection, and ``name`` of the user ("" if it is not known). Before the gate,
    ``name`` is the one in the client's verified certificate."""

    address: str = ""
    name: str = ""


@dataclass
class Request:
    """A request. ``body`` yields the pieces as they come, once. ``length`` is the Content-Length in bytes,
    if stated. ``scheme``: how the client reaches the server (``http`` or ``https``). ``permit``: what the client may
    do; the gate of ``access`` sets it."""

    method: str
    route: Route
    headers: Mapping[str, str]
    body: Iterator[bytes]
    length: int | None = None
    asker: Asker = Asker()
    scheme: str = "http"
    permit: Permit = EVERYTHING

    @property
    def target(self) -> str:
        return f"/v2/{self.route.name}"


@dataclass
class Response:
    """A response. Its body is ``body``, or the range ``start`` to ``end`` of ``blob``; a HEAD request gets only its
    size."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    blob: Blob | None = None
    start: int = 0
    end: int = 0


def repository_of(route: Route) -> str:
    """Return the canonical repository of a request, as ``source.served`` has it. Raises ApiError."""
    return repository_named(route.name, route.one("ns"))


def repository_named(name: str, host: str = "") -> str:
    """Return the canonical repository of a name in a URL. ``host``: the registry that the client means ("" for this
    one). Raises ApiError."""
    try:
        return Reference.parse(f"{host}/{name}" if host else name).repository
    except UsageError as error:
        raise ApiError(400, "NAME_INVALID", error.message) from None


def ns_of(route: Route) -> str:
    return f"?{urlencode({'ns': route.one('ns')})}" if route.one("ns") else ""


def digest_of(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except UsageError as error:
        raise ApiError(400, "DIGEST_INVALID", error.message) from None


def digest_or_none(text: str) -> Digest | None:
    return digest_of(text) if ":" in text else None


def no_manifest(name: str) -> ApiError:
    return ApiError(404, "MANIFEST_UNKNOWN", f"manifest {name[:150]} not found")


def as_json(value: object, link: str = "") -> Response:
    headers = {"Content-Type": "application/json"}
    if link:
        headers["Link"] = link
    return Response(200, headers, json.dumps(value).encode())


def as_warning(text: str) -> str:
    """Return the value of a Warning header, which clients show to their users."""
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in text[:500])
    quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{quoted}"'


def whole_body(pieces: Iterable[bytes], length: int | None) -> bytes:
    too_large = ApiError(413, "MANIFEST_INVALID", f"a manifest has at most {MAX_DOCUMENT} bytes")
    if length is not None and length > MAX_DOCUMENT:
        raise too_large
    parts, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_DOCUMENT:
            raise too_large
        parts.append(piece)
    return b"".join(parts)
