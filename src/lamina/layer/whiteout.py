"""Whiteout names (image-spec layer.md, "Whiteouts"): the one place that makes and reads them. Pure.

The name decides, not the type: real images ship whiteouts as hardlinks and with content.
"""

from __future__ import annotations

from lamina.errors import InvalidLayer
from lamina.layer.entry import Kind

PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
_AUFS = b".wh..wh."
_AUFS_LINKS = b".wh..wh.plnk/"


def classify(name: bytes) -> tuple[Kind, bytes] | None:
    """What a base name means: (WHITEOUT, hidden name), (OPAQUE, b""), or None for an ordinary file.

    ``.wh..wh.*`` other than the opaque mark belongs to AUFS itself: (WHITEOUT, b""), to be skipped. But a name
    that begins with the opaque mark hides that name without its first ``.wh.``, as every other.
    Raises InvalidLayer for a whiteout of nothing, of ``.`` or of ``..``.
    """
    if not name.startswith(PREFIX):
        return None
    if name == OPAQUE_NAME:
        return Kind.OPAQUE, b""
    if name.startswith(_AUFS) and not name.startswith(OPAQUE_NAME):
        return Kind.WHITEOUT, b""
    hidden = name[len(PREFIX) :]
    if hidden in (b"", b".", b".."):
        raise InvalidLayer(f"a whiteout of {hidden!r} means nothing", hint="the layer is malformed")
    return Kind.WHITEOUT, hidden


def is_aufs_own(path: bytes) -> bool:
    """Whether a path is, or lies below, what AUFS keeps for itself at the root of a layer: ``.wh..wh.aufs``,
    ``.wh..wh.orph``, ``.wh..wh.plnk``. None of it is ever shown."""
    return path.startswith(_AUFS) and not path.startswith(OPAQUE_NAME)


def is_aufs_link(path: bytes) -> bool:
    """Whether a path lies in AUFS's directory of files with several names, which hardlinks elsewhere name."""
    return path.startswith(_AUFS_LINKS)


def path_for(hidden: bytes) -> bytes:
    """The path of the whiteout file that hides the path ``hidden``."""
    parent, slash, name = hidden.rpartition(b"/")
    return parent + slash + PREFIX + name


def opaque_path_for(directory: bytes) -> bytes:
    """The path of the mark that hides what lower layers have in ``directory``."""
    return directory + b"/" + OPAQUE_NAME if directory else OPAQUE_NAME
