"""What is synced before a name is written, and what is trusted after a crash."""

from __future__ import annotations

import errno
import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import DiskFull, InvalidContent, SystemFailure
from lamina.host import lock
from lamina.host.process_identity import boot_id
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.mediatype import OCI_LAYER_GZIP
from lamina.spec.platform import Platform
from lamina.store import derived
from lamina.store.fsck import fsck
from lamina.store.ingest import Ingest
from lamina.store.retention import apply_keep
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import Calls, make_tar, write_layout
from unruly import Unruly

BIG = os.urandom(300_000)
LAYER = [("a", BIG), ("d/b", b"b\n" * 9000)]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout")
    write_layout(directory, "app", [LAYER, [("c", b"c")]])
    return directory


def pulled(server: Unruly, root: Path, keep: str = "blob+tar") -> Store:
    store = Store.open(str(root), keep=keep)
    copy(Repository(server.image, Access(first_wait=0.001), Registries()), store, [(server.image, "app")])
    return store


def loaded(layout: Path, root: Path) -> Store:
    store = Store.open(str(root))
    copy(LayoutReader(str(layout)), store, [("app", "app")])
    return store


def test_only_blobs_and_documents_are_synced_before_the_name(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "s"))
    with Unruly(layout) as server:
        calls = Calls(monkeypatch)
        pulled(server, tmp_path / "s")
        monkeypatch.undo()
    named = calls.named(store.paths.index)
    directory = os.stat(os.path.join(store.paths.blobs, "sha256")).st_ino
    blobs = [calls.named(store.blobs.path(digest)) for digest in store.blobs]
    assert len(blobs) == 4  # two layers, the config, the manifest
    for blob in blobs:
        assert min(calls.synced(calls.inode(blob)), default=named) < blob  # its bytes before its name
        assert any(blob < at < named for at in calls.synced(directory))  # its name before the image's
    assert any(at < named for at in calls.synced(calls.inode(named)))
    assert any(at > named for at in calls.synced(os.stat(store.paths.root).st_ino))
    kept = [store.blobs.path(digest) for digest in store.blobs]
    kept += [store.paths.tar(diff_id) for diff_id in store.layers.diff_ids()]
    assert {os.stat(path).st_mode & 0o777 for path in kept} == {0o444}
    waited = {calls.inode(at) for at, (what, _, _) in enumerate(calls.seen) if what == "sync"}
    derived = {path.stat().st_ino for path in Path(store.paths.layers).rglob("*")}
    assert len(derived) >= 8
    assert waited & derived == set()


def test_a_tar_that_is_the_only_copy_is_synced_before_the_blob_is_removed(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "s"))
    with Unruly(layout) as server:
        calls = Calls(monkeypatch)
        pulled(server, tmp_path / "s", "tar")
        monkeypatch.undo()
    for layer in store.stack("app", Platform.host()).layers:
        named = calls.named(store.paths.tar(layer.diff_id))
        removed = calls.removed(store.paths.part(layer.descriptor.digest))
        assert min(calls.synced(calls.inode(named)), default=named) < named
        place = os.path.dirname(store.paths.tar(layer.diff_id))
        for directory in (place, os.path.dirname(place)):
            assert any(named < at < removed for at in calls.synced(os.stat(directory).st_ino))
        origins = calls.named(store.paths.origins(layer.diff_id))
        assert any(at < origins for at in calls.synced(calls.inode(origins)))
        assert origins < removed
        assert derived.trust_level(store.paths.tar(layer.diff_id)) == derived.ON_DISK


