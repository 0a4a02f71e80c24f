"""Scan the upper directory of an overlay into entries of a layer, with whiteouts and opaque marks in OCI's form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from lamina.errors import NotFound
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.scan.directory import OnWarning, scan_files
from lamina.scan.files import Files, HostFiles


def scan_upper(upper: str, *, on_warning: OnWarning = lambda text: None) -> Iterator[Item]:
    """Yield everything in the directory ``upper``, sorted by name; an OPAQUE entry follows its directory. The root is
    left out. Raises NotFound, SystemFailure."""
    if not os.path.isdir(upper):
        raise NotFound(f"{upper!r:.300} is not a directory", hint="check the path")
    yield from scan_upper_files(HostFiles(upper), on_warning=on_warning)


def scan_upper_files(files: Files, *, on_warning: OnWarning = lambda text: None) -> Iterator[Item]:
    """As ``scan_upper``, for any tree of files."""
    hidden: set[bytes] = set()
    for entry, opened in scan_files(files, owner=None, on_warning=on_warning):
        # the kernel makes its whiteouts hard links of one inode, so that only the first is seen as a device
        if (entry.kind == Kind.CHAR and entry.rdev == (0, 0)) or (
            entry.kind == Kind.HARDLINK and entry.link in hidden
        ):
            hidden.add(entry.path)
            yield Entry(entry.path, Kind.WHITEOUT), None
            continue
        yield entry, opened
        if entry.kind == Kind.DIRECTORY and files.is_opaque(entry.path):
            yield replace(entry, kind=Kind.OPAQUE, xattrs={}), None
