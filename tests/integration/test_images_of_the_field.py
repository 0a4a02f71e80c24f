"""Images as old tools, careless tools and other engines make them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.detect import open_any
from lamina.archive.docker import DockerArchiveReader, DockerArchiveWriter
from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.errors import DigestMismatch, InvalidDocument, LimitExceeded, NotFound, Unsupported
from lamina.events import Event, Warned
from lamina.layer.codec import zstd
from lamina.serve.server import RegistryServer
from lamina.source.select import find_manifest, read_config
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import dump
from lamina.spec.manifest import Manifest, parse
from lamina.spec.platform import Platform
from lamina.store.fsck import fsck
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.transfer.validate import validate
from support import lamina, make_tar, write_index, write_layout
from unruly import Unruly

TAR = make_tar([("a", b"1" * 4000), ("b", b"2" * 70_000)])
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "zstd": lambda data: zstd().compress(data),
}
OLD_TYPES = ["", "application/octet-stream", "application/json", "text/html", "text/plain"]


def layout_of(
    directory: Path,
    blob: bytes,
    layer_type: str = mediatype.OCI_LAYER_GZIP,
    *,
    config_type: str | None = mediatype.OCI_CONFIG,
    docker: bool = False,
    tar: bytes = TAR,
    **config: Any,
) -> LayoutReader:
    """An image "app" of one layer, whatever its types say. A config type of None is left out."""
    writer = LayoutWriter(str(directory))
    value = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))]}}
    raw = json.dumps({**value, **config}).encode()
    with writer.session("test") as session:
        found = []
        for data, kind in ((raw, config_type), (blob, layer_type)):
            descriptor = Descriptor.of(kind or "x/y", data)
            session.put_blob(descriptor, BytesBlob(descriptor, data))
            found.append({**descriptor.to_json(), "mediaType": kind})
        if config_type is None:
            del found[0]["mediaType"]
        kind = mediatype.DOCKER_MANIFEST if docker else mediatype.OCI_MANIFEST
        document = dump({"schemaVersion": 2, "mediaType": kind, "config": found[0], "layers": found[1:]})
        session.put_manifest(Descriptor.of(kind, document), document)
        session.tag("app", Descriptor.of(kind, document))
    return LayoutReader(str(directory))


def read(store: Store, path: bytes = b"b") -> bytes:
    stack = store.stack("app", Platform.parse("linux/amd64"))
    tree, node = stack.lookup(path)
    with stack.open_stored(tree.stored(node)) as stream:
        return stream.read()


@pytest.mark.parametrize("kind", [*OLD_TYPES, None])
def test_config_types_of_old_dockers_are_images(tmp_path: Path, kind: str | None) -> None:
    source = layout_of(
        tmp_path / "l", PACKERS["gzip"](TAR), mediatype.DOCKER_LAYER_GZIP, config_type=kind, docker=True
    )
    store = Store.open(str(tmp_path / "s"))
    copy(source, store, [("app", "app")])
    assert read(store) == b"2" * 70_000
    config = store.stack("app", Platform.host()).config
    assert config.media_type == mediatype.DOCKER_CONFIG  # what is made of it gets the right type
    assert store.manifest(store.resolve("app")) == source.manifest(source.resolve("app"))
    made = lamina("config", "app", "--env", "A=1", "-t", "new", root=tmp_path / "s")
    assert made.returncode == 0, made.stderr
    assert lamina("ls", "new", "/", root=tmp_path / "s").stdout == b"a\nb\n"


@pytest.mark.parametrize("kind", OLD_TYPES[1:])
def test_oci_manifest_with_such_a_config_is_an_artifact(tmp_path: Path, kind: str) -> None:
    source = layout_of(tmp_path / "l", PACKERS["gzip"](TAR), config_type=kind)
    manifest = find_manifest(source, source.resolve("app"), Platform.host(), "app")
    assert not manifest.is_image
    with pytest.raises(Unsupported, match="artifact"):
        read_config(source, manifest, "app")


@pytest.mark.parametrize("docker", [False, True])
def test_type_may_be_missing_in_docker_manifests_only(tmp_path: Path, docker: bool) -> None:
    kind = mediatype.DOCKER_MANIFEST if docker else mediatype.OCI_MANIFEST
    part = {"digest": str(Digest.of(b"")), "size": 0}
    raw = dump({"schemaVersion": 2, "mediaType": kind, "config": part, "layers": [part]})
    if docker:
        document = parse(raw)
        assert isinstance(document, Manifest)
        assert (document.is_image, document.config.media_type) == (True, "")
    else:
        with pytest.raises(InvalidDocument, match="mediaType"):
            parse(raw)


TYPES = {
    "none": mediatype.OCI_LAYER,
    "gzip": mediatype.OCI_LAYER_GZIP,
    "zstd": mediatype.OCI_LAYER_ZSTD,
    "docker": mediatype.DOCKER_LAYER_GZIP,
    "unknown": "application/x-tar",
}


@pytest.mark.parametrize("keep", ["blob+tar", "blob", "tar"])
@pytest.mark.parametrize(("said", "real"), [(said, real) for said in TYPES for real in PACKERS if said != real])
def test_layers_compressed_otherwise_than_their_type_says(tmp_path: Path, said: str, real: str, keep: str) -> None:
    source = layout_of(tmp_path / "l", PACKERS[real](TAR), TYPES[said], docker=said == "docker")
    assert not any(one.problem for one in validate(source, "app", platform=Platform.host()))
    store = Store.open(str(tmp_path / "s"), keep=keep)
    copy(source, store, [("app", "app")])
    assert read(store) == b"2" * 70_000
    assert not [finding for finding in fsck(store) if finding.severity != "elsewhere"]
    layer = store.stack("app", Platform.host()).layers[0]
    with layer.open() as stream:
        assert stream.read() == TAR


@pytest.mark.parametrize(("said", "real"), [("none", "gzip"), ("gzip", "none"), ("zstd", "gzip")])
def test_the_diff_id_is_checked_whatever_the_media_type(tmp_path: Path, said: str, real: str) -> None:
    other = make_tar([("a", b"another")])
    source = layout_of(tmp_path / "l", PACKERS[real](other), TYPES[said])
    with pytest.raises(DigestMismatch):
        copy(source, Store.open(str(tmp_path / "s")), [("app", "app")])


def test_other_places_read_such_layers_too(tmp_path: Path) -> None:
    layout_of(tmp_path / "l", PACKERS["zstd"](TAR), mediatype.OCI_LAYER_GZIP)
    done = lamina("cat", f"oci:{tmp_path}/l:app", "/a", root=tmp_path / "none")
    assert (done.returncode, done.stdout) == (0, b"1" * 4000)
    copy(LayoutReader(str(tmp_path / "l")), DockerArchiveWriter(str(tmp_path / "d.tar")), [("app", "app:1")])
    copy(DockerArchiveReader(str(tmp_path / "d.tar")), Store.open(str(tmp_path / "s")), [("", "app")])
    assert read(Store.open(str(tmp_path / "s"))) == b"2" * 70_000


def several(directory: Path, platforms: Sequence[str], stated: Sequence[bool]) -> LayoutReader:
    """An index "many" with one image for each platform. It states the platforms for which ``stated`` is true."""
    entries = []
    for number, (name, is_stated) in enumerate(zip(platforms, stated, strict=True)):
        platform = Platform.parse(name)
        config = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
        made = write_layout(directory, f"n{number}", [[("who", name.encode())]], config=config)
        entries.append(Descriptor(made.media_type, made.digest, made.size, platform=platform if is_stated else None))
    return write_index(directory, "many", entries)


@pytest.mark.parametrize("stated", [(False, False, False), (True, False, False), (False, True, True)])
@pytest.mark.parametrize("wanted", ["linux/arm64", "linux/s390x", "linux/amd64"])
def test_an_entry_without_a_platform_is_selected_by_its_config(
    tmp_path: Path, stated: tuple[bool, ...], wanted: str
) -> None:
    source = several(tmp_path / "l", ["linux/s390x", "linux/arm64", "linux/amd64"], stated)
    store = Store.open(str(tmp_path / "s"))
    platform = Platform.parse(wanted)
    copy(source, store, [("many", "app")], platform=platform)
    assert store.stack("app", platform).config.platform == platform
    with pytest.raises(NotFound):  # the others did not come along
        store.stack("app", Platform.parse("linux/riscv64"))
    assert not any(one.problem for one in validate(source, "many", platform=platform))


def test_a_matching_stated_platform_needs_no_config(tmp_path: Path) -> None:
    source = several(tmp_path / "l", ["linux/arm64", "linux/amd64"], [False, True])
    asked: list[Descriptor] = []
    manifest = source.manifest
    source.manifest = lambda descriptor: (asked.append(descriptor), manifest(descriptor))[1]  # type: ignore[method-assign]
    top = source.resolve("many")
    find_manifest(source, top, Platform.parse("linux/amd64"), "many")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("config", "asked", "warned"),
    [
        ({"architecture": "amd64"}, "linux/arm64", True),
        ({"architecture": "amd64"}, "linux/amd64", False),
        ({"architecture": "x86_64"}, "linux/amd64", False),
        ({"architecture": "AMD64"}, "linux/x86_64", False),
        ({"architecture": "aarch64"}, "linux/arm64", False),
        ({"architecture": "386"}, "linux/amd64", False),
        ({"architecture": ""}, "linux/arm64", False),
        ({"architecture": "arm"}, "linux/arm/v6", False),
        ({"architecture": "arm", "variant": "v7"}, "linux/arm/v6", True),
        ({"architecture": "amd64"}, None, False),
        ({"architecture": "s390x"}, None, False),
    ],
)
def test_image_of_one_platform_is_taken_with_a_warning(
    tmp_path: Path, config: dict[str, str], asked: str | None, warned: bool
) -> None:
    source = layout_of(tmp_path / "l", PACKERS["gzip"](TAR), **config)
    events: list[Event] = []
    platform = Platform.parse(asked) if asked else None
    copy(source, Store.open(str(tmp_path / "s")), [("app", "app")], platform=platform, on_event=events.append)
    assert [event.message for event in events if isinstance(event, Warned) and "requested" in event.message] == (
        [f"app: the image is for {read_config_of(source).platform}, and {platform} was requested"] if warned else []
    )


def read_config_of(source: LayoutReader) -> Any:
    return read_config(source, find_manifest(source, source.resolve("app"), Platform.host(), "app"), "app")


def test_verbs_warn_of_the_platform_on_stderr(tmp_path: Path) -> None:
    layout_of(tmp_path / "l", PACKERS["gzip"](TAR))
    for words in (
        ("ls", "--platform", "linux/arm64", f"oci:{tmp_path}/l:app", "/"),
        ("config", "--platform", "arm64", f"oci:{tmp_path}/l:app"),
    ):
        done = lamina(*words, root=tmp_path / "none")
        assert (done.returncode, b"linux/arm64 was requested" in done.stderr) == (0, True), words
        done = lamina(*words[:1], *words[3:], root=tmp_path / "none")
        assert (done.returncode, done.stderr) == (0, b""), words


@pytest.mark.parametrize("kind", ["docker", "oci"])
@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, PACKERS["zstd"], PACKERS["gzip"]])
def test_archives_are_loaded_however_they_are_compressed(
    tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]
) -> None:
    layout_of(tmp_path / "l", PACKERS["gzip"](TAR))
    plain = tmp_path / "plain.tar"
    assert (
        lamina("copy", "-q", f"oci:{tmp_path}/l:app", f"{kind}-archive:{plain}:app", root=tmp_path / "s").returncode
        == 0
    )
    (tmp_path / "packed").write_bytes(pack(plain.read_bytes()))
    reader = open_any(str(tmp_path / "packed"))
    store = Store.open(str(tmp_path / "s"))
    copy(reader, store, [("", "app")])
    assert read(store) == b"2" * 70_000


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)])
@pytest.mark.parametrize("keep", ["blob+tar", "blob"])
def test_layers_of_docker_archives_are_unwrapped_whatever_packed_them(
    tmp_path: Path, pack: Callable[[bytes], bytes], keep: str
) -> None:
    docker_archive(tmp_path / "a.tar", ["app:latest"], pack)
    done = lamina("load", "-q", "--keep", keep, "-i", str(tmp_path / "a.tar"), root=tmp_path / "s")
    assert (done.returncode, done.stderr) == (0, b"")
    store = Store.open(str(tmp_path / "s"))
    assert read(store) == b"2" * 70_000
    (layer,) = store.stack("app", Platform.parse("linux/amd64")).manifest.layers
    assert layer.digest == Digest.of(TAR)  # a plain layer, which every registry and client takes
    docker_archive(tmp_path / "b.tar", ["app:2"], lambda data: pack(data)[:-20])
    done = lamina("load", "-q", "-i", str(tmp_path / "b.tar"), root=tmp_path / "s")
    assert (done.returncode, done.stderr.count(b"\n")) == (4, 1)
    docker_archive(tmp_path / "c.tar", ["app:2"], lambda data: pack(data[:1000] + b"changed" + data[1007:]))
    done = lamina("load", "-i", str(tmp_path / "c.tar"), root=tmp_path / "other")
    assert done.returncode == 4
    assert b"diff_id" in done.stderr or b"digest" in done.stderr


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
@pytest.mark.parametrize("keep", ["blob+tar", "blob"])
def test_layers_of_layouts_are_read_by_their_first_bytes_and_not_pushed_if_odd(
    tmp_path: Path, pack: Callable[[bytes], bytes], keep: str
) -> None:
    layout_of(tmp_path / "l", pack(TAR))
    root = tmp_path / "s"
    assert lamina("copy", "--keep", keep, f"oci:{tmp_path}/l:app", "app", root=root).returncode == 0
    assert read(Store.open(str(root))) == b"2" * 70_000
    assert lamina("validate", "app", root=root).returncode == 0
    assert lamina("fsck", root=root).returncode == 0
    with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
        done = lamina("push", "-q", "app", f"{server.name}/app:1", root=root)
        assert (done.returncode, done.stderr.count(b"--compression gzip")) == (7, 1)
        assert lamina("flatten", "app", "-t", "app:flat", "--compression", "gzip", root=root).returncode == 0
        assert lamina("push", "app:flat", f"{server.name}/app:1", root=root).returncode == 0


def docker_archive(path: Path, tags: list[str], pack: Callable[[bytes], bytes] = bytes) -> None:
    """What `docker save` writes, with these names."""
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(TAR))]}}
    ).encode()
    listed = json.dumps([{"Config": "c.json", "RepoTags": tags, "Layers": ["l.tar"]}]).encode()
    path.write_bytes(make_tar([("c.json", config), ("l.tar", pack(TAR)), ("manifest.json", listed)]))


def test_archive_with_a_name_in_capitals_says_why_it_is_refused(tmp_path: Path) -> None:
    archive, root = tmp_path / "a.tar", tmp_path / "s"
    docker_archive(archive, ["App:1"])
    done = lamina("load", "-i", str(archive), root=root)
    assert done.returncode == 4
    assert b"'App:1'" in done.stderr
    assert b"lower case" in done.stderr
    assert lamina("load", "-q", "-i", str(archive), "-t", "app:1", root=root).returncode == 0
    assert lamina("copy", "-q", f"docker-archive:{archive}:@0", "other:1", root=root).returncode == 0
    assert lamina("copy", "-q", f"docker-archive:{archive}:App:1", "third:1", root=root).returncode == 0


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Store, Path]:
    """A store with "app", whose layer is gzipped, and what `save` writes of it."""
    store = Store.open(str(tmp_path / "s"))
    copy(layout_of(tmp_path / "l", PACKERS["gzip"](TAR)), store, [("app", "app")])
    copy(store, DockerArchiveWriter(str(tmp_path / "a.tar")), [("app", "app")])
    return store, tmp_path / "a.tar"


def test_save_and_load_leave_one_image_with_one_manifest(saved: tuple[Store, Path]) -> None:
    store, archive = saved
    before, blobs = store.refs.entries(), set(store.blobs)
    reader = DockerArchiveReader(str(archive))
    done = copy(reader, store, [("app", "app")])
    assert (store.refs.entries(), set(store.blobs)) == (before, blobs)
    assert done[0].descriptor.digest == before[0].digest
    copy(reader, store, [("app", "new:1")])
    assert {entry.digest for entry in store.refs.entries()} == {before[0].digest}
    assert set(store.blobs) == blobs


def test_loading_completes_an_incomplete_image(saved: tuple[Store, Path]) -> None:
    store, archive = saved
    layer = next(iter(store.stack("app", Platform.host()).layers)).descriptor
    Path(store.blobs.path(layer.digest)).unlink()
    done = copy(DockerArchiveReader(str(archive)), store, [("app", "app")])
    assert done[0].descriptor.digest != layer.digest
    assert read(store) == b"2" * 70_000
    assert not [
        finding for finding in fsck(store) if finding.severity == "error" and "docker.io/library/app" in finding.what
    ]


def test_name_that_is_an_index_stays_one(tmp_path: Path) -> None:
    source = several(tmp_path / "l", ["linux/s390x", str(Platform.host())], [True, True])
    store = Store.open(str(tmp_path / "s"))
    copy(source, store, [("many", "app")])
    copy(store, DockerArchiveWriter(str(tmp_path / "a.tar")), [("app", "app")])
    before = store.refs.entries()
    copy(DockerArchiveReader(str(tmp_path / "a.tar")), store, [("app", "app")])
    assert store.refs.entries() == before
    copy(DockerArchiveReader(str(tmp_path / "a.tar")), store, [("app", "new")])
    assert store.resolve("new").digest == find_manifest(store, before[0], Platform.host(), "app").descriptor.digest


def test_save_uses_the_stored_tar(saved: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, archive = saved

    def refuse(descriptor: Descriptor) -> Any:
        assert descriptor.media_type == mediatype.OCI_CONFIG, "a layer's blob was asked for"
        return store.blobs.get(descriptor)

    monkeypatch.setattr(store, "blob", refuse)
    copy(store, DockerArchiveWriter(str(tmp_path / "again.tar")), [("app", "app")])
    assert members(tmp_path / "again.tar") == members(archive)


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {one.name: (tar.extractfile(one) or io.BytesIO()).read() for one in tar if one.isfile()}


def test_save_verifies_the_tar_that_it_uses(saved: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = saved
    tar = Path(store.layers.tar_path(Digest.of(TAR)))
    tar.chmod(0o600)
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DigestMismatch):
        copy(store, DockerArchiveWriter(str(tmp_path / "again.tar")), [("app", "app")])
    assert not (tmp_path / "again.tar").exists()


@pytest.mark.parametrize("link", ["../blob.tar", "blob.tar", "/blob.tar"])
def test_layer_that_is_a_link_to_another_member(tmp_path: Path, link: str) -> None:
    """From its own directory, as docker writes it, or from the archive's root."""
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(TAR))]}}
    listed = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["id/layer.tar"]}]
    raw = [("c.json", json.dumps(config).encode()), ("manifest.json", json.dumps(listed).encode())]
    (tmp_path / "a.tar").write_bytes(
        make_tar([("id", None), ("id/layer.tar", f"-> {link}"), ("blob.tar", TAR), *raw])
    )
    store = Store.open(str(tmp_path / "s"))
    copy(DockerArchiveReader(str(tmp_path / "a.tar")), store, [("", "app")])
    assert read(store) == b"2" * 70_000


def test_archive_that_inflates_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.archive.tar_members._MAX_ARCHIVE", 1 << 20)
    for pack in (lzma.compress, bz2.compress, PACKERS["zstd"]):
        (tmp_path / "bomb").write_bytes(pack(bytes(4 << 20)))
        with pytest.raises(LimitExceeded, match="decompress to more than"):
            open_any(str(tmp_path / "bomb"))


def test_save_asks_no_registry_for_a_layer_whose_tar_is_here(tmp_path: Path) -> None:
    layout_of(tmp_path / "l", PACKERS["gzip"](TAR))
    with Unruly(tmp_path / "l") as server:
        assert lamina("pull", "-q", "--keep", "tar", server.image, root=tmp_path / "s").returncode == 0
        asked = len(server.requests())
        words = ("save", "-o", str(tmp_path / "a.tar"), server.image)
        assert lamina(*words, root=tmp_path / "s").returncode == 0
        assert len(server.requests()) == asked
    assert f"{Digest.of(TAR).encoded}.tar" in members(tmp_path / "a.tar")
