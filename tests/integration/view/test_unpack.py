"""An unpacked image equals the tree, to the bit; for root, for a plain user, and after a kill."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.archive.layout import LayoutReader
from lamina.errors import Cancelled, InvalidLayer
from lamina.events import Cancel
from lamina.layer.entry import Kind
from lamina.serve.server import RegistryServer
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.transfer.open_stack import open_stack
from lamina.view.overlay.lower import unpack_parts
from lamina.view.unpack.unpack import remove_tree, unpack
from lamina.view.upper_check import refusal
from support import lamina, require_root, rounds, write_layout

KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
ROOT = os.geteuid() == 0
BIG = random.Random(1).randbytes(700_000)


def layout_stack(where: Path, layers: list[Any]) -> Stack:
    write_layout(where / "l", "app", layers)
    return open_stack(LayoutReader(str(where / "l")), "app", Platform.host(), "app")


def check(stack: Stack, target: Path, *, owners: bool = ROOT, without: frozenset[Kind] = frozenset()) -> int:
    """Every path of the union, compared with what is there; how many. Needs the rights to look everywhere."""
    tree, top = stack.tree(), os.fsencode(target)
    seen = {b""}
    for where, directories, files in os.walk(top):
        seen.update(os.path.relpath(os.path.join(where, name), top) for name in directories + files)
    nodes = {tree.path(node): node for node in tree.walk() if tree.kind(node) not in without}
    assert seen == set(nodes)
    inodes: dict[int, int] = {}
    for path, node in nodes.items():
        full = os.path.join(top, path)
        found, entry = os.lstat(full), tree.entry(node)
        kind = KINDS[stat.S_IFMT(found.st_mode)]
        assert (kind, found.st_mtime_ns) == (entry.kind, entry.mtime), path
        if kind != Kind.SYMLINK:
            assert found.st_mode & 0o7777 == entry.mode, path
        if owners:
            assert (found.st_uid, found.st_gid) == (entry.uid, entry.gid), path
        if kind != Kind.DIRECTORY:
            assert found.st_nlink == tree.links(node), path
            assert inodes.setdefault(tree.inode(node), found.st_ino) == found.st_ino
        if kind == Kind.SYMLINK:
            assert os.readlink(full) == entry.link
        elif kind in (Kind.CHAR, Kind.BLOCK):
            assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == entry.rdev
        elif kind == Kind.FILE:
            with open(full, "rb") as file, stack.open_file(node) as stream:
                assert hashlib.sha256(file.read()).digest() == hashlib.sha256(stream.read()).digest(), path
        names = os.listxattr(full, follow_symlinks=False)
        attributes = {name.encode(): os.getxattr(full, name, follow_symlinks=False) for name in names}
        if owners:
            assert attributes == dict(entry.xattrs), path
    assert len(set(inodes.values())) == len(inodes)
    return len(nodes)


NAMES = st.sampled_from(["a", "b", "c", "a/x", "a/y", "b/x", "b/x/z"])
MODES = st.sampled_from([0o644, 0o755, 0o400, 0o666, 0o4755, 0o2711, 0o1777, 0o100])
ABOUT = st.fixed_dictionaries(
    {
        "mode": MODES,
        "uid": st.sampled_from([0, 0, 7, 3_000_000_000]) if ROOT else st.just(os.geteuid()),
        "gid": st.sampled_from([0, 0, 9]) if ROOT else st.just(os.getegid()),
        "mtime": st.sampled_from([0, 1_700_000_000, 5_000_000_000]),
        "pax_headers": st.sampled_from([{}, {"mtime": "1600000000.123456789"}, {"SCHILY.xattr.user.a": "b"}]),
    }
)
MEMBERS = st.one_of(
    st.tuples(NAMES, st.binary(max_size=1500), ABOUT),
    st.tuples(NAMES.map(lambda name: name + "/"), st.none(), ABOUT),
    st.tuples(NAMES, st.just("-> a"), ABOUT.map(lambda about: {**about, "pax_headers": {}})),
    st.tuples(NAMES, st.just("fifo"), ABOUT.map(lambda about: {**about, "pax_headers": {}})),
    st.tuples(
        NAMES.map(lambda name: "/".join([*name.split("/")[:-1], ".wh." + name.rpartition("/")[2]])), st.just(b"")
    ),
)
LAYERS = st.lists(
    st.tuples(st.lists(MEMBERS, max_size=6, unique_by=lambda m: m[0].rstrip("/")), st.integers(0, 5)),
    min_size=1,
    max_size=4,
)


def with_links(layers: Any) -> list[Any]:
    """Hardlinks to a file of the same layer, right behind it: what comes later may replace it."""
    found = []
    for number, (members, links) in enumerate(layers):
        made: list[Any] = []
        for member in members:
            made.append(member)
            if isinstance(member[1], bytes) and len(member) == 3:
                made += [(f"l{number}-{n}", f"= {member[0]}") for n in range(links)]
                links = 0
        found.append(made)
    return found


@pytest.mark.skipif(not ROOT, reason="looks into directories without rights")
@given(LAYERS)
@settings(max_examples=rounds(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_stacks(tmp_path_factory: pytest.TempPathFactory, layers: Any) -> None:
    where = tmp_path_factory.mktemp("u")
    stack = layout_stack(where, with_links(layers))
    report = unpack(stack, os.fsencode(where / "out"))
    assert check(stack, where / "out") == report.entries
    assert report.warnings == []


CORNERS = [
    ("own/", None, {"mode": 0o555}),
    ("own/deep/", None, {"mode": 0o555}),
    ("own/deep/file", b"below", {"mode": 0o444}),
    ("closed/", None, {"mode": 0o700, "uid": 5}),
    ("big", BIG),
    ("again", "= big"),
    ("empty", b""),
    ("dangling", "-> ../../.."),
    ("caf\udce9 \udcff", b"bytes"),
    ("n" * 255, b"long name"),
    ("early", b"o", {"mtime": -5}),
    ("suid", b"#!", {"mode": 0o4755}),
    ("wide", b"w", {"mode": 0o777}),
    ("fifo", "fifo", {"mode": 0o666}),
    ("d/" * 300 + "bottom", b"deeper than descriptors are kept"),
]


def test_corners(tmp_path: Path) -> None:
    require_root()
    xattrs = {"SCHILY.xattr.user.note": "text", "SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x20" + "\0" * 14}
    more = [
        ("char", "c 1 3", {"mode": 0o666, "uid": 3}),
        ("attributed", b"x", {"uid": 77, "gid": 78, "pax_headers": xattrs}),
        ("noted-link", "-> x", {"uid": 4, "pax_headers": {"SCHILY.xattr.trusted.t": "t"}}),
        ("noted/", None, {"pax_headers": {"SCHILY.xattr.user.d": "dir"}}),
    ]
    stack = layout_stack(tmp_path, [[*CORNERS, *more]])
    report = unpack(stack, os.fsencode(tmp_path / "out"))
    assert check(stack, tmp_path / "out") == report.entries
    assert report.warnings == []


def test_modes_do_not_depend_on_umask_setgid_or_default_acls(tmp_path: Path) -> None:
    """Neither the umask, nor a group, nor an access list that new files get there."""
    require_root()
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 0, 50)
    place.chmod(0o2777)
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, rights, who in ((1, 7, -1), (2, 7, 1234), (4, 5, -1), (16, 5, -1), (32, 0, -1))
    )
    os.setxattr(place, "system.posix_acl_default", acl)
    stack = layout_stack(tmp_path, [[*CORNERS, ("t/", None, {"mode": 0o1777})]])
    before = os.umask(0o077)
    try:
        report = unpack(stack, os.fsencode(place / "out"))
    finally:
        os.umask(before)
    assert check(stack, place / "out") == report.entries


def as_nobody(work: Callable[[], list[str]]) -> list[str]:
    """The lines that ``work`` gives, called in a process that is a plain user."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has threads
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writing, "\n".join(work()).encode())
        except BaseException as error:
            os.write(writing, f"failed: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        lines = file.read().splitlines()
    os.waitpid(child, 0)
    return lines


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory of a plain user, which every user may enter."""
    place = Path(tempfile.mkdtemp(prefix="lamina-u-", dir="/tmp"))
    place.chmod(0o755)
    os.chown(place, 65534, 65534)
    yield place
    shutil.rmtree(place)


def test_as_a_plain_user(tmp_path: Path, public: Path) -> None:
    require_root()
    stack = layout_stack(tmp_path, [[*CORNERS, ("char", "c 1 3")]])
    stack.tree()
    target = public / "out"
    said = as_nobody(lambda: unpack(stack, os.fsencode(target)).warnings)
    assert said == [
        "/char: only root can create devices; left out",
        "all files belong to you: only root can give them the owners that the image states",
    ]
    check(stack, target, owners=False, without=frozenset({Kind.CHAR}))
    assert {os.lstat(os.path.join(where, name)).st_uid for where, _, names in os.walk(target) for name in names} == {
        65534
    }
    # what can't be finished as a plain user leaves nothing either, whatever its directories' rights
    cut = layout_stack(tmp_path / "cut", [[("a/", None, {"mode": 0o555}), ("a/b", BIG)]])
    cut.tree()
    cut.layers[0]._tar.truncate(1000)  # type: ignore[attr-defined]
    said = as_nobody(lambda: [str(unpack(cut, os.fsencode(public / "bad")).warnings)])
    assert len(said) == 1
    assert said[0].startswith("failed: InvalidLayer")
    assert os.listdir(public) == ["out"]


def test_sparse_file_keeps_its_holes(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(1 << 20)
        file.write(b"\1" * 8192)
        file.seek(40 << 20)
        file.write(b"\2" * 900_000)
    done = subprocess.run(
        ["tar", "-c", "--sparse", "--format=gnu", "-C", str(tmp_path), "sparse"], capture_output=True, check=True
    )
    stack = layout_stack(tmp_path, [done.stdout])
    unpack(stack, os.fsencode(tmp_path / "out"))
    made = tmp_path / "out" / "sparse"
    assert made.read_bytes() == source.read_bytes()
    assert made.stat().st_blocks * 512 < 4 << 20


def test_cancel_and_a_short_tar_leave_nothing(tmp_path: Path) -> None:
    stack = layout_stack(tmp_path, [[("a/b", BIG), ("c", b"c")]])
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        unpack(stack, os.fsencode(tmp_path / "out"), cancel=cancel)
    assert sorted(os.listdir(tmp_path)) == ["l"]
    stack.tree()
    stack.layers[0]._tar.truncate(5000)  # type: ignore[attr-defined]
    with pytest.raises(InvalidLayer, match="shorter"):
        unpack(stack, os.fsencode(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["l"]


def many() -> list[list[Any]]:
    """Enough for several processes, with names of one file far from each other."""
    files: list[Any] = [(f"d{n % 40}/f{n}", f"content {n}".encode() * (n % 50)) for n in range(3000)]
    files += [(f"links/l{n}", f"= d{n % 40}/f{n}") for n in range(0, 3000, 7)]
    return [files, [("d1/f1", b"new"), ("d2/.wh.f2", b""), ("d3/.wh..wh..opq", b"")]]


def test_through_the_command_line_in_several_processes(tmp_path: Path) -> None:
    stack = layout_stack(tmp_path, many())
    done = lamina("unpack", "--no-same-owner", f"oci:{tmp_path}/l", str(tmp_path / "out"), root=tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert check(stack, tmp_path / "out", owners=False) > 3000


KILLED = """
import os, sys
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.view.unpack import copy_content; from lamina.view.overlay import lower
write, calls = copy_content.ContentCopier.write, []
def killed(self, *words):
    calls.append(words)
    if len(calls) == 3:
        os.kill(os.getpid(), 9)
    write(self, *words)
copy_content.ContentCopier.write = killed
store = Store.open(sys.argv[1])
lower.unpack_parts(store, store.stack("app", Platform.host()))
"""


def test_kill_9_leaves_a_store_that_works(tmp_path: Path) -> None:
    require_root()
    write_layout(tmp_path / "l", "app", [[(f"f{n}", b"x" * n) for n in range(9)], [("g", b"g"), ("f1", b"new")]])
    store = Store.open(str(tmp_path / "s"))
    copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app")])
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "s")], check=False)
    assert done.returncode == -signal.SIGKILL
    left = {name for key in os.listdir(store.paths.unions) for name in os.listdir(store.paths.union(key))}
    assert "tree" not in left
    assert [name for name in left if name.endswith(".tmp")]
    assert lamina("cat", "app", "/f1", root=tmp_path / "s").stdout == b"new"
    found = [sorted(os.listdir(tree)) for tree in unpack_parts(store, store.stack("app", Platform.host()))]
    files = [f"f{n}" for n in range(9)]
    assert found == ([[*files, "g"]] if refusal(str(tmp_path)) else [files, ["f1", "g"]])
    left = {name for key in os.listdir(store.paths.unions) for name in os.listdir(store.paths.union(key))}
    assert not [name for name in left if name.endswith(".tmp")]


def test_pull_unpack_makes_the_trees_of_the_overlay_view(tmp_path: Path) -> None:
    require_root()
    layers: list[Any] = [[("base/a", b"a"), ("gone", b"g")], [("base/b", b"b"), (".wh.gone", b"")]]
    write_layout(tmp_path / "l", "app", layers)
    with RegistryServer(LayoutReader(str(tmp_path / "l"))) as server:
        name = f"{server.name}/app"
        done = lamina("pull", "-q", "--unpack", name, root=tmp_path / "s")
    assert done.returncode == 0, done.stderr
    store = Store.open(str(tmp_path / "s"))
    trees = [store.paths.union(key) for key in os.listdir(store.paths.unions)]
    before = {
        os.stat(os.path.join(tree, "tree")).st_ino for tree in trees if os.path.isdir(os.path.join(tree, "tree"))
    }
    marks = not refusal(str(tmp_path))  # else one tree shows all
    assert len(before) == (2 if marks else 1)
    parts = unpack_parts(store, store.stack(name, Platform.host()))
    assert {os.stat(part).st_ino for part in parts} == before
    gone = os.path.join(parts[-1], "gone")
    assert stat.S_ISCHR(os.lstat(gone).st_mode) if marks else not os.path.lexists(gone)
    remove_tree(os.fsencode(parts[0]))
    assert not os.path.exists(parts[0])
