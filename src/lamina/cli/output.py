"""How a verb gives its answer: a table for people, JSON, or a Go template, chosen by ``--format``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.text import clean, human_size
from lamina.errors import LaminaError, UsageError

if TYPE_CHECKING:
    from lamina.store.gc import Deleted
    from lamina.transfer.copy import Copied

Row = Mapping[str, Any]
_PIECE = 1000  # rows of a table that are made safe and written at once


def write(text: str) -> None:
    """One line to stdout; what the terminal's encoding can't say is escaped."""
    click.echo(text)


def ask(question: str) -> None:
    """Ask before something is deleted; only yes goes on. Raises UsageError where nobody can answer."""
    try:
        answer = click.confirm(question, err=True)
    except click.Abort:  # Ctrl-C, or the end of the input
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise UsageError("standard input has no answer", hint="use --force to delete without a question") from None
    if not answer:
        raise LaminaError("nothing was deleted")


def emit_json(value: Any) -> None:
    """Pretty JSON; ASCII only, so that a pipe of any encoding takes it and no control character gets through."""
    from json import dumps

    write(dumps(value, indent=2, ensure_ascii=True))


def table(rows: Iterable[Sequence[str]], header: Sequence[str] | None = None, *, right: Iterable[int] = ()) -> None:
    """Aligned columns, three spaces apart, as docker prints them. ``right``: numbers of right-aligned columns."""
    lines: list[Sequence[str]] = [] if header is None else [tuple(header)]
    pieces = iter(rows)
    while piece := list(itertools.islice(pieces, _PIECE)):
        lines += _cleaned(piece)
    if not lines:
        return
    flush_right = set(right)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    shape = "   ".join(
        f"%{width}s" if number in flush_right else "%s" if number == last else f"%-{width}s"
        for number, width in enumerate(widths)
    )
    for start in range(0, len(lines), _PIECE):
        write("\n".join([(shape % line).rstrip() for line in lines[start : start + _PIECE]]))


def _cleaned(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Rows of safe cells. What is printable as a whole is looked at only once."""
    if "".join(itertools.chain.from_iterable(rows)).isprintable():
        return [tuple(row) for row in rows]
    return [tuple(map(clean, row)) for row in rows]


def emit(
    rows: Iterable[Row],
    columns: Sequence[tuple[str, str]],
    format: str | None,
    *,
    json_rows: Sequence[Row] | None = None,
    right: Iterable[str] = (),
    header: bool = True,
    headings: Mapping[str, str] | None = None,
) -> None:
    """Rows of named fields. ``columns`` are (field, heading) of the table; ``json`` prints ``json_rows`` (exact
    numbers, whole digests) where given; a template sees every field of a row. ``headings``: of a template's columns
    that are no columns of the table."""
    if format == "json":
        emit_json(list(json_rows if json_rows is not None else rows))
        return
    if format is None or format == "table":
        flush = set(right)
        table(
            ([str(row[field]) for field, _ in columns] for row in rows),
            [heading for _, heading in columns] if header else None,
            right=[number for number, (field, _) in enumerate(columns) if field in flush],
        )
        return
    emit_template(rows, {**(headings or {}), **dict(columns)}, format)


def emit_template(rows: Iterable[Any], headings: Mapping[str, str], format: str) -> None:
    """A Go template a row; with the prefix ``table`` aligned and under headings: those of ``headings``, else made of
    the fields' names."""
    from lamina.cli.template import Template

    tabular, text = table_template(format)
    template = Template(text)
    lines = [template.render(row) for row in rows]
    if not tabular:
        for line in lines:
            write("\n".join("\t".join(map(clean, part.split("\t"))) for part in line.split("\n")))
        return
    cells = [line.split("\t") for line in [template.heading(headings), *lines]]
    width = max(map(len, cells))
    table([[*row, *[""] * (width - len(row))] for row in cells])


def table_template(format: str) -> tuple[bool, str]:
    """Whether a template has docker's prefix ``table``, and the template without it (pure)."""
    word, _, _rest = format.lstrip().partition(" ")
    if word == "table" or format.startswith("table\t") or format.startswith("table{"):
        return True, format.lstrip().removeprefix("table").strip()
    return False, format


def tell_deleted(done: Deleted, *, dry_run: bool, format: str | None) -> None:
    """What `rmi` and `prune` have removed, or would."""
    if format == "json":
        emit_json(
            {
                "untagged": list(done.untagged),
                "deleted": [str(digest) for digest in done.deleted],
                "freed": done.freed,
                "dry_run": dry_run,
            }
        )
        _tell_notes(done)
        return
    would = "would be " if dry_run else ""
    for name in done.untagged:
        write(f"{would}untagged: {clean(name)}")
    for digest in done.deleted:
        write(f"{would}deleted: {digest}")
    write(f"{would}freed: {human_size(done.freed)} ({done.freed} bytes)")
    _tell_notes(done)


def _tell_notes(done: Deleted) -> None:
    for note in done.notes:
        click.echo(f"lamina: {clean(note)}", err=True)


def report(
    done: list[Copied], format: str | None, quiet: bool, *, moved: str = "fetched", there: str = "already here"
) -> None:
    """The table of what was moved and what was there already."""
    rows = [
        {
            "Image": clean(image.name),
            "What": blob.what,
            "Digest": blob.descriptor.digest.short,
            "Size": human_size(blob.descriptor.size),
            "State": there if blob.reused else moved,
        }
        for image in done
        for blob in image.blobs
    ]
    if format == "json":
        emit_json(
            [
                {
                    "name": image.name,
                    "digest": str(image.descriptor.digest),
                    "blobs": [
                        {
                            "what": blob.what,
                            "digest": str(blob.descriptor.digest),
                            "size": blob.descriptor.size,
                            "reused": blob.reused,
                        }
                        for blob in image.blobs
                    ],
                }
                for image in done
            ]
        )
    elif format is not None or not quiet:
        columns = [("What", "WHAT"), ("Digest", "DIGEST"), ("Size", "SIZE"), ("State", "STATE")]
        emit(rows, columns, format, right=("Size",))
