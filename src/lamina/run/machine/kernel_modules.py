"""Kernel modules: what a machine needs of them, and in which order they are loaded (pure, over functions that read).

A package manager makes ``modules.dep`` when it installs a kernel; a layer that is an unpacked package has none. Then
the modules themselves say what they depend on, in the section ``.modinfo`` of their ELF files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from lamina.errors import InvalidContent
from lamina.light import Value

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_ALIAS = re.compile(rb"\0alias=([^\0]*)\0")
_MOST_DEEP = 64


class Needed(Value):
    """``modules``: names, in the order in which they are loaded. ``missing``: features that are neither built in nor
    there as a module."""

    modules: tuple[str, ...]
    missing: tuple[str, ...]


def name_of(path: str) -> str:
    """The name of a module by its file: with underscores, without suffixes."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def parse_builtin(text: bytes) -> set[str]:
    """The names in ``modules.builtin``."""
    return {name_of(line) for line in text.decode("utf-8", "replace").split()}


def parse_dependencies(text: bytes) -> dict[str, tuple[str, ...]]:
    """``modules.dep``: the names that each module needs directly or not, by its name."""
    found = {}
    for line in text.decode("utf-8", "replace").splitlines():
        path, colon, rest = line.partition(":")
        if colon:
            found[name_of(path)] = tuple(name_of(one) for one in rest.split())
    return found


def stated_dependencies(module: bytes, name: str) -> tuple[str, ...]:
    """What a module (an ELF file, not compressed) says that it needs. Raises InvalidContent."""
    if module[:4] != b"\x7fELF":
        raise InvalidContent(f"the kernel module {name} is not an ELF file", hint="report it to the publisher")
    match = _DEPENDS.search(module)
    return (
        tuple(word.decode("utf-8", "replace").replace("-", "_") for word in match[1].split(b",") if word)
        if match
        else ()
    )


def needed(
    features: Iterable[str],
    *,
    present: Collection[str],
    builtin: Collection[str],
    depends: Callable[[str], Iterable[str]],
) -> Needed:
    """Find what must be loaded for ``features``: names of modules, which a kernel may have built in. ``present``: the
    names of modules that the image has. ``depends``: names that one needs."""
    order: list[str] = []
    missing: list[str] = []

    def load(name: str, deep: int = 0) -> bool:
        if name in order or name in builtin:
            return True
        if name not in present:
            return False
        if deep > _MOST_DEEP:
            raise InvalidContent(f"the kernel module {name} depends on itself", hint="report it to the publisher")
        loaded = [load(one, deep + 1) for one in depends(name) if one != name]
        if not all(loaded):
            return False
        if name not in order:
            order.append(name)
        return True

    for feature in features:
        if not load(feature):
            missing.append(feature)
    return Needed(tuple(order), tuple(missing))
