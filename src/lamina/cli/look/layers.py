"""The verb `layers`: one line for each layer."""

from __future__ import annotations

import click

from lamina.cli import warn
from lamina.cli.format.output import emit
from lamina.cli.format.text import clean, human_size, some
from lamina.cli.options import format_option, image_argument, no_trunc_option, platform_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import NotFound


@command("layers", "lamina layers my/app:1\nlamina layers my/app:1 --format '{{.Number}} {{.DiffID}} {{.Adds}}'")
@image_argument()
@no_trunc_option
@platform_option
@format_option
@click.pass_obj
def layers(session: Session, image: str, no_trunc: bool, format: str | None) -> None:
    """Show the layers of an image, bottom first: sizes, how many entries each layer adds, replaces and hides, its
    build step, and the images that share it."""
    from lamina.insight.as_json import layer_json
    from lamina.insight.layer_report import layer_sharers, report_layers

    opened = session.image(image)
    try:
        sharers = layer_sharers(session.store, session.platform, opened.digest)
    except NotFound:
        sharers = {}  # the image is in an archive, and there is no store yet
    reports = report_layers(opened.stack, sharers)
    rows, json_rows = [], []
    for layer in reports:
        step = clean(layer.step or "<not recorded>")
        rows.append(
            {
                "Number": layer.number,
                "Layer": layer.number,
                "Digest": str(layer.digest) if no_trunc else layer.digest.short,
                "DiffID": str(layer.diff_id) if no_trunc else layer.diff_id.short,
                "Size": human_size(layer.size),
                "Unpacked": human_size(layer.tar_size),
                "Entries": layer.entries,
                "Adds": layer.adds,
                "Replaces": layer.replaces,
                "Restates": layer.restates,
                "Hides": layer.hides,
                "Step": step if no_trunc or len(step) <= 40 else step[:39] + "…",
                "SharedWith": _all_or_some(layer.shared_with, no_trunc) or "-",
            }
        )
        json_rows.append(layer_json(layer))
    columns = [
        ("Number", "#"),
        ("Digest", "DIGEST"),
        ("DiffID", "DIFF ID"),
        ("Size", "SIZE"),
        ("Unpacked", "UNPACKED"),
        ("Entries", "ENTRIES"),
        ("Adds", "ADDS"),
        ("Replaces", "REPLACES"),
        ("Hides", "HIDES"),
        ("SharedWith", "SHARED WITH"),
        ("Step", "STEP"),
    ]
    right = ("Number", "Size", "Unpacked", "Entries", "Adds", "Replaces", "Hides")
    emit(rows, columns, format, json_rows=json_rows, right=right)
    if format in (None, "table"):
        for layer in reports:
            for warning in layer.warnings:
                warn(f"layer {layer.number}: {warning}")
        for warning in opened.tree.warnings:
            warn(warning)


def _all_or_some(names: tuple[str, ...], no_trunc: bool) -> str:
    from lamina.spec.reference import familiar

    return some([familiar(name) for name in names], len(names) if no_trunc else 3)
