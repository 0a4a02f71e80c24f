"""What rmi and prune may delete: never what a name, a container or a working process needs, whatever ends, is killed
or is damaged beside them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import BlobNotFound, Conflict, DiskFull, LaminaError, StoreDamaged
from lamina.host.files import failure
from lamina.host.lock import acquire
from lamina.light import as_dict
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import write_own
from lamina.spec.manifest import build_index, build_manifest
from lamina.spec.platform import Platform
from lamina.store import clock, gc, leftovers, refs
from lamina.store import session as session_module
from lamina.store.containers import Container
from lamina.store.fsck import fsck
from lamina.store.gc import collect
from lamina.store.journal import note
from lamina.store.mark import Holder, Memory, Needs, image_holders, mark, state_of
from lamina.store.prune import prune
from lamina.store.remove import remove_images
from lamina.store.roots import Roots
from lamina.store.store import Store
from lamina.store.usage import usage
from lamina.transfer.copy import copy
from support import lamina, manifest_of, require_root, require_tool, store_with, write_layout

BASE, TOP, OTHER = [("a", b"hello" * 100)], [("b", b"x" * 1000)], [("c", b"other" * 500)]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "app", [BASE, TOP])
    write_layout(tmp_path / "layout", "app2", [BASE, OTHER])
    return tmp_path / "layout"


def change(store: Store, digest: Digest, how: str) -> None:
    """Damage a blob, or lose it."""
    path = Path(store.blobs.path(digest))
    data = path.read_bytes()
    path.unlink()
    if how != "lost":
        new = {"cut": data[:-5], "other": data[:-5] + b"XXXXX", "grown": data + b" " * (5 << 20)}[how]
        path.write_bytes(new)


def everything(store: Store) -> set[str]:
    """All blobs, and all files of layers."""
    layers = (path for path in Path(store.paths.layers).rglob("*") if path.is_file())
    return {str(digest) for digest in store.blobs} | {str(path) for path in layers}


def whole(store: Store) -> bool:
    return [one.what for one in fsck(store) if one.severity != "leftover"] == []


def contained(store: Store, descriptor: Descriptor) -> None:
    """A container of this manifest."""
    one = Container("c" * 64, "web", "app", str(descriptor.digest), descriptor.media_type, descriptor.size, (), 1.0)
    os.mkdir(store.containers.path(one.id))
    Path(store.containers.path(one.id, "container.json")).write_text(write_own(as_dict(one)))


def at_point(monkeypatch: pytest.MonkeyPatch, name: str, work: object) -> None:
    """Run ``work`` once when gc passes the point."""
    done: list[bool] = []
    before = gc.point

    def point(passed: str) -> None:
        if passed == name and not done:
            done.append(True)
            work()  # type: ignore[operator]
        before(passed)

    monkeypatch.setattr(gc, "point", point)


def test_a_pull_that_ends_between_the_two_marks_of_gc_loses_nothing(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look finds a manifest that is listed in a root but not written yet: that must not be remembered."""
    ours, theirs = Store.open(str(tmp_path / "s")), Store.open(str(tmp_path / "s"))
    at_manifest, go_on = threading.Event(), threading.Event()
    before = session_module.parse

    def waits(*words: object, **more: object) -> object:
        if not at_manifest.is_set():
            at_manifest.set()
            go_on.wait(20)
        return before(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(session_module, "parse", waits)
    pull = threading.Thread(target=lambda: copy(LayoutReader(str(layout)), theirs, [("app", "app")]))

    def pull_ends() -> None:
        go_on.set()
        pull.join()

    pull.start()
    assert at_manifest.wait(20)
    at_point(monkeypatch, "gc.marked", pull_ends)
    assert collect(ours).deleted == ()
    assert len(list(ours.blobs)) == 4
    assert whole(ours)


def test_only_complete_documents_are_remembered_between_the_marks(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    manifest, sound = manifest_of(store, "app"), manifest_of(store, "app2").descriptor.digest
    change(store, manifest.config.digest, "lost")
    layer = manifest.layers[0].digest
    large = Descriptor.of("application/octet-stream", bytes(5 << 20))  # more than a document may have: not read
    store.blobs.write(large, bytes(5 << 20))
    process = Holder("process", "pull", may_exist=(layer, large.digest, Digest.of(b"nowhere")))
    memory: Memory = {}
    marked = mark(store, [*image_holders(store.refs.entries()), process], memory=memory, strict=False)
    assert set(memory) == {sound, layer}
    assert {layer, large.digest} <= marked.blobs & marked.diff_ids


def test_a_name_that_points_to_no_document_stops_gc(layout: Path, tmp_path: Path) -> None:
    """Somebody has changed index.json."""
    store = store_with(layout, tmp_path / "s", "app")
    layer = manifest_of(store, "app").layers[0]
    store.refs.update(lambda entries: [*entries, Descriptor(mediatype.OCI_MANIFEST, layer.digest, layer.size)])
    what = f"the manifest {layer.digest} of the untagged image {layer.digest.short}"
    said = f"{what} is not a document that lamina can read"
    with pytest.raises(StoreDamaged, match=said) as caught:
        collect(store)
    assert (caught.value.hint or "").startswith(f"remove it with `lamina rmi {layer.digest}`, or run `lamina fsck")
    remove_images(store, [str(layer.digest)])
    collect(store)


@pytest.mark.parametrize("how", ["cut", "other", "grown", "lost"])
@pytest.mark.parametrize("part", ["manifest", "config"])
def test_nothing_is_deleted_while_an_image_is_damaged_except_that_image(
    layout: Path, tmp_path: Path, part: str, how: str
) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    manifest = manifest_of(store, "app")
    digest = manifest.descriptor.digest if part == "manifest" else manifest.config.digest
    for layer in manifest.layers:  # tars that are the only copy, as keep = tar has them
        os.unlink(store.blobs.path(layer.digest))
    change(store, digest, how)
    before = everything(store)
    done = lamina("prune", root=tmp_path / "s")
    assert done.returncode == 6
    assert len(done.stderr.splitlines()) == 1
    state = "missing" if how == "lost" else "damaged"
    assert f"nothing was deleted: the {part} {digest} of the image app:latest is {state}" in done.stderr.decode()
    assert "remove it with `lamina rmi app:latest`" in done.stderr.decode()
    assert everything(store) == before
    dry = json.loads(lamina("rmi", "-n", "app", "--format", "json", root=tmp_path / "s").stdout)
    gone = json.loads(lamina("rmi", "app", "--format", "json", root=tmp_path / "s").stdout)
    assert {**dry, "dry_run": False} == gone
    assert gone["freed"] > 0
    assert [name for name, _ in store.names()] == ["docker.io/library/app2:latest"]
    assert everything(store) < before
    assert len(list(store.blobs)) == 3  # the blob of the layer that both have was taken away above


def test_prune_says_what_it_removed_though_an_image_is_damaged(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    change(store, manifest_of(store, "app").config.digest, "cut")
    left = killed_maker(store)
    with pytest.raises(StoreDamaged, match="is damaged; 8192 bytes of interrupted work were removed") as caught:
        prune(store)
    assert "lamina rmi" in (caught.value.hint or "")
    assert not left.exists()
    with pytest.raises(StoreDamaged) as caught:
        prune(store)
    assert caught.value.message.endswith("is damaged")


def test_another_name_can_be_removed_beside_a_damaged_image_but_its_bytes_stay(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    change(store, manifest_of(store, "app").config.digest, "cut")
    before = everything(store)
    done = lamina("rmi", "app2", root=tmp_path / "s")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [b"untagged: docker.io/library/app2:latest", b"freed: 0B (0 bytes)"]
    assert b"of the image app:latest is damaged" in done.stderr
    assert everything(store) == before
    assert [name for name, _ in store.names()] == ["docker.io/library/app:latest"]


@pytest.mark.parametrize("by", ["the index alone", "a process", "a container"])
def test_a_damaged_child_of_an_index_stops_gc_even_if_other_images_need_it(
    layout: Path, tmp_path: Path, by: str
) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    child = manifest_of(store, "app").descriptor
    index = build_index([child])
    with store.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
        session.tag("multi", index.descriptor)
    store.untag("docker.io/library/app:latest")
    prune(store)
    assert len(list(store.blobs)) == 5  # an index needs what it lists
    if by == "a process":
        store.roots.extend(store.roots.create("other"), [child.digest])
    elif by == "a container":
        contained(store, child)
    change(store, child.digest, "other")
    before = everything(store)
    with pytest.raises(StoreDamaged, match=f"the manifest {child.digest} of the image multi:latest is damaged"):
        collect(store)
    assert everything(store) == before


@pytest.mark.parametrize("how", ["other", "lost"])
def test_a_damaged_manifest_of_a_container_stops_gc(layout: Path, tmp_path: Path, how: str) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    manifest = manifest_of(store, "app")
    contained(store, manifest.descriptor)
    store.untag("docker.io/library/app:latest")
    prune(store)
    assert len(list(store.blobs)) == 4
    change(store, manifest.descriptor.digest, how)
    with pytest.raises(StoreDamaged, match="of the container web is") as caught:
        collect(store)
    assert "`lamina rm web`" in (caught.value.hint or "")
    assert any("of the container web needs" in one.what for one in fsck(store) if one.severity == "error")


def test_a_damaged_blob_in_a_root_stops_gc_unless_a_manifest_says_that_it_is_a_layer(
    layout: Path, tmp_path: Path
) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    layer = manifest_of(store, "app").layers[1].digest
    loose = Descriptor.of("application/json", b'{"some": "document"}')
    with store.session("test") as session:
        session.put_blob(loose, BytesBlob(loose, b'{"some": "document"}'))
    root = store.roots.create("pull of x")
    store.roots.extend(root, [layer])
    change(store, layer, "other")
    store.untag("docker.io/library/app2:latest")
    assert len(prune(store).deleted) == 5  # with the loose one
    with store.session("test") as session:
        session.put_blob(loose, BytesBlob(loose, b'{"some": "document"}'))
        store.roots.extend(root, [loose.digest])
    change(store, loose.digest, "cut")
    with pytest.raises(StoreDamaged, match=r"of a running process \(pull of x\) is damaged") as caught:
        collect(store)
    assert caught.value.hint == "wait for it to end, then run `lamina fsck --repair`"
    assert usage(store).held > 0
    store.roots.remove(root)
    assert collect(store).deleted == (loose.digest,)


@pytest.mark.parametrize("how", ["cut", "other", "directory"])
def test_a_damaged_config_of_what_a_process_works_with_stops_gc(layout: Path, tmp_path: Path, how: str) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    manifest = manifest_of(store, "app")
    store.roots.extend(store.roots.create("pull of x"), [manifest.descriptor.digest])
    store.refs.unset(["docker.io/library/app:latest"], keep_untagged=False)
    if how == "directory":  # the disk fails
        change(store, manifest.config.digest, "lost")
        os.mkdir(store.blobs.path(manifest.config.digest))
    else:
        change(store, manifest.config.digest, how)
    before = everything(store)
    with pytest.raises(StoreDamaged, match=f"the config {manifest.config.digest} of a running process"):
        collect(store)
    assert everything(store) == before


def test_an_image_with_an_invalid_config_keeps_its_blobs_and_does_not_stop_gc(tmp_path: Path) -> None:
    """Pushed to a registry by somebody else: its bytes are whole, and nobody can look into it."""
    store = Store.open(str(tmp_path / "s"))
    config, layer = b'{"some": "thing"}', b"no tar"
    descriptors = [Descriptor.of(mediatype.OCI_CONFIG, config), Descriptor.of(mediatype.OCI_LAYER, layer)]
    manifest = build_manifest(descriptors[0], descriptors[1:])
    with store.session("push") as session:
        for descriptor, data in zip(descriptors, (config, layer), strict=True):
            session.put_blob(descriptor, BytesBlob(descriptor, data))
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("odd", manifest.descriptor)
    assert collect(store).deleted == ()
    assert set(remove_images(store, ["odd"]).deleted) == {
        *(one.digest for one in descriptors),
        manifest.descriptor.digest,
    }


def test_an_index_that_lists_other_things_than_documents_does_not_stop_gc(layout: Path, tmp_path: Path) -> None:
    """A layer, listed as a manifest: intact bytes that are not a document need nothing. A child that was never
    fetched and is not here needs nothing either."""
    store = store_with(layout, tmp_path / "s", "app")
    layer, manifest = manifest_of(store, "app").layers[0], manifest_of(store, "app").descriptor
    hostile = Descriptor(mediatype.OCI_MANIFEST, layer.digest, layer.size)
    absent = Descriptor(mediatype.OCI_MANIFEST, Digest.of(b"elsewhere"), 9)
    index = build_index([hostile, absent, manifest])
    with store.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
        session.tag("multi", index.descriptor)
    store.untag("docker.io/library/app:latest")
    assert prune(store).deleted == ()
    assert whole(store)
    assert remove_images(store, ["multi"]).freed > 0
    assert list(store.blobs) == []


def test_a_blob_written_after_the_first_mark_stays_until_the_next_gc(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nothing protects it: the second defence."""
    store = store_with(layout, tmp_path / "s", "app")
    data = b"came late"
    late = Descriptor.of("application/octet-stream", data)
    early = Descriptor.of("application/octet-stream", b"was there")
    store.blobs.write(early, b"was there")
    began = clock.now(store.paths)

    def comes() -> None:
        while clock.now(store.paths) == began:  # the clock of files goes in ticks
            pass
        store.blobs.write(late, data)
        layer = Path(store.paths.layer(Digest.of(b"some layer")))
        layer.mkdir()
        (layer / "index").write_bytes(b"i")

    at_point(monkeypatch, "gc.marked", comes)
    assert collect(store).deleted == (early.digest,)
    assert set(collect(store).deleted) == {late.digest, Digest.of(b"some layer")}


def test_ages_use_the_clock_of_the_file_system_and_a_date_far_in_the_future_counts_as_old(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    file = tmp_path / "s/ingest/file"
    file.touch()
    then, now = file.stat().st_mtime_ns, clock.now(store.paths)
    assert then <= now
    assert clock.is_younger(then, 3600, now)
    assert not clock.is_younger(now - 3600 * 10**9, 3600, now)
    assert clock.is_younger(now + 60 * 10**9, 3600, now)  # the clock was set back by a minute
    assert not clock.is_younger(now + 3600 * 10**9, 3600, now)
    assert not clock.is_younger(now, 0, now)


def test_a_blob_of_the_clock_tick_in_which_gc_began_is_not_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "s"))
    blob = Descriptor.of("application/octet-stream", b"x")
    store.blobs.write(blob, b"x")
    changed = os.stat(store.blobs.path(blob.digest)).st_ctime_ns
    monkeypatch.setattr(clock, "now", lambda paths: changed)
    assert collect(store).deleted == (blob.digest,)


def test_rmi_by_id_takes_all_names_of_an_image_but_several_only_by_force(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    top = store.resolve("app")
    store.tag("other", top)
    for word in (top.digest.short, str(top.digest), manifest_of(store, "app").config.digest.short):
        with pytest.raises(Conflict, match="has several names"):
            remove_images(store, [word])
    assert remove_images(store, ["app", "other"], dry_run=True).freed > 0
    assert remove_images(store, ["app", "app"]).untagged == ("docker.io/library/app:latest",)
    assert remove_images(store, [top.digest.short]).untagged == ("docker.io/library/other:latest",)
    assert set(store.blobs) == {
        manifest_of(store, "app2").descriptor.digest,
        manifest_of(store, "app2").config.digest,
        *(layer.digest for layer in manifest_of(store, "app2").layers),
    }
    store.tag("third", store.resolve("app2"))
    done = remove_images(store, [store.resolve("app2").digest.short], force=True)
    assert set(done.untagged) == {"docker.io/library/app2:latest", "docker.io/library/third:latest"}
    assert everything(store) == set()


def test_rmi_without_prune_leaves_an_untagged_image_that_can_be_removed_by_its_id(
    layout: Path, tmp_path: Path
) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    store.tag("other", store.resolve("app"))
    top = store.resolve("app")
    remove_images(store, ["app"], keep_untagged=True)
    assert [name for name, _ in store.names()] == ["docker.io/library/other:latest"]  # it has a name still
    remove_images(store, ["other"], keep_untagged=True)
    assert [(name, one.digest) for name, one in store.names()] == [("", top.digest)]
    assert len(list(store.blobs)) == 4
    assert remove_images(store, [str(top.digest)]).untagged == ()
    assert everything(store) == set()


def test_rmi_leaves_other_images_without_a_name(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    store.untag("docker.io/library/app2:latest")
    before = everything(store)
    remove_images(store, ["app"])
    assert [name for name, _ in store.names()] == [""]
    assert everything(store) < before
    assert len(list(store.blobs)) == 4
    assert whole(store)


def test_prune_counts_leftovers_and_images(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    store.untag("docker.io/library/app:latest")
    part = Path(store.paths.part(Digest.of(b"some blob")))
    part.write_bytes(b"x" * 4096)
    os.utime(part, (1, 1))
    note(store.paths.root, "image", "pull", "app", {})  # the journal has its first block
    before = usage(store).total
    dry = prune(store, dry_run=True)
    done = prune(store)
    assert dry == done
    index = 8192  # index.json may need fewer blocks
    assert 0 <= before - usage(store).total - done.freed < index


def test_a_blob_written_while_gc_lists_blobs_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path / "s"))
    late = Descriptor.of("application/octet-stream", b"x")
    before = type(store.blobs).__iter__

    def comes(blobs: object) -> Iterator[Digest]:
        listing = clock.now(store.paths)
        while clock.now(store.paths) == listing:  # the clock of files goes in ticks
            pass
        store.blobs.write(late, b"x")
        return before(blobs)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store.blobs), "__iter__", comes)
    assert collect(store).deleted == ()
    monkeypatch.undo()
    assert collect(store).deleted == (late.digest,)


def test_derived_data_made_during_gc_is_deleted_by_the_next_gc(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    before, made = gc._unlink, list[str]()

    def makes(path: str, links: dict[tuple[int, int], int], dry_run: bool) -> int:
        freed = before(path, links, dry_run)
        if path.endswith("/index") and not made:
            Path(path).write_bytes(b"made again")
            made.append(path)
        return freed

    monkeypatch.setattr(gc, "_unlink", makes)
    remove_images(store, ["app"])
    assert everything(store) == set(made)
    monkeypatch.undo()
    collect(store)
    assert everything(store) == set()


@pytest.mark.parametrize("point", ["gc.document-removed", "gc.layer-removed", "gc.blob-removed"])
def test_a_gc_that_is_killed_leaves_no_document_without_what_it_names(
    layout: Path, tmp_path: Path, point: str
) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    index = build_index([manifest_of(store, name).descriptor for name in ("app", "app2")])
    with store.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
        session.tag("multi", index.descriptor)
    store.refs.unset(["docker.io/library/app:latest", "docker.io/library/app2:latest"], keep_untagged=False)
    done = lamina("rmi", "multi", root=tmp_path / "s", LAMINA_FAULT=point)
    assert done.returncode == -signal.SIGKILL
    assert "docker.io/library/multi:latest" not in {name for name, _ in store.names()}
    assert 0 < len(list(store.blobs)) < 8
    here = set(store.blobs)
    for digest in here:
        state = state_of(store, digest)
        if isinstance(state, Needs):
            assert set(state.blobs) <= here
            assert set(state.diff_ids) <= set(store.layers.diff_ids())
    for diff_id in store.layers.diff_ids():  # no tar that could be believed without its blob
        assert Digest.of(Path(store.paths.tar(diff_id)).read_bytes()) == diff_id


def test_gc_distinguishes_documents_from_other_blobs(layout: Path, tmp_path: Path) -> None:
    """They go first."""
    store = store_with(layout, tmp_path / "s", "app", "app2")
    manifests = [manifest_of(store, name) for name in ("app", "app2")]
    index = build_index([one.descriptor for one in manifests])
    with store.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
    garbage = gc.find_garbage(store, [], 0)
    assert set(garbage.documents) == {index.descriptor.digest, *(one.descriptor.digest for one in manifests)}
    assert set(garbage.blobs) == set(store.blobs) - set(garbage.documents)
    assert set(garbage.layers) == set(store.layers.diff_ids())
    assert (garbage.needed, set(garbage.digests)) == (set(), set(store.blobs) | set(garbage.layers))


@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_lists_the_removed_names(layout: Path, tmp_path: Path, dry_run: bool) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    store.untag("docker.io/library/app2:latest")
    assert prune(store, dry_run=dry_run).untagged == ()
    assert prune(store, all=True, dry_run=dry_run).untagged == ("docker.io/library/app:latest",)


def test_a_tag_beside_an_rmi_never_names_a_deleted_image(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = store_with(layout, tmp_path / "s", "app"), Store.open(str(tmp_path / "s"))
    descriptor = ours.resolve("app")
    before = refs.locked

    @contextmanager
    def removed_first(path: str) -> Iterator[None]:
        monkeypatch.setattr(refs, "locked", before)
        remove_images(theirs, ["app"])
        with before(path):
            yield

    monkeypatch.setattr(refs, "locked", removed_first)
    with pytest.raises(BlobNotFound, match="is not in the store"):
        ours.tag("again", descriptor)
    assert list(ours.names()) == []


def test_nothing_is_rewritten_where_no_name_changes(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    before = os.stat(store.paths.index).st_ino
    store.tag("app", store.resolve("app"))
    prune(store)
    store.refs.unset(["docker.io/library/none:latest"], keep_untagged=False)
    assert os.stat(store.paths.index).st_ino == before


def test_rmi_counts_each_file_once_and_deletes_a_union_with_its_first_layer(tmp_path: Path, layout: Path) -> None:
    """An uncompressed layer's tar is its blob: two names of one file."""
    write_layout(tmp_path / "plain", "plain", [BASE, [("d", os.urandom(100_000))]], compress=False)
    store = store_with(tmp_path / "plain", tmp_path / "s", "plain")
    copy(LayoutReader(str(layout)), store, [("app2", "app2")])
    layers = store.stack("plain", Platform.host()).diff_ids
    for key, named in (("a" * 64, layers), ("b" * 64, layers[:1])):
        os.makedirs(store.paths.union(key))
        Path(store.paths.union(key), "layers").write_text("".join(f"{one}\n" for one in named))
    note(store.paths.root, "image", "pull", "app", {})  # the journal has its first block
    before = usage(store).total
    dry = remove_images(store, ["plain"], dry_run=True)
    done = remove_images(store, ["plain"])
    assert dry.freed == done.freed == before - usage(store).total
    assert 100_000 < done.freed < 150_000
    assert os.listdir(store.paths.unions) == ["b" * 64]  # app2 has its only layer; of the other one layer is gone
    assert set(done.deleted) == set(dry.deleted)
    assert len(done.deleted) == len(set(done.deleted))


def test_df_shows_held_bytes_and_bytes_that_prune_deletes(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app", "app2")
    contained(store, store.resolve("app"))
    store.refs.unset(["docker.io/library/app:latest", "docker.io/library/app2:latest"], keep_untagged=False)
    used = usage(store)
    assert (used.images, used.per_image) == (0, ())
    assert used.held > 0
    assert collect(store).freed == used.unneeded > 0
    assert (usage(store).held, usage(store).unneeded) == (used.held, 0)
    shutil.rmtree(store.containers.path("c" * 64))
    assert collect(store).freed == used.held


# What interrupted work leaves


def killed_maker(store: Store) -> Path:
    """A temporary file of a process that is gone."""
    code = (
        "import os, sys, signal\n"
        "from lamina.host.temporary import Temporary\n"
        "file = Temporary(sys.argv[1], 'layer.tar')\n"
        "os.write(file.descriptor, b'x' * 5000)\n"
        "print(file.path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store.paths.ingest], capture_output=True, text=True, check=False
    )
    return Path(done.stdout.strip())


def test_temporary_files_of_a_killed_process_are_removed_by_the_next_session_and_by_prune(
    layout: Path, tmp_path: Path
) -> None:
    store = Store.open(str(tmp_path / "s"))
    left = killed_maker(store)
    assert [one.kind for one in leftovers.leftovers(store.paths)] == [leftovers.TEMPORARY]
    assert left.exists()
    with store.session("pull"):
        assert not left.exists()
    left = killed_maker(store)
    os.utime(left, (2**32, 2**32))
    assert prune(store, dry_run=True).freed == left.stat().st_blocks * 512
    assert left.exists()
    assert prune(store).freed == 8192
    assert not left.exists()


def test_a_temporary_file_of_a_living_process_stays_whatever_its_date(tmp_path: Path) -> None:
    from lamina.host.temporary import Temporary

    store = Store.open(str(tmp_path / "s"))
    with Temporary(store.paths.ingest, "layer.tar") as file:
        for date in (1, 2**32):
            os.utime(file.path, (date, date))
            prune(store, all=True)
            assert os.path.exists(file.path)


@pytest.mark.parametrize(("date", "stays"), [(None, True), (1, False), (2**32, False)])
def test_a_part_file_is_kept_for_an_hour_with_a_note_and_removed_by_prune_all(
    tmp_path: Path, date: int | None, stays: bool
) -> None:
    store = Store.open(str(tmp_path / "s"))
    part = Path(store.paths.part(Digest.of(b"some blob")))
    part.write_bytes(b"x" * 4096)
    if date is not None:
        os.utime(part, (date, date))
    (said,) = [one.what for one in fsck(store)]
    assert ("kept for an hour" in said) == stays
    assert ("run `lamina prune`" in said) != stays
    done = lamina("prune", root=tmp_path / "s")
    assert part.exists() == stays
    assert (b"4096 bytes of interrupted downloads" in done.stderr) == stays
    assert f"({0 if stays else 4096} bytes)".encode() in done.stdout
    part.write_bytes(b"x" * 4096)
    after = Path(f"{part}-after")  # in the order of names
    with open(part, "rb") as held:
        after.write_bytes(b"x" * 4096)
        assert acquire(held.fileno(), str(part))
        assert prune(store, all=True).freed == 4096
        assert part.exists()
        assert not after.exists()
    assert prune(store, all=True).freed == 4096
    assert not part.exists()


def test_a_pull_waits_while_prune_removes_its_part_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Store.open(str(tmp_path / "s")), Store.open(str(tmp_path / "s"))
    data = os.urandom(1 << 20)
    descriptor = Descriptor.of("application/octet-stream", data)
    part = Path(ours.paths.part(descriptor.digest))
    part.write_bytes(data[:1000])
    os.utime(part, (1, 1))
    wants, pruned, out = threading.Event(), threading.Event(), list[object]()
    from lamina.store import ingest

    before_lock, before_remove = ingest.acquire, leftovers.remove

    def asks(*words: object, **more: object) -> bool:
        wants.set()
        return before_lock(*words, **more)  # type: ignore[arg-type]

    def pull() -> None:
        try:
            with theirs.session("pull") as session:
                out.append(session.put_blob(descriptor, BytesBlob(descriptor, data)))
                pruned.wait(20)  # nothing names the blob but this session
        except LaminaError as error:
            out.append(error)

    thread = threading.Thread(target=pull)

    def removes(path: str) -> bool:
        thread.start()
        assert wants.wait(20)
        thread.join(0.1)
        assert not out  # it waits for the lock
        return before_remove(path)

    monkeypatch.setattr(ingest, "acquire", asks)
    monkeypatch.setattr(leftovers, "remove", removes)
    prune(ours)
    pruned.set()
    thread.join()
    assert out == [True]
    assert ours.blobs.read(descriptor) == data


def test_unknown_files_in_the_directories_of_the_store_are_ignored_and_kept(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    (tmp_path / "precious").write_text("mine")
    strange = []
    for directory in ("ingest", "roots", "."):
        for name in ("odd", "odd.tmp"):
            for kind, make in (
                ("fifo", os.mkfifo),
                ("directory", os.mkdir),
                ("link", lambda path: os.symlink(tmp_path / "precious", path)),
            ):
                strange.append(tmp_path / "s" / directory / f"{kind}-{name}")
                make(strange[-1])
    prune(store)
    with store.session("pull"):
        pass
    assert whole(store)
    assert remove_images(store, ["app"]).freed > 0
    prune(store, all=True)
    assert all(os.path.lexists(path) for path in strange)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_temporary_file_left_when_the_store_was_made_is_removed(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    store.roots.create("work")
    for left in (tmp_path / "s/format.0123456789ab.tmp", tmp_path / "s/roots/1-2.0123456789ab.tmp"):
        left.write_bytes(b"x")
        prune(store)
        assert not left.exists()
        left.write_bytes(b"x")
        with store.session("pull"):
            assert not left.exists()


def test_leftovers_of_another_user_are_kept_and_do_not_stop_prune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "s"))
    left = tmp_path / "s/ingest/x.0123456789ab.tmp"
    left.write_bytes(b"x")
    before = leftovers.unheld

    @contextmanager
    def refused(path: str) -> Iterator[bool]:
        if path == str(left):
            raise PermissionError(path)
        with before(path) as free:
            yield free

    monkeypatch.setattr(leftovers, "unheld", refused)
    prune(store)
    with store.session("pull"):
        pass
    assert left.exists()


def test_uploads_of_a_running_registry_are_kept_for_an_hour_and_others_removed_by_prune_all(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    upload = tmp_path / "s/ingest/upload-0"
    upload.write_bytes(b"x")
    server = store.roots.create(leftovers.SERVING)
    prune(store, all=True)
    assert upload.exists()
    os.utime(upload, (1, 1))
    prune(store, all=True)
    assert not upload.exists()
    upload.write_bytes(b"x")
    store.roots.remove(server)
    prune(store)
    assert upload.exists()
    prune(store, all=True)
    assert not upload.exists()


# Which processes are alive


def test_a_root_is_alive_while_it_is_locked_whatever_its_pid_and_date(layout: Path, tmp_path: Path) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    top = store.resolve("app").digest
    name = store.roots.create("work")
    store.roots.extend(name, [top])
    path = Path(store.paths.roots, name)
    lines = path.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "pid": 999_999_999, "boot": "another"})
    path.write_text("\n".join(lines) + "\n")  # as it looks in another namespace of processes
    store.untag("docker.io/library/app:latest")
    for date in (1, 2**32):
        os.utime(path, (date, date))
        assert prune(store, all=True).deleted == ()
        assert [root.alive for root in store.roots] == [True]
    store.roots.release(name)
    assert [root.alive for root in Roots(store.paths)] == [False]
    os.utime(path, (2**32, 2**32))
    assert len(collect(store).deleted) == 6  # four blobs, two layers


def test_objects_of_a_killed_command_are_kept_for_an_hour_and_removed_by_prune_all(
    layout: Path, tmp_path: Path
) -> None:
    store = Store.open(str(tmp_path / "s"))
    done = lamina("copy", f"oci:{layout}:app", "app", root=tmp_path / "s", LAMINA_FAULT="manifest.written")
    assert done.returncode == -signal.SIGKILL
    assert len(list(store.blobs)) == 4
    (said,) = [one.what for one in fsck(store)]
    assert "kept for an hour" in said
    done = lamina("prune", root=tmp_path / "s")
    assert (
        b"kept for an hour, so that the next pull can resume: the objects of interrupted commands (1)" in done.stderr
    )
    assert len(list(store.blobs)) == 4
    assert len(list(store.roots)) == 1
    done = lamina("prune", "--all", "--force", root=tmp_path / "s")
    assert done.stderr == b""
    assert list(store.blobs) == list(store.layers.diff_ids()) == list(store.roots) == []


def test_prune_removes_ended_roots_and_a_dry_run_does_not(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    names = [store.roots.create("work") for _ in range(3)]
    for name in names[1:]:
        store.roots.release(name)
    os.utime(Path(store.paths.roots, names[1]), (1, 1))
    prune(store, dry_run=True)
    assert {root.name for root in store.roots} == set(names)
    prune(store)
    assert {root.name for root in store.roots} == {names[0], names[2]}
    assert [one.repaired for one in fsck(store, repair=True)] == [False]  # it counts for an hour
    assert prune(store, all=True).notes == ()
    assert [root.name for root in store.roots] == [names[0]]


def test_a_file_that_disappears_during_gc_frees_no_bytes(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    expected = remove_images(store, ["app"], dry_run=True).freed
    before = gc._files
    monkeypatch.setattr(gc, "_files", lambda store, digest: [*before(store, digest), "/nowhere"])
    assert remove_images(store, ["app"]).freed == expected


def test_a_root_that_is_being_written_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.store import roots

    store = Store.open(str(tmp_path / "s"))
    before = roots.write_all

    def prunes(descriptor: int, data: bytes) -> None:
        prune(Store.open(str(tmp_path / "s")), all=True)
        before(descriptor, data)

    monkeypatch.setattr(roots, "write_all", prunes)
    name = store.roots.create("work")
    monkeypatch.undo()
    assert [(root.name, root.alive) for root in Store.open(str(tmp_path / "s")).roots] == [(name, True)]


# A full disk


@contextmanager
def small_disk(tmp_path: Path, kind: str) -> Iterator[Path]:
    require_root()
    place = tmp_path / "disk"
    place.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)]
    else:
        require_tool("mkfs.ext4")
        with open(tmp_path / "image", "wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(tmp_path / "image")], check=True)
        command = ["mount", "-o", "loop", str(tmp_path / "image"), str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no {kind} can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> None:
    """To the last byte."""
    with open(place / "filler", "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\xaa" * size)
                    os.fsync(file.fileno())
            except OSError:
                continue
    for number in range(1000):  # files that are smaller than a block
        try:
            (place / f"filler{number}").write_bytes(b"x")
        except OSError:
            break
    os.sync()
    state = os.statvfs(place)
    assert state.f_bavail == 0


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("has_reserve", [True, False])
def test_on_a_full_disk_images_can_be_removed_and_named(
    layout: Path, tmp_path: Path, kind: str, has_reserve: bool
) -> None:
    with small_disk(tmp_path, kind) as place:
        store = store_with(layout, place / "s", "app", "app2")
        store.untag("docker.io/library/app2:latest")
        if not has_reserve:  # of an older lamina
            os.unlink(store.paths.reserve)
        fill(place)
        if has_reserve:
            assert lamina("tag", "app", "other", root=place / "s").stderr == b""
        done = lamina("prune", root=place / "s")
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"deleted: " in done.stdout
        names = [name for name, _ in store.names()]
        assert names == ["docker.io/library/app:latest", "docker.io/library/other:latest"][: 1 + has_reserve]
        assert whole(store)
        fill(place)
        done = lamina("rmi", "app", root=place / "s")
        assert (done.returncode, done.stderr) == (0, b"")
        assert [name for name, _ in store.names()] == names[1:]
        assert whole(store)
        assert lamina("prune", "--all", "--force", root=place / "s").returncode == 0
        assert list(store.blobs) == list(store.names()) == []


@pytest.mark.parametrize("fails", [1, 2])
def test_on_a_full_disk_unneeded_files_are_deleted_before_indexes(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """Resumable files are deleted too, then what nothing needs; indexes only if that is not enough."""
    store = store_with(layout, tmp_path / "s", "app", "app2")
    store.find(digest="sha256:" + "0" * 64)
    loose = Descriptor.of("application/octet-stream", b"x")
    store.blobs.write(loose, b"x")
    part = Path(store.paths.part(Digest.of(b"some blob")))
    part.write_bytes(b"x")
    before, asked = store.refs.update, list[bool]()

    def full(change: object) -> None:
        asked.append(os.path.exists(store.paths.layer_index(store.stack("app2", Platform.host()).diff_ids[1])))
        if len(asked) <= fails:
            raise failure(OSError(errno.ENOSPC, "full"), store.paths.index)
        assert not part.exists()
        assert not os.path.exists(store.paths.layer_map)
        assert store.blobs.size(loose.digest) is None
        assert whole(store) == (fails == 1)
        before(change)  # type: ignore[arg-type]

    monkeypatch.setattr(store.refs, "update", full)
    assert remove_images(store, ["app"]).freed > 0
    assert asked == [True] * (fails + 1)  # only of the image that goes
    assert whole(store)
    assert [name for name, _ in store.names()] == ["docker.io/library/app2:latest"]


@pytest.mark.parametrize("words", [("prune", "-a"), ("system", "prune", "-a"), ("container", "prune")])
def test_prune_deletes_nothing_without_a_yes(tmp_path: Path, layout: Path, words: tuple[str, ...]) -> None:
    store = store_with(layout, tmp_path / "s", "app")
    for answer, code, said in ((b"n\n", 1, b"lamina: nothing was deleted\n"), (b"", 2, b"use --force")):
        done = lamina(*words, root=tmp_path / "s", input=answer)
        assert (done.returncode, done.stdout) == (code, b"")
        assert said in done.stderr
        assert b"interrupted" not in done.stderr
    assert [name for name, _ in store.names()] == ["docker.io/library/app:latest"]
    assert lamina(*words, root=tmp_path / "s", input=b"y\n").returncode == 0
    assert [name for name, _ in store.names()] == (
        ["docker.io/library/app:latest"] if words[0] == "container" else []
    )


def test_where_nothing_can_be_freed_prune_does_not_advise_prune(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with(layout, tmp_path / "s", "app")

    def full(*_: object) -> None:
        raise failure(OSError(errno.ENOSPC, "full"), store.paths.index)

    monkeypatch.setattr(store.refs, "update", full)
    with pytest.raises(DiskFull, match="the disk is full") as caught:
        prune(store, all=True)
    assert "outside the store" in (caught.value.hint or "")
    with pytest.raises(DiskFull) as caught:
        remove_images(store, ["app"])
    assert "lamina prune" not in (caught.value.hint or "")
    assert {one.severity for one in fsck(store)} <= {"derived"}  # made again on need
    assert [name for name, _ in store.names()] == ["docker.io/library/app:latest"]
