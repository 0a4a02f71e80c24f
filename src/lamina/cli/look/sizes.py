"""Verbs about sizes in an image: du, waste."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from lamina.cli.format.output import emit, emit_json, emit_template, table, write
from lamina.cli.format.text import clean, counted, human_size, json_path, some
from lamina.cli.options import format_option, image_argument, platform_option, registry_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.places import to_bytes

if TYPE_CHECKING:
    from lamina.insight.waste import Copies, Rewrite, Waste
    from lamina.source.stack import Stack

BELOW = 1
T = TypeVar("T")


@command("du", "lamina du -h debian:12\nlamina du -h -d 2 my/app:1 /usr\nlamina du -s --hidden my/app:1")
@image_argument()
@click.argument("path", default="/")
@click.option("-h", "--human", "--human-readable", is_flag=True, help="Print sizes like 12.3MB (default: bytes).")
@click.option("-s", "--summarize", is_flag=True, help="Show only the total.")
@click.option(
    "-d",
    "--depth",
    "--max-depth",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Number of levels below PATH to show.",
)
@click.option("-a", "--all", "all_", is_flag=True, help="Show files too, not only directories.")
@click.option("--hidden", is_flag=True, help="Also count hidden files; the columns then add up to the whole layers.")
@platform_option
@registry_options
@format_option
@click.pass_obj
def du(
    session: Session,
    image: str,
    path: str,
    human: bool,
    summarize: bool,
    depth: int,
    all_: bool,
    hidden: bool,
    format: str | None,
) -> None:
    """Show the size of the files in each directory, and the layers that they come from. A file with several hard
    links counts once. Only the indexes of the layers are read."""
    from lamina.insight.du import weigh

    with session.interruptible():
        stack = session.image(image).stack
        found = weigh(stack.tree(), to_bytes(path), depth=0 if summarize else depth, files=all_, hidden=hidden)
    layers = sorted({layer for weight in found for layer in weight.sizes})
    rows: list[dict[str, Any]] = []
    for weight in found:
        row: dict[str, Any] = {
            "Size": _size(weight.size, human),
            "Files": weight.files,
            "Path": "/" + clean(weight.path),
        }
        row |= {f"Layer{stack.first + layer}": _size(weight.sizes.get(layer, 0), human) for layer in layers}
        rows.append(row)
    columns = [("Size", "SIZE")]
    columns += [(f"Layer{stack.first + layer}", f"LAYER {stack.first + layer}") for layer in layers]
    json_rows = [
        {
            **json_path(weight.path),
            "kind": "directory" if weight.is_directory else "file",
            "size": weight.size,
            "files": weight.files,
            "layers": {str(stack.first + layer): size for layer, size in sorted(weight.sizes.items())},
        }
        for weight in found
    ]
    right = [name for name, _ in columns]
    emit(rows, [*columns, ("Path", "PATH")], format, json_rows=json_rows, right=right)


du.context_settings = {"help_option_names": ["--help"]}  # -h is for sizes, as in du


def _size(size: int, human: bool) -> str | int:
    return human_size(size) if human else size


class _Share(click.FloatRange):
    """A range that refuses "nan": it would pass every check."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from math import isnan

        number = super().convert(value, param, ctx)
        if isnan(number):
            self.fail(f"{value!r:.60} is not a number", param, ctx)
        return number


@command(
    "waste",
    "lamina waste my/app:1\nlamina waste my/app:1 --min-efficiency 0.95    # for CI: exit code 1 below it",
)
@image_argument()
@click.option(
    "-n",
    "--top",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Show this many of each kind; 0 for all.",
)
@click.option(
    "--smallest",
    type=click.IntRange(min=1),
    default=1,
    metavar="BYTES",
    help="Do not compare files smaller than this.",
)
@click.option("--pycache", is_flag=True, help="Count Python bytecode (__pycache__) as a cache.")
@click.option(
    "--min-efficiency", type=_Share(0, 1), metavar="0..1", help="End with exit code 1 if the efficiency is lower."
)
@platform_option
@registry_options
@format_option
@click.pass_obj
def waste(
    session: Session,
    image: str,
    top: int,
    smallest: int,
    pycache: bool,
    min_efficiency: float | None,
    format: str | None,
) -> int:
    """Show bytes that an image does not need: files that a later layer hides, files that a layer adds again with the
    same content, the same content at several paths, and caches of package managers. The efficiency is computed as in
    dive."""
    from lamina.insight.waste import find_waste

    with session.interruptible():
        stack = session.image(image).stack
        found = find_waste(stack, smallest=smallest, pycache=pycache)
    if format == "json":
        emit_json(_json(stack, found))
    elif format not in (None, "table"):
        emit_template([_row(found)], {}, format or "")
    else:
        _tell(found, top)
    return BELOW if min_efficiency is not None and found.efficiency < min_efficiency else 0


def _row(found: Waste) -> dict[str, Any]:
    return {
        "Efficiency": f"{found.efficiency:.4f}",
        "Content": found.content,
        "Hidden": sum(found.hidden.values()),
        "Rewritten": sum(one.size for one in found.rewrites),
        "Copies": sum(one.wasted for one in found.copies),
        "Caches": sum(one.size for one in found.caches),
    }


def _tell(found: Waste, top: int) -> None:
    row = _row(found)
    write(f"efficiency: {100 * found.efficiency:.2f} % of {human_size(found.content)}")
    write(f"hidden by later layers: {human_size(row['Hidden'])}")
    table([[f"  layer {layer}", human_size(size)] for layer, size in found.hidden.items()], right=(1,))
    write(f"rewritten unchanged: {human_size(row['Rewritten'])} in {counted(len(found.rewrites), 'file')}")
    table([_rewrite_cells(one) for one in _first(found.rewrites, top)], right=(0,))
    write(f"same content at several paths: {human_size(row['Copies'])} in {len(found.copies)} contents")
    table([_copies_cells(one) for one in _first(found.copies, top)], right=(0, 1))
    write(f"caches: {human_size(row['Caches'])}")
    table(
        [
            [f"  {human_size(one.size)}", counted(one.files, "file"), f"layers {_numbers(one.layers)}", one.name]
            for one in found.caches
        ],
        right=(0, 1),
    )


def _first(items: tuple[T, ...], top: int) -> tuple[T, ...]:
    return items[:top] if top else items


def _rewrite_cells(one: Rewrite) -> list[str]:
    why = f"changed only {', '.join(one.changed)}" if one.changed else "changed nothing"
    return [f"  {human_size(one.size)}", f"layer {one.layer} as {one.below}", why, f"/{clean(one.path)}"]


def _copies_cells(one: Copies) -> list[str]:
    return [
        f"  {human_size(one.wasted)}",
        f"{len(one.paths)} x {human_size(one.size)}",
        some([f"/{clean(path)}" for path in one.paths], 2),
    ]


def _numbers(layers: set[int]) -> str:
    return ", ".join(map(str, sorted(layers)))


def _json(stack: Stack, found: Waste) -> dict[str, Any]:
    from lamina.insight.as_json import cache_json, copies_json, rewrite_json

    return {
        "image": stack.name,
        "digest": str(stack.manifest.descriptor.digest),
        "efficiency": found.efficiency,
        "content": found.content,
        "hidden": {
            "size": sum(found.hidden.values()),
            "layers": {str(layer): size for layer, size in found.hidden.items()},
        },
        "rewrites": [rewrite_json(one) for one in found.rewrites],
        "copies": [copies_json(one) for one in found.copies],
        "caches": [cache_json(one) for one in found.caches],
    }
