"""The storage directory of a docker-registry, made here file by file: names, damage, serving, `load` and `sync`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina.archive.docker_registry import DockerRegistryReader
from lamina.archive.layout import LayoutReader
from lamina.errors import BlobNotFound, DigestMismatch, InvalidDocument, NotFound, ReferenceNotFound
from lamina.source.walk import Known, classifier, listed_documents, manifest_blobs, walk
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest
from support import lamina, write_index, write_layout


class Storage:
    """What docker-registry writes, as far as readers need it."""

    def __init__(self, top: Path) -> None:
        self.directory = top
        self.top = top / "docker" / "registry" / "v2"
        (self.top / "repositories").mkdir(parents=True)

    def link(self, repository: str, *parts: str, digest: Digest) -> Path:
        path = self.top.joinpath("repositories", repository, *parts, "link")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(digest))
        return path

    def data(self, digest: Digest) -> Path:
        return self.top / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded / "data"

    def blob(self, digest: Digest, data: bytes) -> None:
        self.data(digest).parent.mkdir(parents=True, exist_ok=True)
        self.data(digest).write_bytes(data)

    def push(self, layout: LayoutReader, repository: str, descriptor: Descriptor, tag: str = "") -> None:
        for one in walk(classifier(layout), [descriptor], children=listed_documents):
            assert isinstance(one, Known)
            self.blob(one.descriptor.digest, one.document.raw)
            self.link(repository, "_manifests", "revisions", *_parts(one.descriptor), digest=one.descriptor.digest)
            for blob in manifest_blobs(one.document) if isinstance(one.document, Manifest) else ():
                self.blob(blob.digest, layout.blob(blob).open().read())
                self.link(repository, "_layers", *_parts(blob), digest=blob.digest)
        if tag:
            tags = ("_manifests", "tags", tag)
            self.link(repository, *tags, "current", digest=descriptor.digest)
            self.link(repository, *tags, "index", *_parts(descriptor), digest=descriptor.digest)


def _parts(descriptor: Descriptor) -> tuple[str, str]:
    return descriptor.digest.algorithm, descriptor.digest.encoded


class World:
    def __init__(self, top: Path) -> None:
        self.storage = Storage(top / "data")
        self.one = write_layout(top / "l", "one", [[("a", b"1")], [("b", b"2")]])
        self.two = write_layout(top / "l", "two", [[("c", b"3")]])
        layout = write_index(top / "l", "both", [self.one, self.two])
        named = layout.resolve("both")
        self.both = Descriptor(named.media_type, named.digest, named.size)
        self.storage.push(layout, "app", self.one, "1")
        self.storage.push(layout, "team/deep/app", self.both, "latest")
        self.storage.push(layout, "team/deep/app", self.two)
        self.storage.push(layout, "app", self.two)  # its tag was moved
        uploads = self.storage.top / "repositories" / "half" / "_uploads" / "0123"
        uploads.mkdir(parents=True)
        (uploads / "data").write_bytes(b"unfinished")
        self.place = f"docker-registry:{self.storage.directory}"

    def reader(self) -> DockerRegistryReader:
        return DockerRegistryReader(str(self.storage.directory))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_all_tags_are_listed_with_what_they_point_to(world: World) -> None:
    assert dict(world.reader().names()) == {"app:1": world.one, "team/deep/app:latest": world.both}
    assert world.reader().reading().names() == [
        "docker.io/library/app",
        "docker.io/team/deep/app",
    ]  # a push that never ended made no tag


def test_the_directory_may_be_given_with_or_without_its_inner_part(world: World) -> None:
    for directory in (world.storage.directory, world.storage.top):
        assert len(list(DockerRegistryReader(str(directory)).tagged())) == 2
    with pytest.raises(NotFound, match="not the storage of a docker-registry"):
        DockerRegistryReader(str(world.storage.directory / "docker"))


@pytest.mark.parametrize("name", ["app:1", "docker.io/library/app:1", "library/app:1"])
def test_a_name_is_found_as_it_is_here_and_as_docker_normalises_it(world: World, name: str) -> None:
    assert world.reader().resolve(name) == world.one


def test_names_that_are_not_there(world: World) -> None:
    reader = world.reader()
    for name in ("app:2", "app", "other:1", f"app@{world.both.digest}", "half:1"):
        with pytest.raises(ReferenceNotFound, match="holds no image"):
            reader.resolve(name)
    with pytest.raises(ReferenceNotFound, match="several images"):
        reader.resolve("")
    assert reader.resolve("team/deep/app") == world.both
    assert reader.resolve(f"app@{world.two.digest}") == world.two


def test_untagged_manifests_are_those_that_nothing_names(world: World) -> None:
    assert list(world.reader().untagged()) == [f"app@{world.two.digest}"]


def test_a_blob_is_only_in_the_repositories_that_link_it(world: World) -> None:
    served = world.reader().reading()
    layers = json.loads(served.manifest(world.one))["layers"]
    digest = Digest.parse(layers[0]["digest"])
    assert served.blob("docker.io/library/app", digest).descriptor.size == layers[0]["size"]
    for other in ("docker.io/library/half", "docker.io/team/app", "../../../app"):
        with pytest.raises(BlobNotFound, match="no blob"):
            served.blob(other, digest)


@pytest.mark.parametrize("raw", [b"", b"sha256:", b"\xff\xfe", b"x" * 1000])
def test_a_damaged_link_fails_with_its_path_and_hides_nothing_else(world: World, raw: bytes) -> None:
    path = world.storage.top / "repositories/app/_manifests/tags/1/current/link"
    path.write_bytes(raw)
    reader = world.reader()
    with pytest.raises(InvalidDocument, match="damaged") as found:
        reader.resolve("app:1")
    assert str(path) in found.value.message
    assert [name for name, _ in reader.names()] == ["team/deep/app:latest"]
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(InvalidDocument, match="not a regular file"):
        reader.resolve("app:1")


def test_missing_and_changed_bytes_are_found(world: World) -> None:
    data = world.storage.data(world.one.digest)
    raw = data.read_bytes()
    data.write_bytes(raw.replace(b"layers", b"LAYERS"))
    with pytest.raises(DigestMismatch):
        world.reader().resolve("app:1")
    data.unlink()
    with pytest.raises(BlobNotFound, match="was not found"):
        world.reader().resolve("app:1")


def test_a_revision_whose_link_names_another_digest_is_damaged(world: World) -> None:
    world.storage.link("app", "_manifests", "revisions", *_parts(world.one), digest=world.two.digest)
    with pytest.raises(InvalidDocument, match="another digest"):
        world.reader().resolve(f"app@{world.one.digest}")


def test_commands_read_it_as_a_place_of_images(world: World, tmp_path: Path) -> None:
    root = tmp_path / "s"
    done = lamina("cat", f"{world.place}:app:1", "/b", root=root)
    assert (done.returncode, done.stdout) == (0, b"2"), done.stderr
    done = lamina("copy", f"{world.place}:app:1", "mine:1", root=root)
    assert done.returncode == 0, done.stderr
    done = lamina("load", "-i", str(world.storage.directory), "--all-platforms", root=root)
    assert done.returncode == 0, done.stderr
    done = lamina("images", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}", root=root)
    found = dict(line.split(" ") for line in done.stdout.decode().splitlines())
    assert found == {
        "mine:1": str(world.one.digest),
        "app:1": str(world.one.digest),
        "team/deep/app:latest": str(world.both.digest),
    }
    assert lamina("fsck", root=root).returncode == 0
    done = lamina("copy", "mine:1", f"{world.place}:app:2", root=root)
    assert done.returncode != 0
    assert b"it is only read" in done.stderr


def test_sync_takes_all_tags_and_on_demand_the_untagged_ones(world: World, tmp_path: Path) -> None:
    root = tmp_path / "s"
    done = lamina("sync", "--all", "--untagged", world.place, "--format", "json", root=root)
    assert done.returncode == 0, done.stderr
    assert [one["source"] for one in json.loads(done.stdout)] == [
        "docker.io/library/app:1",
        "docker.io/team/deep/app:latest",
        f"docker.io/library/app@{world.two.digest}",
    ]
    assert lamina("fsck", root=root).returncode == 0
    done = lamina("sync", "--untagged", f"oci:{tmp_path / 'l'}", root=root)
    assert done.returncode == 2
    assert b"--untagged needs docker-registry:DIR" in done.stderr


def test_sync_goes_on_after_a_damaged_tag_if_it_is_told_to(world: World, tmp_path: Path) -> None:
    (world.storage.top / "repositories/app/_manifests/tags/1/current/link").write_bytes(b"")
    done = lamina("sync", "--all", "--keep-going", world.place, "--format", "json", root=tmp_path / "s")
    assert done.returncode == 1
    states = {one["source"]: one["state"] for one in json.loads(done.stdout)}
    assert states["docker.io/team/deep/app:latest"] == "copied"
    assert "is damaged: it is empty" in states["docker.io/library/app:1"]
    assert lamina("sync", "--all", world.place, root=tmp_path / "s2").returncode != 0


def test_two_images_never_get_the_same_name_at_the_target(world: World, tmp_path: Path) -> None:
    world.storage.push(LayoutReader(str(tmp_path / "l")), "team/deep/app", world.one, "1")
    target = f"dir:{tmp_path / 'd'}"
    done = lamina("sync", world.place, target, root=tmp_path / "s")
    assert done.returncode == 2
    assert b"have the same name at the target" in done.stderr
    done = lamina("sync", "--keep-path", world.place, f"dir:{tmp_path / 'd2'}", root=tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d2" / "team" / "deep" / "app:1").is_dir()
    assert lamina("sync", "--keep-path", "--scoped", world.place, target, root=tmp_path / "s").returncode == 2
