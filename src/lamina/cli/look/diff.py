"""The verb `diff`: compare two sides file by file, or list what a container changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.containers.several import latest_option, one_name
from lamina.cli.format.output import emit_json, emit_template, table, write
from lamina.cli.format.text import clean, human_size
from lamina.cli.options import format_option, image_argument, platform_option, registry_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, NotFound, UsageError
from lamina.insight.as_json import content_sum, file_size
from lamina.insight.change import LETTERS, line, path_line
from lamina.layer.entry import Entry, Kind
from lamina.places import to_bytes

if TYPE_CHECKING:
    from lamina.insight.change import Change
    from lamina.insight.compare import Diff
    from lamina.insight.config_diff import ConfigChange, StepChange

DIFFERENT = 1


@command(
    "diff",
    "lamina diff app:1 app:2\n"
    "lamina diff --content app:1 app:2 /etc\n"
    "lamina diff --stat docker://debian:12 app:2~1\n"
    "lamina diff --ignore mtime,owner app:2 ./rootfs\n"
    "lamina diff app:2 web    # an image and a container\n"
    "lamina diff web          # what a container changed",
)
@image_argument("before", metavar="A", required=False)
@image_argument("after", metavar="[B", required=False)
@click.argument("path", metavar="[PATH]]", required=False)
@click.option(
    "-u",
    "--content",
    is_flag=True,
    help="Show changes of text files line by line, and sizes and digests of binary files.",
)
@click.option("--stat", is_flag=True, help="Show the size of each change, and totals.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="WHAT,...",
    help="Ignore content, target, device, mode, owner, mtime, xattrs, links, config, created or history.",
)
@latest_option
@click.option("--no-renames", is_flag=True, help="Show a renamed file as removed and added.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; see the exit code.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@platform_option
@registry_options
@format_option
@click.pass_obj
def diff(
    session: Session,
    before: str | None,
    after: str | None,
    path: str | None,
    content: bool,
    stat: bool,
    ignore: tuple[str, ...],
    latest: bool,
    no_renames: bool,
    quiet: bool,
    as_json: bool,
    format: str | None,
) -> int:
    """Compare A and B file by file; nothing is unpacked. A and B are images (also IMAGE~N and docker://REF),
    containers, or directories of this host (./DIR or /DIR). The exit code is 1 if they differ.

    A means added, C changed, D removed, R renamed. With PATH, only files at and below PATH are compared; without it,
    the configs and histories too. With a single container, list what it changed: A added, C changed, D deleted.
    """
    format = "json" if as_json else format
    before = one_name(session, before, latest)
    if after is None:
        if content or stat or ignore or no_renames or quiet:
            raise UsageError(
                "these options need two sides", hint="give A and B: images, containers or directories (./DIR)"
            )
        _list_changes(session, before, format)
        return 0
    from lamina.cli.look.sides import open_side
    from lamina.insight.compare import ASPECTS, compare
    from lamina.insight.diff import parse_fields

    ignored = parse_fields(",".join(ignore), ASPECTS)
    with session.interruptible():
        sides = open_side(session, before), open_side(session, after)
        found = compare(*sides, to_bytes(path or "/"), ignore=ignored, renames=not no_renames)
    if quiet:
        pass
    elif format == "json":
        emit_json(found.to_json(content=content))
    elif format not in (None, "table"):
        emit_template([_row(found, change) for change in found.changes], {}, format or "")
    elif stat:
        _tell_sizes(found)
    else:
        for change in found.changes:
            write(line(change))
            if content and "content" in change.fields:
                for text in _content_lines(found, change):
                    write(text)
    if not quiet and format in (None, "table"):
        _tell_config(found.config)
        _tell_history(found.history)
    return DIFFERENT if found.differ else 0


def _list_changes(session: Session, name: str, format: str | None) -> None:
    from lamina.cli.containers.verbs import list_changes
    from lamina.spec.name import parse_name

    try:
        list_changes(session, name, format)
    except NotFound as error:
        try:
            image = parse_name(name)
            if not image.transport:
                session.store.resolve(image.name)
        except LaminaError:
            raise error from None
        raise NotFound(
            f"no container {name!r:.200}, but an image", hint=f"compare it with another one: lamina diff {name} OTHER"
        ) from None


def _content_lines(found: Diff, change: Change) -> Iterator[str]:
    text = found.text(change)
    if text is None:
        sides = (found.before, change.before_node), (found.after, change.after_node)
        yield "  " + " -> ".join(f"{size} bytes {digest}" for size, digest in (content_sum(*side) for side in sides))
        return
    for one in text:
        yield "\t".join(clean(part) for part in one.split("\t"))


def _tell_sizes(found: Diff) -> None:
    rows, totals = [], {how: [0, 0] for how in LETTERS}
    for change in found.changes:
        before, after = file_size(change.before), file_size(change.after)
        totals[change.how][0] += 1
        totals[change.how][1] += after - before
        rows.append([path_line(change), str(before), str(after), f"{after - before:+d}"])
    table(rows, ("PATH", "BEFORE", "AFTER", "DELTA"), right=(1, 2, 3))
    summary = [f"{count} {how} ({_signed(size)})" for how, (count, size) in totals.items() if count]
    if summary:
        write(f"{', '.join(summary)}: {_signed(sum(size for _, size in totals.values()))}")


def _signed(size: int) -> str:
    return f"{'-' if size < 0 else '+'}{human_size(abs(size))}"


def _tell_config(changes: tuple[ConfigChange, ...]) -> None:
    import json

    if changes:
        write("config")
    for change in changes:
        for sign, value in (("-", change.before), ("+", change.after)):
            if value is not None:
                write(f"  {sign} {clean(change.field)}: {clean(json.dumps(value, ensure_ascii=False))}")


def _tell_history(changes: tuple[StepChange, ...]) -> None:
    if changes:
        write("history")
    for change in changes:
        words = change.step.created_by or change.step.comment or "<not recorded>"
        write(f"  {'-' if change.how == 'removed' else '+'} {change.step.created or 'N/A'}  {clean(words)}")


def _row(found: Diff, change: Change) -> dict[str, Any]:
    return {
        "Letter": LETTERS[change.how],
        "Change": change.how,
        "Path": "/" + clean(change.path),
        "OldPath": "/" + clean(change.old_path),
        "Fields": ",".join(change.fields),
        "Kind": (change.after or change.before or _NOTHING).kind.name.lower(),
        "Before": file_size(change.before),
        "After": file_size(change.after),
        "Delta": file_size(change.after) - file_size(change.before),
        "LayerBefore": found.before.layer_of(change.before_node),
        "LayerAfter": found.after.layer_of(change.after_node),
    }


_NOTHING = Entry(b"", Kind.FILE)
