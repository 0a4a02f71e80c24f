"""Go templates as trees: the lexer and the parser (pure).

What a template is made of, and where each part stands in its source, so that an error can name the place.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from lamina.errors import UsageError

_DEEPEST = 64
"""Maximum nesting of blocks and parentheses: Python's stack is limited, and no real template needs more."""
_MAX_LENGTH = 64 << 10
_HINT = "like '{{.Field}}' or '{{json .}}'"


@dataclass(frozen=True, slots=True)
class Constant:
    value: Any


@dataclass(frozen=True, slots=True)
class Dot:
    pass


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Function:
    name: str


@dataclass(frozen=True, slots=True)
class Fields:
    """``.A.B`` of something."""

    of: Operand
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A function or a field with its arguments. ``at``: its position in the source."""

    at: int
    words: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands, each of which gets the result of the one before. ``names``: variables that are set to the last
    result; ``declares``: they are new variables."""

    commands: tuple[Command, ...]
    names: tuple[str, ...] = ()
    declares: bool = False


Operand = Constant | Dot | Variable | Function | Fields | Pipe


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Output:
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """``if`` and ``with``."""

    word: str
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    at: int
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """``break`` or ``continue``."""

    word: str


Node = Text | Output | Branch | Loop | Jump


def bad(source: str, at: int, why: str, hint: str = _HINT) -> UsageError:
    """Return the error for a position in a template."""
    line, column = source.count("\n", 0, at) + 1, at - (source.rfind("\n", 0, at) + 1) + 1
    place = f"character {column}" if "\n" not in source else f"line {line}, character {column}"
    near = source[at : at + 30]
    return UsageError(f"template {source!r:.200}: {why}, at {place}" + (f" ({near!r})" if near else ""), hint=hint)


def parse(source: str, functions: Container[str]) -> tuple[Node, ...]:
    """Parse a template. Raises UsageError, which names the position."""
    if len(source) > _MAX_LENGTH:
        raise UsageError(f"the template is too long ({len(source)} characters)", hint=f"use at most {_MAX_LENGTH}")
    return _Parser(source, functions).read()


