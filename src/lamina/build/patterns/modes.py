"""The modes of ``--chmod`` (pure): octal, or symbolic as in chmod(1) of BSD (``u=rwX,go-w``), which BuildKit
uses."""

from __future__ import annotations

import re
from collections.abc import Callable

from lamina.errors import UsageError

_STANDARD, _STICKY = 0o6777, 0o1000
_WHO = {"a": _STANDARD, "u": 0o4700, "g": 0o2070, "o": 0o0007}
_CLASSES = {"u": 6, "g": 3, "o": 0}
_EXECUTE = 0o111
_HINT = "write an octal number up to 07777, or a symbolic mode like u=rwX,go-w"

Change = Callable[[int, bool], int]
"""Gets the twelve mode bits, and whether it is a directory; returns the new bits."""
_Operation = tuple[str, int, int]  # what it does, the bits that it may change, its argument


def octal(text: str) -> int | None:
    """The number if the mode is octal, else None. Raises UsageError (neither octal nor symbolic)."""
    if re.fullmatch(r"[0-7]+", text):
        number = int(text, 8)
        if number <= 0o7777:
            return number
        raise _bad(text)
    if not text or text[0] in "0123456789":
        raise _bad(text)
    return None


def change(text: str) -> Change:
    """What the mode does to the mode of a file. Raises UsageError."""
    number = octal(text)
    if number is not None:
        return lambda mode, directory: number
    operations = _operations(text)

    def changed(mode: int, directory: bool) -> int:
        new = mode
        for kind, bits, argument in operations:
            if kind == "+":
                new |= bits
            elif kind == "-":
                new &= ~bits
            elif kind == "X":
                if mode & _EXECUTE or directory:
                    new |= bits
            else:
                new = _copied(new, kind, bits, argument)
        return new & 0o7777

    return changed


def _copied(mode: int, source: str, operator: int, classes: int) -> int:
    """Copy the bits of one class to others (``go=u``)."""
    value = mode >> _CLASSES[source] & 7
    for shift in _CLASSES.values():
        if not classes & (4 << shift):
            continue
        if operator == ord("="):
            mode &= ~(7 << shift)
        if operator == ord("-"):
            mode &= ~(value << shift)
        else:
            mode |= value << shift
    return mode


def _operations(text: str) -> list[_Operation]:
    found: list[_Operation] = []
    for clause in text.split(","):
        at, who = 0, 0
        while at < len(clause) and clause[at] in _WHO:
            who |= _WHO[clause[at]]
            at += 1
        if at == len(clause):
            raise _bad(text)
        set_to = False  # whether an = of this clause has cleared the bits
        while at < len(clause):
            operator = clause[at]
            at += 1
            if operator not in "+-=":
                raise _bad(text)
            set_to = set_to and operator != "="
            at, set_to = _permissions(clause, at, operator, who, set_to, found)
    return found


def _permissions(
    clause: str, at: int, operator: str, who: int, set_to: bool, found: list[_Operation]
) -> tuple[int, bool]:
    """Read the letters after an operator."""
    bits = conditional = 0

    def flush(*, end: bool) -> None:
        nonlocal bits, conditional, set_to
        if bits or (end and operator == "=" and not set_to):
            if operator == "=":
                found.append(("-", who or _STANDARD, 0))
                set_to = True
            found.append(("-" if operator == "-" else "+", bits & who if who else bits, 0))
            bits = 0
        if not end and operator == "=":
            set_to = True
        if conditional:
            found.append(("X", conditional & who if who else conditional, 0))
            conditional = 0

    while at < len(clause):
        letter = clause[at]
        if letter == "r":
            bits |= 0o444
        elif letter == "w":
            bits |= 0o222
        elif letter == "x" or (letter == "X" and operator == "-"):
            bits |= _EXECUTE
        elif letter == "X":
            conditional = _EXECUTE
        elif letter == "s":
            if not who or who & ~0o7:
                bits |= 0o6000
        elif letter == "t":
            if not who or who & ~0o7:
                who |= _STICKY
                bits |= _STICKY
        elif letter in _CLASSES:
            flush(end=False)
            found.append((letter, ord(operator), who & 0o444 if who else 0o444))
        else:
            break
        at += 1
    flush(end=True)
    return at, set_to


def _bad(text: str) -> UsageError:
    return UsageError(f"{text!r:.100} is not a mode", hint=_HINT)
