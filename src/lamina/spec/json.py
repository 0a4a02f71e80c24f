"""The one reader and writer of JSON documents from outside (manifests, indexes, configs, layout files).

Two parsers that read one document differently are how a signed image becomes another one, so everything that
parsers are known to disagree about is refused: duplicate keys, keys that equal a known one but for case (Go's
decoder takes them for it), bytes that are not UTF-8, numbers beyond 64 bits, NaN, deep nesting.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from functools import cache

from lamina.errors import InvalidDocument, LimitExceeded
from lamina.light import TYPE_CHECKING, pattern

if TYPE_CHECKING:
    import json
    from typing import Any, NoReturn

MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes. Registries must accept manifests up to this size (distribution-spec, "Pushing Manifests")."""

MAX_DEPTH = 32
_OWN_DEPTH = 100
"""Levels of what ``read_own`` takes: far from what the decoder's recursion can reach."""
_INT_LIMIT = 2**63
_SURROGATE_ESCAPE = pattern(rb"\\u[dD][89a-fA-F]")


class _Refused(Exception):
    """Raised inside the decoder's hooks; ``load`` turns it into InvalidDocument."""


def load(data: bytes, what: str, *, known: frozenset[str] = frozenset(), limit: int = MAX_DOCUMENT) -> dict[str, Any]:
    """Decode a JSON object. ``what`` names the document in messages; ``known`` are the top-level keys whose
    case twins are refused; ``limit`` is the size in bytes that is still accepted.

    Raises InvalidDocument (LimitExceeded where it is too large).
    """
    if len(data) > limit:
        raise LimitExceeded(
            f"{what} is too large: {len(data)} bytes, the limit is {limit}",
            hint="no tool should make such a document; ask whoever made it",
        )
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        _refuse(what, "it starts with a byte order mark")
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        _refuse(what, f"byte {error.start} is not UTF-8", error)
    if nests_deeper(data, MAX_DEPTH):
        _refuse(what, f"it is nested deeper than {MAX_DEPTH} levels")
    try:
        value = _decoded(text, _Strict)
    except ValueError as error:
        from json import JSONDecodeError

        if not isinstance(error, JSONDecodeError):
            raise
        _refuse(what, f"{error.msg}, line {error.lineno} column {error.colno}", error)
    except _Refused as error:
        _refuse(what, str(error), error)
    if type(value) is not dict:
        _refuse(what, f"expected an object, found {kind_of(value)}")
    if (b"\\ud" in data or b"\\uD" in data) and _SURROGATE_ESCAPE.search(data):
        try:
            dump(value)
        except InvalidDocument as error:
            _refuse(what, "a string holds half a surrogate pair", error)
    refuse_twins(value, known, what)
    return value


def dump(value: Mapping[str, Any]) -> bytes:
    """Compact JSON in insertion order, UTF-8, nothing escaped that need not be: same value, same bytes.

    Raises InvalidDocument for what JSON can't say: NaN, lone surrogates, values that are no JSON.
    """
    try:
        return _encoder().encode(value).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        reason = "a string is not valid Unicode" if isinstance(error, UnicodeError) else str(error)
        raise InvalidDocument(
            f"can't be written as JSON: {reason}", hint="values must be valid text, numbers, lists or objects"
        ) from error


def read_own(text: str | bytes) -> Any:
    """A value that lamina, or another program, wrote down: read as ``json.loads`` reads it, bytes in any of Unicode's
    encodings. Raises ValueError, also for deep nesting."""
    if isinstance(text, bytes):
        from json import detect_encoding

        text = text.decode(detect_encoding(text))
    if nests_deeper(text.encode("utf-8", "surrogatepass"), _OWN_DEPTH):
        raise ValueError(f"it is nested deeper than {_OWN_DEPTH} levels")
    return _decoded(text, _Plain)


