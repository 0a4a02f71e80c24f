"""Detects programs that no package manager installed, by the version string inside them (pure).

Candidates are selected by file name, and accepted if they are ELF files with the version string of that program.
Files are read in pieces, up to that string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from lamina.insight.package_texts import NamedPackage, named_package

MAX_READ = 512 << 20
"""The most bytes of one file that are searched."""
_PIECE = 1 << 20
_OVERLAP = 512  # bytes; a version string with the eight bytes before it is shorter
_BEFORE = 8
_ELF = b"\x7fELF"

Read = Callable[[int], bytes]
"""Reads the next bytes of a file; fewer at its end."""


@dataclass(frozen=True, slots=True)
class Program:
    """How to detect a program. ``file`` matches the whole base name. ``version`` matches less than 500 bytes; one of
    its groups is the version. ``sole``: the version string does not name the program, so it is accepted only if the
    file contains no second one."""

    name: str
    file: bytes
    version: re.Pattern[bytes]
    sole: bool = False


def _program(name: str, file: bytes, version: bytes, *, sole: bool = False) -> Program:
    return Program(name, file, re.compile(version), sole)


_NUMBER = rb"(\d{1,3}\.\d{1,3}\.\d{1,5})(?=[^\d])"
_SHORT = rb"(\d{1,2}\.\d{1,3}(?:\.\d{1,3})?)"  # two or three numbers
_SO = rb"\.so(?:\.[0-9.]+)?"
_HAPROXY = rb"(\d\.\d{1,2}(?:\.\d{1,3}|-dev\d{1,3}|-rc\d{1,3}))(?=[^\d])"
_JAVA = rb"(\d{1,3}+(?:\.\d{1,3}+){0,4}+(?:_\d{1,3}+)?+(?:-ea)?+(?:\+\d{1,3}|-b\d{1,3})?+)"
_BUILT = rb"1\d{9}\d[0-9a-f]{8}\0"  # redis: seconds, changes, and commit of the build follow the host name directly
_REDIS = (
    rb"(\d{1,2}\.\d{1,2}\.\d{1,3}?)(?:"
    + _BUILT  # without a host name
    + rb"|[0-9a-f]{12}-"  # a container's host name: its first digits do not belong to the version
    + _BUILT
    + rb"|[A-Za-z][A-Za-z0-9.-]{0,63}-"
    + _BUILT
    + rb")"
)
PROGRAMS = (
    _program("aws-lc", rb"openssl|libcrypto" + _SO, rb"AWS-LC " + _NUMBER + rb"\)"),
    _program("bash", rb"bash", rb"@\(#\)Bash version " + _NUMBER),
    _program("bun", rb"bun", rb"\bBun v" + _NUMBER),
    _program("busybox", rb"busybox(?:\.static)?|getopt|gzip|httpd|xz", rb"BusyBox v" + _NUMBER),
    _program(
        "curl",
        rb"curl|libcurl(?:-gnutls|-nss)?" + _SO,
        rb"(?:\0curl " + _NUMBER + rb" \(|\0libcurl/" + _NUMBER + rb"\0)",
    ),
    _program(
        "dart", rb"dart", rb"\0(\d\.\d{1,3}\.\d{1,3}(?:-[0-9a-z.]{1,20})?) \((?:stable|beta|dev)\) \([A-Z][a-z]{2} "
    ),
    _program("deno", rb"deno", rb"(?<!-)Deno/" + _NUMBER),
    _program(
        "ffmpeg",
        rb"ffmpeg|ffprobe|lib(?:av(?:codec|device|filter|format|util)|swresample|swscale)" + _SO,
        rb"(?:FFmpeg|%s) version " + _SHORT + rb"(?=[-+~\0])",
    ),
    _program("fluent-bit", rb"fluent-bit", rb"\0" + _NUMBER + rb"\0{1,8}(?:%s)?Fluent Bit v%s"),
    _program(
        "gcc",
        rb"(?:[a-z0-9_]+-linux-[a-z0-9]+-)?(?:gcc|g\+\+)(?:-\d+)?",
        rb"\0" + _NUMBER + rb"\0(?:\([^()\0]{1,100}\) \0)?gcc version %s",
    ),
    _program("gzip", rb"gzip", rb"\0" + _SHORT + rb"(?=\0)", sole=True),
    _program(
        "haproxy",
        rb"haproxy",
        rb"(?: version "
        + _HAPROXY
        + rb"[^\0]{0,60}, released \d{4}/|HA-Proxy version "
        + _HAPROXY
        + rb"[^\0]{0,60} \d{4}/"
        rb"|\0" + _HAPROXY + rb"(?:-[^\0]{1,60})?\0{1,64}HAProxy version follows)",
    ),
    _program("httpd", rb"httpd|apache2", rb"\bApache/" + _NUMBER),
    _program("jq", rb"jq", rb"\0" + _SHORT + rb"(?=\0)", sole=True),
    _program("krb5", rb"libkrb5" + _SO, rb"KRB5_BRAND: krb5-[^\0 ]{1,40} " + _SHORT + rb" "),
    _program("lighttpd", rb"lighttpd", rb"\blighttpd/" + _NUMBER),
    _program("mariadb", rb"(?:mariadb|mysql)d?", rb"\0" + _NUMBER + rb"-MariaDB\0"),
    _program("memcached", rb"memcached", rb"\0memcached " + _NUMBER + rb"\n?\0"),
    _program("mongodb", rb"mongod", rb"\0" + _NUMBER + rb"\0{1,8}(?:tcmalloc|heap_size|cppdefines)\0"),
    _program("nginx", rb"nginx", rb"nginx version: nginx/" + _NUMBER),
    _program(
        "node",
        rb"node(?:js)?|libnode" + _SO,
        rb"(?:node\.js/v" + _NUMBER + rb"|/node-v" + _NUMBER + rb"(?:-headers)?\.tar\.gz)",
    ),
    _program(
        "openjdk",
        rb"java|libjvm\.so",
        rb"(?:\0openjdk\0java\0[0-9.]{1,8}\0" + _JAVA + rb"[^\0]{0,60}+\0"
        rb"|\0" + _JAVA + rb"[^\0]{0,60}+\0{1,8}+openjdk\0java\0"
        rb"|OpenJDK [A-Za-z0-9 -]{1,30} VM \([^()\0]{1,60}\) for [^()\0]{1,40} JRE \((?:[^()\0]{1,60}\) \()?"
        + _JAVA
        + rb"[^()\0]{0,60}+\))",
    ),
    _program("openldap", rb"ldapsearch|slapd", rb"@\(#\) \$OpenLDAP: [a-z]{1,20} " + _NUMBER),
    _program("openresty", rb"nginx", rb"nginx version: openresty/(\d{1,3}(?:\.\d{1,3}){2,4})(?=[^\d.])"),
    _program(
        "openssl",
        rb"openssl|lib(?:crypto|ssl)(?:-[0-9.]+)?" + _SO,
        rb"OpenSSL (\d{1,2}\.\d{1,2}\.\d{1,3}[a-z]{0,2}(?:-[a-z]{1,8}\d{0,3})?) {1,2}\d{1,2} [A-Z][a-z]{2} \d{4}",
    ),
    _program(
        "perl",
        rb"perl(?:5[0-9.]*)?|libperl" + _SO,
        rb"(?:\0v(5\.\d{1,3}\.\d{1,3})\0|/lib/perl5/(5\.\d{1,3}\.\d{1,3})[/\0])",
    ),
    _program("php", rb"php(?:-cgi|-fpm|dbg)?(?:\d\.?\d{0,2})?|libphp[0-9.]*\.so", rb"X-Powered-By: PHP/" + _NUMBER),
    _program(
        "postgresql",
        rb"postgres|psql",
        rb"PostgreSQL (\d{1,2}(?:\.\d{1,3}){0,2}(?:(?:alpha|beta|rc)\d{1,2}|devel)?)(?: \([^()\0]{1,60}\))?"
        rb" on [^\0]{1,80}, compiled by ",
    ),
    _program("proftpd", rb"proftpd", rb"ProFTPD Version (\d\.\d{1,2}\.\d{1,2}(?:[a-z]|rc\d)?)\0"),
    _program("pypy", rb"libpypy[0-9.]*-c\.so", rb"\[PyPy " + _NUMBER),
    _program(
        "redis",
        rb"redis-(?:server|sentinel|check-rdb|check-aof)",
        rb"(?<!valkey)(?<![\d.])" + _REDIS + rb"|\0" + _NUMBER + rb"\0(?:c11|sync|atomic)-builtin\0"
        rb"|Redis version " + _NUMBER + rb"\0",
    ),
    _program(
        "ruby",
        rb"ruby(?:\d[0-9.]*)?|libruby(?:-\d[0-9.]*)?" + _SO,
        rb"\0ruby (\d{1,2}\.\d{1,2}\.\d{1,2}(?:preview\d|rc\d|dev)?)(?:p\d{1,4})? \(\d{4}-\d\d-\d\d",
    ),
    _program(
        "rust",
        rb"libstd-[0-9a-f]{16}\.so",
        rb"rustc version (\d\.\d{1,3}\.\d{1,2}(?:-[a-z]{1,10}(?:\.\d{1,2})?)?) \(",
    ),
    _program("util-linux", rb"getopt", rb"\0util-linux " + _SHORT + rb"\0"),
    _program("valkey", rb"valkey-(?:server|sentinel|check-rdb|check-aof)", rb"\bvalkey" + _REDIS),
    _program("xz", rb"xz", rb"\(XZ Utils\) " + _NUMBER),
    _program("zstd", rb"zstd", rb"\0v" + _NUMBER + rb"(?=\0)", sole=True),
)
_PYTHON = re.compile(rb"(?:lib)?python(\d\.\d{1,2})?(?:\d{0,2})[a-z]{0,2}(?:\.so(?:\.[0-9.]+)?)?")
_PYTHON_VERSION = re.compile(rb"(?<=\0)(\d\.\d{1,2})(\.\d{1,3}(?:(?:a|b|rc)\d{1,2})?\+?)(?=\0)")
_PYTHON_HOME = re.compile(rb"\bpython(\d\.\d{1,2})(?=[^\w])")


_FILES = [(re.compile(one.file), one) for one in PROGRAMS]
_MEANT = re.compile(b"|".join([_PYTHON.pattern, *(one.file for one in PROGRAMS)]))


def is_meant(name: bytes) -> bool:
    """Whether a file with this base name is a candidate."""
    return _MEANT.fullmatch(name) is not None


def programs(name: bytes, read: Read) -> Iterator[NamedPackage]:
    """Yield the program in a file with this base name; at most one."""
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
    wanted = [one for file, one in _FILES if file.fullmatch(name)]
    alone: dict[str, set[bytes]] = {one.name: set() for one in wanted if one.sole}
    at = 0
    for piece in pieces:
        for one in wanted:
            if one.sole:
                alone[one.name].update(match[1] for match in islice(one.version.finditer(piece, at), 2))
                continue
            match = one.version.search(piece, at)
            found = match and named_package("binary", one.name, (match[match.lastindex or 1]).decode("ascii"))
            if found:
                yield found
                return
        if any(len(versions) > 1 for versions in alone.values()):
            return
        at = _BEFORE  # everything before was in the previous piece, with what precedes it
    for program, versions in alone.items():
        for version in versions:
            found = named_package("binary", program, version.decode("ascii"))
            if found:
                yield found


def _pieces(start: bytes, read: Read) -> Iterator[bytes]:
    """Yield the file in overlapping pieces. A zero byte follows the last one, so that a number at the end of a piece
    only counts as complete in the last."""
    piece, size = start, len(start)
    while True:
        more = read(_PIECE) if size < MAX_READ else b""
        if not more:
            yield piece + b"\0"
            return
        yield piece
        piece, size = piece[-_OVERLAP:] + more, size + len(more)


def _python(release: bytes | None, pieces: Iterator[bytes]) -> NamedPackage | None:
    """Return the interpreter. Its version is one of several, with those of libraries: it belongs to the release in
    the file's name, or else in the directory of its modules."""
    candidates: dict[bytes, bytes] = {}
    for piece in pieces:
        for match in _PYTHON_VERSION.finditer(piece):
            candidates.setdefault(match[1], match[1] + match[2])
        if release is None:
            home = _PYTHON_HOME.search(piece)
            release = home[1] if home else None
        if release in candidates:
            return named_package("binary", "python", candidates[release].decode("ascii"))
    return None
