"""Many images in one session: they are synced together, and named together."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.detect import open_any
from lamina.archive.layout import LayoutReader
from lamina.errors import Cancelled, DigestMismatch, LaminaError, SystemFailure
from lamina.events import BlobStarted, Event, Tagged
from lamina.host.temporary import TemporaryDirectory
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.source.protocols import Writer
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.mediatype import OCI_LAYER_GZIP
from lamina.spec.platform import Platform
from lamina.store import batch, derived
from lamina.store.completeness import fetched_children
from lamina.store.fsck import fsck
from lamina.store.leftovers import leftovers
from lamina.store.prune import prune
from lamina.store.store import Store
from lamina.transfer.copy import SessionWriter, copy
from support import Calls, lamina, make_tar, write_layout
from unruly import Unruly

NAMES = [f"app{number}" for number in range(6)]
PLAIN = "app5"
"""An image whose layer is not compressed."""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that share their lowest layer."""
    directory = tmp_path_factory.mktemp("layout")
    for name in NAMES:
        write_layout(directory, name, [[("base", b"b")], [(name, name.encode())]], compress=name != PLAIN)
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def load(layout: Path, store: Writer, names: list[str] = NAMES, **how: Any) -> None:
    copy(LayoutReader(str(layout)), store, [(name, name) for name in names], **how)


