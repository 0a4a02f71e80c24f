"""Answer `tags`, `digest` and `manifest` without click (see ``cli.plain``)."""

from __future__ import annotations

import io
import sys

from lamina.cli.format.content import write_contents
from lamina.cli.format.text import clean
from lamina.cli.option_table import FLAG, Option
from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.cli.session import Session
    from lamina.remote.repository import Repository
    from lamina.source.protocols import Reader

LOCAL = Option(("--local",), "local", "Use the image in the store instead of the registry.", kind=FLAG)
_FULL_REF = Option(("--full-ref",), "full_ref", "Print the full reference with the digest.", kind=FLAG)
OPTIONS: dict[str, tuple[Option, ...]] = {"tags": (), "digest": (LOCAL, _FULL_REF), "manifest": (LOCAL,)}
"""The options of each verb about its output. Only click parses the options for the access to registries."""


def print_tags(session: Session, name: str) -> None:
    """Print the tags of a repository, one per line."""
    remote, _ = repository(session, name)
    lines = [f"{clean(tag)}\n" for tag in remote.tags()]  # fetch all tags before printing any
    sys.stdout.write("".join(lines))


def print_digest(session: Session, reference: str, *, local: bool, full_ref: bool) -> None:
    """Print the digest of a reference; with --platform, the digest of the manifest for that platform."""
    reader, name = reader_of(session, reference, local)
    if "platform" in session.flags:
        from lamina.source.select import find_manifest

        found = find_manifest(reader, reader.resolve(name), session.platform, reference).descriptor.digest
    else:
        head = getattr(reader, "head", reader.resolve)
        found = head(name).digest
    if full_ref:
        from lamina.spec.reference import Reference

        sys.stdout.write(f"{Reference.parse(name).repository}@{found}\n")
    else:
        sys.stdout.write(f"{found}\n")


def print_manifest(session: Session, reference: str, *, local: bool) -> None:
    """Print the bytes of a manifest or index; with --platform, the manifest for that platform."""
    reader, name = reader_of(session, reference, local)
    top = reader.resolve(name)
    if "platform" in session.flags:
        from lamina.source.select import find_manifest

        print_bytes(reference, find_manifest(reader, top, session.platform, reference).raw)
    else:
        print_bytes(reference, reader.manifest(top))


ANSWERS: dict[str, Callable[..., None]] = {"tags": print_tags, "digest": print_digest, "manifest": print_manifest}


def print_bytes(name: str, data: bytes) -> None:
    """Print the bytes of a document; on a terminal control characters are escaped."""
    write_contents([(name, io.BytesIO(data))])


def reader_of(session: Session, text: str, local: bool = False) -> tuple[Reader, str]:
    """Return the place of an image and its name there. A plain name means the registry, or with ``local`` the store.
    Raises UsageError."""
    from lamina.places import reader_for

    name = parse_name(text)
    if not name.whole:
        raise UsageError(f"{text!r:.200} is a range of layers", hint="give the whole image, without ~")
    network = session.network()
    if name.transport in ("", "docker"):
        if local and not name.transport:
            from lamina.transfer.connect import StoreAndRegistries

            return StoreAndRegistries(session.store, network), name.name
        return network.repository(name.name), str(network.full(name.name))
    return reader_for(name, network), name.name


def repository(session: Session, text: str) -> tuple[Repository, str]:
    """Return the repository of a reference in its registry, and the full name of the reference. Raises UsageError."""
    name = parse_name(text)
    if name.transport not in ("", "docker") or not name.whole:
        raise UsageError(f"{text!r:.200} is not a name in a registry", hint="write it like ghcr.io/me/app:1")
    network = session.network()
    return network.repository(name.name), str(network.full(name.name))
