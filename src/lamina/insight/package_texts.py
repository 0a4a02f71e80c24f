"""Parsers for the text databases of package managers (pure): bytes in, names and versions out.

The files come from images and may contain anything: invalid names and versions are left out, and nothing is
evaluated. ``packages`` has the limits.
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
class NamedPackage:
    """A package as its manager names it. ``architecture`` may be "". ``source`` is the source package if its name
    differs, as in Debian and Alpine."""

    kind: str
    name: str
    version: str
    architecture: str = ""
    source: str = ""


def named_package(
    kind: str, name: Any, version: Any, architecture: Any = "", source: Any = ""
) -> NamedPackage | None:
    """Return a package, or None if the name or version is invalid."""
    words = (name, version, architecture, source)
    if not all(isinstance(word, str) and len(word) <= _MAX_WORD and word.isprintable() for word in words):
        return None
    if not version or not _NAME.fullmatch(name) or any(" " in word for word in words):
        return None
    return NamedPackage(kind, *words)


def dpkg_status(data: bytes) -> Iterator[NamedPackage]:
    """Parse ``/var/lib/dpkg/status`` (deb-control(5)), or a file in ``status.d`` of distroless images: the installed
    packages."""
    for fields in _paragraphs(data):
        state = fields.get("Status", "install ok installed").split()
        if state and state[-1] not in _GONE:
            source = fields.get("Source", "").partition(" ")[0]
            found = named_package(
                "deb", fields.get("Package"), fields.get("Version"), fields.get("Architecture", ""), source
            )
            if found:
                yield found


def apk_installed(data: bytes) -> Iterator[NamedPackage]:
    """Parse Alpine's ``/lib/apk/db/installed``: fields with one-letter names, an empty line between packages."""
    for fields in _paragraphs(data):
        found = named_package("apk", fields.get("P"), fields.get("V"), fields.get("A", ""), fields.get("o", ""))
        if found:
            yield found


def dpkg_list(data: bytes) -> set[bytes]:
    """Parse the paths in ``/var/lib/dpkg/info/*.list``."""
    return {line[1:] for line in data.split(b"\n") if line.startswith(b"/")}


def dpkg_sums(data: bytes) -> set[bytes]:
    """Parse the paths in distroless' ``/var/lib/dpkg/status.d/*.md5sums``: a checksum, two spaces, a
    relative path."""
    return {line.partition(b"  ")[2].removeprefix(b"./") for line in data.split(b"\n")}


def apk_files(data: bytes, wanted: Set[bytes]) -> set[bytes]:
    """Return which of these paths are in Alpine's database: ``F:`` is a directory, ``R:`` a file in it."""
    found, directory = set(), b""
    for line in map(bytes.rstrip, BytesIO(data)):
        if line.startswith(b"F:"):
            directory = line[2:] + b"/" if line[2:] else b""
        elif line.startswith(b"R:") and directory + line[2:] in wanted:
            found.add(directory + line[2:])
    return found


def python_metadata(data: bytes) -> Iterator[NamedPackage]:
    """Parse ``*.dist-info/METADATA`` and ``*.egg-info/PKG-INFO``: the header up to the first empty line."""
    for fields in _paragraphs(data):
        found = named_package("pypi", fields.get("Name"), fields.get("Version"))
        if found:
            yield found
        return


def npm_package(data: bytes) -> Iterator[NamedPackage]:
    """Parse a ``package.json`` with a name and a version, of an installed or copied package."""
    value = _object(data)
    found = named_package("npm", value.get("name"), value.get("version"))
    if found:
        yield found


def gem_specification(data: bytes) -> Iterator[NamedPackage]:
    """Parse ``specifications/*.gemspec`` as RubyGems writes it for an installed gem: two literals in Ruby code."""
    found = named_package(
        "gem", *(word and word[1].decode("utf-8", "replace") for word in (p.search(data) for p in _GEM))
    )
    if found:
        yield found


def composer_installed(data: bytes) -> Iterator[NamedPackage]:
    """Parse ``vendor/composer/installed.json``: all packages of a PHP program; before composer 2 it is only
    the list."""
    value = _value(data)
    packages = value.get("packages") if isinstance(value, dict) else value
    for item in packages if isinstance(packages, list) else ():
        found = named_package("composer", item.get("name"), item.get("version")) if isinstance(item, dict) else None
        if found:
            yield found


def maven_properties(data: bytes) -> Iterator[NamedPackage]:
    """Parse ``pom.properties`` in a Java archive: group, artifact and version, each on a line."""
    fields = dict(line.partition("=")[::2] for line in reversed(data.decode("utf-8", "replace").splitlines()))
    words = [fields.get(key, "").strip() for key in ("groupId", "artifactId", "version")]
    if all(words) and "${" not in "".join(words):  # a variable that Maven did not replace
        found = named_package("maven", f"{words[0]}:{words[1]}", words[2])
        if found:
            yield found


def erlang_release(data: bytes) -> Iterator[NamedPackage]:
    """Parse ``releases/*/OTP_VERSION``, which contains only the version."""
    version = _OTP.fullmatch(data)
    found = version and named_package("binary", "erlang", version[1].decode())
    if found:
        yield found


def cargo_audit(data: bytes) -> Iterator[NamedPackage]:
    """Parse what `cargo auditable` puts into a binary, inflated: all crates in it, without build dependencies."""
    packages = _object(data).get("packages")
    for item in packages if isinstance(packages, list) else ():
        if isinstance(item, dict) and item.get("kind") != "build":
            found = named_package("cargo", item.get("name"), item.get("version"))
            if found:
                yield found


def go_modules(text: str) -> Iterator[NamedPackage]:
    """Parse the module lines that Go's linker puts into a binary (debug/buildinfo). A replaced module is reported as
    its replacement."""
    before: NamedPackage | None = None
    for line in text.split("\n"):
        words = line.split("\t")
        if words[0] in ("mod", "dep", "=>") and len(words) > 2:
            if before is not None and words[0] != "=>":
                yield before
            before = named_package("golang", words[1], words[2]) or before
    if before is not None:
        yield before


def os_release(data: bytes) -> dict[str, str]:
    """Parse os-release(5), without quotes; nothing is expanded."""
    found = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier():
            found[key] = value.strip("\"'")
    return found


def _paragraphs(data: bytes) -> Iterator[Mapping[str, str]]:
    """Yield paragraphs of ``Name: value`` lines, separated by empty lines. Continuation lines are skipped; the first
    field of a name counts."""
    fields: dict[str, str] = {}
    for raw in BytesIO(data):  # a list of all lines takes nine times the size of the file if all are empty
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
