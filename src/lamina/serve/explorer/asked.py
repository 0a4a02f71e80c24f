"""Requests to the explorer and its answers, and the reading of parameters (pure)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from lamina.serve.http_message import Asker
from lamina.serve.permit import EVERYTHING

if TYPE_CHECKING:
    from typing import Any

    from lamina.serve.permit import Permit
    from lamina.source.protocols import Stream

MAX_FIELDS = 40
MAX_TARGET = 16 << 10
MAX_PATH = 4096
MAX_LIMIT = 5000
MAX_OFFSET = 1 << 40
LIMIT = 200


class Refused(Exception):
    """An answer that is an error: status, code for programs, message and hint for people."""

    def __init__(self, status: int, code: str, message: str, hint: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.hint = hint
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}

    def answer(self) -> Answer:
        value = {"error": {"code": self.code, "message": str(self)[:2000], "hint": self.hint}}
        return Answer.of_json(value, self.status, self.headers)


@dataclass
class Answer:
    """An answer. Its body is ``body``, or ``length`` bytes of ``stream``, which the server closes."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Stream | None = None
    length: int = 0

    @classmethod
    def of_json(cls, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
        fixed = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "private, no-cache"}
        return cls(status, {**fixed, **(headers or {})}, body)


@dataclass(frozen=True)
class Asked:
    """A request to the explorer: ``path`` decoded, ``query`` with the first value of each parameter;
    ``permit`` says what the asker may see."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    asker: Asker = field(default_factory=Asker)
    method: str = "GET"
    permit: Permit = EVERYTHING

    @classmethod
    def parse(
        cls,
        method: str,
        target: str,
        headers: Mapping[str, str],
        asker: Asker,
        permit: Permit = EVERYTHING,
    ) -> Asked:
        """Parse the target of a request. ``headers``: names in lower case. Raises Refused."""
        if len(target) > MAX_TARGET:
            raise Refused(414, "bad_request", "the URL is too long")
        try:
            parts = urlsplit(target)
            pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
            path = unquote(parts.path, errors="strict")
        except ValueError:
            raise Refused(400, "bad_request", "the URL is invalid") from None
        query: dict[str, str] = {}
        for key, value in pairs:
            query.setdefault(key, value)
        return cls(path, query, headers, asker, method, permit)

    def text(self, key: str, most: int = 2000) -> str:
        """Return a parameter; "" if it is missing. Raises Refused."""
        found = self.query.get(key, "")
        if len(found) > most:
            raise Refused(400, "bad_request", f"{key} is too long")
        return found

    def needed(self, key: str, most: int = 2000) -> str:
        found = self.text(key, most)
        if not found:
            raise Refused(400, "bad_request", f"the parameter {key} is missing")
        return found

    def number(self, key: str, default: int, most: int, least: int = 0) -> int:
        """Return a number between ``least`` and ``most``; larger ones count as ``most``. Raises Refused."""
        text = self.query.get(key, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 15 or int(text) < least:
            raise Refused(400, "bad_request", f"{key}={text[:20]!r} is not a number of at least {least}")
        return min(int(text), most)

    def flag(self, key: str) -> bool:
        text = self.query.get(key, "")
        if text not in ("", "0", "1"):
            raise Refused(400, "bad_request", f"{key} is 0 or 1")
        return text == "1"

    def choice(self, key: str, *choices: str) -> str:
        """Return one of ``choices``; the first if the parameter is missing. Raises Refused."""
        text = self.query.get(key, "") or choices[0]
        if text not in choices:
            raise Refused(400, "bad_request", f"{key} is one of {', '.join(filter(None, choices))}")
        return text

    def image_path(self) -> bytes:
        """Return the path of ``path`` or ``path_b64``: relative, the root is b"". Raises Refused."""
        coded = self.text("path_b64", 2 * MAX_PATH)
        if coded:
            try:
                path = base64.b64decode(coded.replace(" ", "+"), validate=True)
            except (binascii.Error, ValueError):
                raise Refused(400, "bad_request", "path_b64 is not base64") from None
        else:
            path = self.text("path", MAX_PATH).encode("utf-8", "surrogateescape")
        if b"\0" in path or len(path) > MAX_PATH:
            raise Refused(400, "bad_request", "the path is invalid")
        return b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))

    def page(self) -> tuple[int, int]:
        """Return ``offset`` and ``limit``. Raises Refused."""
        return self.number("offset", 0, MAX_OFFSET), self.number("limit", LIMIT, MAX_LIMIT, 1)


def cut_page(items: Any, offset: int, limit: int) -> dict[str, int]:
    """Return the fields of a page of ``items``."""
    return {"offset": offset, "total": len(items)}
