"""The log driver ``json-file``: docker's lines of JSON, byte for byte as docker writes them (pure)."""

from __future__ import annotations

from lamina.run.logs import stamp

PIECE = 16 << 10
"""A longer line is split into pieces of this many bytes, as docker splits it."""
_NAMES = {1: b"stdout", 2: b"stderr"}
_CONTROL = bytes(number for number in range(32) if number != 10)
_ESCAPES = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_ESCAPED_BYTES = {0xDC00 + number: "\\ufffd" for number in range(128, 256)}


class JsonEncoder:
    def __init__(self, attributes: str = "") -> None:
        """``attributes``: the JSON of docker's "attrs", "" for none."""
        self._attributes = f',"attrs":{attributes}'.encode() if attributes else b""
        self._held = {1: b"", 2: b""}

    def encode(self, stream: int, data: bytes, now: int) -> bytes:
        held = self._held[stream]
        whole, newline, rest = data.rpartition(b"\n")
        if not newline and len(held) + len(data) < PIECE:
            self._held[stream] = held + data
            return b""
        end = b'","stream":"%s"%s,"time":"%s"}\n' % (_NAMES[stream], self._attributes, stamp.short(now).encode())
        lines = b""
        if newline:
            lines = _lines(held + whole, end)
        else:
            rest = held + data
        full = len(rest) - len(rest) % PIECE
        for start in range(0, full, PIECE):
            lines += b'{"log":"' + escaped(rest[start : start + PIECE]) + end
        self._held[stream] = rest[full:]
        return lines

    def rest(self, now: int) -> bytes:
        lines = b""
        for stream, held in self._held.items():
            if held:
                end = b'","stream":"%s"%s,"time":"%s"}\n' % (
                    _NAMES[stream],
                    self._attributes,
                    stamp.short(now).encode(),
                )
                lines += b'{"log":"' + escaped(held) + end
        self._held = {1: b"", 2: b""}
        return lines


def _lines(text: bytes, end: bytes) -> bytes:
    """The entries of whole lines, without the last newline."""
    if len(text) < PIECE or max(map(len, text.split(b"\n"))) < PIECE:
        return b'{"log":"' + escaped(text).replace(b"\n", b'\\n%s{"log":"' % end) + b"\\n" + end
    found = []
    for line in text.split(b"\n"):
        full = len(line) - len(line) % PIECE
        found += [line[start : start + PIECE] for start in range(0, full, PIECE)]
        found.append(line[full:] + b"\n")
    return b"".join(b'{"log":"' + escaped(line).replace(b"\n", b"\\n") + end for line in found)


def escaped(text: bytes) -> bytes:
    """The text of a JSON string, with newlines as they are. Bytes that are not UTF-8 become U+FFFD, each one."""
    for one, code in _ESCAPES:
        text = text.replace(one, code)
    if len(text.translate(None, _CONTROL)) != len(text):
        for number in set(text) & set(_CONTROL):
            code = b"\\r" if number == 13 else b"\\u%04x" % number
            text = text.replace(bytes((number,)), code)
    if text.isascii():
        return text
    try:
        text.decode()
    except UnicodeDecodeError:
        text = text.decode("utf-8", "surrogateescape").translate(_ESCAPED_BYTES).encode()
    for one, code in _SEPARATORS:
        text = text.replace(one, code)
    return text
