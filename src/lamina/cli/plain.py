"""Answer command lines without click, which takes three times as long to load as Python: `run` with options that are
spelt out, and `tags`, `digest` and `manifest`, which scripts call in loops. Everything else (another verb, an
abbreviation, an error, --help) is left to click. The options of a verb are in one table that both read, and both call
the same function.
"""

from __future__ import annotations

import os

from lamina.cli.option_table import FLAG, MANY, TEXT, Option
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_ASKED = ("tags", "digest", "manifest")


def answer(words: Sequence[str]) -> int | None:
    """Run the command line and return its exit code, or return None: click must parse it. Raises LaminaError."""
    root, at = None, 0
    if words[:1] == ["--root"] and len(words) > 1:
        root, at = words[1], 2
    elif words and words[0].startswith("--root="):
        root, at = words[0].removeprefix("--root="), 1
    flags = {"root": root} if root is not None else {}
    verb, rest = (words[at] if len(words) > at else ""), words[at + 1 :]
    if "_LAMINA_COMPLETE" in os.environ:
        return None
    if verb == "run":
        return _run(rest, flags)
    return _ask(verb, rest, flags) if verb in _ASKED else None


def _run(words: Sequence[str], flags: dict[str, str]) -> int | None:
    from lamina.cli.containers import run_command
    from lamina.cli.session import Session

    parsed = parse(words, run_command.RUN_OPTIONS)
    if parsed is None:
        return None
    given, (image, *command) = parsed
    return run_command.run_container(Session(flags), image, tuple(command), **given)


def _ask(verb: str, words: Sequence[str], flags: dict[str, str]) -> int | None:
    from lamina.cli.registry import plain_queries
    from lamina.cli.session import Session

    parsed = parse(words, plain_queries.OPTIONS[verb])
    if parsed is None or len(parsed[1]) != 1:
        return None
    given, (name,) = parsed
    plain_queries.ANSWERS[verb](Session(flags), name, **given)
    return 0


def parse(words: Sequence[str], options: Sequence[Option]) -> tuple[dict[str, Any], list[str]] | None:
    """Parse the words as click would (pure): the values of the options, and the arguments, which begin with the first
    word that is not an option. None: click must parse them."""
    known = {name: option for option in options for name in option.names}
    given = {option.argument: option.start for option in options}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name, equals, value = words[at], "", ""
        if name.startswith("--"):
            name, equals, value = name.partition("=")
        at += 1
        if name not in known:
            flags = [known.get(f"-{letter}") for letter in name[1:]]
            if equals or name.startswith("--") or not flags:
                return None
            for flag in flags:
                if flag is None or flag.kind != FLAG:
                    return None
                given[flag.argument] = True
            continue
        option = known[name]
        if option.kind == FLAG:
            if equals:
                return None
            given[option.argument] = True
            continue
        if option.choices or option.kind not in (TEXT, MANY):
            return None
        if not equals:
            if at == len(words):
                return None
            value = words[at]
            at += 1
        given[option.argument] = (*given[option.argument], value) if option.kind == MANY else value
    return (given, list(words[at:])) if at < len(words) else None
