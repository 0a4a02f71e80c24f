"""A layer is here, elsewhere, or nowhere; the index of a layer elsewhere may come from another source."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import BlobNotFound, StoreDamaged
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.source.presence import ABSENT, HERE, Presence, elsewhere
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.store.layers import StoredLayer
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.transfer.open_stack import open_stack
from support import index_of, make_tar, write_layout
from unruly import Unruly

LAYER = [("etc", None), ("etc/conf", b"one")]
ORIGIN = "registry.example/app"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_layout(tmp_path / "l", "app", [LAYER])
    store = Store.open(str(tmp_path / "s"))
    copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app")])
    return store


def layer_of(store: Store) -> StoredLayer:
    (layer,) = store.stack("app", Platform.host()).layers
    assert isinstance(layer, StoredLayer)
    return layer


def lose(store: Store, layer: StoredLayer) -> None:
    """Blob and all that was derived from it go."""
    store.blobs.delete(layer.descriptor.digest)
    for path in (store.paths.tar(layer.diff_id), store.paths.layer_index(layer.diff_id)):
        os.unlink(path)


def test_only_presence_here_is_true() -> None:
    assert HERE
    assert not ABSENT
    assert not elsewhere(ORIGIN)
    assert elsewhere("") == ABSENT
    assert elsewhere(ORIGIN) == Presence(False, ORIGIN)


def test_a_layer_of_the_store_is_here_elsewhere_or_nowhere(store: Store) -> None:
    layer = layer_of(store)
    assert layer.presence() == HERE
    with store.session("test") as session:
        assert session.has(layer.descriptor, layer.diff_id) == HERE
        os.unlink(store.blobs.path(layer.descriptor.digest))
        assert layer.presence() == HERE  # its tar is
        assert session.has(layer.descriptor, layer.diff_id) == ABSENT  # its blob is not
        store.layers.note_origin(layer.descriptor, layer.diff_id, ORIGIN)
        assert session.has(layer.descriptor, layer.diff_id) == elsewhere(ORIGIN)
        os.unlink(store.paths.tar(layer.diff_id))
        assert layer.presence() == elsewhere(ORIGIN)
        os.unlink(store.paths.origins(layer.diff_id))
        assert layer.presence() == ABSENT


def test_a_layer_of_a_registry_is_elsewhere_until_it_was_read(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [LAYER])
    with Unruly(tmp_path / "l", "app") as server:
        repository = Repository(server.image, Access(first_wait=0.001), Registries())
        (layer,) = open_stack(repository, server.image, Platform.host(), "app").layers
        assert layer.presence() == elsewhere(repository.repository)
        layer.index()
        assert layer.presence() == HERE
    (layer,) = open_stack(LayoutReader(str(tmp_path / "l")), "app", Platform.host(), "app").layers
    assert layer.presence() == HERE


def test_the_index_of_a_layer_that_is_elsewhere_may_come_from_elsewhere(store: Store) -> None:
    layer = layer_of(store)
    asked: list[Digest] = []
    data = bytes(index_of(make_tar(LAYER)).buffer)

    def source(descriptor: Descriptor, diff_id: Digest) -> bytes | None:
        asked.append(diff_id)
        return data

    store.layers.index_source = source
    os.unlink(store.paths.layer_index(layer.diff_id))
    assert len(layer_of(store).index()) == 2
    assert asked == []  # it is here: its own tar says what is in it
    lose(store, layer)
    with pytest.raises(BlobNotFound):
        layer_of(store).index()  # nobody is known to have it
    assert asked == []
    store.layers.note_origin(layer.descriptor, layer.diff_id, ORIGIN)
    stack = store.stack("app", Platform.host())
    assert stack.tree().entry(stack.tree().lookup(b"etc/conf")).size == 3
    assert asked == [layer.diff_id]
    assert len(layer_of(store).index()) == 2
    assert asked == [layer.diff_id]  # it is kept
    with pytest.raises(BlobNotFound):
        stack.layers[0].open()


def test_what_is_not_an_index_is_refused(store: Store) -> None:
    layer = layer_of(store)
    lose(store, layer)
    store.layers.note_origin(layer.descriptor, layer.diff_id, ORIGIN)
    store.layers.index_source = lambda descriptor, diff_id: gzip.compress(b"something else")
    with pytest.raises(StoreDamaged, match="does not come from the layer"):
        layer_of(store).index()
    assert not os.path.exists(store.paths.layer_index(layer.diff_id))
