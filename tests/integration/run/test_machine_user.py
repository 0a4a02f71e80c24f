"""Machines of plain users, read-only machines, and hosts or images that lack something."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest

from integration.run.test_machine import boot, eventually, machines
from integration.run.test_run import make_store, members, mounts_of
from kernel_package import kernel_path, kernel_tree
from lamina.store.store import Store
from support import PLAIN_USER, PlainUser, lamina, plain_user, require_root, require_tool, write_layout

TOP = [
    ("data/", None, {"uid": 33, "gid": 44, "mode": 0o750}),
    ("data/secret", b"only mine", {"uid": 33, "gid": 44, "mode": 0o600}),
    ("gone/", None),
    ("gone/below", b""),
]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    kernel_tree()


@pytest.fixture(params=[PLAIN_USER, "59999"])
def user(request: pytest.FixtureRequest) -> Iterator[tuple[Path, PlainUser]]:
    require_tool("busybox", "newuidmap")
    with plain_user(request.param) as (top, call):
        write_layout(top / "layout", "app", [members(), TOP])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        shutil.copytree(kernel_tree(), top / "tree", symlinks=True)
        yield top, call
        call("rm", "--all", "--force")
        assert not machines(top)
        call("umount", "--all")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = make_store(tmp_path, [members()])
    yield root
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []
    eventually(lambda: not machines(root))


def test_a_plain_user(user: tuple[Path, PlainUser]) -> None:
    """The owners in the image are what the machine sees, and what it writes becomes an image with its owners."""
    top, call = user
    kernel = f"{top}/tree/boot/{kernel_path().name}"
    shared = top / "shared"
    shared.mkdir()
    (shared / "host").write_text("from the host\n")
    os.chown(shared, int(call.drop[2]), int(call.drop[4]))
    script = (
        "ls -ln /data; cat /s/host; echo x >/s/guest; echo new >/data/new; chown 5:6 /data/new; chmod 4755 /data/new;"
        "rm -r /gone; mkdir /gone; mknod /data/null c 1 3; exit 3"
    )
    words = ("boot", "--name", "vm", "-v", f"{shared}:/s", "--kernel", kernel, "app", "sh", "-c", script)
    done = call(*words)
    assert done.returncode == 3, done.stderr
    listed, host = done.stdout.decode().strip().splitlines()[1:]
    assert listed.split()[:4] == ["-rw-------", "1", "33", "44"]
    assert host == "from the host"
    assert (shared / "guest").stat().st_uid == int(call.drop[2])
    changed = call("diff", "vm").stdout.decode().splitlines()
    assert {"C /data", "A /data/new", "A /data/null", "C /gone", "D /gone/below"} <= set(changed)
    assert call("cp", "vm:/data/new", f"{top}/store/copied").returncode == 0
    assert (top / "store" / "copied").read_text() == "new\n"
    assert b"A /data/new" in call("diff", "app", "vm").stdout
    assert call("commit", "vm", "mine").returncode == 0
    packed = BytesIO(call("export", "vm").stdout)
    with tarfile.open(fileobj=packed) as archive:
        new, null = archive.getmember("data/new"), archive.getmember("data/null")
        assert (new.uid, new.gid, new.mode, new.size) == (5, 6, 0o4755, 4)
        assert (null.type, null.devmajor, null.devminor) == (tarfile.CHRTYPE, 1, 3)
        assert "gone/below" not in archive.getnames()
    assert b"5:6" in call("ls", "-l", "mine", "/data/new").stdout
    (row,) = json.loads(call("ps", "-a", "-s", "--format", "json").stdout)
    assert row["State"] == "exited"
    assert call("rm", "vm").returncode == 0
    assert os.listdir(top / "store" / "containers") == []


def test_a_read_only_machine(root: Path) -> None:
    script = "for f in /x /etc/x /t/x /v/x /etc/hosts; do touch $f 2>/dev/null && echo $f; done; pwd"
    words = ["--read-only", "--tmpfs", "/t", "-v", "vol:/v", "-w", "/made"]
    done = boot(root, "--name", "vm", *words, "app", "sh", "-c", script)
    assert done.stdout == b"/t/x\n/v/x\n/etc/hosts\n/made\n", done.stderr
    assert lamina("diff", "vm", root=root).stdout == b""
    container = Store.open(str(root)).containers.get("vm")
    assert not os.path.exists(root / "containers" / container.id / "upper.img")
    refused = lamina("cp", str(kernel_path()), "vm:/", root=root)
    assert refused.returncode != 0
    assert b"the root file system of the machine vm is read-only" in refused.stderr


def test_paths_that_options_of_other_programs_take_as_lists(tmp_path: Path) -> None:
    odd = tmp_path / "a,b 'c\n\""
    shared = odd / "from,here"
    shared.mkdir(parents=True)
    (shared / "file").write_text("text\n")
    shutil.copytree(kernel_tree(), odd / "tree", symlinks=True)
    root = make_store(odd, [members()])
    kernel = odd / "tree" / "boot" / kernel_path().name
    words = ("boot", "--rm", "--kernel", str(kernel), "-v", f"{shared}:/s p", "app", "cat", "/s p/file")
    done = lamina(*words, root=root)
    assert (done.returncode, done.stdout) == (0, b"text\n"), done.stderr
    lamina("rm", "-af", root=root)


def without(tmp_path: Path, *modules: str) -> Path:
    """The kernel in a copy of its tree that lacks some modules."""
    tree = tmp_path / "tree"

    def lacking(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name.partition(".ko")[0] in modules]

    shutil.copytree(kernel_tree(), tree, symlinks=True, ignore=lacking)
    return tree / "boot" / kernel_path().name


@pytest.mark.parametrize(
    ("lacks", "words", "message"),
    [
        ("erofs", (), b"has no EROFS"),
        ("overlay", (), b"has no overlay file systems"),
        ("libcrc32c", (), b"has no EROFS"),
        ("virtio_blk", (), b"has no virtio disks"),
        ("virtio_net", (), b"has no virtio networks"),
        ("fuse", ("-v", "vol:/v"), b"has no shared directories (virtiofs)"),
    ],
)
def test_a_kernel_that_lacks_something(
    root: Path, tmp_path: Path, lacks: str, words: tuple[str, ...], message: bytes
) -> None:
    done = lamina("boot", "--rm", "--kernel", str(without(tmp_path, lacks)), *words, "app", "true", root=root)
    assert (done.returncode, done.stdout) == (125, b"")
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert Store.open(str(root)).containers.scan() == ([], [])
    assert mounts_of(root) == []


def test_a_kernel_without_its_modules(root: Path, tmp_path: Path) -> None:
    alone = shutil.copy(kernel_path(), tmp_path / "vmlinuz-0.0-none")
    done = lamina("boot", "--rm", "-q", "--kernel", str(alone), "app", "true", root=root)
    assert done.returncode == 125
    assert b"no virtio devices built in, and no modules were found" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert Store.open(str(root)).containers.scan() == ([], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda kernel: kernel[:100_000], b"is truncated"),
        (lambda kernel: kernel[:100], b"is not a kernel image"),
        (lambda kernel: b"", b"is not a kernel image"),
        (lambda kernel: kernel + bytes(300 << 20), b"has more than 256 MiB"),
    ],
)
def test_a_file_that_no_machine_can_start(root: Path, tmp_path: Path, content: object, message: bytes) -> None:
    assert callable(content)
    (tmp_path / "vmlinuz").write_bytes(content(kernel_path().read_bytes()))
    done = lamina("boot", "--rm", "--kernel", str(tmp_path / "vmlinuz"), "app", "true", root=root)
    assert (done.returncode, done.stdout) == (125, b"")
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert Store.open(str(root)).containers.scan() == ([], [])


def test_a_start_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", place], check=True)
    try:
        root = make_store(place, [members()])
        with suppress(OSError), (place / "filled").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        done = boot(root, "--rm", "-q", "app", "true")
        assert done.returncode == 125
        assert b"the disk is full" in done.stderr
        assert done.stderr.count(b"\n") == 1
        assert os.listdir(root / "containers") == []
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_read_only_store(tmp_path: Path) -> None:
    place = tmp_path / "fixed"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "fixed", place], check=True)
    try:
        root = make_store(place, [members()])
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        done = boot(root, "--rm", "-q", "app", "true")
        assert done.returncode == 125
        assert b"the file system is read-only" in done.stderr
        assert done.stderr.count(b"\n") == 1
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_a_machine_makes_for_mounts_is_no_change(tmp_path: Path) -> None:
    layer = [*members(), ("srv/", None), ("opt/", None)]
    root = make_store(tmp_path, [layer])
    (tmp_path / "file").write_text("text\n")
    words = ["-v", "vol:/srv/a/b", "-v", f"{tmp_path}/file:/opt/c/file", "--tmpfs", "/srv/t", "--tmpfs", "/top"]
    done = boot(root, "--name", "vm", *words, "app", "sh", "-c", "cat /opt/c/file; ls -d /srv/a/b /srv/t /top")
    assert done.stdout == b"text\n/srv/a/b\n/srv/t\n/top\n", done.stderr
    assert lamina("diff", "vm", root=root).stdout == b""
    lamina("rm", "-af", root=root)
