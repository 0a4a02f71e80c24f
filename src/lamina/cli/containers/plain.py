"""Command lines that need no click, whose loading takes thrice as long as Python's own start: `run` with options that
are spelt out. Whatever is not plainly one of those (another verb, an abbreviation, a typing error, --help) goes
click's way, which knows all and says what is wrong; a verb's options stand in one table that both ways read.
"""

from __future__ import annotations

import os

from lamina.cli.option_table import FLAG, MANY, TEXT, Option
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def answer(words: Sequence[str]) -> int | None:
    """The exit code of a command that went this way, or None: go click's. Raises LaminaError."""
    root, at = None, 0
    if words[:1] == ["--root"] and len(words) > 1:
        root, at = words[1], 2
    elif words and words[0].startswith("--root="):
        root, at = words[0].removeprefix("--root="), 1
    if words[at : at + 1] != ["run"] or "_LAMINA_COMPLETE" in os.environ:
        return None
    from lamina.cli.containers import launch
    from lamina.cli.session import Session

    parsed = parse(words[at + 1 :], launch.OPTIONS)
    if parsed is None:
        return None
    given, (image, *command) = parsed
    return launch.launch(Session({"root": root} if root is not None else {}), image, tuple(command), **given)


def parse(words: Sequence[str], options: Sequence[Option]) -> tuple[dict[str, Any], list[str]] | None:
    """What click makes of the words (pure): the options' values, and the arguments, which begin with the first word
    that is no option. None where click is to say."""
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
