"""Whole builds: where the Dockerfile and the bases come from, several platforms, names, and equal digests."""

from __future__ import annotations

import io
import json
import os
import resource
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.build.building import AMD64, ARM64, build, write_files
from lamina.archive.layout import LayoutReader
from lamina.build.errors import DockerfileError, StepFailed
from lamina.errors import NotFound, ReferenceNotFound, UsageError
from lamina.serve.server import RegistryServer
from lamina.spec.manifest import Index, parse
from lamina.spec.platform import Platform
from lamina.store.fsck import fsck
from lamina.store.prune import prune
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import write_layout

FILE = "FROM scratch\nCOPY a /a\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(str(tmp_path / "store"))
    yield store
    assert [finding.what for finding in fsck(store)] == []


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_files(tmp_path / "context", {"a": "A", "b/c": "C"})


def from_files(store: Store, context: Path | str, **options: Any) -> dict[str, bytes]:
    return build(store, context, "", dockerfile=None, **options).files()


@pytest.mark.parametrize("name", ["Dockerfile", "Containerfile"])
def test_the_dockerfile_of_a_directory(store: Store, context: Path, name: str) -> None:
    write_files(context, {name: FILE})
    assert from_files(store, context) == {"a": b"A"}


def test_a_named_dockerfile_is_a_path_of_this_host_or_of_the_context(
    store: Store, context: Path, tmp_path: Path
) -> None:
    write_files(tmp_path, {"elsewhere/file": FILE, "context/sub/file": "FROM scratch\nCOPY b /\n"})
    assert from_files(store, context, file=str(tmp_path / "elsewhere/file")) == {"a": b"A"}
    assert from_files(store, context, file="sub/file") == {"c": b"C"}


def test_the_ignore_file_beside_a_dockerfile_elsewhere_counts(store: Store, context: Path, tmp_path: Path) -> None:
    text = "FROM scratch\nCOPY . /\n"
    write_files(
        tmp_path, {"elsewhere/file": text, "elsewhere/file.dockerignore": "a\n", "context/.dockerignore": "b\n"}
    )
    assert from_files(store, context, file=str(tmp_path / "elsewhere/file")).keys() == {".dockerignore", "b/c"}


def test_a_dockerfile_in_the_context_may_be_a_symlink_that_stays_there(store: Store, context: Path) -> None:
    write_files(context, {"sub/file": FILE})
    (context / "Dockerfile").symlink_to("sub/file")
    assert from_files(store, context) == {"a": b"A"}


def put_fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def put_directory(path: Path, _: Path) -> None:
    path.mkdir()


