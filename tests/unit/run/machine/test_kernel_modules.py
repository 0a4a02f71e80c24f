"""Which kernel modules are loaded, and in which order."""

from __future__ import annotations

import pytest

from lamina.errors import InvalidContent
from lamina.run.machine.kernel_modules import (
    Needed,
    Stated,
    name_of,
    needed,
    parse_builtin,
    parse_dependencies,
    stated_before,
    stated_dependencies,
)

DEPENDS = {
    "virtio_blk": ("virtio", "virtio_ring"),
    "virtio": ("virtio_ring",),
    "virtio_ring": (),
    "erofs": ("libcrc32c", "netfs"),
    "libcrc32c": (),
    "broken": ("nowhere",),
}


def found(*features: str, builtin: tuple[str, ...] = ()) -> Needed:
    return needed(features, present=DEPENDS, builtin=builtin, depends=lambda name: DEPENDS[name])


def test_what_a_module_needs_is_loaded_first() -> None:
    assert found("virtio_blk") == Needed(("virtio_ring", "virtio", "virtio_blk"), ())


def test_what_is_built_in_is_not_loaded() -> None:
    assert found("erofs", "ext4", builtin=("netfs", "ext4")) == Needed(("libcrc32c", "erofs"), ())


def test_a_feature_that_lacks_a_part_is_missing() -> None:
    assert found("virtio_blk", "broken", "overlay").missing == ("broken", "overlay")


def test_a_circle_is_an_error() -> None:
    with pytest.raises(InvalidContent):
        needed(["a"], present=("a", "b"), builtin=(), depends={"a": ("b",), "b": ("a",)}.__getitem__)


def test_many_ways_to_what_is_missing_are_looked_at_once() -> None:
    names = [f"m{number}" for number in range(60)]
    depends = {name: tuple(names[number + 1 : number + 3]) or ("gone",) for number, name in enumerate(names)}
    asked = []

    def count(name: str) -> tuple[str, ...]:
        asked.append(name)
        return depends[name]

    assert needed(["m0"], present=names, builtin=(), depends=count).missing == ("m0",)
    assert len(asked) <= 60


def test_what_comes_before_a_module_is_no_condition() -> None:
    before = {"ext4": ("crc32c", "crc32c_generic", "ext4", "broken")}
    present = {"ext4": (), "crc32c_generic": (), "broken": ("nowhere",)}
    assert needed(
        ["ext4"], present=present, builtin=(), depends=present.__getitem__, before=lambda name: before.get(name, ())
    ) == Needed(("crc32c_generic", "ext4"), ())


@pytest.mark.parametrize(
    ("info", "names"),
    [
        (b"softdep=pre: crc32c post: x-y\0", ("crc32c", "crc32c_generic")),
        (b"softdep=post: x\0softdep=pre: a-b\0", ("a_b", "a_b_generic")),
        (b"depends=x\0", ()),
    ],
)
def test_soft_dependencies(info: bytes, names: tuple[str, ...]) -> None:
    assert stated_before(b"\x7fELF" + bytes(60) + info) == names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/fs/erofs/erofs.ko", "erofs"),
        ("kernel/drivers/char/virtio-rng.ko.xz", "virtio_rng"),
        ("overlay.ko.zst", "overlay"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert name_of(path) == name


def test_files_of_depmod() -> None:
    text = b"kernel/a-b.ko: kernel/c.ko.gz kernel/d.ko\nkernel/c.ko.gz:\nno colon\n/etc/x.ko:\na/../../y.ko:\nz:\n"
    assert parse_dependencies(text) == {
        "a_b": Stated("kernel/a-b.ko", ("c", "d")),
        "c": Stated("kernel/c.ko.gz", ()),
    }
    assert parse_builtin(b"kernel/fs/ext4/ext4.ko\nkernel/x-y.ko\n") == {"ext4", "x_y"}


@pytest.mark.parametrize(
    ("info", "names"),
    [
        (b"license=GPL\0depends=libcrc32c,netfs-x\0name=erofs\0", ("libcrc32c", "netfs_x")),
        (b"depends=\0", ()),
        (b"name=x\0", ()),
    ],
)
def test_a_module_says_what_it_needs(info: bytes, names: tuple[str, ...]) -> None:
    assert stated_dependencies(b"\x7fELF" + bytes(60) + info, "m") == names


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(InvalidContent):
        stated_dependencies(b"MZ", "m")
