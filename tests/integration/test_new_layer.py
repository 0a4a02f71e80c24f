"""A layer that is made in one pass is what a layer of the same bytes would be that came from elsewhere."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import Cancelled, InvalidLayer
from lamina.events import Cancel
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item, write_layer
from lamina.source.verify import BytesBlob
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.store.fsck import fsck
from lamina.store.store import Store

Write = Callable[[bytes], object]


def items(count: int, size: int) -> list[Item]:
    numbers = random.Random(count)
    contents = [numbers.randbytes(size // 2) + b"x" * (size - size // 2) for _ in range(count)]
    files = [(Entry(b"d/%d" % n, Kind.FILE, size=size, mtime=n), data) for n, data in enumerate(contents)]
    return [(Entry(b"d", Kind.DIRECTORY, 0o755), None), *files]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def derived(store: Store, name: str) -> dict[str, bytes]:
    """The tars or indexes of all layers, by diff_id."""
    return {str(one): Path(store.layers.path(one), name).read_bytes() for one in store.layers.diff_ids()}


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize(("count", "size"), [(0, 0), (3, 100), (40, 100_000)])
def test_a_new_layer_is_as_one_that_was_verified(
    store: Store, tmp_path: Path, compression: str, count: int, size: int
) -> None:
    with store.session("build") as session:
        built = session.make_layer(lambda write: write_layer(items(count, size), write), compression=compression)
        assert built is not None
        assert session.has(built.descriptor, built.diff_id)
    raw = Path(store.blobs.path(built.descriptor.digest)).read_bytes()
    other = Store.open(str(tmp_path / "other"))
    with other.session("pull") as session:
        session.put_blob(built.descriptor, BytesBlob(built.descriptor, raw), diff_id=built.diff_id)
    for name in ("index", "tar"):
        assert derived(store, name) == derived(other, name)
    assert os.listdir(store.paths.ingest) == []
    assert fsck(store) == []


def test_the_same_tar_gives_the_same_layer_however_it_is_cut(store: Store) -> None:
    pieces: list[bytes] = []
    write_layer(items(20, 90_000), pieces.append)
    whole = b"".join(pieces)

    def in_small_pieces(write: Write) -> None:
        for at in range(0, len(whole), 777):
            write(whole[at : at + 777])

    with store.session("build") as session:
        one = session.make_layer(in_small_pieces, compression="gzip")
        two = session.make_layer(lambda write: write(whole), compression="gzip")
    assert one == two


def test_a_layer_that_is_there_is_not_written_again(store: Store) -> None:
    with store.session("build") as session:
        built = session.make_layer(lambda write: write_layer(items(2, 10), write), compression="gzip")
        assert built is not None
        before = os.stat(store.blobs.path(built.descriptor.digest)).st_ino
        session.make_layer(lambda write: write_layer(items(2, 10), write), compression="gzip")
    assert os.stat(store.blobs.path(built.descriptor.digest)).st_ino == before
    assert os.listdir(store.paths.ingest) == []


def test_after_an_error_nothing_is_left(store: Store) -> None:
    def fail(write: Write) -> None:
        write(b"\0" * (3 << 20))
        raise ZeroDivisionError

    with store.session("build") as session, pytest.raises(ZeroDivisionError):
        session.make_layer(fail, compression="gzip")
    assert os.listdir(store.paths.ingest) == []
    assert list(store.blobs) == []


@pytest.mark.parametrize("size", [5000, 3 << 20])
def test_a_file_that_is_not_a_tar_is_refused(store: Store, size: int) -> None:
    with store.session("build") as session, pytest.raises(InvalidLayer):
        session.make_layer(lambda write: write(b"x" * size), compression="gzip")
    assert list(store.blobs) == []
    assert os.listdir(store.paths.ingest) == []


def test_a_cancelled_layer_is_given_up(store: Store) -> None:
    cancel = Cancel()
    cancel.set()
    with store.session("build") as session, pytest.raises(Cancelled):
        session.make_layer(lambda write: write(bytes(2 << 20)), compression="gzip", cancel=cancel)
    assert os.listdir(store.paths.ingest) == []


def test_a_store_that_keeps_no_tars_makes_no_layer_this_way(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), keep="blob")
    with store.session("build") as session:
        assert session.make_layer(lambda write: pytest.fail("called"), compression="gzip") is None


def test_the_name_of_a_new_layer_is_on_the_disk_before_a_manifest_names_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr("lamina.store.session.sync_directory", synced.append)
    with store.session("build") as session:
        built = session.make_layer(lambda write: write_layer(items(1, 10), write), compression="gzip")
        assert built is not None
        assert synced == []
        config = ImageConfig.build(Platform.host(), diff_ids=[built.diff_id])
        session.put_blob(config.descriptor, BytesBlob(config.descriptor, config.raw))
        manifest = build_manifest(config.descriptor, [built.descriptor])
        for _ in range(2):
            session.put_manifest(manifest.descriptor, manifest.raw)
            assert synced == [os.path.dirname(store.blobs.path(built.descriptor.digest))]
