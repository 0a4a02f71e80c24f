"""squash, flatten, erase, rebase and config on images of a store: what the union shows afterwards, what is shared,
and that the old image is as it was."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lamina
from lamina.archive.layout import LayoutReader
from lamina.edit.elf import parse_elf
from lamina.edit.find_base import find_base
from lamina.edit.publish import Packing, Revision
from lamina.errors import Conflict, InvalidLayer, NotFound, PathNotFound, UsageError
from lamina.image import load_settings, open_store
from lamina.layer.entry import Kind
from lamina.run.container.commit import commit
from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import free_port, made_once, make_tar, rounds, write_layout
from support import lamina as cli

SPARSE = b"\0" * (3 << 20) + b"data" * 1024 + b"\0" * (1 << 20)
XATTR = {"pax_headers": {"SCHILY.xattr.user.k": "v"}}
BASE = [
    ("etc/", None, {"mode": 0o750, "uid": 3}),
    ("etc/conf", b"one\n", XATTR),
    ("etc/old/", None),
    ("etc/old/x", b"x"),
    ("lib", "-> usr/lib"),
    ("usr/lib/", None),
]
MIDDLE = [
    ("etc/conf", b"two\n", {"uid": 1000, "gid": 70000, "mode": 0o4755, "mtime": 12.5}),
    ("etc/.wh.old", b""),
    ("tmp/secret", b"s3cret"),
    ("tmp/other", b"o"),
    ("hard", "= tmp/secret"),
    ("bin/", None),
]
UPPER = [("etc/old/", None), ("etc/old/new", b"n"), ("tmp/.wh.secret", b""), ("bin/tool", b"#!/bin/sh\n")]
TOP = [("link", "-> etc/conf"), ("pipe", "fifo"), ("up", "= etc/conf"), ("bin/.wh.tool", b"")]
LAYERS = [BASE, MIDDLE, UPPER, TOP]


def sparse_layer() -> bytes:
    """A layer with a sparse file as GNU tar writes it (PAX 1.0)."""
    data = SPARSE[3 << 20 : (3 << 20) + 4096]
    table = b"1\n%d\n4096\n" % (3 << 20)
    body = table.ljust(512, b"\0") + data
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes"}
    headers["GNU.sparse.realsize"] = str(len(SPARSE))
    return make_tar([("GNUSparseFile.0/holes", body, {"pax_headers": headers})])


def snapshot(image: lamina.Image) -> dict[bytes, Any]:
    """All that the union says: attributes, content, and which names are one file."""
    tree, found = image.tree, {}
    names: dict[int, list[bytes]] = {}
    for node in tree.walk():
        entry = tree.entry(node)
        content = b""
        if entry.kind == Kind.FILE:
            with image.stack.open_file(node) as stream:
                content = hashlib.sha256(stream.read()).digest()
            names.setdefault(tree.inode(node), []).append(entry.path)
        group = names.get(tree.inode(node), [])
        found[entry.path] = (
            entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.link, dict(entry.xattrs), entry.rdev,
            entry.size, entry.sparse, content, group,
        )  # fmt: skip
    return found


def names_of(image: lamina.Image) -> list[str]:
    return [os.fsdecode(image.tree.path(node)) for node in image.tree.walk()]


def make(top: Path) -> None:
    write_layout(top / "l", "app", [*LAYERS, sparse_layer()])
    write_layout(top / "b", "base", [BASE])
    for layout in "lb":
        assert cli("load", "-i", str(top / layout), root=top / "s").returncode == 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made_once(make, tmp_path)
    return tmp_path / "s"


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 3), (2, 4), (2, 5), (3, 3), (5, 5), (1, 5), (4, 4)])
def test_squash_keeps_the_union_and_shares_the_rest(root: Path, low: int, high: int) -> None:
    app = lamina.open("app", root=root)
    before, digest = snapshot(app), app.digest
    made = app.squash(low, high, name="squashed", epoch=1_700_000_000)
    assert snapshot(made) == before
    assert len(made) == 5 - (high - low)
    assert [one.digest for one in made.layers[: low - 1]] == [one.digest for one in app.layers[: low - 1]]
    assert [one.digest for one in made.layers[low:]] == [one.digest for one in app.layers[high:]]
    assert [step and step.created_by for step in made.config.steps()] == [
        *(f"step {n}" for n in range(1, low)),
        f"squash {low} to {high}",
        *(f"step {n}" for n in range(high + 1, 6)),
    ]
    assert app.squash(low, high, name="again", epoch=1_700_000_000).digest == made.digest
    assert lamina.open("app", root=root).digest == digest
    assert cli("fsck", root=root).returncode == 0


def test_a_sparse_file_stays_sparse_and_small(root: Path) -> None:
    flat = lamina.open("app", root=root).flatten(epoch=0)
    assert flat.read_bytes("holes") == SPARSE
    assert flat.stat("holes").sparse == ((3 << 20, 4096),)
    assert flat.layers[0].tar_size < 64 * 1024


def test_flatten_leaves_nothing_that_is_hidden(root: Path) -> None:
    flat = lamina.open("app", root=root).flatten()
    assert len(flat) == 1
    with flat.stack.layers[0].open() as tar:
        raw = tar.read()
    assert b"one\n" not in raw
    assert b".wh." not in raw
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert sorted(archive.getnames()) == sorted(names_of(flat)[1:])


def test_empty_steps_keep_their_places(root: Path, tmp_path: Path) -> None:
    history = [
        {"created_by": "ADD a"},
        {"created_by": "ENV A=1", "empty_layer": True},
        {"created_by": "RUN b"},
        {"created_by": "ENV B=1", "empty_layer": True},
        {"created_by": "RUN c"},
        {"created_by": "CMD c", "empty_layer": True},
    ]
    layers = [[("a", b"a")], [("b", b"b")], [("c", b"c")]]
    write_layout(tmp_path / "h", "h", layers, config={"history": history})
    assert cli("load", "-i", str(tmp_path / "h"), root=root).returncode == 0
    image = lamina.open("h", root=root)

    def told(made: lamina.Image) -> list[str]:
        return [("- " if step.empty_layer else "") + step.created_by for step in made.config.history]

    assert told(image.squash(2, 3)) == ["ADD a", "- ENV A=1", "- ENV B=1", "squash 2 to 3", "- CMD c"]
    assert told(image.squash(1, 2)) == ["- ENV A=1", "squash 1 to 2", "- ENV B=1", "RUN c", "- CMD c"]
    assert told(image[:2].squash(2)) == ["ADD a", "- ENV A=1", "squash 2 to 2", "- ENV B=1"]
    assert told(image.with_config(cmd=["x"]))[-1] == "- with_config cmd"


def test_erase_takes_a_path_out_of_every_layer(root: Path) -> None:
    app = lamina.open("app", root=root)
    before, digest = snapshot(app), app.digest
    made = app.erase("/tmp/secret", "etc/old", epoch=1)
    after = snapshot(made)
    assert after == {path: seen for path, seen in before.items() if not path.startswith(b"etc/old")}
    assert after[b"hard"][10] == hashlib.sha256(b"s3cret").digest()  # its other name keeps the data
    for layer in made.layers:
        assert not [one.path for one in layer if one.path == b"tmp/secret" or one.path.startswith(b"etc/old")]
        assert not [one.link for one in layer if one.link == b"tmp/secret"]
    assert [one.digest for one in made.layers[3:]] == [one.digest for one in app.layers[3:]]
    assert lamina.open("app", root=root).digest == digest
    assert made.config.history[-1].empty_layer
    gone = made.erase("hard", "tmp")
    for layer in gone.layers:
        with layer.handle.open() as tar:
            assert b"s3cret" not in tar.read()


def test_an_erased_child_leaves_the_directory_that_it_implied(root: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "e", "e", [[("d", b"file")], [("d/only", b"x")], [("top", b"t")]])
    assert cli("load", "-i", str(tmp_path / "e"), root=root).returncode == 0
    made = lamina.open("e", root=root).erase("d/only")
    assert names_of(made) == ["", "d", "top"]
    assert made.stat("d").kind == Kind.DIRECTORY


def test_an_erased_file_stays_under_a_name_that_was_linked_through_a_symlink(root: Path, tmp_path: Path) -> None:
    base = [("usr/", None), ("usr/lib/", None), ("usr/lib/a", b"kept"), ("lib", "-> usr/lib")]
    write_layout(tmp_path / "w", "w", [base, [("x", "= lib/a"), ("y", "= x")]])
    assert cli("load", "-i", str(tmp_path / "w"), root=root).returncode == 0
    made = lamina.open("w", root=root).erase("usr/lib/a")
    assert (made.read_bytes("x"), made.read_bytes("y")) == (b"kept", b"kept")
    assert made.listdir("/usr/lib") == []
    assert lamina.open("w", root=root).erase("lib").read_bytes("x") == b"kept"


def test_erase_finds_a_path_through_symlinks_and_refuses_what_is_not_there(root: Path) -> None:
    app = lamina.open("app", root=root)
    with pytest.raises(PathNotFound):
        app.erase("/nope")
    with pytest.raises(UsageError):
        app.erase("/")
    assert app.erase("lib").listdir("/").count("lib") == 0


layer_strategy = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"]),
        st.sampled_from(["file", "dir", "link a", "link d/a", "whiteout", "opaque", "symlink"]),
    ),
    min_size=1,
    max_size=6,
)


def members(layer: list[tuple[str, str]], number: int) -> list[Any]:
    found: list[Any] = []
    for row, (path, kind) in enumerate(layer):
        parent, _, name = path.rpartition("/")
        more = {"mtime": 1000 * number + row, "uid": row}
        if kind == "file":
            found.append((path, b"%d.%d" % (number, row) * 100, more))
        elif kind == "dir":
            found.append((path + "/", None, more))
        elif kind.startswith("link "):
            found.append((path, "= " + kind[5:], more))
        elif kind == "symlink":
            found.append((path, "-> a", more))
        else:
            mark = ".wh." + name if kind == "whiteout" else ".wh..wh..opq"
            found.append((f"{parent}/{mark}" if parent else mark, b""))
    return found


@settings(max_examples=rounds(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(layer_strategy, min_size=1, max_size=4), st.data())
def test_generated_images_squashed_flattened_erased_and_rebased(
    tmp_path_factory: pytest.TempPathFactory, stack: Any, data: Any
) -> None:
    top = tmp_path_factory.mktemp("g")
    layers = [members(layer, number) for number, layer in enumerate(stack)]
    write_layout(top / "g", "g", layers)
    bring_in(top, "g")
    image = lamina.open("g", root=top / "s")
    try:
        before = snapshot(image)
    except InvalidLayer:
        return
    assert snapshot(image.flatten()) == before
    low = data.draw(st.integers(1, len(layers)))
    assert snapshot(image.squash(low)) == before
    known = sorted({row.path for layer in image.layers for row in layer if row.kind < Kind.WHITEOUT and row.path})
    if known:
        gone = data.draw(st.sampled_from(known))
        after = snapshot(image.erase(os.fsdecode(gone)))
        wanted = {p: s for p, s in before.items() if p != gone and not p.startswith(gone + b"/")}
        assert after.keys() == wanted.keys()
        for path, seen in wanted.items():
            assert after[path][:4] == seen[:4]
            assert after[path][5:11] == seen[5:11]
    count = data.draw(st.integers(1, len(layers)))
    write_layout(top / "n", "n", [*layers[:count], [("new/", None), ("new/x", b"x")]])
    write_layout(top / "m", "m", [*layers[:count], [("new/", None), ("new/x", b"x")], *layers[count:]])
    for name in "nm":
        bring_in(top, name)
    new, model = lamina.open("n", root=top / "s"), lamina.open("m", root=top / "s")
    if b"" in {row.path for layer in image.layers[count:] for row in layer if row.kind == Kind.OPAQUE}:
        return  # hides the new base's files too: a conflict, said so
    based = image.rebase(new, image[:count], force=True)
    assert snapshot(based) == snapshot(model)
    assert [one.digest for one in based.layers] == [one.digest for one in model.layers]


def what(plan: Any) -> set[tuple[str, bytes, bool]]:
    return {(one.what, one.path, one.conflict) for one in plan.findings}


def test_rebase_reports_before_it_writes(root: Path, tmp_path: Path) -> None:
    old = [("etc/", None), ("etc/passwd", b"1"), ("etc/gone", b"g"), ("etc/rm", b"r"), ("t", b"target")]
    new = [("etc/", None, {"mode": 0o700}), ("etc/passwd", b"2"), ("srv/app", b"theirs"), ("other", b"o")]
    own = [
        ("etc/", None),
        ("etc/passwd", b"mine"),
        ("etc/gone", b"mine"),
        ("etc/.wh.rm", b""),
        ("srv/app", b"mine"),
        ("l", "= t"),
        ("run", b"#!/etc/gone2\n"),
    ]
    for name, layers in (("o", [old]), ("n", [new]), ("a", [old, own, [("more", b"m")]])):
        write_layout(tmp_path / name, name, layers)
        assert cli("load", "-i", str(tmp_path / name), root=root).returncode == 0
    app, onto = lamina.open("a", root=root), lamina.open("n", root=root)
    plan = app.plan_rebase(onto)
    assert plan.old.name == "docker.io/library/o:latest"
    assert what(plan) == {
        ("changed", b"etc", True),
        ("changed", b"etc/passwd", True),
        ("gone", b"etc/gone", True),
        ("whiteout", b"etc/rm", False),
        ("added", b"srv/app", True),
        ("link", b"l", True),
    }
    with pytest.raises(Conflict):
        app.rebase(onto)
    made = app.rebase(onto, force=True, name="r", epoch=5)
    assert made.read_bytes("l") == b"target"  # the old base's data, because the new base does not have the file
    assert made.read_bytes("etc/passwd") == b"mine"
    assert names_of(made) == ["", "etc", "etc/gone", "etc/passwd", "l", "more", "other", "run", "srv", "srv/app"]
    assert [one.digest for one in (made.layers[0], made.layers[2])] == [onto.layers[0].digest, app.layers[2].digest]
    assert made.manifest.annotations["org.opencontainers.image.base.digest"] == str(onto.digest)
    with pytest.raises(UsageError):
        app.plan_rebase(onto, onto)
    with pytest.raises(NotFound):
        onto.plan_rebase(app)


def test_rebase_reports_lost_libraries_and_interpreters(root: Path, tmp_path: Path) -> None:
    shell = Path(os.path.realpath("/bin/sh")).read_bytes()
    elf = parse_elf("sh", io.BytesIO(shell))
    assert elf is not None
    assert elf.interpreter
    old = [("usr/lib/" + name, b"so") for name in elf.needed] + [(elf.interpreter[1:], b"so"), ("bin/perl", b"p")]
    own = [("srv/sh", shell), ("srv/script", b"#!/bin/perl -w\nx")]
    for name, layers in (("o", [old]), ("n", [[("x", b"x")]]), ("a", [old, own])):
        write_layout(tmp_path / name, name, layers)
        assert cli("load", "-i", str(tmp_path / name), root=root).returncode == 0
    plan = lamina.open("a", root=root).plan_rebase(lamina.open("n", root=root))
    assert what(plan) == {
        ("interpreter", b"srv/script", True),
        ("interpreter", b"srv/sh", True),
        ("library", b"srv/sh", True),
    }


def test_the_command_line_end_to_end(root: Path, tmp_path: Path) -> None:
    stable = {"SOURCE_DATE_EPOCH": "1700000000"}

    def ok(*words: str, **more: Any) -> bytes:
        done = cli(*words, root=root, **stable, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_of(name: str) -> Any:
        return json.loads(ok("config", "--local", name))["config"]

    ok(
        "config",
        "app",
        "-e",
        "A=b c",
        "-e",
        "B=1",
        "-l",
        "x=y",
        "--expose",
        "80",
        "--volume",
        "/v",
        "-u",
        "7",
        "-t",
        "c1",
    )
    words = ("--env-rm", "B", "--label-rm", "x", "--cmd", "", "--stop-signal", "INT", "--health-cmd", "true")
    ok("config", "c1", *words, "--health-interval", "1m30s", "--volume-rm", "/v", "-t", "c2")
    assert run_of("c2") == {
        "Env": ["A=b c"],
        "ExposedPorts": {"80/tcp": {}},
        "User": "7",
        "StopSignal": "INT",
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 90_000_000_000},
    }
    assert ok("squash", "app", "--from", "2", "-t", "s1") == ok(
        "squash", "app", "--from", "2", "--to", "5", "-t", "s2"
    )
    (step, *_) = json.loads(ok("history", "c1", "--format", "json"))
    assert step["created_by"].startswith("lamina config --env 'A=b c' --env ")  # the words as a shell takes them
    told = json.loads(ok("erase", "app", "tmp/secret", "-t", "clean", "--format", "json"))
    assert told["elsewhere"] == [{"path": "/hard"}]
    assert told["still"] == [
        "docker.io/library/app:latest",
        "docker.io/library/c1:latest",
        "docker.io/library/c2:latest",
    ]
    flat = ok("flatten", "app", "-t", "flat")
    assert flat == ok("flatten", "app", "-t", "flat")
    plain = ok("export", "app")
    ok("export", "app", "-o", str(tmp_path / "x.tar"))
    assert (tmp_path / "x.tar").read_bytes() == plain
    for number, packed in enumerate((plain, gzip.compress(plain), bz2.compress(plain), lzma.compress(plain))):
        ok("import", "-", f"i{number}", "-c", 'CMD ["x", "y"]', "-c", "ENV A=b", input=packed)
        assert snapshot(lamina.open(f"i{number}", root=root)) == snapshot(lamina.open("app", root=root))
    assert run_of("i3") == {"Env": ["A=b"], "Cmd": ["x", "y"]}
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/sub/f").write_text("f")
    if os.geteuid() == 0:
        os.chown(tmp_path / "d/sub/f", 12, 34)
    ok("import", str(tmp_path / "d"), "dir")
    stat = os.stat(tmp_path / "d/sub/f")
    entry = lamina.open("dir", root=root).stat("sub/f")
    assert (entry.uid, entry.gid) == (stat.st_uid, stat.st_gid)
    report = json.loads(
        ok("rebase", "app", "--onto", "dir", "--old-base", "app~1", "--dry-run", "--force", "--format", "json")
    )
    assert report["old_base"]["layers"] == 1
    assert report["digest"] is None


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("squash", "app", "--from", "3", "--to", "2", "-t", "x"), 2, "layers 1 to 5"),
        (("squash", "app", "--from", "0", "-t", "x"), 2, "layers 1 to 5"),
        (("squash", "app~2:3", "--from", "2", "-t", "x"), 2, "lower layers"),
        (("squash", "nothing", "--from", "1", "-t", "x"), 3, "nothing"),
        (("squash", "app", "--from", "1", "-t", "UP"), 2, "lower case"),
        (("erase", "app", "/nope", "-t", "x"), 3, "/nope"),
        (("erase", "app", "/", "-t", "x"), 2, "root"),
        (("config", "app", "-t", "x"), 2, "nothing to change"),
        (("config", "app", "-e", "A=b"), 2, "name"),
        (("config", "app", "--env-rm", "NOPE", "-t", "x"), 2, "NOPE"),
        (("config", "app", "--expose", "x", "-t", "x"), 2, "port"),
        (("config", "app", "--health-cmd", "x", "--health-interval", "soon", "-t", "x"), 2, "soon"),
        (("export", "nothing"), 3, "nothing"),
        (("export", "app", "-o", "/proc/nope/x"), 6, "/proc/nope/x"),
        (("export", "app", "-o", "/etc"), 5, "/etc"),
        (("import", "/nonexistent"), 3, "/nonexistent"),
        (("import", "/etc/passwd", "x"), 4, "/etc/passwd"),
        (("import", "/dev/null", "x"), 4, "empty"),
        (("import", "/etc/passwd", "-c", "RUN x"), 2, "RUN"),
        (("rebase", "app", "--onto", "base"), 2, "name"),
        (("rebase", "base", "--onto", "app", "-t", "x"), 3, "base"),
    ],
)
def test_bad_input_is_one_line_and_a_documented_code(
    root: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    done = cli(*words, root=root)
    assert done.returncode == code, done.stderr
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lamina: ")
    assert text in lines[0]
    assert done.stdout == b""


def bring_in(top: Path, name: str) -> None:
    """A layout's image into the store, in this process."""
    store = open_store(load_settings({"root": str(top / "s")}))
    copy(LayoutReader(str(top / name)), store, [(name, name)])


