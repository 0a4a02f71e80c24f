"""The only reader and writer of JSON documents from outside (manifests, indexes, configs, layout files).

Two parsers that read one document differently let an attacker swap a signed image for another. So everything that
parsers are known to disagree about is refused: duplicate keys, keys that differ from a known key only in case (Go's
decoder accepts them), bytes that are not UTF-8, numbers beyond 64 bits, NaN, deep nesting.
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
"""The deepest nesting that ``read_own`` accepts: well below the limit of the decoder's recursion."""
_INT_LIMIT = 2**63
_SURROGATE_ESCAPE = pattern(rb"\\u[dD][89a-fA-F]")


class _Refused(Exception):
    """Raised inside the decoder's hooks; ``load`` turns it into InvalidDocument."""


def load(data: bytes, what: str, *, known: frozenset[str] = frozenset(), limit: int = MAX_DOCUMENT) -> dict[str, Any]:
    """Decode a JSON object. ``what`` names the document in errors; ``known`` are its top-level keys: other keys that
    differ from them only in case are refused; ``limit`` is the largest accepted size in bytes.

    Raises InvalidDocument; LimitExceeded if the document is too large.
    """
    if len(data) > limit:
        raise LimitExceeded(
            f"{what} is too large: {len(data)} bytes, the limit is {limit}",
            hint="report it to the publisher of the image",
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
    refuse_case_variants(value, known, what)
    return value


def dump(value: Mapping[str, Any]) -> bytes:
    """Encode as compact JSON in UTF-8, in insertion order, with only the necessary escapes: the same value gives the
    same bytes.

    Raises InvalidDocument for what JSON can't express: NaN, lone surrogates, values of other types.
    """
    try:
        return _encoder().encode(value).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        reason = "a string is not valid Unicode" if isinstance(error, UnicodeError) else str(error)
        raise InvalidDocument(
            f"can't be written as JSON: {reason}", hint="values must be valid text, numbers, lists or objects"
        ) from error


def read_own(text: str | bytes) -> Any:
    """Decode JSON that lamina or another local program wrote, as ``json.loads`` does; bytes may be in any Unicode
    encoding. Raises ValueError, also for deep nesting."""
    if isinstance(text, bytes):
        from json import detect_encoding

        text = text.decode(detect_encoding(text))
    if nests_deeper(text.encode("utf-8", "surrogatepass"), _OWN_DEPTH):
        raise ValueError(f"it is nested deeper than {_OWN_DEPTH} levels")
    return _decoded(text, _Plain)


def nests_deeper(data: bytes, limit: int) -> bool:
    """Whether lists and objects are nested deeper than ``limit`` levels (pure).

    This is checked before the decoder runs, because the decoder recurses: deep input would fail depending on the
    depth of the caller, and a finalizer that happens to run at that depth would fail instead of the decoder. The
    answer is exact for JSON, and for input that is JSON up to the byte where the decoder stops.
    """
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    if b"\\" in data:  # a backslash occurs only inside strings; it escapes the next byte
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # two adjacent quotes are an empty string, or the border of two strings: what is between other quotes stays there
    marks = data.translate(_BRACKETS, _NO_MARKS).replace(b'""', b"")
    if b'"' in marks:
        marks = b"".join(marks.split(b'"')[::2])
    left = marks
    for _ in range(limit):  # each round removes the innermost level
        left = left.replace(b"[]", b"")
        if not left:
            return False
    depth = 0  # it is too deep, or not JSON
    for mark in marks:
        depth += 1 if mark == _OPEN else -1
        if depth > limit:
            return True
        if depth < 0:
            break
    return False


def write_own(value: object) -> str:
    """Encode as ``json.dumps`` does."""
    if _C is None:
        from json import dumps

        return dumps(value)
    encode = _C.make_encoder({}, _unknown, _C.encode_basestring_ascii, None, ": ", ", ", False, False, True)
    return "".join(encode(value, 0))


def refuse_case_variants(value: Iterable[str], known: frozenset[str], what: str) -> None:
    """Raise InvalidDocument if a key differs from a known key only in case."""
    strange = [key for key in value if key not in known]
    if strange and known:
        folded = {key.casefold(): key for key in known}
        for key in strange:
            # casefold, as Go's decoder does: the Kelvin sign counts as k, the long s as s
            twin = folded.get(key.casefold())
            if twin is not None:
                _refuse(what, f"key {key!r:.80} differs from {twin!r} only in case")


def kind_of(value: object) -> str:
    """Return JSON's name for the type of a decoded value, for messages."""
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}.get(type(value), "a number")


def _refuse(what: str, why: str, cause: BaseException | None = None) -> NoReturn:
    raise InvalidDocument(
        f"{what} is not a valid document: {why}", hint="fetch it again: it may be damaged"
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
    # check the length first: int() of a million digits is slow, and Python refuses it with another error
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
    raise TypeError(f"a {type(value).__name__} can't be written as JSON")


class _Strict:
    """The decoder's hooks for documents from outside; json looks them up by these names."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_int = staticmethod(_int)
    parse_float = staticmethod(_float)
    parse_constant = staticmethod(_constant)


class _Plain:
    """The decoder's hooks as ``json.loads`` sets them."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_int = int
    parse_float = float
    parse_constant = float  # parse_constant is called for NaN and Infinity


def _accelerated() -> Any:
    """Return the C accelerator of json, or None. The json module itself loads re for its error messages, which takes
    half as long as the start of Python."""
    try:
        import _json
    except ImportError:  # not CPython
        return None
    return _json


_C = _accelerated()


def _decoded(text: str, hooks: type[_Strict] | type[_Plain]) -> Any:
    """Decode as ``json.JSONDecoder(...).decode`` does, but load that only if the text is invalid. Raises the same
    errors."""
    if _C is not None:
        try:
            value, end = _C.make_scanner(hooks)(text, len(text) - len(text.lstrip(_BLANKS)))
        except Exception:  # noqa: BLE001  (without json loaded the error has no message: the decoder below gives one)
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
