"""From IMAGE, SOURCE and TARGET of the command line to a place and a name in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.errors import NotFound, UsageError
from lamina.spec.name import ImageName
from lamina.spec.transport import REGISTRY

if TYPE_CHECKING:
    from lamina.cli.session import Session
    from lamina.source.protocols import Lister, Reader, Writer
    from lamina.transfer.connect import RegistryAccess


def source_of(session: Session, name: ImageName, network: RegistryAccess) -> tuple[Reader, str]:
    """Return the place to read from, and the name of the image there."""
    from lamina.places import reader_for
    from lamina.transfer.connect import StoreAndRegistries

    if not name.transport:
        return StoreAndRegistries(session.store, network), name.name
    inside = str(network.full(name.name)) if name.transport == REGISTRY else name.name
    return reader_for(name, network), inside


def target_of(session: Session, name: ImageName, network: RegistryAccess) -> tuple[Writer, str]:
    """Return the place to write to, and the name of the image there. Raises UsageError for a range of layers."""
    if not name.whole:
        raise UsageError(f"{name} is a range of layers", hint="give a name without ~ as TARGET")
    if name.transport == REGISTRY:
        try:
            store = session.store
        except NotFound:  # without a store, uploads can't be resumed
            store = None
        return network.repository(name.name, store=store), str(network.full(name.name))
    if name.transport:
        from lamina.places import writer_for

        return writer_for(name.transport, name.location), name.name
    return session.writable_store, name.name


def all_named(reader: Lister) -> list[tuple[str, str]]:
    """Return all images of an archive or layout, each with its name in the store. Raises InvalidDocument, UsageError
    (an invalid name)."""
    from lamina.archive.docker import DockerArchiveReader
    from lamina.archive.docker_registry import DockerRegistryReader
    from lamina.spec.reference import canonical

    if isinstance(reader, DockerRegistryReader):  # by name, so that a damaged tag is an error
        return [(name, canonical(name)) for name in reader.tagged()]

    if isinstance(reader, DockerArchiveReader):
        reader.check_names()
    return [(name or str(descriptor.digest), canonical(name)) for name, descriptor in reader.names()]


def whole(name: ImageName) -> ImageName:
    """Return ``name``. Raises UsageError for a range of layers."""
    if not name.whole:
        raise UsageError(f"{name} is a range of layers", hint="give the whole image, without ~")
    return name
