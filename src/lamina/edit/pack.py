"""`pack`: programs of this host with all files that they need, as a layer.

Files keep their paths. Symlinks on the way to them (merged /usr, python3 -> python3.11) are included as symlinks, so
that everything is found in the image as on this host. With a base, what the base already has is left out.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence

from lamina.edit.elf import closure, is_elf
from lamina.errors import NotFound, UsageError
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.scan.directory import scan, scan_file
from lamina.source.stack import Stack

_MAX_LINKS = 40
_PYTHON = re.compile(r"python(\d+\.\d+)[a-z]*")
_LEFT_OUT = {b"__pycache__", b"test", b"tests", b"idlelib", b"turtledemo", b"ensurepip", b"lib2to3"}
_ACCOUNTS = {
    b"etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    b"etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}


def pack_items(
    programs: Sequence[str],
    files: Sequence[tuple[str, bytes]] = (),
    *,
    base: Stack | None = None,
    stdlib: bool = True,
    accounts: bool = True,
) -> tuple[list[Item], list[str]]:
    """Return the items of the layer, and the paths of the programs in the image.

    ``programs`` are names in PATH, or paths. ``files`` are (path here, path in the image); a directory is included
    with its content. ``stdlib``: include the standard library of a CPython interpreter. ``accounts``: without a base,
    add /tmp and minimal passwd and group files. Raises NotFound (program, library), UsageError.
    """
    collected: dict[bytes, Item] = {}
    paths = [_program(name) for name in programs]
    started = [*paths]
    for path in paths:
        started += _interpreters(path)
    extra: list[str] = []
    for path in started:
        _add(collected, path)
        if stdlib:
            extra += _add_stdlib(collected, path)
    for library in closure([*started, *extra]):
        _add(collected, library)
    for source, target in files:
        _add_files(collected, source, target)
    if base is None:
        _add_merged_links(collected)
    if base is None and accounts:
        for path_bytes, text in _ACCOUNTS.items():
            collected.setdefault(path_bytes, (Entry(path_bytes, Kind.FILE, 0o644, size=len(text)), text))
        collected.setdefault(b"tmp", (Entry(b"tmp", Kind.DIRECTORY, 0o1777), None))
    _add_parents(collected)
    items = list(collected.values())
    if base is not None:
        items = _missing_from(base, items)
    return items, paths


def _add_merged_links(collected: dict[bytes, Item]) -> None:
    """Add /bin, /lib and others as symlinks if they are symlinks on this host (merged /usr), because scripts use
    /bin/sh."""
    for name in (b"bin", b"sbin", b"lib", b"lib64"):
        host = b"/" + name
        if os.path.islink(host):
            target = os.path.normpath(os.path.join(b"/", os.readlink(host))).lstrip(b"/")
            if any(path.startswith(target + b"/") for path in collected):
                collected.setdefault(name, scan_file(host, name))


def _program(name: str) -> str:
    path = os.path.abspath(name) if "/" in name else shutil.which(name)
    if path is None or not os.path.exists(path):
        raise NotFound(f"the program {name!r:.200} was not found", hint="give its path, or check PATH")
    if not os.path.isfile(path):
        raise UsageError(f"{path!r:.200} is not a program", hint="use --file for directories")
    return path


def _interpreters(path: str) -> list[str]:
    """Return the interpreters that the first line of a script names; repeated while the interpreter is a
    script too."""
    found: list[str] = []
    for _ in range(4):
        with open(path, "rb") as file:
            line = file.readline(512)
        if not line.startswith(b"#!"):
            break
        words = os.fsdecode(line[2:].strip()).split()
        if not words:
            break
        if os.path.basename(words[0]) == "env":
            found.append(_program(words[0]))
            words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
            if not words:
                break
        path = _program(words[0])
        found.append(path)
    return found


def _add(collected: dict[bytes, Item], path: str) -> None:
    """Add a file under its path, with every symlink on the way."""
    pending, at = [part for part in path.split("/") if part][::-1], ""
    for _ in range(_MAX_LINKS * 8):
        if not pending:
            return
        part = pending.pop()
        if part == "..":
            at = os.path.dirname(at)
            continue
        if part == ".":
            continue
        here = f"{at}/{part}"
        state = os.lstat(here)
        if stat.S_ISLNK(state.st_mode):
            target = os.readlink(here)
            key = os.fsencode(here[1:])
            collected.setdefault(key, scan_file(here, key))
            pending += [piece for piece in target.split("/") if piece][::-1]
            at = "" if target.startswith("/") else at
            continue
        if not stat.S_ISDIR(state.st_mode):
            key = os.fsencode(here[1:])
            collected.setdefault(key, scan_file(here, key))
        at = here
    raise UsageError(f"{path!r:.200}: too many symlinks", hint="check the symlinks: they form a loop")


def _add_stdlib(collected: dict[bytes, Item], path: str) -> list[str]:
    """Add the standard library of a CPython and return the ELF objects in it. It is found by its location; the
    interpreter is not run."""
    real = os.path.realpath(path)
    match = _PYTHON.fullmatch(os.path.basename(real))
    if not match or not is_elf(real):
        return []
    prefix = os.path.dirname(os.path.dirname(real))
    library = os.path.join(prefix, "lib", f"python{match[1]}")
    if not os.path.isfile(os.path.join(library, "os.py")):
        raise NotFound(
            f"the standard library of {path} was not found in {library}", hint="use --no-stdlib and --file"
        )

    def left_out(inner: bytes) -> bool:
        first = inner.split(b"/", 1)[0]
        name = inner.rpartition(b"/")[2]
        return first in (b"site-packages", b"dist-packages") or first.startswith(b"config-") or name in _LEFT_OUT

    objects = []
    key = os.fsencode(library[1:])
    for entry, content in scan(library, to=key, exclude=left_out):
        collected.setdefault(entry.path, (entry, content))
        if entry.path.endswith(b".so"):
            objects.append("/" + os.fsdecode(entry.path))
    return objects


def _add_files(collected: dict[bytes, Item], source: str, target: bytes) -> None:
    if os.path.isdir(source) and not os.path.islink(source):
        for item in scan(source, to=target):
            collected[item[0].path] = item
    else:
        item = scan_file(source, target)
        collected[item[0].path] = item


def _add_parents(collected: dict[bytes, Item]) -> None:
    """Add parent directories with the attributes of this host's, or with mode 0755."""
    for path in list(collected):
        parent = path.rpartition(b"/")[0]
        while parent and parent not in collected:
            host = b"/" + parent
            if os.path.isdir(host) and not os.path.islink(host):
                collected[parent] = scan_file(host, parent)
            else:
                collected[parent] = (Entry(parent, Kind.DIRECTORY, 0o755), None)
            parent = parent.rpartition(b"/")[0]


def _missing_from(base: Stack, items: Iterable[Item]) -> list[Item]:
    """Return the items that the base does not have in the same form, and only the directories that it lacks."""
    tree = base.tree()
    kept = []
    for entry, content in items:
        node = tree.find(entry.path)
        if node is not None:
            there = tree.entry(node)
            if entry.kind == there.kind == Kind.DIRECTORY:
                continue
            if entry.kind == there.kind == Kind.SYMLINK and entry.link == there.link:
                continue
            if entry.kind == there.kind == Kind.FILE and _same_file(base, node, there, entry, content):
                continue
        kept.append((entry, content))
    return kept


def _same_file(base: Stack, node: int, there: Entry, entry: Entry, content: object) -> bool:
    if (there.size, there.mode) != (entry.size, entry.mode):
        return False
    if isinstance(content, bytes):
        with base.open_file(node) as stream:
            return stream.read() == content
    opener: Callable[[], object] = content  # type: ignore[assignment]
    with base.open_file(node) as stream, opener() as file:  # type: ignore[attr-defined]
        while True:
            one, other = stream.read(1 << 20), file.read(1 << 20)
            if one != other:
                return False
            if not one:
                return True
