"""Where a finished image goes. The image is made by hand, so that no build is needed."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from lamina.archive.detect import open_any
from lamina.archive.layout import LayoutReader
from lamina.build.options import Built, BuiltImage
from lamina.build.outputs import Output, Places, check, deliver, image_id, metadata, write_metadata, write_text
from lamina.errors import Conflict, LaminaError, NotFound, SystemFailure, Unsupported, UsageError
from lamina.events import Event, OnEvent, ignore
from lamina.light import replace
from lamina.places import load_settings
from lamina.serve.server import RegistryServer
from lamina.source.abilities import lists_names
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.connect import RegistryAccess
from lamina.transfer.copy import copy
from support import Member, require_root, store_with, write_index, write_layout

FILES: list[Member] = [
    ("bin/", None, {"mode": 0o555}),
    ("bin/tool", b"tool", {"mode": 0o755, "uid": 7}),
    ("bin/same", "= bin/tool"),
    ("etc/", None),
    ("etc/conf", b"new\n"),
    ("etc/link", "-> conf"),
]


def built_of(store: Store, name: str, *platforms: str) -> Built:
    top = store.resolve(name)
    images = []
    for text in platforms or (str(Platform.host()),):
        stack = store.stack(name, Platform.parse(text))
        images.append(BuiltImage(Platform.parse(text), stack.manifest.descriptor, stack.config))
    return Built(top, tuple(images))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_layout(tmp_path / "l", "app", [FILES, [("etc/more", b"more")]])
    return store_with(tmp_path / "l", tmp_path / "s", "app")


@pytest.fixture
def built(store: Store) -> Built:
    return built_of(store, "app")


@pytest.fixture
def several(tmp_path: Path) -> tuple[Store, Built]:
    """An index with images for two platforms."""
    entries = []
    for name, architecture in (("one", "amd64"), ("two", "arm64")):
        config = {"architecture": architecture}
        made = write_layout(tmp_path / "m", name, [[*FILES, ("arch", architecture.encode())]], config=config)
        entries.append(replace(made, platform=Platform("linux", architecture)))
    write_index(tmp_path / "m", "both", entries)
    store = Store.open(str(tmp_path / "many"))
    copy(LayoutReader(str(tmp_path / "m")), store, [("both", "both")], all_platforms=True)
    return store, built_of(store, "both", "linux/amd64", "linux/arm64")


def places(store: Store, on_event: OnEvent = ignore) -> Places:
    return Places(store, lambda listener: RegistryAccess(load_settings(), on_event=listener), on_event)


def names_in(path: Path) -> dict[str, str]:
    reader = open_any(str(path))
    assert lists_names(reader)
    return {name: str(descriptor.digest) for name, descriptor in reader.names()}


def test_an_archive_and_a_layout_keep_the_digest(store: Store, built: Built, tmp_path: Path) -> None:
    digest = str(built.descriptor.digest)
    deliver(built, Output("oci", str(tmp_path / "a.tar")), ["app:1"], places(store))
    deliver(built, Output("oci", str(tmp_path / "layout"), is_directory=True), ["app:1", "app:2"], places(store))
    assert names_in(tmp_path / "a.tar") == {"docker.io/library/app:1": digest}
    assert set(names_in(tmp_path / "layout")) == {"docker.io/library/app:1", "docker.io/library/app:2"}
    deliver(built, Output("oci", str(tmp_path / "nameless.tar")), [], places(store))
    assert names_in(tmp_path / "nameless.tar") == {"": digest}


def test_an_archive_of_docker_has_the_names_and_the_image_id(store: Store, built: Built, tmp_path: Path) -> None:
    deliver(built, Output("docker", str(tmp_path / "d.tar"), names=("b:2",)), ["app:1"], places(store))
    with tarfile.open(tmp_path / "d.tar") as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        (one,) = json.load(file)
    assert one["RepoTags"] == ["app:1", "b:2"] or one["RepoTags"] == [
        "docker.io/library/app:1",
        "docker.io/library/b:2",
    ]
    assert built.images[0].id.removeprefix("sha256:") in one["Config"]


def test_an_index_goes_to_a_layout_whole(several: tuple[Store, Built], tmp_path: Path) -> None:
    store, built = several
    deliver(built, Output("oci", str(tmp_path / "a.tar")), ["app:1"], places(store))
    reader = open_any(str(tmp_path / "a.tar"))
    assert reader.resolve("").digest == built.descriptor.digest
    target = Store.open(str(tmp_path / "again"))
    copy(reader, target, [("", "x")], all_platforms=True)
    assert target.stack("x", Platform("linux", "arm64")).lookup(b"arch")


def test_names_of_an_output_are_given_in_the_store(store: Store, built: Built) -> None:
    deliver(built, Output("image", names=("extra:1",)), ["app"], places(store))
    assert store.resolve("extra:1").digest == built.descriptor.digest
    deliver(built, Output("image", names=("not:1",), store=False), [], places(store))
    assert "docker.io/library/not:1" not in dict(store.names())


def test_push_sends_the_image_under_each_name(store: Store, built: Built, tmp_path: Path) -> None:
    there = Store.open(str(tmp_path / "there"))
    with RegistryServer(there, writable=True) as registry:
        host = f"127.0.0.1:{registry.port}"
        seen: list[Event] = []
        deliver(built, Output("image", push=True), [f"{host}/a/b:1", f"{host}/b/c:2"], places(store, seen.append))
    assert {name.partition("/")[2] for name, _ in there.names() if name} == {"a/b:1", "b/c:2"}
    assert {descriptor.digest for _, descriptor in there.names()} == {built.descriptor.digest}
    assert seen


def test_a_directory_has_the_files_and_they_belong_to_this_user(store: Store, built: Built, tmp_path: Path) -> None:
    deliver(built, Output("local", str(tmp_path / "x/out")), [], places(store))
    out = tmp_path / "x/out"
    assert (out / "etc/conf").read_bytes() == b"new\n"
    assert os.readlink(out / "etc/link") == "conf"
    assert stat.S_IMODE((out / "bin").stat().st_mode) == 0o555
    assert (out / "bin/tool").stat().st_uid == os.getuid()
    assert (out / "bin/tool").stat().st_ino == (out / "bin/same").stat().st_ino


def test_a_directory_with_files_keeps_what_the_image_lacks(store: Store, built: Built, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "etc").mkdir(parents=True)
    (out / "etc/conf").write_text("old")
    (out / "etc/mine").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (out / "bin").symlink_to(tmp_path / "elsewhere")
    deliver(built, Output("local", str(out)), [], places(store))
    assert (out / "etc/conf").read_bytes() == b"new\n"
    assert (out / "etc/mine").read_text() == "mine"
    assert (out / "bin/tool").read_bytes() == b"tool"
    assert not (out / "bin").is_symlink()  # links of the directory are not followed
    assert os.listdir(tmp_path / "elsewhere") == []
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "l", "out", "s"]


def test_a_mount_point_takes_files(store: Store, built: Built, tmp_path: Path) -> None:
    require_root()
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", out], check=True)
    try:
        deliver(built, Output("local", str(out)), [], places(store))
        assert (out / "etc/conf").read_bytes() == b"new\n"
        assert sorted(os.listdir(out)) == ["bin", "etc"]
    finally:
        subprocess.run(["umount", out], check=True)


def test_a_directory_in_the_way_of_a_file_is_kept(store: Store, built: Built, tmp_path: Path) -> None:
    (tmp_path / "out/etc/conf/x").mkdir(parents=True)
    with pytest.raises(Conflict, match="etc/conf"):
        deliver(built, Output("local", str(tmp_path / "out")), [], places(store))
    assert (tmp_path / "out/etc/conf/x").is_dir()
    assert sorted(os.listdir(tmp_path)) == ["l", "out", "s"]
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".tmp")]


def test_several_platforms_have_directories_of_their_own(several: tuple[Store, Built], tmp_path: Path) -> None:
    store, built = several
    deliver(built, Output("local", str(tmp_path / "out")), [], places(store))
    assert (tmp_path / "out/linux_amd64/arch").read_text() == "amd64"
    assert (tmp_path / "out/linux_arm64/arch").read_text() == "arm64"
    deliver(built, Output("tar", str(tmp_path / "out.tar")), [], places(store))
    with tarfile.open(tmp_path / "out.tar") as tar:
        members = {member.name: member for member in tar}
        found = tar.extractfile("linux_arm64/arch")
        assert found is not None
        assert found.read() == b"arm64"
    link = next(member for member in members.values() if member.islnk() and member.name.startswith("linux_arm64/"))
    assert members[link.linkname].name.startswith("linux_arm64/bin/")
    assert members["linux_amd64/etc/link"].linkname == "conf"


def test_a_tar_goes_to_standard_output(
    store: Store, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "utf-8"))
    deliver(built, Output("tar", "-"), [], places(store))
    with tarfile.open(fileobj=io.BytesIO(raw.getvalue())) as tar:
        assert tar.getmember("bin/tool").uid == 7
        assert "etc/more" in tar.getnames()


def test_a_failed_tar_leaves_no_file(store: Store, built: Built, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    with pytest.raises(SystemFailure):
        deliver(built, Output("tar", str(tmp_path / "closed/nowhere/x.tar")), [], places(store))
    assert os.listdir(tmp_path / "closed") == []


def test_metadata_has_the_keys_of_buildx(store: Store, built: Built, several: tuple[Store, Built]) -> None:
    found = metadata(built, ["app:1", "localhost:5000/b"])
    descriptor = found.pop("containerimage.descriptor")
    assert found == {
        "containerimage.config.digest": built.images[0].id,
        "containerimage.digest": str(built.descriptor.digest),
        "image.name": "docker.io/library/app:1,localhost:5000/b:latest",
    }
    assert descriptor["digest"] == str(built.descriptor.digest)
    assert image_id(built) == built.images[0].id
    many = metadata(several[1], [])
    assert set(many) == {"containerimage.descriptor", "containerimage.digest"}
    assert image_id(several[1]) == str(several[1].descriptor.digest)


def test_files_about_the_image_are_replaced_whole(built: Built, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("old and longer than an ID" * 9)
    write_text(str(tmp_path / "id"), image_id(built))
    assert (tmp_path / "id").read_text() == built.images[0].id
    write_metadata(str(tmp_path / "m"), built, ["a"])
    assert json.loads((tmp_path / "m").read_text()) == metadata(built, ["a"])
    with pytest.raises(SystemFailure, match="nowhere"):
        write_text(str(tmp_path / "nowhere/id"), "x")


@pytest.mark.parametrize(
    ("outputs", "platforms", "error", "says"),
    [
        ([Output("tar", "-"), Output("oci", "-")], 1, UsageError, "several outputs"),
        ([Output("docker", "x.tar")], 2, Unsupported, "one platform"),
        ([Output("image", push=True)], 1, UsageError, "no name"),
        ([Output("tar", "dir")], 1, Conflict, "not a file"),
        ([Output("local", "file")], 1, Conflict, "not a directory"),
        ([Output("oci", "nowhere/x.tar")], 1, NotFound, "nowhere"),
    ],
)
def test_outputs_are_checked_before_the_build(
    outputs: list[Output],
    platforms: int,
    error: type[LaminaError],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dir").mkdir()
    Path("file").write_text("x")
    with pytest.raises(error, match=says):
        check(outputs, platforms, [])


def test_a_tar_is_not_written_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(UsageError, match="terminal"):
        check([Output("tar", "-")], 1, [])