def nests_deeper(data: bytes, limit: int) -> bool:
    """Whether lists and objects nest deeper than ``limit`` levels (pure). Decide it before the decoder runs: the
    decoder recurses, so that deep input fails or not by the caller's own depth, and a finalizer that happens to run
    down there fails in its place.

    Exact for JSON, and for what is JSON up to the byte where the decoder stops.
    """
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    if b"\\" in data:  # only inside strings; each one takes the next byte with it
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # two quotes side by side hold nothing, or join two strings: what is between other quotes stays there
    marks = data.translate(_BRACKETS, _NO_MARKS).replace(b'""', b"")
    if b'"' in marks:
        marks = b"".join(marks.split(b'"')[::2])
    left = marks
    for _ in range(limit):  # each round takes the innermost level away
        left = left.replace(b"[]", b"")
        if not left:
            return False
    depth = 0  # too deep, or not JSON
    for mark in marks:
        depth += 1 if mark == _OPEN else -1
        if depth > limit:
            return True
        if depth < 0:
            break
    return False


def write_own(value: object) -> str:
    """As ``json.dumps``."""
    if _C is None:
        from json import dumps

        return dumps(value)
    encode = _C.make_encoder({}, _unknown, _C.encode_basestring_ascii, None, ": ", ", ", False, False, True)
    return "".join(encode(value, 0))


def refuse_twins(value: Iterable[str], known: frozenset[str], what: str) -> None:
    """Raise InvalidDocument if one of the keys equals a known one but for case."""
    strange = [key for key in value if key not in known]
    if strange and known:
        folded = {key.casefold(): key for key in known}
        for key in strange:
            # casefold, as Go does: the Kelvin sign and the long s count as k and s
            twin = folded.get(key.casefold())
            if twin is not None:
                _refuse(what, f"key {key!r:.80} differs from {twin!r} only in case")


def kind_of(value: object) -> str:
    """What JSON calls the type of a decoded value, for messages."""
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}.get(type(value), "a number")


def _refuse(what: str, why: str, cause: BaseException | None = None) -> NoReturn:
    raise InvalidDocument(
        f"{what} is not a valid document: {why}", hint="it was damaged or made to mislead; fetch it again"
    ) from cause


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"key {key!r:.80} occurs twice")
            seen.add(key)
    return result


def _int(text: str) -> int:
    # the length first: int() of a million digits is slow, and refused by Python with another error
    if len(text) <= 20 and -_INT_LIMIT <= (number := int(text)) < _INT_LIMIT:
        return number
    raise _Refused(f"number {text[:24]} does not fit in 64 bits")


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _Refused(f"number {text[:24]} is too large")
    return number


def _constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is not JSON")


def _unknown(value: object) -> NoReturn:
    raise TypeError(f"a {type(value).__name__} is nothing that JSON can say")


class _Strict:
    """The decoder's hooks for documents from outside, by json's names for them."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_int = staticmethod(_int)
    parse_float = staticmethod(_float)
    parse_constant = staticmethod(_constant)


class _Plain:
    """Those of ``json.loads``."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_int = int
    parse_float = float
    parse_constant = float  # it knows NaN and Infinity by these names


def _accelerated() -> Any:
    """What json itself works with, or None. json loads re for its error messages: that takes as long as half of
    Python's own start."""
    try:
        import _json
    except ImportError:  # no CPython
        return None
    return _json


_C = _accelerated()


def _decoded(text: str, hooks: type[_Strict] | type[_Plain]) -> Any:
    """``json.JSONDecoder(...).decode``, without loading it where the text is right. Raises as that does."""
    if _C is not None:
        try:
            value, end = _C.make_scanner(hooks)(text, len(text) - len(text.lstrip(_BLANKS)))
        except Exception:  # noqa: BLE001  (where json is not loaded it fails without a word: the decoder has one)
            pass
        else:
            if not text[end:].strip(_BLANKS):
                return value
    from json import JSONDecoder

    return JSONDecoder(
        object_pairs_hook=hooks.object_pairs_hook,
        parse_int=hooks.parse_int,
        parse_float=hooks.parse_float,
        parse_constant=hooks.parse_constant,
    ).decode(text)


_BLANKS = " \t\n\r"
_OPEN = ord("[")
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))


@cache
def _encoder() -> json.JSONEncoder:
    from json import JSONEncoder

    return JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
