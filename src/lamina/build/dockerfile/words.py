"""Quotes, escapes and variables of a word, by the rules of BuildKit's lexer (pure).

``$name``, ``${name}``, ``${name:-word}``, ``${name:+word}``, ``${name:?message}`` (the same without a colon: only a
variable that is not set counts, not an empty one), ``${name#pattern}``, ``##``, ``%``, ``%%``,
``${name/pattern/text}``, ``//``. In patterns ``*`` is any text within a line and ``?`` is one character.

Nothing else of a shell is known: no commands, no brackets in patterns, no arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lamina.errors import UsageError

MAX_TEXT = 256 << 10
MAX_DOCUMENT = 8 << 20
"""The longest word and here-document that an expansion may give, in characters. Variables can double their length
line by line; the kernel passes no variable of more than 128 KiB to a program."""
MAX_TOTAL = 64 << 20
"""What all expansions of a file may give, in characters."""
MAX_DEPTH = 64
"""How deep ``${a:-${b:-...}}`` may be nested."""
MAX_MATCHED = 8 << 10
MAX_PATTERN = 4096
"""The longest value that a pattern with stars is matched with (the time is its square), and the longest pattern."""

Lookup = Callable[[str], str | None]
"""The value of a variable; None: it is not set."""

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What Go calls a space (``str.isspace`` knows more)."""
_SPACE = re.compile(f"[{SPACES}]+")
_SPECIAL_NAMES = "@*#?-$!0"


class BadExpansion(UsageError):
    """A word with quotes or variables that do not end, or with a variable that must be set (``${x:?}``)."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """A word with its variables replaced. ``words``: the same, split at spaces that are not quoted. ``found`` and
    ``missing``: the names of variables that were looked up, and were set or not."""

    text: str
    words: tuple[str, ...]
    found: frozenset[str]
    missing: frozenset[str]


def expand(text: str, lookup: Lookup, escape: str = "\\") -> str:
    """Replace variables, and remove quotes and escapes. Raises BadExpansion."""
    return expansion(text, lookup, escape).text


def expand_words(text: str, lookup: Lookup, escape: str = "\\") -> list[str]:
    """As ``expand``, then split at spaces. A value with spaces gives several words, or none if it is empty."""
    return list(expansion(text, lookup, escape).words)


def expand_document(text: str, lookup: Lookup) -> str:
    """Replace the variables of a here-document. Quotes stay; ``\\$`` is a dollar, whatever the escape character of
    the file is. Raises BadExpansion."""
    return document_expansion(text, lookup).text


def expansion(text: str, lookup: Lookup, escape: str = "\\") -> Expansion:
    """As ``expand``, with the names that were looked up."""
    return _Lexer(text, lookup, escape).run()


def document_expansion(text: str, lookup: Lookup) -> Expansion:
    """As ``expand_document``, with the names that were looked up."""
    return _Lexer(text, lookup, "\\", quotes=False, limit=MAX_DOCUMENT).run()


def expand_known(text: str, lookup: Lookup, escape: str = "\\") -> str:
    """As ``expand``, but a variable that is not set stays as it is written: for lines that people read."""
    return _Lexer(text, lookup, escape, keep_unset=True).run().text


def raw_words(text: str, *, keep_quotes: bool = True, keep_escapes: bool = True) -> list[str]:
    """Split at spaces that are not quoted; variables stay, and so do quotes and escapes unless told otherwise.
    ``<< NAME`` is one word. Text before ``${x:-y}`` in the same word is lost, as in BuildKit: so
    ``$((1 <<${x:-2}))`` is not a here-document. Raises BadExpansion."""
    lexer = _Lexer(text, _unset, "\\", keep_quotes=keep_quotes, keep_escapes=keep_escapes, keep_unset=True)
    lexer.forgets = True
    return list(lexer.run().words)


def _unset(_name: str) -> None:
    return None


class Total:
    """Bounds what all expansions of a file give together."""

    def __init__(self) -> None:
        self._left = MAX_TOTAL

    def count(self, text: str) -> str:
        """Return the text. Raises BadExpansion."""
        self._left -= len(text)
        if self._left < 0:
            raise BadExpansion(f"all words are longer than {MAX_TOTAL:,} characters with their variables")
        return text


class _Words:
    """Collects words: ``plain`` text is split at spaces, ``quoted`` text is not."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._parts: list[str] = []

    def plain(self, text: str) -> None:
        at = 0
        for space in _SPACE.finditer(text):
            self.quoted(text[at : space.start()])
            self.end()
            at = space.end()
        self.quoted(text[at:])

    def quoted(self, text: str) -> None:
        if text:
            self._parts.append(text)

    def end(self) -> None:
        if self._parts:
            self.words.append("".join(self._parts))
            self.forget()

    def forget(self) -> None:
        """Drop the word that is not at its end yet."""
        self._parts.clear()