def put_endless(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def put_link_out(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


NO_FILES = [
    (put_fifo, "regular file"),
    (put_directory, "directory"),
    (put_endless, "regular"),
    (put_link_out, "out of"),
]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.dockerignore"])
@pytest.mark.parametrize(("put", "message"), NO_FILES)
def test_what_a_context_has_instead_of_a_dockerfile_is_not_read(
    store: Store, context: Path, tmp_path: Path, put: Callable[[Path, Path], None], message: str, name: str
) -> None:
    write_files(tmp_path, {"secret": "root:hash\n"})
    if name != "Dockerfile":
        write_files(context, {"Dockerfile": FILE})
    put(context / name, tmp_path / "secret")
    with pytest.raises(UsageError, match=message) as refused:
        from_files(store, context)
    assert "hash" not in str(refused.value)


def test_a_dockerfile_that_is_named_may_be_anything_that_can_be_read(store: Store, context: Path) -> None:
    read, write = os.pipe()
    os.write(write, FILE.encode())
    os.close(write)
    try:
        assert from_files(store, context, file=f"/dev/fd/{read}") == {"a": b"A"}
    finally:
        os.close(read)


def test_a_dockerfile_on_stdin(store: Store, context: Path) -> None:
    assert from_files(store, context, file="-", stdin=io.BytesIO(FILE.encode())) == {"a": b"A"}


def test_a_dockerfile_alone_as_the_context_has_no_files(store: Store) -> None:
    text = b"FROM scratch\nCOPY <<x /y\nz\nx\n"
    assert from_files(store, "-", stdin=io.BytesIO(text)) == {"y": b"z\n"}


def test_a_tar_on_stdin_is_a_context(store: Store) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in (("Dockerfile", FILE), ("a", "of the tar")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    data.seek(0)
    assert from_files(store, "-", stdin=data) == {"a": b"of the tar"}


MISSING: list[tuple[dict[str, Any], str, type[Exception]]] = [
    ({}, "no Dockerfile or Containerfile in the context", NotFound),
    ({"file": "nothing"}, "no Dockerfile 'nothing'", NotFound),
    ({"file": "-"}, "there is no stdin", UsageError),
]


@pytest.mark.parametrize(("options", "message", "error"), MISSING)
def test_a_missing_dockerfile(
    store: Store, context: Path, options: dict[str, Any], message: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=message):
        from_files(store, context, **options)


def test_the_text_of_the_dockerfile_is_in_the_errors_about_it(store: Store, context: Path) -> None:
    with pytest.raises(StepFailed) as failed:
        build(store, context, "FROM scratch\nCOPY nothing /\n")
    assert (failed.value.at.line, failed.value.source) == (2, "FROM scratch\nCOPY nothing /\n")
    with pytest.raises(DockerfileError) as refused:
        build(store, context, "FROM scratch\nCOPY --from=5 x /\n")
    assert refused.value.source == "FROM scratch\nCOPY --from=5 x /\n"


def base_layout(path: Path, *, content: bytes = b"base") -> LayoutReader:
    write_layout(path, "base", [[("etc", None), ("etc/base", content)]])
    return LayoutReader(str(path))


def test_a_base_of_the_store_needs_no_registry(store: Store, context: Path, tmp_path: Path) -> None:
    copy(base_layout(tmp_path / "l"), store, [("base", "localhost/base:1")])
    done = build(store, context, "FROM localhost/base:1\nCOPY a /a\n")
    assert done.files() == {"etc/base": b"base", "a": b"A"}
    assert [len(one.diff_ids) for one in (image.config for image in done.result.images)] == [2]


def test_a_base_of_a_registry_is_pulled_once_and_again_with_pull(store: Store, context: Path, tmp_path: Path) -> None:
    with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
        from lamina.places import load_settings
        from lamina.transfer.connect import RegistryAccess

        name = f"{server.name}/base:1"
        access = RegistryAccess(load_settings({}))
        copy(base_layout(tmp_path / "l"), access.repository(name), [("base", name)])
        text = f"FROM {name}\nCOPY a /a\n"
        first = build(store, context, text)
        assert first.files()["etc/base"] == b"base"
        copy(base_layout(tmp_path / "m", content=b"newer"), access.repository(name), [("base", name)])
        assert build(store, context, text).files()["etc/base"] == b"base"
        assert build(store, context, text, pull=True).files()["etc/base"] == b"newer"
    assert build(store, context, text).files()["etc/base"] == b"newer"


def test_a_base_is_named_by_its_id_but_not_by_a_few_digits_of_it(
    store: Store, context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(access: object, name: str) -> None:
        raise ReferenceNotFound(f"asked for {name}")

    monkeypatch.setattr("lamina.transfer.connect.RegistryAccess.repository", ask)
    copy(base_layout(tmp_path / "l"), store, [("base", "localhost/base:1")])
    digits = store.stack("localhost/base:1", AMD64).config.descriptor.digest.encoded
    for name in (digits[:12], f"sha256:{digits}"):
        assert build(store, context, f"FROM {name}\nCOPY a /a\n").files()["etc/base"] == b"base"
    with pytest.raises(ReferenceNotFound, match=f"asked for {digits[:8]}"):
        build(store, context, f"FROM {digits[:8]}\nCOPY a /a\n")
    copy(base_layout(tmp_path / "m", content=b"named"), store, [("base", digits[:8])])
    assert build(store, context, f"FROM {digits[:8]}\nCOPY a /a\n").files()["etc/base"] == b"named"


def test_several_bases_are_pulled_in_one_build(store: Store, context: Path, tmp_path: Path) -> None:
    from lamina.places import load_settings
    from lamina.transfer.connect import RegistryAccess

    with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
        access = RegistryAccess(load_settings({}))
        names = [f"{server.name}/base{number}:1" for number in range(6)]
        for name in names:
            copy(base_layout(tmp_path / name[-3], content=name.encode()), access.repository(name), [("base", name)])
        text = "FROM scratch\n" + "".join(f"COPY --from={name} /etc/base /{n}\n" for n, name in enumerate(names))
        done = build(store, context, text)
    assert done.files() == {str(number): name.encode() for number, name in enumerate(names)}


@pytest.mark.parametrize("how", ["{name}@{digest}", "{name}:1@{digest}"])
def test_a_base_with_a_digest(store: Store, context: Path, tmp_path: Path, how: str) -> None:
    from lamina.places import load_settings
    from lamina.transfer.connect import RegistryAccess

    with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
        access, name = RegistryAccess(load_settings({})), f"{server.name}/base"
        copy(base_layout(tmp_path / "l"), access.repository(name), [("base", f"{name}:1")])
        digest = LayoutReader(str(tmp_path / "l")).resolve("base").digest
        copy(base_layout(tmp_path / "m", content=b"newer"), access.repository(name), [("base", f"{name}:1")])
        text = f"FROM {how.format(name=name, digest=digest)}\nCOPY a /a\n"
        assert build(store, context, text).files()["etc/base"] == b"base"
    again = build(store, context, text)
    assert (again.ran, again.files()["etc/base"]) == ([], b"base")


def test_a_stored_base_for_another_platform_is_fetched_for_the_right_one(
    store: Store, context: Path, tmp_path: Path
) -> None:
    """The store has the image by the same name, but for the host."""
    from lamina.places import load_settings
    from lamina.transfer.connect import RegistryAccess

    with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
        access, name = RegistryAccess(load_settings({})), f"{server.name}/base:1"
        copy(base_layout(tmp_path / "l"), store, [("base", name)])
        there = tmp_path / "m"
        write_layout(there, "base", [[("etc", None), ("etc/base", b"other")]], config={"architecture": "s390x"})
        copy(LayoutReader(str(there)), access.repository(name), [("base", name)])
        text = f"FROM {name}\nCOPY a /a\n"
        assert build(store, context, text).files()["etc/base"] == b"base"
        other = build(store, context, text, platforms=(Platform("linux", "s390x"),))
        assert other.files()["etc/base"] == b"other"


def test_an_unknown_base_says_its_line(store: Store, context: Path) -> None:
    with RegistryServer(Store.open(str(context.parent / "served"))) as server:
        with pytest.raises(ReferenceNotFound, match=r"^Dockerfile:2: "):
            build(store, context, f"# nothing\nFROM {server.name}/nothing\n")


def test_a_base_of_a_layout_is_not_named_in_the_store(store: Store, context: Path, tmp_path: Path) -> None:
    base_layout(tmp_path / "l")
    contexts = {"base": f"oci-layout://{tmp_path}/l:base"}
    done = build(store, context, "FROM base\nCOPY --from=base /etc/base /x\n", contexts=contexts)
    assert done.files() == {"etc/base": b"base", "x": b"base"}
    assert [name for name, _ in store.names() if name] == ["docker.io/library/built:latest"]


def test_several_platforms_make_an_index_and_share_their_steps(store: Store, context: Path) -> None:
    done = build(
        store, context, "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\nCOPY b /b\n", platforms=(AMD64, ARM64)
    )
    index = parse(store.manifest(done.result.descriptor), done.result.descriptor.media_type)
    assert isinstance(index, Index)
    assert [str(entry.platform) for entry in index.manifests] == ["linux/amd64", "linux/arm64"]
    assert [image.config.architecture for image in done.result.images] == ["amd64", "arm64"]
    assert store.stack("built", ARM64).tree().find(b"arm64") is not None
    assert "[linux/arm64 1/2] COPY a /arm64" in done.labels


def test_equal_steps_of_several_platforms_are_done_once(store: Store, context: Path) -> None:
    done = build(store, context, "FROM scratch\nCOPY a /a\n", platforms=(AMD64, ARM64))
    assert len(done.ran) == 1
    first, second = done.result.images
    assert first.config.diff_ids == second.config.diff_ids


def test_the_same_input_gives_the_same_digest_in_two_stores(store: Store, context: Path, tmp_path: Path) -> None:
    text = (
        'FROM scratch AS x\nWORKDIR /w\nCOPY --chown=1:2 . .\nFROM scratch\nCOPY --from=x /w /\nENV A=1\nCMD ["x"]\n'
    )
    first = build(store, context, text)
    copied = write_files(tmp_path / "copy", {"b/c": "C", "a": "A"})
    for path in (copied / "a", copied / "b/c", copied / "b", copied):
        os.utime(path, (1_800_000_000, 1_800_000_000))
    for path in (context / "a", context / "b/c", context / "b", context):
        os.utime(path, (1_900_000_000, 1_900_000_000))
    again = build(Store.open(str(tmp_path / "other")), copied, text)
    assert again.result.descriptor.digest == first.result.descriptor.digest
    assert build(store, context, text, no_cache=True).result.descriptor.digest == first.result.descriptor.digest


def test_a_cached_build_without_an_epoch_gives_the_same_image(store: Store, context: Path) -> None:
    first = build(store, context, FILE, epoch=None)
    assert build(store, context, FILE, epoch=None).id == first.id


@pytest.mark.parametrize(("options", "names"), [
    ({"tags": ("one", "two:x")}, ["docker.io/library/one:latest", "docker.io/library/two:x"]),
    ({"tags": ()}, [""]),
    ({"tags": (), "keep": False}, []),
])  # fmt: skip
def test_names_of_the_result(store: Store, context: Path, options: dict[str, Any], names: list[str]) -> None:
    build(store, context, FILE, **options)
    assert sorted(name for name, _ in store.names()) == names


def test_dockers_documents(store: Store, context: Path) -> None:
    done = build(store, context, FILE, oci=False)
    manifest = json.loads(store.manifest(done.result.descriptor))
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert manifest["layers"][0]["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert done.files() == {"a": b"A"}


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_the_compression_of_new_layers(store: Store, context: Path, compression: str) -> None:
    done = build(store, context, FILE, compression=compression)
    end = "tar" if compression == "none" else f"tar+{compression}"
    assert done.stack.manifest.layers[0].media_type == f"application/vnd.oci.image.layer.v1.{end}"
    assert done.files() == {"a": b"A"}


def test_annotations_of_manifest_and_index(store: Store, context: Path) -> None:
    given = {"k": "1", "index:i": "2", "manifest-descriptor[linux/arm64]:d": "3"}
    done = build(store, context, FILE, annotations=given, platforms=(AMD64, ARM64))
    index = parse(store.manifest(done.result.descriptor), done.result.descriptor.media_type)
    assert isinstance(index, Index)
    assert index.annotations == {"i": "2"}
    assert [dict(entry.annotations) for entry in index.manifests] == [{}, {"d": "3"}]
    assert done.stack.manifest.annotations == {"k": "1"}


def test_prune_between_builds_loses_nothing_that_the_cache_holds(store: Store, context: Path) -> None:
    build(store, context, FILE, tags=(), keep=False)
    prune(store, all=True, grace=0)
    assert build(store, context, FILE).ran == []


def test_a_value_of_the_environment(store: Store, context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "here")
    text = "FROM scratch\nARG GIVEN=default ABSENT=default\nLABEL a=$GIVEN b=$ABSENT\n"
    done = build(store, context, text, arguments={"GIVEN": None, "ABSENT": None})
    assert done.result.images[0].config.labels == {"a": "here", "b": "default"}


def test_a_stage_without_layers_can_be_copied_from(store: Store, context: Path) -> None:
    with pytest.raises(StepFailed, match=r"Dockerfile:3: .*COPY --from=x"):
        build(store, context, "FROM scratch AS x\nFROM scratch\nCOPY --from=x /a /a\n")
    assert build(store, context, "FROM scratch AS x\nFROM scratch\nCOPY --from=x /a* /a\n").files() == {}


def test_a_build_of_many_steps_keeps_few_files_open(store: Store, context: Path) -> None:
    used = max(map(int, os.listdir("/proc/self/fd")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 48, hard))
    try:
        done = build(store, context, "FROM scratch\n" + "".join(f"COPY a /{number}\n" for number in range(30)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(done.result.images[0].config.diff_ids) == 30
