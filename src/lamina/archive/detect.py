"""Detection of what a path holds, for `load`."""

from __future__ import annotations

import os

from lamina.archive.docker import DockerArchiveReader
from lamina.archive.layout import LayoutReader
from lamina.archive.oci import OciArchiveReader
from lamina.archive.tar_members import Members
from lamina.errors import InvalidDocument

AnyReader = LayoutReader | OciArchiveReader | DockerArchiveReader


def open_any(path: str) -> AnyReader:
    """Open the layout directory or archive at ``path``; ``-`` is an archive on standard input.

    Raises NotFound; InvalidDocument if it is neither.
    """
    if path != "-" and os.path.isdir(path):
        return LayoutReader(path)
    members = Members(path)
    if "manifest.json" in members:
        return DockerArchiveReader(path, members)
    if "index.json" in members:
        return OciArchiveReader(path, members)
    shown = "standard input" if path == "-" else path
    raise InvalidDocument(
        f"{shown} is neither a docker-archive nor an oci-archive",
        hint="check the file: it has no manifest.json and no index.json",
    )
