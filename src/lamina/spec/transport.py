"""The transports: the kinds of places that an image name can begin with, as one table (pure).

To add a transport, write a module with a ``Reader`` and a ``Writer`` and add an entry to ``TRANSPORTS``. Names, help
texts, `load`, `save`, `sync` and the library all use this table.
"""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING, Value

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Transport(Value):
    """One kind of place.

    ``name`` stands before the colon; ``usage`` is what people type; ``what`` describes it in help texts. ``reader``
    and ``writer`` are written as "module:class"; each class is called with the path. They are "" for a registry,
    which ``lamina.places`` opens with the user's access to the network; ``writer`` is "" for what is only read.
    ``holds_many``: whether several images fit in, each with its name after the path. ``can_grow``: whether images
    can be added to one that exists. ``save_type`` is its name in `save --type`, "" if `save` does not write it.
    ``tar_member``: for a tar, the member by which `load` recognizes it.
    """

    name: str
    usage: str
    what: str
    reader: str = ""
    writer: str = ""
    holds_many: bool = True
    can_grow: bool = False
    save_type: str = ""
    tar_member: str = ""

    @property
    def prefix(self) -> str:
        """What a name of this transport begins with."""
        return "docker://" if self.name == REGISTRY else f"{self.name}:"

    def reader_class(self) -> Any:
        """Import and return the class of the reader; the modules of other transports are not loaded."""
        return _imported(self.reader)

    def writer_class(self) -> Any:
        """Import and return the class of the writer."""
        return _imported(self.writer)


def _imported(path: str) -> Any:
    from importlib import import_module

    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


REGISTRY = "docker"
TRANSPORTS = (
    Transport(REGISTRY, "docker://REF", "an image in a registry", can_grow=True),
    Transport(
        "oci",
        "oci:DIR[:REF]",
        "an image in an OCI layout",
        "lamina.archive.layout:LayoutReader",
        "lamina.archive.layout:LayoutWriter",
        can_grow=True,
        save_type="oci-dir",
    ),
    Transport(
        "docker-archive",
        "docker-archive:FILE[:REF]",
        "an image in a tar of `docker save`",
        "lamina.archive.docker:DockerArchiveReader",
        "lamina.archive.docker:DockerArchiveWriter",
        save_type="docker-archive",
        tar_member="manifest.json",  # before oci-archive: a tar of a newer docker is both
    ),
    Transport(
        "oci-archive",
        "oci-archive:FILE[:REF]",
        "an image in a tar of an OCI layout",
        "lamina.archive.oci:OciArchiveReader",
        "lamina.archive.oci:OciArchiveWriter",
        save_type="oci-archive",
        tar_member="index.json",
    ),
    Transport(
        "dir",
        "dir:DIR",
        "the image in a directory of skopeo",
        "lamina.archive.dir_layout:DirectoryReader",
        "lamina.archive.dir_layout:DirectoryWriter",
        holds_many=False,
        can_grow=True,
    ),
    Transport(
        "docker-registry",
        "docker-registry:DIR[:REF]",
        "an image in the storage directory of a docker-registry (only read)",
        "lamina.archive.docker_registry:DockerRegistryReader",
    ),
)
UNSUPPORTED = {
    "containers-storage": "save it with podman or skopeo to an oci: layout first",
    "docker-daemon": "run `docker save` and use docker-archive:FILE",
    "atomic": "copy it to a registry or an oci: layout first: this transport was discontinued",
    "ostree": "copy it to a registry or an oci: layout first: this transport was discontinued",
    "tarball": "use `lamina append` to make a layer from the files of an archive",
}
"""Transports of other tools that lamina lacks: name and hint."""
BY_NAME = {one.name: one for one in TRANSPORTS}
IN_FILES = tuple(one for one in TRANSPORTS if one.name != REGISTRY)
"""The transports whose names have the path of a file or a directory."""
SAVE_TYPES = {one.save_type: one for one in TRANSPORTS if one.save_type}
"""What `save` can write, by the names of `save --type`."""


def transport_of_type(save_type: str) -> Transport:
    """Return the transport with this name of `save --type`. Raises UsageError."""
    if save_type not in SAVE_TYPES:
        raise UsageError(f"unknown type of archive {save_type!r:.60}", hint=f"use {or_list(SAVE_TYPES)}")
    return SAVE_TYPES[save_type]


def or_list(words: Iterable[str]) -> str:
    """Join words as in a hint: "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
