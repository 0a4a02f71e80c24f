"""The layer of a kernel: its image, its configuration and its modules, with the same bytes on each host.

The modules are in /usr/lib/modules: an operating system above may have /lib as a symlink to usr/lib, which would hide
/lib/modules.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from lamina.errors import NotFound
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.run.machine.kernel import HEAD, Kernel, kernels_among, parse_kernel, release_among
from lamina.run.machine.kernel_package import kernel_items
from lamina.settings import MAX_LAYER

_MODULES = b"usr/lib/modules/"
_KINDS = (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
_TO_THE_SOURCE = (b"build", b"source")  # symlinks to what the kernel was compiled from, on its host


@contextmanager
def kernel_layer(paths: Sequence[str], *, max_layer: int = MAX_LAYER) -> Iterator[tuple[list[Item], Kernel]]:
    """The entries of the layer, usable while the block runs, and what the kernel is. ``paths``: as ``kernel_items``
    takes them; the files of all belong together. Raises as that, and NotFound (no kernel among them)."""
    with ExitStack() as opened:
        found: dict[bytes, Item] = {}
        for path in paths:
            for item in opened.enter_context(kernel_items(path, max_layer=max_layer)):
                found[item[0].path] = item
        yield chosen(found, ", ".join(paths))


def chosen(found: dict[bytes, Item], shown: str) -> tuple[list[Item], Kernel]:
    """What of these files, by their paths, makes the layer: of the newest kernel. ``shown``: their place, for errors.
    Raises NotFound (no kernel), InvalidContent."""
    files = (os.fsdecode(path) for path, (entry, _) in found.items() if entry.kind == Kind.FILE)
    kernels = kernels_among(files)
    if not kernels:
        raise NotFound(
            f"no kernel in {shown:.300}", hint="give a vmlinuz, a directory with boot/vmlinuz, or a package"
        )
    path = os.fsencode(kernels[0].path)
    entry, content = found[path]
    kernel = parse_kernel(_head(content), f"{kernels[0].path} of {shown:.300}")
    release = os.fsencode(
        release_among(_releases(found), kernel.release or kernels[0].release, known=bool(kernel.release))
        or kernel.release
        or kernels[0].release
    )
    name = posixpath.basename(path).partition(b"-")[0]
    kept = {b"boot/" + b"-".join(filter(None, (name, release))): (entry, content)}
    if release:
        beside = posixpath.dirname(path)
        configs = (b"boot/config-" + release, beside + b"/config-" + release, beside + b"/config")
        config = next((found[one] for one in configs if one in found and found[one][0].kind == Kind.FILE), None)
        if config is not None:
            kept[b"boot/config-" + release] = config
        kept.update(_modules(found, release))
    return _finished(kept, found, entry.mtime), Kernel(kernel.architecture, os.fsdecode(release))


def _releases(found: dict[bytes, Item]) -> list[str]:
    """The names of the directories of modules."""
    words = (path.removeprefix(b"usr/").split(b"/") for path in found)
    return list(dict.fromkeys(os.fsdecode(one[2]) for one in words if one[:2] == [b"lib", b"modules"] and one[3:]))


def _modules(found: dict[bytes, Item], release: bytes) -> Iterator[tuple[bytes, Item]]:
    for top in (b"lib/modules/", _MODULES):
        for path, item in found.items():
            inner = path.removeprefix(top + release + b"/")
            if inner == path or inner in _TO_THE_SOURCE or inner in (b"config", b"System.map"):
                continue
            if "/" not in os.fsdecode(inner) and kernels_among([os.fsdecode(path)]):
                continue  # a copy of the kernel
            yield _MODULES + release + b"/" + inner, item


def _finished(kept: dict[bytes, Item], found: dict[bytes, Item], moment: int) -> list[Item]:
    """The entries at their new paths, of root, without what only this host knows of them, with all parents."""
    items: dict[bytes, Item] = {}
    for path, (entry, content) in kept.items():
        if entry.kind == Kind.HARDLINK:
            entry, content = found.get(entry.link, (entry, content))
        if entry.kind in _KINDS:
            items[path] = (replace(entry, path=path, mode=entry.mode & 0o777, uid=0, gid=0, xattrs={}), content)
    for path in list(items):
        for parent in _parents(path):
            items.setdefault(parent, (Entry(parent, Kind.DIRECTORY, 0o755, mtime=moment), None))
    return list(items.values())


def _parents(path: bytes) -> Iterator[bytes]:
    while path := path.rpartition(b"/")[0]:
        yield path


def _head(content: object) -> bytes:
    if isinstance(content, bytes):
        return content[:HEAD]
    assert callable(content)
    file = content()
    try:
        data: bytes = file.read(HEAD)
        return data
    finally:
        file.close()
