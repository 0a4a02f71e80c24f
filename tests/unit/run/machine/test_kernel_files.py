"""The kernel of an image and its modules, as distributions lay them out."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidContent, LaminaError, LimitExceeded, NotFound, Unsupported
from lamina.run.machine import kernel_files
from lamina.run.machine.guest import kernel_for
from lamina.run.machine.kernel_files import KernelFiles, finds_mmio, kernel_in, modules_for
from lamina.store.store import Store
from lamina.view.path import ImagePath
from support import opened_from

from .test_kernel_payload import zstd

BUILTIN = ["virtio_blk", "virtio_console", "erofs", "overlay", "ext4", "virtio_pci"]


def x86(release: str) -> bytes:
    head = bytearray(0x4000)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x3000)
    version = f"{release} (x@y) #1".encode()
    head[0x3200 : 0x3200 + len(version)] = version
    return bytes(head)


ARM64 = bytes(56) + b"ARM\x64" + bytes(64)


def module(depends: str = "", *more: str) -> bytes:
    info = [f"depends={depends}", *more, "vermagic=6"]
    return b"\x7fELF" + bytes(60) + b"\0" + b"".join(one.encode() + b"\0" for one in info) + b"~Module signature~"


def modules(top: str, suffix: str = "", pack: Any = bytes) -> list[Any]:
    """The modules of a kernel that has all as modules."""
    needs = {
        "drivers/virtio/virtio_ring": "", "drivers/virtio/virtio": "virtio_ring",
        "drivers/virtio/virtio_pci": "virtio,virtio_ring", "drivers/block/virtio_blk": "virtio,virtio_ring",
        "drivers/char/virtio_console": "virtio", "lib/libcrc32c": "", "fs/erofs/erofs": "libcrc32c",
        "fs/overlayfs/overlay": "", "fs/ext4/ext4": "", "drivers/char/hw_random/virtio-rng": "virtio",
    }  # fmt: skip
    return [(f"{top}/kernel/{path}.ko{suffix}", pack(module(depends))) for path, depends in needs.items()]


ORDER = [
    *("virtio_ring", "virtio", "virtio_pci", "virtio_blk", "virtio_console", "libcrc32c", "erofs", "overlay", "ext4"),
    "virtio_rng",
]


def root_of(tmp_path: Path, *layers: Sequence[Any]) -> ImagePath:
    return ImagePath(opened_from("layout", tmp_path, layers).stack)


DEBIAN, UBUNTU, FEDORA = "6.1.0-9-cloud-amd64", "6.8.0-31-generic", "6.9.4-200.fc40.x86_64"
ALPINE, ARCH, SUSE = "6.6.31-0-virt", "6.9.6-arch1-1", "6.4.0-150600.21-default"
LAYOUTS = {
    "debian": (
        [
            (f"boot/vmlinuz-{DEBIAN}", x86(DEBIAN)),
            ("vmlinuz", f"-> boot/vmlinuz-{DEBIAN}"),
            *modules(f"lib/modules/{DEBIAN}"),
        ],
        f"boot/vmlinuz-{DEBIAN}",
        DEBIAN,
    ),
    "ubuntu": (
        [
            (f"boot/vmlinuz-{UBUNTU}", x86(UBUNTU)),
            ("boot/vmlinuz", f"-> vmlinuz-{UBUNTU}"),
            ("boot/vmlinuz.old", "-> vmlinuz-gone"),
            ("lib", "-> usr/lib"),
            *modules(f"usr/lib/modules/{UBUNTU}", ".zst", zstd.compress),
        ],
        f"boot/vmlinuz-{UBUNTU}",
        UBUNTU,
    ),
    "fedora": (
        [
            ("boot/vmlinuz-0-rescue-abc", x86("6.8.0")),
            ("lib", "-> usr/lib"),
            (f"usr/lib/modules/{FEDORA}/vmlinuz", x86(FEDORA)),
            *modules(f"usr/lib/modules/{FEDORA}", ".xz", lzma.compress),
        ],
        f"lib/modules/{FEDORA}/vmlinuz",
        FEDORA,
    ),
    "alpine": (
        [("boot/vmlinuz-virt", x86(ALPINE)), *modules(f"lib/modules/{ALPINE}", ".gz", gzip.compress)],
        "boot/vmlinuz-virt",
        ALPINE,
    ),
    "alpine on arm64": (
        [
            ("boot/vmlinuz-virt", ARM64),
            *modules("lib/modules/6.6.9-0-virt", ".gz", gzip.compress),
            *modules(f"lib/modules/{ALPINE}", ".gz", gzip.compress),
            *modules("lib/modules/6.7.1-0-lts"),
        ],
        "boot/vmlinuz-virt",
        ALPINE,
    ),
    "arch": (
        [
            ("boot/vmlinuz-linux", x86(ARCH)),
            ("lib", "-> usr/lib"),
            *modules(f"usr/lib/modules/{ARCH}", ".zst", zstd.compress),
        ],
        "boot/vmlinuz-linux",
        ARCH,
    ),
    "arch on arm64": (
        [("boot/Image", ARM64), *modules(f"usr/lib/modules/{ARCH}")],
        "boot/Image",
        ARCH,
    ),
    "suse": (
        [
            (f"boot/vmlinuz-{SUSE}", f"-> /usr/lib/modules/{SUSE}/vmlinuz"),
            ("boot/vmlinuz", f"-> vmlinuz-{SUSE}"),
            (f"boot/vmlinux-{SUSE}.xz", b"debug"),
            (f"usr/lib/modules/{SUSE}/vmlinuz", x86(SUSE)),
            *modules(f"usr/lib/modules/{SUSE}", ".zst", zstd.compress),
        ],
        f"boot/vmlinuz-{SUSE}",
        SUSE,
    ),
    "the newest of several": (
        [
            ("boot/vmlinuz-6.9.1", x86("6.9.1")),
            ("boot/vmlinuz-6.10.0", x86("6.10.0")),
            *modules("lib/modules/6.9.1"),
            *modules("lib/modules/6.10.0"),
        ],
        "boot/vmlinuz-6.10.0",
        "6.10.0",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_distributions(layout: str, tmp_path: Path) -> None:
    members, path, release = LAYOUTS[layout]
    files = kernel_in(root_of(tmp_path, members), "app")
    assert (files.shown, files.release) == (f"/{path} of app", release)
    found = modules_for(files, ("ext4",))
    assert [name for name, _ in found] == ORDER
    assert {content[-18:] for _, content in found} == {b"~Module signature~"}
    assert {content[:4] for _, content in found} == {b"\x7fELF"}


@pytest.mark.parametrize(
    "members",
    [
        [("boot/vmlinuz-6", "-> /proc/../../etc/passwd"), ("etc/passwd", b"x")],
        [("boot/vmlinuz-6", "-> vmlinuz-6")],
        [("boot/vmlinuz-6", "-> vmlinuz-7"), ("boot/vmlinuz-7", "-> vmlinuz-6")],
        [("boot", "-> boot")],
        [("boot", b"a file"), ("lib/modules", b"a file")],
        [("boot/vmlinuz-6/", None)],
        [("boot/vmlinuz-6", "-> ../../../../../../../etc/hostname")],
    ],
)
def test_what_is_no_kernel_of_the_image(members: list[Any], tmp_path: Path) -> None:
    with pytest.raises((NotFound, InvalidContent), match="app"):
        kernel_in(root_of(tmp_path, members), "app")


def test_modules_that_a_higher_layer_hides(tmp_path: Path) -> None:
    """An OS has /lib as a symlink; the kernel's package below it has a directory."""
    kernel = [("boot/vmlinuz-6.1", x86("6.1")), *modules("lib/modules/6.1")]
    image = opened_from("layout", tmp_path, [kernel, [("lib", "-> usr/lib"), ("usr/lib/", None)]])
    assert not (ImagePath(image.stack) / "lib/modules").exists()
    files = kernel_for(Store.open(str(tmp_path / "none")), image.stack, "app", "")
    assert [name for name, _ in modules_for(files, ("ext4",))] == ORDER


