"""The options of `serve` for mirrors of other registries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.cli.session import Session
    from lamina.serve.mirror.mirror import Mirror

_DAY = 86_400.0


def mirror_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; they arrive as ``mirror``, ``mirror_dir``, ``mirror_size``, ``mirror_age``,
    ``mirror_fetches`` and ``mirror_ttl``."""
    for option in (
        click.option(
            "--mirror-ttl",
            default="5m",
            show_default=True,
            metavar="DURATION",
            help="How long a tag is served before its registry is asked again.",
        ),
        click.option(
            "--mirror-fetches",
            type=click.IntRange(1, 4096),
            default=64,
            show_default=True,
            metavar="N",
            help="Fetch so many blobs of each registry at once; more wait for 30 s, and are then refused.",
        ),
        click.option(
            "--mirror-age",
            type=click.IntRange(1, 36_500),
            default=30,
            show_default=True,
            metavar="DAYS",
            help="Remove what nobody has used for so long.",
        ),
        click.option(
            "--mirror-size", metavar="SIZE", help="Keep at most so much (50g); the least recently used goes first."
        ),
        click.option(
            "--mirror-dir",
            metavar="DIR",
            help="Keep what was fetched here (default: in the store; with --storage, in the user's cache directory).",
        ),
        click.option(
            "--mirror",
            multiple=True,
            metavar="HOST[=URL]",
            help="Serve the images of another registry too; fetch each once, and keep it (repeatable).",
        ),
    ):
        function = option(function)
    return function


def mirror_of(
    session: Session,
    hosts: tuple[str, ...],
    directory: str | None,
    size: str | None,
    age: int,
    ttl: str,
    fetches: int,
    *,
    has_store: bool,
) -> Mirror | None:
    """Return the mirror of these options; None without hosts. ``has_store``: whether the server uses the store of
    this host. Raises UsageError, SystemFailure."""
    if not hosts:
        return None
    from lamina.remote.registries import Registries
    from lamina.run.options import parse_size
    from lamina.serve.mirror.mirror import Mirror
    from lamina.serve.mirror.upstream import Upstream
    from lamina.spec.duration import of_option

    return Mirror(
        [Upstream.parse(text) for text in hosts],
        directory or _default_directory(session, has_store),
        session.network().access,
        insecure=Registries.load().insecure,
        ttl=of_option(ttl, "--mirror-ttl") / 1e9,
        size=parse_size(size) if size is not None else None,
        age=age * _DAY,
        fetches=fetches,
    )


def _default_directory(session: Session, has_store: bool) -> str:
    if has_store:
        return os.path.join(session.writable_store.paths.root, "mirror")
    from lamina.serve.explorer.layer_cache import default_directory

    return os.path.join(os.path.dirname(default_directory()), "mirror")