# Lexer

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<letter>'(?:[^'\\\n]|\\.)*')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?))
    |(?P<sign>:=|[=|,()])
    |(?P<variable>\$\w*)
    |(?P<field>\.[^\W\d]\w*)
    |(?P<dot>\.)
    |(?P<word>[^\W\d]\w*)""",
    re.VERBOSE,
)
_TEXT_ESCAPES = {"\\t": "\t", "\\n": "\n"}
_ESCAPES = {
    **{"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"},
    **{"\\": "\\", '"': '"', "'": "'"},
}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def end(self) -> int:
        return self.at + len(self.text)


def _pieces(source: str) -> Iterator[str | list[_Token]]:
    """Yield texts, and actions as lists of tokens that end with one of the kind ``end``. Comments are skipped."""
    at, trim = 0, False
    while True:
        begin = source.find("{{", at)
        text = source[at:] if begin < 0 else source[at:begin]
        if trim:
            text = text.lstrip()
        if begin < 0:
            if text:
                yield text
            return
        at = begin + 2
        if source[at : at + 1] == "-" and source[at + 1 : at + 2].isspace():
            text, at = text.rstrip(), at + 2
        if text:
            yield text
        inner = source[at:].lstrip()
        if inner.startswith("/*"):
            at += len(source) - at - len(inner)
            close = source.find("*/", at)
            found = re.compile(r"(\s+-)?\}\}").match(source, close + 2) if close >= 0 else None
            if found is None:
                raise bad(source, begin, "a comment is not closed")
            at, trim = found.end(), bool(found[1])
            continue
        tokens, at, trim = _tokens(source, begin, at)
        yield tokens


def _tokens(source: str, begin: int, at: int) -> tuple[list[_Token], int, bool]:
    """Return the tokens of the action that starts at ``begin``, its end, and whether it trims the text after it."""
    close = re.compile(r"(\s+-)?\}\}")
    tokens: list[_Token] = []
    while True:
        ended = close.match(source, at)
        if ended:
            tokens.append(_Token("end", "", at))
            return tokens, ended.end(), bool(ended[1])
        if at >= len(source):
            raise bad(source, begin, "an action is not closed")
        found = _TOKEN.match(source, at)
        if found is None:
            letter = source[at]
            if letter in "\"`'":
                raise bad(source, at, "a string is not closed")
            hint = 'a name with such a letter is asked for as {{index .Labels "a-b"}}' if letter in "-/" else _HINT
            raise bad(source, at, f"unexpected {letter!r}", hint)
        token = _Token(found.lastgroup or "", found[0], at)
        last = tokens[-1] if tokens else None
        if last and last.end == token.at and last.kind in _WORDS and token.kind in _WORDS and token.kind != "field":
            hint = 'such a name is asked for as {{index .Labels "a-b"}}' if token.text[0] == "-" else _HINT
            raise bad(source, at, f"unexpected {token.text!r:.40}", hint)
        if token.kind != "space":
            tokens.append(token)
        at = found.end()


_WORDS = ("field", "variable", "word", "number", "string", "raw", "letter", "dot")


def _unquoted(source: str, token: _Token) -> str:
    def letter(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code:
            return chr(int(code, 16))
        if found[4]:
            return chr(int(found[4], 8))
        if found[5] not in _ESCAPES:
            raise bad(source, token.at + 1 + found.start(), f"unknown escape {found[0]!r}")
        return _ESCAPES[found[5]]

    try:
        return _ESCAPE.sub(letter, token.text[1:-1])
    except (ValueError, OverflowError):
        raise bad(source, token.at, "a character that does not exist") from None


# Parser


class _Parser:
    def __init__(self, source: str, functions: Container[str]) -> None:
        self._source = source
        self._functions = functions
        self._pieces = _pieces(source)
        self._tokens: list[_Token] = []
        self._next = 0
        self._variables = ["$"]
        self._depth = 0
        self._loops = 0

    def read(self) -> tuple[Node, ...]:
        nodes, stop = self._nodes()
        if stop is not None:
            raise self._bad(stop, f"unexpected {{{{{stop.text}}}}}")
        return nodes

    def _bad(self, token: _Token, why: str, hint: str = _HINT) -> UsageError:
        return bad(self._source, token.at, why, hint)

    def _deeper(self, token: _Token) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._bad(token, f"nested more than {_DEEPEST} levels deep")

    def _nodes(self) -> tuple[tuple[Node, ...], _Token | None]:
        """Parse up to ``else``, ``end`` or the end of the source; return the nodes and the word at the end. After
        ``else`` the caller must parse the rest of the action."""
        nodes: list[Node] = []
        for piece in self._pieces:
            if isinstance(piece, str):
                for escape, character in _TEXT_ESCAPES.items():
                    piece = piece.replace(escape, character)
                nodes.append(Text(piece))
                continue
            self._tokens, self._next = piece, 0
            first = self._peek
            if first.text in ("end", "else"):
                self._take()
                return tuple(nodes), first
            nodes.append(self._action(first))
        return tuple(nodes), None

    def _action(self, first: _Token) -> Node:
        if first.text in ("if", "with", "range"):
            self._take()
            return self._block(first)
        if first.text in ("break", "continue"):
            self._take()
            if not self._loops:
                raise self._bad(first, f"{first.text} outside of range")
            self._finish()
            return Jump(first.text)
        if first.text in ("define", "template", "block"):
            raise self._bad(
                first, f"{{{{{first.text}}}}} can't be had here", "write it out: a format is one template"
            )
        pipe = self._pipe(first)
        self._finish()
        return Output(pipe)

    def _block(self, word: _Token) -> Node:
        self._deeper(word)
        scope = len(self._variables)
        loop = word.text == "range"
        pipe = self._pipe(word, loop=loop)
        self._finish()
        self._loops += loop
        body, stop = self._scoped()
        self._loops -= loop
        otherwise: tuple[Node, ...] = ()
        if stop is not None and stop.text == "else":
            chained = self._peek
            if chained.text in ("if", "with"):
                self._take()
                otherwise, stop = (self._block(chained),), _Token("word", "end", chained.at)
                self._tokens, self._next = [_Token("end", "", chained.at)], 0
            else:
                self._finish()
                otherwise, stop = self._scoped()
        if stop is None or stop.text != "end":
            raise self._bad(stop or word, f"{word.text} without end" if stop is None else "a second else")
        self._finish()
        del self._variables[scope:]
        self._depth -= 1
        if loop:
            return Loop(word.at, pipe, body, otherwise)
        return Branch(word.text, pipe, body, otherwise)

    def _scoped(self) -> tuple[tuple[Node, ...], _Token | None]:
        scope = len(self._variables)
        found = self._nodes()
        del self._variables[scope:]
        return found

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _finish(self) -> None:
        if self._peek.kind != "end":
            raise self._bad(self._peek, f"unexpected {self._peek.text!r:.40}")

    def _pipe(self, owner: _Token, *, loop: bool = False, nested: bool = False) -> Pipe:
        names, declares = ((), False) if nested else self._names(loop)
        commands = [self._command(owner, first=True)]
        while self._peek.text == "|" and self._peek.kind == "sign":
            self._take()
            commands.append(self._command(owner, first=False))
        if declares:
            self._variables += names
        return Pipe(tuple(commands), names, declares)

    def _names(self, loop: bool) -> tuple[tuple[str, ...], bool]:
        """Parse ``$x :=``, ``$x =`` or, in a loop, ``$i, $x :=``; nothing if the variable is only used."""
        at, names = self._next, []
        while self._peek.kind == "variable":
            names.append(self._take())
            sign = self._peek
            if sign.text == "," and loop and len(names) < 2:
                self._take()
                continue
            if sign.text not in (":=", "="):
                break
            self._take()
            for name in names:
                if sign.text == "=" and name.text not in self._variables:
                    raise self._bad(name, f"no variable {name.text}")
            return tuple(name.text for name in names), sign.text == ":="
        self._next = at
        return (), False

    def _command(self, owner: _Token, *, first: bool) -> Command:
        begin, words = self._peek, []
        while (token := self._peek).kind != "end" and token.text not in ("|", ")", ",", ":=", "="):
            words.append(self._chained(self._operand(self._take()), token))
        if not words:
            raise self._bad(owner if begin.kind == "end" else begin, "a value is missing")
        head = words[0]
        if len(words) > 1 and not isinstance(head, Function | Fields):
            raise self._bad(begin, f"{begin.text!r:.40} takes no arguments", _known(self._functions))
        if not first and not isinstance(head, Function | Fields):
            raise self._bad(
                begin, f"{begin.text!r:.40} takes no arguments, and stands behind |", _known(self._functions)
            )
        return Command(begin.at, tuple(words))

    def _operand(self, token: _Token) -> Operand:
        if token.kind == "field":
            return Fields(Dot(), (token.text[1:],))
        if token.kind == "dot":
            return Dot()
        if token.kind == "variable":
            if token.text not in self._variables:
                raise self._bad(token, f"no variable {token.text}")
            return Variable(token.text)
        if token.kind in ("string", "letter"):
            text = _unquoted(self._source, token)
            if token.kind == "letter" and len(text) != 1:
                raise self._bad(token, "more than one character in ' '", 'a string stands in " "')
            return Constant(text if token.kind == "string" else ord(text))
        if token.kind == "raw":
            return Constant(token.text[1:-1])
        if token.kind == "number":
            return Constant(self._number(token))
        if token.text == "(":
            self._deeper(token)
            pipe = self._pipe(token, nested=True)
            if self._peek.text != ")":
                raise self._bad(token, "a parenthesis is not closed")
            self._take()
            self._depth -= 1
            return pipe
        if token.text in ("true", "false"):
            return Constant(token.text == "true")
        if token.text == "nil":
            return Constant(None)
        if token.kind == "word" and token.text in self._functions:
            return Function(token.text)
        hint = _known(self._functions) + "; a field begins with a dot"
        raise self._bad(token, f"{token.text!r:.40} is not a field or function", hint)

    def _chained(self, operand: Operand, token: _Token) -> Operand:
        """Parse the fields ``.A.B`` directly after an operand."""
        names: list[str] = []
        end = self._tokens[self._next - 1].end
        while self._peek.kind == "field" and self._peek.at == end:
            taken = self._take()
            names.append(taken.text[1:])
            end = taken.end
        if not names:
            return operand
        if isinstance(operand, Constant | Function | Dot):
            raise self._bad(token, f"{token.text!r:.40} has no fields")
        if isinstance(operand, Fields):
            return Fields(operand.of, (*operand.names, *names))
        return Fields(operand, tuple(names))

    def _number(self, token: _Token) -> int | float:
        for read in (lambda text: int(text, 0), int, float):
            try:
                return read(token.text)
            except ValueError:
                continue
        raise self._bad(token, f"{token.text!r:.40} is not a number")


def _known(functions: Container[str]) -> str:
    return "functions: " + ", ".join(sorted(functions)) if isinstance(functions, dict) else _HINT
