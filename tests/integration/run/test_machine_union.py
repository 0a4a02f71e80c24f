"""The union as a machine sees it is the one that `unpack` writes: every kind of file, every way to replace one."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.run.test_machine import boot, digests
from integration.run.test_run import make_store, members, mounts_of
from kernel_package import kernel_tree
from support import lamina, require_root

TIME = 1_500_000_000
LAYERS = 20  # so many are joined to one disk
SCRIPT = r"""
cd "$0"
all() { find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path './etc/host*' \
  -o -path ./etc/resolv.conf \) -prune -o "$@" -print0 | sort -z; }
all | xargs -0 stat -c '%n|%f|%u:%g|%Y|%t:%T'
all ! -type d | xargs -0 stat -c '%n|%s|%h'
all -type l | xargs -0 -n 1 readlink
all -type f | xargs -0 sha256sum
echo inodes
all -type f -links +1 | xargs -0 stat -c '%i %n'
"""
Add = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    kernel_tree()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = make_store(tmp_path, [members(), *map(layer, range(1, LAYERS))])
    yield root
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []


def layer(number: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes = b"", **more: object) -> None:
            one = tarfile.TarInfo(name)
            one.size, one.mtime, one.mode = len(data), TIME + number, 0o755 if name.endswith("/") else 0o640
            one.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            for key, value in more.items():
                setattr(one, key, value)
            archive.addfile(one, io.BytesIO(data))

        if number == 1:
            first(add)
        else:
            later(add, number)
    return out.getvalue()


def first(add: Add) -> None:
    add("./", mode=0o711, uid=3, gid=4)
    add("w/", mode=0o1777, uid=1000, gid=70000)
    for name in ("new\nline", "caf\udce9\udcff", " sp ace\\", "-dash", "l" * 255, "'\"$(x)"):
        add(f"w/{name}", name.encode("utf-8", "surrogateescape"))
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 1 << 19, 1 << 20):
        add(f"w/{size}", b"%d" % (size % 7) * size)
    for mode in (0, 0o4755, 0o2755, 0o1644):
        add(f"w/mode{mode:o}", b"m", mode=mode, uid=mode, gid=1)
    add("w/old", b"o", mtime=0)
    for name, kind in (("fifo", tarfile.FIFOTYPE), ("char", tarfile.CHRTYPE), ("block", tarfile.BLKTYPE)):
        add(f"w/{name}", type=kind, devmajor=259 * (name != "fifo"), devminor=70000 * (name != "fifo"))
    for name, target in (("relative", "old"), ("absolute", "/w"), ("dangling", "no/such"), ("long", "x" * 4000)):
        add(f"w/{name}", type=tarfile.SYMTYPE, mode=0o777, linkname=target)
    add("w/hard", type=tarfile.LNKTYPE, linkname="w/513")
    for name in ("opaque/", "gone/", "many/", "kinds/"):
        add(f"w/{name}")
    for number in range(400):
        add(f"w/many/{number:03d}", b"%d" % number * (number % 3))
    for number in range(LAYERS):
        add(f"w/opaque/{number}", b"hidden")
        add(f"w/kinds/directory{number}/")
        add(f"w/kinds/directory{number}/in", b"in")
        add(f"w/kinds/file{number}", b"file")
        add(f"w/kinds/link{number}", type=tarfile.SYMTYPE, mode=0o777, linkname="../many")


def later(add: Add, number: int) -> None:
    add(f"w/of{number}", b"%d" % number * 5000)
    add(f"w/many/.wh.{number:03d}")
    add(f"w/many/{number + 100:03d}", b"changed")
    add(f"w/kinds/directory{number}", b"now a file")
    add(f"w/kinds/file{number}/")
    add(f"w/kinds/file{number}/x", b"x")
    add(f"w/kinds/link{number}/")
    add(f"w/kinds/link{number}/y", b"y")
    if number == 5:
        add("w/opaque/.wh..wh..opq")
        add("w/opaque/new", b"new")
    if number == 7:
        add("w/across", type=tarfile.LNKTYPE, linkname="w/513")
        add("w/of3-too", type=tarfile.LNKTYPE, linkname="w/of3")
    if number == 8:
        add("w/513", b"replaced")  # the other names keep the file
        add("w/.wh.gone")
    if number == 9:
        add("w/gone/")
        add("w/gone/again", b"again")
    if number == 11:
        add("w/", mode=0o700, uid=42, gid=43)


def listing(text: bytes) -> tuple[list[bytes], list[list[bytes]]]:
    """Lines, and the groups of names that are one file."""
    files, links = text.split(b"inodes\n")
    groups: dict[bytes, list[bytes]] = {}
    for line in links.splitlines():
        inode, name = line.split(b" ", 1)
        groups.setdefault(inode, []).append(name)
    return files.splitlines(), sorted(groups.values())


def test_the_union_inside_is_the_unpacked_one(root: Path, tmp_path: Path) -> None:
    before = digests(root)
    assert lamina("unpack", "app", str(tmp_path / "u"), root=root).returncode == 0
    words = ["busybox", "sh", "-c", SCRIPT]
    unpacked = subprocess.run([*words, tmp_path / "u"], capture_output=True, check=True)
    done = boot(root, "-q", "--name", "vm", "app", *words, "/")
    assert (done.returncode, done.stderr) == (0, b"")
    found, expected = listing(done.stdout), listing(unpacked.stdout)
    assert set(found[0]) ^ set(expected[0]) == set()
    assert found == expected
    assert len(found[0]) > 2 * 500
    assert [b"./w/across", b"./w/hard"] in found[1]
    assert lamina("diff", "vm", root=root).stdout == b""
    assert digests(root) == before
