"""A mounted union equals the tree, to the bit; mounts are kept, listed and removed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lamina as library
from lamina.archive.layout import LayoutReader
from lamina.errors import Conflict, InvalidLayer, NotFound, SystemFailure
from lamina.layer.entry import Kind
from lamina.settings import VIEWS
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.store.gc import collect
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.union.merge import merge
from lamina.view import kernel
from lamina.view.erofs.write import crc32c
from lamina.view.overlay.lower import mounted_at, sweep
from lamina.view.overlay.mount import Top, mount, mount_union, mounts, unmount
from lamina.view.parts import DEEPEST, parts_of
from lamina.view.upper_check import refusal
from support import lamina, layer_index, require_root, require_tool, rounds, write_layout

KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
BIG = random.Random(1).randbytes(70_000)
COUNT = rounds(30_000, 4_000)


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def loaded(where: Path, layers: list[list[Any] | bytes]) -> Store:
    write_layout(where / "l", "app", layers)
    store = Store.open(str(where / "s"))
    copy(LayoutReader(str(where / "l")), store, [("app", "app")])
    return store


def stack_of(store: Store) -> Stack:
    return store.stack("app", Platform.host())


def check_mounted(store: Store, target: Path, stack: Stack | None = None) -> int:
    """Every path of the union, compared with what the kernel shows in every view; how many."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", store.paths.root], capture_output=True, check=True).stdout
    # an overlayfs lets nobody make whiteouts: no unpacked trees there (tests/on_overlay.sh)
    views = [view for view in VIEWS if view != "overlay" or kind != b"overlayfs\n"]
    if not shutil.which("fusermount3") and "LAMINA_TEST_REQUIRE" not in os.environ:
        views.remove("fuse")
    (count,) = {check_view(store, target, view, stack or stack_of(store)) for view in views}
    return count


def check_view(store: Store, target: Path, view: str, stack: Stack) -> int:
    tree = stack.tree()
    mount(store, stack, str(target), view=view)
    overlaid = subprocess.run(["stat", "-f", "-c", "%T", target], capture_output=True, check=True).stdout
    try:
        seen = {b""}
        for where, directories, files in os.walk(os.fsencode(target)):
            seen.update(
                os.path.relpath(os.path.join(where, name), os.fsencode(target)) for name in directories + files
            )
        nodes = {tree.path(node): node for node in tree.walk()}
        assert seen == set(nodes)
        inodes: dict[int, tuple[int, int]] = {}
        for path, node in nodes.items():
            full = os.path.join(os.fsencode(target), path)
            found, entry = os.lstat(full), tree.entry(node)
            kind = KINDS[stat.S_IFMT(found.st_mode)]
            assert (kind, found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns) == (
                (entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime)
            ), path
            if kind != Kind.DIRECTORY:
                # an overlay counts the names in the file's own layer, hidden ones too
                assert found.st_nlink >= tree.links(node), path
                assert found.st_nlink == tree.links(node) or overlaid == b"overlayfs\n", path
                identity = (found.st_dev, found.st_ino)  # each part of an overlay has its own device
                assert inodes.setdefault(tree.inode(node), identity) == identity
            if kind == Kind.SYMLINK:
                assert os.readlink(full) == entry.link
            elif kind in (Kind.CHAR, Kind.BLOCK):
                assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == entry.rdev
            elif kind == Kind.FILE:
                assert found.st_size == entry.size
                with open(full, "rb") as file, stack.open_file(node) as stream:
                    assert hashlib.sha256(file.read()).digest() == hashlib.sha256(stream.read()).digest(), path
            names = os.listxattr(full, follow_symlinks=False)
            assert {name.encode(): os.getxattr(full, name, follow_symlinks=False) for name in names} == dict(
                entry.xattrs
            )
        assert len(set(inodes.values())) == len(inodes)
        return len(nodes)
    finally:
        unmount(store, str(target))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mnt"
    yield place
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "other"
    yield place
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


ACL = bytes.fromhex("0200000001000600ffffffff02000600e803000004000400ffffffff10000600ffffffff20000400ffffffff")


