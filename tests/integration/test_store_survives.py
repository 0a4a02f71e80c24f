"""The store after kill -9, many processes, a full disk, lost derived data and damage."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import (
    BlobNotFound,
    Cancelled,
    Conflict,
    DigestMismatch,
    LaminaError,
    NotFound,
    SizeMismatch,
    SystemFailure,
    Unsupported,
)
from lamina.events import BlobStarted, Event
from lamina.host import lock
from lamina.host.files import failure
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.mediatype import OCI_LAYER_GZIP
from lamina.spec.platform import Platform
from lamina.store.blobs import DAMAGED
from lamina.store.direct_io import Appender
from lamina.store.fault import POINTS
from lamina.store.fsck import fsck
from lamina.store.gc import collect
from lamina.store.journal import note
from lamina.store.prune import prune
from lamina.store.session import StoreSession
from lamina.store.store import Store
from lamina.store.unfinished import Unfinished
from lamina.store.usage import usage
from lamina.transfer.copy import copy
from support import lamina, make_tar, require_root, write_layout

BASE = [("etc/", None), ("etc/conf", b"one\n" * 5000), ("bin/sh", b"#!", {"mode": 0o755})]
TOP = [("etc/conf", b"two\n"), ("new", b"new\n")]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "app", [BASE, TOP])
    write_layout(tmp_path / "layout", "app2", [BASE, [("other", b"o")]])
    write_layout(tmp_path / "layout", "app3", [BASE, [("third", b"t")]])
    return tmp_path / "layout"


def loaded(layout: Path, root: Path, *names: str) -> Store:
    store = Store.open(str(root))
    copy(LayoutReader(str(layout)), store, [(name, name) for name in names or ("app",)])
    return store


def errors(store: Store) -> list[str]:
    return [f.what for f in fsck(store) if f.severity != "leftover"]


SCRIPT = """
import sys
from lamina.archive.layout import LayoutReader
from lamina.store.store import Store
from lamina.store.prune import prune
from lamina.store.remove import remove_images
from lamina.transfer.copy import copy
store = Store.open(sys.argv[2])
copy(LayoutReader(sys.argv[1]), store, [("app", "app")])
copy(LayoutReader(sys.argv[1]), store, [("app2", "app2"), ("app3", "app3")])  # many: they wait for each other
store.find(digest="sha256:" + "0" * 64)  # which makes what stands beside the indexes
store.roots.pin("cache", "build cache", [store.resolve("app2").digest], lasts=3600)
remove_images(store, ["app2", "app3"])
store.roots.unpin("cache")
prune(store)
print("done")
"""


@pytest.mark.parametrize("point", POINTS)
def test_kill_at_each_point_leaves_a_store_that_works(layout: Path, tmp_path: Path, point: str) -> None:
    root = tmp_path / "store"

    def run(**environment: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", SCRIPT, str(layout), str(root)]
        return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)

    done = run(LAMINA_FAULT=point)
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
    store = Store.open(str(root), create=False)
    assert errors(store) == []
    done = run()
    assert done.stdout == b"done\n", done.stderr
    store = Store.open(str(root), create=False)
    assert errors(store) == []
    assert [name for name, _ in store.names()] == ["docker.io/library/app:latest"]
    tree = store.stack("app", Platform.host()).tree()
    assert tree.entry(tree.lookup(b"etc/conf")).size == 4
    content = hashlib.sha256(b"two\n").hexdigest()
    assert [one.entry.path for one in store.find(digest=f"sha256:{content}")] == [b"etc/conf"]
    prune(store, grace=0)
    assert list(store.roots) == []
    assert os.listdir(root / "ingest") == []
    assert len(list(store.blobs)) == 4


def test_eight_processes_lose_nothing_and_write_each_blob_once(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    Store.open(str(root))
    code = (
        "import sys, os\n"
        "from lamina.archive.layout import LayoutReader\n"
        "from lamina.store.store import Store\n"
        "from lamina.store import ingest\n"
        "from lamina.transfer.copy import copy\n"
        "keep = ingest.Ingest._move_into_place\n"
        "def counted(self, *a): print('wrote', self._descriptor.digest); keep(self, *a)\n"
        "ingest.Ingest._move_into_place = counted\n"
        "copy(LayoutReader(sys.argv[1]), Store.open(sys.argv[2]), [('app', 'app')])\n"
        "copy(LayoutReader(sys.argv[1]), Store.open(sys.argv[2]), [('app2', 'n' + sys.argv[3])])\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(layout), str(root), str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(8)
    ]
    results = [process.communicate() for process in running]
    assert all(process.returncode == 0 for process in running), results
    wrote = [line for out, _ in results for line in out.decode().splitlines()]
    assert len(wrote) == len(set(wrote)) == 5  # three layers, two configs
    store = Store.open(str(root))
    assert {name for name, _ in store.names()} == {
        "docker.io/library/app:latest",
        *(f"docker.io/library/n{n}:latest" for n in range(8)),
    }
    assert errors(store) == []


def test_gc_while_others_copy_loses_nothing(layout: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    stop = threading.Event()
    other = Store.open(str(tmp_path / "store"))

    def sweep() -> None:
        while not stop.is_set():
            collect(other)

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        for number in range(15):
            copy(LayoutReader(str(layout)), store, [("app", f"n{number}")])
            store.delete(store.resolve(f"n{number}"))
        copy(LayoutReader(str(layout)), store, [("app", "last")])
    finally:
        stop.set()
        thread.join()
    assert errors(store) == []


def test_all_derived_data_can_be_deleted(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = loaded(layout, root)
    shutil.rmtree(root / "layers")
    shutil.rmtree(root / "unions")
    (root / "layers").mkdir()
    stack = Store.open(str(root)).stack("app", Platform.host())
    tree = stack.tree()
    with stack.open_file(tree.lookup(b"etc/conf")) as stream:
        assert stream.read() == b"two\n"
    assert errors(store) == []


def test_df_adds_up_to_the_disk(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = loaded(layout, root, "app", "app2")
    note(store.paths.root, "image", "pull", "app", {})  # the journal has its first block
    used = usage(store)
    seen = {(f.stat().st_dev, f.stat().st_ino): f.stat().st_blocks * 512 for f in root.rglob("*") if f.is_file()}
    assert used.total == sum(seen.values())
    assert used.images == sum(i.unique for i in used.per_image) + used.per_image[0].shared
    before = used.total
    freed = next(i.unique for i in used.per_image if i.names == ("docker.io/library/app2:latest",))
    done = lamina("rmi", "app2", "--format", "json", root=root)
    assert json.loads(done.stdout)["freed"] == freed == before - usage(store).total


def test_fsck_finds_and_repairs(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = loaded(layout, root)
    stack = store.stack("app", Platform.host())
    tar = Path(store.paths.tar(stack.layers[0].diff_id))
    os.chmod(tar, 0o600)
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(bytes(data))
    assert [f.severity for f in fsck(store)] == ["derived"]
    assert [f.repaired for f in fsck(store, repair=True)] == [True]
    assert fsck(store) == []
    blob = Path(store.blobs.path(stack.layers[1].descriptor.digest))
    os.chmod(blob, 0o600)
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert lamina("fsck", root=root).returncode == 1
    assert any("damaged" in f.what for f in fsck(store, repair=True))
    copy(LayoutReader(str(layout)), store, [("app", "app")])
    assert errors(store) == []


def test_wrong_bytes_never_enter(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    top = LayoutReader(str(layout)).resolve("app")
    manifest = json.loads((layout / "blobs/sha256" / top.digest.encoded).read_bytes())
    blob = layout / "blobs/sha256" / manifest["layers"][1]["digest"].split(":")[1]
    good = blob.read_bytes()
    for bad, kind in (
        (good[:-1], SizeMismatch),
        (good + b"x", SizeMismatch),
        (good[:-1] + bytes([good[-1] ^ 1]), LaminaError),
    ):
        blob.write_bytes(bad)
        store = Store.open(str(root))
        with pytest.raises(kind):
            copy(LayoutReader(str(layout)), store, [("app", "app")])
        assert list(store.names()) == []
        assert os.listdir(root / "ingest") == []
        assert Digest("sha256", blob.name) not in set(store.blobs)
        assert errors(store) == []
    blob.unlink()
    with pytest.raises(BlobNotFound):
        copy(LayoutReader(str(layout)), store, [("app", "app")])


def test_wrong_diff_id_never_enters(tmp_path: Path) -> None:
    wrong = {"rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b"wrong"))]}}
    write_layout(tmp_path / "l", "app", [BASE], config=wrong)
    store = Store.open(str(tmp_path / "s"))
    with pytest.raises(LaminaError, match="the config states"):
        copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app")])
    assert list(store.names()) == []
    assert not (tmp_path / "s/layers/sha256").exists()


def test_full_disk_is_one_clear_line_and_changes_nothing(tmp_path: Path) -> None:
    require_root()
    write_layout(tmp_path / "l", "big", [[("big", os.urandom(9 << 20))]])
    write_layout(tmp_path / "l", "small", [[("small", b"s")]])
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], check=True)
    try:
        assert lamina("copy", f"oci:{tmp_path}/l:small", "small", root=small / "s").returncode == 0
        done = lamina("copy", "-q", f"oci:{tmp_path}/l:big", "big", root=small / "s")
        assert done.returncode == 6
        assert len(done.stderr.splitlines()) == 1
        assert b"the disk is full" in done.stderr
        assert lamina("images", "--format", "{{.Repository}}", root=small / "s").stdout == b"small\n"
        assert lamina("fsck", root=small / "s").returncode == 0
        assert os.listdir(small / "s/ingest") == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_on_a_full_disk_part_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumable file is removed too, because it fills the disk."""
    data = os.urandom(5 << 20)
    blob = BytesBlob(Descriptor("application/octet-stream", Digest.of(data), len(data)), data)
    blob.origin = "registry.example/app"
    store = Store.open(str(tmp_path / "s"))
    written: list[int] = []

    def full(descriptor: int, piece: bytes) -> None:
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(os.write(descriptor, piece))

    monkeypatch.setattr("lamina.store.direct_io.write_all", full)
    with store.session("test") as session, pytest.raises(SystemFailure, match="the disk is full"):
        session.put_blob(blob.descriptor, blob)
    assert sum(written) > 0
    assert os.listdir(store.paths.ingest) == []


