"""Broken or hostile archives and layouts: each gives one lamina error, and nothing is written."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.detect import open_any
from lamina.archive.docker import DockerArchiveReader, DockerArchiveWriter
from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.archive.oci import OciArchiveReader, OciArchiveWriter
from lamina.errors import InvalidContent, InvalidDocument, LaminaError, LimitExceeded, ReferenceNotFound, Unsupported
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_index, build_manifest
from lamina.spec.platform import Platform
from lamina.spec.reference import canonical
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import lamina, make_tar, write_layout

REF = "org.opencontainers.image.ref.name"
LAYERS = [[("a", b"one")], [("b", b"two")]]


def tar_of(members: list[tuple[Any, ...]]) -> bytes:
    return make_tar(members)


def old_docker_save(compress: bool = False) -> bytes:
    """What docker wrote before 25: a directory a layer, duplicates as symlinks, manifest.json last."""
    layer = make_tar(LAYERS[0])
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))] * 2},
        }
    ).encode()
    name = Digest.of(config).encoded + ".json"
    manifest = [
        {"Config": name, "RepoTags": ["x:1", "host.example/y:2"], "Layers": ["aaa/layer.tar", "bbb/layer.tar"]},
        {"Config": name, "RepoTags": None, "Layers": ["aaa/layer.tar", "bbb/layer.tar"]},
    ]
    body = gzip.compress(layer, mtime=0) if compress else layer
    return tar_of(
        [
            ("aaa/layer.tar", body),
            ("bbb/layer.tar", "-> ../aaa/layer.tar"),
            (name, config),
            ("manifest.json", json.dumps(manifest).encode()),
        ]
    )


@pytest.mark.parametrize("compress", [False, True])
def test_docker_save_of_old_with_symlinked_layers_and_several_names(tmp_path: Path, compress: bool) -> None:
    (tmp_path / "d.tar").write_bytes(gzip.compress(old_docker_save(compress)))
    reader = open_any(str(tmp_path / "d.tar"))
    assert isinstance(reader, DockerArchiveReader)
    store = Store.open(str(tmp_path / "s"))
    copy(reader, store, [("host.example/y:2", "y")])
    stack = store.stack("y", Platform.parse("linux/amd64"))
    assert len(stack.layers) == 2
    assert [e.path for e in stack.layers[1].index()] == [b"a"]
    with pytest.raises(ReferenceNotFound, match="2 images"):
        reader.resolve("")


def test_every_truncation_of_an_archive_is_our_error(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", LAYERS)
    copy(LayoutReader(str(tmp_path / "l")), OciArchiveWriter(str(tmp_path / "o.tar")), [("x", "x")])
    copy(LayoutReader(str(tmp_path / "l")), DockerArchiveWriter(str(tmp_path / "d.tar")), [("x", "x")])
    for name, needed in (("o.tar", b"index.json"), ("d.tar", b"manifest.json")):
        whole = (tmp_path / name).read_bytes()
        for cut in range(0, whole.rindex(needed) + 600, 389):
            (tmp_path / "cut").write_bytes(whole[:cut])
            store = Store.open(str(tmp_path / "s"))
            with pytest.raises(LaminaError):
                copy(open_any(str(tmp_path / "cut")), store, [("x", "x")])
        assert list(Store.open(str(tmp_path / "s")).names()) == []


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
@pytest.mark.parametrize("how", ["directory", "garbage", "fifo", "empty", "missing"])
def test_a_directory_that_is_not_a_layout_is_refused(tmp_path: Path, name: str, how: str) -> None:
    write_layout(tmp_path / "l", "x", LAYERS)
    path = tmp_path / "l" / name
    path.unlink()
    if how == "directory":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how != "missing":
        path.write_bytes(b"{" if how == "garbage" else b"")
    done = lamina("ls", f"oci:{tmp_path}/l", root=tmp_path / "s")
    assert done.returncode in (3, 4, 7)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_blobs_that_are_links_or_have_other_sizes_are_not_taken(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", LAYERS)
    reader = LayoutReader(str(tmp_path / "l"))
    manifest = json.loads(reader.manifest(reader.resolve("x")))
    blob = tmp_path / "l/blobs/sha256" / manifest["layers"][0]["digest"].split(":")[1]
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LaminaError, match="was not found"):
        copy(reader, Store.open(str(tmp_path / "s")), [("x", "x")])


@pytest.mark.parametrize(
    ("annotations", "asked"),
    [
        ({REF: "12"}, ["12"]),
        ({REF: "docker.io/library/debian:12"}, ["debian:12", "docker.io/library/debian:12"]),
        ({"io.containerd.image.name": "docker.io/library/debian:12", REF: "12"}, ["debian:12", "12"]),
        ({}, [""]),
    ],
)
def test_names_as_every_tool_writes_them(tmp_path: Path, annotations: dict[str, str], asked: list[str]) -> None:
    write_layout(tmp_path / "l", "x", LAYERS)
    path = tmp_path / "l/index.json"
    index = json.loads(path.read_bytes())
    index["manifests"][0]["annotations"] = annotations
    path.write_text(json.dumps(index))
    for name in asked:
        assert LayoutReader(str(tmp_path / "l")).resolve(name).size > 0
    with pytest.raises(ReferenceNotFound):
        LayoutReader(str(tmp_path / "l")).resolve("other")


def test_layout_writer_keeps_what_others_wrote(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", LAYERS)
    path = tmp_path / "l/index.json"
    index = json.loads(path.read_bytes())
    index["future"] = 1
    index["manifests"].append({"mediaType": "application/x", "digest": "sha256:" + "0" * 64, "size": 1, "odd": True})
    path.write_text(json.dumps(index))
    write_layout(tmp_path / "l", "y", [LAYERS[0]])
    after = json.loads(path.read_bytes())
    assert after["future"] == 1
    assert [m.get("odd", False) for m in after["manifests"]] == [False, True, False]


def test_an_index_keeps_its_digest_and_fetches_one_platform(tmp_path: Path) -> None:
    one = write_layout(tmp_path / "l", "one", LAYERS)
    two = write_layout(tmp_path / "l", "two", [LAYERS[0]], config={"architecture": "s390x"})
    from dataclasses import replace

    index = build_index(
        [replace(one, platform=Platform.host()), replace(two, platform=Platform.parse("linux/s390x"))]
    )
    writer = LayoutWriter(str(tmp_path / "l"))
    with writer.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
        session.tag("both", index.descriptor)
    store = Store.open(str(tmp_path / "s"))
    (done,) = copy(LayoutReader(str(tmp_path / "l")), store, [("both", "both")])
    assert store.resolve("both").digest == index.descriptor.digest
    assert not store.blobs.has(two)
    from lamina.store.fsck import fsck

    assert fsck(store) == []
    os.unlink(store.blobs.path(one.digest))
    assert [f.severity for f in fsck(store)] == ["error"]
    copy(LayoutReader(str(tmp_path / "l")), store, [("both", "both")], all_platforms=True)
    assert store.blobs.has(two)
    assert fsck(store) == []
    assert [m.what for m in done.blobs][:2] == ["index", "manifest"]
    copy(store, DockerArchiveWriter(str(tmp_path / "d.tar")), [("both", "both")])
    assert len(list(DockerArchiveReader(str(tmp_path / "d.tar")).names())) == 1


def test_xz_that_needs_too_much_memory_is_refused_as_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lzma

    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(tar_of([("a", b"one")])))
    monkeypatch.setattr("lamina.layer.bzip2_xz._MOST_MEMORY", 1 << 20)
    with pytest.raises(LimitExceeded, match="more than 1 MiB of memory"):
        open_any(str(tmp_path / "a.tar.xz"))


def saved_by_docker(path: Path, count: int) -> list[Digest]:
    """A layout and docker's list in one tar: each image an index of its own, as docker's containerd store has it."""
    blobs: dict[str, bytes] = {}

    def put(media_type: str, raw: bytes) -> Descriptor:
        found = Descriptor.of(media_type, raw)
        blobs[f"blobs/sha256/{found.digest.encoded}"] = raw
        return found

    layer = put(mediatype.OCI_LAYER, tar_of([("a", b"one")]))
    tops, listed = [], []
    for number in range(count):
        raw = {
            **{"os": "linux", "architecture": "amd64", "config": {"Labels": {"number": str(number)}}},
            "rootfs": {"type": "layers", "diff_ids": [str(layer.digest)]},
        }
        config = put(mediatype.OCI_CONFIG, json.dumps(raw).encode())
        manifest = build_manifest(config, [layer])
        index = build_index([put(manifest.descriptor.media_type, manifest.raw)])
        name = f"docker.io/library/app{number}:1"
        tops.append(put(index.descriptor.media_type, index.raw).with_annotations({REF: name}))
        listed.append(
            {
                "Config": f"blobs/sha256/{config.digest.encoded}",
                "RepoTags": [f"app{number}:1"],
                "Layers": [f"blobs/sha256/{layer.digest.encoded}"],
            }
        )
    documents = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [top.to_json() for top in tops]}).encode(),
        "manifest.json": json.dumps(listed).encode(),
    }
    path.write_bytes(tar_of([*blobs.items(), *documents.items()]))
    return [top.digest for top in tops]


def test_images_of_a_large_docker_archive_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 60
    tops = saved_by_docker(tmp_path / "d.tar", count)
    asked: list[str] = []

    def counted(name: str) -> str:
        asked.append(name)
        return canonical(name)

    monkeypatch.setattr("lamina.archive.docker.canonical", counted)
    names = list(DockerArchiveReader(str(tmp_path / "d.tar")).names())
    assert [(name, top.digest) for name, top in names] == [(f"app{n}:1", tops[n]) for n in range(count)]
    assert len(asked) <= 4 * count


def test_an_artifact_can_be_copied_but_not_read_as_an_image(tmp_path: Path) -> None:
    from lamina.source.verify import BytesBlob
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.manifest import build_manifest

    config, blob = Descriptor.of(mediatype.OCI_EMPTY, b"{}"), Descriptor.of("text/plain", b"hello")
    manifest = build_manifest(config, [blob], artifact_type="application/x.greeting")
    store = Store.open(str(tmp_path / "s"))
    with store.session("test") as session:
        session.put_blob(config, BytesBlob(config, b"{}"))
        session.put_blob(blob, BytesBlob(blob, b"hello"))
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("greeting", manifest.descriptor)
    copy(store, OciArchiveWriter(str(tmp_path / "a.tar")), [("greeting", "greeting")])
    assert next(OciArchiveReader(str(tmp_path / "a.tar")).names())[1].digest == manifest.descriptor.digest
    with pytest.raises(Unsupported, match=r"x\.greeting"):
        store.stack("greeting", Platform.host())
    assert lamina("images", root=tmp_path / "s").returncode == 0
    assert lamina("ls", "greeting", root=tmp_path / "s").returncode == 7


def test_an_archive_exists_complete_or_not_at_all(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", LAYERS)
    layer = json.loads(LayoutReader(str(tmp_path / "l")).manifest(LayoutReader(str(tmp_path / "l")).resolve("x")))[
        "layers"
    ][1]
    blob = tmp_path / "l/blobs/sha256" / layer["digest"].split(":")[1]
    blob.write_bytes(b"x" * layer["size"])
    for writer in (OciArchiveWriter(str(tmp_path / "o.tar")), DockerArchiveWriter(str(tmp_path / "o.tar"))):
        with pytest.raises(LaminaError):
            copy(LayoutReader(str(tmp_path / "l")), writer, [("x", "x")])
        assert sorted(os.listdir(tmp_path)) == ["l"]


def test_unpack_writes_nothing_outside_its_directory(tmp_path: Path) -> None:
    """Links of a lower layer that lead out are replaced or kept as links, never followed."""
    out = tmp_path / "outside"
    out.mkdir()
    evil = [[("d", f"-> {out}"), ("e", f"-> {out}/f")], [("d/planted", b"!"), ("e", b"!!")]]
    write_layout(tmp_path / "l", "x", evil)
    done = lamina("unpack", f"oci:{tmp_path}/l", str(tmp_path / "root"), root=tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert os.listdir(out) == []
    assert (tmp_path / "root/d/planted").read_bytes() == b"!"
    assert (tmp_path / "root/e").read_bytes() == b"!!"
    failing = [[("big", b"x" * 100)]]
    write_layout(tmp_path / "l2", "x", failing)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    assert lamina("unpack", f"oci:{tmp_path}/l2", str(tmp_path / "full"), root=tmp_path / "s").returncode == 5
    assert (tmp_path / "full/file").read_text() == "mine"


def test_load_from_a_pipe_and_to_a_pipe(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", LAYERS)
    assert lamina("load", "-i", f"{tmp_path}/l", root=tmp_path / "s").returncode == 0
    saved = lamina("save", "x", root=tmp_path / "s").stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        assert "manifest.json" in tar.getnames()
    done = lamina("load", root=tmp_path / "t", input=saved)
    assert done.stdout == b"loaded docker.io/library/x:latest\n"


def _image(layout: Path, config: dict[str, Any], layers: list[Descriptor]) -> None:
    """An image "x" in the layout that states these layers."""
    writer = LayoutWriter(str(layout))
    with writer.session("test") as session:
        raw = json.dumps(config).encode()
        own = Descriptor.of(mediatype.OCI_CONFIG, raw)
        session.put_blob(own, BytesBlob(own, raw))
        manifest = build_manifest(own, layers)
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("x", manifest.descriptor)


def test_a_layer_that_is_the_images_config_is_refused(tmp_path: Path) -> None:
    """Nothing would be compared with its diff_id."""
    config = ImageConfig.build(Platform.host(), diff_ids=[Digest.of(b"tar")]).json
    raw = json.dumps(config).encode()
    _image(tmp_path / "l", config, [Descriptor.of(mediatype.OCI_LAYER_GZIP, raw)])
    store = Store.open(str(tmp_path / "s"))
    with pytest.raises(InvalidDocument, match="as its config and as a layer"):
        copy(LayoutReader(str(tmp_path / "l")), store, [("x", "x")])
    assert list(store.names()) == []


def test_a_layer_that_is_stated_first_as_something_unknown_is_compared_with_its_diff_id(tmp_path: Path) -> None:
    blob = gzip.compress(make_tar([("a", b"x")]), mtime=0)
    layer = Descriptor.of(mediatype.OCI_LAYER_GZIP, blob)
    unknown = Descriptor("application/vnd.example", layer.digest, layer.size)
    wrong = Digest.of(b"another tar")
    config = ImageConfig.build(Platform.host(), diff_ids=[wrong, wrong]).json
    _image(tmp_path / "l", config, [unknown, layer])
    writer = LayoutWriter(str(tmp_path / "l"))
    with writer.session("test") as session:
        session.put_blob(layer, BytesBlob(layer, blob))
    store = Store.open(str(tmp_path / "s"))
    with pytest.raises(InvalidContent, match="unpacks to"):
        copy(LayoutReader(str(tmp_path / "l")), store, [("x", "x")])
    assert list(store.names()) == []
