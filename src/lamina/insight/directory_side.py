"""A directory of this host as one side of a comparison."""

from __future__ import annotations

import os

from lamina.insight.side import Side
from lamina.scan.directory import OnWarning, scan, scan_file
from lamina.scan.host_layer import ScannedLayer


def directory_side(path: str, *, on_warning: OnWarning = lambda text: None) -> Side:
    """Return everything in the directory, with owners; symlinks are not followed. Raises NotFound, SystemFailure."""
    where = os.path.abspath(path)
    items = scan(where, owner=None, on_warning=on_warning)
    first = next(items, None)  # fails for anything but a directory, before scan_file reads it
    rest = () if first is None else (first, *items)
    return Side(path, [ScannedLayer([scan_file(where, b"", owner=None), *rest], where)], kind="directory")
