"""The output of verbs: a table, JSON, or a Go template, chosen with ``--format``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import say
from lamina.cli.format.text import clean, human_size
from lamina.errors import LaminaError, UsageError
from lamina.host.files import reported

if TYPE_CHECKING:
    from lamina.store.gc import Deleted
    from lamina.transfer.copy import Copied

Row = Mapping[str, Any]
_PIECE = 1000  # rows of a table, or lines of templates, that are cleaned and written at once
_JSON_PIECE = 200  # values of a list that are encoded at once
_HELD = 1 << 24  # characters of a list that are kept in memory until the list is complete


def write(text: str) -> None:
    """Print a line to standard output; characters outside of its encoding are escaped."""
    click.echo(text)


def ask(question: str) -> None:
    """Ask for confirmation before something is deleted. Raises LaminaError if the answer is no, UsageError if there
    is no answer."""
    try:
        answer = click.confirm(question, err=True)
    except click.Abort:  # Ctrl-C, or the end of the input
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise UsageError(
            "no confirmation on standard input", hint="use --force to delete without a question"
        ) from None
    if not answer:
        raise LaminaError("nothing was deleted")


def emit_json(value: Any) -> None:
    """Print indented JSON, in ASCII only: any encoding can take it, and control characters are escaped."""
    from json import dumps

    write(dumps(value, indent=2, ensure_ascii=True))


def emit_json_list(values: Iterable[Any], *, checked: bool = False) -> None:
    """Print a list like ``emit_json``, with few values in memory at a time. If making a value fails, nothing is
    written. ``checked``: making a value can't fail, so each is written at once."""
    pieces = _json_pieces(values)
    for piece in pieces if checked else _held_back(pieces):
        click.echo(piece, nl=False)


def _held_back(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the same text, but only when it is complete. A temporary file holds what is too large for memory."""
    held: list[str] = []
    size, file = 0, None
    with ExitStack() as stack:
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size < _HELD:
                continue
            import tempfile

            with reported(tempfile.gettempdir()):
                if file is None:
                    file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii", newline=""))
                file.write("".join(held))
            held, size = [], 0
        if file is not None:
            with reported(tempfile.gettempdir()):
                file.seek(0)
            while text := file.read(_HELD):
                yield text
        yield "".join(held)


def _json_pieces(values: Iterable[Any]) -> Iterator[str]:
    """Yield the text of a list in the form of ``emit_json``."""
    from json import dumps

    rest, before = iter(values), "[\n  "
    while some := list(itertools.islice(rest, _JSON_PIECE)):
        yield before + dumps(some, indent=2, ensure_ascii=True)[4:-2]  # without its brackets
        before = ",\n  "
    yield "\n]\n" if before[0] == "," else "[]\n"


def table(rows: Iterable[Sequence[str]], header: Sequence[str] | None = None, *, right: Iterable[int] = ()) -> None:
    """Print aligned columns, three spaces apart, as docker does. ``right``: numbers of right-aligned columns."""
    lines: list[Sequence[str]] = [] if header is None else [tuple(header)]
    widths = list(map(len, lines[0])) if lines else []
    pieces = iter(rows)
    while piece := list(itertools.islice(pieces, _PIECE)):
        cleaned = _cleaned(piece)
        wide = [max(map(len, column)) for column in zip(*cleaned, strict=True)]
        widths = [max(both) for both in zip(widths or wide, wide, strict=True)]
        lines += cleaned
    if not lines:
        return
    flush_right = set(right)
    last = len(widths) - 1
    shape = "   ".join(
        f"%{width}s" if number in flush_right else "%s" if number == last else f"%-{width}s"
        for number, width in enumerate(widths)
    )
    for start in range(0, len(lines), _PIECE):
        write("\n".join([(shape % line).rstrip() for line in lines[start : start + _PIECE]]))


def _cleaned(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the rows with cleaned cells. If all rows together are printable, no cell is checked."""
    if "".join(itertools.chain.from_iterable(rows)).isprintable():
        return [tuple(row) for row in rows]
    return [tuple(map(clean, row)) for row in rows]


def emit(
    rows: Iterable[Row],
    columns: Sequence[tuple[str, str]],
    format: str | None,
    *,
    json_rows: Iterable[Row] | None = None,
    right: Iterable[str] = (),
    header: bool = True,
    headings: Mapping[str, str] | None = None,
) -> None:
    """Print rows of named fields. ``columns``: (field, heading) of the table. ``json_rows``: the rows for JSON, with
    exact numbers and full digests. A template can use every field of a row. ``headings``: for fields in a template
    that are not columns of the table."""
    if format == "json":
        values = json_rows if json_rows is not None else rows
        emit_json_list(values, checked=isinstance(values, Sequence))
        return
    if format is None or format == "table":
        flush, fields = set(right), [field for field, _ in columns]
        table(
            ([*map(str, map(row.__getitem__, fields))] for row in rows),
            [heading for _, heading in columns] if header else None,
            right=[number for number, (field, _) in enumerate(columns) if field in flush],
        )
        return
    emit_template(rows, {**(headings or {}), **dict(columns)}, format, header=header)


def emit_template(rows: Iterable[Any], headings: Mapping[str, str], format: str, *, header: bool = True) -> None:
    """Print each row with a Go template. With the prefix ``table``, align the columns and, with ``header``, print
    headings: those of ``headings``, else made from the names of the fields."""
    from lamina.cli.format.template import Template

    tabular, text = table_template(format)
    template = Template(text)
    lines = [template.render(row) for row in rows]
    if not tabular:
        for start in range(0, len(lines), _PIECE):
            parts = "\n".join(lines[start : start + _PIECE]).split("\n")
            write("\n".join(["\t".join(map(clean, part.split("\t"))) for part in parts]))
        return
    cells = [line.split("\t") for line in [*([template.heading(headings)] if header else ()), *lines]]
    width = max(map(len, cells), default=0)
    table([[*row, *[""] * (width - len(row))] for row in cells])


def table_template(format: str) -> tuple[bool, str]:
    """Return whether a template has docker's prefix ``table``, and the template without it (pure)."""
    word, _, _rest = format.lstrip().partition(" ")
    if word == "table" or format.startswith("table\t") or format.startswith("table{"):
        return True, format.lstrip().removeprefix("table").strip()
    return False, format


def print_deleted(done: Deleted, *, dry_run: bool, format: str | None) -> None:
    """Print what `rmi` or `prune` has removed, or would remove."""
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
        say(note)


def report(
    done: list[Copied], format: str | None, quiet: bool, *, moved: str = "fetched", there: str = "already here"
) -> None:
    """Print the table of blobs that were copied or existed already. ``quiet``: only if ``format`` is given."""
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
