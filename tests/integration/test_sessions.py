"""Several sessions of one store at once, in one process: none waits for another, and none sees what another has not
finished."""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import BlobNotFound, LaminaError
from lamina.source.protocols import Session, Writer
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.mediatype import OCI_LAYER_GZIP
from lamina.spec.platform import Platform
from lamina.store import batch
from lamina.store.fsck import fsck
from lamina.store.gc import collect
from lamina.store.prune import prune
from lamina.store.store import Store
from lamina.transfer.copy import SessionWriter, copy
from support import make_tar, write_layout

LAYERS = [[("etc", None), ("etc/conf", b"one")], [("usr", None), ("usr/file", b"two" * 1000)]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def blob(data: bytes) -> tuple[Descriptor, BytesBlob]:
    descriptor = Descriptor.of("application/octet-stream", data)
    return descriptor, BytesBlob(descriptor, data)


def test_each_session_protects_its_own_until_it_ends(store: Store) -> None:
    one, two = blob(b"one"), blob(b"two")
    with store.session("build") as first:
        with store.session("pull") as second:
            first.put_blob(*one)
            second.put_blob(*two)
            assert sorted(root.purpose for root in store.roots if root.alive) == ["build", "pull"]
            prune(store, all=True)
            assert store.blobs.has(one[0])
            assert store.blobs.has(two[0])
        prune(store, all=True)
        assert store.blobs.has(one[0])
        assert not store.blobs.has(two[0])
    prune(store, all=True)
    assert not store.blobs.has(one[0])


def test_a_session_that_has_ended_writes_nothing(store: Store) -> None:
    with store.session("test") as session:
        pass
    with pytest.raises(RuntimeError, match="has ended"):
        session.put_blob(*blob(b"late"))
    assert list(store.blobs) == []


def test_waiting_blobs_of_one_session_are_invisible_to_another(store: Store) -> None:
    descriptor, data = blob(b"waits")
    with store.session("one") as one, store.session("two") as two:
        with one.batch():
            one.put_blob(descriptor, data)
            assert one.has(descriptor)
            assert not two.has(descriptor)
            with pytest.raises(BlobNotFound):
                two.reader.blob(descriptor).open()
        assert two.has(descriptor)


def test_all_batches_together_have_no_more_open_files_than_one_may_have(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST", 6)
    with ExitStack() as stack:
        sessions = [stack.enter_context(store.session(f"number {number}")) for number in range(3)]
        for session in sessions:
            stack.enter_context(session.batch())
        for turn in range(5):
            for number, session in enumerate(sessions):
                session.put_blob(*blob(b"%d of %d" % (turn, number)))
                waiting = [path for path in Path(store.paths.ingest).rglob("*") if path.is_file()]
                assert len(waiting) <= 6
    assert len(list(store.blobs)) == 15


def test_an_error_in_one_session_leaves_the_other_alone(store: Store) -> None:
    descriptor, data = blob(b"good")
    other = Descriptor.of("application/octet-stream", b"other")
    with store.session("good") as good:
        with pytest.raises(LaminaError), store.session("bad") as bad, bad.batch():
            bad.put_blob(other, BytesBlob(other, b"wrong"))
        good.put_blob(descriptor, data)
    assert store.blobs.read(descriptor) == b"good"


def test_two_sessions_fetch_the_same_layer_once(store: Store) -> None:
    tar = make_tar([("file", b"x" * 100_000)])
    data = gzip.compress(tar)
    descriptor, diff_id = Descriptor.of(OCI_LAYER_GZIP, data), Digest.of(tar)
    both = threading.Barrier(2, timeout=20)

    def put(purpose: str) -> bool:
        with store.session(purpose) as session:
            both.wait()
            new = session.put_blob(descriptor, BytesBlob(descriptor, data), diff_id=diff_id)
            both.wait()
            return new

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(put, ("one", "two"))) == [False, True]
    assert store.blobs.read(descriptor) == data
    assert Path(store.paths.tar(diff_id)).read_bytes() == tar


def test_copies_at_once_into_one_store(tmp_path: Path, store: Store) -> None:
    names = [f"app{number}" for number in range(6)]
    for number, name in enumerate(names):
        write_layout(tmp_path / "l", name, [*LAYERS, [("own", b"%d" % number)]])
    reader = LayoutReader(str(tmp_path / "l"))
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: copy(reader, store, [(name, name)]), names))
    assert {name.rpartition("/")[2] for name, _ in store.names()} == {f"{name}:latest" for name in names}
    assert fsck(store) == []
    for number, name in enumerate(names):
        tree = store.stack(name, Platform.host())
        with tree.open_file(tree.tree().lookup(b"own")) as stream:
            assert stream.read() == b"%d" % number
    assert list(store.roots) == []


def test_gc_deletes_nothing_of_open_sessions_of_the_same_process(tmp_path: Path, store: Store) -> None:
    names = [f"app{number}" for number in range(4)]
    for number, name in enumerate(names):
        write_layout(tmp_path / "l", name, [*LAYERS, [("own", b"%d" % number)]])
    reader = LayoutReader(str(tmp_path / "l"))
    over = threading.Event()

    def collects() -> None:
        while not over.is_set():
            collect(store, grace=0)

    def works(name: str) -> None:
        for turn in range(5):
            copy(reader, store, [(name, f"{name}:{turn}")])
            store.delete(store.resolve(f"{name}:{turn}"))
        copy(reader, store, [(name, name)])

    with ThreadPoolExecutor(len(names) + 1) as pool:
        collecting = pool.submit(collects)
        try:
            list(pool.map(works, names))
        finally:
            over.set()
        collecting.result()
    assert {name.rpartition("/")[2] for name, _ in store.names()} == {f"{name}:latest" for name in names}
    assert fsck(store) == []


def test_copies_into_a_session_are_kept_by_it(tmp_path: Path, store: Store) -> None:
    write_layout(tmp_path / "l", "app", LAYERS)
    reader = LayoutReader(str(tmp_path / "l"))
    with store.session("build") as session:
        writer: Writer = SessionWriter(session)
        copy(reader, writer, [("app", "")])
        store.delete(reader.resolve("app"))
        prune(store, all=True)
        again: Session = session
        again.tag("app", reader.resolve("app"))
    assert fsck(store) == []
