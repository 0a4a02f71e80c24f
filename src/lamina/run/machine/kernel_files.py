"""The kernel of a machine and its modules, found in an image or among the files of this host."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from lamina.errors import InvalidContent, LimitExceeded, NotFound, Unsupported
from lamina.light import TYPE_CHECKING, Value
from lamina.run.machine.kernel import (
    ELF,
    HEAD,
    Kernel,
    is_truncated,
    kernels_among,
    parse_config,
    parse_kernel,
    release_among,
)
from lamina.run.machine.kernel_modules import (
    SUFFIXES,
    Needed,
    name_of,
    needed,
    parse_builtin,
    parse_dependencies,
    stated_before,
    stated_dependencies,
)
from lamina.run.machine.kernel_payload import MOST, plain_kernel
from lamina.view.path import ImagePath

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import IO

Place = Path | ImagePath
_MAX_MODULE, _MAX_MODULES = 1 << 26, 1 << 28
_MAX_TABLE = 1 << 24
_MODULES = ("lib/modules", "usr/lib/modules")
_BUSES = ("virtio_pci", "virtio_mmio", "virtio_ccw")
_FEATURES = ("virtio_blk", "virtio_console", "erofs", "overlay")
_NAMES = {
    "virtio_blk": "virtio disks (virtio_blk)",
    "virtio_console": "virtio consoles (virtio_console)",
    "virtio_net": "virtio networks (virtio_net)",
    "virtiofs": "shared directories (virtiofs)",
    "erofs": "EROFS",
    "overlay": "overlay file systems",
    "ext4": "ext4",
}
_OPTIONS = {
    "virtio_pci": "VIRTIO_PCI", "virtio_mmio": "VIRTIO_MMIO", "virtio_ccw": "S390_GUEST", "virtio_blk": "VIRTIO_BLK",
    "virtio_console": "VIRTIO_CONSOLE", "virtio_net": "VIRTIO_NET", "virtiofs": "VIRTIO_FS", "erofs": "EROFS_FS",
    "overlay": "OVERLAY_FS", "ext4": "EXT4_FS", "virtio_rng": "HW_RANDOM_VIRTIO",
}  # fmt: skip


class KernelFiles(Value):
    """``path``: of the kernel. ``modules``: the directory of its modules, None if it has none. ``shown``: its name in
    messages. ``release``: by its header, its modules or its name. ``config``: its configuration (``VIRTIO_BLK``: y or
    m) by the file beside it or among its modules; empty without."""

    path: Place
    kernel: Kernel
    modules: Place | None
    shown: str
    release: str = ""
    config: Mapping[str, str] = {}

    @property
    def takes_mmio(self) -> bool:
        """Whether it finds virtio devices by its command line: then it starts in QEMU's microvm without ACPI."""
        return self.config.get("VIRTIO_MMIO_CMDLINE_DEVICES") == "y"

    @property
    def has_acpi(self) -> bool:
        return not self.config or self.config.get("ACPI") == "y"

    def read(self) -> bytes:
        """The kernel as QEMU takes it: on x86 as it is, elsewhere without compression. Raises Unsupported,
        InvalidContent."""
        with self.path.open("rb") as file:
            data = file.read(MOST + 1)
        if len(data) > MOST:
            raise Unsupported(f"{self.shown} has more than {MOST >> 20} MiB", hint="give another kernel")
        if is_truncated(data):
            raise InvalidContent(f"{self.shown} is truncated", hint="copy it again, or give another kernel")
        return data if self.kernel.architecture == "amd64" else plain_kernel(data, self.shown)


def kernel_in(root: Place, image: str, below: Iterable[Place] = ()) -> KernelFiles:
    """The newest kernel of an image. ``root``: its root directory. ``below``: the root directories of its lower
    layers, in which the modules are looked for too: /lib of a higher layer may hide them. Raises NotFound (it has
    none), InvalidContent."""
    found = kernels_among(_candidates(root))
    if not found:
        raise NotFound(f"the image {image} has no kernel", hint="give one with --kernel PATH or --kernel IMAGE")
    places = (place / one for place in itertools.chain((root,), below) for one in _MODULES)
    return _files(root / found[0].path, places, f"/{found[0].path} of {image}", found[0].release)


def kernel_at(path: Path) -> KernelFiles:
    """A kernel of this host. Its modules are in /lib/modules, or beside its directory, as in an unpacked package.
    Raises NotFound, InvalidContent."""
    if not path.is_file():
        raise NotFound(f"no kernel at {path}", hint="check the path")
    path = path.resolve()
    above = path.parent.parent
    places = [above / one for one in _MODULES] + [Path("/lib/modules")]
    return _files(path, places, str(path), path.name.partition("-")[2])


def _candidates(root: Place) -> Iterable[str]:
    boot = root / "boot"
    if boot.is_dir():
        yield from (f"boot/{one.name}" for one in boot.iterdir() if one.is_file())
    for top in _MODULES:
        place = root / top
        if place.is_dir():
            for one in place.iterdir():
                yield from (f"{top}/{one.name}/{name}" for name in ("vmlinuz", "Image") if (one / name).is_file())


