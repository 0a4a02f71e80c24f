"""Regular expressions of Go in Python's form (pure), as far as patterns of ignore files lead to them.

moby's matcher writes a pattern as an expression, and passes on sets, braces, bars and escapes as they were written.
So ``[[:alpha:]]*``, ``a{2}*`` and ``\\d*`` mean what Go's regexp makes of them.
"""

from __future__ import annotations

import re

from lamina.errors import UsageError

_MOST = 1000  # repetitions, Go's limit
_REPEAT = re.compile(r"\{(0|[1-9][0-9]*)(?:(,)(0|[1-9][0-9]*|))?\}")
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CLASSES = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": "\\t\\n\\f\\r ",
}
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\\x00-\\x7f",
    "blank": "\\t ",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\v\\f\\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_LAST = "\U0010ffff"
_NOT_UTF8 = "\ufffd\udc80-\udcff"  # a byte that is not UTF-8 is U+FFFD for Go, and a surrogate for Python


def translated(text: str) -> str:
    """The expression for Python's ``re``. Raises UsageError for an expression that Go refuses."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._out: list[str] = []

    def read(self) -> str:
        depth, can_repeat, repeated = 0, False, False
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in "*?+" or (char == "{" and _REPEAT.match(self._text, self._at)):
                if not can_repeat:
                    raise self._bad("nothing to repeat")
                if repeated:
                    raise self._bad("a repetition of a repetition")
                self._repeat(char)
                repeated = True
                continue
            repeated = False
            can_repeat = True
            self._at += 1
            if char == "(":
                depth += 1
                self._out.append("(?:")
                can_repeat = False
            elif char == ")":
                depth -= 1
                if depth < 0:
                    raise self._bad("an unexpected )")
                self._out.append(")")
            elif char == "|":
                self._out.append("|")
                can_repeat = False
            elif char == "^":
                self._out.append("(?:\\A)")
            elif char == "$":
                self._out.append("(?:\\Z)")
            elif char == ".":
                self._out.append("[^\\n]")
            elif char == "[":
                self._out.append(self._set())
            elif char == "\\":
                can_repeat = self._escape()
            else:
                self._out.append(_literal(char))
        if depth:
            raise self._bad("a missing )")
        return "".join(self._out)

    def _repeat(self, char: str) -> None:
        if char == "{":
            found = _REPEAT.match(self._text, self._at)
            assert found is not None
            low, comma, high = found.groups()
            if int(low) > _MOST or (high and (int(high) > _MOST or int(high) < int(low))):
                raise self._bad("an invalid repetition")
            self._out.append(f"{{{int(low)}{',' if comma else ''}{int(high) if high else ''}}}")
            self._at = found.end()
        else:
            self._out.append(char)
            self._at += 1
        if self._text[self._at : self._at + 1] == "?":  # as few as possible: the same for a whole match
            self._at += 1

    def _escape(self) -> bool:
        """Translate what follows a backslash. Returns whether it can be repeated."""
        char = self._next()
        lower = char.lower()
        if lower in _CLASSES:
            self._out.append(f"[{'^' if char != lower else ''}{_CLASSES[lower]}]")
        elif char == "A":
            self._out.append("(?:\\A)")
        elif char == "z":
            self._out.append("(?:\\Z)")
        elif char in "bB":
            self._out.append(f"(?a:\\{char})")
        elif char == "Q":
            end = self._text.find("\\E", self._at)
            quoted = self._text[self._at :] if end < 0 else self._text[self._at : end]
            self._at = len(self._text) if end < 0 else end + 2
            self._out += map(_literal, quoted)
            return bool(quoted)
        elif char in "pP":
            raise self._bad("a class of Unicode characters")
        else:
            self._out.append(_literal(self._escaped(char)))
        return True

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise self._bad("a backslash at the end")
        self._at += 1
        return self._text[self._at - 1]

    def _escaped(self, char: str) -> str:
        """The one character that an escape means, in a set and outside."""
        if char < "\x80" and not char.isalnum():
            return char
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char in "01234567":
            return self._octal(char)
        if char == "x":
            found = re.compile(r"\{([0-9A-Fa-f]+)\}|([0-9A-Fa-f]{2})").match(self._text, self._at)
            if found is not None and (code := int(found[1] or found[2], 16)) <= 0x10FFFF:
                self._at = found.end()
                return chr(code)
        raise self._bad("an unknown escape")

    def _octal(self, first: str) -> str:
        following = self._text[self._at : self._at + 1]
        if first != "0" and (not following or following not in "01234567"):
            raise self._bad("an unknown escape")  # Go has no references to groups
        digits = first
        while len(digits) < 3 and self._text[self._at : self._at + 1] and self._text[self._at] in "01234567":
            digits += self._text[self._at]
            self._at += 1
        return chr(int(digits, 8))

    def _set(self) -> str:
        negated = self._text.startswith("^", self._at)
        self._at += negated
        inner, first = "", True
        while True:
            if self._at >= len(self._text):
                raise self._bad("a missing ]")
            if self._text[self._at] == "]" and not first:
                self._at += 1
                break
            first = False
            if self._text.startswith("[:", self._at) and (end := self._text.find(":]", self._at + 2)) >= 0:
                name = self._text[self._at + 2 : end]
                inner += self._posix(name)
                self._at = end + 2
                continue
            if self._text.startswith("\\", self._at) and (kind := self._text[self._at + 1 : self._at + 2]):
                lower = kind.lower()
                if lower in _CLASSES:
                    self._at += 2
                    inner += _CLASSES[lower] if kind == lower else _outside(_CLASSES[lower])
                    continue
                if kind in "pP":
                    raise self._bad("a class of Unicode characters")
            low = self._set_char()
            high = low
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._set_char()
                if high < low:
                    raise self._bad("an invalid range")
            inner += _in_set(low) if low == high else f"{_in_set(low)}-{_in_set(high)}"
            if low <= "\ufffd" <= high:
                inner += _NOT_UTF8
        return f"[{'^' if negated else ''}{inner}]"

    def _set_char(self) -> str:
        char = self._next()
        return self._escaped(self._next()) if char == "\\" else char

    def _posix(self, name: str) -> str:
        if name.startswith("^") and name[1:] in _POSIX:
            return _outside(_POSIX[name[1:]])
        if name not in _POSIX:
            raise self._bad("an unknown class")
        return _POSIX[name]

    def _bad(self, why: str) -> UsageError:
        return UsageError(f"the pattern has {why}", hint="write \\ before characters that stand for themselves")


def _literal(char: str) -> str:
    if "\udc80" <= char <= "\udcff" or char == "\ufffd":
        return f"[{_NOT_UTF8}]"
    return re.escape(char)


def _in_set(char: str) -> str:
    return "\\" + char if char in "\\]^-[&~|" else char


def _outside(members: str) -> str:
    """The complement of a set, as members of a set."""
    taken = sorted(code for code in range(128) if re.fullmatch(f"[{members}]", chr(code)))
    found, start = "", 0
    for code in taken:
        if code > start:
            found += f"{_in_set(chr(start))}-{_in_set(chr(code - 1))}"
        start = code + 1
    return found + f"{_in_set(chr(start))}-{_LAST}"
