"""podman's mount and docker's export as judges of ours: the same paths, kinds, modes, ids, sizes, times, links,
xattrs and content.

The images are of the sort that builders make: each layer states the directories that it passes through, and no rule
is touched where podman is known to differ (tests/oracles.md).
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from docker_engine import Docker
from lamina.archive.layout import LayoutReader
from lamina.serve.server import RegistryServer
from lamina.settings import VIEWS
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.view.overlay.mount import mount, unmount
from support import lamina, podman_command, require_root, require_tool, write_layout

pytestmark = pytest.mark.peer
Layers = list[list[Any] | bytes]


def state(top: Path) -> tuple[dict[bytes, Any], set[frozenset[bytes]]]:
    """All that is to be seen of every path below ``top``; and the groups of names that are one file."""
    found: dict[bytes, Any] = {}
    groups: dict[tuple[int, int], set[bytes]] = {}
    for where, directories, files in os.walk(os.fsencode(top)):
        for name in directories + files:
            full = os.path.join(where, name)
            path, it = os.path.relpath(full, os.fsencode(top)), os.lstat(full)
            what: Any = None
            if stat.S_ISREG(it.st_mode):
                with open(full, "rb") as file:
                    what = (it.st_size, hashlib.file_digest(file, "sha256").hexdigest())
            elif stat.S_ISLNK(it.st_mode):
                what = os.readlink(full)
            elif stat.S_ISCHR(it.st_mode) or stat.S_ISBLK(it.st_mode):
                what = it.st_rdev
            xattrs = {
                key: os.getxattr(full, key, follow_symlinks=False)
                for key in os.listxattr(full, follow_symlinks=False)
            }
            found[path] = (oct(it.st_mode), it.st_uid, it.st_gid, it.st_mtime_ns, what, xattrs)
            if not stat.S_ISDIR(it.st_mode):
                groups.setdefault((it.st_dev, it.st_ino), set()).add(path)
    return found, {frozenset(group) for group in groups.values()}


def directory(name: str, **more: Any) -> tuple[Any, ...]:
    return (name + "/", None, more)


def small_system() -> Layers:
    """A small model of a distribution's base image with two more layers."""
    busybox = Path("/bin/busybox").read_bytes()
    capability = {"SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x20" + "\0" * 14}
    base = [
        *(
            directory(name)
            for name in ("usr", "usr/bin", "usr/lib", "etc", "var", "var/cache", "var/cache/apt", "dev")
        ),
        directory("tmp", mode=0o1777),
        directory("root", mode=0o700),
        directory("var/mail", mode=0o2775, gid=8),
        ("bin", "-> usr/bin"),
        ("usr/bin/busybox", busybox, {"mode": 0o755}),
        ("usr/bin/sh", "= usr/bin/busybox", {"mode": 0o755}),
        ("usr/bin/ls", "= usr/bin/busybox", {"mode": 0o755}),
        ("usr/bin/su", b"#!", {"mode": 0o4755}),
        ("usr/bin/ping", b"#!", {"mode": 0o755, "pax_headers": capability}),
        ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
        ("etc/shadow", b"root:*::\n", {"mode": 0o640, "gid": 42}),
        ("etc/mtab", "-> ../proc/mounts"),
        ("var/cache/apt/pkgcache.bin", bytes(3_000_000)),
        ("var/cache/apt/old", b"old"),
        ("usr/lib/libx.so.1", random.Random(1).randbytes(300_000)),
        ("usr/lib/libx.so", "-> libx.so.1"),
        ("dev/null", "c 1 3", {"mode": 0o666}),
        ("empty", b""),
    ]
    packages = [
        *(directory(name, mtime=1_700_000_500) for name in ("usr", "usr/bin", "usr/lib", "etc", "var", "var/cache")),
        directory("var/cache/apt", mtime=1_700_000_600),
        ("var/cache/apt/.wh..wh..opq", b""),
        ("var/cache/apt/new", b"new"),
        ("usr/lib/.wh.libx.so.1", b""),
        ("usr/lib/libx.so.2", b"2", {"pax_headers": {"mtime": "1700000000.123456789"}}),
        ("usr/lib/libx.so", "-> libx.so.2"),
        ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nx:x:1000:1000::/:\n", {"uid": 70_000}),
        ("empty", "-> etc/passwd"),
    ]
    application = [
        directory("srv"),
        directory("srv/app", uid=1000, gid=1000),
        ("srv/app/caf\udce9 \n", b"a name", {"uid": 1000, "gid": 1000}),
        ("srv/app/" + "n" * 255, b"long", {"mtime": 5_000_000_000}),
        ("srv/app/fifo", "fifo"),
        ("srv/app/far", b"", {"uid": 3_000_000_000, "gid": 3_000_000_001}),
        ("bin", "-> usr/bin"),
    ]
    return [base, packages, application]