def test_config_asks_the_registry_and_then_the_store(root: Path, tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"

    def config(name: str, port: int, *words: str) -> subprocess.CompletedProcess[bytes]:
        conf.write_text(f'[[registry]]\nprefix="docker.io/library"\nlocation="127.0.0.1:{port}"\ninsecure=true\n')
        return cli("config", name, *words, root=root, CONTAINERS_REGISTRIES_CONF=str(conf))

    write_layout(tmp_path / "other", "app", [BASE], config={"author": "the registry's"})
    there = Store.open(str(tmp_path / "there"))
    ours = cli("config", "--local", "app", root=root).stdout
    assert json.loads(ours)["rootfs"]
    with RegistryServer(there) as server:
        done = config("app", server.port)
        assert (done.returncode, done.stdout) == (0, ours)
        assert done.stderr.decode().endswith("; this is the config of the image in the store\n")
        assert done.stderr.startswith(b"lamina: ")
        nowhere = config("nothing", server.port)
        assert (nowhere.returncode, nowhere.stdout) == (3, b"")
        assert len(nowhere.stderr.splitlines()) == 1
        copy(LayoutReader(str(tmp_path / "other")), there, [("app", "app")])
        done = config("app", server.port)
        assert (json.loads(done.stdout)["author"], done.stderr) == ("the registry's", b"")
        assert config("app", server.port, "--local").stdout == ours
    done = config("app", free_port())  # nobody listens
    assert (done.returncode, done.stdout) == (0, ours)
    assert done.stderr.decode().endswith("; this is the config of the image in the store\n")
    assert config("nothing", free_port()).returncode == 8


def test_export_of_a_container_is_its_image_and_what_it_changed(root: Path, tmp_path: Path) -> None:
    store = open_store(load_settings({"root": str(root)}))
    stack = lamina.open("base", root=root).stack
    container = create(
        store, stack, ContainerOptions(name="base", command=("x",))
    )  # a container wins over an image of its name
    upper = Path(store.containers.path(container.id, "upper"))
    (upper / "made").mkdir()
    (upper / "made/new").write_bytes(b"new")
    os.utime(upper / "made/new", (1, 1))
    if os.geteuid() == 0:
        os.mknod(upper / "etc", stat.S_IFCHR, 0)  # overlay's whiteout
    out = cli("export", "base", root=root)
    assert out.returncode == 0, out.stderr
    with tarfile.open(fileobj=io.BytesIO(out.stdout)) as tar:
        found = {member.name.strip("/"): member for member in tar}
        content = tar.extractfile(found["made/new"])
        assert content is not None
        assert content.read() == b"new"
    image = {os.fsdecode(stack.tree().path(node)) for node in stack.tree().walk() if node}
    gone = {path for path in image if os.geteuid() == 0 and path.partition("/")[0] == "etc"}
    assert {name for name in found if name not in ("", ".")} == image - gone | {"made", "made/new"}
    commit(store, stack, store.containers.get("base"), "committed", Revision(packing=Packing(epoch=0)))
    again = cli("export", "committed", root=root).stdout
    assert cli("import", "-", "back", root=root, input=out.stdout).returncode == 0
    assert cli("diff", "back", "committed", "--ignore", "config,history,time", root=root).stdout == b""
    with tarfile.open(fileobj=io.BytesIO(again)) as tar:
        assert {member.name.strip("/") for member in tar} == set(found)
    assert cli("export", container.id[:12], "-o", str(tmp_path / "x.tar"), root=root).returncode == 0
    assert (tmp_path / "x.tar").read_bytes() == out.stdout


NAMES = {"org.opencontainers.image.base.name": "docker.io/library/old:1", "example.team": "blue"}


def annotated(root: Path, name: str, annotations: dict[str, str]) -> lamina.Image:
    """The image again, with annotations in its manifest."""
    from lamina.edit.publish import publish

    image, store = lamina.open(name, root=root), Store.open(str(root))
    layers = [handle.descriptor for handle in image.stack.layers]
    publish(store, "noted", layers, image.config, docker=False, purpose="test", annotations=annotations)
    return lamina.open("noted", root=root)


def test_a_layer_on_top_keeps_the_annotations(root: Path, tmp_path: Path) -> None:
    base = lamina.open("base", root=root)
    notes = {**NAMES, "org.opencontainers.image.base.digest": str(base.digest)}
    image = annotated(root, "app", notes)
    (tmp_path / "f").write_bytes(b"f")
    made = image.append({"/f": tmp_path / "f"}, name="more")
    assert made.manifest.annotations == notes
    old = find_base(made.stack, open_store(load_settings({"root": str(root)})))
    assert old.manifest.descriptor.digest == base.digest
    store = open_store(load_settings({"root": str(root)}))
    container = create(store, image.stack, ContainerOptions(name="noted", command=("x",)))
    commit(store, image.stack, container, "committed", Revision(packing=Packing(epoch=0)))
    assert lamina.open("committed", root=root).manifest.annotations == notes
    assert image[:1].append({"/f": tmp_path / "f"}).manifest.annotations == {"example.team": "blue"}


def test_names_that_are_not_utf8_are_escaped_in_the_history(root: Path, tmp_path: Path) -> None:
    bad = "caf\udce9"
    write_layout(tmp_path / "n", "names", [[(bad, b"1"), ("kept", b"k")]])
    assert cli("load", "-i", str(tmp_path / "n"), root=root).returncode == 0
    image = lamina.open("names", root=root)
    erased = image.erase(bad, name="erased")
    assert erased.config.history[-1].created_by == "erase caf\\xe9"
    assert names_of(erased) == ["", "kept"]
    (tmp_path / "f").write_bytes(b"f")
    done = cli("append", "names", f"{tmp_path}/f:/d/{bad}", "--remove", f"/{bad}", "-t", "both", root=root)
    assert done.returncode == 0, done.stderr
    both = lamina.open("both", root=root)
    assert names_of(both) == ["", "d", f"d/{bad}", "kept"]
    assert "caf\\xe9" in both.config.history[-1].created_by


@pytest.mark.parametrize(
    "words",
    [
        ("append", "app", "-t", "x", "-e", "A=\udcff"),
        ("append", "app", "-t", "x", "--remove", "/bin", "-m", "\udcff"),
        ("append", "app", "-t", "x", "--label", "\udcff=1"),
        ("config", "app", "-t", "x", "--cmd", "run \udcff"),
        ("config", "app", "-t", "x", "-e", "A=1", "--message", "\udcff"),
        ("flatten", "app", "-t", "x", "-m", "\udcff"),
        ("commit", "nobody", "x", "--env", "A=\udcff"),
    ],
    ids=lambda words: " ".join(words[:1] + words[-2:-1]),
)
def test_text_that_no_config_can_hold_names_its_option(root: Path, words: tuple[str, ...]) -> None:
    done = cli(*words, root=root)
    assert done.returncode == 2
    assert words[-2].encode() in done.stderr
    assert b"UTF-8" in done.stderr


def test_marks_of_a_layer_that_is_written_again_act_on_the_new_base(root: Path, tmp_path: Path) -> None:
    old = [("t", b"target"), ("d/", None), ("x", b"file")]
    new = [("brought", b"b"), ("d/", None), ("d/more", b"m"), ("x/", None), ("x/theirs", b"t"), ("u/", None)]
    # only the whiteout of x hides something on the old base
    own = [(".wh.brought", b""), ("d/.wh..wh..opq", b""), (".wh.x", b""), ("x/", None), ("x/mine", b""), ("l", "= t")]
    for name, layers in (("o", [old]), ("n", [new]), ("a", [old, own])):
        write_layout(tmp_path / name, name, layers)
        assert cli("load", "-i", str(tmp_path / name), root=root).returncode == 0
    app, onto = lamina.open("a", root=root), lamina.open("n", root=root)
    plan = app.plan_rebase(onto)
    assert sorted(plan.rewritten) == [2]
    assert {("added", b"brought", True), ("added", b"d/more", True)} <= what(plan)
    made = app.rebase(onto, force=True, name="r")
    assert names_of(made) == ["", "d", "l", "u", "x", "x/mine"]
