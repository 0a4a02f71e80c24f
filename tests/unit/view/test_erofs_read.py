"""What ``erofs`` writes, read back by ``erofs_read``: every name and attribute of the tree; and damage is found."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generated import attributed, numbered, stacks
from lamina.errors import InvalidLayer, StoreDamaged, Unsupported
from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder
from lamina.union.merge import merge
from lamina.union.tree import Tree
from lamina.view.erofs.read import ErofsImage, Name
from lamina.view.erofs.write import BLOCK, DEEP, crc32c, erofs_pieces, write_erofs
from support import rounds


def check(tree: Tree, image: ErofsImage) -> None:
    nodes = list(tree.walk())
    found = list(image.walk())
    assert [path for path, _ in found] == [tree.path(node) for node in nodes]
    inodes: dict[int, int] = {}
    for node, (path, name) in zip(nodes, found, strict=True):
        entry, origin = tree.entry(node), tree.origin(node)
        inode = image.inode(name.nid)
        assert inodes.setdefault(tree.inode(node), name.nid) == name.nid, path
        assert (inode.kind, inode.mode, inode.uid, inode.gid, inode.mtime, inode.rdev) == (
            (entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.rdev)
        ), path
        assert image.xattrs(inode) == dict(entry.xattrs), path
        assert name.is_directory == (entry.kind == Kind.DIRECTORY)
        if node:
            assert name.layer == (min(origin[0] + 1, DEEP) if origin else 0), path
            above = image.inode(found[nodes.index(tree.parent(node))][1].nid)
            assert image.find(above, tree.name(node)) == name
        if entry.kind == Kind.DIRECTORY:
            assert inode.links == 2 + sum(tree.is_directory(child) for child in tree.children(node).values())
            assert [one.name for one in image.names(inode)] == sorted(tree.children(node))
            for missing in (b"", b"aa", b"\xff", b"zz"):
                assert (image.find(inode, missing) is None) == (missing not in tree.children(node))
        else:
            assert inode.links == tree.links(node)
        if entry.kind == Kind.SYMLINK:
            assert image.link(inode) == entry.link
        if entry.kind == Kind.FILE:
            assert inode.size == entry.size
            extent = image.extent(inode)
            if entry.size == 0:
                assert extent is None
            elif entry.sparse is None:
                assert extent == (tree.content(node)[0] + 1, entry.offset, None)
            else:
                assert extent is not None
                segments = tuple(segment for segment in entry.sparse if segment[1])
                assert extent.sparse == segments
                assert not segments or extent[:2] == (tree.content(node)[0] + 1, entry.offset)
    assert len(set(inodes.values())) == len(inodes) == image.inodes


@given(stacks)
@settings(max_examples=rounds(300), deadline=None)
def test_generated_stacks_are_read_as_they_are(stack: Any) -> None:
    try:
        tree = merge([attributed(layer) for layer in numbered(stack)])
    except InvalidLayer:
        return
    check(tree, ErofsImage(write_erofs(tree)))


def corners() -> Tree:
    builder = IndexBuilder()
    builder.add(b"long", Kind.SYMLINK, 0o777, link=b"y" * 4000)
    builder.add(b"short", Kind.SYMLINK, 0o777, link=b"a")
    builder.add(b"char", Kind.CHAR, 0o600, offset=300 << 32 | 70_000)
    builder.add(b"block", Kind.BLOCK, 0o600, offset=8 << 32 | 1)
    builder.add(b"n" * 255, Kind.FILE, size=5, offset=512)
    builder.add(b"\xff\xfe odd", Kind.FILE, size=5 << 30, offset=1024)
    builder.add(b"holes", Kind.FILE, size=8 << 20, offset=512, sparse=[(1 << 20, 8192), (3 << 20, 512)])
    builder.add(b"tail", Kind.FILE, size=(1 << 20) + 100, offset=512, sparse=[(1 << 20, 100)])
    builder.add(b"nothing", Kind.FILE, size=1 << 20, offset=512, sparse=[(1 << 20, 0)])
    for number in range(3000):
        builder.add(b"many/%d%s" % (number, b"x" * (number % 90)), Kind.FILE)
    for number in range(30):  # names that fill blocks to the last byte
        builder.add(b"full/%02d" % number + b"z" * (BLOCK // 4 - 14), Kind.FIFO)
    return merge([builder.finish(6 << 30)])


def test_corners() -> None:
    check(corners(), ErofsImage(write_erofs(corners())))


def test_pieces_are_the_image_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_erofs(corners())
    monkeypatch.setattr("lamina.view.erofs.write._PIECE", 100)
    pieces = list(erofs_pieces(corners()))
    assert len(pieces) > 100
    assert b"".join(pieces) == whole


def test_an_image_of_300_layers_is_read_as_it_was_written() -> None:
    tree = merge([attributed([(Kind.FILE, b"f%d" % number, b"", 0o644, number)]) for number in range(300)])
    check(tree, ErofsImage(write_erofs(tree)))


def test_a_layers_own_image_is_the_same_in_every_stack() -> None:
    own = attributed([(Kind.FILE, b"a", b"", 0o644, 1)])
    other = attributed([(Kind.FILE, b"b", b"", 0o644, 2)])
    first, second = Tree([own, other]), Tree([other, own])
    for tree, number in ((first, 0), (second, 1)):
        tree.kids[0] = {b"a": 1}
        tree.parents.append(0), tree.origin_layers.append(number), tree.rows.append(0)
        tree.endings_of.append(0), tree.names.append(b"a"), tree.kids.append(None)
    assert write_erofs(first, devices=[0]) == write_erofs(second, devices=[1])


def test_cut_or_changed_images_are_refused(tmp_path: Path) -> None:
    whole = write_erofs(merge([attributed([(Kind.FILE, b"a", b"", 0o644, 2)])]))
    path = tmp_path / "image"
    for cut in (0, 100, 2000, 4095, len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(StoreDamaged):
            ErofsImage.load(str(path))
    path.write_bytes(whole + bytes(4096))
    with pytest.raises(StoreDamaged):
        ErofsImage.load(str(path))
    for at in (1024, 1028, 1036, 1040, 1080, 1151):
        changed = bytearray(whole)
        changed[at] ^= 1
        with pytest.raises(StoreDamaged):
            ErofsImage(changed)
    path.write_bytes(whole)
    assert [one for one, _ in ErofsImage.load(str(path)).walk()] == [b"", b"a"]


@given(st.integers(0, 1 << 32))
@settings(max_examples=rounds(300), deadline=None)
def test_damage_inside_an_image_raises_a_lamina_error(seed: int) -> None:
    """With a right superblock and anything behind it: no other exception, and no endless walk."""
    source = random.Random(seed)
    changed = bytearray(SMALL)
    for _ in range(source.randrange(1, 6)):
        changed[source.randrange(1152, len(changed))] = source.choice([0, 1, 0x7F, 0xFF, source.randrange(256)])
    changed[1028:1032] = bytes(4)
    changed[1028:1032] = crc32c(bytes(changed[1024:1536])).to_bytes(4, "little")
    try:
        image = ErofsImage(changed)
        for _, name in image.walk():
            look_at(image, name)
    except (StoreDamaged, Unsupported):
        pass


def look_at(image: ErofsImage, name: Name) -> None:
    inode = image.inode(name.nid)
    image.xattrs(inode)
    if inode.kind == Kind.SYMLINK:
        image.link(inode)
    elif inode.kind == Kind.FILE:
        image.extent(inode)
    elif inode.kind == Kind.DIRECTORY:
        image.find(inode, b"b")


SMALL = write_erofs(
    merge(
        [
            attributed(
                [
                    (Kind.DIRECTORY, b"a", b"", 0o755, 1),
                    *((Kind.FILE, b"a/file-with-a-name-%d" % number, b"", 0o644, number) for number in range(40)),
                    (Kind.SYMLINK, b"b", b"target", 0o777, 2),
                    (Kind.FIFO, b"c", b"", 0o644, 3),
                    (Kind.HARDLINK, b"d", b"a/file-with-a-name-1", 0o644, 3),
                ]
            )
        ]
    )
)
