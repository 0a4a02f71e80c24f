"""Writing the content of images to standard output: byte for byte to a file or a pipe, escaped on a terminal.

A hostile image could send control sequences to the terminal.
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
"""A zero byte in this many first bytes means binary, as for git and grep."""


def write_contents(contents: Iterable[tuple[str, Stream]]) -> None:
    """Write (name, stream) pairs. On a terminal control characters, except tabs and line ends, and bytes that are not
    UTF-8 are escaped. Raises UsageError for binary content on a terminal."""
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
        raise UsageError(f"{name} is binary and is not written to a terminal", hint="send it to a file or a pipe")
    while data:
        _say(decoder.decode(data))
        data = stream.read(_PIECE)
    _say(decoder.decode(b"", final=True))


def _say(text: str) -> None:
    lines = text.replace("\r\n", "\n").split("\n")
    sys.stdout.write("\n".join("\t".join(map(clean, line.split("\t"))) for line in lines))
    sys.stdout.flush()
