"""Fields of tar headers and PAX records as values (pure): numbers, checksums, times, xattrs, sparse maps.

ustar is POSIX.1-1988 and PAX POSIX.1-2001; base-256 numbers and long names are extensions of GNU and star.
"""

from __future__ import annotations

import struct
import zlib

from lamina.errors import InvalidLayer, LimitExceeded

BLOCK = 512
HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
MAX_PAX = 1 << 20
MAX_XATTRS = 64 << 10
MAX_NUMBER = (1 << 63) - 1
_HINT = "fetch or build the layer again: it is malformed"

SCHILY_XATTR = b"SCHILY.xattr."
LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")

Segments = tuple[tuple[int, int], ...]


def checksum_fits(header: bytes, stated: bytes) -> bool:
    """Whether the header's checksum is right: the sum of its bytes, with the checksum field itself as spaces. The sum
    of signed bytes, as historic tars computed it, is accepted too.

    The lower half of adler32 is 1 + the sum of all bytes mod 65521; it is a hundred times faster than summing in
    Python.
    """
    text = stated.strip(b"\0 ")
    if not text.isdigit():
        return False
    try:
        wanted = int(text, 8) - 256 + sum(stated)
    except ValueError:
        return False
    if zlib.adler32(header) & 0xFFFF == (wanted + 1) % 65521:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in header)
    return signed == wanted - 2 * sum(byte for byte in stated if byte > 127)


def is_header(block: bytes) -> bool:
    """Whether a tar can begin with this block: a header with the right checksum, or zeros (an empty archive)."""
    return not block.strip(b"\0") or checksum_fits(block, block[148:156])


def number(field: bytes, what: str) -> int:
    """Parse an octal field (blank counts as 0), or a base-256 one if the top bit is set. Raises InvalidLayer."""
    if field and field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:  # two's complement
            value -= 1 << (8 * len(field) - 1)
        return value
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not text.isdigit():
        raise InvalidLayer(f"the {what} {field!r} is not an octal number", hint=_HINT)
    try:
        return int(text, 8)
    except ValueError:
        raise InvalidLayer(f"the {what} {field!r} is not an octal number", hint=_HINT) from None


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Parse the records ``length key=value\\n``, in order. They are split by length, because values may contain
    anything. Raises InvalidLayer."""
    records, at, end = [], 0, len(data)
    while at < end:
        if data[at] == 0:  # some writers pad the block
            if data[at:].strip(b"\0"):
                raise InvalidLayer("a PAX record is malformed", hint=_HINT)
            break
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise InvalidLayer("a PAX record has no length", hint=_HINT)
        stop = at + int(digits)
        if stop > end or stop <= space + 1 or data[stop - 1] != 0x0A:
            raise InvalidLayer(f"a PAX record has the impossible length {digits.decode()}", hint=_HINT)
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise InvalidLayer("a PAX record has no key", hint=_HINT)
        records.append((key, value))
        at = stop
    return records


def decimal(value: bytes, what: str) -> int:
    """Parse a decimal number in a PAX record. Raises InvalidLayer."""
    digits = value[1:] if value[:1] == b"-" else value
    if not digits.isdigit() or len(digits) > 20:
        raise InvalidLayer(f"the {what} {value!r:.60} is not a number", hint=_HINT)
    return int(value)


def pax_time(value: bytes) -> tuple[int, int]:
    """Parse a time as (seconds, nanoseconds from 0 to 999,999,999). Digits beyond nanoseconds are cut off, not
    rounded."""
    whole, _, fraction = value.partition(b".")
    if fraction and not fraction.isdigit():
        raise InvalidLayer(f"the time {value!r:.60} is not a number", hint=_HINT)
    negative = whole[:1] == b"-"
    seconds = 0 if whole in (b"", b"-") else decimal(whole, "time")
    nanoseconds = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    if negative and nanoseconds:
        return seconds - 1, 1_000_000_000 - nanoseconds
    return seconds, nanoseconds


def is_xattr(key: bytes) -> bool:
    return key.startswith((SCHILY_XATTR, LIBARCHIVE_XATTR))


def xattrs_of(records: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the extended attributes. If SCHILY (raw) and LIBARCHIVE (encoded) state the same one, SCHILY's counts.
    Raises InvalidLayer; LimitExceeded above 64 KiB."""
    found: dict[bytes, bytes] = {}
    for key, value in records:
        if key.startswith(LIBARCHIVE_XATTR):
            import binascii
            from urllib.parse import unquote_to_bytes

            try:
                decoded = binascii.a2b_base64(value + b"=" * (-len(value) % 4))
            except ValueError:
                raise InvalidLayer(f"the xattr {key!r:.100} is not base64", hint=_HINT) from None
            found.setdefault(unquote_to_bytes(key[len(LIBARCHIVE_XATTR) :]), decoded)
    for key, value in records:
        if key.startswith(SCHILY_XATTR):
            found[key[len(SCHILY_XATTR) :]] = value
    if sum(len(key) + len(value) for key, value in found.items()) > MAX_XATTRS:
        raise LimitExceeded(
            "an entry has more than 64 KiB of xattrs", hint="rebuild the layer: no Linux file can have that many"
        )
    if any(not name or b"\0" in name or len(name) > 255 for name in found):
        raise InvalidLayer("an xattr has an invalid name", hint=_HINT)
    return found


def gnu_sparse_entries(data: bytes, count: int) -> list[tuple[int, int]]:
    """Parse an old GNU sparse map: up to ``count`` pairs of 12-byte numbers; the first empty pair ends it."""
    pairs = []
    for at in range(0, count * 24, 24):
        if not data[at] and not data[at + 12]:
            break
        pairs.append((number(data[at : at + 12], "sparse offset"), number(data[at + 12 : at + 24], "sparse length")))
    return pairs


def check_segments(segments: list[tuple[int, int]], size: int, stored: int) -> Segments:
    """Check a sparse map: the segments must be in order, within ``size``, and have ``stored`` bytes in total. Returns
    the non-empty ones. Raises InvalidLayer."""
    position = total = 0
    for offset, length in segments:
        if offset < position or length < 0 or offset + length > size:
            raise InvalidLayer("a sparse file's map overlaps or exceeds the file", hint=_HINT)
        position = offset + length
        total += length
    if total != stored:
        raise InvalidLayer(f"a sparse file's map has {total} bytes, but {stored} are stored", hint=_HINT)
    return tuple((offset, length) for offset, length in segments if length)
