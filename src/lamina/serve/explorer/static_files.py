"""The files of the page: HTML, styles, scripts and pictures that are part of this package."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache

from lamina.serve.explorer.asked import Answer, Refused

DIRECTORY = os.path.join(os.path.dirname(__file__), "static")
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "webp": "image/webp",
    "woff2": "font/woff2",
    "txt": "text/plain; charset=utf-8",
}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,3}")


def static_file(name: str, known: str = "") -> Answer:
    """Return a file of the page. ``known``: the entity tags that the client has. Raises Refused (404)."""
    found = _load(name)
    if found is None:
        raise Refused(404, "not_found", "no such file")
    media_type, data, tag = found
    headers = {"Content-Type": media_type, "Cache-Control": "no-cache", "ETag": tag}
    if tag in known:
        return Answer(304, headers)
    return Answer(200, headers, data)


@lru_cache(maxsize=200)
def _load(name: str) -> tuple[str, bytes, str] | None:
    media_type = _TYPES.get(name.rpartition(".")[2])
    if media_type is None or not _NAME.fullmatch(name):
        return None
    try:
        with open(os.path.join(DIRECTORY, *name.split("/")), "rb") as file:
            data = file.read()
    except OSError:
        return None
    return media_type, data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
