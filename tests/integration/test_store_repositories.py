"""The store's repositories: what was pushed and deleted is on the disk, for restarts and for other processes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import (
    BlobNotFound,
    Conflict,
    DigestMismatch,
    DiskFull,
    InvalidDocument,
    LimitExceeded,
    NotFound,
    RateLimited,
    StoreDamaged,
    SystemFailure,
)
from lamina.host.lock import unheld
from lamina.source import upload_limits
from lamina.source.select import MAX_NESTING
from lamina.source.served import WritableRepositories
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, build_index, build_manifest
from lamina.store import leftovers, members, repositories, uploads
from lamina.store.fsck import fsck
from lamina.store.gc import collect
from lamina.store.members import DELETED, KEPT, LINKS, PUSHED, Members
from lamina.store.online_gc import collect_in_turn, collecting
from lamina.store.prune import prune
from lamina.store.refs import FETCHED
from lamina.store.serving_rules import ServingRules
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import write_layout

REPOSITORY, OTHER = "docker.io/library/app", "host:5000/other/app"
TYPE = "application/vnd.oci.empty.v1+json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "s"


@contextmanager
def serving(root: Path, **rules: float | None) -> Iterator[WritableRepositories]:
    store = Store.open(str(root))
    store.serving_rules = ServingRules(**rules)  # type: ignore[arg-type]
    with store.repositories() as place:
        yield place


def push_blob(
    place: WritableRepositories, data: bytes, repository: str = REPOSITORY, algorithm: str = "sha256"
) -> Digest:
    digest = Digest.of(data, algorithm)
    ident = place.uploads.create(repository)
    with place.uploads.held(repository, ident):
        place.uploads.append(repository, ident, [data[:3], data[3:]])
        assert place.uploads.finish(repository, ident, digest) == Descriptor(
            "application/octet-stream", digest, len(data)
        )
    return digest


def manifest_with(*blobs: bytes, note: str = "") -> Manifest:
    layers = [Descriptor.of("application/vnd.example", blob) for blob in blobs]
    return build_manifest(Descriptor.of(TYPE, b"{}"), layers, annotations={"note": note}, artifact_type="a/b")


def push(
    place: WritableRepositories, tag: str, *blobs: bytes, repository: str = REPOSITORY, note: str = ""
) -> Digest:
    for blob in (b"{}", *blobs):
        push_blob(place, blob, repository)
    manifest = manifest_with(*blobs, note=note)
    place.put_manifest(repository, manifest.descriptor, manifest.raw, [tag] if tag else [])
    return manifest.descriptor.digest


def read(place: WritableRepositories, digest: Digest, repository: str = REPOSITORY) -> bytes:
    with place.blob(repository, digest).open() as stream:
        return stream.read()


def age(root: Path, seconds: float = 7200) -> None:
    """Let everything that was pushed or kept be old."""
    for path in (root / "repositories").rglob("sha*"):
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_blob_is_in_the_repository_after_a_restart_and_in_no_other(root: Path) -> None:
    with serving(root) as place:
        digest = push_blob(place, b"some bytes")
        with pytest.raises(BlobNotFound):
            place.blob(OTHER, digest)
    with serving(root) as place, serving(root) as second:
        for one in (place, second):
            assert read(one, digest) == b"some bytes"
            with pytest.raises(BlobNotFound):
                one.blob(OTHER, digest)
            assert not one.mount("docker.io/library/x", digest, OTHER)
        assert place.mount(OTHER, digest, REPOSITORY)
        assert read(second, digest, OTHER) == b"some bytes"
        assert second.names() == [REPOSITORY, OTHER]
        assert second.tags(OTHER) == []


def test_deletions_outlive_a_restart_until_the_object_is_pushed_again(root: Path) -> None:
    with serving(root) as place:
        digest = push(place, "1", b"layer")
        layer = Digest.of(b"layer")
        second = push(place, "2", b"layer", note="2")
        place.delete_blob(REPOSITORY, layer)
        place.delete_manifest(REPOSITORY, digest)
    with serving(root) as place:
        for _ in range(2):
            with pytest.raises(BlobNotFound):
                place.blob(REPOSITORY, layer)
            with pytest.raises(NotFound):
                place.find(REPOSITORY, digest)
            assert not place.keep(REPOSITORY, layer)
            assert place.tags(REPOSITORY) == ["2"]
            collect(Store.open(str(root)))
        manifest = manifest_with(b"layer")
        with pytest.raises(BlobNotFound):
            place.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["1"])
        push_blob(place, b"layer")
        place.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["1"])
    with serving(root) as place:
        assert read(place, layer) == b"layer"
        assert place.find(REPOSITORY, digest).digest == digest
        assert place.find(REPOSITORY, second).digest == second


def test_a_repository_without_tags_exists_until_all_is_pruned(root: Path) -> None:
    with serving(root) as place:
        digest = push(place, "1", b"layer")
        place.delete_manifest(REPOSITORY, digest)
        assert place.tags(REPOSITORY) == []
        with pytest.raises(NotFound):
            place.tags(OTHER)
    with serving(root) as place:
        assert place.names() == [REPOSITORY]
        age(root)
        collect(Store.open(str(root)))
        assert place.names() == [REPOSITORY]
        prune(Store.open(str(root)), all=True)
        assert place.names() == []
        with pytest.raises(NotFound):
            place.tags(REPOSITORY)
    assert {*os.listdir(root / "repositories")} <= {".grace", ".keep-uploads", ".uploads"}
    assert os.listdir(root / "blobs/sha256") == []


def test_a_tag_that_is_removed_or_moved_leaves_the_document(root: Path) -> None:
    with serving(root) as place:
        first = push(place, "1", b"layer", note="1")
        second = push(place, "1", b"layer", note="2")
        place.untag(REPOSITORY, "1")
        with pytest.raises(NotFound):
            place.untag(REPOSITORY, "1")
    with serving(root) as place:
        age(root)
        collect(Store.open(str(root)))
        for digest in (first, second):
            assert place.find(REPOSITORY, digest).digest == digest
            assert place.manifest(place.find(REPOSITORY, digest))
            with pytest.raises(NotFound):
                place.find(OTHER, digest)
        assert place.tags(REPOSITORY) == []
        assert read(place, Digest.of(b"layer")) == b"layer"
        prune(Store.open(str(root)))  # documents without a name are what it removes
        with pytest.raises(NotFound):
            place.find(REPOSITORY, first)


def test_a_document_that_two_repositories_have_stays_in_one_when_the_other_deletes_it(root: Path) -> None:
    with serving(root) as place:
        for repository in (REPOSITORY, OTHER):
            digest = push(place, "1", b"layer", repository=repository)
        place.untag(OTHER, "1")
        place.delete_manifest(REPOSITORY, digest)
        age(root)
        collect(Store.open(str(root)))
        with pytest.raises(NotFound):
            place.find(REPOSITORY, digest)
        assert place.manifest(place.find(OTHER, digest))
        place.delete_manifest(OTHER, digest)
        with pytest.raises(NotFound):
            place.find(OTHER, digest)
        collect(Store.open(str(root)), grace=0)
        assert list(Store.open(str(root)).blobs) == []


def test_a_document_without_a_name_that_is_deleted_is_not_listed_any_more(root: Path) -> None:
    subject = manifest_with(b"layer").descriptor
    referrer = build_manifest(Descriptor.of(TYPE, b"{}"), [], subject=subject, artifact_type="a/b")
    digest = referrer.descriptor.digest
    with serving(root) as place, serving(root) as other_server:
        for repository in (REPOSITORY, OTHER):
            push_blob(place, b"{}", repository)
            place.put_manifest(repository, referrer.descriptor, referrer.raw, ["1"])
            place.untag(repository, "1")
        for server in (place, other_server):
            assert [one.digest for one in server.referrers(REPOSITORY, subject.digest)] == [digest]
        place.delete_manifest(REPOSITORY, digest)
        for server in (place, other_server):
            assert server.referrers(REPOSITORY, subject.digest) == []
            assert [one.digest for one in server.referrers(OTHER, subject.digest)] == [digest]
            assert server.manifest(server.find(OTHER, digest)) == referrer.raw


def test_a_push_beside_a_deletion_is_there_or_not_but_never_in_part(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(root) as place:
        digest = push(place, "1", b"layer")
        manifest = manifest_with(b"layer")
        original = repositories.StoreRepositories._own_children

        def delete_first(self: object, *words: object) -> object:
            monkeypatch.undo()
            place.delete_manifest(REPOSITORY, digest)
            return original(self, *words)  # type: ignore[arg-type]

        monkeypatch.setattr(repositories.StoreRepositories, "_own_children", delete_first)
        place.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["2"])
        assert place.find(REPOSITORY, "2").digest == digest
        place.untag(REPOSITORY, "2")
        assert place.find(REPOSITORY, digest).digest == digest


def test_protection_lasts_for_the_grace_time_of_the_server(root: Path) -> None:
    with serving(root, grace=1800) as place:
        digest = push_blob(place, b"waits")
        store = Store.open(str(root))
        age(root, 1700)
        collect(store, grace=0)  # by whom ever
        assert read(place, digest) == b"waits"
        age(root, 1900)
        collect(store)
        with pytest.raises(BlobNotFound):
            place.blob(REPOSITORY, digest)
        assert Members(store.paths).listed(REPOSITORY, PUSHED) == set()


def test_a_blob_that_was_found_is_protected_again(root: Path) -> None:
    with serving(root) as place:
        digest = push(place, "1", b"layer")
        layer = Digest.of(b"layer")
        assert place.keep(REPOSITORY, layer)
        place.delete_manifest(REPOSITORY, digest)
        collect(Store.open(str(root)))
        manifest = manifest_with(b"layer", note="another")
        push_blob(place, b"{}")
        place.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["2"])
        assert read(place, layer) == b"layer"


def test_a_name_ends_the_protection_so_that_gc_frees_what_lost_it(root: Path) -> None:
    with serving(root) as place:
        digest = push(place, "1", b"layer")
        place.delete_manifest(REPOSITORY, digest)
        store = Store.open(str(root))
        collect(store)
        assert list(store.blobs) == []
        collect(store)
        files = [path.name for path in (root / "repositories").rglob("sha*")]
        assert files == []


def test_the_name_of_one_push_does_not_end_the_protection_of_another(root: Path) -> None:
    with serving(root) as place, serving(root) as second:
        push_blob(place, b"layer")
        push_blob(second, b"layer")
        digest = push(place, "1", b"layer", note="first")
        place.delete_manifest(REPOSITORY, digest)
        collect(Store.open(str(root)))
        push_blob(second, b"{}")
        manifest = manifest_with(b"layer", note="second")
        second.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["2"])


def test_a_gc_between_the_check_and_the_manifest_takes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(root) as place:
        for blob in (b"{}", b"layer"):
            push_blob(place, blob)
        age(root)
        manifest = manifest_with(b"layer")
        original = repositories.StoreRepositories._check_complete

        def gc_first(self: object, *words: object) -> None:
            monkeypatch.undo()  # the second check is made under the lock
            collect(Store.open(str(root)))
            original(self, *words)  # type: ignore[arg-type]

        monkeypatch.setattr(repositories.StoreRepositories, "_check_complete", gc_first)
        place.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["1"])
        collect(Store.open(str(root)))
        assert [one.what for one in fsck(Store.open(str(root)))] == []
        assert read(place, Digest.of(b"layer")) == b"layer"


def test_a_manifest_whose_blob_gc_took_before_it_was_protected_is_refused(root: Path) -> None:
    with serving(root) as place:
        for blob in (b"{}", b"layer"):
            push_blob(place, blob)
        age(root)
        collect(Store.open(str(root)))
        manifest = manifest_with(b"layer")
        with pytest.raises(BlobNotFound):
            place.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["1"])
        assert place.tags(REPOSITORY) == []


def test_fixed_tags_are_made_and_never_moved(root: Path) -> None:
    with serving(root) as place:
        for blob in (b"{}", b"layer"):
            push_blob(place, blob)
        one, two = manifest_with(b"layer", note="1"), manifest_with(b"layer", note="2")
        for _ in range(2):
            place.put_manifest(REPOSITORY, one.descriptor, one.raw, ["1", "2"], fixed={"1"})
        with pytest.raises(Conflict):
            place.put_manifest(REPOSITORY, two.descriptor, two.raw, ["2", "3", "1"], fixed={"1"})
        assert place.tags(REPOSITORY) == ["1", "2"]
        assert place.find(REPOSITORY, "2").digest == one.descriptor.digest
        place.put_manifest(REPOSITORY, two.descriptor, two.raw, ["2", "3"], fixed={"1"})
        assert place.find(REPOSITORY, "2").digest == two.descriptor.digest


def test_images_of_the_command_line_are_in_their_repositories(root: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [[("a", b"hello")], [("b", b"x")]])
    with serving(root) as place:
        with pytest.raises(NotFound):
            place.tags(REPOSITORY)
        store = Store.open(str(root))
        copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app:1")])
        top = place.find(REPOSITORY, "1")
        manifest = json.loads(place.manifest(top))
        for one in (manifest["config"], *manifest["layers"]):
            assert len(read(place, Digest.parse(one["digest"]))) == one["size"]
            with pytest.raises(BlobNotFound):
                place.blob(OTHER, Digest.parse(one["digest"]))
        copy(LayoutReader(str(tmp_path / "l")), store, [("app", f"{OTHER}:2")])
        assert read(place, Digest.parse(manifest["config"]["digest"]), OTHER)
        store.refs.unset([f"{REPOSITORY}:1"], keep_untagged=False)
        with pytest.raises(BlobNotFound):
            place.blob(REPOSITORY, Digest.parse(manifest["config"]["digest"]))


def test_a_child_that_was_found_stays_when_its_name_is_pruned(root: Path) -> None:
    with serving(root) as place:
        child = push(place, "1", b"layer")
        place.untag(REPOSITORY, "1")
        found = place.find(REPOSITORY, child)
        assert place.keep(REPOSITORY, child)
        prune(Store.open(str(root)))
        index = build_index([found])
        place.put_manifest(REPOSITORY, index.descriptor, index.raw, ["all"])
        assert place.manifest(place.find(REPOSITORY, child))
        age(root)
        collect(Store.open(str(root)))
        assert read(place, Digest.of(b"layer")) == b"layer"
        assert fsck(Store.open(str(root))) == []


def test_children_and_referrers_come_and_go_with_their_documents(root: Path) -> None:
    with serving(root) as place:
        child = push(place, "", b"layer")
        assert place.tags(REPOSITORY) == []
        found = place.find(REPOSITORY, child)
        index = build_index([found, Descriptor(found.media_type, Digest.of(b"missing"), 7)])
        place.put_manifest(REPOSITORY, index.descriptor, index.raw, ["all"])
        place.delete_manifest(REPOSITORY, child)
        with pytest.raises(NotFound):
            place.find(REPOSITORY, child)
        referrer = build_manifest(Descriptor.of(TYPE, b"{}"), [], subject=found, artifact_type="a/b")
        assert place.referrers(REPOSITORY, child) == []
        place.put_manifest(REPOSITORY, referrer.descriptor, referrer.raw, [])
        assert [one.digest for one in place.referrers(REPOSITORY, child)] == [referrer.descriptor.digest]
        assert place.referrers(OTHER, child) == []
    with serving(root) as place:
        (one,) = place.referrers(REPOSITORY, child)
        assert one.artifact_type == "a/b"
        place.delete_manifest(REPOSITORY, one.digest)
        assert place.referrers(REPOSITORY, child) == []


def test_no_request_walks_over_all_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(root))
    with serving(root) as place:
        digest = push(place, "1", b"layer")
        top = place.find(REPOSITORY, "1")
        store.refs.set_all([(f"docker.io/library/many{number}:1", top) for number in range(500)])
        place.find(REPOSITORY, "1")
        monkeypatch.setattr(type(store.refs), "entries", None)
        monkeypatch.setattr(type(store.refs), "names", None)
        assert place.tags(REPOSITORY) == ["1"]
        assert place.find(REPOSITORY, digest).digest == digest
        assert read(place, Digest.of(b"layer")) == b"layer"
        assert place.keep(REPOSITORY, Digest.of(b"layer"))
        push(place, "2", b"other")
        place.untag(REPOSITORY, "2")
        place.delete_manifest(REPOSITORY, digest)


# uploads


def test_an_upload_goes_on_after_a_restart_and_in_another_process(root: Path) -> None:
    data = os.urandom(3 << 20)
    with serving(root) as place:
        ident = place.uploads.create(REPOSITORY)
        assert place.uploads.append(REPOSITORY, ident, [data[:1000], data[1000:1001]]) == 1001
    with serving(root) as place, serving(root) as second:
        assert place.uploads.append(REPOSITORY, ident, [data[1001:2000]]) == 2000
        assert second.uploads.append(REPOSITORY, ident, [data[2000:500000]]) == 500000
        assert place.uploads.append(REPOSITORY, ident, [data[500000:]]) == len(data)
        assert second.uploads.size(REPOSITORY, ident) == len(data)
        place.uploads.finish(REPOSITORY, ident, Digest.of(data))
        assert read(second, Digest.of(data)) == data
        with pytest.raises(NotFound):
            place.uploads.size(REPOSITORY, ident)


def test_the_bytes_of_an_upload_are_hashed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(root) as place:
        monkeypatch.setattr(uploads, "_hashed", None)  # what reads the file again
        push_blob(place, b"some bytes")
        with pytest.raises(TypeError):
            push_blob(place, b"some bytes", algorithm="sha512")


def test_sha512(root: Path) -> None:
    with serving(root) as place:
        digest = push_blob(place, b"some bytes", algorithm="sha512")
        assert digest.algorithm == "sha512"
        assert read(place, digest) == b"some bytes"
        layer = Descriptor("application/vnd.example", digest, 10)
        push_blob(place, b"{}")
        manifest = build_manifest(Descriptor.of(TYPE, b"{}"), [layer], artifact_type="a/b")
        place.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["1"])
        age(root)
        collect(Store.open(str(root)))
        assert fsck(Store.open(str(root))) == []
    assert (root / "blobs/sha512" / digest.encoded).read_bytes() == b"some bytes"


def test_wrong_bytes_are_refused_and_nothing_stays(root: Path) -> None:
    with serving(root) as place:
        for digest in (Digest.of(b"other"), Digest.of(b"other", "sha512"), Digest.of(b"")):
            ident = place.uploads.create(REPOSITORY)
            place.uploads.append(REPOSITORY, ident, [b"bytes"])
            with pytest.raises(DigestMismatch):
                place.uploads.finish(REPOSITORY, ident, digest)
            with pytest.raises(NotFound):
                place.uploads.size(REPOSITORY, ident)
        assert os.listdir(root / "ingest") == []
        assert list(Store.open(str(root)).blobs) == []
        assert place.names() == []
        push_blob(place, b"")


def test_an_upload_belongs_to_its_repository(root: Path) -> None:
    with serving(root) as place:
        ident = place.uploads.create(REPOSITORY)
        for work in (place.uploads.size, place.uploads.cancel):
            with pytest.raises(NotFound):
                work(OTHER, ident)
        with pytest.raises(NotFound):
            place.uploads.append(OTHER, ident, [b"x"])
        for odd in ("", "../../../index.json", "x" * 32, ident.upper() + "0", ident + "\n"):
            with pytest.raises(NotFound):
                place.uploads.size(REPOSITORY, odd)
        place.uploads.cancel(REPOSITORY, ident)
        with pytest.raises(NotFound):
            place.uploads.cancel(REPOSITORY, ident)


def test_an_upload_that_is_removed_while_it_is_finished_is_not_found(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(root) as place, serving(root) as second:
        ident = place.uploads.create(REPOSITORY)
        place.uploads.append(REPOSITORY, ident, [b"x"])
        before = Members.push

        def push(self: Members, repository: str, digests: list[Digest]) -> None:
            second.uploads.cancel(REPOSITORY, ident)
            before(self, repository, digests)

        monkeypatch.setattr(Members, "push", push)
        with pytest.raises(NotFound), place.uploads.held(REPOSITORY, ident):
            place.uploads.finish(REPOSITORY, ident, Digest.of(b"x"))
        assert list(Store.open(str(root)).blobs) == []


def test_one_writer_at_a_time_in_all_servers(root: Path) -> None:
    with serving(root) as place, serving(root) as second:
        ident = place.uploads.create(REPOSITORY)
        with place.uploads.held(REPOSITORY, ident):
            for one in (place, second):
                with pytest.raises(Conflict), one.uploads.held(REPOSITORY, ident):
                    pass
            prune(Store.open(str(root)), all=True)
            assert place.uploads.append(REPOSITORY, ident, [b"x"]) == 1
        with second.uploads.held(REPOSITORY, ident):
            pass


def test_a_writer_waits_for_a_prune_that_looks_at_its_upload(root: Path) -> None:
    with serving(root) as place:
        ident = place.uploads.create(REPOSITORY)
        (path,) = root.glob(f"ingest/upload-{ident}*")
        looks, release = threading.Event(), threading.Event()

        def look() -> None:
            with unheld(str(path)) as free:
                assert free
                looks.set()
                release.wait(10)

        prune_looks = threading.Thread(target=look)
        prune_looks.start()
        assert looks.wait(10)
        threading.Timer(0.1, release.set).start()
        with place.uploads.held(REPOSITORY, ident):
            assert release.is_set()
        prune_looks.join()


def test_what_arrived_before_the_connection_was_lost_stays(root: Path) -> None:
    def cut() -> Iterator[bytes]:
        yield b"some "
        raise ConnectionResetError

    with serving(root) as place:
        ident = place.uploads.create(REPOSITORY)
        with pytest.raises(ConnectionResetError):
            place.uploads.append(REPOSITORY, ident, cut())
        assert place.uploads.append(REPOSITORY, ident, [b"bytes"]) == 10
        place.uploads.finish(REPOSITORY, ident, Digest.of(b"some bytes"))


def test_an_upload_over_the_limit_is_refused_and_removed(root: Path) -> None:
    with serving(root, max_blob=10) as place:
        push_blob(place, b"0123456789")
        ident = place.uploads.create(REPOSITORY)
        place.uploads.append(REPOSITORY, ident, [b"0123456789"])
        with pytest.raises(LimitExceeded):
            place.uploads.append(REPOSITORY, ident, [b"x"])
        with pytest.raises(NotFound):
            place.uploads.size(REPOSITORY, ident)


def test_old_uploads_are_swept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(root, keep_uploads=100) as place:
        old, held, young = (place.uploads.create(REPOSITORY) for _ in range(3))
        for path in (root / "ingest").glob("upload-*"):
            if young not in path.name:
                os.utime(path, (time.time() - 200,) * 2)
        with place.uploads.held(REPOSITORY, held):
            monkeypatch.setattr(uploads, "_SWEEP_EVERY", 0)
            place.uploads.create(REPOSITORY)
        with pytest.raises(NotFound):
            place.uploads.size(REPOSITORY, old)
        assert place.uploads.size(REPOSITORY, held) == place.uploads.size(REPOSITORY, young) == 0


def test_all_servers_of_a_store_know_which_uploads_are_open(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_limits, "MOST_EACH", 2)
    monkeypatch.setattr(upload_limits, "MOST", 3)
    long = "docker.io/" + "/".join(["x" * 60] * 4)
    with serving(root) as one, serving(root) as two:
        first = one.uploads.create(REPOSITORY)
        one.uploads.append(REPOSITORY, first, [b"12345"])
        second = two.uploads.create(REPOSITORY)
        with pytest.raises(RateLimited, match="2 uploads to this repository"):
            one.uploads.create(REPOSITORY)
        third = two.uploads.create(long)
        with pytest.raises(RateLimited, match="3 uploads to this registry"):
            two.uploads.create("docker.io/third")
        everything = {first: (REPOSITORY, 5), second: (REPOSITORY, 0), third: (long, 0)}
        assert one.uploads.received() == two.uploads.received() == everything
        assert one.uploads.received(long) == {third: (long, 0)}
        one.uploads.cancel(REPOSITORY, second)
        (path,) = (root / "ingest").glob(f"upload-{first}*")
        os.utime(path, (time.time() - 4000,) * 2)  # idle for an hour
        monkeypatch.setattr(uploads, "_MAKE_ROOM_EVERY", 0.0)
        for _ in range(2):
            one.uploads.create(REPOSITORY)
        assert first not in one.uploads.received()


def test_uploads_of_each_client_have_a_limit_at_all_servers_of_a_store(root: Path) -> None:
    alice, bob = (upload_limits.Opener(f"user {name}", most=2) for name in ("alice", "bob"))
    with serving(root) as one, serving(root) as two:
        idents = [place.uploads.create(f"docker.io/{n}", alice) for n, place in enumerate((one, two))]
        for place in (one, two):
            with pytest.raises(RateLimited, match="2 uploads of this client"):
                place.uploads.create("docker.io/third", alice)
        two.uploads.create("docker.io/third", bob)
        two.uploads.create("docker.io/third")
        two.uploads.cancel("docker.io/0", idents[0])
        one.uploads.create("docker.io/third", alice)


def test_names_of_repositories_without_uploads_are_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_SWEEP_EVERY", 0)
    with serving(root) as place:
        ident = place.uploads.create(REPOSITORY)
        place.uploads.cancel("docker.io/gone", place.uploads.create("docker.io/gone"))
        names = root / "repositories/.uploads"
        assert {path.read_text() for path in names.iterdir()} == {REPOSITORY, "docker.io/gone"}
        for path in names.iterdir():
            os.utime(path, (time.time() - 4000,) * 2)
        place.uploads.create(REPOSITORY)
        (path,) = names.iterdir()
        assert path.read_text() == REPOSITORY
        path.write_bytes(b"")  # as after a crash of the host
        place.uploads.create(REPOSITORY)
        assert ident in place.uploads.received()


def test_a_server_finds_out_whether_it_can_write(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(root) as place:
        place.check_writing()
        assert os.listdir(root / "ingest") == []
        with monkeypatch.context() as patch:
            patch.setattr("lamina.host.spool._free", lambda path: (0, 1))
            with pytest.raises(DiskFull):
                place.check_writing()

        def refused(*_: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr("lamina.host.temporary.os.open", refused)
        with pytest.raises(SystemFailure, match="ead-only"):
            place.check_writing()


def test_prune_leaves_uploads_of_a_running_server_for_a_day(root: Path) -> None:
    store = Store.open(str(root))
    with serving(root) as place:
        ident = place.uploads.create(REPOSITORY)
        (path,) = (root / "ingest").glob("upload-*")
        os.utime(path, (time.time() - 80_000,) * 2)
        prune(store, all=True)
        assert place.uploads.size(REPOSITORY, ident) == 0
        os.utime(path, (time.time() - leftovers.KEEP_UPLOADS - 10,) * 2)
        prune(store)
        with pytest.raises(NotFound):
            place.uploads.size(REPOSITORY, ident)


# gc of the server, and fsck


def test_the_server_collects_garbage(root: Path) -> None:
    with serving(root, grace=0.2) as place, collecting(Store.open(str(root)), 0.05):
        digest = push_blob(place, b"unneeded")
        kept = push(place, "1", b"layer")
        path = root / "blobs/sha256" / digest.encoded
        end = time.monotonic() + 60
        while path.exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert not path.exists()
        assert place.manifest(place.find(REPOSITORY, kept))
        assert read(place, Digest.of(b"layer")) == b"layer"


def test_servers_take_turns_in_gc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = Store.open(str(root)), Store.open(str(root))
    with serving(root) as place:
        push(place, "1", b"layer")
    assert collect_in_turn(store, 3600) == 3600
    assert 3500 < collect_in_turn(other, 3600) <= 3600  # the clock of files may not have ticked since
    os.utime(root / "repositories/.gc", (0, 0))
    assert collect_in_turn(other, 3600) == 3600


def test_fsck_reports_what_is_not_laminas(root: Path) -> None:
    with serving(root) as place:
        push(place, "1", b"layer")
        push(place, "1", b"layer", repository=OTHER)
        place.keep(OTHER, Digest.of(b"layer"))
        place.delete_blob(REPOSITORY, Digest.of(b"layer"))
    store = Store.open(str(root))
    collect_in_turn(store, 1)
    assert fsck(store) == []
    repository = root / "repositories/docker.io/library/app"
    (repository / "file").touch()
    (repository / LINKS / "sha256-x").touch()
    (repository / "_what").mkdir()
    (repository / KEPT / "directory").mkdir()
    assert sorted(one.what.partition(":")[0] for one in fsck(store)) == [
        f"repositories/docker.io/library/app/{name}"
        for name in ("_kept/directory", "_links/sha256-x", "_what", "file")
    ]
    assert {one.severity for one in fsck(store)} == {"leftover"}


def test_hostile_names_of_repositories_reach_no_other_path(root: Path) -> None:
    with serving(root) as place:
        push_blob(place, b"x")
        found = Members(Store.open(str(root)).paths)
        for name in ("..", "a/../b", "_links", "a/_deleted", "", "a//b", ".grace"):
            with pytest.raises(Exception, match="part of a repository"):
                found.make(name)
        assert set(found.repositories()) == {REPOSITORY}


def test_kinds_of_members_are_what_the_documents_say() -> None:
    assert {LINKS, PUSHED, KEPT, DELETED} == set(members.KINDS)
    assert hashlib.sha256(b"").hexdigest() == Digest.of(b"").encoded


def put_index(place: WritableRepositories, repository: str, tag: str, *children: Descriptor) -> Digest:
    index = build_index(list(children))
    place.put_manifest(repository, index.descriptor, index.raw, [tag])
    return index.descriptor.digest


def test_an_index_does_not_bring_in_what_only_another_repository_has(root: Path) -> None:
    """Whoever knows a digest may list it; that is no way to read it."""
    secret = manifest_with(b"secret")
    layer = secret.layers[0].digest
    with serving(root) as place:
        push(place, "1", b"secret", repository=OTHER)
        inner = build_index([secret.descriptor])
        place.put_manifest(OTHER, inner.descriptor, inner.raw, ["all"])
        outer = put_index(place, REPOSITORY, "mine", secret.descriptor, inner.descriptor)
        place.put_manifest(REPOSITORY, inner.descriptor, inner.raw, ["same"])  # the bytes that the other one has
        assert place.find(OTHER, secret.descriptor.digest).digest == secret.descriptor.digest

        def check(place: WritableRepositories) -> None:
            with pytest.raises(NotFound):
                place.find(REPOSITORY, secret.descriptor.digest)
            with pytest.raises(BlobNotFound):
                place.blob(REPOSITORY, layer)
            assert not place.keep(REPOSITORY, layer)
            assert not place.mount("docker.io/library/third", layer, REPOSITORY)
            assert place.find(REPOSITORY, outer).digest == outer

        check(place)
        place.untag(OTHER, "all")
        place.untag(REPOSITORY, "same")
        check(place)
        assert place.find(OTHER, inner.descriptor.digest).size == len(inner.raw)
        assert place.blob(OTHER, layer).descriptor.size == 6
    with serving(root) as place:
        check(place)
        push(place, "own", b"secret")
        assert place.find(REPOSITORY, secret.descriptor.digest).size == len(secret.raw)
        assert place.blob(REPOSITORY, layer).descriptor.size == 6


def test_an_index_without_a_tag_keeps_its_children(root: Path) -> None:
    child = manifest_with(b"layer")
    with serving(root) as place:
        push(place, "child", b"layer")
        index = put_index(place, REPOSITORY, "all", child.descriptor)
        place.untag(REPOSITORY, "child")
        place.untag(REPOSITORY, "all")
    with serving(root) as place:
        assert place.find(REPOSITORY, index).digest == index
        assert place.find(REPOSITORY, child.descriptor.digest).digest == child.descriptor.digest
        assert place.blob(REPOSITORY, child.layers[0].digest).descriptor.size == 5


def test_a_tag_of_an_index_takes_the_same_space_however_much_it_lists(root: Path) -> None:
    children = [manifest_with(b"layer %d" % number) for number in range(5)]
    with serving(root) as place:
        for number in range(5):
            push(place, "child", b"layer %d" % number)
        inner = build_index([one.descriptor for one in children[:2]])
        place.put_manifest(REPOSITORY, inner.descriptor, inner.raw, [])
        whole = put_index(place, REPOSITORY, "all", *(one.descriptor for one in children[2:]), inner.descriptor)
        some = put_index(place, REPOSITORY, "some", children[4].descriptor, Descriptor(TYPE, Digest.of(b"x"), 1))
        store = Store.open(str(root))
        assert store.resolve("app:all").annotations[FETCHED] == "*"
        assert store.resolve("app:some").annotations[FETCHED] == str(children[4].descriptor.digest)
        place.untag(REPOSITORY, "child")
        prune(store)
        for name in ("all", "again"):  # a child is found after its own name is gone, whatever becomes of the tags
            put_index(place, REPOSITORY, name, *(one.descriptor for one in children[2:]), inner.descriptor)
            for one in (*children, inner):
                assert place.find(REPOSITORY, one.descriptor.digest).digest == one.descriptor.digest
            assert place.blob(REPOSITORY, children[0].layers[0].digest).descriptor.size == 7
        assert fsck(store) == []
        age(root)
        collect(store)
        put_index(place, REPOSITORY, "all", children[4].descriptor)
        put_index(place, REPOSITORY, "again", children[4].descriptor)
        assert {place.find(REPOSITORY, one).digest for one in (whole, some)} == {whole, some}
    with serving(root) as place:
        for one in (*children, inner):
            assert place.find(REPOSITORY, one.descriptor.digest).digest == one.descriptor.digest
        os.unlink(store.blobs.path(children[0].descriptor.digest))
        with pytest.raises(StoreDamaged, match="is missing"):
            collect(store)
        assert any("which is missing" in one.what for one in fsck(store))


def test_a_wide_index_must_be_complete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repositories, "_MOST_LISTED", 1)
    with serving(root) as place:
        for number in range(2):
            push(place, "child", b"layer %d" % number)
        here = [manifest_with(b"layer %d" % number).descriptor for number in range(2)]
        missing = manifest_with(b"missing").descriptor
        with pytest.raises(BlobNotFound, match="some are not in the repository"):
            put_index(place, REPOSITORY, "all", *here, missing)
        put_index(place, REPOSITORY, "all", *here)
        put_index(place, REPOSITORY, "sparse", here[0], missing)


@pytest.mark.parametrize("absent", [{}, {"manifests": None}])
def test_gc_reads_a_manifest_as_it_was_pushed(root: Path, absent: dict[str, None]) -> None:
    config = Descriptor.of(TYPE, b"{}").to_json()
    raw = json.dumps({"schemaVersion": 2, "config": config, "layers": [], **absent}).encode()
    with serving(root) as place:
        push_blob(place, b"{}")
        kind = "application/vnd.oci.image.manifest.v1+json"
        place.put_manifest(REPOSITORY, Descriptor(kind, Digest.of(raw), len(raw)), raw, ["1"])
        age(root)
        collect(Store.open(str(root)))
        assert read(place, Digest.of(b"{}")) == b"{}"


def test_a_foreign_layer_does_not_bring_in_what_only_another_repository_has(root: Path) -> None:
    foreign = Descriptor.of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"secret")
    manifest = build_manifest(Descriptor.of(TYPE, b"{}"), [foreign], artifact_type="a/b")
    with serving(root) as place:
        push(place, "1", b"secret", repository=OTHER)
        push_blob(place, b"{}")
        place.put_manifest(REPOSITORY, manifest.descriptor, manifest.raw, ["mine"])
        with pytest.raises(BlobNotFound):
            place.blob(REPOSITORY, foreign.digest)
        push_blob(place, b"secret")
        assert place.blob(REPOSITORY, foreign.digest).descriptor.size == 6


def test_prune_keeps_idle_uploads_for_as_long_as_the_server_says(root: Path) -> None:
    with serving(root, keep_uploads=7 * 86400) as place:
        ident = place.uploads.create(REPOSITORY)
        place.uploads.append(REPOSITORY, ident, [b"some"])
        (path,) = (root / "ingest").glob("upload-*")
        os.utime(path, (time.time() - 2 * 86400,) * 2)
        prune(Store.open(str(root)))
        assert place.uploads.size(REPOSITORY, ident) == 4
        os.utime(path, (time.time() - 8 * 86400,) * 2)
        prune(Store.open(str(root)))
        with pytest.raises(NotFound):
            place.uploads.size(REPOSITORY, ident)


def test_indexes_are_nested_only_as_deep_as_clients_read_them(root: Path) -> None:
    with serving(root) as place:
        inner = build_index([])
        place.put_manifest(REPOSITORY, inner.descriptor, inner.raw, [])
        for level in range(MAX_NESTING):
            inner = build_index([inner.descriptor])
            place.put_manifest(REPOSITORY, inner.descriptor, inner.raw, [f"level{level}"])
        outer = build_index([inner.descriptor])
        with pytest.raises(InvalidDocument, match="nested more than"):
            place.put_manifest(REPOSITORY, outer.descriptor, outer.raw, ["deep"])
        assert place.tags(REPOSITORY) == [f"level{level}" for level in range(MAX_NESTING)]
        assert Store.open(str(root)).resolve(f"app:level{MAX_NESTING - 1}").digest == inner.descriptor.digest
