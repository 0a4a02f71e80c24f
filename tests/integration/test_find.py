"""`find` over all images of a store, compared with the whole merge, and from the command line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings

import lamina as library
from generated import build, numbered, stacks
from lamina.errors import InvalidLayer, UsageError
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.source.search import LayerMap, Query, find_in
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.store.fsck import fsck
from lamina.store.store import Store
from lamina.store.usage import usage
from lamina.union.merge import merge
from support import lamina, rounds, write_layout

SECRET = b"-----BEGIN PRIVATE KEY-----"
BASE = [
    ("etc/", None, {"mode": 0o750}),
    ("etc/key.pem", SECRET, {"mode": 0o600, "uid": 7, "gid": 8}),
    ("etc/same", "= etc/key.pem"),
    ("bin/su", b"#!" * 600, {"mode": 0o4755}),
    ("opt/app/data", b"x"),
]
TOP = [("etc/.wh.key.pem", b""), ("srv/key.pem", b"new"), ("opt/.wh..wh..opq", b""), ("opt/app/more", b"y")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "base", [BASE])
    write_layout(tmp_path / "layout", "app", [BASE, TOP])
    write_layout(tmp_path / "layout", "top", [TOP])
    assert lamina("load", "-i", str(tmp_path / "layout"), root=tmp_path / "store").returncode == 0
    return tmp_path / "store"


def found(root: Path, *words: str) -> Any:
    done = lamina("find", *words, "--format", "json", root=root)
    assert done.returncode == 0, done.stderr.decode()
    return [
        (
            one["path"],
            sorted((i["name"].rpartition("/")[2].partition(":")[0], i["layer"], i["state"]) for i in one["images"]),
        )
        for one in json.loads(done.stdout)
    ]


def test_each_hit_has_its_image_layer_and_state(root: Path) -> None:
    visible = [
        ("/etc/key.pem", [("base", 1, "visible")]),
        ("/srv/key.pem", [("app", 2, "visible"), ("top", 1, "visible")]),
    ]
    assert found(root, "*.pem") == visible
    assert found(root, "-E", r"\.pem$") == visible
    assert found(root, "*.pem", "--ghosts")[0] == ("/etc/key.pem", [("app", 1, "whiteout"), ("base", 1, "visible")])
    assert found(root, "*/app/*", "--ghosts", "--in", "app") == [
        ("/opt/app/data", [("app", 1, "opaque")]),
        ("/opt/app/more", [("app", 2, "visible")]),
    ]
    assert found(root, "/opt/*", "--in", "base") == [
        ("/opt/app", [("base", 1, "visible")]),
        ("/opt/app/data", [("base", 1, "visible")]),
    ]
    assert found(root, "nothing") == []


def test_files_are_found_by_attributes_and_by_content(root: Path) -> None:
    assert found(root, "--perm", "/6000") == [("/bin/su", [("app", 1, "visible"), ("base", 1, "visible")])]
    assert found(root, "--size", "+1k", "--type", "f", "--in", "app") == [("/bin/su", [("app", 1, "visible")])]
    assert [path for path, _ in found(root, "--type", "d", "--perm", "750", "--in", "app")] == ["/etc"]
    assert [path for path, _ in found(root, "--type", "d", "--perm", "755", "--in", "app")] == [
        "/bin", "/opt", "/opt/app", "/srv",
    ]  # fmt: skip
    owned = found(root, "--owner", "7:8")
    assert owned == [
        ("/etc/key.pem", [("base", 1, "visible")]),
        ("/etc/same", [("app", 1, "visible"), ("base", 1, "visible")]),
    ]
    digest = "sha256:" + hashlib.sha256(SECRET).hexdigest()
    assert found(root, "--digest", digest) == owned
    assert found(root, "--digest", digest, "--ghosts", "--in", "app") == [
        ("/etc/key.pem", [("app", 1, "whiteout")]),
        ("/etc/same", [("app", 1, "visible")]),
    ]
    assert found(root, "key*", "--digest", digest) == owned[:1]
    table = lamina("find", "--digest", digest, root=root).stdout.decode().splitlines()
    assert table[0].split() == ["MODE", "OWNER", "SIZE", "LAYER", "DIFF", "ID", "PATH", "IMAGES"]
    assert table[1].split()[-2:] == ["/etc/key.pem", "base:latest"]
    row = lamina("find", "su", "--format", "{{.Path}} {{.Bytes}} {{.Images}}", root=root).stdout
    assert row == b"/bin/su 1200 app:latest, base:latest\n"


def test_the_library_gives_values(root: Path) -> None:
    store = Store.open(str(root), create=False)
    search = store.find("*.pem", ghosts=True)
    assert not search.unread
    (first, second) = search.found
    assert (first.entry.uid, first.entry.kind, len(first.places)) == (7, Kind.FILE, 2)
    assert {place.state for place in second.places} == {"visible"}
    with pytest.raises(UsageError):
        store.find(regex=True)
    assert library.open_store(library.image.load_settings({"root": str(root)}), create=False).find("su").found


def test_hits_become_values_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.source.search._MANY_ROWS", 10)
    write_layout(tmp_path / "l", "app", [[(f"f{number:03}", b"%d" % number) for number in range(300)]])
    assert lamina("load", "-i", str(tmp_path / "l"), root=tmp_path / "s").returncode == 0
    made: list[int] = []
    entry = LayerIndex.entry

    def counted(index: LayerIndex, row: int, path: bytes | None = None) -> Entry:
        made.append(row)
        return entry(index, row, path)

    monkeypatch.setattr(LayerIndex, "entry", counted)
    search = Store.open(str(tmp_path / "s"), create=False).find("f*")
    assert (len(search.found), made) == (300, [])
    assert next(iter(search)).entry.path == b"f000"
    assert [one.entry.path for one in search.found[7:9]] == [b"f007", b"f008"]
    assert search.found[-1].entry.size == 3
    assert made == [0, 7, 8, 299]
    first, second = search.found[:2]
    assert first.places is second.places
    assert pickle.loads(pickle.dumps(search.found)) == tuple(search.found)


def test_all_images_with_the_same_layers_are_listed_in_order(tmp_path: Path) -> None:
    """One path in several layers and images: by layer, then by the layer's digest; an image once for each."""
    for number in range(6):
        own = [("etc/own", b"%d" % number), ("usr/a-b", b"%d" % (number % 2)), ("usr/a/b", b"x")]
        write_layout(tmp_path / "l", f"i{number}", [[], BASE, own] if number % 3 else [BASE, own])
    assert lamina("load", "-i", str(tmp_path / "l"), root=tmp_path / "s").returncode == 0
    search = Store.open(str(tmp_path / "s"), create=False).find("*/usr/a*")
    assert {one.entry.path for one in search} == {b"usr/a", b"usr/a-b", b"usr/a/b"}
    order = [(one.entry.path, min(place.layer for place in one.places), str(one.diff_id)) for one in search]
    assert order == sorted(order)
    assert len(order) == 18
    top = list(Store.open(str(tmp_path / "s"), create=False).find("su"))
    assert [[place.layer for place in one.places] for one in top] == [[1, 2, 2, 1, 2, 2]]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "no pattern and no condition"),
        (["-E", "("], 2, "not a regular expression"),
        (["-E", "--type", "f"], 2, "-E needs a pattern"),
        (["--size", "ten"], 2, "not a size"),
        (["--perm", "u+s"], 2, "not permissions"),
        (["--owner", "root"], 2, "not an owner"),
        (["--type", "x"], 2, "not a type"),
        (["--digest", "abc"], 2, "not a digest"),
        (["--digest", "sha512:" + "0" * 128], 7, "by sha256"),
        (["x", "--in", "none"], 3, "no image"),
        (["x", "--in", "oci:x"], 2, "in the store"),
        (["x", "--in", "app~1"], 2, "in the store"),
        ([""], 2, "a pattern has"),
    ],
)
def test_invalid_searches_are_refused(root: Path, words: list[str], code: int, says: str) -> None:
    done = lamina("find", *words, root=root)
    assert (done.returncode, done.stdout) == (code, b"")
    assert says in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_on_a_fresh_machine_nothing_is_found(tmp_path: Path) -> None:
    done = lamina("find", "x", "--format", "json", root=tmp_path / "none")
    assert (done.returncode, done.stdout) == (0, b"[]\n")
    done = lamina("find", "x", "--in", "app", root=tmp_path / "none")
    assert (done.returncode, b"no store at" in done.stderr) == (3, True)
    assert lamina("find", "", root=tmp_path / "none").returncode == 2


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "evil", [[("a\x1b[31m\n.key", b"1"), ("b\udcff.key", b"2")]])
    assert lamina("load", "-i", str(tmp_path / "l"), root=tmp_path / "s").returncode == 0
    done = lamina("find", "*.key", root=tmp_path / "s")
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 3)
    assert b"\x1b" not in done.stdout
    both = json.loads(lamina("find", "*.key", "--format", "json", root=tmp_path / "s").stdout)
    assert (both[0]["path"], "path_b64" in both[1]) == ("/a\x1b[31m\n.key", True)
    assert [
        one["path"] for one in json.loads(lamina("find", "b?.key", "--format", "json", root=tmp_path / "s").stdout)
    ]