def test_every_kind_and_corner(tmp_path: Path, target: Path) -> None:
    xattrs = {
        "SCHILY.xattr.user.note": "some text",
        "SCHILY.xattr.user.long": "x" * 3000,
        "SCHILY.xattr.trusted.t": "t",
        "SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x20" + "\0" * 14,
        "SCHILY.xattr.system.posix_acl_access": ACL.decode("utf-8", "surrogateescape"),
    }
    lowest = [
        ("etc/", None, {"mode": 0o750, "uid": 3_000_000_000, "gid": 70_000}),
        ("etc/conf", b"lower"),
        ("etc/gone", b"gone"),
        ("keep/", None),
        ("keep/a", b"a"),
        ("opaque/", None),
        ("opaque/hidden", b"h"),
        ("file", BIG),
        ("link-below", "= file"),
        ("was-a-directory/", None),
        ("was-a-directory/x", b"x"),
    ]
    upper = [
        ("etc/.wh.gone", b""),
        ("etc/conf", b"upper"),
        ("opaque/.wh..wh..opq", b""),
        ("opaque/new", b"n"),
        ("link-above", "= file"),
        ("was-a-directory", b"now a file"),
        ("implied/deep/path", b"p"),
        ("empty", b""),
        ("suid", b"#!", {"mode": 0o6755}),
        ("char", "c 1 3"),
        ("big-device", "c 300 70000"),
        ("fifo", "fifo"),
        ("short-link", "-> a"),
        ("long-link", "-> " + "y" * 4000),
        ("dangling", "-> ../../.."),
        ("caf\udce9 \udcff", b"bytes"),
        ("n" * 255, b"long name"),
        ("old", b"o", {"mtime": -5}),
        ("late", b"l", {"mtime": 5_000_000_000}),
        ("nano", b"n", {"mtime": 1, "pax_headers": {"mtime": "1700000000.123456789"}}),
        ("attributed", b"x", {"mode": 0o664, "pax_headers": xattrs}),
    ]
    store = loaded(tmp_path, [lowest, upper])
    assert check_mounted(store, target) == 28


def test_links_through_symlinks_and_to_what_aufs_kept(tmp_path: Path, target: Path) -> None:
    lower = [("usr/", None), ("usr/lib/", None), ("usr/lib/a", BIG), ("lib", "-> /usr/lib"), ("x", "= lib/a")]
    kept = [(".wh..wh.plnk/1.2", BIG[:999], {"mode": 0o750}), ("b", b"b"), ("y", "= .wh..wh.plnk/1.2"), ("z", "= y")]
    store = loaded(tmp_path, [lower, kept])
    assert check_mounted(store, target) == 9
    assert len(parts_of(store, stack_of(store))) == 2
    lower_link = loaded(tmp_path / "2", [lower, [("w", "= lib/a")]])
    assert check_mounted(lower_link, target) == 7
    for one, name, content in ((store, "z", BIG[:999]), (lower_link, "w", BIG)):
        mount(one, stack_of(one), str(target))
        try:
            assert (target / name).read_bytes() == content
        finally:
            unmount(one, str(target))


def test_many_names_in_one_directory(tmp_path: Path, target: Path) -> None:
    names = [(f"d/{'x' * (number % 90)}{number}", b"") for number in range(COUNT)]
    assert check_mounted(loaded(tmp_path, [names]), target) == COUNT + 2


def test_many_layers(tmp_path: Path, target: Path) -> None:
    layers = [[(f"f{number}", f"content {number}".encode()), ("same", f"{number}".encode())] for number in range(200)]
    store = loaded(tmp_path, layers)  # type: ignore[arg-type]
    assert check_mounted(store, target) == 202


def test_sparse_file(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"\1" * 8192)
    done = subprocess.run(
        ["tar", "-c", "--sparse", "--format=gnu", "-C", str(tmp_path), "sparse"], capture_output=True, check=True
    )
    assert check_mounted(loaded(tmp_path, [done.stdout]), target) == 2


