"""Scan the upper directory of an overlay into entries of a layer, with whiteouts and opaque marks in OCI's form."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace

from lamina.host.files import failure
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.scan.directory import OnWarning, scan

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def scan_upper(upper: str, *, on_warning: OnWarning = lambda text: None) -> Iterator[Item]:
    """Yield everything in ``upper``, sorted by name; an OPAQUE entry follows its directory. The root is left out.
    Raises NotFound, SystemFailure."""
    hidden: set[bytes] = set()
    for entry, opened in scan(upper, owner=None, on_warning=on_warning):
        # the kernel makes its whiteouts hard links of one inode, so that only the first is seen as a device
        if (entry.kind == Kind.CHAR and entry.rdev == (0, 0)) or (
            entry.kind == Kind.HARDLINK and entry.link in hidden
        ):
            hidden.add(entry.path)
            yield Entry(entry.path, Kind.WHITEOUT), None
            continue
        yield entry, opened
        if entry.kind == Kind.DIRECTORY and _is_opaque(os.path.join(os.fsencode(upper), entry.path)):
            yield replace(entry, kind=Kind.OPAQUE, xattrs={}), None


def _is_opaque(path: bytes) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
                raise failure(error, path) from error
    return False
