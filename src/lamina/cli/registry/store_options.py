"""The options of `serve` for a writable store: what is protected, for how long, and who collects garbage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lamina.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.source.served import Readable


def store_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; they arrive as ``gc_grace`` and ``keep_uploads``."""
    for option in (
        click.option(
            "--keep-uploads",
            default="",
            metavar="DURATION",
            help="Remove an upload that got no byte for so long (default: 24h).",
        ),
        click.option(
            "--gc-grace",
            default="",
            metavar="DURATION",
            help="Protect from gc and prune for so long what was pushed, or found by a client that pushes, and no "
            "manifest needs yet (default: 1h).",
        ),
    ):
        function = option(function)
    return function


def apply_store_options(
    place: Readable, gc: str, gc_grace: str, keep_uploads: str, max_blob: int, *, storage: bool
) -> float | None:
    """Give the store the rules that the options state. ``max_blob`` in bytes. Returns the seconds between two garbage
    collections of the store; None if the server makes none. Raises UsageError."""
    from lamina.spec.duration import of_option
    from lamina.store.serving_rules import ServingRules
    from lamina.store.store import Store

    given = [flag for flag, text in (("--gc-grace", gc_grace), ("--keep-uploads", keep_uploads)) if text]
    if storage and given:
        raise UsageError(
            f"{given[0]} is for the store: object storage protects for 1h, and keeps uploads for 24h",
            hint=f"leave out {given[0]}",
        )
    every = of_option(gc, "--gc") / 1e9 if gc else None
    if every is not None and every < 1:
        raise UsageError(f"--gc {gc} is too short", hint="use at least 1s")
    rules = ServingRules(
        grace=of_option(gc_grace or "1h", "--gc-grace") / 1e9,
        keep_uploads=of_option(keep_uploads or "24h", "--keep-uploads") / 1e9,
        max_blob=max_blob,
    )
    if isinstance(place, Store):
        place.serving_rules = rules
        return every
    if every is not None and not storage:  # object storage has a gc of its own
        raise UsageError(f"{place.location} has no garbage collection", hint="leave out --gc")
    return None
