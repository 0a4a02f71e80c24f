"""The verb `ui`: images in a browser, served to this machine only."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import click

from lamina.cli import warn
from lamina.cli.format.output import write
from lamina.cli.options import platform_option, registry_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import NoStore, ReferenceNotFound, UsageError
from lamina.spec.name import ImageName, parse_name
from lamina.spec.transport import REGISTRY

if TYPE_CHECKING:
    from lamina.serve.explorer.gallery import Gallery, Place


@command("ui", "lamina ui --open\nlamina ui my/app:1 --open\nlamina ui oci:./layout:1 docker://debian:12 --port 8000")
@click.argument("images", nargs=-1, metavar="[IMAGE...]")
@click.option("--open", "open_", is_flag=True, help="Open the page in the browser.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; a loopback address.")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port to listen on; 0 means any free port.",
)
@platform_option
@registry_options
@click.pass_obj
def ui(session: Session, images: tuple[str, ...], open_: bool, host: str, port: int) -> None:
    """Show images in a browser: layers, files with the layer of each, differences, sizes, waste. Without IMAGE, all
    images of the store. Only you and root of this machine can see the page. Ctrl-C stops it."""
    from lamina.serve.explorer.explorer import Explorer
    from lamina.serve.explorer.layer_cache import LayerCache, default_directory
    from lamina.serve.explorer.loopback import ExplorerServer
    from lamina.serve.server_log import protect_standard_error

    protect_standard_error()
    with session.interruptible():
        gallery = _gallery(session, images)
    cache = LayerCache(default_directory(), max_layer=session.settings.max_layer)
    done = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        done.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    explorer = Explorer(gallery, cache, usual=session.platform, max_entries=8_000_000)
    with ExplorerServer(explorer, host=host, port=port) as server:
        write(f"the images are shown at {server.url}/")
        sys.stdout.flush()
        if open_:
            _browse(f"{server.url}/{_query(gallery)}")
        while not done.wait(0.5):  # with a timeout: a signal may come just before it blocks
            pass


def _gallery(session: Session, images: tuple[str, ...]) -> Gallery:
    """Find the images, so that a wrong name is reported at once."""
    from lamina.serve.explorer.gallery import Gallery
    from lamina.source.repositories import ListedRepositories

    parsed = [(image, parse_name(image)) for image in images]
    named, first = {}, []
    listed = None
    wants_store = not images or any(not name.transport for _, name in parsed)
    if wants_store:
        try:
            listed = ListedRepositories(session.store)
        except NoStore as error:
            hint = "pull an image with `lamina pull`, or name one like oci:DIR or docker://debian:12"
            raise ReferenceNotFound(f"no images: {error.message} yet", hint=hint) from None
    for image, name in parsed:
        shown = _in_listing(session, name)
        if shown:
            first.append(shown)
            continue
        find = _finder(session, image, name)
        find()
        named[image] = find
    store = session.store_if_any if wants_store else None
    if store is None:
        return Gallery(listed, named, first=first)
    return Gallery(listed, named, first=first, local_layer=store.layers.unpacked)


def _in_listing(session: Session, name: ImageName) -> str:
    """Return the familiar name of an image that the store has under this name; "" for any other."""
    if name.transport or not name.whole:
        return ""
    try:
        reference = name.reference
    except UsageError:
        return ""
    canonical = str(reference)
    return reference.familiar if any(canonical == known for known, _ in session.store.names()) else ""


def _finder(session: Session, image: str, name: ImageName) -> Callable[[], Place]:
    from lamina.places import reader_for
    from lamina.serve.explorer.gallery import Place

    if name.transport:
        network = session.network()
        elsewhere = reader_for(name, network)
        inside = str(network.full(name.name)) if name.transport == REGISTRY else name.name
        place = Place(image, image, elsewhere, elsewhere.resolve(inside), low=name.low, high=name.high)
        return lambda: place  # a registry is asked once for what the name points to
    store = session.store

    def find() -> Place:
        return Place(image, image, store, store.resolve(name.name), low=name.low, high=name.high)

    return find


def _query(gallery: Gallery) -> str:
    """Return the part of the page's address that shows the image, if only one was named."""
    from urllib.parse import quote

    return f"?image={quote(gallery.first[0], safe='/:@')}" if len(gallery.first) == 1 else ""


def _browse(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        warn("no browser was found: open the page yourself")
