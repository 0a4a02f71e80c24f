"""The manual pages of all verbs, in roff, and the completion scripts for shells. Both are made from the click
commands when the package is built (``hatch_build.py``), so they always agree with ``--help``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence

import click

from lamina.version import __version__

SHELLS = ("bash", "zsh", "fish")
COMPLETION_FILES = {
    "bash": "bash-completion/completions/lamina",
    "zsh": "zsh/site-functions/_lamina",
    "fish": "fish/vendor_completions.d/lamina.fish",
}
"""The path of the script for each shell, below share/."""
_FLAG = re.compile(r"(?<![\w\\])((?:\\-){1,2}\w(?:\w|\\-)*)")
_SPECIAL = {"\\": r"\e", "-": r"\-", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga", "'": r"\(aq"}


def completion(shell: str) -> str:
    """Return the completion script for ``shell``."""
    from lamina.cli.completion import script

    return script(shell)


def pages(codes: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """Return the manual pages of ``lamina`` and of each verb by file name (``lamina-run.1``). ``codes``: exit codes
    and their meanings."""
    from lamina.cli.app import cli

    context = click.Context(cli, info_name="lamina", **cli.context_settings)
    found = {"lamina.1": _page(context, [*_overview(codes)])}
    for inner in _contexts(context):
        found[inner.command_path.replace(" ", "-") + ".1"] = _page(inner, [])
    return found


def exit_codes(markdown: str) -> list[tuple[str, str]]:
    """Return (code, meaning) for each row of the table in docs/exit-codes.md."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in markdown.splitlines() if "|" in line]
    return [(row[0], row[1].replace("`", "")) for row in rows if row[0].isdigit()]


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of each command below a group."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context, **command.context_settings)
        yield inner
        if isinstance(command, click.Group):
            yield from _contexts(inner)


def _page(context: click.Context, more: Sequence[str]) -> str:
    command = context.command
    name = context.command_path.replace(" ", "-")
    about, example = _parts(command)
    short = command.get_short_help_str(200).rstrip(".")
    lines = [
        f'.TH "{_text(name.upper())}" "1" "" "lamina {_text(__version__)}" "lamina"',
        *_section("Name", [rf"{_text(name)} \- {_text(short)}"]),
        *_section("Synopsis", [rf"\fB{_text(context.command_path)}\fR " + _text(" ".join(_usage(command, context)))]),
        *_section("Description", about),
    ]
    records = [one.get_help_record(context) for one in command.get_params(context)]
    options = [found for found in records if found is not None and found[1]]  # arguments have no text
    if options:
        lines += _section("Options", [line for flags, text in options for line in _item(_flags(flags), text)])
    if isinstance(command, click.Group):
        lines += _section("Verbs", [line for inner in _below(context) for line in inner])
    lines += more
    if example:
        lines += _section("Examples", [".EX", *map(_line, example), ".EE"])
    if context.parent is not None:
        lines += _section("See also", [rf"\fB{_text(context.parent.command_path.replace(' ', '-'))}\fR(1)"])
    return "\n".join(lines) + "\n"


def _usage(command: click.Command, context: click.Context) -> list[str]:
    return command.collect_usage_pieces(context)


def _below(context: click.Context) -> Iterator[list[str]]:
    for inner in _contexts(context):
        if inner.parent is context:
            name = inner.command_path.replace(" ", "-")
            yield _item(rf"\fB{_text(name)}\fR(1)", inner.command.get_short_help_str(200))


def _overview(codes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The parts that only lamina(1) has."""
    from lamina.cli.app import cli
    from lamina.cli.noun_table import NOUNS
    from lamina.settings import SYSTEM_FILE, settings

    nouns = [line for noun, (about, verbs) in NOUNS.items() for line in _noun(noun, about, sorted(verbs))]
    yield from _section("Other names of the verbs", nouns)
    yield from _section("Images", _paragraph(cli.epilog or ""))
    variables = [
        line
        for name, names in settings().items()
        for line in _item(", ".join(rf"\fB{_text(one)}\fR" for one in names), _meaning(name))
    ]
    yield from _section("Environment", variables)
    files = ((SYSTEM_FILE, "Settings of the host."), ("~/.config/lamina/config.toml", "Settings of the user."))
    yield from _section("Files", [line for path, text in files for line in _item(rf"\fI{_text(path)}\fR", text)])
    yield from _section("Exit status", [line for code, text in codes for line in _item(_text(code), text)])


def _noun(noun: str, about: str, verbs: Sequence[str]) -> list[str]:
    return _item(rf"\fBlamina {noun}\fR VERB", f"{about} Verbs: {', '.join(verbs)}.")


def _meaning(name: str) -> str:
    from lamina.settings import meaning

    return f"The setting {name}: {meaning(name)}."


def _parts(command: click.Command) -> tuple[list[str], list[str]]:
    """The help as roff without its example, and the example's lines."""
    about, _, example = inspect.cleandoc(command.help or "").partition("Example:\n")
    lines: list[str] = []
    for text in about.split("\n\n"):
        kept = text.strip("\n")
        if kept.startswith("\b"):  # click's mark for lines that stay lines
            kept = kept.lstrip("\b").strip("\n")
            lines += [".PP", ".nf", *map(_line, kept.splitlines()), ".fi"] if kept else []
        elif kept.strip():
            lines += [".PP", *_paragraph(kept)]
    return lines[1:] if lines[:1] == [".PP"] else lines, [line[2:] for line in example.splitlines()]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f".SH {title.upper()}", *lines] if lines else []


def _item(term: str, text: str) -> list[str]:
    return [".TP", term, *_paragraph(text)]


def _paragraph(text: str) -> list[str]:
    return [_line(" ".join(text.split()))]


def _flags(text: str) -> str:
    """The flags of an option bold, what they take as it is."""
    return _FLAG.sub(r"\\fB\1\\fR", _text(text))


def _line(text: str) -> str:
    """A line of text that is none of roff's requests."""
    shown = _text(text)
    return rf"\&{shown}" if shown.startswith((".", r"\(aq")) else shown


def _text(text: str) -> str:
    return "".join(_SPECIAL.get(one, one if one.isascii() else rf"\[u{ord(one):04X}]") for one in text)
