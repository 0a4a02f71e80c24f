"""The verb `serve`: a registry on this host that serves the store or another place."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, cast

import click

from lamina.cli.format.output import write
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from lamina.source.served import Readable


@command("serve", "lamina serve --port 5000\nlamina serve --writable\nlamina serve oci:./layout")
@click.argument("source", required=False, default="")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; a loopback address.")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    default=5000,
    show_default=True,
    help="Port to listen on; 0 means any free port.",
)
@click.option("--writable", is_flag=True, help="Allow clients to push and delete.")
@click.pass_obj
def serve(session: Session, source: str, host: str, port: int, writable: bool) -> None:
    """Serve the store (or a layout or archive) as an OCI registry, on this host only. Clients pull `app` as
    HOST:PORT/app, and ghcr.io/me/app as HOST:PORT/ghcr.io/me/app. Ctrl-C stops it."""
    from lamina.places import reader_for
    from lamina.serve.server import RegistryServer

    place: Readable
    if source:
        name = parse_name(source)
        if not name.transport or name.transport == "docker" or name.name:
            raise UsageError(
                f"can't serve {source!r:.200}", hint="give oci:DIR or oci-archive:FILE, or nothing for the store"
            )
        place = cast("Readable", reader_for(name, session.network()))
    else:
        store = session.writable_store if writable else session.store
        place = cast("Readable", store)
        if (
            not writable and store.layers.origins()
        ):  # blobs that the store does not keep are fetched from their registry
            from lamina.transfer.connect import StoreAndRegistries

            place = cast("Readable", StoreAndRegistries(store, session.network()))
    done = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        done.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with RegistryServer(place, host=host, port=port, writable=writable) as server:
        write(f"serving {place.location} on {server.url} ({'writable' if writable else 'read-only'})")
        sys.stdout.flush()
        while not done.wait(0.5):  # with a timeout: a signal may come just before it blocks
            pass
