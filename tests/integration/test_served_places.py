"""A registry server over a place that is not a directory, through the protocols."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import (
    AccessDenied,
    BlobNotFound,
    Conflict,
    InvalidContent,
    LaminaError,
    NotFound,
    ReferenceNotFound,
    StoreDamaged,
    SystemFailure,
    UsageError,
)
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.serve.api import Api
from lamina.serve.failures import answered
from lamina.serve.http_message import Asker, Request, Response
from lamina.serve.routes import parse_target
from lamina.serve.server import RegistryServer
from lamina.source.protocols import Blob
from lamina.source.served import WritableRepositories
from lamina.source.upload_limits import Opener
from lamina.source.verify import BytesBlob
from lamina.source.walk import manifest_blobs
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, parse
from lamina.store.leftovers import SERVING
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import write_layout

LAYERS = [[("etc", None), ("etc/conf", b"one")], [("usr", None), ("usr/file", b"two" * 1000)]]


class Objects:
    """``WritableRepositories`` in memory: the simplest that is right, but for gc, which it has not."""

    location = "objects"

    def __init__(self) -> None:
        self.objects: dict[Digest, bytes] = {}
        self.kinds: dict[Digest, str] = {}
        self.members: dict[str, set[Digest]] = {}
        self.pointers: dict[str, dict[str, Digest]] = {}
        self.parts: dict[tuple[str, str], bytearray] = {}
        self.uploads = Uploads(self)

    @contextmanager
    def repositories(self) -> Iterator[WritableRepositories]:
        yield self

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        return [name for name in sorted(self.pointers) if name > after][:limit]

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        if repository not in self.pointers:
            raise NotFound(repository)
        return [tag for tag in sorted(self.pointers[repository]) if tag > after][:limit]

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        digest = name if isinstance(name, Digest) else self.pointers.get(repository, {}).get(name)
        if digest is None or digest not in self.members.get(repository, ()) or digest not in self.kinds:
            raise NotFound(str(name))
        return Descriptor(self.kinds[digest], digest, len(self.objects[digest]))

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.objects[descriptor.digest]

    def blob(self, repository: str, digest: Digest) -> Blob:
        if digest not in self.members.get(repository, ()):
            raise BlobNotFound(str(digest))
        data = self.objects[digest]
        return BytesBlob(Descriptor("application/octet-stream", digest, len(data)), data)

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        return []

    def check_writing(self) -> None:
        pass

    def mount(self, repository: str, digest: Digest, source: str) -> bool:
        return self.keep(source, digest) and not self.members.setdefault(repository, set()).add(digest)

    def keep(self, repository: str, digest: Digest) -> bool:
        return digest in self.members.get(repository, ())

    def put_manifest(
        self, repository: str, descriptor: Descriptor, raw: bytes, tags: Sequence[str], *, fixed: Collection[str] = ()
    ) -> None:
        document = parse(raw, descriptor.media_type)
        for one in manifest_blobs(document) if isinstance(document, Manifest) else []:
            self.blob(repository, one.digest)
        self.objects[descriptor.digest] = raw
        self.kinds[descriptor.digest] = descriptor.media_type
        self.members.setdefault(repository, set()).add(descriptor.digest)
        self.pointers.setdefault(repository, {}).update(dict.fromkeys(tags, descriptor.digest))

    def untag(self, repository: str, tag: str) -> None:
        self.find(repository, tag)
        del self.pointers[repository][tag]

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        self.find(repository, digest)
        self.members[repository].discard(digest)
        for tag in [tag for tag, one in self.pointers[repository].items() if one == digest]:
            del self.pointers[repository][tag]

    def delete_blob(self, repository: str, digest: Digest) -> None:
        self.blob(repository, digest)
        self.members[repository].discard(digest)


class Uploads:
    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def create(self, repository: str, opener: Opener | None = None) -> str:
        ident = os.urandom(16).hex()
        self.objects.parts[repository, ident] = bytearray()
        return ident

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        return {
            ident: (name, len(data)) for (name, ident), data in self.objects.parts.items() if repository in ("", name)
        }

    def size(self, repository: str, ident: str) -> int:
        if (repository, ident) not in self.objects.parts:
            raise NotFound(f"no upload {ident}")
        return len(self.objects.parts[repository, ident])

    def append(self, repository: str, ident: str, pieces: Iterable[bytes]) -> int:
        for piece in pieces:
            self.objects.parts[repository, ident] += piece
        return self.size(repository, ident)

    @contextmanager
    def held(self, repository: str, ident: str) -> Iterator[None]:
        yield

    def finish(self, repository: str, ident: str, digest: Digest) -> Descriptor:
        data = bytes(self.objects.parts.pop((repository, ident)))
        descriptor = Descriptor("application/octet-stream", digest, len(data))
        descriptor.check(data)
        self.objects.objects[digest] = data
        self.objects.members.setdefault(repository, set()).add(digest)
        return descriptor

    def cancel(self, repository: str, ident: str) -> None:
        del self.objects.parts[repository, ident]


def repository(server: RegistryServer) -> Repository:
    return Repository(f"{server.name}/app", Access(first_wait=0.001), Registries())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemFailure("read-only", hint="x"), 200),
        (AccessDenied("denied", hint="x"), 200),
        (StoreDamaged("members are damaged", hint="x"), 500),
    ],
)
def test_a_client_that_may_push_reads_where_nothing_can_be_written(error: LaminaError, status: int) -> None:
    place = Objects()
    data = b"{}"
    for digest, kind in ((Digest.of(data), "application/octet-stream"), (Digest.of(data + b" "), "")):
        place.objects[digest], place.kinds[digest] = data, kind
        place.members.setdefault("docker.io/library/app", set()).add(digest)

    def keep(repository: str, digest: Digest) -> bool:
        raise error

    place.keep = keep  # type: ignore[method-assign]
    for path in ("blobs", "manifests"):
        route = parse_target(f"/v2/app/{path}/{Digest.of(data)}")
        request = Request("HEAD", route, {}, iter(()), 0, Asker("127.0.0.1"))
        assert answered(Api(place, place).answer, request).status == status


def test_a_place_in_memory_can_be_pushed_to_and_pulled_from(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", LAYERS)
    place = Objects()
    with RegistryServer(place, writable=True) as server:  # type: ignore[arg-type]
        name = f"{server.name}/app:1"
        copy(LayoutReader(str(tmp_path / "l")), repository(server), [("app", name)])
        assert place.parts == {}
        assert all(hashlib.sha256(data).hexdigest() == digest.encoded for digest, data in place.objects.items())
        store = Store.open(str(tmp_path / "s"))
        copy(repository(server), store, [(name, "again")])
        assert store.resolve("again").digest == LayoutReader(str(tmp_path / "l")).resolve("app").digest
        repository(server).untag(name)
    assert place.tags("docker.io/library/app") == []


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


APP = "docker.io/library/app"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_layout(tmp_path / "l", "app", LAYERS)
    write_layout(tmp_path / "l", "other", [[("x", b"y")]])
    store = Store.open(str(tmp_path / "s"))
    copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app:1"), ("other", "other:1")])
    return store


@pytest.fixture
def place(store: Store) -> Iterator[WritableRepositories]:
    with store.repositories() as place:
        yield place


def layer_of(store: Store, name: str) -> Digest:
    document = parse(store.manifest(store.resolve(name)), None)
    assert isinstance(document, Manifest)
    return document.layers[0].digest


def test_a_blob_is_only_where_a_manifest_names_it_or_where_it_was_mounted(
    store: Store, place: WritableRepositories
) -> None:
    layer = layer_of(store, "other:1")
    with pytest.raises(BlobNotFound):
        place.blob(APP, layer)
    with place.blob("docker.io/library/other", layer).open(2, 9) as stream:
        assert stream.read() == store.blobs.read(Descriptor("x", layer, store.blobs.size(layer) or 0))[2:9]
    assert not place.mount(APP, layer, "docker.io/library/nothing")
    assert place.mount(APP, layer, "docker.io/library/other")
    assert place.blob(APP, layer).descriptor.size == store.blobs.size(layer)


def test_a_fixed_tag_is_made_but_never_moved(store: Store, place: WritableRepositories) -> None:
    app = store.resolve("app:1")
    raw = store.manifest(app)
    place.put_manifest(APP, app, raw, ["1", "v2"], fixed=["1", "v2"])
    changed = raw.replace(b"{", b"{ ", 1)
    new = Descriptor.of(app.media_type, changed)
    with pytest.raises(Conflict):
        place.put_manifest(APP, new, changed, ["1"], fixed=["1"])
    assert place.find(APP, "1").digest == app.digest
    place.put_manifest(APP, new, changed, ["1"])
    assert place.find(APP, "1").digest == new.digest


def test_a_deleted_manifest_is_gone_and_a_removed_tag_leaves_it(store: Store, place: WritableRepositories) -> None:
    digest = store.resolve("app:1").digest
    place.untag(APP, "1")
    assert place.tags(APP) == []
    assert place.find(APP, digest).digest == digest
    place.delete_manifest(APP, digest)
    with pytest.raises(NotFound):
        place.find(APP, digest)
    with pytest.raises(NotFound):
        place.untag(APP, "1")


def test_a_finished_upload_becomes_a_blob_or_is_removed(store: Store, place: WritableRepositories) -> None:
    uploads, data = place.uploads, b"some bytes"
    ident = uploads.create(APP)
    with uploads.held(APP, ident):
        assert uploads.append(APP, ident, [data[:4], data[4:]]) == len(data)
        with pytest.raises(Conflict), uploads.held(APP, ident):
            pass
    assert uploads.finish(APP, ident, Digest.of(data)).size == len(data)
    assert place.blob(APP, Digest.of(data)).descriptor.size == len(data)
    with pytest.raises(NotFound):
        uploads.size(APP, ident)
    wrong = uploads.create(APP)
    uploads.append(APP, wrong, [data])
    with pytest.raises(InvalidContent):
        uploads.finish(APP, wrong, Digest.of(b"other"))
    with pytest.raises(NotFound):
        uploads.size(APP, wrong)
    with pytest.raises(BlobNotFound):
        place.blob(APP, Digest.of(b"other"))
    left = uploads.create(APP)
    uploads.cancel(APP, left)
    with pytest.raises(NotFound):
        uploads.append(APP, left, [data])