def failing(_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def named(store: Store) -> list[str]:
    return [name.removeprefix("docker.io/library/").removesuffix(":latest") for name, _ in store.names()]


def check_whole(store: Store) -> None:
    """What is named is here with all its bytes, and nothing else is left."""
    assert [one.what for one in fsck(store) if one.severity != "elsewhere"] == []
    assert os.listdir(store.paths.ingest) == []
    for name, top in store.names():
        for layer in store.stack(name or str(top.digest), Platform.host()).layers:
            with layer.open() as stream:
                assert Digest.of(stream.read()) == layer.diff_id


def test_blobs_are_synced_before_they_are_moved_and_moved_before_the_names(
    layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    load(layout, store)
    monkeypatch.undo()
    index = calls.named(store.paths.index)  # once, for six images
    directory = os.stat(os.path.join(store.paths.blobs, "sha256")).st_ino
    assert len(list(store.blobs)) == 20  # eight layers, six configs, six manifests
    for digest in store.blobs:
        blob = calls.named(store.blobs.path(digest))
        assert min(calls.synced(calls.inode(blob)), default=index) < blob
        assert any(blob < at < index for at in calls.synced(directory))
    assert any(at < index for at in calls.synced(calls.inode(index)))
    assert len(calls.synced(directory)) == 1
    assert named(store) == NAMES
    check_whole(store)
    tars = {os.stat(store.paths.tar(diff_id)).st_ino for diff_id in store.layers.diff_ids()}
    plain = {layer.diff_id for layer in store.stack(PLAIN, Platform.host()).layers}
    own = {os.stat(store.blobs.path(diff_id)).st_ino for diff_id in plain}
    assert own < tars
    waited = {calls.inode(at) for at, (what, _, _) in enumerate(calls.seen) if what == "sync"}
    assert waited & (tars - own) == set()  # what can be made again is not waited for
    assert {derived.trust_level(store.paths.tar(one)) for one in plain} == {derived.ON_DISK}


@pytest.mark.parametrize("limit", ["of its own", "of the process"])
def test_the_number_of_waiting_files_is_limited_and_larger_images_are_stored(
    layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    if limit == "of its own":
        monkeypatch.setattr(batch, "MOST", 3)
    else:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (15, 15))  # as `ulimit -n` has it
    open_files: list[int] = []
    load(layout, store, on_event=lambda _: open_files.append(len(os.listdir("/proc/self/fd"))))
    assert max(open_files) - open_files[0] <= 3 + 4
    assert named(store) == NAMES
    check_whole(store)


def test_names_are_written_from_time_to_time(layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "EVERY", 0.0)
    monkeypatch.setattr(batch, "_SHARE", 0)
    seen: list[list[str]] = []

    def told(event: Event) -> None:
        if isinstance(event, Tagged):
            seen.append(named(Store.open(store.paths.root)))

    load(layout, store, on_event=told)
    assert seen == [NAMES[: count + 1] for count in range(len(NAMES))]


def test_a_large_blob_does_not_join_the_batch(layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "SMALL", 0)
    load(layout, store)
    assert named(store) == NAMES
    check_whole(store)


@pytest.mark.parametrize("keep", ["blob", "tar"])
def test_a_batch_keeps_the_parts_of_each_layer_that_the_setting_names(
    layout: Path, tmp_path: Path, keep: str
) -> None:
    store = Store.open(str(tmp_path / "s"), keep=keep)
    with Unruly(layout, NAMES[0]) as server:
        name = server.image
        repository = Repository(name, Access(first_wait=0.001), Registries())
        with store.session("test") as session, session.batch():
            copy(repository, SessionWriter(session), [(name, "one"), (name, "two")])
    assert named(store) == ["one", "two"]
    check_whole(store)
    for layer in store.stack("one", Platform.host()).layers:
        assert store.blobs.has(layer.descriptor) == (keep == "blob")
        assert store.layers.has_tar(layer.diff_id) == (keep == "tar")
        assert store.layers.origin(layer.descriptor, layer.diff_id)


def test_a_tar_that_another_process_put_in_place_meanwhile_is_not_noted_as_synced(
    layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = batch.sync_together
    replaced: list[str] = []

    def then_replaced(descriptors: Sequence[int]) -> None:
        synced(descriptors)
        for diff_id in store.layers.diff_ids():
            tar = Path(store.paths.tar(diff_id))
            if not os.path.exists(f"{tar}.written"):  # a second name of a blob that waits
                new = tar.with_name("new")
                new.write_bytes(tar.read_bytes())
                new.replace(tar)
                replaced.append(str(tar))

    monkeypatch.setattr(batch, "sync_together", then_replaced)
    load(layout, store)
    assert replaced
    assert {derived.trust_level(tar) for tar in replaced} == {derived.DOUBTFUL}
    check_whole(store)


def test_where_there_are_no_hard_links_a_tar_beside_its_blob_is_not_noted_as_synced(
    layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    load(layout, store)
    assert {derived.trust_level(store.paths.tar(one)) for one in store.layers.diff_ids()} == {derived.IN_THIS_BOOT}
    check_whole(store)


def test_images_are_named_even_if_a_note_about_a_tar_can_not_be_written(
    layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without free inodes, for one."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(batch, "note_written", full)
    load(layout, store)
    assert named(store) == NAMES
    check_whole(store)


@pytest.fixture
def damaged(layout: Path, tmp_path: Path) -> Path:
    """The fourth image has a wrong byte in its own layer."""
    place = tmp_path / "damaged"
    subprocess.run(["cp", "-r", str(layout), str(place)], check=True)
    manifest = json.loads(LayoutReader(str(place)).manifest(LayoutReader(str(place)).resolve(NAMES[3])))
    blob = place / "blobs" / manifest["layers"][1]["digest"].replace(":", "/")
    data = bytearray(blob.read_bytes())
    data[4] ^= 1  # the time in gzip's header: it inflates all the same
    blob.write_bytes(data)
    return place


def test_images_before_a_damaged_one_are_named(damaged: Path, store: Store) -> None:
    with pytest.raises(DigestMismatch):
        load(damaged, store)
    assert named(store) == NAMES[:3]
    check_whole(store)
    done = lamina("load", "-q", "-i", str(damaged), root=Path(store.paths.root))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (4, b"", 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Cancelled("stop")])
def test_images_before_an_interrupt_are_named(layout: Path, store: Store, error: BaseException) -> None:
    def told(event: Event) -> None:
        if isinstance(event, Tagged) and event.name == NAMES[2]:
            raise error

    with pytest.raises(type(error)):
        load(layout, store, on_event=told)
    assert named(store) == NAMES[:3]
    check_whole(store)


@pytest.mark.parametrize("what", ["a file", "a directory"])
def test_images_that_could_not_be_synced_get_no_name(
    layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A second fsync of a file says nothing of what the first has lost."""
    load(layout, store, NAMES[:2])
    if what == "a file":
        failed: list[int] = []
        fsync = os.fsync

        def once(descriptor: int) -> None:
            if not failed:
                failed.append(descriptor)
                failing(descriptor)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", once)
    else:
        monkeypatch.setattr(batch, "sync_directory", failing)
    with pytest.raises(SystemFailure, match="input/output error"):
        load(layout, store)
    monkeypatch.undo()
    assert named(store) == NAMES[:2]
    assert os.listdir(store.paths.ingest) == []
    load(layout, store)
    assert sorted(named(store)) == NAMES
    check_whole(store)


def test_names_before_one_of_a_missing_document_are_written(layout: Path, store: Store) -> None:
    first, second = (LayoutReader(str(layout)).resolve(name) for name in NAMES[:2])
    nowhere = Descriptor(first.media_type, Digest.of(b"nowhere"), 7)
    load(layout, store, NAMES[:2])
    with pytest.raises(LaminaError, match="not in the store"):
        store.refs.set_all(
            [("a", first), ("b", nowhere), ("c", second)],
            lambda top, known: fetched_children(top, known, store.blobs, store.layers),
        )
    assert named(store) == [*NAMES[:2], "a"]


def test_if_a_name_occurs_twice_the_last_image_gets_it(layout: Path, store: Store) -> None:
    load(layout, store, ["app0"])
    copy(LayoutReader(str(layout)), store, [("app1", "x"), ("app2", "app0"), ("app2", "x"), ("app1", "app0")])
    tops = {name: LayoutReader(str(layout)).resolve(name).digest for name in NAMES}
    found = [(name, top.digest) for name, top in store.names()]
    assert found == [
        ("", tops["app0"]),
        ("docker.io/library/x:latest", tops["app2"]),
        ("docker.io/library/app0:latest", tops["app1"]),
    ]


def test_processes_that_bring_in_the_same_images_lose_nothing(layout: Path, store: Store) -> None:
    words = [sys.executable, "-m", "lamina", "--root", store.paths.root, "load", "-q", "-i", str(layout)]
    running = [subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [(b"", 0)] * 4
    assert sorted(named(store)) == [f"docker.io/library/{name}"[18:] for name in NAMES]
    check_whole(store)


def test_a_waiting_blob_can_be_read_and_its_layer_made(store: Store) -> None:
    tar = make_tar([("file", b"x")])
    data = gzip.compress(tar)
    descriptor, diff_id = Descriptor.of(OCI_LAYER_GZIP, data), Digest.of(tar)
    with store.session("test") as session, session.batch():
        assert session.put_blob(descriptor, BytesBlob(descriptor, data))  # as something unknown
        assert session.has(descriptor)
        assert not os.path.exists(store.blobs.path(descriptor.digest))
        with session.reader.blob(descriptor).open(2, 9) as stream:
            assert stream.read() == data[2:9]
        assert not session.has(descriptor, diff_id)
        assert not session.put_blob(descriptor, BytesBlob(descriptor, data), diff_id=diff_id)
        assert session.has(descriptor, diff_id)
    assert Path(store.paths.tar(diff_id)).read_bytes() == tar


def test_a_batch_directory_of_a_killed_process_is_removed_and_a_locked_one_kept(layout: Path, store: Store) -> None:
    left = Path(store.paths.ingest, f"many.{'0' * 12}.tmp")
    left.mkdir()
    (left / "1-x").write_bytes(b"x" * 5000)
    strange = Path(store.paths.ingest, "notes.tmp")
    strange.mkdir()
    with TemporaryDirectory(store.paths.ingest, "many") as held:
        found = list(leftovers(store.paths))
        assert [(one.path, one.due, one.size >= 5000) for one in found] == [(str(left), True, True)]
        load(layout, store, NAMES[:1])
        assert sorted(os.listdir(store.paths.ingest)) == sorted([os.path.basename(held.path), strange.name])
    left.mkdir()
    prune(store, grace=0)
    assert os.listdir(store.paths.ingest) == [strange.name]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What an old docker saved: no manifests, twenty images, one of them without a name."""
    path = tmp_path / "saved.tar"
    images = []
    with tarfile.open(path, "w") as archive:

        def put(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        for number in range(20):
            tar = make_tar([(f"f{number}", b"%d" % number)])
            config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}, "config": {}}
            config["rootfs"]["diff_ids"] = [str(Digest.of(tar))]  # type: ignore[index]
            put(f"{number}/layer.tar", tar)
            put(f"{number}.json", json.dumps(config).encode())
            tags = [f"old/app{number}:1"] if number else None
            images.append({"Config": f"{number}.json", "RepoTags": tags, "Layers": [f"{number}/layer.tar"]})
        put("manifest.json", json.dumps(images).encode())
    return path


def test_an_archive_of_images_that_are_here_is_looked_up_by_its_configs(
    saved: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each document is read a fixed number of times, however many images there are."""
    root = Path(store.paths.root)
    assert lamina("load", "-q", "-i", str(saved), root=root).returncode == 0
    before = sorted((name, top.digest) for name, top in store.names())
    assert len(before) == 20
    reads: list[Digest] = []
    read = type(store.blobs).read

    def counted(self: Any, descriptor: Descriptor) -> bytes:
        reads.append(descriptor.digest)
        return read(self, descriptor)

    monkeypatch.setattr(type(store.blobs), "read", counted)
    reader = open_any(str(saved))
    copy(reader, store, [(name or str(top.digest), name) for name, top in reader.names()])
    assert sorted((name, top.digest) for name, top in store.names()) == before
    assert len(reads) <= 6 * 20
    check_whole(store)


def test_names_of_a_docker_archive_are_found_as_written_as_docker_reads_them_and_by_position(saved: Path) -> None:
    reader = open_any(str(saved))
    tops = [top for _, top in reader.names()]
    for number in (0, 1, 7, 19):
        names = [f"@{number}", str(tops[number].digest)]
        names += [f"old/app{number}:1", f"docker.io/old/app{number}:1"] if number else []
        assert {reader.resolve(name).digest for name in names} == {tops[number].digest}
    with pytest.raises(LaminaError, match="holds no image"):
        reader.resolve("old/app20:1")


def test_an_image_from_a_registry_is_named_before_the_next_one_is_requested(layout: Path, store: Store) -> None:
    """The next one may take minutes."""
    seen: list[list[str]] = []

    def told(event: Event) -> None:
        if isinstance(event, Tagged):
            seen.append(named(Store.open(store.paths.root)))

    with Unruly(layout, NAMES[0]) as server:
        repository = Repository(server.image, Access(first_wait=0.001), Registries())
        copy(repository, store, [(server.image, "one"), (server.image, "two")], on_event=told)
    assert seen == [["one"], ["one", "two"]]


def test_waiting_images_are_named_before_a_large_layer_is_copied(
    layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[str]] = {}

    def told(event: Event) -> None:
        if isinstance(event, BlobStarted) and event.what == "layer":
            seen.setdefault(str(event.digest), named(Store.open(store.paths.root)))

    monkeypatch.setattr("lamina.transfer.copy._FEW", 0)  # each is large
    load(layout, store, on_event=told)
    assert [len(names) for names in seen.values()] == [0, 0, 1, 2, 3, 4, 5, 5]
    assert named(store) == NAMES


def test_sync_from_a_place_of_this_machine_brings_images_in_together(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "s"
    done = lamina("sync", f"oci:{layout}", "--format", "json", root=root)
    assert [row["state"] for row in json.loads(done.stdout)] == ["copied"] * 6, done.stderr
    store = Store.open(str(root))
    assert named(store) == NAMES
    check_whole(store)
    index = os.stat(store.paths.index)
    done = lamina("sync", f"oci:{layout}", "--format", "json", root=root)
    assert [row["state"] for row in json.loads(done.stdout)] == ["already there"] * 6
    assert os.stat(store.paths.index).st_ino == index.st_ino  # nothing was written


def test_sync_that_keeps_going_names_all_but_the_damaged_image(damaged: Path, tmp_path: Path) -> None:
    root = tmp_path / "s"
    done = lamina("sync", f"oci:{damaged}", "--keep-going", "--format", "json", root=root)
    states = [row["state"].partition(":")[0] for row in json.loads(done.stdout)]
    assert (done.returncode, states) == (1, ["copied"] * 3 + ["failed"] + ["copied"] * 2)
    store = Store.open(str(root))
    assert named(store) == NAMES[:3] + NAMES[4:]
    check_whole(store)


def test_sync_keep_going_warns_about_what_it_left_out_even_if_quiet(damaged: Path, tmp_path: Path) -> None:
    done = lamina("sync", f"oci:{damaged}", "--keep-going", "-q", root=tmp_path / "s")
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert re.match(rf"lamina: warning: docker.io/library/{NAMES[3]}:latest was left out: blob sha256:", line)


def test_after_a_failed_sync_a_batch_refuses_further_images(
    layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `sync --keep-going` the next image begins all the same."""
    monkeypatch.setattr(batch, "sync_directory", failing)
    with (
        pytest.raises(SystemFailure, match="failed to store images of this batch"),
        store.session("test") as session,
        session.batch(),
    ):
        with pytest.raises(SystemFailure, match="input/output error"):
            load(layout, SessionWriter(session), NAMES[:1])
            session.commit_names()
        monkeypatch.undo()
        load(layout, SessionWriter(session), NAMES[1:])
    assert named(store) == []
    assert os.listdir(store.paths.ingest) == []


def test_fsck_reads_the_origins_of_blobs_once(layout: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each image: that is a file of each layer."""
    load(layout, store)
    asked: list[int] = []
    origins = type(store.layers).origins

    def counted(self: Any) -> Any:
        asked.append(1)
        return origins(self)

    monkeypatch.setattr(type(store.layers), "origins", counted)
    assert fsck(store) == []
    assert len(asked) == 1
