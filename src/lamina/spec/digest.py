"""Digests (image-spec descriptor.md, "Digests"): the only place that parses, computes and compares them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

from lamina.errors import Unsupported, UsageError
from lamina.light import TYPE_CHECKING, Value, pattern

if TYPE_CHECKING:
    from typing import Protocol

    class Hasher(Protocol):
        """What ``hashlib`` objects offer."""

        def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

        def hexdigest(self) -> str: ...


# algorithm ::= component (separator component)*; encoded ::= [a-zA-Z0-9=_-]+
_GRAMMAR = pattern(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = pattern(r"[0-9a-f]+")
_DIGITS = "0123456789abcdef"
_FEW = 1 << 15
CANONICAL = "sha256"


class Digest(Value):
    """A digest, written ``algorithm:encoded``. Registered algorithms are checked for length and lower case. An
    unknown algorithm that fits the grammar is kept, but ``hasher`` raises Unsupported for it."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse a digest. Raises UsageError if ``text`` is not one."""
        if isinstance(text, str) and len(text) == 71 and text[:7] == "sha256:" and not text[7:].strip(_DIGITS):
            return cls(CANONICAL, text[7:])  # fast path: nearly all digests
        if not isinstance(text, str) or len(text) > 512 or not _GRAMMAR.fullmatch(text):
            raise UsageError(f"not a digest: {text!r:.200}", hint="write it like sha256:<64 hex digits>")
        algorithm, encoded = text.split(":", 1)
        length = _HEX_LENGTH.get(algorithm)
        if length is not None and (len(encoded) != length or not _HEX.fullmatch(encoded)):
            raise UsageError(f"not a {algorithm} digest: {text!r:.200}", hint=f"give {length} lower-case hex digits")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = CANONICAL) -> Digest:
        """Compute the digest of these bytes."""
        hasher = new_hasher(algorithm, len(data))
        hasher.update(data)
        return cls(algorithm, hasher.hexdigest())

    @property
    def supported(self) -> bool:
        """Whether this host can compute digests of this algorithm."""
        return self.algorithm in _HEX_LENGTH

    def hasher(self, size: int | None = None) -> Hasher:
        """Return a new hash object of this algorithm. ``size`` is the number of bytes to hash, if known. Raises
        Unsupported for an algorithm that can't be computed here."""
        return new_hasher(self.algorithm, size)

    @property
    def short(self) -> str:
        """The first twelve hex digits, as docker shows an ID."""
        return self.encoded[:12]

    def __lt__(self, other: Digest) -> bool:
        if not isinstance(other, Digest):
            return NotImplemented
        return (self.algorithm, self.encoded) < (other.algorithm, other.encoded)

    def __le__(self, other: Digest) -> bool:
        return self == other or self < other

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


def new_hasher(algorithm: str = CANONICAL, size: int | None = None) -> Hasher:
    """Return a new hash object. ``size`` is the number of bytes to hash, if known: for a few bytes OpenSSL is not
    loaded. Raises Unsupported for an algorithm that can't be computed here."""
    if algorithm not in _HEX_LENGTH:
        raise Unsupported(
            f"digest algorithm {algorithm!r:.60} can't be verified", hint="use " + ", ".join(sorted(_HEX_LENGTH))
        )
    if algorithm == CANONICAL and size is not None and size <= _FEW and "hashlib" not in sys.modules:
        own = _own_sha256()
        if own is not None:
            return own()
    import hashlib

    return hashlib.new(algorithm, usedforsecurity=True)


@cache
def _own_sha256() -> Callable[[], Hasher] | None:
    """Return Python's built-in sha256. hashlib loads OpenSSL, which takes longer than hashing a few bytes."""
    for name in ("_sha2", "_sha256"):  # _sha256 is its name before Python 3.12
        try:
            found: Callable[[], Hasher] = __import__(name).sha256
        except ImportError:
            continue
        return found
    return None
