"""Readers of what package managers write down as text (pure): bytes in, names and versions out.

The files come from images and may be anything: what can't be a package's name or version is left out, and nothing is
evaluated. The limits stand in ``packages``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from lamina.spec.json import read_own

_MAX_WORD = 512
_GONE = ("not-installed", "config-files")
_GEM = tuple(
    re.compile(rb"""(?m)^ *[a-z]\w{0,20}\.%s *= *["']([\w.-]{1,200})["']""" % key) for key in (b"name", b"version")
)
_OTP = re.compile(rb"(\d{1,3}(?:\.\d{1,4}){1,6}(?:-rc\d{1,2})?)\s*")
_NAME = re.compile(r"@?[^\s@?#]+")


@dataclass(frozen=True, slots=True)
class Named:
    """A package as its manager names it. ``architecture`` may be ""; ``source`` the source package where it has
    another name, as Debian's and Alpine's have."""

    kind: str
    name: str
    version: str
    architecture: str = ""
    source: str = ""


def named(kind: str, name: Any, version: Any, architecture: Any = "", source: Any = "") -> Named | None:
    """None where these can't be a package's."""
    words = (name, version, architecture, source)
    if not all(isinstance(word, str) and len(word) <= _MAX_WORD and word.isprintable() for word in words):
        return None
    if not version or not _NAME.fullmatch(name) or any(" " in word for word in words):
        return None
    return Named(kind, *words)


def dpkg_status(data: bytes) -> Iterator[Named]:
    """``/var/lib/dpkg/status`` (deb-control(5)), and the pieces of it below ``status.d`` that distroless images have:
    packages whose files are there."""
    for fields in _paragraphs(data):
        state = fields.get("Status", "install ok installed").split()
        if state and state[-1] not in _GONE:
            source = fields.get("Source", "").partition(" ")[0]
            found = named("deb", fields.get("Package"), fields.get("Version"), fields.get("Architecture", ""), source)
            if found:
                yield found


def apk_installed(data: bytes) -> Iterator[Named]:
    """Alpine's ``/lib/apk/db/installed``: one letter a field, an empty line between packages."""
    for fields in _paragraphs(data):
        found = named("apk", fields.get("P"), fields.get("V"), fields.get("A", ""), fields.get("o", ""))
        if found:
            yield found


def dpkg_list(data: bytes) -> set[bytes]:
    """The paths in ``/var/lib/dpkg/info/*.list``."""
    return {line[1:] for line in data.split(b"\n") if line.startswith(b"/")}


def dpkg_sums(data: bytes) -> set[bytes]:
    """The paths in distroless' ``/var/lib/dpkg/status.d/*.md5sums``: a sum, two spaces, a path without a slash."""
    return {line.partition(b"  ")[2].removeprefix(b"./") for line in data.split(b"\n")}


def apk_files(data: bytes, wanted: Set[bytes]) -> set[bytes]:
    """Which of these paths Alpine's database names: ``F:`` is a directory, ``R:`` a file in it."""
    found, directory = set(), b""
    for line in map(bytes.rstrip, BytesIO(data)):
        if line.startswith(b"F:"):
            directory = line[2:] + b"/" if line[2:] else b""
        elif line.startswith(b"R:") and directory + line[2:] in wanted:
            found.add(directory + line[2:])
    return found


def python_metadata(data: bytes) -> Iterator[Named]:
    """``*.dist-info/METADATA`` and ``*.egg-info/PKG-INFO``: the header up to the first empty line."""
    for fields in _paragraphs(data):
        found = named("pypi", fields.get("Name"), fields.get("Version"))
        if found:
            yield found
        return


def npm_package(data: bytes) -> Iterator[Named]:
    """A ``package.json`` that states a name and a version: of an installed package, or of one that was copied."""
    value = _object(data)
    found = named("npm", value.get("name"), value.get("version"))
    if found:
        yield found


def gem_specification(data: bytes) -> Iterator[Named]:
    """``specifications/*.gemspec`` as RubyGems writes it for an installed gem: Ruby, of which two literals count."""
    found = named("gem", *(word and word[1].decode("utf-8", "replace") for word in (p.search(data) for p in _GEM)))
    if found:
        yield found


def composer_installed(data: bytes) -> Iterator[Named]:
    """``vendor/composer/installed.json``: all packages of one PHP program; before composer 2 the list alone."""
    value = _value(data)
    packages = value.get("packages") if isinstance(value, dict) else value
    for item in packages if isinstance(packages, list) else ():
        found = named("composer", item.get("name"), item.get("version")) if isinstance(item, dict) else None
        if found:
            yield found


def maven_properties(data: bytes) -> Iterator[Named]:
    """``pom.properties`` in a Java archive: group, artifact and version, each on its line."""
    fields = dict(line.partition("=")[::2] for line in reversed(data.decode("utf-8", "replace").splitlines()))
    words = [fields.get(key, "").strip() for key in ("groupId", "artifactId", "version")]
    if all(words) and "${" not in "".join(words):  # a word that Maven did not replace
        found = named("maven", f"{words[0]}:{words[1]}", words[2])
        if found:
            yield found


def erlang_release(data: bytes) -> Iterator[Named]:
    """``releases/*/OTP_VERSION``: the version alone."""
    version = _OTP.fullmatch(data)
    found = version and named("binary", "erlang", version[1].decode())
    if found:
        yield found


def cargo_audit(data: bytes) -> Iterator[Named]:
    """What `cargo auditable` puts into a binary, inflated: all crates that went in, build tools left out."""
    packages = _object(data).get("packages")
    for item in packages if isinstance(packages, list) else ():
        if isinstance(item, dict) and item.get("kind") != "build":
            found = named("cargo", item.get("name"), item.get("version"))
            if found:
                yield found


def go_modules(text: str) -> Iterator[Named]:
    """The module lines that Go's linker puts into a binary (debug/buildinfo). A replaced module is told as what it
    was replaced by."""
    before: Named | None = None
    for line in text.split("\n"):
        words = line.split("\t")
        if words[0] in ("mod", "dep", "=>") and len(words) > 2:
            if before is not None and words[0] != "=>":
                yield before
            before = named("golang", words[1], words[2]) or before
    if before is not None:
        yield before


def os_release(data: bytes) -> dict[str, str]:
    """os-release(5), quotes taken off; nothing is expanded."""
    found = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier():
            found[key] = value.strip("\"'")
    return found


def _paragraphs(data: bytes) -> Iterator[Mapping[str, str]]:
    """``Name: value`` lines, an empty line between paragraphs; what goes on in the next line is left out. The first
    of two fields of one name counts."""
    fields: dict[str, str] = {}
    for raw in BytesIO(data):  # a list of all lines takes nine times the file where all are empty
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if fields:
                yield fields
                fields = {}
        elif line[0] not in " \t":
            key, colon, value = line.partition(":")
            if colon:
                fields.setdefault(key, value.strip())
    if fields:
        yield fields


def _object(data: bytes) -> dict[str, Any]:
    value = _value(data)
    return value if isinstance(value, dict) else {}


def _value(data: bytes) -> Any:
    try:
        return read_own(data)
    except ValueError:
        return None