CONFIG = "".join(f"CONFIG_{name}=m\n" for name in ("VIRTIO_BLK", "EROFS_FS", "OVERLAY_FS", "EXT4_FS"))


def test_modules_that_are_not_there(tmp_path: Path) -> None:
    members = [("boot/vmlinuz-6.1", x86("6.1")), ("boot/config-6.1", CONFIG.encode() + b"CONFIG_VIRTIO_CONSOLE=y\n")]
    files = kernel_in(root_of(tmp_path, members), "app")
    with pytest.raises(Unsupported) as caught:
        modules_for(files)
    assert caught.value.message == (
        "/boot/vmlinuz-6.1 of app has no virtio disks (virtio_blk), EROFS, overlay file systems: its modules, "
        "/lib/modules/6.1, are not there"
    )


def test_a_kernel_that_has_all_built_in(tmp_path: Path) -> None:
    config = "".join(f"CONFIG_{kernel_files._OPTIONS[name]}=y\n" for name in BUILTIN)
    for number, more in enumerate(([], [("boot/config-6.1", config.encode())])):
        root = root_of(tmp_path / str(number), [("boot/vmlinuz-6.1", x86("6.1")), *more])
        assert modules_for(kernel_in(root, "app"), ("ext4",)) == []


def test_what_the_configuration_says_is_built_in(tmp_path: Path) -> None:
    top = "lib/modules/6.1"
    with_ext4 = [one for one in modules(top) if "ext4" not in one[0]]
    config = (f"{top}/config", b"CONFIG_EXT4_FS=y\n")
    root = root_of(tmp_path, [("boot/vmlinuz-6.1", x86("6.1")), *with_ext4, config])
    assert [name for name, _ in modules_for(kernel_in(root, "app"), ("ext4",))] == [
        name for name in ORDER if name != "ext4"
    ]


