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
_SOFT = re.compile(rb"\0softdep=([^\0]*)(?=\0)")
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


class Stated(Value):
    """What ``modules.dep`` says of a module. ``path``: in the directory of modules. ``needs``: names, all that it
    needs directly or not."""

    path: str
    needs: tuple[str, ...]


def parse_dependencies(text: bytes) -> dict[str, Stated]:
    """``modules.dep``, by the name of the module. Paths that lead out of the directory are left out."""
    found = {}
    for line in text.decode("utf-8", "replace").splitlines():
        path, colon, rest = line.partition(":")
        if colon and path.endswith(SUFFIXES) and not path.startswith("/") and ".." not in path.split("/"):
            found[name_of(path)] = Stated(path, tuple(name_of(one) for one in rest.split()))
    return found


def stated_before(module: bytes) -> tuple[str, ...]:
    """What a module says that is better loaded before it, as names of modules (soft dependencies): an algorithm may
    have a generic implementation by another name."""
    found = []
    for match in _SOFT.finditer(module):
        before = match[1].partition(b"post:")[0].partition(b"pre:")[2]
        for word in before.decode("utf-8", "replace").split():
            name = word.replace("-", "_")
            found += [name, f"{name}_generic"]
    return tuple(found)


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
    before: Callable[[str], Iterable[str]] = lambda name: (),
) -> Needed:
    """Find what must be loaded for ``features``: names of modules, which a kernel may have built in. ``present``: the
    names of modules that the image has. ``depends``: names that one needs; ``before``: names that come before it if
    they are there."""
    order: dict[str, None] = {}
    failed: set[str] = set()
    missing: list[str] = []

    def load(name: str, above: tuple[str, ...] = ()) -> bool:
        if name in order or name in builtin:
            return True
        if name in failed or name not in present:
            return False
        if name in above or len(above) > _MOST_DEEP:
            raise InvalidContent(f"the kernel module {name} depends on itself", hint="report it to the publisher")
        for one in before(name):
            if one not in (name, *above):
                load(one, (*above, name))
        loaded = all(load(one, (*above, name)) for one in depends(name) if one != name)
        if loaded:
            order[name] = None
        else:
            failed.add(name)
        return loaded

    for feature in features:
        if not load(feature):
            missing.append(feature)
    return Needed(tuple(order), tuple(missing))
