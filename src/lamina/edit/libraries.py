"""Checks that programs in a union can start: shared libraries by name, the loader, and the interpreter of a script.
Symbol versions are not checked."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from lamina.edit.elf import Elf, Seekable, parse_elf
from lamina.errors import InvalidContent, PathNotFound
from lamina.layer.entry import Kind
from lamina.union.tree import Tree

LIBRARY_PATH = "LD_LIBRARY_PATH"
_DEFAULTS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
_MAX_CONF = 1 << 20
_MAX_LINE = 4096


class File(Seekable, Protocol):
    """An open file of the union."""

    def close(self) -> None: ...


OpenFile = Callable[[int], File]


@dataclass(frozen=True, slots=True)
class Need:
    """A dependency: ``path`` needs ``name``, a library's name or the path of an interpreter. ``search`` are the
    directories that the object itself gives for libraries."""

    path: bytes
    name: str
    is_library: bool
    search: tuple[str, ...] = ()


def needs(tree: Tree, node: int, open_file: OpenFile) -> list[Need]:
    """Return what the regular file ``node`` needs; [] if it is not a program, or a malformed one."""
    path = tree.path(node)
    file = open_file(node)
    try:
        start = file.read(4)
        if start[:2] == b"#!":
            line = (start[2:] + file.read(_MAX_LINE)).partition(b"\n")[0].split()
            return [Need(path, line[0].decode("utf-8", "surrogateescape"), False)] if line else []
        if start != b"\x7fELF":
            return []
        file.seek(0)
        try:
            elf = parse_elf("/" + path.decode("utf-8", "backslashreplace"), file)
        except InvalidContent:
            return []
    finally:
        file.close()
    if elf is None:
        return []
    search = _expanded(elf, "/" + path.decode("utf-8", "surrogateescape"))
    found = [Need(path, name, True, search) for name in elf.needed]
    return [*found, Need(path, elf.interpreter, False)] if elf.interpreter else found


class Loader:
    """The search path of a union's dynamic loader: RPATH and RUNPATH of the object, LD_LIBRARY_PATH (``extra``),
    /etc/ld.so.conf, musl's path file, the default directories."""

    def __init__(self, tree: Tree, open_file: OpenFile, extra: str = "") -> None:
        self._tree = tree
        self._open = open_file
        found = [part for part in extra.split(":") if part.startswith("/")]
        found += [line for line in self._musl() if line.startswith("/")]
        found += self._conf("/etc/ld.so.conf", 0)
        found += _DEFAULTS
        for top in ("/lib", "/usr/lib"):
            node = self._node(top)
            if node is not None and tree.is_directory(node):
                names = sorted(name for name in tree.children(node) if b"-linux-" in name)
                found += [f"{top}/{name.decode('utf-8', 'surrogateescape')}" for name in names]
        self.directories = tuple(dict.fromkeys(found))

    def has(self, need: Need) -> bool:
        if not need.is_library or "/" in need.name:
            return self._is_file(need.name)
        return any(self._is_file(f"{at}/{need.name}") for at in (*need.search, *self.directories))

    def _is_file(self, path: str) -> bool:
        node = self._node(path)
        return node is not None and self._tree.kind(node) == Kind.FILE

    def _node(self, path: str) -> int | None:
        try:
            return self._tree.lookup(path.encode("utf-8", "surrogateescape"), follow=True)
        except PathNotFound:
            return None

    def _musl(self) -> Iterator[str]:
        etc = self._node("/etc")
        for name in sorted(self._tree.children(etc)) if etc is not None else ():
            if name.startswith(b"ld-musl-") and name.endswith(b".path"):
                yield from self._lines("/etc/" + name.decode("utf-8", "surrogateescape"))

    def _conf(self, path: str, depth: int) -> list[str]:
        found = []
        for line in self._lines(path):
            if line.startswith("include ") and depth < 8:
                for inner in self._glob(posixpath.join(posixpath.dirname(path), line[8:].strip())):
                    found += self._conf(inner, depth + 1)
            elif line.startswith("/"):
                found.append(line)
        return found

    def _glob(self, pattern: str) -> list[str]:
        directory, _, name = pattern.rpartition("/")
        node = self._node(directory)
        if node is None:
            return []
        names = (child.decode("utf-8", "surrogateescape") for child in sorted(self._tree.children(node)))
        return [f"{directory}/{child}" for child in names if fnmatchcase(child, name)]

    def _lines(self, path: str) -> list[str]:
        node = self._node(path)
        if node is None or self._tree.kind(node) != Kind.FILE:
            return []
        file = self._open(node)
        try:
            text = file.read(_MAX_CONF).decode("utf-8", "surrogateescape")
        finally:
            file.close()
        return [line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line]


def _expanded(elf: Elf, path: str) -> tuple[str, ...]:
    """Return the object's RUNPATH, or else its RPATH, with variables expanded."""
    lib = "lib64" if elf.bits == 64 else "lib"
    found = []
    for directory in elf.runpath or elf.rpath:
        for name, value in (("ORIGIN", posixpath.dirname(path)), ("LIB", lib)):
            directory = directory.replace("${" + name + "}", value).replace("$" + name, value)
        if directory.startswith("/"):
            found.append(posixpath.normpath(directory))
    return tuple(found)
