"""Parsing of request lines (pure): distribution-spec, "API" and "Error Codes"."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAIL = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<rest>.*)")
TOKEN_PATH = "/token"
MAX_NAME = 255
MAX_PAGE = 10_000
MAX_BATCH = 100


class ApiError(Exception):
    """An error response: status, the spec's error code, a message, and more headers."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}

    def body(self) -> bytes:
        return json.dumps({"errors": [{"code": self.code, "message": str(self), "detail": None}]}).encode()


@dataclass(frozen=True, slots=True)
class Route:
    """A parsed request line. ``kind`` is "base", "token", "catalog", "manifest", "blob", "uploads", "upload", "tags"
    or "referrers"; ``rest`` is the tag, the digest or the id of the upload."""

    kind: str
    name: str = ""
    rest: str = ""
    query: dict[str, list[str]] = field(default_factory=dict)

    def one(self, key: str) -> str:
        """Return the first value of a query parameter; "" if it is missing."""
        return self.query.get(key, [""])[0]


def parse_target(target: str) -> Route:
    """Parse the target of a request. Raises ApiError (404 if it is not a path of the API, 400 NAME_INVALID)."""
    try:
        parts = urlsplit(target)
        fields = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_BATCH)
    except ValueError:
        raise ApiError(400, "UNSUPPORTED", "the URL is invalid") from None
    path = unquote(parts.path)
    query: dict[str, list[str]] = {}
    for key, value in fields:
        query.setdefault(key, []).append(value)
    if path in ("/v2", "/v2/"):
        return Route("base", query=query)
    if path == TOKEN_PATH:
        return Route("token", query=query)
    if path == "/v2/_catalog":
        return Route("catalog", query=query)
    found = _TAIL.fullmatch(path)
    if found is None:
        raise ApiError(404, "UNSUPPORTED", "no such path")
    name, kind, rest = found["name"], found["kind"], found["rest"]
    if kind == "blobs" and (rest == "uploads" or rest.startswith("uploads/")):
        ident = rest.removeprefix("uploads").strip("/")
        kind, rest = ("upload", ident) if ident else ("uploads", "")
    elif kind == "tags":
        if rest != "list":
            raise ApiError(404, "UNSUPPORTED", "no such path")
        rest = ""
    else:
        kind = {"manifests": "manifest", "blobs": "blob"}.get(kind, kind)
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ApiError(400, "NAME_INVALID", f"{name[:100]!r} is not a repository name")
    return Route(kind, name, rest, query)


def wanted_page(query: dict[str, list[str]]) -> tuple[str, int | None]:
    """Return after which name a page begins ("" for the first), and how many names it has (None: all). Raises
    ApiError."""
    last = query.get("last", [""])[0]
    text = query.get("n", [""])[0]
    if not text:
        return last, None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise ApiError(400, "PAGINATION_NUMBER_INVALID", f"n={text[:20]!r} is not a number")
    return last, min(int(text), MAX_PAGE)


def next_page(names: list[str], count: int | None, path: str) -> tuple[list[str], str]:
    """Return the first ``count`` names, and the Link header to the page after them ("" if they are all)."""
    if count is None or len(names) <= count or count == 0:
        return names if count is None else names[:count], ""
    shown = names[:count]
    return shown, f'<{path}?{urlencode({"n": count, "last": shown[-1]})}>; rel="next"'