def whiteout(path: str) -> str:
    parent, slash, name = path.rpartition("/")
    return f"{parent}{slash}.wh.{name}"


def generated(seed: int) -> Layers:
    """Layers that change, replace and remove what is below them, as a builder would say it."""
    source = random.Random(seed)
    alive: dict[str, str] = {}  # path to "d" or "f"
    layers: Layers = []
    for number in range(5):
        stated: dict[str, Any] = {}
        gone: set[str] = set()
        for _ in range(25):
            parents = [""] + [path for path, kind in alive.items() if kind == "d"]
            parent = source.choice(parents)
            path = (parent + "/" if parent else "") + source.choice("abcdefgh")
            if path in stated or path in gone or any(parent == one or parent.startswith(one + "/") for one in gone):
                continue
            more = {
                "mode": source.choice([0o600, 0o644, 0o755, 0o4711, 0o1777]),
                "uid": source.choice([0, 1, 100_000]),
                "gid": source.choice([0, 5]),
                "mtime": 1_600_000_000 + source.randrange(10**8),
            }
            if path in alive and path not in stated and source.random() < 0.4:
                gone.add(path)
                alive = {one: kind for one, kind in alive.items() if one != path and not one.startswith(path + "/")}
                continue
            if alive.get(path) == "d":
                continue
            for at in range(1, len(path.split("/"))):
                above = "/".join(path.split("/")[:at])
                stated.setdefault(above, (above + "/", None, {"mtime": 1_650_000_000 + number}))
            if source.random() < 0.4 and path not in alive:
                stated[path], alive[path] = (path + "/", None, more), "d"
            else:
                stated[path], alive[path] = (path, source.randbytes(source.choice([0, 10, 3000])), more), "f"
        whiteouts = [
            ("/".join([*path.split("/")[:-1], ".wh." + path.rpartition("/")[2]]), b"") for path in sorted(gone)
        ]
        parents_of_gone = {"/".join(path.split("/")[:at]) for path in gone for at in range(1, path.count("/") + 1)}
        for above in parents_of_gone:
            stated.setdefault(above, (above + "/", None, {"mtime": 1_650_000_000 + number}))
        layers.append([stated[path] for path in sorted(stated)] + whiteouts)
    return layers


IMAGES = {
    "small system": small_system,
    **{f"generated {seed}": lambda seed=seed: generated(seed) for seed in (1, 2, 3)},
}


@contextmanager
def by_podman(layout: Path) -> Iterator[Path]:
    """Where podman mounts the layout's image ``x``."""
    with podman_command("overlay") as podman:
        pulled = subprocess.run(
            [*podman, "pull", "-q", f"oci:{layout}:x"], capture_output=True, check=True, text=True
        )
        shown = subprocess.run(
            [*podman, "image", "mount", pulled.stdout.split()[-1]], capture_output=True, check=True, text=True
        )
        yield Path(shown.stdout.strip())


