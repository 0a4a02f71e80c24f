"""Conditional requests (pure): If-None-Match and If-Range, RFC 9110 section 13. The tag of what never changes is its
digest."""

from __future__ import annotations

from collections.abc import Mapping


def is_known(headers: Mapping[str, str], tag: str) -> bool:
    """Whether the client has what has this entity tag (If-None-Match). A digest without quotes counts too: some
    clients send it so."""
    text = headers.get("If-None-Match", "")
    if text.strip() == "*":
        return True
    return any(one.strip().removeprefix("W/") in (tag, tag.strip('"')) for one in text.split(","))


def range_of(headers: Mapping[str, str], tag: str) -> str | None:
    """Return the Range header; None if there is none, or if the client wants the whole because it has a part of
    something else (If-Range)."""
    condition = headers.get("If-Range", "").strip()
    return headers.get("Range") if condition in ("", tag) else None