class _Parts:
    """Joins text, up to ``limit`` characters."""

    def __init__(self, limit: int) -> None:
        self._parts: list[str] = []
        self._left = self._limit = limit

    def add(self, text: str) -> None:
        self._left -= len(text)
        if self._left < 0:
            raise BadExpansion(f"the text is longer than {self._limit:,} characters with its variables")
        self._parts.append(text)

    def __str__(self) -> str:
        return "".join(self._parts)


class _Lexer:
    """One pass over ``text``. ``quotes``: quotes are special. ``keep_quotes``, ``keep_escapes``: they stay in the
    result. ``keep_unset``: a variable that is not set stays as it is written."""

    def __init__(
        self,
        text: str,
        lookup: Lookup,
        escape: str,
        *,
        quotes: bool = True,
        keep_quotes: bool = False,
        keep_escapes: bool = False,
        keep_unset: bool = False,
        limit: int = MAX_TEXT,
    ) -> None:
        self.limit = limit
        self.text, self.lookup, self.escape = text, lookup, escape
        self.quotes, self.keep_quotes, self.keep_escapes, self.keep_unset = (
            quotes,
            keep_quotes,
            keep_escapes,
            keep_unset,
        )
        self.at = 1 if text.startswith("\ufeff") else 0  # as Go's scanner does
        self.depth = 0
        self.words = _Words()
        self.forgets = False
        self.found: set[str] = set()
        self.missing: set[str] = set()

    def run(self) -> Expansion:
        try:
            text = self.until("", self.keep_escapes)
        except BadExpansion as error:
            shown = self.text if len(self.text) <= 100 else self.text[:100] + "..."
            raise BadExpansion(f"{error.message} in {shown!r}", hint=error.hint) from None
        return Expansion(text, tuple(self.words.words), frozenset(self.found), frozenset(self.missing))

    @property
    def here(self) -> str:
        """The next character; "" at the end."""
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        character = self.here
        self.at += len(character)
        return character

    def until(self, stop: str, keep_escapes: bool, *, pattern: bool = False) -> str:
        """The text up to ``stop`` ("": the end), which is consumed. ``pattern``: it is read as a pattern afterwards,
        so an escape character in quotes is doubled."""
        outside, self.keep_escapes = self.keep_escapes, keep_escapes
        result, collect = _Parts(self.limit), _Words() if stop else self.words
        if self.forgets:
            self.words.forget()
        plain = _plain(self.escape, stop, self.quotes)
        while self.at < len(self.text):
            run = plain.match(self.text, self.at)
            if run is not None:
                self.at = run.end()
                result.add(run[0])
                collect.plain(run[0])
                continue
            character = self.here
            if character == stop:
                self.at += 1
                break
            if character == "$":
                value = self.variable()
                result.add(value)
                collect.plain(value)
                continue
            if character == "<":
                value = self.less_than()
            elif character == "'" and self.quotes:
                value = self.single_quoted(pattern)
            elif character == '"' and self.quotes:
                value = self.double_quoted(pattern)
            else:
                value = self.escaped()
            result.add(value)
            collect.quoted(value)
        else:
            if stop:
                raise BadExpansion(f"no {stop!r} follows")
        self.keep_escapes = outside
        collect.end()
        return str(result)

    def escaped(self) -> str:
        escape = self.take()
        return (escape if self.keep_escapes else "") + self.take()

    def less_than(self) -> str:
        """``<``, or ``<<`` with the spaces after it, so that they do not end the word of a here-document."""
        start = self.at
        self.at += 1
        if self.here == "<":
            self.at += 1
            while self.here and self.here in "\t\r ":
                self.at += 1
        return self.text[start : self.at]

    def single_quoted(self, pattern: bool) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise BadExpansion("a single quote (') has no end", hint="add the second quote")
        inside = self.text[self.at + 1 : end]
        self.at = end + 1
        if pattern:
            inside = inside.replace(self.escape, self.escape * 2)
        return f"'{inside}'" if self.keep_quotes else inside

    def double_quoted(self, pattern: bool) -> str:
        result = _Parts(self.limit)
        quote = self.take()
        if self.keep_quotes:
            result.add(quote)
        plain = _plain(self.escape, '"', False)
        while self.here != '"':
            run = plain.match(self.text, self.at)
            if run is not None:
                self.at = run.end()
                result.add(run[0])
            elif self.here == "$":
                result.add(self.variable())
            elif not self.here:
                raise BadExpansion('a double quote (") has no end', hint="add the second quote")
            else:
                result.add(self.escaped_in_quotes(pattern))
        self.at += 1
        if self.keep_quotes:
            result.add(quote)
        return str(result)

    def escaped_in_quotes(self, pattern: bool) -> str:
        """In double quotes the escape character escapes only a quote, a dollar and itself."""
        escape = self.take()
        if not self.here:
            return ""
        if self.here in ('"', "$", self.escape):
            return (escape if self.keep_escapes else "") + self.take()
        return escape * 2 if self.keep_escapes and (pattern or not self.keep_quotes) else escape

    def variable(self) -> str:
        """What a dollar begins."""
        self.at += 1
        if self.here != "{":
            name = self.name()
            if not name:
                return "$"
            value = self.get(name)
            return "$" + name if value is None and self.keep_unset else value or ""
        self.at += 1
        if not self.here:
            raise _unclosed()
        if self.here in "{}:":
            raise BadExpansion("a name must follow ${", hint="write a dollar that begins no variable as \\$")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadExpansion(f"variables are nested more than {MAX_DEPTH} levels deep")
        value = self.braced(self.name())
        self.depth -= 1
        return value

    def braced(self, name: str) -> str:
        """What follows ``${name``."""
        operator = self.take()
        if operator == "}":
            value = self.get(name)
            return f"${{{name}}}" if value is None and self.keep_unset else value or ""
        if operator == "/":
            return self.replaced(name)
        colon = ""
        if operator == ":":
            colon, operator = operator, self.take()
        if not operator:
            raise _unclosed()
        is_trim = operator in "#%"
        if not colon and operator not in "+-?#%":
            raise _unknown(operator)
        if colon and is_trim:
            raise _unknown(colon + operator)
        word = self.until_brace(is_trim, pattern=is_trim)
        value = self.get(name)
        if value is None and self.keep_unset:
            return f"${{{name}{colon}{operator}{word}}}"
        is_set = value is not None and not (colon and value == "")
        if operator == "-":
            return value or "" if is_set else word
        if operator == "+":
            return word if is_set else ""
        if operator == "?":
            if not is_set:
                raise BadExpansion(f"{name}: {word or ('is not set' if value is None else 'is empty')}")
            return value or ""
        if not is_trim:
            raise _unknown(colon + operator)
        greedy = word.startswith(operator)
        if greedy:
            word = word[1:]
        return (_without_prefix if operator == "#" else _without_suffix)(value or "", word, greedy)

    def replaced(self, name: str) -> str:
        """What follows ``${name/``."""
        everywhere = self.here == "/"
        if everywhere:
            self.at += 1
        try:
            pattern = self.until("/", True, pattern=True)
        except BadExpansion:
            if not self.here:
                raise BadExpansion("${name/pattern/text} has no second /", hint="add it") from None
            raise
        text = self.until_brace(True)
        value = self.get(name)
        if value is None and self.keep_unset:
            return f"${{{name}/{pattern}/{text}}}"
        return _with_replacement(value or "", pattern, text, everywhere, self.limit)

    def until_brace(self, keep_escapes: bool, *, pattern: bool = False) -> str:
        try:
            return self.until("}", keep_escapes, pattern=pattern)
        except BadExpansion:
            if not self.here:
                raise _unclosed() from None
            raise

    def name(self) -> str:
        """A name, a number or a special parameter; "" where none follows."""
        start, text = self.at, self.text
        first = self.here
        if first.isdecimal():
            while self.here.isdecimal():
                self.at += 1
        elif first and first in _SPECIAL_NAMES:
            self.at += 1
        else:
            while self.here == "_" or self.here.isalpha() or self.here.isdecimal():
                self.at += 1
        return text[start : self.at]

    def get(self, name: str) -> str | None:
        value = self.lookup(name)
        (self.missing if value is None else self.found).add(name)
        return value


