"""The layer of a kernel: what is taken of a kernel's files, of whichever form they come in."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import InvalidContent, InvalidLayer, LaminaError, NotFound
from lamina.layer.entry import Kind
from lamina.run.machine.kernel import Kernel
from lamina.run.machine.kernel_layer import kernel_layer
from unit.run.machine.test_kernel import x86

KERNEL = x86(b"6.1.0-cloud (someone) #1\0")
ARM = bytes(56) + b"ARM\x64" + bytes(64)
MODULES = "lib/modules/6.1.0-cloud"
FILES = {
    "boot/vmlinuz-6.1.0-cloud": KERNEL,
    "boot/config-6.1.0-cloud": b"CONFIG_A=y\n",
    "boot/System.map-6.1.0-cloud": b"map",
    f"{MODULES}/kernel/fs/ext4.ko": b"\x7fELF",
    f"{MODULES}/modules.builtin": b"kernel/a.ko\n",
    f"{MODULES}/build": "/usr/src/linux",
    f"{MODULES}/kernel/link.ko": "fs/ext4.ko",
    "usr/share/doc/linux/copyright": b"text",
}
IN_THE_LAYER = {
    b"boot/vmlinuz-6.1.0-cloud": KERNEL,
    b"boot/config-6.1.0-cloud": b"CONFIG_A=y\n",
    b"usr/lib/modules/6.1.0-cloud/kernel/fs/ext4.ko": b"\x7fELF",
    b"usr/lib/modules/6.1.0-cloud/modules.builtin": b"kernel/a.ko\n",
    b"usr/lib/modules/6.1.0-cloud/kernel/link.ko": b"fs/ext4.ko",
}
DIRECTORIES = {
    b"boot", b"usr", b"usr/lib", b"usr/lib/modules", b"usr/lib/modules/6.1.0-cloud",
    b"usr/lib/modules/6.1.0-cloud/kernel", b"usr/lib/modules/6.1.0-cloud/kernel/fs",
}  # fmt: skip


def in_directory(top: Path, files: dict[str, bytes | str]) -> str:
    for name, content in files.items():
        path = top / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
            os.utime(path, (1000, 1000))
    return str(top / "tree")


def as_tar(files: dict[str, bytes | str]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.mtime, member.uid, member.gid = 1000, 7, 7
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def archived(members: dict[str, bytes]) -> bytes:
    """An ar archive."""
    found = b"!<arch>\n"
    for name, content in members.items():
        found += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name.encode(), 0, 0, 0, 0o100644, len(content))
        found += content + b"\n" * (len(content) % 2)
    return found


def in_file(top: Path, name: str, content: bytes) -> str:
    (top / name).write_bytes(content)
    return str(top / name)


def debian(top: Path) -> str:
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(as_tar(FILES))}
    return in_file(top, "linux.deb", archived(members))


def image_alone(top: Path) -> str:
    return in_directory(top, FILES) + "/boot/vmlinuz-6.1.0-cloud"


def symlink_to_the_image(top: Path) -> str:
    os.symlink(image_alone(top), top / "vmlinuz")
    return str(top / "vmlinuz")


FORMS: dict[str, Callable[[Path], str]] = {
    "directory": lambda top: in_directory(top, FILES),
    "image": image_alone,
    "symlink": symlink_to_the_image,
    "deb": debian,
    "tar": lambda top: in_file(top, "linux.tar", as_tar(FILES)),
    "tar.gz": lambda top: in_file(top, "linux.tgz", gzip.compress(as_tar(FILES))),
}


def contents(paths: list[str]) -> tuple[dict[bytes, bytes], set[bytes], Kernel]:
    found, directories = {}, set()
    with kernel_layer(paths) as (items, kernel):
        for entry, content in items:
            assert (entry.uid, entry.gid, dict(entry.xattrs)) == (0, 0, {})
            if entry.kind == Kind.DIRECTORY:
                directories.add(entry.path)
                assert entry.mode == 0o755
            elif entry.kind == Kind.SYMLINK:
                found[entry.path] = entry.link
            else:
                assert callable(content)
                with content() as file:  # type: ignore[attr-defined]
                    found[entry.path] = file.read()
    return found, directories, kernel


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_layer(form: str, tmp_path: Path) -> None:
    found, directories, kernel = contents([FORMS[form](tmp_path)])
    assert found == IN_THE_LAYER
    assert directories == DIRECTORIES
    assert kernel == Kernel("amd64", "6.1.0-cloud")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (  # Fedora, Arch: the kernel is beside its modules
            {
                "usr/lib/modules/6.1.0-cloud/vmlinuz": KERNEL,
                "usr/lib/modules/6.1.0-cloud/config": b"c",
                "usr/lib/modules/6.1.0-cloud/System.map": b"m",
                "usr/lib/modules/6.1.0-cloud/a.ko": b"a",
            },
            {
                b"boot/vmlinuz-6.1.0-cloud": KERNEL,
                b"boot/config-6.1.0-cloud": b"c",
                b"usr/lib/modules/6.1.0-cloud/a.ko": b"a",
            },
        ),
        (  # Alpine: the name of the kernel is not that of its release
            {"boot/vmlinuz-virt": KERNEL, "lib/modules/6.1.0-cloud/a.ko.gz": b"a"},
            {b"boot/vmlinuz-6.1.0-cloud": KERNEL, b"usr/lib/modules/6.1.0-cloud/a.ko.gz": b"a"},
        ),
        (  # and on arm64 its header does not tell that either
            {
                "boot/vmlinuz-virt": ARM,
                "lib/modules/6.1.0-0-virt/a.ko.gz": b"a",
                "lib/modules/6.1.0-0-rpi/a.ko": b"r",
            },
            {b"boot/vmlinuz-6.1.0-0-virt": ARM, b"usr/lib/modules/6.1.0-0-virt/a.ko.gz": b"a"},
        ),
        (  # two kernels: the newest, with its modules
            {
                "boot/vmlinuz-6.1.0-cloud": KERNEL,
                "boot/vmlinuz-5.10": x86(b"5.10 \0"),
                "lib/modules/5.10/old.ko": b"o",
                "lib/modules/6.1.0-cloud/new.ko": b"n",
            },
            {b"boot/vmlinuz-6.1.0-cloud": KERNEL, b"usr/lib/modules/6.1.0-cloud/new.ko": b"n"},
        ),
        ({"boot/Image": ARM}, {b"boot/Image": ARM}),
    ],
)
def test_other_places(files: dict[str, bytes | str], found: dict[bytes, bytes], tmp_path: Path) -> None:
    assert contents([in_directory(tmp_path, files)])[0] == found


def test_the_files_of_several_packages_belong_together(tmp_path: Path) -> None:
    image = in_file(tmp_path, "image.tar", as_tar({"boot/vmlinuz-6.1.0-cloud": KERNEL}))
    modules = in_file(tmp_path, "modules.tar", as_tar({f"{MODULES}/a.ko": b"a"}))
    assert set(contents([image, modules])[0]) == {
        b"boot/vmlinuz-6.1.0-cloud",
        b"usr/lib/modules/6.1.0-cloud/a.ko",
    }


def test_a_hostile_package_gives_plain_files(tmp_path: Path) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, kind, link in (
            ("boot/vmlinuz-6.1.0-cloud", tarfile.REGTYPE, ""),
            (f"{MODULES}/device.ko", tarfile.CHRTYPE, ""),
            (f"{MODULES}/.wh.a", tarfile.REGTYPE, ""),
            (f"{MODULES}/hard.ko", tarfile.LNKTYPE, "boot/vmlinuz-6.1.0-cloud"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, link, 0o6755
            member.size = len(KERNEL) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(KERNEL))
    with kernel_layer([in_file(tmp_path, "p.tar", written.getvalue())]) as (items, _):
        found = {entry.path: (entry.kind, entry.mode) for entry, _ in items if entry.kind != Kind.DIRECTORY}
    assert found == {
        b"boot/vmlinuz-6.1.0-cloud": (Kind.FILE, 0o755),
        b"usr/lib/modules/6.1.0-cloud/hard.ko": (Kind.FILE, 0o755),
    }


def test_a_hard_link_is_a_file(tmp_path: Path) -> None:
    tree = in_directory(tmp_path, {"boot/vmlinuz-6.1.0-cloud": KERNEL})
    os.link(f"{tree}/boot/vmlinuz-6.1.0-cloud", f"{tree}/boot/vmlinuz")
    assert contents([tree])[0] == {b"boot/vmlinuz-6.1.0-cloud": KERNEL}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"text", InvalidContent, "file is not a kernel image"),
        (b"", InvalidContent, "is not a kernel image"),
        (as_tar({"etc/motd": b"text"}), NotFound, "no kernel in"),
        (as_tar({"boot/vmlinuz-1": b"text"}), InvalidContent, "boot/vmlinuz-1 of .*file is not a kernel image"),
        (b"!<arch>\n", InvalidContent, "is not a Debian package"),
        (archived({"a": b"odd"}), InvalidContent, "is not a Debian package"),
        (b"!<arch>\n" + b"x" * 58 + b"`\n", InvalidContent, "is not a Debian package"),
        (archived({"data.tar": b""}), InvalidLayer, "is empty"),
        (archived({"data.tar.xz": lzma.compress(as_tar(FILES))})[:300], InvalidLayer, "ends too early|truncated"),
    ],
)
def test_refusals(content: bytes, error: type[LaminaError], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        contents([in_file(tmp_path, "file", content)])


def test_no_kernel_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no kernel at"):
        contents([str(tmp_path / "no")])
    with pytest.raises(NotFound, match="no kernel in"):
        contents([str(tmp_path)])