def test_prune_keep_tar_syncs_the_tar_before_it_removes_the_blob(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Unruly(layout) as server:
        store = pulled(server, tmp_path / "s")
    layer = store.stack("app", Platform.host()).layers[0]
    tar, blob = store.paths.tar(layer.diff_id), store.blobs.path(layer.descriptor.digest)
    assert derived.trust_level(tar) == derived.IN_THIS_BOOT
    calls = Calls(monkeypatch)
    assert len(apply_keep(store, "tar", grace=0).removed) == 2
    monkeypatch.undo()
    assert any(at < calls.removed(blob) for at in calls.synced(os.stat(tar).st_ino))
    assert derived.trust_level(tar) == derived.ON_DISK


def test_the_blob_is_kept_if_the_tar_can_not_be_synced(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Unruly(layout) as server:
        store = pulled(server, tmp_path / "s")
    layer = store.stack("app", Platform.host()).layers[0]
    monkeypatch.setattr("lamina.store.derived.sync_file", failing)
    with pytest.raises(SystemFailure, match="failed to store the tar of layer"):
        apply_keep(store, "tar", grace=0)
    assert store.blobs.has(layer.descriptor)
    assert not os.path.exists(store.paths.tar(layer.diff_id))
    monkeypatch.undo()
    assert fsck(store, repair=True)
    assert fsck(store) == []


def test_a_blob_that_is_fetched_again_is_synced_before_the_pull_ends(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here no document is written after it."""
    with Unruly(layout) as server:
        store = pulled(server, tmp_path / "s")
        blob = store.blobs.path(store.stack("app", Platform.host()).layers[0].descriptor.digest)
        os.unlink(blob)
        calls = Calls(monkeypatch)
        pulled(server, tmp_path / "s")
        monkeypatch.undo()
    assert calls.synced(os.stat(blob).st_ino)
    directory = os.stat(os.path.dirname(blob)).st_ino
    assert any(calls.named(blob) < at for at in calls.synced(directory))


def test_a_blob_with_another_algorithm_comes_in(tmp_path: Path) -> None:
    data = b"sha512"
    descriptor = Descriptor("application/octet-stream", Digest.of(data, "sha512"), len(data))
    store = Store.open(str(tmp_path / "s"))
    with store.session("test") as session:
        assert session.put_blob(descriptor, BytesBlob(descriptor, data))
    assert Path(store.blobs.path(descriptor.digest)).read_bytes() == data


def test_a_blob_that_does_not_fit_is_refused_before_a_byte_moves(tmp_path: Path) -> None:
    state = os.statvfs(tmp_path)
    descriptor = Descriptor("application/octet-stream", Digest.of(b""), state.f_bavail * state.f_frsize + 1)
    store = Store.open(str(tmp_path / "s"))

    class Never:
        origin = "registry.example/app"

        def __init__(self) -> None:
            self.descriptor = descriptor

        def open(self, start: int = 0, end: int | None = None) -> Any:
            raise AssertionError("asked for")

    with store.session("test") as session, pytest.raises(DiskFull):
        session.put_blob(descriptor, Never())
    assert os.listdir(store.paths.ingest) == []


def test_after_a_layer_is_stored_no_file_is_open_and_no_temporary_file_is_left(layout: Path, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = loaded(layout, tmp_path / "s")
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(store.paths.ingest) == []


class Silent(BytesBlob):
    """A blob whose source sends no more bytes."""

    origin = "registry.example/app"

    def open(self, start: int = 0, end: int | None = None) -> Any:
        raise AssertionError("asked for")


def test_a_blob_is_taken_from_its_finished_part(tmp_path: Path) -> None:
    """A kill came between the last byte and the name: nothing is asked of the registry."""
    tar = make_tar(LAYER)
    data = gzip.compress(tar)
    descriptor = Descriptor.of(OCI_LAYER_GZIP, data)
    store = Store.open(str(tmp_path / "s"))
    part = Path(store.paths.part(descriptor.digest))
    part.write_bytes(data)
    with store.session("test") as session:
        assert session.put_blob(descriptor, Silent(descriptor, data), diff_id=Digest.of(tar))
    assert Path(store.blobs.path(descriptor.digest)).read_bytes() == data
    assert not part.exists()
    part.write_bytes(data[:100])  # of a process that was late
    ingest = Ingest(store.paths, descriptor, None, max_layer=1 << 30, on_event=lambda _: None, cancel=None)
    assert not ingest.run(Silent(descriptor, data))
    assert not part.exists()


@pytest.mark.parametrize("had", [0, 5_000_001, 10 << 20])
def test_a_large_blob_and_its_tar_are_written_around_the_page_cache(tmp_path: Path, had: int) -> None:
    """Also from the middle of a part on, which ends at no block."""
    tar = make_tar([("big", os.urandom(11 << 20)), ("small", b"s")])
    data = gzip.compress(tar, 1)
    descriptor = Descriptor.of(OCI_LAYER_GZIP, data)
    store = Store.open(str(tmp_path / "s"))
    Path(store.paths.part(descriptor.digest)).write_bytes(data[:had])
    with store.session("test") as session:
        session.put_blob(descriptor, BytesBlob(descriptor, data), diff_id=Digest.of(tar))
    assert Path(store.blobs.path(descriptor.digest)).read_bytes() == data
    assert Path(store.paths.tar(Digest.of(tar))).read_bytes() == tar
    assert os.listdir(store.paths.ingest) == []


@pytest.mark.parametrize("boot", ["boot-1", ""])
def test_where_there_are_no_hard_links_the_tar_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    write_layout(tmp_path / "l", "app", [LAYER], compress=False)

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr("lamina.store.derived.boot_id", lambda: boot)
    calls = Calls(monkeypatch)
    store = loaded(tmp_path / "l", tmp_path / "s")
    (layer,) = store.stack("app", Platform.host()).layers
    tar = store.paths.tar(layer.diff_id)
    assert Path(tar).read_bytes() == Path(store.blobs.path(layer.descriptor.digest)).read_bytes()
    assert bool(calls.synced(os.stat(tar).st_ino)) == (not boot)
    assert derived.trust_level(tar) == (derived.IN_THIS_BOOT if boot else derived.ON_DISK)


def failing(_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def crashed(tar: str, *, damage: Callable[[str], None]) -> None:
    """The machine went down before the disk had the tar, and came up again."""
    note = Path(f"{tar}.written")
    note.write_text(note.read_text().replace(boot_id(), "another-boot"))
    state = os.stat(tar)
    os.chmod(tar, 0o600)
    damage(tar)
    os.utime(tar, ns=(state.st_mtime_ns, state.st_mtime_ns))


def zeroed(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(bytes(100_000))


def unharmed(_: str) -> None:
    """The disk had it all."""


def cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


@pytest.mark.parametrize("damage", [zeroed, cut, unharmed])
def test_after_a_crash_a_tar_is_compared_with_its_digest_before_it_is_used(
    layout: Path, tmp_path: Path, damage: Callable[[str], None]
) -> None:
    layer = loaded(layout, tmp_path / "s").stack("app", Platform.host()).layers[0]
    store = Store.open(str(tmp_path / "s"))
    tar = store.paths.tar(layer.diff_id)
    inode = os.stat(tar).st_ino
    crashed(tar, damage=damage)
    with store.stack("app", Platform.host()).layers[0].open() as stream:
        assert Digest.of(stream.read()) == layer.diff_id
    assert (os.stat(tar).st_ino == inode) == (damage is unharmed)  # what was whole is not made again
    assert derived.trust_level(tar) == (derived.ON_DISK if damage is unharmed else derived.IN_THIS_BOOT)


def test_a_tar_of_this_boot_is_not_hashed(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = loaded(layout, tmp_path / "s")
    monkeypatch.setattr("lamina.store.derived.hash_of", failing)
    with store.stack("app", Platform.host()).layers[0].open() as stream:
        assert stream.read(1)


def test_a_note_about_another_file_is_not_trusted(layout: Path, tmp_path: Path) -> None:
    store = loaded(layout, tmp_path / "s")
    tar = store.paths.tar(store.stack("app", Platform.host()).layers[0].diff_id)
    data = Path(tar).read_bytes()
    os.unlink(tar)
    Path(tar).write_bytes(data)
    assert derived.trust_level(tar) == derived.DOUBTFUL


def long_ago(path: str) -> None:
    note = Path(f"{path}.written")
    *words, _ = note.read_text().split()
    note.write_text(" ".join([*words, f"{time.monotonic() - 100:.0f}\n"]))


def test_a_later_command_notes_that_the_tar_is_on_the_disk(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = loaded(layout, tmp_path / "s").stack("app", Platform.host()).layers[0]
    tar = Store.open(str(tmp_path / "s")).paths.tar(layer.diff_id)
    synced: list[str] = []
    monkeypatch.setattr("lamina.store.derived.sync_file", synced.append)

    def read() -> None:
        with Store.open(str(tmp_path / "s")).stack("app", Platform.host()).layers[0].open():
            pass

    read()
    assert (synced, derived.trust_level(tar)) == ([], derived.IN_THIS_BOOT)
    long_ago(tar)
    read()
    read()
    assert (synced, derived.trust_level(tar)) == ([tar], derived.ON_DISK)


def test_a_tar_whose_later_sync_fails_is_removed_with_an_error(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = loaded(layout, tmp_path / "s").stack("app", Platform.host()).layers[0]
    store = Store.open(str(tmp_path / "s"))
    tar = store.paths.tar(layer.diff_id)
    long_ago(tar)
    monkeypatch.setattr("lamina.store.derived.sync_file", failing)
    with pytest.raises(SystemFailure, match=f"{layer.diff_id}.*it was removed") as raised:
        store.layers.open_tar(layer.descriptor, layer.diff_id)
    assert "is made again" in (raised.value.hint or "")
    assert not os.path.exists(tar)
    monkeypatch.undo()
    with store.layers.open_tar(layer.descriptor, layer.diff_id) as stream:
        assert Digest.of(stream.read()) == layer.diff_id


def test_without_a_boot_id_tars_are_synced_at_once(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.store.derived.boot_id", lambda: "")
    calls = Calls(monkeypatch)
    store = loaded(layout, tmp_path / "s")
    for diff_id in store.layers.diff_ids():
        named = calls.named(store.paths.tar(diff_id))
        assert min(calls.synced(calls.inode(named)), default=named) < named
        assert derived.trust_level(store.paths.tar(diff_id)) == derived.ON_DISK


def test_the_tar_of_an_uncompressed_layer_is_its_blob_and_lasts_with_it(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [LAYER], compress=False)
    store = loaded(tmp_path / "l", tmp_path / "s")
    (layer,) = store.stack("app", Platform.host()).layers
    assert derived.trust_level(store.paths.tar(layer.diff_id)) == derived.ON_DISK


class Cut(BytesBlob):
    """A blob whose source fails after ``good`` bytes."""

    def __init__(self, descriptor: Descriptor, data: bytes, error: Exception, origin: str) -> None:
        super().__init__(descriptor, data[: len(data) // 2])
        self.error = error
        self.origin = origin

    def open(self, start: int = 0, end: int | None = None) -> Any:
        stream = super().open(start, end)
        read = stream.read

        class Failing:
            def read(_, size: int = -1, /) -> bytes:  # noqa: N805
                data = read(size)
                if not data:
                    raise self.error
                return data

            def close(_) -> None:  # noqa: N805
                stream.close()

            def __enter__(it) -> Any:  # noqa: N805
                return it

            def __exit__(_, *__: object) -> None:  # noqa: N805
                stream.close()

        return Failing()


@pytest.mark.parametrize(
    ("error", "origin", "kept"),
    [
        (RuntimeError("stopped"), "registry.example/app", True),
        (RuntimeError("stopped"), "", False),  # reading a local source again costs nothing
        (InvalidContent("bad"), "registry.example/app", False),
        (SystemFailure("full"), "registry.example/app", False),
    ],
)
def test_a_part_file_is_kept_only_if_it_saves_a_download(
    tmp_path: Path, error: Exception, origin: str, kept: bool
) -> None:
    tar = make_tar(LAYER)
    data = gzip.compress(tar)
    descriptor = Descriptor.of(OCI_LAYER_GZIP, data)
    store = Store.open(str(tmp_path / "s"))
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(type(error)), store.session("test") as session:
        session.put_blob(descriptor, Cut(descriptor, data, error, origin), diff_id=Digest.of(tar))
    assert len(os.listdir("/proc/self/fd")) == opened
    left = [Path(store.paths.part(descriptor.digest)).name] if kept else []
    assert os.listdir(store.paths.ingest) == left
    with store.session("test") as session:
        session.put_blob(descriptor, BytesBlob(descriptor, data), diff_id=Digest.of(tar))
    assert store.blobs.has(descriptor)
    assert os.listdir(store.paths.ingest) == []


def test_a_part_file_that_became_a_blob_during_the_wait_for_its_lock_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is had, but the path names another file, or none: look again."""
    data = os.urandom(5000)
    descriptor = Descriptor("application/octet-stream", Digest.of(data), len(data))
    store = Store.open(str(tmp_path / "s"))
    part, taken = store.paths.part(descriptor.digest), []
    acquire = lock.acquire

    def slow(opened: int, path: str, *, wait: bool = True) -> bool:
        if path == part and not taken:
            taken.append(os.fstat(opened).st_ino)
            os.replace(part, tmp_path / "moved")  # its owner has renamed it
            Path(part).write_bytes(b"begun anew")
        return acquire(opened, path, wait=wait)

    monkeypatch.setattr("lamina.store.ingest.acquire", slow)
    opened = len(os.listdir("/proc/self/fd"))
    ingest = Ingest(store.paths, descriptor, None, max_layer=1 << 30, on_event=lambda _: None, cancel=None)
    assert ingest.run(BytesBlob(descriptor, data))
    assert len(taken) == 1
    assert (tmp_path / "moved").read_bytes() == b""
    assert len(os.listdir("/proc/self/fd")) == opened
    assert Path(store.blobs.path(descriptor.digest)).read_bytes() == data
