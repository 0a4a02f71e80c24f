"""A kernel as it is distributed: a file of this host, a directory, or a package, read as the entries of a layer.

A Debian package is an ar archive whose member ``data.tar`` has the files (deb(5)). Packages of Arch and Alpine are
tars.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lamina.edit.rootfs import archive_items
from lamina.errors import InvalidContent, NotFound
from lamina.host.files import SharedRange, reported
from lamina.layer.archive_codec import archive_decoder
from lamina.layer.tar_write import Item
from lamina.layer.tarheader import BLOCK, is_header
from lamina.run.machine.kernel_files import kernel_at
from lamina.scan.directory import scan, scan_file
from lamina.settings import MAX_LAYER

_AR, _AR_HEAD, _AR_END = b"!<arch>\n", 60, b"`\n"
_AR_NAME, _AR_SIZE = slice(0, 16), slice(48, 58)
_ENOUGH = 1 << 20
"""So many bytes of a compressed tar give its first block: bzip2 has the largest blocks, of 900 kB."""
_TOP = (b"boot", b"lib", b"usr")
_BELOW = {b"lib": (b"modules",), b"usr": (b"lib",), b"usr/lib": (b"modules",)}


@contextmanager
def kernel_items(path: str, *, max_layer: int = MAX_LAYER) -> Iterator[list[Item]]:
    """The entries of a kernel with all that comes with it; usable while the block runs. ``path``: a kernel image,
    whose modules are beside its directory or in /lib/modules; a directory with boot and lib/modules; or a package.
    Raises NotFound, InvalidContent, InvalidLayer, LimitExceeded, SystemFailure."""
    if os.path.isdir(path):
        yield _of_directory(path)
        return
    if not os.path.isfile(path):
        raise NotFound(f"no kernel at {path}", hint="check the path")
    with ExitStack() as opened:
        with reported(path):
            file = opened.enter_context(open(path, "rb"))
            head = file.read(_ENOUGH)
            is_debian = head.startswith(_AR)
            start, size = _debian_data(file.fileno(), path) if is_debian else (0, os.path.getsize(path))
        if is_debian or _is_tar(head):
            source = SharedRange(file, file.fileno(), start, start + size)
            yield opened.enter_context(archive_items(source, path, max_layer=max_layer, implied=False))
        else:
            yield _of_image(path)


def _is_tar(head: bytes) -> bool:
    found = b""
    for piece in archive_decoder(head[:BLOCK]).feed(head):
        found += piece
        if len(found) >= BLOCK:
            return any(found[:BLOCK]) and is_header(found[:BLOCK])
    return False


def _of_directory(path: str) -> list[Item]:
    def other(inner: bytes) -> bool:
        parent, _, name = inner.rpartition(b"/")
        return name not in (_TOP if not parent else _BELOW.get(parent, (name,)))

    return list(scan(path, exclude=other))


def _of_image(path: str) -> list[Item]:
    """The image, its configuration and its modules, with the paths of a package."""
    files = kernel_at(Path(path))
    name = files.path.name.partition("-")[0]
    called = name if name in ("vmlinuz", "vmlinux", "Image") else "vmlinuz"
    items = [scan_file(str(files.path), os.fsencode("-".join(filter(None, (f"boot/{called}", files.release)))))]
    if files.modules is not None:
        items += scan(str(files.modules), to=os.fsencode(f"usr/lib/modules/{files.release}"))
    beside = os.path.join(str(files.path.parent), f"config-{files.release}")
    if files.release and os.path.isfile(beside):
        items.append(scan_file(os.path.realpath(beside), os.fsencode(f"boot/config-{files.release}")))
    return items


def _debian_data(descriptor: int, path: str) -> tuple[int, int]:
    """Where ``data.tar`` is in a Debian package: its start and its size. Raises InvalidContent."""
    at = len(_AR)
    while len(head := os.pread(descriptor, _AR_HEAD, at)) == _AR_HEAD and head.endswith(_AR_END):
        size = head[_AR_SIZE].strip()
        if not size.isdigit():
            break
        if head[_AR_NAME].startswith(b"data.tar"):
            return at + _AR_HEAD, int(size)
        at += _AR_HEAD + int(size) + int(size) % 2
    raise InvalidContent(f"{path!r:.300} is not a Debian package", hint="give a .deb, or the kernel that was in it")
