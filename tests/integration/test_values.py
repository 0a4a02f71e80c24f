"""Images, paths, file systems and differences as values: in other processes, in sets, as JSON, by URL."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pandas
import pytest
from upath import UPath

import lamina
from lamina import errors
from lamina.build.errors import DockerfileError, StepFailed
from lamina.build.instructions import At
from lamina.errors import LaminaError, NotFound, ReferenceNotFound, Unsupported, UsageError
from lamina.filesystem import LaminaFileSystem, split_url
from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from support import lamina as cli
from support import opened_from, write_layout

BASE = [("etc/", None), ("etc/conf", b"one\n"), ("bin", "-> usr/bin"), ("usr/", None), ("usr/bin/", None)]
TOP = [("etc/conf", b"other\n"), ("data/", None), ("data/t.csv", b"a,b\n1,2\n"), ("usr/bin/x", b"xx")]


@pytest.fixture(params=["store", "layout"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> lamina.Image:
    return opened_from(request.param, tmp_path, [BASE, TOP])


def elsewhere(value: object, code: str, where: Path) -> str:
    """What another process, in another directory, says of the pickled ``value``."""
    program = f"import pickle, sys; it = pickle.load(sys.stdin.buffer); print({code})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        input=pickle.dumps(value),
        capture_output=True,
        cwd=where,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_values_are_the_same_in_another_process(image: lamina.Image, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    diff = image[:1].diff(image)
    questions: list[tuple[object, str, object]] = [
        (image, "(it.name, str(it.digest), it.read_bytes('/etc/conf'))", (image.name, str(image.digest), b"other\n")),
        (image[:1], "(it.read_bytes('/etc/conf'), len(it))", (b"one\n", 1)),
        (image[1:], "(it.listdir('/'), it.stack.first)", (["data", "etc", "usr"], 2)),
        (image.path("/bin/x"), "it.read_text()", "xx"),
        (image.fs, "(it.cat('/bin/x'), it.ls('/data', detail=False))", (b"xx", ["/data/t.csv"])),
        (diff, "[str(change) for change in it]", [str(change) for change in diff]),
        (diff, "it.text([c for c in it if c.path == b'etc/conf'][0])[2:]", ["@@ -1 +1 @@", "-one", "+other"]),
        (diff, "it.to_json(content=True)", diff.to_json(content=True)),
    ]
    for value, code, expected in questions:
        assert elsewhere(value, code, tmp_path / "other") == str(expected), code
    with image.fs.open("/etc/conf") as file:
        file.read(2)
        assert elsewhere(file, "it.read()", tmp_path / "other") == "b'her\\n'"


def test_copies_are_equal_and_count_once(image: lamina.Image) -> None:
    again = lamina.open(image.name, settings=image._settings)
    values: list[tuple[Any, Any, Any]] = [
        (image, again, image[:1]),
        (image.path("/etc"), again.path("/etc"), image[:1].path("/etc")),
        (image.fs, again.fs, image[:1].fs),
        (image.layers[0], again.layers[0], image.layers[1]),
        (image[:1].diff(image), again[:1].diff(again), image.diff(image[:1])),
    ]
    for one, same, other in values:
        for twin in (same, copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert twin == one
            assert hash(twin) == hash(one)
        assert other != one
        assert len({one, same, other}) == 2
    assert copy.deepcopy(image).stack is image.stack


def test_a_deleted_or_replaced_image_is_not_mistaken_for_another(tmp_path: Path) -> None:
    image = opened_from("store", tmp_path, [BASE, TOP])
    other = pickle.dumps(image)
    write_layout(tmp_path / "m", "app", [BASE])
    assert cli("load", "-i", str(tmp_path / "m"), root=tmp_path / "s").returncode == 0  # the name moves
    code = f"import pickle; it = pickle.loads({other!r}); print(it.read_bytes('/etc/conf'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"b'other\\n'\n"
    write_layout(tmp_path / "l", "moving", [BASE])
    moving = pickle.dumps(lamina.open(f"oci:{tmp_path}/l:moving", root=tmp_path / "none"))
    write_layout(tmp_path / "l", "moving", [TOP])
    with pytest.raises(NotFound, match="now another image"):
        pickle.loads(moving)


def test_a_difference_with_a_directory_is_pickled_as_what_it_says(image: lamina.Image, tmp_path: Path) -> None:
    image.unpack(tmp_path / "root")
    (tmp_path / "root/etc/conf").write_text("mine\n")
    diff = image.diff(tmp_path / "root", ignore=["owner"])
    again = pickle.loads(pickle.dumps(diff))
    assert again == diff
    assert {str(change) for change in again} >= {"C /etc/conf   content (6 to 5 bytes), time"}
    assert again.to_json()["after"] == diff.to_json()["after"]
    (changed,) = [change for change in again if change.path == b"etc/conf"]
    assert diff.text(changed) is not None
    with pytest.raises(Unsupported, match="were not pickled"):
        again.text(changed)


def test_values_are_written_as_json(image: lamina.Image) -> None:
    told = json.loads(json.dumps(image.to_json()))
    assert (told["name"], told["digest"], told["id"]) == (image.name, str(image.digest), str(image.id))
    assert (told["cmd"], told["size"], told["range"]) == (["/bin/sh"], image.size, [1, 2])
    assert [layer["step"] for layer in told["layers"]] == ["step 1", "step 2"]
    path = image[1:].path("/" + os.fsdecode(b"caf\xe9"))
    assert json.loads(json.dumps(path.to_json())) == {
        "image": image.name,
        "digest": str(image.digest),
        "layers": [2, 2],
        "path": "/caf\\xe9",
        "path_b64": "L2NhZuk=",
    }
    fs = image.fs
    assert fsspec.AbstractFileSystem.from_json(fs.to_json()) == fs
    ranged = image[1:].fs
    assert fsspec.AbstractFileSystem.from_json(ranged.to_json()) == ranged != fs
    assert fs.fsid != ranged.fsid


def test_differences_are_shown_as_by_the_command(tmp_path: Path) -> None:
    image = opened_from("store", tmp_path, [BASE, TOP])
    done = cli("diff", "app~1", "app", "--format", "json", root=tmp_path / "s")
    assert json.loads(done.stdout) == lamina.open("app~1", root=tmp_path / "s").diff(image).to_json()


def every(kind: type[LaminaError]) -> list[type[LaminaError]]:
    return [kind, *(below for one in kind.__subclasses__() for below in every(one))]


@pytest.mark.parametrize("kind", every(LaminaError), ids=lambda kind: kind.__name__)
def test_errors_come_whole_out_of_another_process(kind: type[LaminaError]) -> None:
    error = kind("what", hint="do")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.message, again.hint) == (kind, "what (do)", "what", "do")
    plain = errors.from_plain(errors.to_plain(error))
    assert (plain.message, plain.hint) == ("what", "do")


def test_errors_of_builds_keep_their_place_out_of_another_process() -> None:
    wrong = DockerfileError(
        "no such thing", at=At("Dockerfile", 3, 4), column=7, line="RUNN x", hint=lambda: "use RUN"
    )
    wrong.source = "FROM x"
    failed = StepFailed("it failed", at=At("Dockerfile", 5, 5), label="[2/2] RUN x", code=7, hint="look")
    for error, names in (
        (wrong, ("message", "hint", "problem", "at", "column", "source")),
        (failed, ("message", "hint", "at", "label", "code", "source")),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)
        assert [getattr(again, name) for name in names] == [getattr(error, name) for name in names]
    assert str(wrong) == "Dockerfile:3:7: no such thing; the line is: RUNN x (use RUN)"


URLS = {
    "lamina://debian:12//etc/os-release": ("debian:12", "etc/os-release"),
    "lamina://debian:12/etc/os-release": ("debian:12", "etc/os-release"),
    "lamina://debian/etc": ("debian", "etc"),
    "lamina://debian": ("debian", ""),
    "lamina://my/app:1/srv/a:b": ("my/app:1", "srv/a:b"),
    "lamina://my/app:1~2/srv": ("my/app:1~2", "srv"),
    "lamina://my/app~1:2/srv": ("my/app~1:2", "srv"),
    "lamina://ghcr.io/me/app@sha256:ab/etc": ("ghcr.io/me/app@sha256:ab", "etc"),
    "lamina://sha256:ab/etc": ("sha256:ab", "etc"),
    "lamina://localhost:5000/me/app:1/etc": ("localhost:5000/me/app:1", "etc"),
    "lamina://host.dom:5000/app:1/etc": ("host.dom:5000/app:1", "etc"),
    "lamina://registry:5000/app:1//etc": ("registry:5000/app:1", "etc"),
    "lamina://docker://debian:12//etc": ("docker://debian:12", "etc"),
    "lamina://docker://debian:12/etc": ("docker://debian:12", "etc"),
    "lamina://docker://localhost:5000/a:1/etc/x": ("docker://localhost:5000/a:1", "etc/x"),
    "lamina://oci:/layout/dir:ref//etc/x": ("oci:/layout/dir:ref", "etc/x"),
    "lamina:///etc/os-release": ("", "/etc/os-release"),
}


@pytest.mark.parametrize("url", URLS)
def test_urls_name_an_image_and_a_path(url: str) -> None:
    image, path = URLS[url]
    assert split_url(url) == (image, path)
    assert LaminaFileSystem._strip_protocol(url) == "/" + path.strip("/")
    assert LaminaFileSystem._get_kwargs_from_urls(url) == ({"image": image} if image else {})


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> lamina.Image:
    """The image of a store that is set."""
    monkeypatch.setenv("LAMINA_ROOT", str(tmp_path / "s"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "none.conf"))
    return opened_from("store", tmp_path, [BASE, TOP])


def test_urls_open_images_of_the_store_registries_and_layouts(stored: lamina.Image, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    with RegistryServer(store, writable=True) as registry:
        host = f"127.0.0.1:{registry.port}"
        assert stored.push(f"{host}/me/app:1", tls_verify=False) == stored.digest
        assert lamina.open(f"docker://{host}/me/app:1") == stored
        urls = [
            "lamina://app/data/t.csv",
            "lamina://app:latest//data/t.csv",
            f"lamina://docker://{host}/me/app:1//data/t.csv",
            f"lamina://docker://{host}/me/app:1/data/t.csv",
            f"lamina://oci:{tmp_path}/l:app//data/t.csv",
            stored.path("/data/t.csv").as_uri(),
            stored.fs.unstrip_protocol("/data/t.csv"),
        ]
        for url in urls:
            with fsspec.open(url, "rt") as file:
                assert file.read() == "a,b\n1,2\n", url
        assert pandas.read_csv(urls[2])["b"].tolist() == [2]
        remote = lamina.open(f"docker://{host}/me/app:1")
        assert elsewhere(remote, "it.path('/etc/conf').read_text().strip()", tmp_path) == "other"
    with pytest.raises(ReferenceNotFound, match="write two slashes after the image"):
        fsspec.open("lamina://my/etc/passwd").open()


def test_pandas_reads_paths_of_any_image(image: lamina.Image) -> None:
    assert pandas.read_csv(image.path("/data/t.csv"))["a"].tolist() == [1]
    assert pandas.read_csv(image[1:].path("/data/t.csv"))["a"].tolist() == [1]
    with pytest.raises(FileNotFoundError):
        pandas.read_csv(image[:1].path("/data/t.csv"))


def test_universal_pathlib_finds_it_by_its_entry_point(stored: lamina.Image) -> None:
    path = UPath("lamina://app/data")
    assert type(path).__name__ == "LaminaPath"
    assert [one.name for one in path.iterdir()] == ["t.csv"]
    assert (path / "t.csv").read_text() == "a,b\n1,2\n"
    assert (path / "t.csv").stat().st_size == 8
    assert [one.path for one in UPath("lamina://app//").rglob("*")] == sorted(
        ["/bin", "/data", "/data/t.csv", "/etc", "/etc/conf", "/usr", "/usr/bin", "/usr/bin/x"]
    )
    assert UPath(stored[:1].path("/etc/conf")).read_bytes() == b"one\n"
    assert (UPath("lamina://app/bin").is_symlink(), UPath("lamina://app/bin").is_dir()) == (True, True)
    assert pickle.loads(pickle.dumps(path)) == path
    assert not (path / "none").exists()
    with pytest.raises(FileNotFoundError):
        (path / "none").read_text()
    for name, given in (("write_text", ("x",)), ("mkdir", ()), ("unlink", ()), ("touch", ()), ("rename", ("x",))):
        with pytest.raises(OSError, match="read-only") as refused:
            getattr(path / "t.csv", name)(*given)
        assert refused.value.errno == 30
    with pytest.raises(OSError, match="read-only"):
        (path / "t.csv").open("w")


def test_walkers_see_symlinks_as_symlinks(tmp_path: Path) -> None:
    layer = [
        ("d/", None),
        ("d/f", b"12345"),
        ("d/again", "= d/f"),
        ("d/root", "-> /"),
        ("d/up", "-> .."),
        ("l", "-> d"),
        ("f", "-> d/f"),
        ("no", "-> where"),
        ("null", "c 1 3"),
    ]
    write_layout(tmp_path / "l", "app", [layer])
    fs = lamina.open(f"oci:{tmp_path}/l:app", root=tmp_path / "none").fs
    files = ["/d/again", "/d/f", "/d/root", "/d/up", "/f", "/l", "/no", "/null"]
    assert fs.find("/") == files
    assert fs.find("/", withdirs=True) == sorted(["/", "/d", *files])
    assert [sorted(names) for _, _, names in fs.walk("/")] == [["f", "l", "no", "null"], ["again", "f", "root", "up"]]
    assert fs.glob("/**") == sorted(["/", "/d", *files])
    assert fs.glob("/l/*") == ["/l/again", "/l/f", "/l/root", "/l/up"]
    links = {"/d/root": 1, "/d/up": 2, "/f": 3, "/l": 1, "/no": 5}
    assert fs.du("/", total=False) == {"/d/again": 5, "/d/f": 5, "/null": 0, **links}
    assert fs.du("/") == 5 + sum(links.values())
    assert fs.du("/l") == 5 + 1 + 2
    told = {one["name"]: (one["type"], one["islink"], one["size"]) for one in fs.ls("/")}
    assert told == {
        "/d": ("directory", False, 0),
        "/f": ("link", True, 3),
        "/l": ("link", True, 1),
        "/no": ("link", True, 5),
        "/null": ("other", False, 0),
    }
    assert (fs.isdir("/l"), fs.isfile("/f"), fs.info("/f")["size"], fs.exists("/no"), fs.lexists("/no")) == (
        *(True, True, 5),
        True,
        True,
    )
    fs.get("/", str(tmp_path / "got"), recursive=True)
    got = {
        os.path.relpath(os.path.join(at, name), tmp_path / "got")
        for at, _, names in os.walk(tmp_path / "got")
        for name in names
    }
    assert got == {"d/f", "d/again", "f"}
    with pytest.raises(FileNotFoundError):
        fs.get("/no", str(tmp_path / "no"))


WRITES: dict[str, tuple[Any, ...]] = {
    "mkdir": ("/x",),
    "makedirs": ("/x",),
    "rmdir": ("/etc",),
    "rm": ("/etc",),
    "rm_file": ("/etc/conf",),
    "cp_file": ("/etc/conf", "/x"),
    "copy": ("/etc/conf", "/x"),
    "mv": ("/etc/conf", "/x"),
    "touch": ("/x",),
    "pipe": ("/x", b""),
    "pipe_file": ("/x", b""),
    "put": ("x", "/x"),
    "put_file": ("x", "/x"),
    "write_text": ("/x", "x"),
    "write_bytes": ("/x", b"x"),
    "open": ("/x", "ab"),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_file_system_that_is_read_only_says_so(image: lamina.Image, name: str) -> None:
    with pytest.raises(OSError, match="read-only") as refused:
        getattr(image.fs, name)(*WRITES[name])
    assert (refused.value.errno, isinstance(refused.value, LaminaError)) == (30, True)


def test_the_stores_images_are_listed(stored: lamina.Image, tmp_path: Path) -> None:
    stored.tag("my/app:2")
    write_layout(tmp_path / "m", "newer", [BASE], config={"created": "2026-01-02T03:04:05Z"})
    assert cli("load", "-i", str(tmp_path / "m"), root=tmp_path / "s").returncode == 0
    found = lamina.images()
    assert [image.name for image in found] == ["newer:latest", "app:latest", "my/app:2"]
    assert found[1] == found[2] == stored
    assert found[0].created is not None
    assert found[0].created.isoformat() == "2026-01-02T03:04:05+00:00"
    assert (found[1].created, found[1].size) == (None, stored.size)
    assert [image.name for image in lamina.images("my/*")] == ["my/app:2"]
    assert lamina.images("none") == []
    assert lamina.images(root=tmp_path / "no-store") == []
    listed = json.loads(cli("images", "--format", "json", root=tmp_path / "s").stdout)
    assert [image.size for image in found] == [one["size"] for one in listed]
    stored._store().blobs
    os.unlink(tmp_path / "s/blobs/sha256" / found[0].id.encoded)
    assert [image.name for image in lamina.images()] == ["app:latest", "my/app:2"]


def test_an_image_is_tagged_saved_exported_and_shown(stored: lamina.Image, tmp_path: Path) -> None:
    again = stored.tag("other:1")
    assert (again, again.name) == (stored, "other:1")
    assert lamina.open("other:1") == stored
    stored.save(tmp_path / "a.tar")
    assert lamina.open(f"docker-archive:{tmp_path}/a.tar:app:latest").path("/etc/conf").read_text() == "other\n"
    stored.save(tmp_path / "b.tar", kind="oci-archive", name="x:1")
    assert lamina.open(f"oci-archive:{tmp_path}/b.tar:x:1").digest == stored.digest
    stored.save(tmp_path / "c", kind="oci-dir", name="")
    assert lamina.open(f"oci:{tmp_path}/c").digest == stored.digest
    with pytest.raises(UsageError, match="unknown type of archive"):
        stored.save(tmp_path / "d", kind="zip")
    entries = stored.export(tmp_path / "union.tar")
    with tarfile.open(tmp_path / "union.tar") as tar:
        assert len(tar.getnames()) == entries
        assert tar.extractfile("etc/conf").read() == b"other\n"  # type: ignore[union-attr]
    with open(tmp_path / "again.tar", "w+b") as file:
        assert stored.export(file) == entries
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "union.tar").read_bytes()
    assert [(step.layer, step.history.created_by) for step in stored.history] == [(1, "step 1"), (2, "step 2")]
    assert [step.layer for step in stored[1:].history] == [2]
    assert stored.packages().packages == ()
    assert stored[1:].size == stored.layers[1].size < stored.size
    for work in (lambda: stored[:1].tag("x"), lambda: stored[:1].push("x"), lambda: stored[:1].save(tmp_path / "x")):
        with pytest.raises(UsageError, match="range of layers"):
            work()
    by_id = lamina.open(str(stored.id)[7:19])
    with pytest.raises(UsageError, match="has no name"):
        by_id.push()
    by_id.save(tmp_path / "e.tar")
    assert lamina.open(f"docker-archive:{tmp_path}/e.tar").id == stored.id
