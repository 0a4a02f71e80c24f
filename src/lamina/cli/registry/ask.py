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

LOCAL = Option(("--local",), "local", "Of the store's image instead of the registry's.", kind=FLAG)
_FULL_REF = Option(("--full-ref",), "full_ref", "Print the whole reference by its digest.", kind=FLAG)
OPTIONS: dict[str, tuple[Option, ...]] = {"tags": (), "digest": (LOCAL, _FULL_REF), "manifest": (LOCAL,)}
"""The options of each verb that only say what to print. Those that say how to reach a registry are click's alone."""


def print_tags(session: Session, name: str) -> None:
    """Print the tags of a repository, a line each."""
    remote, _ = repository(session, name)
    lines = [f"{clean(tag)}\n" for tag in remote.tags()]  # all of them are there before one is printed
    sys.stdout.write("".join(lines))


def print_digest(session: Session, reference: str, *, local: bool, full_ref: bool) -> None:
    """Print the digest of a reference; where a platform is asked for, that of the platform's manifest."""
    reader, name = place(session, reference, local)
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
    """Print the bytes of a manifest or an index; where a platform is asked for, of the platform's manifest."""
    reader, name = place(session, reference, local)
    top = reader.resolve(name)
    if "platform" in session.flags:
        from lamina.source.select import find_manifest

        print_bytes(reference, find_manifest(reader, top, session.platform, reference).raw)
    else:
        print_bytes(reference, reader.manifest(top))


ANSWERS: dict[str, Callable[..., None]] = {"tags": print_tags, "digest": print_digest, "manifest": print_manifest}


def print_bytes(name: str, data: bytes) -> None:
    """Print a document as it is; on a terminal what could drive it is escaped."""
    write_contents([(name, io.BytesIO(data))])


def place(session: Session, text: str, local: bool = False) -> tuple[Reader, str]:
    """Where an image is, and its name there: a plain name means the registry, or with ``local`` the store."""
    from lamina.places import reader_for

    name = parse_name(text)
    if not name.whole:
        raise UsageError(f"{text!r:.200} is a range of layers", hint="name the whole image")
    network = session.network()
    if name.transport in ("", "docker"):
        if local and not name.transport:
            from lamina.transfer.connect import WithOrigins

            return WithOrigins(session.store, network), name.name
        return network.repository(name.name), str(network.full(name.name))
    return reader_for(name, network), name.name


def repository(session: Session, text: str) -> tuple[Repository, str]:
    """A repository of a registry, and the full name of what was asked for in it. Raises UsageError."""
    name = parse_name(text)
    if name.transport not in ("", "docker") or not name.whole:
        raise UsageError(f"{text!r:.200} is not a name in a registry", hint="expected like ghcr.io/me/app:1")
    network = session.network()
    return network.repository(name.name), str(network.full(name.name))
