"""Which kind of place a path is, for `load`."""

from __future__ import annotations

import os

from lamina.archive.docker import DockerArchiveReader
from lamina.archive.layout import LayoutReader
from lamina.archive.oci import OciArchiveReader
from lamina.archive.tar_members import Members
from lamina.errors import InvalidDocument

AnyReader = LayoutReader | OciArchiveReader | DockerArchiveReader


def open_any(path: str) -> AnyReader:
    """A reader of the layout directory or archive at ``path`` (``-``: an archive from standard input).

    Raises NotFound, InvalidDocument where it is none of them.
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
        f"{shown} is neither a docker-archive nor an oci-archive", hint="it has no manifest.json and no index.json"
    )
