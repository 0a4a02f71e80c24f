"""Options of `serve` for object storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lamina.errors import UsageError

if TYPE_CHECKING:
    from lamina.objects.place import ObjectPlace

_OPTIONS = (
    click.option(
        "--storage",
        metavar="URL",
        default="",
        help="Serve object storage instead of the store: s3://BUCKET/PREFIX, gs://... or az://... .",
    ),
    click.option(
        "--gc",
        metavar="INTERVAL",
        default="",
        help="Delete the blobs that no image needs, every 6h for example; pushes and pulls go on.",
    ),
    click.option(
        "--redirect",
        is_flag=True,
        help="With --storage: send clients to the storage for blobs, by URLs that are valid for 20 minutes.",
    ),
)


def storage_options(function: Any) -> Any:
    """Add the options for object storage."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def storage_of(url: str, source: str, gc: str, *, redirect: bool, writable: bool) -> ObjectPlace | None:
    """Open the object storage that is to be served; None if it is another place. Raises UsageError, Unsupported."""
    if not url:
        if redirect:
            raise UsageError("--redirect needs --storage", hint="leave it out: this host sends the blobs")
        return None
    if source:
        raise UsageError("SOURCE and --storage exclude each other", hint="give one of them")
    if gc and not writable:
        raise UsageError("--gc needs --writable", hint="run `lamina prune --storage URL` instead")
    from lamina.objects.place import open_place
    from lamina.spec.duration import of_option

    every = of_option(gc, "--gc") / 1e9 if gc else None
    if every is not None and every < 1:
        raise UsageError(f"--gc {gc!r:.60} is too short", hint="write it like 6h or 30m")
    return open_place(url, gc_every=every, redirect=redirect)