def _files(path: Place, places: Iterable[Place], shown: str, release: str) -> KernelFiles:
    with path.open("rb") as file:
        kernel = parse_kernel(file.read(HEAD), shown)
    name = kernel.release or release
    found = (_modules_in(place, name, known=bool(kernel.release)) for place in places)
    modules = next((one for one in found if one is not None), None)
    release = modules.name if modules is not None else name
    configs = [path.parent / f"config-{release}", *([modules / "config"] if modules is not None else [])]
    config = next((parse_config(_text(one)) for one in configs if one.is_file()), {})
    return KernelFiles(path, kernel, modules, shown, release, config)


def _modules_in(place: Place, release: str, *, known: bool) -> Place | None:
    if not place.is_dir():
        return None
    name = release_among([one.name for one in place.iterdir() if one.is_dir()], release, known=known)
    return place / name if name else None


def modules_for(files: KernelFiles, features: Iterable[str] = ()) -> list[tuple[str, bytes]]:
    """The modules that a machine needs, as names and uncompressed files, in the order in which they are loaded.
    ``features``: what it needs beside disks, console, EROFS and overlay. A kernel without a directory of modules and
    without a configuration has all built in: its machine says what is not so. Raises Unsupported (the kernel lacks a
    feature), InvalidContent, LimitExceeded."""
    wanted = (*_FEATURES, *features)
    builtin = {name for name, option in _OPTIONS.items() if files.config.get(option) == "y"}
    if files.modules is None:
        lacking = [name for name in wanted if name not in builtin] if files.config else []
        if lacking:
            raise Unsupported(
                f"{files.shown} has no {_named(lacking)}: its modules, /lib/modules/{files.release}, are not there",
                hint="add them, or give another kernel with --kernel",
            )
        return []
    stated = parse_dependencies(_text(files.modules / "modules.dep"))
    paths = {name: files.modules / one.path for name, one in stated.items()} or _every(files.modules)
    builtin |= parse_builtin(_text(files.modules / "modules.builtin"))
    content: dict[str, bytes] = {}

    def read(name: str) -> bytes:
        if name not in content:
            content[name] = _uncompressed(paths[name])
            if not content[name].startswith(ELF):  # a symlink of an unpacked package may lead anywhere on this host
                raise InvalidContent(
                    f"the kernel module {name} is not an ELF file", hint="report it to the publisher"
                )
            if sum(map(len, content.values())) > _MAX_MODULES:
                raise LimitExceeded(f"the modules of {files.shown} are too large", hint="give another kernel")
        return content[name]

    def depends(name: str) -> Iterable[str]:
        return stated[name].needs if name in stated else stated_dependencies(read(name), name)

    def need(names: Iterable[str]) -> Needed:
        def before(name: str) -> Iterable[str]:
            return stated_before(read(name))

        return needed(names, present=paths, builtin=builtin, depends=depends, before=before)

    found = need((*(one for one in _BUSES if one in paths), *wanted))
    if found.missing:
        raise Unsupported(f"{files.shown} has no {_named(found.missing)}", hint="give another kernel with --kernel")
    extra = need(("virtio_rng",)).modules  # fewer waits for random numbers, where the kernel has it
    return [(name, read(name)) for name in dict.fromkeys((*found.modules, *extra))]


def finds_mmio(files: KernelFiles) -> bool:
    """Whether it finds virtio devices without PCI, as far as its modules and its configuration say. Raises
    InvalidContent."""
    if files.modules is not None and not files.config:
        stated = parse_dependencies(_text(files.modules / "modules.dep")) or _every(files.modules)
        return "virtio_mmio" in stated or "virtio_mmio" in parse_builtin(_text(files.modules / "modules.builtin"))
    if not files.config:
        return True
    on_x86 = files.kernel.architecture == "amd64"
    return "VIRTIO_MMIO" in files.config and (not on_x86 or files.has_acpi or files.takes_mmio)


def _named(features: Iterable[str]) -> str:
    return ", ".join(_NAMES.get(name, name) for name in features)


def _every(directory: Place) -> dict[str, Place]:
    """All modules, by name."""
    if isinstance(directory, Path):  # pathlib's way takes four times as long
        files = (Path(top, name) for top, _, names in os.walk(directory) for name in names if name.endswith(SUFFIXES))
        return {name_of(one.name): one for one in files}
    return {name_of(one.name): one for one in directory.rglob("*.ko*") if one.name.endswith(SUFFIXES)}


def _text(path: Place) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_MAX_TABLE)


def _uncompressed(path: Place) -> bytes:
    name = str(path)
    with _opened(path) as file:
        data = file.read(_MAX_MODULE + 1)
    if len(data) > _MAX_MODULE:
        raise LimitExceeded(f"{name} has more than {_MAX_MODULE >> 20} MiB", hint="give another kernel")
    if name.endswith(".ko"):
        return data
    import io

    from lamina.layer.archive_codec import archive_decoder, inflate_archive

    with inflate_archive(archive_decoder(data[:512]), data, io.BytesIO(), name, _MAX_MODULE) as inflated:
        inflated.seek(0)
        return inflated.read()


def _opened(path: Place) -> IO[bytes]:
    if not path.is_file():
        raise InvalidContent(f"modules.dep names {path}, which is not there", hint="run depmod(8) for the kernel")
    return path.open("rb")