NAMES = st.sampled_from(["a", "b", "c", "a/x", "a/y", "b/x", "b/x/z"])
MEMBERS = st.one_of(
    st.tuples(NAMES, st.binary(max_size=1500)),
    st.tuples(NAMES.map(lambda name: name + "/"), st.none()),
    st.tuples(NAMES, st.just("-> a")),
    st.tuples(
        NAMES.map(lambda name: "/".join([*name.split("/")[:-1], ".wh." + name.rpartition("/")[2]])), st.just(b"")
    ),
    st.tuples(st.sampled_from(["", "a/"]).map("{}.wh..wh..opq".format), st.just(b"")),
    st.tuples(NAMES, NAMES.map("= {}".format)),
)
STACKS = st.lists(st.lists(MEMBERS, max_size=6, unique_by=lambda m: m[0].rstrip("/")), min_size=1, max_size=4)


@given(STACKS)
@settings(max_examples=rounds(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_stacks(tmp_path_factory: pytest.TempPathFactory, layers: list[list[Any]]) -> None:
    try:
        merge([layer_index(*layer) for layer in layers])
    except InvalidLayer:
        return  # a link to nothing
    where = tmp_path_factory.mktemp("m")
    check_mounted(loaded(where, layers), where / "mnt")  # type: ignore[arg-type]


OPAQUE_ROOTS: list[list[Any]] = [
    [("./", None, {"mode": 0o711, "uid": 5}), ("old", b"1"), ("d/", None), ("d/x", b"2"), ("gone", b"3")],
    [("d/", None), ("d/y", b"4"), (".wh..wh..opq", b""), (".wh.gone", b"")],
    [("d/z", b"5"), ("late", b"6")],
    [(".wh..wh..opq", b""), ("e/f", b"7"), ("e/l", "= e/f"), ("n", b"8")],
    [(".wh.n", b""), ("e/g", b"9")],
]


@pytest.mark.parametrize(("low", "high", "shown", "seen"), [(1, 5, 4, 2), (1, 3, 4, 2), (2, 3, 4, 2), (1, 2, 2, 1)])
def test_an_opaque_root_hides_all_layers_below_it(
    tmp_path: Path, target: Path, low: int, high: int, shown: int, seen: int
) -> None:
    """In every view, though the kernel ignores such a mark; ``seen``: the layers that are mounted for it."""
    write_layout(tmp_path / "l", "app", OPAQUE_ROOTS)
    store = Store.open(str(tmp_path / "s"))
    copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app")])
    stack = stack_of(store).slice(low, high)
    assert check_mounted(store, target, stack) == shown + 1
    assert [part.layers for part in parts_of(store, stack)] == [(one,) for one in stack.diff_ids[-seen:]]
    assert lamina("unpack", f"app~{low}:{high}", str(tmp_path / "u"), root=tmp_path / "s").returncode == 0
    mount(store, stack, str(target))
    try:
        assert tree_of(target) == tree_of(tmp_path / "u")
        assert target.stat().st_mode & 0o777 == (0o711 if low == 1 else 0o755)
    finally:
        unmount(store, str(target))


def test_what_a_container_sees_and_writes_above_an_opaque_root(
    tmp_path: Path, target: Path, request: pytest.FixtureRequest
) -> None:
    store = loaded(tmp_path, OPAQUE_ROOTS)
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if refusal(str(tmp_path)) else tmp_path))
    request.addfinalizer(lambda: shutil.rmtree(place))
    target.mkdir()
    for name in ("upper", "work"):
        (place / name).mkdir()
    for view in VIEWS:
        if view == "fuse":
            continue  # read-only
        mount_union(
            store, stack_of(store), str(target), view=view, top=Top(str(place / "upper"), str(place / "work"))
        )
        try:
            assert tree_of(target) == {"e": None, "e/f": b"7", "e/g": b"9", "e/l": b"7"}
            (target / "old").write_bytes(b"new")
            assert (place / "upper/old").read_bytes() == b"new"
        finally:
            subprocess.run(["umount", str(target)], check=True)
            sweep(store)
        (place / "upper/old").unlink()


def tree_of(top: Path) -> dict[str, bytes | None]:
    """Each path, and what the file holds."""
    return {str(path.relative_to(top)): path.read_bytes() if path.is_file() else None for path in top.rglob("*")}


def two_images(where: Path) -> Store:
    """``app`` and ``other`` on one base."""
    store = Store.open(str(where / "s"))
    base = [("base", BIG), ("keep", b"k")]
    for name in ("app", "other"):
        write_layout(where / name, name, [base, [(name, name.encode())]])
        copy(LayoutReader(str(where / name)), store, [(name, name)])
    return store