class Halted(io.BytesIO):
    """A source that is interrupted in the middle."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 1 << 20:
            raise Cancelled("stop")
        return super().read(1 << 20)


class HaltedBlob(BytesBlob):
    origin = "registry.example/app"

    def __init__(self, data: bytes) -> None:
        super().__init__(Descriptor("application/octet-stream", Digest.of(data), len(data)), data)

    def open(self, start: int = 0, end: int | None = None) -> Halted:
        return Halted(self._data)


def test_on_a_full_disk_part_files_of_the_session_are_removed_unless_locked(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    blobs = [HaltedBlob(bytes([number]) * (3 << 20)) for number in (1, 2)]
    parts = [Path(store.paths.part(blob.descriptor.digest)) for blob in blobs]

    def fails(error: LaminaError) -> None:
        with pytest.raises(type(error)), store.session("test") as session:
            for blob in blobs:
                with pytest.raises(Cancelled):
                    session.put_blob(blob.descriptor, blob)
            raise error

    fails(Cancelled("for another reason"))
    assert [part.stat().st_size for part in parts] == [1 << 20, 1 << 20]
    full = failure(OSError(errno.ENOSPC, "full"))
    with open(parts[0], "rb") as other:
        assert lock.acquire(other.fileno(), str(parts[0]))
        unfinished = Unfinished()
        unfinished.parts.update(map(str, parts))
        unfinished.drop(parts=True)
        assert [part.exists() for part in parts] == [True, False]
    fails(full)
    assert os.listdir(store.paths.ingest) == []


def test_a_part_file_that_another_process_has_begun_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"ours")

    def slow(descriptor: int, kind: int, *, wait: bool) -> bool:
        part.unlink()  # it became a blob
        part.write_bytes(b"theirs")
        return flock(descriptor, kind, wait=wait)

    flock = lock._flock
    monkeypatch.setattr(lock, "_flock", slow)
    unfinished = Unfinished()
    unfinished.parts.add(str(part))
    unfinished.drop(parts=True)
    assert part.read_bytes() == b"theirs"


def test_a_tar_that_a_thread_still_syncs_is_removed_after_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`each` waits for its threads, but not for ever."""
    store = Store.open(str(tmp_path / "s"))
    tar = make_tar([("file", b"x" * 5000)])
    descriptor = Descriptor.of(OCI_LAYER_GZIP, gzip.compress(tar))
    syncing, interrupted = threading.Event(), threading.Event()
    finish = Appender.finish

    def slow(self: Appender) -> None:
        if self._hasher is not None:  # the tar's
            syncing.set()
            interrupted.wait(20)
        finish(self)

    def write(session: StoreSession) -> None:
        with suppress(SystemFailure):  # its file is gone
            session.put_blob(descriptor, BytesBlob(descriptor, gzip.compress(tar)), diff_id=Digest.of(tar))

    monkeypatch.setattr("lamina.store.direct_io.Appender.finish", slow)
    with pytest.raises(KeyboardInterrupt), store.session("test") as session:
        thread = threading.Thread(target=write, args=(session,))
        thread.start()
        assert syncing.wait(20)
        assert any(".tar." in name for name in os.listdir(store.paths.ingest))
        raise KeyboardInterrupt
    assert not any(".tar." in name for name in os.listdir(store.paths.ingest))
    interrupted.set()
    thread.join()
    assert errors(store) == []
    monkeypatch.undo()
    with store.session("again") as session:
        write(session)
    assert store.layers.has_tar(Digest.of(tar))
    assert errors(store) == []


