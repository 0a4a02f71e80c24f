"""An instruction of a Dockerfile, split (pure): its name, flags and arguments, and the here-documents that its line
announces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lamina.build.dockerfile.words import SPACES, BadExpansion, raw_words
from lamina.build.instructions import At, HereDocument
from lamina.text import clean, nearest

_BLANK = re.compile(r"[\t\v\f\r ]+")
_HERE_DOCUMENT = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")
_SPACE = re.compile(f"[{SPACES}]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadInstruction(Exception):
    """A problem in an instruction. ``offset``: where, in the joined line; None: where its arguments begin."""

    def __init__(self, problem: str, offset: int | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.offset, self.hint = problem, offset, hint


@dataclass(slots=True)
class Statement:
    """An instruction, split. ``word``: its name as it was written. ``values``: its arguments by the grammar of its
    kind. ``is_json``: they were a JSON list. ``old_form``: ENV and LABEL without ``=``. ``inner``: what ONBUILD
    delays."""

    text: str
    word: str
    name: str
    start: int
    flags: list[tuple[int, str]]
    rest: str
    rest_at: int
    escape: str
    values: list[str] = field(default_factory=list)
    is_json: bool = False
    old_form: bool = False
    inner: Statement | None = None
    documents: list[HereDocument] = field(default_factory=list)
    at: At | None = None
    comments: tuple[str, ...] = ()

    @property
    def common(self) -> dict[str, Any]:
        """The fields that all instructions have."""
        return {"at": self.at, "text": self.text.strip(SPACES), "comments": self.comments}


def first_argument(text: str) -> int:
    start = len(text) - len(text.lstrip(SPACES))
    found = _BLANK.search(text, start)
    return found.end() if found else start


def split_statement(text: str, start: int, escape: str, *, is_trigger: bool = False) -> Statement:
    """Split ``text`` from ``start`` on. A trigger may be unknown here: the build that it is for will say so. Raises
    BadInstruction."""
    line = text[start:].strip(SPACES)
    start += len(text) - start - len(text[start:].lstrip(SPACES))
    blank = _BLANK.search(line)
    word = line[: blank.start()] if blank else line
    name = word.upper()
    grammar = GRAMMARS.get(name)
    if grammar is None and not is_trigger:
        near = nearest(name, GRAMMARS)
        hint = f"write {near[0]}" if near else "begin the line with an instruction, such as FROM, RUN or COPY"
        raise BadInstruction(f"unknown instruction {clean(word)[:60]}", start, hint)
    rest_at = start + (blank.end() if blank else len(line))
    flags, rest_at = _flags(text, rest_at, escape)
    rest = text[rest_at:].strip(SPACES)
    rest_at += len(text) - rest_at - len(text[rest_at:].lstrip(SPACES))
    found = Statement(text, word, name, start, flags, rest, rest_at, escape)
    if grammar:
        grammar(found)
    return found


def _flags(text: str, at: int, escape: str) -> tuple[list[tuple[int, str]], int]:
    """The words that begin with ``--``, each with its offset; and where the rest begins."""
    flags: list[tuple[int, str]] = []
    while True:
        while at < len(text) and text[at] in SPACES:
            at += 1
        if not text.startswith("--", at):
            return flags, at
        start, quote, word = at, "", []
        while at < len(text) and (quote or text[at] not in SPACES):
            character = text[at]
            at += 1
            if character == quote:
                quote = ""
            elif not quote and character in "'\"":
                quote = character
            elif character != escape:
                word.append(character)
            elif at < len(text):
                word.append(text[at])
                at += 1
        if "".join(word) == "--":
            return flags, at
        flags.append((start, "".join(word)))


class Flags:
    """Reads the flags of an instruction. The names of those that it may have are given by kind."""

    def __init__(
        self,
        statement: Statement,
        *,
        texts: Sequence[str] = (),
        lists: Sequence[str] = (),
        bools: Sequence[str] = (),
    ) -> None:
        known = (*texts, *lists, *bools)
        self._values: dict[str, list[str]] = {}
        for offset, flag in statement.flags:
            name, equals, value = flag[2:].partition("=")
            if name not in known:
                raise _unknown_flag(statement.name, name, offset, known)
            if name in self._values and name not in lists:
                raise BadInstruction(f"{statement.name} has --{name} twice", offset, "keep one of them")
            if name in bools:
                if value.lower() not in ("true", "false") and (equals or value):
                    raise BadInstruction(
                        f"--{name} of {statement.name} is {clean(value)[:60]!r}",
                        offset,
                        f"write --{name} or --{name}=false",
                    )
            elif not equals:
                raise BadInstruction(f"--{name} of {statement.name} has no value", offset, f"write --{name}=VALUE")
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        return self._values.get(name, [""])[0]

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self._values.get(name, ()))

    def is_true(self, name: str) -> bool:
        return self.maybe(name) or False

    def maybe(self, name: str) -> bool | None:
        """None: it was not given."""
        given = self._values.get(name)
        return None if given is None else given[0].lower() != "false"


def _unknown_flag(instruction: str, name: str, offset: int, known: Sequence[str]) -> BadInstruction:
    near = nearest(name, known)
    expected = ", ".join(f"--{one}" for one in sorted(known))
    hint = (
        f"write --{near[0]}" if near else f"{instruction} has {expected}" if known else f"{instruction} has no flags"
    )
    return BadInstruction(f"unknown flag --{clean(name)[:60]} of {instruction}", offset, hint)


def offset_of_flag(statement: Statement, name: str) -> int | None:
    return next((offset for offset, flag in statement.flags if flag.startswith(f"--{name}")), None)


# grammars: each sets ``values``


def _list(statement: Statement) -> None:
    statement.values = _BLANK.split(statement.rest) if statement.rest else []


def _one(statement: Statement) -> None:
    statement.values = [statement.rest] if statement.rest else []


def _names(statement: Statement) -> None:
    statement.values = _quoted_words(statement.rest, statement.escape)


def _pairs(statement: Statement) -> None:
    """``name=value name=value``, or the old form ``name value``: the rest of the line is the value."""
    words = _quoted_words(statement.rest, statement.escape)
    if not words:
        return
    if "=" not in words[0]:
        statement.old_form = True
        statement.values = _BLANK.split(statement.rest, maxsplit=1)
        if len(statement.values) < 2:
            raise BadInstruction(f"{statement.name} has no value for {clean(words[0])[:60]}", hint="write NAME=VALUE")
        return
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadInstruction(
                f"{clean(word)[:60]!r} has no =", hint="write NAME=VALUE, and quotes around a value with spaces"
            )
        statement.values += [name, value]


def _json_or_one(statement: Statement) -> None:
    if not _json(statement, statement.rest):
        _one(statement)


def _json_or_list(statement: Statement) -> None:
    if not _json(statement, statement.rest):
        _list(statement)


def _health(statement: Statement) -> None:
    kind = _SPACE.split(statement.rest, maxsplit=1) if statement.rest else []
    statement.values = kind[:1]
    if len(kind) == 2 and kind[1]:
        first = kind[0]
        if not _json(statement, kind[1]):
            statement.values = [kind[1]]
        statement.values = [first, *statement.values]


def _inner(statement: Statement) -> None:
    if statement.rest:
        statement.inner = split_statement(statement.text, statement.rest_at, statement.escape, is_trigger=True)


def _json(statement: Statement, text: str) -> bool:
    """Whether the text is a JSON list. One of other things than texts is an error, as in BuildKit; one that is not
    whole is for the shell."""
    text = text.lstrip(SPACES)
    if not text.startswith("["):
        return False
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_number, parse_int=_number)
    except RecursionError:
        found = [None]  # a list in a list
    except ValueError:
        return False
    if not all(isinstance(one, str) for one in found):
        raise BadInstruction(
            f"the JSON list of {statement.name} contains a value that is not a string",
            hint='put each word in double quotes (")',
        )
    statement.values = [_SURROGATE.sub("\ufffd", one) for one in found]
    statement.is_json = True
    return True


def _no_number(_text: str) -> None:
    raise ValueError("JSON has no such number")


def _number(text: str) -> float:
    found = float(text)
    if found in (float("inf"), float("-inf")):
        raise ValueError("too large")
    return found


def _quoted_words(text: str, escape: str) -> list[str]:
    """Split at spaces that are neither quoted nor escaped; quotes and escapes stay."""
    words: list[str] = []
    word: list[str] = []
    quote, begun, at = "", False, 0
    while at < len(text):
        character = text[at]
        at += 1
        if not quote and character in SPACES:
            if begun or word:
                words.append("".join(word))
            word, begun = [], False
            continue
        if character == escape and quote != "'":
            if at == len(text):
                quote = ""
                break  # an escape at the end of the line means nothing
            word.append(character)
            character = text[at]
            at += 1
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote, begun = character, True
        word.append(character)
    if begun or word:
        words.append("".join(word))
    return words


GRAMMARS: dict[str, Callable[[Statement], None]] = {
    "ADD": _json_or_list,
    "ARG": _names,
    "CMD": _json_or_one,
    "COPY": _json_or_list,
    "ENTRYPOINT": _json_or_one,
    "ENV": _pairs,
    "EXPOSE": _list,
    "FROM": _list,
    "HEALTHCHECK": _health,
    "LABEL": _pairs,
    "MAINTAINER": _one,
    "ONBUILD": _inner,
    "RUN": _json_or_one,
    "SHELL": _json_or_one,
    "STOPSIGNAL": _one,
    "USER": _one,
    "VOLUME": _json_or_list,
    "WORKDIR": _one,
}
"""How the arguments of each instruction are split."""


# here-documents


@dataclass(frozen=True, slots=True)
class HereWord:
    """``<<NAME`` or ``<<-NAME`` (``tabs``: leading tabs are removed). ``expand``: no part of the name was quoted."""

    name: str
    tabs: bool
    expand: bool


def here_words(line: str) -> list[HereWord]:
    """The words of a line that announce a here-document."""
    try:
        words = raw_words(line)
    except BadExpansion:
        return []  # as BuildKit: the line is for a shell, which will say what is wrong
    return [found for word in words if (found := here_word(word))]


def here_word(word: str) -> HereWord | None:
    found = _HERE_DOCUMENT.fullmatch(word)
    if found is None or not found[3]:
        return None
    try:
        plain = raw_words(found[3], keep_quotes=False, keep_escapes=False)
        quoted = raw_words(found[3], keep_escapes=False)
    except BadExpansion as error:
        raise BadInstruction(f"the name of a here-document: {error.message}", hint=error.hint) from None
    if len(plain) != 1:
        return None

    def quotes(text: str) -> int:
        return text.count("'") + text.count('"')

    return HereWord(plain[0], bool(found[2]), quotes(plain[0]) == quotes(quoted[0] if quoted else ""))


def source_word(word: str) -> HereWord | None:
    """As ``here_word``, of a source of COPY; a name that is not a word is a path."""
    try:
        return here_word(word)
    except BadInstruction:
        return None
