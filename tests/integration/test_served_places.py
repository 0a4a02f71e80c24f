"""A registry server over a place that is not a directory, through the protocols."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import BlobNotFound, Conflict, LaminaError, NotFound, ReferenceNotFound, UsageError
from lamina.events import Cancel, OnEvent, ignore
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.serve.http_message import Asker, Request, Response
from lamina.serve.server import RegistryServer
from lamina.source.accepts import Accepts
from lamina.source.protocols import Blob, Reader
from lamina.source.served import Served
from lamina.source.verify import BytesBlob, verified
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.leftovers import SERVING
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import write_layout

LAYERS = [[("etc", None), ("etc/conf", b"one")], [("usr", None), ("usr/file", b"two" * 1000)]]


class Objects:
    """A ``Served`` place of objects in memory: what one on an object store has to do."""

    location = "objects"
    accepts = Accepts()

    def __init__(self) -> None:
        self.objects: dict[Digest, bytes] = {}
        self.pointers: dict[str, Descriptor] = {}
        self.parts: dict[str, bytearray] = {}
        self.protected: set[Digest] = set()
        self.blobs = self.tags = self.uploads = self

    reader: Reader | None = None

    @contextmanager
    def session(self, purpose: str) -> Iterator[Objects]:
        yield self

    def resolve(self, name: str) -> Descriptor:
        if name not in self.pointers:
            raise ReferenceNotFound(name)
        return self.pointers[name]

    def manifest(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest not in self.objects:
            raise BlobNotFound(str(descriptor.digest))
        return self.objects[descriptor.digest]

    def blob(self, descriptor: Descriptor) -> Blob:
        return self.get(descriptor)

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        yield from list(self.pointers.items())

    def get(self, descriptor: Descriptor) -> Blob:
        return BytesBlob(descriptor, self.manifest(descriptor))

    def delete(self, digest: Digest) -> bool:
        return self.objects.pop(digest, None) is not None

    def __iter__(self) -> Iterator[Digest]:
        return iter(self.objects)

    def swap(self, name: str, old: Digest | None, new: Descriptor | None) -> bool:
        if (self.pointers[name].digest if name in self.pointers else None) != old:
            return False
        if new is None:
            del self.pointers[name]
        else:
            self.pointers[name] = new
        return True

    def forget(self, names: list[str], digest: Digest) -> None:
        for name in names:
            self.pointers.pop(name, None)

    def create(self) -> str:
        ident = f"{len(self.parts):032x}"
        self.parts[ident] = bytearray()
        return ident

    def size(self, of: Digest | str) -> int | None:  # of an upload, or of a blob
        if isinstance(of, Digest):
            return len(self.objects[of]) if of in self.objects else None
        if of not in self.parts:
            raise NotFound(f"no upload {of}")
        return len(self.parts[of])

    def append(self, ident: str, pieces: Iterable[bytes]) -> int:
        for piece in pieces:
            self.parts[ident] += piece
        return len(self.parts[ident])

    @contextmanager
    def held(self, ident: str) -> Iterator[None]:
        yield

    def cancel(self, ident: str) -> None:
        del self.parts[ident]

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> bool:
        self.protected.add(descriptor.digest)
        return descriptor.digest in self.objects

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        self.objects[descriptor.digest] = b"".join(verified(blob))
        return True

    def put_upload(self, descriptor: Descriptor, ident: str) -> bool:
        return self.put_blob(descriptor, BytesBlob(descriptor, bytes(self.parts.pop(ident))))

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        self.objects[descriptor.digest] = raw

    def tag(self, name: str, descriptor: Descriptor) -> None:
        self.pointers[name] = descriptor

    def protect_only(self, digests: Iterable[Digest]) -> None:
        self.protected = set(digests)


def repository(server: RegistryServer) -> Repository:
    return Repository(f"{server.name}/app", Access(first_wait=0.001), Registries())


def test_a_place_in_memory_can_be_pushed_to_and_pulled_from(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", LAYERS)
    place = Objects()
    with RegistryServer(place, writable=True) as server:  # type: ignore[arg-type]
        name = f"{server.name}/app:1"
        copy(LayoutReader(str(tmp_path / "l")), repository(server), [("app", name)])
        assert place.parts == {}
        assert place.protected == set()  # all of it has a name
        assert all(hashlib.sha256(data).hexdigest() == digest.encoded for digest, data in place.objects.items())
        store = Store.open(str(tmp_path / "s"))
        copy(repository(server), store, [(name, "again")])
        assert store.resolve("again").digest == LayoutReader(str(tmp_path / "l")).resolve("app").digest
        repository(server).untag(name)
    assert place.pointers == {}


def test_uploads_are_kept_for_a_server_that_runs(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    with RegistryServer(store, writable=True):
        assert [root.purpose for root in store.roots] == [SERVING]  # what prune looks for
    assert list(store.roots) == []


def test_a_read_only_place_refuses_pushes(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", LAYERS)
    with pytest.raises(UsageError, match="can't be written to"):
        RegistryServer(LayoutReader(str(tmp_path / "l")), writable=True)


def test_a_request_has_the_address_of_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_layout(tmp_path / "l", "app", LAYERS)
    askers: list[Asker] = []
    with RegistryServer(LayoutReader(str(tmp_path / "l"))) as server:
        before = server.api.answer

        def answer(request: Request) -> Response:
            askers.append(request.asker)
            return before(request)

        monkeypatch.setattr(server.api, "answer", answer)
        with pytest.raises(ReferenceNotFound):
            repository(server).resolve(f"{server.name}/app:nothing")
    assert set(askers) == {Asker("127.0.0.1", "")}


@pytest.fixture
def place(tmp_path: Path) -> Served:
    write_layout(tmp_path / "l", "app", LAYERS)
    write_layout(tmp_path / "l", "other", [[("x", b"y")]])
    store = Store.open(str(tmp_path / "s"))
    copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app"), ("other", "other")])
    return store


APP, NEW = "docker.io/library/app:latest", "docker.io/library/new:latest"


def test_a_tag_is_swapped_only_where_it_points_to_what_was_expected(place: Served) -> None:
    app, other = place.resolve("app"), place.resolve("other")
    assert not place.tags.swap(NEW, app.digest, other)
    assert place.tags.swap(NEW, None, other)
    assert not place.tags.swap(NEW, None, app)
    assert place.resolve(NEW).digest == other.digest
    assert not place.tags.swap(APP, other.digest, None)
    assert place.tags.swap(APP, app.digest, other)
    assert [(name, entry.digest) for name, entry in place.names() if entry.digest == app.digest] == [("", app.digest)]
    assert place.tags.swap(NEW, other.digest, None)
    with pytest.raises(ReferenceNotFound):
        place.resolve(NEW)
    nowhere = Descriptor(app.media_type, Digest.of(b"nowhere"), 7)
    with pytest.raises(BlobNotFound):
        place.tags.swap(NEW, None, nowhere)


def test_forget_removes_only_the_given_names_of_a_document(place: Served) -> None:
    app = place.resolve("app")
    place.tags.swap(NEW, None, app)
    place.tags.forget([APP], app.digest)
    assert place.resolve(NEW).digest == app.digest
    place.tags.forget([NEW], app.digest)
    assert app.digest not in {entry.digest for _, entry in place.names()}


def test_blobs_are_listed_read_in_ranges_and_deleted(place: Served) -> None:
    app = place.resolve("app")
    assert app.digest in set(place.blobs)
    with place.blobs.get(app).open(2, 9) as stream:
        assert stream.read() == place.manifest(app)[2:9]
    assert place.blobs.size(app.digest) == app.size
    assert place.blobs.delete(app.digest)
    assert not place.blobs.delete(app.digest)
    assert place.blobs.size(app.digest) is None


def test_a_finished_upload_becomes_a_blob_or_is_removed(place: Served) -> None:
    uploads, data = place.uploads, b"some bytes"
    with place.session("serve") as session:
        ident = uploads.create()
        with uploads.held(ident):
            assert uploads.append(ident, [data[:4], data[4:]]) == len(data)
            with pytest.raises(Conflict), uploads.held(ident):
                pass
        descriptor = Descriptor.of("application/octet-stream", data)
        assert session.put_upload(descriptor, ident)
        assert place.blobs.size(descriptor.digest) == len(data)
        for what in (uploads.size, uploads.cancel, lambda ident: uploads.append(ident, [])):
            with pytest.raises(NotFound):
                what(ident)
        wrong = uploads.create()
        uploads.append(wrong, [b"other data"])
        with pytest.raises(LaminaError):
            session.put_upload(descriptor.__replace__(digest=Digest.of(b"x")), wrong)
        with pytest.raises(NotFound):
            uploads.size(wrong)
