"""The text of a Dockerfile as values (pure): directives, comments, continuations, here-documents, flags, JSON forms.

BuildKit's parser is the reference, and a test compares the two (``tests/interop/test_dockerfile_oracle.py``).
What BuildKit builds is read here too. These differ on purpose: characters that are not ASCII stay whole in flags, ARG
and STOPSIGNAL refuse flags instead of dropping them, and a NUL in an instruction is refused.

Bytes that are not UTF-8: in comments they mean nothing; in the here-documents of COPY they stay (as lone
surrogates); in RUN they are refused, since no runtime spec can hold them; elsewhere they become U+FFFD, with a note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lamina.build.durations import nanoseconds
from lamina.build.errors import DockerfileError
from lamina.build.instructions import (
    Add,
    Arg,
    At,
    Cmd,
    Command,
    Copy,
    Directive,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    HereDocument,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from lamina.build.run_mounts import origin_of
from lamina.build.words import SPACES, BadExpansion, raw_words
from lamina.errors import UsageError
from lamina.text import clean, nearest

MAX_SIZE = 8 << 20
MAX_LINE = (64 << 10) - 1
"""Bytes of one line: BuildKit's limit."""
MAX_INSTRUCTIONS = 5_000
MAX_STAGES = 1_000
MAX_PAIRS = 5_000
"""Stages, and names in all ENV, ARG and LABEL. Each stage and RUN may have the variables of all instructions above:
these limits bound the memory that a build takes."""

