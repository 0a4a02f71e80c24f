"""Names of members and hardlink targets, made relative and safe (pure). One place decides what a name may be."""

from __future__ import annotations

from lamina.errors import InvalidLayer, LimitExceeded

MAX_PATH = 4096  # bytes, as Linux has it
MAX_COMPONENT = 255


def normalise(name: bytes) -> bytes:
    """``./usr//bin/`` and ``/usr/bin`` are ``usr/bin``; the root is ``b""``. Absolute names are the root's own
    (Nix writes them).

    Raises InvalidLayer for ``..`` components and zero bytes, LimitExceeded for what no Linux file can be called.
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
        raise InvalidLayer(f"a zero byte in the name {name!r:.200}", hint="the layer is malformed")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidLayer(f"the name {name!r:.300} leads out of its directory", hint="refused: the layer is hostile")
    path = b"/".join(parts)
    if len(path) > MAX_PATH or (len(path) > MAX_COMPONENT and max(map(len, parts)) > MAX_COMPONENT):
        raise LimitExceeded(
            f"the name {name!r:.60}... has {len(name)} bytes",
            hint=f"limits: path {MAX_PATH}, component {MAX_COMPONENT}",
        )
    return path
