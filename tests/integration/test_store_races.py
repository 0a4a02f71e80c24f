"""Several processes work on the same image at the same moment; images that try to confuse gc."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import StoreDamaged
from lamina.light import replace
from lamina.serve.server import RegistryServer
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import build_index, build_manifest
from lamina.spec.platform import Platform
from lamina.store import clock, gc, leftovers, roots
from lamina.store import remove as remove_module
from lamina.store.blobs import Blobs
from lamina.store.fsck import fsck
from lamina.store.gc import collect
from lamina.store.layers import Layers
from lamina.store.mark import Needs, state_of
from lamina.store.paths import Paths
from lamina.store.prune import prune
from lamina.store.refs import FETCHED
from lamina.store.remove import remove_images
from lamina.store.retention import apply_keep
from lamina.store.store import Store
from lamina.store.usage import usage
from lamina.transfer.copy import copy
from support import manifest_of, require_root, store_with, write_layout

NAME, OTHER_NAME = "docker.io/library/app:latest", "docker.io/library/app2:latest"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "app", [[("a", b"hello" * 100)], [("b", b"x" * 1000)]])
    write_layout(tmp_path / "layout", "app2", [[("a", b"hello" * 100)], [("c", b"other" * 500)]])
    return tmp_path / "layout"


@pytest.mark.parametrize("keep", ["blob+tar", "tar"])
def test_put_manifest_protects_all_blobs_before_it_checks_them(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """A registry's client asks whether blobs are there and sends a manifest alone; a gc comes before that is written.
    Where only tars are kept, these are what is looked for."""
    store, other = store_with(layout, tmp_path / "s", "app"), Store.open(str(tmp_path / "s"))
    old = manifest_of(store, "app")
    new = build_manifest(old.config, list(old.layers), annotations={"new": "one"})
    if keep == "tar":
        diff_ids = json.loads(store.blobs.read(old.config))["rootfs"]["diff_ids"]
        for layer, diff_id in zip(old.layers, diff_ids, strict=True):
            store.layers.note_origin(layer, Digest.parse(diff_id), "example.org/app")
            Path(store.blobs.path(layer.digest)).unlink()
    store.refs.unset([NAME], keep_untagged=False)
    before = Blobs.write

    def write(self: Blobs, descriptor: Descriptor, data: bytes) -> None:
        collect(other, grace=0)
        before(self, descriptor, data)

    monkeypatch.setattr(Blobs, "write", write)
    with store.session("test") as session:
        session.put_manifest(new.descriptor, new.raw)
        session.tag("new", new.descriptor)
    assert [one.what for one in fsck(store) if one.severity == "error"] == []
    assert all(store.blobs.has(layer) or layer.digest in store.layers.origins() for layer in new.layers)


def test_a_registry_protects_what_a_manifest_names_while_the_last_other_name_is_removed(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = store_with(layout, tmp_path / "s", "app"), Store.open(str(tmp_path / "s"))
    old = manifest_of(store, "app")
    new = build_manifest(old.config, list(old.layers), annotations={"new": "one"})
    before = Blobs.write
    with RegistryServer(store, writable=True) as server:

        def write(self: Blobs, descriptor: Descriptor, data: bytes) -> None:
            store.refs.unset([NAME], keep_untagged=False)
            collect(other, grace=0)
            before(self, descriptor, data)

        monkeypatch.setattr(Blobs, "write", write)
        client = HTTPConnection(server.host, server.port, timeout=60)
        headers = {"Content-Type": new.descriptor.media_type}
        client.request("PUT", "/v2/app/manifests/new", new.raw, headers)
        assert client.getresponse().status == 201
        client.close()
    assert [one.what for one in fsck(store) if one.severity == "error"] == []
    assert all(store.blobs.has(blob) for blob in (new.config, *new.layers))


def test_rmi_by_id_leaves_a_name_that_was_given_to_another_image_meanwhile(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    old, new = store.resolve("app"), store.resolve("app2")
    before = remove_module.change_names

    def rename(*words: object, **more: object) -> None:
        other = Store.open(str(tmp_path / "s"))
        other.tag("app", new)
        other.refs.unset([OTHER_NAME], keep_untagged=False)
        before(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(remove_module, "change_names", rename)
    remove_images(store, [str(old.digest)])
    assert [(name, entry.digest) for name, entry in store.names()] == [(NAME, new.digest)]
    assert fsck(store) == []
    assert not store.blobs.has(old)


@pytest.mark.parametrize("kind", ["lost", "another size"])
def test_a_child_that_came_in_as_a_layer_was_not_fetched_and_stops_nothing(
    layout: Path, tmp_path: Path, kind: str
) -> None:
    """The platform's image has, as a layer of an unknown type, the bytes of another child of its own index, which
    names a config that is not there, or states a wrong size for one that is."""
    plain = store_with(layout, tmp_path / "plain", "app")
    image = manifest_of(plain, "app")
    config = Descriptor(image.config.media_type, image.config.digest, 3)
    if kind == "lost":
        config = Descriptor(image.config.media_type, Digest.of(b"nowhere"), 7)
    inner = build_manifest(config, list(image.layers))
    value = json.loads(plain.blobs.read(image.config))
    value["rootfs"]["diff_ids"].append(str(Digest.of(b"none")))
    del value["history"]
    raw = json.dumps(value).encode()
    as_layer = Descriptor("application/vnd.example", inner.descriptor.digest, inner.descriptor.size)
    own = Descriptor.of(image.config.media_type, raw)
    outer = build_manifest(own, [*image.layers, as_layer])
    index = build_index(
        [
            replace(outer.descriptor, platform=Platform.host()),
            replace(inner.descriptor, platform=Platform("linux", "s390x")),
        ]
    )
    hostile = tmp_path / "hostile"
    shutil.copytree(layout, hostile)
    for data in (raw, inner.raw, outer.raw, index.raw):
        (hostile / "blobs" / "sha256" / Digest.of(data).encoded).write_bytes(data)
    named = index.descriptor.with_annotations(
        {"org.opencontainers.image.ref.name": "evil", FETCHED: str(Digest.of(b"never"))}
    )
    (hostile / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named.to_json()]}))

    store = store_with(layout, tmp_path / "s", "app2")
    copy(LayoutReader(str(hostile)), store, [("evil", "evil")])
    assert store.resolve("evil").annotations[FETCHED] == str(outer.descriptor.digest)
    assert [one.what for one in fsck(store) if one.severity == "error"] == []
    assert prune(store).deleted == ()
    gone = remove_images(store, ["app2"])
    assert gone.notes == ()
    assert manifest_of(store_with(layout, tmp_path / "other", "app2"), "app2").descriptor.digest in gone.deleted


def test_a_child_that_lost_a_layer_stays_fetched_under_a_further_name(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    image = manifest_of(store, "app")
    index = build_index([replace(image.descriptor, platform=Platform.host())])
    with store.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
        session.tag("multi", index.descriptor)
    Path(store.blobs.path(image.layers[0].digest)).unlink()
    store.tag("further", index.descriptor)
    assert store.resolve("further").annotations[FETCHED] == str(image.descriptor.digest)


def test_a_large_blob_that_a_manifest_calls_its_config_is_not_read_into_memory(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    image = manifest_of(store, "app")
    data = b"{" + bytes(5 << 20)
    large = Descriptor.of(image.config.media_type, data)
    store.blobs.write(large, data)
    manifest = build_manifest(large, list(image.layers))
    store.blobs.write(manifest.descriptor, manifest.raw)
    read: list[int] = []
    before = Blobs.read
    monkeypatch.setattr(Blobs, "read", lambda self, one: (read.append(one.size), before(self, one))[1])
    found = state_of(store, manifest.descriptor.digest)
    assert isinstance(found, Needs)
    assert (found.flaw, found.diff_ids) == (None, ())
    assert read == [manifest.descriptor.size]


def test_objects_of_a_running_older_lamina_are_kept(layout: Path, tmp_path: Path) -> None:
    """It held no locks: it put the number of its process into the names of its temporary files."""
    store = store_with(layout, tmp_path / "s", "app")
    ours, gone, old = (
        Path(store.paths.ingest, f"ab.tar.{pid}-139.tmp") for pid in (os.getpid(), 999_999_999, os.getppid())
    )
    for path in (ours, gone, old):
        path.write_bytes(b"tar")
    os.utime(old, (1, 1))
    with store.session("test"):
        assert ours.exists()
        assert not gone.exists()
    prune(store, all=True)
    assert ours.exists()
    assert not old.exists()


def test_a_dry_run_beside_an_rmi_shows_the_new_state(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no lock: what it finds lost was removed with its name meanwhile."""
    store, other = store_with(layout, tmp_path / "s", "app", "app2"), Store.open(str(tmp_path / "s"))
    gone = store.resolve("app").digest
    before = gc.find_garbage
    met: list[bool] = []

    def garbage(*words: object, **more: object) -> object:
        if not met:
            met.append(True)
            remove_images(other, ["app"])
        return before(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(gc, "find_garbage", garbage)
    assert prune(store, dry_run=True).deleted == ()
    assert not store.blobs.size(gone)


@pytest.mark.parametrize("keep", ["blob", "tar", "blob+tar"])
def test_prune_keep_continues_if_an_image_is_removed_meanwhile(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    store, other = store_with(layout, tmp_path / "s", "app", "app2"), Store.open(str(tmp_path / "s"))
    (diff_ids, _) = (json.loads(store.blobs.read(manifest_of(store, name).config)) for name in ("app", "app2"))
    for layer, diff_id in zip(manifest_of(store, "app").layers, diff_ids["rootfs"]["diff_ids"], strict=True):
        store.layers.note_origin(layer, Digest.parse(diff_id), "example.org/app", kept=True)
        if keep != "blob":
            Path(store.paths.tar(Digest.parse(diff_id))).unlink()
    before = Layers.make_derived
    gone: list[bool] = []

    def make(self: Layers, *words: object, **more: object) -> None:
        if not gone:
            gone.append(True)
            remove_images(other, ["app", "app2"])
        before(self, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Layers, "make_derived", make)
    done = apply_keep(store, keep, grace=0)
    assert (gone, done.removed) == ([True], ())
    assert list(store.blobs) == list(store.layers.diff_ids()) == []


def test_a_dry_run_fails_if_a_named_image_is_missing(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    Path(store.blobs.path(store.resolve("app").digest)).unlink()
    with pytest.raises(StoreDamaged, match="missing"):
        prune(store, dry_run=True)


def test_df_does_not_count_what_is_mounted_in_the_store(layout: Path, tmp_path: Path) -> None:
    require_root()
    store = store_with(layout, tmp_path / "s", "app")
    place = Path(store.paths.unions, "a" * 64, "mnt")
    place.mkdir(parents=True)
    before = usage(store)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        (place / "file").write_bytes(bytes(1 << 20))
        after = usage(store)
    finally:
        subprocess.run(["umount", place], check=True)
    assert (after.total, after.frame) == (before.total, before.frame)


def tick(store: Store) -> None:
    """Wait until the clock of the file system advances."""
    before = clock.now(store.paths)
    while clock.now(store.paths) == before:
        pass


def test_an_upload_written_to_during_prune_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path / "s"))
    store.roots.create(leftovers.SERVING)
    upload = Path(store.paths.ingest, "upload-" + "0" * 32)
    before = leftovers._files

    def files(paths: Paths) -> Iterator[str]:
        tick(store)
        upload.write_bytes(b"more")
        yield from before(paths)

    monkeypatch.setattr(leftovers, "_files", files)
    prune(store)
    prune(store, all=True)
    assert upload.exists()


def test_a_root_whose_process_is_killed_during_gc_is_effective(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    name = store.roots.create("pull")
    store.roots.extend(name, [store.resolve("app").digest])
    store.roots.release(name)
    before = roots.names_of_files

    def names(directory: str) -> list[str]:
        tick(store)
        os.utime(Path(directory, name))
        return before(directory)

    monkeypatch.setattr(roots, "names_of_files", names)
    assert store.roots.protected()
    assert store.roots.ended() == []