def files_with(tmp_path: Path, *more: Any, without: str = "?") -> KernelFiles:
    kept = [one for one in modules("lib/modules/6.1") if without not in one[0]]
    return kernel_in(root_of(tmp_path, [("boot/vmlinuz-6.1", x86("6.1")), *kept, *more]), "app")


@pytest.mark.parametrize(
    ("without", "lacks"),
    [
        ("erofs", "EROFS"),
        ("overlay", "overlay file systems"),
        ("libcrc32c", "EROFS"),
        ("virtio_ring", "virtio_pci, virtio disks (virtio_blk), virtio consoles (virtio_console)"),
    ],
)
def test_a_kernel_that_lacks_something(without: str, lacks: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        modules_for(files_with(tmp_path, without=without))
    assert caught.value.message == f"/boot/vmlinuz-6.1 of app has no {lacks}"


DEP = "".join(
    f"kernel/{path}.ko:{needs}\n"
    for path, needs in (
        ("drivers/block/virtio_blk", ""),
        ("drivers/char/virtio_console", ""),
        ("fs/erofs/erofs", " kernel/lib/libcrc32c.ko"),
        ("fs/overlayfs/overlay", ""),
        ("lib/libcrc32c", ""),
    )
)


def test_modules_dep_is_believed(tmp_path: Path) -> None:
    found = modules_for(files_with(tmp_path, ("lib/modules/6.1/modules.dep", DEP.encode())))
    assert [name for name, _ in found] == ["virtio_blk", "virtio_console", "libcrc32c", "erofs", "overlay"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEP.replace("libcrc32c.ko:", "libcrc32c.ko: kernel/fs/erofs/erofs.ko"), "depends on itself"),
        (DEP.replace("lib/libcrc32c.ko:", "lib/gone/libcrc32c.ko:"), "which is not there"),
        (DEP.replace("kernel/lib/libcrc32c.ko:", "../../../etc/libcrc32c.ko:"), "has no EROFS"),
        (DEP.replace("kernel/lib/libcrc32c.ko:", "/etc/libcrc32c.ko:"), "has no EROFS"),
        (DEP.replace("kernel/lib/libcrc32c.ko:", ":"), "has no EROFS"),
        ("\0" * 100 + ":\n" + "x" * 100, ""),
    ],
)
def test_a_modules_dep_that_lies(text: str, message: str, tmp_path: Path) -> None:
    files = files_with(tmp_path, ("lib/modules/6.1/modules.dep", text.encode()))
    if message:
        with pytest.raises(LaminaError, match=message):
            modules_for(files)
    else:
        assert [name for name, _ in modules_for(files, ("ext4",))] == ORDER


def test_a_module_that_is_something_else_does_not_reach_the_machine(tmp_path: Path) -> None:
    """In an unpacked package it may be a symlink to any file of this host."""
    more = (
        ("lib/modules/6.1/modules.dep", DEP.encode()),
        ("lib/modules/6.1/kernel/lib/libcrc32c.ko", b"root:secret"),
    )
    with pytest.raises(InvalidContent, match="libcrc32c is not an ELF file"):
        modules_for(files_with(tmp_path, *more, without="libcrc32c"))


def test_large_modules_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = ("lib/modules/6.1/kernel/fs/ext4/ext4.ko.gz", gzip.compress(bytes(1 << 20)))
    files = files_with(tmp_path, bomb, without="ext4")
    monkeypatch.setattr(kernel_files, "_MAX_MODULE", 1 << 16)
    with pytest.raises(LimitExceeded):
        modules_for(files, ("ext4",))
    monkeypatch.setattr(kernel_files, "_MAX_MODULES", 300)
    with pytest.raises(LimitExceeded, match="the modules of"):
        modules_for(files)


@pytest.mark.parametrize(
    ("more", "finds"),
    [
        ([], False),
        ([("lib/modules/6.1/kernel/virtio_mmio.ko", module())], True),
        ([("lib/modules/6.1/modules.builtin", b"kernel/drivers/virtio/virtio_mmio.ko\n")], True),
        ([("boot/config-6.1", b"CONFIG_VIRTIO_MMIO=m\nCONFIG_ACPI=y\n")], True),
        ([("boot/config-6.1", b"CONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n")], True),
        ([("boot/config-6.1", b"CONFIG_VIRTIO_MMIO=y\n")], False),
        ([("boot/config-6.1", b"CONFIG_ACPI=y\n")], False),
    ],
)
def test_devices_without_pci(more: list[Any], finds: bool, tmp_path: Path) -> None:
    assert finds_mmio(files_with(tmp_path, *more)) is finds


def test_a_compressed_image_for_arm64_is_inflated(tmp_path: Path) -> None:
    root = root_of(tmp_path, [("boot/vmlinuz-6.1", gzip.compress(ARM64))])
    files = kernel_in(root, "app")
    assert (files.kernel.architecture, files.read()) == ("arm64", ARM64)
