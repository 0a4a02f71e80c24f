"""Programs that no package manager installed, told by the version that they hold themselves (pure).

A file is meant by its name, and believed where it is an ELF file that holds the program's own words for its version.
Files are read in pieces, and no further than where that is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lamina.insight.package_texts import Named, named

MAX_READ = 512 << 20
"""Bytes of one file that are looked at."""
_PIECE = 1 << 20
_OVERLAP = 256  # bytes: what tells a version is shorter
_ELF = b"\x7fELF"

Read = Callable[[int], bytes]
"""The next bytes of a file: how many; fewer at its end."""


@dataclass(frozen=True, slots=True)
class Program:
    """``file``: the whole base name. ``version``: what the file must hold; its groups are the version, one of
    them."""

    name: str
    file: re.Pattern[bytes]
    version: re.Pattern[bytes]


def _program(name: str, file: bytes, version: bytes) -> Program:
    return Program(name, re.compile(file), re.compile(version))


_NUMBER = rb"(\d{1,3}\.\d{1,3}\.\d{1,5})(?=[^\d])"
PROGRAMS = (
    _program(
        "node",
        rb"node(?:js)?|libnode\.so(?:\.[0-9.]+)?",
        rb"(?:node\.js/v" + _NUMBER + rb"|/node-v" + _NUMBER + rb"(?:-headers)?\.tar\.gz)",
    ),
    _program(
        "openssl",
        rb"openssl|lib(?:crypto|ssl)(?:-[0-9.]+)?\.so(?:\.[0-9.]+)?",
        rb"OpenSSL (\d{1,2}\.\d{1,2}\.\d{1,3}[a-z]{0,2}(?:-[a-z]{1,8}\d{0,3})?) {1,2}\d{1,2} [A-Z][a-z]{2} \d{4}",
    ),
    _program("busybox", rb"busybox", rb"BusyBox v" + _NUMBER),
    _program("bash", rb"bash", rb"@\(#\)Bash version " + _NUMBER),
    _program("nginx", rb"nginx", rb"nginx/" + _NUMBER),
    _program("httpd", rb"httpd|apache2", rb"Apache/" + _NUMBER),
    _program("php", rb"php(?:-cgi|-fpm|\d.*)?|libphp.*\.so", rb"X-Powered-By: PHP/" + _NUMBER),
    _program("postgresql", rb"postgres", rb"PostgreSQL (\d{1,2}\.\d{1,3}(?:\.\d{1,3})?)[ \0]"),
)
_PYTHON = re.compile(rb"(?:lib)?python(\d\.\d{1,2})?(?:\d{0,2})[a-z]{0,2}(?:\.so(?:\.[0-9.]+)?)?")
_PYTHON_VERSION = re.compile(rb"(?<=\0)(\d\.\d{1,2})(\.\d{1,3}(?:(?:a|b|rc)\d{1,2})?\+?)(?=\0)")
_PYTHON_HOME = re.compile(rb"\bpython(\d\.\d{1,2})\b")


def is_meant(name: bytes) -> bool:
    """Whether a file of this base name is worth a look."""
    return _PYTHON.fullmatch(name) is not None or any(one.file.fullmatch(name) for one in PROGRAMS)


def programs(name: bytes, read: Read) -> Iterator[Named]:
    """What a file of this base name says that it is; at most one."""
    start = read(_PIECE)
    if not start.startswith(_ELF):
        return
    pieces = _pieces(start, read)
    python = _PYTHON.fullmatch(name)
    if python:
        found = _python(python[1], pieces)
        if found:
            yield found
        return
    wanted = [one for one in PROGRAMS if one.file.fullmatch(name)]
    for piece in pieces:
        for one in wanted:
            match = one.version.search(piece)
            told = match and named("binary", one.name, (match[match.lastindex or 1]).decode("ascii"))
            if told:
                yield told
                return


def _pieces(start: bytes, read: Read) -> Iterator[bytes]:
    """The file in pieces that overlap. A zero byte stands behind the last one, so that a number that ends with a
    piece is not taken for whole, but in the last."""
    piece, size = start, len(start)
    while True:
        more = read(_PIECE) if size < MAX_READ else b""
        if not more:
            yield piece + b"\0"
            return
        yield piece
        piece, size = piece[-_OVERLAP:] + more, size + len(more)


def _python(release: bytes | None, pieces: Iterator[bytes]) -> Named | None:
    """The interpreter's version is one among others of libraries: it is that of the release in the file's name, or
    else of the directory in which it looks for its modules."""
    candidates: dict[bytes, bytes] = {}
    for piece in pieces:
        for match in _PYTHON_VERSION.finditer(piece):
            candidates.setdefault(match[1], match[1] + match[2])
        if release is None:
            home = _PYTHON_HOME.search(piece)
            release = home[1] if home else None
        if release in candidates:
            return named("binary", "python", candidates[release].decode("ascii"))
    return None