@contextmanager
def by_lamina(where: Path, view: str = "") -> Iterator[Path]:
    store = Store.open(str(where / "s"))
    copy(LayoutReader(str(where / "l")), store, [("x", "x")])
    mounted = mount(store, store.stack("x", Platform.host()), str(where / "mnt"), view=view)
    try:
        yield where / "mnt"
    finally:
        unmount(store, mounted.target)


@pytest.mark.parametrize("image", IMAGES)
def test_podman_shows_the_same(image: str, tmp_path: Path) -> None:
    require_root()
    require_tool("busybox")
    write_layout(tmp_path / "l", "x", IMAGES[image]())
    with by_podman(tmp_path / "l") as place:
        theirs = state(place)
    assert len(theirs[0]) > 10
    for view in VIEWS:
        with by_lamina(tmp_path, view) as place:
            assert state(place) == theirs, view


def test_where_podman_differs(tmp_path: Path) -> None:
    """So that a change of theirs is seen: a hardlink's own header counts there, and no time is before 1970."""
    require_root()
    layer = [("a", b"a", {"mode": 0o755}), ("link", "= a", {"mode": 0o600}), ("old", b"o", {"mtime": -100})]
    write_layout(tmp_path / "l", "x", [layer])
    with by_podman(tmp_path / "l") as place:
        theirs = ((place / "a").stat().st_mode & 0o777, (place / "old").stat().st_mtime)
    with by_lamina(tmp_path) as place:
        ours = ((place / "a").stat().st_mode & 0o777, (place / "old").stat().st_mtime)
    assert (theirs, ours) == ((0o600, 0), (0o755, -100))


DOCKERS = {".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "proc", "sys", "etc/hosts", "etc/hostname"}
"""What docker makes in every container, beside the two below."""
DOCKERS |= {"etc/resolv.conf", "etc/mtab"}
TOUCHED = {"etc"}
"""Directories whose times that changes."""


def of_tar(path: Path) -> tuple[dict[str, Any], set[frozenset[str]]]:
    """As ``state``, of a tar of a whole file system, in seconds: without what docker makes."""
    found: dict[str, Any] = {}
    groups: dict[str, set[str]] = {}
    with tarfile.open(path, errors="surrogateescape") as tar:
        for member in tar:
            name = member.name.removeprefix("./").strip("/")
            first = member.linkname.removeprefix("./").strip("/") if member.islnk() else name
            if not member.isdir():
                groups.setdefault(first, set()).add(name)
            if member.islnk() or name in ("", ".") or name in DOCKERS:
                continue
            what: Any = member.linkname if member.issym() else (member.devmajor, member.devminor)
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                what = (member.size, hashlib.file_digest(file, "sha256").hexdigest())  # type: ignore[arg-type]
            xattrs = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")}
            mode = member.mode if not member.issym() else 0o777
            time = None if name in TOUCHED else int(member.mtime)
            found[name] = (member.type, oct(mode & 0o7777), member.uid, member.gid, time, what, xattrs)
    return found, {frozenset(names - DOCKERS) for names in groups.values() if names - DOCKERS}


@pytest.mark.parametrize("image", IMAGES)
def test_docker_exports_the_same(docker: Docker, image: str, tmp_path: Path) -> None:
    require_tool("busybox")
    write_layout(tmp_path / "l", "x", IMAGES[image]())
    layout = LayoutReader(str(tmp_path / "l"))
    with RegistryServer(layout) as server:
        docker.ok("pull", f"{server.name}/x")
        docker.export(f"{server.name}/x", tmp_path / "theirs.tar")
    copy(layout, Store.open(str(tmp_path / "s")), [("x", "x")])
    done = lamina("export", "x", "-o", str(tmp_path / "ours.tar"), root=tmp_path / "s")
    assert done.returncode == 0, done.stderr
    ours, theirs = of_tar(tmp_path / "ours.tar"), of_tar(tmp_path / "theirs.tar")
    if "etc" not in ours[0]:
        del theirs[0]["etc"]
    assert len(theirs[0]) > 10
    assert ours == theirs