def resident(path: Path) -> int:
    """How many pages of the file are in memory, without reading it."""
    size = path.stat().st_size
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    with path.open("rb") as file:
        at = library.mmap(None, ctypes.c_size_t(size), 1, 1, file.fileno(), ctypes.c_long(0))
        pages = (ctypes.c_ubyte * (-(-size // 4096)))()
        assert library.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), pages) == 0
        library.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size))
    return sum(page & 1 for page in pages)


def part_mounts(store: Store) -> list[str]:
    return [key for key in os.listdir(store.paths.unions) if os.path.ismount(mounted_at(store, key))]


@pytest.mark.parametrize("view", ["overlay", "erofs"])
def test_a_view_that_is_set_is_taken_and_layers_come_in_for_it(tmp_path: Path, view: str) -> None:
    """A tar that is going to be unpacked stays in the page cache, one that is mounted goes around it."""
    write_layout(tmp_path / "l", "app", [[("big", BIG)]], compress=True)
    root, around = tmp_path / "s", view == "erofs" and tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12)
    assert lamina("load", "-i", str(tmp_path / "l"), root=root, LAMINA_VIEW=view).returncode == 0
    (tar,) = (root / "layers").rglob("tar")
    assert (resident(tar) == 0) == around
    try:
        assert lamina("mount", "app", str(tmp_path / "m"), root=root, LAMINA_VIEW=view).returncode == 0
        (one,) = json.loads(lamina("mounts", "--format", "json", root=root).stdout)
        assert one["view"] == view
        assert (tmp_path / "m" / "big").read_bytes() == BIG
    finally:
        lamina("umount", "--all", root=root)


