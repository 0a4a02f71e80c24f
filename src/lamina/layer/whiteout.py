"""Whiteout names (image-spec layer.md, "Whiteouts"): the only place that makes and reads them. Pure.

The name decides, not the type: real images contain whiteouts that are hard links or have content.
"""

from __future__ import annotations

from lamina.errors import InvalidLayer
from lamina.layer.entry import Kind

PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
_AUFS = b".wh..wh."
_AUFS_LINKS = b".wh..wh.plnk/"


def classify(name: bytes) -> tuple[Kind, bytes] | None:
    """Classify a base name: (WHITEOUT, hidden name), (OPAQUE, b""), or None for an ordinary file.

    ``.wh..wh.*`` other than the opaque mark belongs to AUFS itself: (WHITEOUT, b""), to be skipped. But a name that
    begins with the opaque mark is an ordinary whiteout: it hides the name without its first ``.wh.``. Raises
    InvalidLayer for a whiteout of nothing, of ``.`` or of ``..``.
    """
    if not name.startswith(PREFIX):
        return None
    if name == OPAQUE_NAME:
        return Kind.OPAQUE, b""
    if name.startswith(_AUFS) and not name.startswith(OPAQUE_NAME):
        return Kind.WHITEOUT, b""
    hidden = name[len(PREFIX) :]
    if hidden in (b"", b".", b".."):
        raise InvalidLayer(
            f"invalid whiteout: it hides {hidden!r}", hint="fetch or build the layer again: it is malformed"
        )
    return Kind.WHITEOUT, hidden


def is_aufs_own(path: bytes) -> bool:
    """Whether a path is, or lies below, AUFS's own files at the root of a layer: ``.wh..wh.aufs``, ``.wh..wh.orph``,
    ``.wh..wh.plnk``. They are never shown."""
    return path.startswith(_AUFS) and not path.startswith(OPAQUE_NAME)


def is_aufs_link(path: bytes) -> bool:
    """Whether a path is in AUFS's directory of files with several names; hard links elsewhere refer to them."""
    return path.startswith(_AUFS_LINKS)


def path_for(hidden: bytes) -> bytes:
    """Return the path of the whiteout for the path ``hidden``."""
    parent, slash, name = hidden.rpartition(b"/")
    return parent + slash + PREFIX + name


def opaque_path_for(directory: bytes) -> bytes:
    """Return the path of the opaque mark of ``directory``."""
    return directory + b"/" + OPAQUE_NAME if directory else OPAQUE_NAME