_BLANK = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVE = re.compile(rf"#[{SPACES}]*([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*\Z")
_HERE_DOCUMENT = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")
_SPACE = re.compile(f"[{SPACES}]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_DIRECTIVES = ("syntax", "escape", "check")


def parse(data: bytes, file: str = "Dockerfile") -> Dockerfile:
    """Parse a Dockerfile. ``file``: its name in messages. Raises DockerfileError."""
    source = _Source(data, file)
    arguments: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    count = pairs = 0
    for instruction in source.instructions():
        count += 1
        if count > MAX_INSTRUCTIONS:
            raise source.error(f"more than {MAX_INSTRUCTIONS:,} instructions", instruction.at.line)
        if isinstance(instruction, (Arg, Env, Label)):
            pairs += len(instruction.items)
            if pairs > MAX_PAIRS:
                raise source.error(f"more than {MAX_PAIRS:,} names in ENV, ARG and LABEL", instruction.at.line)
        if isinstance(instruction, From):
            if len(stages) == MAX_STAGES:
                raise source.error(f"more than {MAX_STAGES:,} stages", instruction.at.line)
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise source.error(
                f"{instruction.text.split(maxsplit=1)[0].upper()} stands before the first FROM",
                instruction.at.line,
                hint="begin with FROM; only ARG may stand before it",
            )
    if not stages:
        raise source.error(
            "no FROM, so there is nothing to build" if count else "no instructions", 1, hint="begin with FROM IMAGE"
        )
    return Dockerfile(
        tuple(source.directives),
        tuple(arguments),
        tuple(Stage(base, tuple(instructions)) for base, instructions in stages),
        source.escape,
        source.text,
        tuple(source.blanks),
        tuple(source.notes),
    )


def parse_instruction(text: str, at: At | None = None) -> Instruction:
    """Parse one instruction: the ONBUILD trigger of a base image. ``at``: the place that the result gets, such as the
    place of the FROM. Raises DockerfileError."""
    source = _Source(text.encode("utf-8", "surrogatepass"), "ONBUILD trigger")
    found = list(source.instructions())
    if len(found) != 1:
        raise source.error(f"{len(found)} instructions where one was expected", 1)
    if isinstance(found[0], From):
        raise source.error("FROM can't be an ONBUILD trigger", 1)
    return replace(found[0], at=at) if at else found[0]


# lines


class _Bad(Exception):
    """A problem in an instruction. ``offset``: where, in the joined line; None: where its arguments begin."""

    def __init__(self, problem: str, offset: int | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.offset, self.hint = problem, offset, hint


@dataclass(slots=True)
class _Joined:
    """The line of an instruction, its continuations joined. ``pieces``: for each line of the file its offset in
    ``text``, its number and its first column."""

    text: str
    pieces: list[tuple[int, int, int]]

    def place(self, offset: int) -> tuple[int, int]:
        """The line and column of an offset."""
        offset = min(offset, max(len(self.text) - 1, 0))
        start, number, column = next(piece for piece in reversed(self.pieces) if piece[0] <= offset)
        return number, column + offset - start


class _Source:
    """Reads the lines of a file."""

    def __init__(self, data: bytes, file: str) -> None:
        self.file = file
        self.directives: list[Directive] = []
        self.blanks: list[At] = []
        self.notes: list[str] = []
        self.escape = "\\"
        self.lines: list[str] = []
        if len(data) > MAX_SIZE:
            raise self.error(f"larger than {MAX_SIZE >> 20} MiB", 1)
        self.text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        self.lines = self.text.split("\n")
        if self.lines[-1] == "":
            self.lines.pop()
        self.next = 0

    def error(self, problem: str, line: int, column: int = 1, hint: str | None = None) -> DockerfileError:
        text = self.lines[line - 1].rstrip("\r") if 0 < line <= len(self.lines) else ""
        return DockerfileError(problem, at=At(self.file, line, line), column=column, line=text, hint=hint)

    def take(self) -> str | None:
        """The next line without its end; None at the end."""
        if self.next >= len(self.lines):
            return None
        line = self.lines[self.next]
        self.next += 1
        if len(line) > MAX_LINE // 4 and len(line.encode("utf-8", "surrogateescape")) > MAX_LINE:
            raise self.error(
                f"the line has more than {MAX_LINE:,} bytes", self.next, hint="break it with a \\ at its end"
            )
        return line

    def instructions(self) -> Iterable[Instruction]:
        comments: list[str] = []
        in_directives, has_shebang = True, False
        while (line := self.take()) is not None:
            line = line.rstrip("\r")
            stripped = line.lstrip(SPACES)
            if in_directives:
                has_shebang = has_shebang or (self.next == 1 and stripped.startswith("#!"))
                if not (self.next == 1 and has_shebang):
                    in_directives = self.directive(stripped, has_shebang)
                    if in_directives:
                        continue
            if stripped.startswith("#"):
                comment = _SURROGATE.sub("\ufffd", stripped[1:].strip(SPACES))
                if comment:
                    comments.append(comment)
                else:
                    comments.clear()
                continue
            if stripped:
                yield self.instruction(stripped, len(line) - len(stripped) + 1, tuple(comments))
                comments.clear()

    def directive(self, line: str, has_shebang: bool) -> bool:
        """Whether the line is a parser directive."""
        found = _DIRECTIVE.match(line)
        name = found[1].lower() if found else ""
        if found is None or name not in _DIRECTIVES or (name == "escape" and has_shebang):
            return False
        number = self.next
        if any(one.name == name for one in self.directives):
            raise self.error(f"a second directive {name}", number, hint="keep one of them")
        self.directives.append(Directive(name, found[2], At(self.file, number, number)))
        if name == "escape":
            if found[2] not in ("\\", "`"):
                raise self.error(
                    f"the escape character is {clean(found[2])}", number, found.start(2) + 1, hint="choose \\ or `"
                )
            self.escape = found[2]
        return True

    def instruction(self, line: str, column: int, comments: tuple[str, ...]) -> Instruction:
        """The instruction that begins with ``line``, which was taken already."""
        first = self.next
        joined = self.joined(line, column)
        self.replace_bytes(joined)
        try:
            statement = _statement(joined.text, 0, self.escape)
            inner = statement.inner or statement
            if inner.name in ("ADD", "COPY", "RUN") and not inner.is_json and "<<" in joined.text:
                keeps_bytes = statement.name in ("ADD", "COPY")
                statement.documents = [self.here_document(one, keeps_bytes) for one in _here_documents(joined.text)]
            statement.at = At(self.file, first, self.next)
            statement.comments = comments
            return _KINDS[statement.name].build(statement)
        except _Bad as bad:
            offset = _first_argument(joined.text) if bad.offset is None else bad.offset
            raise self.error(bad.problem, *joined.place(offset), bad.hint) from None

    def joined(self, line: str, column: int) -> _Joined:
        """The line with those that continue it."""
        pieces = [(0, self.next, column)]
        line, goes_on = self.continued(line)
        parts, size, has_blank = [line], len(line), False
        while goes_on and (following := self.take()) is not None:
            following = following.rstrip("\r")
            stripped = following.lstrip(SPACES)
            if stripped.startswith("#"):
                continue
            if not stripped:
                has_blank = True
                continue
            following, goes_on = self.continued(following)
            pieces.append((size, self.next, 1))
            parts.append(following)
            size += len(following)
        if has_blank:
            self.blanks.append(At(self.file, self.next, self.next))
        joined = _Joined("".join(parts), pieces)
        if "\0" in joined.text:
            raise self.error("a NUL character", *joined.place(joined.text.find("\0")), "save the file as UTF-8 text")
        return joined

    def replace_bytes(self, joined: _Joined) -> None:
        """Replace bytes that are not UTF-8."""
        offset = _not_utf8(joined.text)
        if offset < 0:
            return
        number, column = joined.place(offset)
        words = [word.upper() for word in joined.text.split(maxsplit=2)]
        if "RUN" in words[: 2 if words[0] == "ONBUILD" else 1]:
            raise self.error("a byte that is not UTF-8", number, column, "save the file as UTF-8 text")
        joined.text = _SURROGATE.sub("\ufffd", joined.text)
        self.notes.append(f"{clean(self.file)}:{number}:{column}: a byte that is not UTF-8 is replaced")

    def continued(self, line: str) -> tuple[str, bool]:
        """The line without its continuation character, and whether it had one. Two escape characters are none."""
        stripped = line.rstrip(" \t")
        if stripped.endswith(self.escape) and not stripped.endswith(self.escape * 2):
            return stripped[:-1], True
        return line, False

    def here_document(self, word: _Word, keeps_bytes: bool) -> HereDocument:
        """Read the lines up to the one with its name."""
        first = self.next
        lines: list[str] = []
        while (line := self.take()) is not None:
            end = line.rstrip("\r")
            if (end.lstrip("\t") if word.tabs else end) == word.name:
                content = "".join(lines)
                if not keeps_bytes and _not_utf8(content) >= 0:
                    raise self.error(f"the here-document {clean(word.name)} is not UTF-8", first)
                if not word.tabs:
                    return HereDocument(word.name, content, word.expand)
                return HereDocument(word.name, _LEADING_TABS.sub("", content), word.expand, content)
            lines.append(line + ("\n" if self.next < len(self.lines) or self.text.endswith("\n") else ""))
        raise self.error(
            f"the here-document {clean(word.name)} has no end",
            first,
            hint=f"add a line that is only {clean(word.name)}",
        )


def _not_utf8(text: str) -> int:
    """The offset of the first byte that is not UTF-8; -1: there is none."""
    found = None if text.isascii() else _SURROGATE.search(text)
    return found.start() if found else -1


# here-documents


@dataclass(frozen=True, slots=True)
class _Word:
    """``<<NAME`` or ``<<-NAME`` (``tabs``: leading tabs are removed). ``expand``: no part of the name was quoted."""

    name: str
    tabs: bool
    expand: bool


def _here_documents(line: str) -> list[_Word]:
    """The words of a line that announce a here-document."""
    try:
        words = raw_words(line)
    except BadExpansion:
        return []  # as BuildKit: the line is for a shell, which will say what is wrong
    return [found for word in words if (found := _here_document(word))]


def _here_document(word: str) -> _Word | None:
    found = _HERE_DOCUMENT.fullmatch(word)
    if found is None or not found[3]:
        return None
    try:
        plain = raw_words(found[3], keep_quotes=False, keep_escapes=False)
        quoted = raw_words(found[3], keep_escapes=False)
    except BadExpansion as error:
        raise _Bad(f"the name of a here-document: {error.message}", hint=error.hint) from None
    if len(plain) != 1:
        return None

    def quotes(text: str) -> int:
        return text.count("'") + text.count('"')

    return _Word(plain[0], bool(found[2]), quotes(plain[0]) == quotes(quoted[0] if quoted else ""))


def _source_document(word: str) -> _Word | None:
    """As ``_here_document``, of a source of COPY; a name that is not a word is a path."""
    try:
        return _here_document(word)
    except _Bad:
        return None


# statements


@dataclass(slots=True)
class _Statement:
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
    inner: _Statement | None = None
    documents: list[HereDocument] = field(default_factory=list)
    at: At | None = None
    comments: tuple[str, ...] = ()

    @property
    def common(self) -> dict[str, Any]:
        """The fields that all instructions have."""
        return {"at": self.at, "text": self.text.strip(SPACES), "comments": self.comments}


def _first_argument(text: str) -> int:
    start = len(text) - len(text.lstrip(SPACES))
    found = _BLANK.search(text, start)
    return found.end() if found else start


def _statement(text: str, start: int, escape: str, *, is_trigger: bool = False) -> _Statement:
    """Split ``text`` from ``start`` on. A trigger may be unknown here: the build that it is for will say so. Raises
    _Bad."""
    line = text[start:].strip(SPACES)
    start += len(text) - start - len(text[start:].lstrip(SPACES))
    blank = _BLANK.search(line)
    word = line[: blank.start()] if blank else line
    name = word.upper()
    kind = _KINDS.get(name)
    if kind is None and not is_trigger:
        near = nearest(name, _KINDS)
        hint = f"write {near[0]}" if near else "begin the line with an instruction, such as FROM, RUN or COPY"
        raise _Bad(f"unknown instruction {clean(word)[:60]}", start, hint)
    rest_at = start + (blank.end() if blank else len(line))
    flags, rest_at = _flags(text, rest_at, escape)
    rest = text[rest_at:].strip(SPACES)
    rest_at += len(text) - rest_at - len(text[rest_at:].lstrip(SPACES))
    statement = _Statement(text, word, name, start, flags, rest, rest_at, escape)
    if kind:
        kind.grammar(statement)
    return statement


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


class _Flags:
    """Reads the flags of an instruction. The names of those that it may have are given by kind."""

    def __init__(
        self,
        statement: _Statement,
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
                raise _Bad(f"{statement.name} has --{name} twice", offset, "keep one of them")
            if name in bools:
                if value.lower() not in ("true", "false") and (equals or value):
                    raise _Bad(
                        f"--{name} of {statement.name} is {clean(value)[:60]!r}",
                        offset,
                        f"write --{name} or --{name}=false",
                    )
            elif not equals:
                raise _Bad(f"--{name} of {statement.name} has no value", offset, f"write --{name}=VALUE")
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


def _unknown_flag(instruction: str, name: str, offset: int, known: Sequence[str]) -> _Bad:
    near = nearest(name, known)
    expected = ", ".join(f"--{one}" for one in sorted(known))
    hint = (
        f"write --{near[0]}" if near else f"{instruction} has {expected}" if known else f"{instruction} has no flags"
    )
    return _Bad(f"unknown flag --{clean(name)[:60]} of {instruction}", offset, hint)


def _offset_of_flag(statement: _Statement, name: str) -> int | None:
    return next((offset for offset, flag in statement.flags if flag.startswith(f"--{name}")), None)


# grammars: each sets ``values``


def _list(statement: _Statement) -> None:
    statement.values = _BLANK.split(statement.rest) if statement.rest else []


def _one(statement: _Statement) -> None:
    statement.values = [statement.rest] if statement.rest else []


def _names(statement: _Statement) -> None:
    statement.values = _quoted_words(statement.rest, statement.escape)


def _pairs(statement: _Statement) -> None:
    """``name=value name=value``, or the old form ``name value``: the rest of the line is the value."""
    words = _quoted_words(statement.rest, statement.escape)
    if not words:
        return
    if "=" not in words[0]:
        statement.old_form = True
        statement.values = _BLANK.split(statement.rest, maxsplit=1)
        if len(statement.values) < 2:
            raise _Bad(f"{statement.name} has no value for {clean(words[0])[:60]}", hint="write NAME=VALUE")
        return
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise _Bad(
                f"{clean(word)[:60]!r} has no =", hint="write NAME=VALUE, and quotes around a value with spaces"
            )
        statement.values += [name, value]


def _json_or_one(statement: _Statement) -> None:
    if not _json(statement, statement.rest):
        _one(statement)


def _json_or_list(statement: _Statement) -> None:
    if not _json(statement, statement.rest):
        _list(statement)


def _health(statement: _Statement) -> None:
    kind = _SPACE.split(statement.rest, maxsplit=1) if statement.rest else []
    statement.values = kind[:1]
    if len(kind) == 2 and kind[1]:
        first = kind[0]
        if not _json(statement, kind[1]):
            statement.values = [kind[1]]
        statement.values = [first, *statement.values]


def _inner(statement: _Statement) -> None:
    if statement.rest:
        statement.inner = _statement(statement.text, statement.rest_at, statement.escape, is_trigger=True)


def _json(statement: _Statement, text: str) -> bool:
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
        raise _Bad(
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


# instructions


def _from(s: _Statement) -> From:
    flags = _Flags(s, texts=["platform"])
    if len(s.values) == 1:
        return From(s.values[0], flags.text("platform"), **s.common)
    if len(s.values) != 3 or s.values[1].casefold() != "as":
        raise _Bad("FROM needs an image, or an image, AS and a name", hint="write FROM IMAGE or FROM IMAGE AS NAME")
    name = s.values[2].lower()
    if not _STAGE_NAME.fullmatch(name):
        raise _Bad(
            f"{clean(s.values[2])[:60]!r} can't name a stage",
            hint="begin with a letter; use letters, digits, _ - and . only",
        )
    return From(s.values[0], flags.text("platform"), name, **s.common)


def _arg(s: _Statement) -> Arg:
    _Flags(s)
    _at_least_one(s)
    items: list[tuple[str, str | None]] = []
    for word in s.values:
        name, equals, value = word.partition("=")
        if equals and not name:
            raise _Bad("a name is empty", hint="write ARG NAME=VALUE")
        items.append((name, value if equals else None))
    return Arg(tuple(items), **s.common)


def _env(s: _Statement) -> Env:
    return Env(_items(s), s.old_form, **s.common)


def _label(s: _Statement) -> Label:
    return Label(_items(s), s.old_form, **s.common)


def _items(s: _Statement) -> tuple[tuple[str, str], ...]:
    _Flags(s)
    _at_least_one(s)
    if not all(s.values[::2]):
        raise _Bad("a name is empty", hint=f"write {s.name} NAME=VALUE")
    return tuple(zip(s.values[::2], s.values[1::2], strict=True))


def _maintainer(s: _Statement) -> Maintainer:
    return Maintainer(_exactly_one(s), **s.common)


def _copy(s: _Statement) -> Copy:
    flags = _Flags(s, texts=["chown", "from", "chmod"], bools=["link", "parents"], lists=["exclude"])
    sources, target, documents = _sources(s)
    return Copy(
        sources,
        target,
        documents,
        from_=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.is_true("link"),
        parents=flags.is_true("parents"),
        exclude=flags.all("exclude"),
        **s.common,
    )


def _add(s: _Statement) -> Add:
    flags = _Flags(
        s, texts=["chown", "chmod", "checksum"], bools=["link", "keep-git-dir", "unpack"], lists=["exclude"]
    )
    sources, target, documents = _sources(s)
    return Add(
        sources,
        target,
        documents,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.is_true("link"),
        exclude=flags.all("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.is_true("keep-git-dir"),
        unpack=flags.maybe("unpack"),
        **s.common,
    )


def _sources(s: _Statement) -> tuple[tuple[str, ...], str, tuple[HereDocument, ...]]:
    if len(s.values) < 2:
        raise _Bad(f"{s.name} needs a source and a target", hint=f"write {s.name} SOURCE TARGET")
    *sources, target = s.values
    if _source_document(target):
        raise _Bad(f"the target of {s.name} is a here-document", hint="write a path at the end of the line")
    contents = {one.name: one for one in s.documents}
    paths, documents = [], []
    for source in sources:
        word = _source_document(source)
        if word is None:
            paths.append(source)
        else:
            documents.append(contents.get(word.name) or HereDocument(word.name, "", word.expand))
    return tuple(paths), target, tuple(documents)


def _run(s: _Statement) -> Run:
    flags = _Flags(s, lists=["mount"], texts=["network", "security"])
    for offset, flag in s.flags:
        if flag.startswith("--mount="):
            try:
                origin_of(flag.partition("=")[2])
            except UsageError as error:
                raise _Bad(error.message, offset, error.hint) from None
    return Run(
        _command(s, s.values),
        tuple(s.documents),
        mounts=flags.all("mount"),
        network=_choice(s, flags, "network", ("default", "none", "host")),
        security=_choice(s, flags, "security", ("sandbox", "insecure")),
        **s.common,
    )


def _choice(s: _Statement, flags: _Flags, name: str, choices: tuple[str, ...]) -> str:
    """The value of a flag; "" for the first choice, which is the default."""
    values = flags.all(name)
    value = values[0] if values else choices[0]
    if value not in choices:
        raise _Bad(
            f"--{name} of {s.name} is {clean(value)[:60]!r}",
            _offset_of_flag(s, name),
            f"choose {', '.join(choices[:-1])} or {choices[-1]}",
        )
    return "" if value == choices[0] else value


def _command(s: _Statement, values: list[str]) -> Command:
    if s.is_json:
        return Command(tuple(values), False)
    text = " ".join(values)
    if s.documents and _source_document(text):
        return Command((), True)
    return Command((text,), True)


def _shell(s: _Statement) -> Shell:
    _Flags(s)
    _at_least_one(s)
    if not s.is_json:
        raise _Bad("SHELL needs a JSON list", hint='write it like SHELL ["/bin/bash", "-c"]')
    return Shell(tuple(s.values), **s.common)


def _user(s: _Statement) -> User:
    return User(_exactly_one(s), **s.common)


def _workdir(s: _Statement) -> Workdir:
    return Workdir(_exactly_one(s), **s.common)


def _stop_signal(s: _Statement) -> StopSignal:
    return StopSignal(_exactly_one(s), **s.common)


def _volume(s: _Statement) -> Volume:
    _Flags(s)
    _at_least_one(s)
    paths = tuple(value.strip(SPACES) for value in s.values)
    if not all(paths):
        raise _Bad("a path of VOLUME is empty")
    return Volume(paths, **s.common)


def _expose(s: _Statement) -> Expose:
    _Flags(s)
    _at_least_one(s)
    return Expose(tuple(sorted(s.values)), **s.common)


_TIMES = ("interval", "timeout", "start-period", "start-interval")


def _healthcheck(s: _Statement) -> Healthcheck:
    flags = _Flags(s, texts=[*_TIMES, "retries"])
    if not s.values:
        raise _Bad("HEALTHCHECK needs CMD or NONE", hint="write HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE")
    kind, values = s.values[0].upper(), s.values[1:]
    if kind == "NONE":
        if values or s.is_json:
            raise _Bad("HEALTHCHECK NONE has arguments", hint="remove them")
        return Healthcheck(None, **s.common)
    if kind != "CMD":
        raise _Bad(f"unknown form of HEALTHCHECK: {clean(s.values[0])[:60]}", hint="write CMD or NONE")
    if not values:
        raise _Bad("HEALTHCHECK CMD has no command", hint="write HEALTHCHECK CMD COMMAND")
    for name in _TIMES:
        text = flags.text(name)
        try:
            time = nanoseconds(text) if text else 0
        except UsageError as error:
            raise _Bad(f"--{name}: {error.message}", _offset_of_flag(s, name), error.hint) from None
        if time != 0 and time < 1_000_000:
            raise _Bad(f"--{name} is shorter than 1ms", _offset_of_flag(s, name))
    retries = flags.text("retries")
    if retries and not (re.fullmatch(r"[+]?[0-9]{1,30}|-0+", retries) and int(retries) < 1 << 31):
        raise _Bad(f"--retries is {clean(retries)[:60]!r}", _offset_of_flag(s, "retries"), "write a number from 0 up")
    return Healthcheck(
        _command(s, values),
        interval=flags.text("interval"),
        timeout=flags.text("timeout"),
        start_period=flags.text("start-period"),
        start_interval=flags.text("start-interval"),
        retries=retries,
        **s.common,
    )


def _entrypoint(s: _Statement) -> Entrypoint:
    _Flags(s)
    return Entrypoint(_command(s, s.values), **s.common)


def _cmd(s: _Statement) -> Cmd:
    _Flags(s)
    return Cmd(_command(s, s.values), **s.common)


def _onbuild(s: _Statement) -> OnBuild:
    _Flags(s)
    if s.inner is None:
        raise _Bad("ONBUILD needs an instruction", hint="write it like ONBUILD RUN make")
    if s.inner.name in ("ONBUILD", "FROM", "MAINTAINER"):
        raise _Bad(f"{s.inner.name} can't be an ONBUILD trigger", s.inner.start, "remove ONBUILD, or this line")
    trigger = re.sub(rf"(?i)^[{SPACES}]*ONBUILD[\t\n\f\r ]*", "", s.text)
    for document in s.documents:
        trigger += "\n" + (document.content if document.written is None else document.written) + document.name
    return OnBuild(trigger, **s.common)


def _at_least_one(s: _Statement) -> None:
    if not s.values:
        raise _Bad(f"{s.name} needs an argument")


def _exactly_one(s: _Statement) -> str:
    _Flags(s)
    _at_least_one(s)
    return s.values[0]


@dataclass(frozen=True, slots=True)
class _Kind:
    grammar: Callable[[_Statement], None]
    build: Callable[[_Statement], Instruction]


_KINDS = {
    "ADD": _Kind(_json_or_list, _add),
    "ARG": _Kind(_names, _arg),
    "CMD": _Kind(_json_or_one, _cmd),
    "COPY": _Kind(_json_or_list, _copy),
    "ENTRYPOINT": _Kind(_json_or_one, _entrypoint),
    "ENV": _Kind(_pairs, _env),
    "EXPOSE": _Kind(_list, _expose),
    "FROM": _Kind(_list, _from),
    "HEALTHCHECK": _Kind(_health, _healthcheck),
    "LABEL": _Kind(_pairs, _label),
    "MAINTAINER": _Kind(_one, _maintainer),
    "ONBUILD": _Kind(_inner, _onbuild),
    "RUN": _Kind(_json_or_one, _run),
    "SHELL": _Kind(_json_or_one, _shell),
    "STOPSIGNAL": _Kind(_one, _stop_signal),
    "USER": _Kind(_one, _user),
    "VOLUME": _Kind(_json_or_list, _volume),
    "WORKDIR": _Kind(_one, _workdir),
}
INSTRUCTIONS = frozenset(_KINDS)