def _unclosed() -> BadExpansion:
    return BadExpansion("${ has no }", hint="add the }, or write \\$ for a dollar")


def _unknown(operator: str) -> BadExpansion:
    return BadExpansion(
        f"unknown form ${{name{operator}...}}",
        hint="choose one of :- - :+ + :? ? # ## % %% / //, or write \\$ for a dollar",
    )


@lru_cache(16)
def _plain(escape: str, stop: str, quotes: bool) -> re.Pattern[str]:
    """Matches text that has no meaning of its own."""
    special = "$" + escape + stop + ("'\"<" if quotes else "" if stop == '"' else "<")
    return re.compile(f"[^{re.escape(special)}]+")


# patterns


def _without_prefix(value: str, pattern: str, greedy: bool) -> str:
    found = _search(pattern, greedy, value, anchored=True)
    return value[found.end() :] if found else value


def _without_suffix(value: str, pattern: str, greedy: bool) -> str:
    # the shortest suffix is the shortest prefix of the reversed value
    return _without_prefix(value[::-1], _reversed(pattern), greedy)[::-1]


def _with_replacement(value: str, pattern: str, text: str, everywhere: bool, limit: int) -> str:
    if not everywhere:
        found = _search(pattern, True, value)
        return value[: found.start()] + text + value[found.end() :] if found else value
    result, end, at = _Parts(limit), 0, 0
    while at <= len(value):
        found = _search(pattern, True, value, at)
        if found is None:
            break
        result.add(value[end : found.start()])
        if found.end() > end or found.start() == 0:  # not an empty match right after another match
            result.add(_filled(text, found[0]))
        end = found.end()
        at = max(at + 1, end)
    result.add(value[end:])
    return str(result)


