"""Content of images to stdout: byte for byte into a file or a pipe; on a terminal only what it can show.

What is in an image may be made to drive whoever looks at it.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable

from lamina.cli.format.text import clean
from lamina.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.source.protocols import Stream

_PIECE = 1 << 20
_LOOK = 8 << 10
"""Bytes that say whether something is a text: those that git and grep look at, at their beginning."""


def write_contents(contents: Iterable[tuple[str, Stream]]) -> None:
    """All of these streams, each with what it is called. On a terminal control characters and what is not UTF-8 are
    escaped, but for tabs and ends of lines; what has a zero byte at its beginning is no text: UsageError."""
    show = sys.stdout.isatty()
    out = sys.stdout.buffer
    for name, stream in contents:
        with stream:
            if show:
                _show(name, stream)
                continue
            while data := stream.read(_PIECE):
                out.write(data)
    out.flush()


def _show(name: str, stream: Stream) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    data = stream.read(_PIECE)
    if b"\0" in data[:_LOOK]:
        raise UsageError(f"{name} is not text, and this is a terminal", hint="send it to a file or a pipe")
    while data:
        _say(decoder.decode(data))
        data = stream.read(_PIECE)
    _say(decoder.decode(b"", final=True))


def _say(text: str) -> None:
    lines = text.replace("\r\n", "\n").split("\n")
    sys.stdout.write("\n".join("\t".join(map(clean, line.split("\t"))) for line in lines))
    sys.stdout.flush()
