"""The kernel of a machine and its modules, found in an image or among the files of this host."""

from __future__ import annotations

from pathlib import Path

from lamina.errors import NotFound, Unsupported
from lamina.light import TYPE_CHECKING, Value
from lamina.run.machine.kernel import HEAD, Kernel, kernels_among, parse_kernel
from lamina.run.machine.kernel_modules import (
    SUFFIXES,
    name_of,
    needed,
    parse_builtin,
    parse_dependencies,
    stated_dependencies,
)
from lamina.view.path import ImagePath

if TYPE_CHECKING:
    from collections.abc import Iterable

Place = Path | ImagePath
_MAX_KERNEL = 1 << 28
_MAX_MODULE = 1 << 26
_MODULES = ("lib/modules", "usr/lib/modules")
_MMIO = b"CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y"
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


class KernelFiles(Value):
    """``path``: of the kernel. ``modules``: the directory of its modules, None if it has none. ``shown``: its name in
    messages."""

    path: Place
    kernel: Kernel
    modules: Place | None
    shown: str

    @property
    def takes_mmio(self) -> bool:
        """Whether it finds virtio devices by its command line, as its configuration beside it says: then it starts
        in QEMU's microvm."""
        config = self.path.parent / f"config-{self.kernel.release}"
        return config.is_file() and _MMIO in config.read_bytes().split(b"\n")

    def read(self) -> bytes:
        """Raises Unsupported (too large)."""
        with self.path.open("rb") as file:
            data = file.read(_MAX_KERNEL + 1)
        if len(data) > _MAX_KERNEL:
            raise Unsupported(f"{self.shown} has more than {_MAX_KERNEL >> 20} MiB", hint="give another kernel")
        return data


def kernel_in(root: Place, image: str) -> KernelFiles:
    """The newest kernel of an image. ``root``: its root directory. Raises NotFound (it has none), InvalidContent."""
    found = kernels_among(_candidates(root))
    if not found:
        raise NotFound(f"the image {image} has no kernel", hint="give one with --kernel PATH or --kernel IMAGE")
    return _files(
        root / found[0].path, [root / one for one in _MODULES], f"/{found[0].path} of {image}", found[0].release
    )


def kernel_at(path: Path) -> KernelFiles:
    """A kernel of this host. Its modules are in /lib/modules, or beside its directory, as in an unpacked package.
    Raises NotFound, InvalidContent."""
    if not path.is_file():
        raise NotFound(f"no kernel at {path}", hint="check the path")
    above = path.resolve().parent.parent
    places = [above / one for one in _MODULES] + [Path("/lib/modules")]
    return _files(path, places, str(path), path.name.partition("-")[2])


def _candidates(root: Place) -> Iterable[str]:
    boot = root / "boot"
    if boot.is_dir():
        yield from (f"boot/{one.name}" for one in boot.iterdir() if one.is_file())
    for top in _MODULES:
        place = root / top
        if place.is_dir() and not place.is_symlink():
            for one in place.iterdir():
                yield from (f"{top}/{one.name}/{name}" for name in ("vmlinuz", "Image") if (one / name).is_file())


def _files(path: Place, places: Iterable[Place], shown: str, release: str) -> KernelFiles:
    with path.open("rb") as file:
        kernel = parse_kernel(file.read(HEAD), shown)
    name = kernel.release or release
    modules = next((one / name for one in places if name and (one / name).is_dir()), None)
    return KernelFiles(path, kernel, modules, shown)


def modules_for(files: KernelFiles, features: Iterable[str] = ()) -> list[tuple[str, bytes]]:
    """The modules that a machine needs, as names and uncompressed files, in the order in which they are loaded.
    ``features``: what it needs beside disks, console, EROFS and overlay. A kernel without a directory of modules has
    all built in: its machine says what is not so. Raises Unsupported (the kernel lacks a feature), InvalidContent."""
    if files.modules is None:
        return []
    paths = {name_of(str(path)): path for path in _every(files.modules)}
    content: dict[str, bytes] = {}

    def read(name: str) -> bytes:
        if name not in content:
            content[name] = _uncompressed(paths[name])
        return content[name]

    stated = parse_dependencies(_text(files.modules / "modules.dep"))

    def depends(name: str) -> Iterable[str]:
        return stated[name] if name in stated else stated_dependencies(read(name), name)

    builtin = parse_builtin(_text(files.modules / "modules.builtin"))
    bus = [one for one in ("virtio_pci", "virtio_mmio") if one in paths]
    wanted = [*bus, *_FEATURES, *features]
    found = needed(wanted, present=paths, builtin=builtin, depends=depends)
    if found.missing:
        lacking = ", ".join(_NAMES.get(name, name) for name in found.missing)
        raise Unsupported(f"{files.shown} has no {lacking}", hint="give another kernel with --kernel")
    extra = needed(("virtio_rng", "crc32c_generic"), present=paths, builtin=builtin, depends=depends)
    order = [*(name for name in extra.modules if name == "crc32c_generic"), *found.modules]
    order += [name for name in extra.modules if name not in order]
    return [(name, read(name)) for name in order]


def _every(directory: Place) -> Iterable[Place]:
    for suffix in SUFFIXES:
        yield from directory.rglob(f"*{suffix}")


def _text(path: Place) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _uncompressed(path: Place) -> bytes:
    data = path.read_bytes()
    name = str(path)
    if name.endswith(".ko"):
        return data
    import io

    from lamina.layer.archive_codec import archive_decoder, inflate_archive

    with inflate_archive(archive_decoder(data[:512]), data, io.BytesIO(), name, _MAX_MODULE) as file:
        file.seek(0)
        return file.read()