_PLACEHOLDER = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})")


def _filled(text: str, match: str) -> str:
    """BuildKit passes the text to Go's ``ReplaceAllString``: ``$0`` is the match, ``$$`` a dollar, other names are
    empty. Only a dollar from the value of a variable can get here."""

    def fill(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return match if (found[1] or found[2]) == "0" else ""

    return _PLACEHOLDER.sub(fill, text) if "$" in text else text


def _reversed(pattern: str) -> str:
    """The pattern from its end; an escape stays before what it escapes."""
    return "".join(reversed(re.findall(r"\\.|.", pattern, re.DOTALL)))


def _search(pattern: str, greedy: bool, value: str, at: int = 0, *, anchored: bool = False) -> re.Match[str] | None:
    expression = _expression(pattern, greedy)
    if "*" in pattern and len(value) > MAX_MATCHED:
        raise BadExpansion(
            f"the value is longer than {MAX_MATCHED:,} characters, too long for the pattern {pattern!r}"
        )
    return expression.match(value, at) if anchored else expression.search(value, at)


@lru_cache(64)
def _expression(pattern: str, greedy: bool) -> re.Pattern[str]:
    """The pattern as a regular expression whose time is linear for each start: what follows a star is sought once, at
    its first place (a later place can't give a match where this one gives none), and after the last star of a greedy
    pattern at its last place."""
    if len(pattern) > MAX_PATTERN:
        raise BadExpansion(f"a pattern has more than {MAX_PATTERN:,} characters")
    parts, at = [""], 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            parts.append("")
        elif character == "?":
            parts[-1] += "."
        else:
            if character == "\\":
                following = pattern[at : at + 1]
                if following not in ("*", "?", "\\", "}", "/"):
                    raise BadExpansion(f"an invalid escape \\{following} in the pattern {pattern!r:.100}")
                if following in "}/":
                    continue
                character = following
                at += 1
            parts[-1] += re.escape(character)
    expression = parts[0]
    for number, part in enumerate(parts[1:], 1):
        is_last = number == len(parts) - 1
        expression += f"(?>.*{'' if greedy and is_last else '?'}{part})"
    return re.compile(expression)
