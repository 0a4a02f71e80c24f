"""The loader and shared libraries that a program needs, found as the dynamic loader finds them.

Nothing is executed; ELF files are read with pyelftools. Search order: RPATH (unless there is RUNPATH) of the object
and of those that loaded it, RUNPATH, /etc/ld.so.conf, the default directories.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from lamina.errors import InvalidContent, NotFound

_MAGIC = b"\x7fELF"
_CONF = "/etc/ld.so.conf"
_DEFAULTS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_MUSL_CONF = "/etc/ld-musl-*.path"


@dataclass(frozen=True, slots=True)
class Elf:
    """What the loader reads from an ELF object. ``machine`` and ``bits`` must be the same in all objects of a
    program."""

    path: str
    machine: str
    bits: int
    interpreter: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


def is_elf(path: str) -> bool:
    """Whether a file begins with the ELF magic number."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return False


def read_elf(path: str) -> Elf | None:
    """Read an ELF object; None if it is not one. Raises InvalidContent for a malformed one."""
    with open(path, "rb") as file:
        return parse_elf(path, file)


def parse_elf(path: str, file: Seekable) -> Elf | None:
    """Parse an open ELF file; ``path`` names it in errors. Returns and raises as ``read_elf``."""
    if file.read(4) != _MAGIC:
        return None
    file.seek(0)
    try:
        return _parse(path, file)
    except Exception as error:  # noqa: BLE001  (pyelftools raises many types)
        raise InvalidContent(
            f"{path} is a malformed ELF file: {error!r:.100}", hint="check whether it is damaged"
        ) from None


class Seekable(Protocol):
    """A seekable file."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...


def _parse(path: str, file: Seekable) -> Elf:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    elf: Any = ELFFile(cast(IO[bytes], file))
    interpreter = None
    needed: list[str] = []
    rpath: list[str] = []
    runpath: list[str] = []
    for segment in elf.iter_segments():
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
        elif isinstance(segment, DynamicSegment):
            for tag in segment.iter_tags():  # the attributes of a tag depend on its kind
                if tag.entry.d_tag == "DT_NEEDED":
                    needed.append(tag.needed)  # type: ignore[attr-defined]
                elif tag.entry.d_tag == "DT_RPATH":
                    rpath += tag.rpath.split(":")  # type: ignore[attr-defined]
                elif tag.entry.d_tag == "DT_RUNPATH":
                    runpath += tag.runpath.split(":")  # type: ignore[attr-defined]
    return Elf(path, elf["e_machine"], elf.elfclass, interpreter, tuple(needed), tuple(rpath), tuple(runpath))


def closure(programs: Iterable[str]) -> list[str]:
    """Return the absolute paths of all objects that the programs need, with interpreters, without the programs
    themselves.

    Each path is as the loader names it: symlinks are not resolved. Raises NotFound, which names the object and the
    library.
    """
    directories = library_directories()
    found: dict[str, None] = {}
    seen: set[str] = set()
    pending: list[tuple[str, tuple[str, ...]]] = [(path, ()) for path in programs]
    while pending:
        path, inherited = pending.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        elf = read_elf(path)
        if elf is None:
            continue
        if elf.interpreter and elf.interpreter not in found:
            if not os.path.exists(elf.interpreter):
                raise NotFound(
                    f"{path} needs the loader {elf.interpreter}, which was not found",
                    hint="install the loader, or leave the program out",
                )
            found[elf.interpreter] = None
            pending.append((elf.interpreter, ()))
        own = _expand(elf.rpath, elf) if not elf.runpath else ()
        search = (*own, *inherited, *_expand(elf.runpath, elf), *directories)
        for name in elf.needed:
            library = _find(name, search, elf)
            if library is None:
                raise NotFound(
                    f"{path} needs {name}, which was not found", hint="install the library, or leave the program out"
                )
            found[library] = None
            pending.append((library, (*own, *inherited)))
    return list(found)


def _find(name: str, search: Iterable[str], elf: Elf) -> str | None:
    if "/" in name:
        return name if os.path.exists(name) else None
    for directory in search:
        candidate = os.path.join(directory, name)
        if os.path.isfile(candidate):
            other = read_elf(candidate)
            if other is not None and (other.machine, other.bits) == (elf.machine, elf.bits):
                return candidate
    return None


def _expand(directories: Iterable[str], elf: Elf) -> tuple[str, ...]:
    origin = os.path.dirname(os.path.realpath(elf.path))
    lib = "lib64" if elf.bits == 64 else "lib"
    expanded = []
    for directory in directories:
        for name, value in (("ORIGIN", origin), ("LIB", lib)):
            directory = directory.replace("${" + name + "}", value).replace("$" + name, value)
        if directory.startswith("/"):
            expanded.append(os.path.normpath(directory))
    return tuple(expanded)


def library_directories() -> tuple[str, ...]:
    """Return the directories in which the loader searches, without LD_LIBRARY_PATH, which the image will not have."""
    found: dict[str, None] = {}
    for path in sorted(glob.glob(_MUSL_CONF)):
        found.update(dict.fromkeys(line for line in _lines(path) if line.startswith("/")))
    for line in _conf_lines(_CONF, 0):
        found[line] = None
    found.update(dict.fromkeys(_DEFAULTS))
    return tuple(found)


def _conf_lines(path: str, depth: int) -> list[str]:
    lines: list[str] = []
    for line in _lines(path):
        if line.startswith("include ") and depth < 8:
            for inner in sorted(glob.glob(os.path.join(os.path.dirname(path), line[8:].strip()))):
                lines += _conf_lines(inner, depth + 1)
        elif line.startswith("/"):
            lines.append(line)
    return lines


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line.partition("#")[0].strip() for line in file]
    except OSError:
        return []
