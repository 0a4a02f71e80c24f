"""--cache-to and --cache-from: a build in another store does no work that was done before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.build.building import build, write_files
from lamina.build.options import CachePlace
from lamina.errors import LaminaError
from lamina.serve.server import RegistryServer
from lamina.store.store import Store

TEXT = "FROM scratch AS one\nCOPY a /a\nCOPY b /b\nFROM scratch\nCOPY --from=one /a /x/\nCOPY c /c\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_files(tmp_path / "context", {"a": "A", "b": "B", "c": "C"})


@pytest.fixture
def first(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "first"))


@pytest.fixture
def second(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "second"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
        yield server


def local(path: Path, **attributes: str) -> tuple[CachePlace, ...]:
    return (CachePlace("local", {"dest": str(path), "src": str(path), **attributes}),)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_build_in_another_store_runs_nothing(
    first: Store, second: Store, context: Path, tmp_path: Path, mode: str
) -> None:
    done = build(first, context, TEXT, cache_to=local(tmp_path / "cache", mode=mode))
    again = build(second, context, TEXT, cache_from=local(tmp_path / "cache"))
    assert again.ran == []
    assert again.id == done.id
    assert again.files() == {"x/a": b"A", "c": b"C"}
    assert build(second, context, TEXT).ran == []  # it is in this store's cache now


def test_only_mode_max_has_the_steps_of_other_stages(
    first: Store, second: Store, context: Path, tmp_path: Path
) -> None:
    for mode in ("min", "max"):
        build(first, context, TEXT, cache_to=local(tmp_path / mode, mode=mode))
    (context / "c").write_text("changed")
    other = TEXT.replace("/x/", "/y/")
    with_max = build(second, context, other, cache_from=local(tmp_path / "max"))
    assert with_max.ran == ["[stage-1 1/2] COPY --from=one /a /y/", "[stage-1 2/2] COPY c /c"]
    third = Store.open(str(tmp_path / "third"))
    with_min = build(third, context, other, cache_from=local(tmp_path / "min"))
    assert with_min.ran == ["[one 1/2] COPY a /a", "[one 2/2] COPY b /b", *with_max.ran]


def test_a_cache_in_a_registry(first: Store, second: Store, context: Path, server: RegistryServer) -> None:
    place = (CachePlace("registry", {"ref": f"{server.name}/cache:main"}),)
    done = build(first, context, TEXT, cache_to=place)
    again = build(second, context, TEXT, cache_from=place)
    assert (again.ran, again.id) == ([], done.id)


def test_a_cache_in_the_image_itself(first: Store, second: Store, context: Path, tmp_path: Path) -> None:
    from lamina.archive.layout import LayoutWriter
    from lamina.transfer.copy import copy

    done = build(first, context, TEXT, cache_to=(CachePlace("inline"),))
    assert len(done.result.images[0].config.json["io.lamina.build-cache"]) == 3  # two steps, and one by content
    copy(first, LayoutWriter(str(tmp_path / "image")), [("built", "latest")])
    again = build(second, context, TEXT, cache_from=local(tmp_path / "image"), cache_to=(CachePlace("inline"),))
    assert again.ran == []
    asked = build(first, context, TEXT, arguments={"BUILDKIT_INLINE_CACHE": "1"})
    assert asked.result.images[0].config.json.keys() == done.result.images[0].config.json.keys()


def test_a_cache_that_is_not_there_is_a_warning(first: Store, context: Path, tmp_path: Path) -> None:
    done = build(first, context, TEXT, cache_from=local(tmp_path / "nothing"))
    assert len(done.ran) == 4
    assert [text.startswith(f"the build cache {tmp_path}/nothing is not used: ") for text in done.warnings] == [True]


def test_a_cache_of_buildkit_is_a_warning(first: Store, context: Path, tmp_path: Path) -> None:
    build(first, context, TEXT, cache_to=local(tmp_path / "cache"))
    blobs = tmp_path / "cache/blobs/sha256"
    index = json.loads((tmp_path / "cache/index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    manifest["config"]["mediaType"] = "application/vnd.buildkit.cacheconfig.v0"
    from lamina.spec.descriptor import Descriptor

    raw = json.dumps(manifest).encode()
    made = Descriptor.of(index["manifests"][0]["mediaType"], raw)
    (blobs / made.digest.encoded).write_bytes(raw)
    index["manifests"][0] |= {"digest": str(made.digest), "size": made.size}
    (tmp_path / "cache/index.json").write_text(json.dumps(index))
    done = build(Store.open(str(tmp_path / "other")), context, TEXT, cache_from=local(tmp_path / "cache"))
    assert "is a build cache of BuildKit" in done.warnings[0]
    assert len(done.ran) == 4


def test_a_layer_that_is_lost_or_wrong_is_made_again(
    first: Store, second: Store, context: Path, tmp_path: Path
) -> None:
    done = build(first, context, TEXT, cache_to=local(tmp_path / "cache"))
    layers = done.result.images[0].config.diff_ids
    (blob, _) = done.stack.manifest.layers
    os.chmod(tmp_path / "cache/blobs/sha256" / blob.digest.encoded, 0o644)
    (tmp_path / "cache/blobs/sha256" / blob.digest.encoded).write_bytes(b"x" * blob.size)
    again = build(second, context, TEXT, cache_from=local(tmp_path / "cache"))
    assert again.id == done.id
    assert again.result.images[0].config.diff_ids == layers
    assert "[stage-1 1/2] COPY --from=one /a /x/" in again.ran
    assert "[stage-1 2/2] COPY c /c" not in again.ran


def test_a_cache_that_can_t_be_written_fails_the_build_unless_told(
    first: Store, context: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaminaError):
        build(first, context, TEXT, cache_to=local(tmp_path / "file/cache"))
    done = build(first, context, TEXT, cache_to=local(tmp_path / "file/cache", **{"ignore-error": "true"}))
    assert len(done.warnings) == 1


def test_a_cache_leaves_no_image_in_the_store(first: Store, context: Path, tmp_path: Path) -> None:
    build(first, context, TEXT, cache_to=local(tmp_path / "cache"))
    assert [name for name, _ in first.names()] == ["docker.io/library/built:latest"]
    shutil.rmtree(tmp_path / "cache")
