"""Detection of what a path holds, for `load`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.archive.layout import LayoutReader
from lamina.archive.tar_members import Members
from lamina.errors import InvalidDocument
from lamina.spec.transport import TRANSPORTS, or_list

if TYPE_CHECKING:
    from lamina.source.served import Readable


def open_any(path: str) -> Readable:
    """Open the layout directory, archive or storage of a docker-registry at ``path``; ``-`` is an archive on standard
    input.

    Raises NotFound; InvalidDocument if it is neither.
    """
    if path != "-" and os.path.isdir(path):
        from lamina.archive.docker_registry_storage import storage_in

        if storage_in(path) is None:
            return LayoutReader(path)
        from lamina.archive.docker_registry import DockerRegistryReader

        return DockerRegistryReader(path)
    members = Members(path)
    tars = [one for one in TRANSPORTS if one.tar_member]
    for transport in tars:
        if transport.tar_member in members:
            return transport.reader_class()(path, members)  # type: ignore[no-any-return]
    shown = "standard input" if path == "-" else path
    raise InvalidDocument(
        f"{shown} is not an archive of images: it has no {or_list(one.tar_member for one in tars)}",
        hint=f"give a {or_list(one.name for one in tars)}, or a directory with an OCI layout",
    )
