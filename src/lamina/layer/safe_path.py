"""Names of members and targets of hard links, made relative and safe (pure). The only place that decides which names
are allowed."""

from __future__ import annotations

from lamina.errors import InvalidLayer, LimitExceeded

MAX_PATH = 4096  # bytes, Linux's limit
MAX_COMPONENT = 255


def normalise(name: bytes) -> bytes:
    """Normalise a name: ``./usr//bin/`` and ``/usr/bin`` become ``usr/bin``; the root is ``b""``. Absolute names,
    which Nix writes, are relative to the root.

    Raises InvalidLayer for ``..`` components and zero bytes, LimitExceeded for names that Linux can't have.
    """
    if (
        len(name) <= MAX_COMPONENT
        and b"//" not in name
        and b"/." not in name
        and b"\0" not in name
        and name[:1] not in (b".", b"/", b"")
    ):
        return name[:-1] if name.endswith(b"/") else name
    if b"\0" in name:
        raise InvalidLayer(
            f"the name {name!r:.200} contains a zero byte", hint="report it to the publisher of the image"
        )
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidLayer(
            f"the name {name!r:.300} leads out of its directory (..)", hint="don't use this layer: it may be hostile"
        )
    path = b"/".join(parts)
    if len(path) > MAX_PATH or (len(path) > MAX_COMPONENT and max(map(len, parts)) > MAX_COMPONENT):
        raise LimitExceeded(
            f"the name {name!r:.60}... is too long: {len(name)} bytes",
            hint=f"use shorter names: a path has at most {MAX_PATH} bytes, a component {MAX_COMPONENT}",
        )
    return path
