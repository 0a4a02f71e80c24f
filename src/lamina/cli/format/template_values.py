"""Values in templates: how Go prints and compares them, and the functions of docker's templates (pure).

Values are those of JSON, and records (``cli.record``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lamina.cli.format.template_record import NO_LIST, NoList, NoMap

MOST = 1 << 20
"""Maximum width in characters that a number in a template can set: the number may come from an image."""

MOST_TEXT = 16 << 20
"""Maximum characters of all arguments of a function, and of its result: a text that is doubled again and again would
use all memory."""


class Fault(Exception):
    """A function does not accept a value; the message says why."""


class Heading(str):
    """The heading of a column. Each field of it is the heading of that field."""

    __slots__ = ()

    @classmethod
    def of(cls, name: str) -> Heading:
        """Make the heading of a field: ``CreatedAt`` gives CREATED AT, ``DiffID`` DIFF ID."""
        return cls(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).upper())


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def show(value: Any, *, nothing: str = "<no value>") -> str:
    """Format a value as %v of Go does."""
    if value is None:
        return nothing
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _general(value)
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: str(item[0]))
        return "map[" + " ".join(f"{key}:{show(item, nothing='<nil>')}" for key, item in items) + "]"
    if is_list(value):
        return "[" + " ".join(show(item, nothing="<nil>") for item in value) + "]"
    return str(value)


def _general(value: float) -> str:
    """Format a number as %v of Go does: all digits, an exponent from 21 digits on."""
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}[text]
    if value == 0 or 1e-4 <= abs(value) < 1e21:
        whole = f"{value:f}" if "e" in text else text
        return whole.rstrip("0").rstrip(".") if "." in whole else whole
    mantissa, _, exponent = f"{value:.17g}".partition("e") if "e" not in text else text.partition("e")
    return f"{mantissa.removesuffix('.0')}e{exponent}"


def as_json(value: Any) -> str:
    """Encode JSON on one line. Non-ASCII letters stay; characters that are unsafe on a terminal are escaped as in
    JSON."""
    if isinstance(value, NoList | NoMap):
        return "null"
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


# Comparison


def equal(first: Any, *others: Any) -> bool:
    """Whether the first value equals one of the others."""
    if not others:
        raise Fault("a comparison needs two values")
    return any(_equal(first, other) for other in others)


def _equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    if _kind(one) != _kind(other):
        raise Fault(f"{_kind(one)} and {_kind(other)} can't be compared")
    return bool(one == other)


def _less(one: Any, other: Any) -> bool:
    if _kind(one) != _kind(other) or _kind(one) not in ("a number", "a text"):
        raise Fault(f"{_kind(one)} and {_kind(other)} have no order")
    return bool(one < other)


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a map" if isinstance(value, Mapping) else "a list"


# Parts


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(str(key), "" if all(isinstance(item, str) for item in value.values()) else None)
        elif value is None:
            value = ""
        elif is_list(value) or isinstance(value, str):
            items = value if is_list(value) else value.encode("utf-8", "surrogateescape")
            value = items[_position(key, len(items) - 1)]
        else:
            raise Fault(f"{_kind(value)} has no parts")
    return value


def _slice(value: Any, *ends: Any) -> Any:
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogateescape")
        return _slice(list(text), *ends) and bytes(_slice(list(text), *ends)).decode("utf-8", "backslashreplace")
    if value is None:
        return NO_LIST
    if not is_list(value):
        raise Fault(f"{_kind(value)} can't be sliced")
    low, high = (*(_position(end, len(value)) for end in ends[:2]), *(0, len(value))[len(ends[:2]) :])
    if low > high:
        raise Fault(f"the slice {low}:{high} ends before it begins")
    return list(value)[low:high]


def _position(key: Any, last: int) -> int:
    if isinstance(key, bool) or not isinstance(key, int):
        raise Fault(f"{key!r:.60} is not a position in a list or text")
    if not 0 <= key <= last:
        raise Fault(f"there is no position {key}: " + (f"the last one is {last}" if last >= 0 else "it is empty"))
    return key


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if value is None:
        return 0
    if not isinstance(value, Mapping) and not is_list(value):
        raise Fault(f"{_kind(value)} has no length")
    return len(value)


# Texts


def _text(value: Any) -> str:
    return show(value, nothing="")


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Fault(f"{show(value)!r:.60} is not a whole number")
    return value


def _check(length: int) -> None:
    if length > MOST_TEXT:
        raise Fault(f"a text of more than {MOST_TEXT >> 20} MiB")


def _join(items: Any, separator: Any = "") -> str:
    if items is None:
        return ""
    if not is_list(items):
        raise Fault(f"{_kind(items)} is not a list")
    between, texts = _text(separator), [_text(item) for item in items]
    _check(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _split(text: Any, separator: Any) -> list[str]:
    return _text(text).split(separator) if separator else list(_text(text))


def _title(text: Any) -> str:
    return re.sub(r"(?<!\w)\w", lambda letter: letter[0].upper(), _text(text))


def _truncate(text: Any, length: Any) -> str:
    return _text(text)[: max(0, _number(length))]


def _pad(text: Any, before: Any, after: Any) -> str:
    left, right = _number(before), _number(after)
    if max(left, right) > MOST:
        raise Fault(f"at most {MOST} characters")
    return " " * left + _text(text) + " " * right if _text(text) else ""


def _print(*items: Any) -> str:
    """Join values as Sprint of Go does: a space between two values that are not strings."""
    out = ""
    for number, item in enumerate(items):
        if number and not isinstance(item, str) and not isinstance(items[number - 1], str):
            out += " "
        out += show(item, nothing="<nil>")
    return out


def _println(*items: Any) -> str:
    return " ".join(show(item, nothing="<nil>") for item in items) + "\n"


_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?(?P<dot>))?(?P<verb>.)?", re.DOTALL
)


def _printf(form: Any, *values: Any) -> str:
    """Format like Sprintf of Go; a mismatch gives the same text as there, like ``%!d(string=hi)``."""
    if not isinstance(form, str):
        raise Fault("the format is not a string")
    left = list(values)

    def number(text: str | None) -> int | None:
        if text != "*":
            size = int(text) if text and len(text) < 9 else None if not text else MOST + 1
        else:
            size = left.pop(0) if left else None
            if isinstance(size, bool) or not isinstance(size, int):
                raise Fault("* takes a whole number")
        if size is not None and abs(size) > MOST:
            raise Fault(f"wider than {MOST} characters")
        return size

    made = 0

    def one(found: re.Match[str]) -> str:
        nonlocal made
        text = formatted(found)
        made += len(text)
        _check(made)
        return text

    def formatted(found: re.Match[str]) -> str:
        flags, verb = found["flags"], found["verb"]
        width, precision = number(found["width"]), number(found["precision"])
        if found["dot"] is not None and precision is None:
            precision = 0
        if verb is None:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        text, numeric = _formatted(verb, left.pop(0), flags, precision)
        width = width or 0
        if "-" in flags or width < 0:
            return text.ljust(abs(width))
        if "0" in flags and numeric:
            sign = text[:1] if text[:1] in ("-", "+", " ") else ""
            return sign + text[len(sign) :].rjust(width - len(sign), "0")
        return text.rjust(width)

    result = _VERB.sub(one, form)
    if left:
        result += "%!(EXTRA " + ", ".join(f"{_go_type(item)}={show(item, nothing='<nil>')}" for item in left) + ")"
    return result


def _formatted(verb: str, value: Any, flags: str, precision: int | None) -> tuple[str, bool]:
    """Return the text, and whether it may be padded with zeros."""
    if verb == "v":
        return (_quoted(value) if "#" in flags and isinstance(value, str) else show(value, nothing="<nil>")), (
            isinstance(value, int | float) and not isinstance(value, bool)
        )
    if verb == "T":
        return _go_type(value), False
    if is_list(value):
        return "[" + " ".join(_formatted(verb, item, flags, precision)[0] for item in value) + "]", False
    if isinstance(value, bool):
        if verb == "t":
            return show(value), False
    elif isinstance(value, int):
        if verb in "dboxX":
            sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
            mark = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(verb, "") if "#" in flags else ""
            return sign + mark + format(abs(value), verb).rjust(precision or 0, "0"), precision is None
        if verb == "c" and 0 <= value < 0x110000:
            return chr(value), False
    elif isinstance(value, float):
        if verb in "eEfFgG":
            sign = "+" if "+" in flags and value >= 0 else ""
            if verb in "gG" and precision is None:
                return sign + _general(value), True
            return sign + format(value, f".{6 if precision is None else precision}{verb}"), True
    elif isinstance(value, str):
        if verb == "s":
            return value if precision is None else value[:precision], False
        if verb == "q":
            return _quoted(value), False
        if verb in "xX":
            return format(value.encode("utf-8", "surrogateescape").hex(), "").upper() if verb == "X" else (
                value.encode("utf-8", "surrogateescape").hex()
            ), False
    elif value is None and verb == "s":
        return "", False
    return f"%!{verb}({_go_type(value)}={show(value, nothing='<nil>')})", False


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _go_type(value: Any) -> str:
    kinds = {bool: "bool", int: "int", float: "float64", str: "string", type(None): "<nil>"}
    for kind, name in kinds.items():
        if isinstance(value, kind):
            return name
    return "map[string]interface {}" if isinstance(value, Mapping) else "[]interface {}"


_Function = tuple[Callable[..., Any], int, int | None]
FUNCTIONS: dict[str, _Function] = {
    # name: (function, minimum and maximum of arguments); the evaluator short-circuits `and` and `or`
    "and": (lambda *values: values[-1], 1, None),
    "or": (lambda *values: values[-1], 1, None),
    "not": (lambda value: not value, 1, 1),
    "eq": (equal, 2, None),
    "ne": (lambda one, other: not _equal(one, other), 2, 2),
    "lt": (_less, 2, 2),
    "le": (lambda one, other: not _less(other, one), 2, 2),
    "gt": (lambda one, other: _less(other, one), 2, 2),
    "ge": (lambda one, other: not _less(one, other), 2, 2),
    "index": (_index, 1, None),
    "slice": (_slice, 1, 3),
    "len": (_length, 1, 1),
    "print": (_print, 0, None),
    "println": (_println, 0, None),
    "printf": (_printf, 1, None),
    "json": (as_json, 1, 1),
    "join": (_join, 1, 2),
    "split": (_split, 2, 2),
    "upper": (lambda text: _text(text).upper(), 1, 1),
    "lower": (lambda text: _text(text).lower(), 1, 1),
    "title": (_title, 1, 1),
    "truncate": (_truncate, 2, 2),
    "pad": (_pad, 3, 3),
}


def call(name: str, arguments: Iterable[Any]) -> Any:
    """Call a function; return its result. Raises Fault."""
    function, fewest, most = FUNCTIONS[name]
    given = list(arguments)
    if len(given) < fewest or (most is not None and len(given) > most):
        wanted = str(fewest) if most == fewest else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise Fault(f"{name} takes {wanted} arguments, not {len(given)}")
    try:
        _check(sum(len(one) for one in given if isinstance(one, str)))
        made = function(*given)
        _check(len(made) if isinstance(made, str) else 0)
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from None
    return made


def heading_call(name: str, arguments: Sequence[Any]) -> Any:
    """Call a function with headings: as in docker, only functions for layout change them. Raises Fault."""
    if name in ("print", "printf", "println", "pad", "eq", "ne", "and", "or", "not", "len"):
        return call(name, arguments)
    found = [one for one in arguments if isinstance(one, Heading)]
    return found[0] if found else call(name, arguments)