@pytest.mark.parametrize("older", ["1", "2"])
def test_a_store_of_an_older_format_gets_the_newest_which_older_versions_refuse(tmp_path: Path, older: str) -> None:
    """An older lamina believes a tar without a note, and does not read the log of names."""
    Store.open(str(tmp_path / "s"))
    newest = (tmp_path / "s/format").read_text()
    (tmp_path / "s/format").write_text(f"{older}\n")
    Store.open(str(tmp_path / "s"), create=False)
    assert (tmp_path / "s/format").read_text() == newest > f"{older}\n"


def test_a_directory_that_is_not_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no store"):
        Store.open(str(tmp_path / "none"), create=False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("meow")
    with pytest.raises(LaminaError, match=r"cat\.jpg"):
        Store.open(str(tmp_path / "photos"))
    Store.open(str(tmp_path / "s"))
    (tmp_path / "s/format").write_text("99\n")
    with pytest.raises(Unsupported, match="format 99"):
        Store.open(str(tmp_path / "s"))


def test_an_image_whose_name_moves_stays_untagged(layout: Path, tmp_path: Path) -> None:
    store = loaded(layout, tmp_path / "s", "app", "app2")
    first, second = store.resolve("app"), store.resolve("app2")
    store.tag("app", second)
    assert store.resolve("app").digest == second.digest
    assert [d.digest for n, d in store.names() if not n] == [first.digest]
    assert store.resolve(first.digest.short).digest == first.digest
    assert store.resolve(str(first.digest)).digest == first.digest
    from lamina.store.remove import remove_images

    with pytest.raises(Conflict, match="several names"):
        remove_images(store, [second.digest.short])
    prune(store, grace=0)
    with pytest.raises(NotFound):
        store.resolve(first.digest.short)


def test_started_events_come_once_a_blob_that_moves(layout: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    store = Store.open(str(tmp_path / "s"))
    copy(LayoutReader(str(layout)), store, [("app", "app"), ("app2", "app2")], on_event=seen.append)
    started = [e.digest for e in seen if isinstance(e, BlobStarted)]
    assert len(started) == len(set(started)) == 5


def test_digest_mismatch_names_the_blob(layout: Path, tmp_path: Path) -> None:
    top = LayoutReader(str(layout)).resolve("app")
    path = layout / "blobs/sha256" / top.digest.encoded
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(DigestMismatch, match=top.digest.encoded):
        copy(LayoutReader(str(layout)), Store.open(str(tmp_path / "s")), [("app", "app")])


def test_layer_bytes_stay_as_they_were(layout: Path, tmp_path: Path) -> None:
    store = loaded(layout, tmp_path / "s")
    for layer in store.stack("app", Platform.host()).layers:
        with layer.open() as stream:
            assert Digest.of(stream.read()) == layer.diff_id
    assert make_tar(BASE) == store.stack("app", Platform.host()).layers[0].open().read()


def test_a_damaged_manifest_is_never_deleted_as_garbage(layout: Path, tmp_path: Path) -> None:
    """One flipped byte in a named image's manifest must not make prune delete its layers, nor hide other images."""
    root = tmp_path / "s"
    store = loaded(layout, root, "app", "app2")
    path = Path(store.blobs.path(store.resolve("app").digest))
    os.chmod(path, 0o600)
    path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"schemaVersioN"))
    before = set(store.blobs)
    done = lamina("prune", root=root)
    assert done.returncode == 6
    assert b"nothing was deleted" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert set(store.blobs) == before
    assert lamina("images", "--format", "{{.Repository}}", root=root).stdout.split() == [b"app2", b"app"]
    assert lamina("df", root=root).returncode == 0
    copy(LayoutReader(str(layout)), store, [("app2", "again")])
    assert lamina("fsck", root=root).returncode == 1