def test_a_file_of_a_shared_layer_is_in_memory_once(tmp_path: Path) -> None:
    store = two_images(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    try:
        for name, place in (("app", first), ("other", second)):
            mount(store, store.stack(name, Platform.host()), str(place))
        assert len(part_mounts(store)) == 3  # the base's once
        assert resident(second / "base") == 0
        assert (first / "base").read_bytes() == BIG
        assert resident(second / "base") == -(-len(BIG) // 4096)
        unmount(store, str(first))
        assert len(part_mounts(store)) == 2
        assert (second / "base").read_bytes() == BIG
    finally:
        for place in (first, second):
            if place.is_mount():
                unmount(store, str(place))
    assert part_mounts(store) == []


@pytest.mark.parametrize(("view", "copies"), [("erofs", 2), ("overlay", 3)])
def test_a_second_image_costs_its_own_bytes_on_disk(tmp_path: Path, target: Path, view: str, copies: int) -> None:
    """``copies`` of its one file: in the blob, in the tar, in an unpacked tree."""
    store = Store.open(str(tmp_path / "s"))
    if view == "overlay" and refusal(store.paths.unions):
        pytest.skip("one tree of all layers is shown here")
    own = random.Random(2).randbytes(200_000)
    base = [("base", random.Random(3).randbytes(3 << 20)), *((f"d/{n}", b"small") for n in range(200))]
    sizes = []
    for name, layers in (("app", [base]), ("other", [base, [("own", own)]])):
        write_layout(tmp_path / "l", name, layers)
        copy(LayoutReader(str(tmp_path / "l")), store, [(name, name)])
        place = Path(f"{target}-{name}")
        mount(store, store.stack(name, Platform.host()), str(place), view=view)
        sizes.append(bytes_of_files(tmp_path / "s"))
    places = [Path(one.target) for one in mounts(store)]
    try:
        assert 0 <= sizes[1] - sizes[0] - copies * len(own) < 32 << 10
        # and in memory nothing: the base alone is the same files as the base below something
        assert len((places[0] / "base").read_bytes()) == 3 << 20
        assert resident(places[1] / "base") == (3 << 20) // 4096
    finally:
        for place in places:
            unmount(store, str(place))


@pytest.mark.parametrize("view", VIEWS[:3])
def test_a_layer_alone_shows_no_marks_of_overlays(tmp_path: Path, target: Path, view: str) -> None:
    """It may replace what is its own: below it there is nothing to hide."""
    store = loaded(tmp_path, [[("a", b"1"), ("a/", None), ("a/b", b"2"), ("c/d", b"3"), ("c/.wh..wh..opq", b"")]])
    mount(store, stack_of(store), str(target), view=view)
    try:
        assert [os.listxattr(target / name) for name in (".", "a", "c")] == [[], [], []]
        assert sorted(path.name for path in target.rglob("*")) == ["a", "b", "c", "d"]
    finally:
        unmount(store, str(target))


def bytes_of_files(top: Path) -> int:
    """What all files below take, each once, and nothing of what is mounted there."""
    device = top.stat().st_dev
    found = {}
    for where, directories, names in os.walk(top):
        directories[:] = [one for one in directories if os.lstat(os.path.join(where, one)).st_dev == device]
        states = (os.lstat(os.path.join(where, name)) for name in names)
        found.update({state.st_ino: state.st_size for state in states if stat.S_ISREG(state.st_mode)})
    return sum(found.values())


def test_parts_of_a_mount_that_has_ended_are_unmounted(tmp_path: Path, target: Path) -> None:
    store = two_images(tmp_path)
    mount(store, stack_of(store), str(target))
    subprocess.run(["umount", str(target)], check=True)
    assert len(part_mounts(store)) == 2
    assert lamina("umount", "--all", root=tmp_path / "s").returncode == 0
    assert part_mounts(store) == []


def test_rule_for_the_form(tmp_path: Path) -> None:
    store = loaded(tmp_path / "1", [[("a", b"1")], [("b", b"2")]])
    assert len(parts_of(store, stack_of(store))) == 2
    assert len(parts_of(store, stack_of(store), merged=True)) == 1
    linked = loaded(tmp_path / "2", [[("a", b"1")], [("b", "= a")]])
    for _ in range(2):  # found, then noted
        assert len(parts_of(linked, stack_of(linked))) == 1
    deep = loaded(tmp_path / "3", [[("a", str(number).encode())] for number in range(DEEPEST + 1)])
    assert len(parts_of(deep, stack_of(deep))) == 1


def test_a_second_mount_merges_nothing(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = two_images(tmp_path)
    mount(store, stack_of(store), str(target))
    unmount(store, str(target))
    monkeypatch.setattr(Stack, "tree", None)
    monkeypatch.setattr(Stack, "stacked", None)
    mount(store, stack_of(store), str(target))
    assert (target / "app").read_bytes() == b"app"
    unmount(store, str(target))


def test_a_view_that_the_kernel_refuses_leads_to_the_next(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = two_images(tmp_path)
    kernel_mount = kernel.mount

    def refusing(kind: str, *arguments: Any, **more: Any) -> None:
        if kind == "erofs":
            raise SystemFailure("erofs: refused")
        kernel_mount(kind, *arguments, **more)

    monkeypatch.setattr(kernel, "mount", refusing)
    assert mount(store, stack_of(store), str(target)).view == "overlay"
    assert (target / "base").read_bytes() == BIG
    unmount(store, str(target))
    with pytest.raises(SystemFailure, match="refused"):
        mount(store, stack_of(store), str(target), view="erofs")


def test_after_a_write_error_of_the_disk_volatile_containers_still_mount(
    tmp_path: Path, target: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses overlay's "volatile" there (EIO) until somebody has synced the file system."""
    store = two_images(tmp_path)
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if refusal(str(tmp_path)) else tmp_path))
    request.addfinalizer(lambda: shutil.rmtree(place))
    for path in (target, place / "upper", place / "work"):
        path.mkdir()
    kernel_mount, asked = kernel.mount, []

    def refusing(kind: str, options: Any, *arguments: Any, **more: Any) -> None:
        if kind == "overlay":
            asked.append(("volatile", None) in options)
            if asked[-1]:
                raise SystemFailure("mounting overlay: Input/output error")
        kernel_mount(kind, options, *arguments, **more)

    monkeypatch.setattr(kernel, "mount", refusing)
    top = Top(str(place / "upper"), str(place / "work"), volatile=True)
    assert mount_union(store, stack_of(store), str(target), top=top) == "erofs"
    assert asked == [True, False]
    (target / "new").write_bytes(b"new")
    assert (place / "upper" / "new").read_bytes() == b"new"
    subprocess.run(["umount", str(target)], check=True)
    assert sweep(store) == len(parts_of(store, stack_of(store)))


def test_copy_up_leaves_the_lower_layer_as_it_was(
    tmp_path: Path, target: Path, request: pytest.FixtureRequest
) -> None:
    store = two_images(tmp_path)
    stack = stack_of(store)
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if refusal(str(tmp_path)) else tmp_path))
    request.addfinalizer(lambda: shutil.rmtree(place))
    target.mkdir()
    for name in ("upper", "work"):
        (place / name).mkdir()
    for view in VIEWS:
        if view == "fuse":
            continue  # read-only
        mount_union(store, stack, str(target), view=view, top=Top(str(place / "upper"), str(place / "work")))
        with (target / "base").open("r+b") as file:
            file.write(b"changed")
        (target / "keep").unlink()
        assert (place / "upper" / "base").read_bytes() == b"changed" + BIG[7:]
        assert stat.S_ISCHR((place / "upper" / "keep").lstat().st_mode)
        subprocess.run(["umount", str(target)], check=True)
        mount(store, stack, str(target), view=view)
        assert (target / "base").read_bytes() == BIG
        unmount(store, str(target))
        for name in ("base", "keep"):
            (place / "upper" / name).unlink()


def test_gc_keeps_a_mounted_image(tmp_path: Path, target: Path) -> None:
    store = loaded(tmp_path, [[("a", BIG)]])
    mount(store, stack_of(store), str(target))
    assert lamina("rmi", "app", root=tmp_path / "s").returncode == 0
    collect(store, grace=0)
    assert (target / "a").read_bytes() == BIG
    assert store.layers.diff_ids()  # the tar is there, and could be mounted again
    unmount(store, str(target))
    collect(store, grace=0)
    assert store.layers.diff_ids() == []
    assert os.listdir(store.paths.unions) == []
    assert os.listdir(store.paths.roots) == []


def test_mount_that_went_away_by_itself_is_not_listed(tmp_path: Path, target: Path) -> None:
    store = loaded(tmp_path, [[("a", b"1")]])
    mount(store, stack_of(store), str(target))
    assert [one.target for one in mounts(store)] == [str(target)]
    subprocess.run(["umount", str(target)], check=True)
    assert mounts(store) == []
    with pytest.raises(NotFound):
        unmount(store, str(target))
    mount(store, stack_of(store), str(target))
    unmount(store, str(target))


def test_a_mount_after_a_killed_one_at_the_same_place(tmp_path: Path, target: Path) -> None:
    store = loaded(tmp_path, [[("a", b"1")]])
    words = ("mount", "app", str(target))
    assert lamina(*words, root=tmp_path / "s", LAMINA_FAULT="root.extended").returncode == -signal.SIGKILL
    assert lamina(*words, root=tmp_path / "s").returncode == 0
    assert [one.target for one in mounts(store)] == [str(target)]
    assert lamina("umount", "--all", root=tmp_path / "s").returncode == 0
    assert not os.path.ismount(target)
    assert list(store.roots) == []


def test_umount_does_not_kill_a_process_that_reuses_the_pid_of_a_holder(tmp_path: Path) -> None:
    store = loaded(tmp_path, [[("a", b"1")]])
    with subprocess.Popen(["sleep", "infinity"]) as other:
        try:
            name = store.roots.create("mount of app", mount=f"/proc/{other.pid}/root/proc")
            store.roots.release(name)  # as where the holder is gone
            record = Path(store.paths.roots, name)
            head = {**json.loads(record.read_text()), "pid": other.pid, "started": "1"}
            record.write_text(json.dumps(head) + "\n")
            assert mounts(store) == []
            assert lamina("umount", "--all", root=tmp_path / "s").returncode == 0
            assert other.poll() is None
        finally:
            other.kill()


def test_a_mount_point_in_use_is_refused(tmp_path: Path, target: Path) -> None:
    store = loaded(tmp_path, [[("a", b"1")]])
    target.mkdir()
    (target / "something").touch()
    with pytest.raises(Conflict, match="not empty"):
        mount(store, stack_of(store), str(target))
    (target / "something").unlink()
    mount(store, stack_of(store), str(target))
    with pytest.raises(Conflict, match="already"):
        mount(store, stack_of(store), str(target))
    assert len(mounts(store)) == 1
    unmount(store, str(target))
    assert part_mounts(store) == []


def test_command_line(tmp_path: Path) -> None:
    loaded(tmp_path, [[("a", b"1"), ("suid", b"", {"mode": 0o4755})], [("a", b"2")]])
    root = tmp_path / "s"
    made = lamina("mount", "app", root=root)
    assert made.returncode == 0, made.stderr
    place = Path(made.stdout.decode().strip())
    try:
        assert (place / "a").read_bytes() == b"2"
        assert os.statvfs(place).f_flag & os.ST_NOSUID
        assert os.statvfs(place).f_flag & os.ST_RDONLY
        below = Path(lamina("mount", "app~1", root=root).stdout.decode().strip())
        assert (below / "a").read_bytes() == b"1"
        listed = lamina("mounts", "--format", "{{.Image}}", root=root).stdout.decode().split()
        assert sorted(listed) == ["app", "app~1"]
    finally:
        assert lamina("umount", "--all", root=root).returncode == 0
    assert not place.exists()
    assert lamina("umount", str(place), root=root).returncode == 3
    assert lamina("umount", root=root).returncode == 2
    assert lamina("fsck", root=root).returncode == 0


def test_umount_takes_the_name_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded(tmp_path, [[("a", b"1")], [("a", b"2")]])
    root = tmp_path / "s"
    (tmp_path / "app").mkdir()
    try:
        for words in (("app",), ("app:latest",), ("app~1",), ("app", "app")):
            assert lamina("mount", *words, root=root).returncode == 0
        # a directory of that name goes first
        done = lamina("umount", "app", root=root)
        assert done.stdout.decode().count("\n") == 1
        assert lamina("mounts", root=root).stdout.count(b"app") >= 3
        done = lamina("umount", "docker.io/library/app", root=root)
        assert (done.returncode, done.stdout.decode().count("\n")) == (0, 2)
        assert lamina("image", "unmount", "app~1", root=root).returncode == 0
        assert lamina("mounts", "--format", "{{.Image}}", root=root).stdout == b""
        assert lamina("umount", "app", root=root).returncode == 3
    finally:
        lamina("umount", "--all", root=root)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_is_refused_as_a_mount_point(tmp_path: Path, kind: str) -> None:
    loaded(tmp_path, [[("a", b"1")]])
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("file")
    done = lamina("mount", "app", str(tmp_path / kind), root=tmp_path / "s")
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"file: it is not a directory (choose an empty directory, or a new one)" in done.stderr
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_in_python(tmp_path: Path) -> None:
    loaded(tmp_path, [[("a", b"1")], [("a", b"2")]])
    image = library.open("app", root=tmp_path / "s")
    with image.mount() as place, image[:1].mount(tmp_path / "below") as below:
        assert Path(place, "a").read_bytes() == b"2"
        assert Path(below, "a").read_bytes() == b"1"
    assert not os.path.ismount(place)


def test_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("layers", [1, 2])
def test_umount_keeps_a_foreign_mount_over_an_image(
    tmp_path: Path, target: Path, other: Path, view: str, layers: int
) -> None:
    if view == "overlay" and refusal(str(tmp_path)):
        pytest.skip("no unpacked trees here")
    if view == "fuse":
        require_tool("fusermount3")
    store = loaded(tmp_path, [[(f"a{number}", b"1")] for number in range(layers)])
    mount(store, stack_of(store), str(target), view=view)
    mount(store, stack_of(store), str(other), view=view)
    for foreign in (["-t", "tmpfs", "over", target], ["--bind", tmp_path, target]):
        subprocess.run(["mount", *foreign], check=True)
        with pytest.raises(Conflict, match="another mount"):
            unmount(store, str(target))
        assert sorted(one.target for one in mounts(store)) == [str(target), str(other)]
        subprocess.run(["umount", str(target)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "over", target], check=True)
    done = lamina("umount", "--all", root=tmp_path / "s")
    assert (done.returncode, done.stdout.decode()) == (5, f"{other}\n")
    assert done.stderr.startswith(f"lamina: {target}: another mount (tmpfs) covers the image".encode())
    subprocess.run(["umount", str(target)], check=True)
    assert (target / "a0").read_bytes() == b"1"
    unmount(store, str(target))
    assert not os.path.ismount(target)
    assert mounts(store) == []