def derived(root: Path) -> list[Path]:
    return sorted([*root.glob("layers/*/*/digests"), root / "members"])


def test_derived_data_is_made_again_and_counted(root: Path) -> None:
    digest = "sha256:" + hashlib.sha256(b"new").hexdigest()
    before = found(root, "--digest", digest)
    assert before == [("/srv/key.pem", [("app", 2, "visible"), ("top", 1, "visible")])]
    kept = {path: path.read_bytes() for path in derived(root)}
    assert len(kept) == 3
    store = Store.open(str(root), create=False)
    assert fsck(store) == []
    whole = usage(store)
    disk = sum(p.lstat().st_blocks * 512 for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    assert whole.total == disk
    for path, data in kept.items():  # one byte in the middle, cut short, gone
        for damaged in (data[:50] + bytes([data[50] ^ 1]) + data[51:], data[:-1], b"", None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
                assert [(one.severity, one.repaired) for one in fsck(store)] == [("derived", False)]
            assert found(root, "--digest", digest) == before
            assert path.read_bytes() == data
    for path in kept:
        path.write_bytes(b"damaged")
    assert {one.repaired for one in fsck(store, repair=True)} == {True}
    assert fsck(store) == []
    for path in [*root.glob("layers/*/*/*")]:
        path.unlink()
    assert found(root, "--digest", digest) == before
    lamina("rmi", "app", "top", root=root)
    assert len(list(root.glob("layers/*/*/digests"))) == 1
    assert found(root, "*.pem") == [("/etc/key.pem", [("base", 1, "visible")])]


def test_images_that_can_not_be_read_are_listed(root: Path) -> None:
    store = Store.open(str(root), create=False)
    manifest = store.resolve("top")
    os.chmod(store.blobs.path(manifest.digest), 0o644)
    Path(store.blobs.path(manifest.digest)).write_bytes(b"{}")
    done = lamina("find", "*.pem", root=root)
    assert done.returncode == 1
    assert b"warning: top:latest was skipped" in done.stderr
    assert done.stdout.count(b"key.pem") == 2
    layer = store.stack("app", Platform.host()).layers[1]
    os.unlink(store.blobs.path(layer.descriptor.digest))
    os.unlink(store.paths.layer_index(layer.diff_id))
    assert lamina("find", "*.pem", root=root).stdout.count(b"key.pem") == 2, "an index is made again from the tar"
    os.unlink(store.paths.layer_index(layer.diff_id))
    os.unlink(store.paths.tar(layer.diff_id))
    done = lamina("find", "*.pem", root=root)
    assert (done.returncode, done.stdout.count(b"key.pem")) == (1, 1)
    assert b"warning: app:latest was skipped" in done.stderr


@pytest.mark.parametrize(("many", "at_hand"), [(1000, 500), (1, 500), (2, 1)])
def test_places_agree_with_the_whole_merge(many: int, at_hand: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where entries are made when they are asked for: ``many`` rows of a layer, ``at_hand`` such layers."""
    monkeypatch.setattr("lamina.source.search._MANY_ROWS", many)
    monkeypatch.setattr("lamina.source.search._MANY_OPEN", at_hand)
    places_are_those_of_the_whole_merge()


@settings(max_examples=rounds(200), deadline=None)
@given(stacks)
def places_are_those_of_the_whole_merge(stack: Any) -> None:
    """Each prefix of a stack is an image; every entry in it is a hit."""
    layers = [build(layer) for layer in numbered(stack)]
    try:
        trees = [merge(layers[: top + 1]) for top in range(len(layers))]
    except InvalidLayer:
        return
    ids = [Digest.of(b"%d" % number) for number in range(len(layers))]
    known = LayerMap(ids, {tuple(range(top + 1)): [(f"i{top}", str(ids[0]))] for top in range(len(layers))})
    indexes: Any = SimpleNamespace(open=layers.__getitem__)
    # where all names are asked for, all layers matter; where one is, most don't
    asked = [(False, "*", ""), (True, "*", ""), (True, "a", ""), (True, "a", "f"), (True, "b", "f")]
    for ghosts, name, type_ in asked:
        every = find_in(known, Query.of(name, ghosts=ghosts, type=type_), indexes).found
        told = sorted(
            (place.name, one.entry.path, place.layer, place.state, place.by or 0, one.entry.kind, one.entry.size)
            for one in every
            for place in one.places
        )
        order = [(one.entry.path, min(place.layer for place in one.places), str(one.diff_id)) for one in every]
        assert order == sorted(order)
        expected = []
        for top, tree in enumerate(trees):
            for node in range(1, len(tree.names)):
                ending = tree.ending(node)
                if ending is not None and (not ghosts or tree.origin(node) is None):
                    continue
                entry, state = tree.entry(node), "visible" if ending is None else ending.how.name.lower()
                if name not in ("*", os.fsdecode(tree.names[node])) or (type_ and entry.kind != Kind.FILE):
                    continue
                layer = tree.origin_layers[node] + 1
                by = 0 if ending is None else ending.layer + 1
                expected.append((f"i{top}", entry.path, layer, state, by, entry.kind, entry.size))
        assert told == sorted(expected)