def test_blobs_that_fsck_moved_aside_are_kept_by_prune(layout: Path, tmp_path: Path) -> None:
    store = loaded(layout, tmp_path / "s")
    blob = Path(store.blobs.path(store.stack("app", Platform.host()).layers[0].descriptor.digest))
    os.chmod(blob, 0o600)
    blob.write_bytes(b"damaged")
    fsck(store, repair=True)
    prune(store, grace=0)
    assert (tmp_path / "s/ingest/lost+found" / blob.name).read_bytes() == b"damaged"


def test_a_range_numbers_its_layers_as_the_whole_image_does(layout: Path, tmp_path: Path) -> None:
    loaded(layout, tmp_path / "s")
    row = json.loads(lamina("ls", "app~2:2", "--format", "json", root=tmp_path / "s").stdout)[1]
    assert (row["path"], row["layer"]) == ("/new", 2)
    assert "new  [2]" in lamina("tree", "app~2:2", root=tmp_path / "s").stdout.decode()


@pytest.mark.parametrize("keep", ["blob+tar", "blob"])
@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_following_the_hint_for_a_damaged_object_repairs_the_store(tmp_path: Path, which: str, keep: str) -> None:
    """That it is to be fetched again would lead in a circle: a pull finds it "already here"."""
    root, layout = tmp_path / "s", str(tmp_path / "l")
    content = random.Random(1).randbytes(200_000)
    manifest = write_layout(layout, "app", [[("a", content)]])
    assert lamina("load", "-i", layout, root=root, LAMINA_KEEP=keep).returncode == 0
    document = json.loads((root / "blobs/sha256" / manifest.digest.encoded).read_bytes())
    digest = {
        "manifest": str(manifest.digest),
        "config": document["config"]["digest"],
        "layer": document["layers"][0]["digest"],
    }[which]
    blob = root / "blobs" / digest.replace(":", "/")
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    for tar in root.glob("layers/*/*/tar"):
        tar.unlink()
    for words in (("cat", "app", "/a"), ("save", "app", "-q", "-o", str(tmp_path / "o.tar"))):
        done = lamina(*words, root=root)
        assert (done.returncode, done.stdout) == (4, b""), done.stderr
        (line,) = done.stderr.decode().splitlines()
        assert digest.partition(":")[2] in line
        assert line.endswith(f"({DAMAGED})")
    assert lamina("fsck", "--repair", root=root).returncode in (0, 1)
    assert lamina("load", "-i", layout, root=root, LAMINA_KEEP=keep).returncode == 0
    assert lamina("cat", "app", "/a", root=root).stdout == content
    assert lamina("fsck", root=root).returncode == 0
