"""Admission: a function decides about each image after planning and before copying (dry runs, policies)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from lamina.archive.docker import DockerArchiveReader, DockerArchiveWriter
from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.errors import AccessDenied, ReferenceNotFound
from lamina.source.protocols import Blob
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.store.store import Store
from lamina.transfer.connect import RegistryAccess
from lamina.transfer.copy import Proposal, copy
from lamina.transfer.make_index import make_index
from lamina.transfer.pull_plan import plan_pull
from support import write_layout

LAYERS = [[("etc", None), ("etc/conf", b"one")], [("usr", None), ("usr/file", b"two" * 1000)]]


class Counting(LayoutReader):
    """A layout that notes which blobs were opened."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.opened: list[Digest] = []

    def blob(self, descriptor: Descriptor) -> Blob:  # type: ignore[override]
        self.opened.append(descriptor.digest)
        return super().blob(descriptor)


@pytest.fixture
def source(tmp_path: Path) -> Counting:
    write_layout(tmp_path / "l", "app", LAYERS)
    write_layout(tmp_path / "l", "other", [LAYERS[0], [("x", b"y")]])
    return Counting(str(tmp_path / "l"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def test_a_dry_run_gets_the_list_of_what_would_be_copied_and_copies_nothing(source: Counting, store: Store) -> None:
    told: list[tuple[str, str, list[str], list[Digest]]] = []

    def only_tell(proposal: Proposal) -> bool:
        kinds = [kind for _, _, kind in proposal.documents] + [kind for _, kind, _ in proposal.blobs]
        told.append((proposal.name, proposal.target_name, kinds, [blob.digest for blob in proposal.moves()]))
        return False

    assert copy(source, store, [("app", "app"), ("other", "new")], admit=only_tell) == []
    assert [(name, there, kinds) for name, there, kinds, _ in told] == [
        ("app", "app", ["manifest", "config", "layer", "layer"]),
        ("other", "new", ["manifest", "config", "layer", "layer"]),
    ]
    assert list(store.blobs) == []
    assert list(store.names()) == []
    assert set(source.opened).isdisjoint(told[0][3][1:])  # the manifests and configs were read, no layer
    copy(source, store, [("app", "app")])
    told.clear()
    copy(source, store, [("other", "other")], admit=only_tell)
    assert len(told[0][3]) == 2  # the lower layer is here


def test_an_error_of_a_policy_ends_the_copy_and_writes_no_name(source: Counting, store: Store) -> None:
    def policy(proposal: Proposal) -> bool:
        if proposal.name == "other":
            raise AccessDenied(f"{proposal.name} is not allowed here", hint="ask for it")
        return True

    with pytest.raises(AccessDenied, match="other is not allowed"):
        copy(source, store, [("other", "other")], admit=policy)
    assert list(store.names()) == []
    assert list(store.blobs) == []
    (done,) = copy(source, store, [("app", "app")], admit=policy)
    assert done.descriptor.digest == store.resolve("app").digest
    assert {moved.what for moved in done.blobs} == {"manifest", "config", "layer"}


def test_only_signed_images_are_copied(source: Counting, store: Store) -> None:
    top = source.resolve("app")
    data = b'{"signature": "of app"}'
    config = Descriptor.of("application/vnd.oci.empty.v1+json", b"{}")
    signature = Descriptor.of("application/vnd.dev.cosign.simplesigning.v1+json", data)
    manifest = build_manifest(config, [signature], artifact_type="application/x.signature")
    with LayoutWriter(source.directory).session("sign") as session:
        session.put_blob(config, BytesBlob(config, b"{}"))
        session.put_blob(signature, BytesBlob(signature, data))
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag(f"sha256-{top.digest.encoded}.sig", manifest.descriptor)

    def signed(proposal: Proposal) -> bool:
        try:
            proposal.source.resolve(f"sha256-{proposal.top.digest.encoded}.sig")
        except ReferenceNotFound:
            return False
        return True

    reader = LayoutReader(source.directory)
    done = copy(reader, store, [("app", "app"), ("other", "other")], admit=signed)
    assert [one.name for one in done] == ["app"]
    assert [name for name, _ in store.names()] == ["docker.io/library/app:latest"]


def test_admit_is_called_for_each_referrer_too(source: Counting, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "from"))
    copy(source, store, [("app", "app")])
    empty = Descriptor.of("application/vnd.oci.empty.v1+json", b"{}")
    subject = store.resolve("app")
    referrers = [build_manifest(empty, [], subject=subject, artifact_type=f"application/x.{n}") for n in range(2)]
    with store.session("test") as session:
        session.put_blob(empty, BytesBlob(empty, b"{}"))
        for one in referrers:
            session.put_manifest(one.descriptor, one.raw)
            session.tag("", one.descriptor)
    left_out = referrers[0].descriptor.digest
    target = Store.open(str(tmp_path / "to"))
    copy(store, target, [("app", "app")], referrers=True, admit=lambda proposal: proposal.top.digest != left_out)
    assert {entry.digest for _, entry in target.names()} == {subject.digest, referrers[1].descriptor.digest}
    assert not target.blobs.has(referrers[0].descriptor)


def test_admit_is_called_for_another_name_of_a_stored_image_too(
    source: Counting, store: Store, tmp_path: Path
) -> None:
    copy(source, store, [("app", "app")])
    copy(store, DockerArchiveWriter(str(tmp_path / "d.tar")), [("app", "app")])
    asked: list[Proposal] = []

    def refuse(proposal: Proposal) -> bool:
        asked.append(proposal)
        return False

    reader = DockerArchiveReader(str(tmp_path / "d.tar"))
    assert copy(reader, store, [("app", "second")], admit=refuse) == []
    assert [(one.target_name, one.top.digest, one.blobs) for one in asked] == [
        ("second", store.resolve("app").digest, ())
    ]
    assert [name for name, _ in store.names()] == ["docker.io/library/app:latest"]


class OneRepository:
    """A network in which every name leads to the same place."""

    def __init__(self, source: Counting) -> None:
        self._source = source

    def repository(self, name: str) -> Counting:
        return self._source

    def full(self, name: str) -> Reference:
        return Reference.parse(name).with_default_tag()


def test_the_plan_of_a_pull_is_a_copy_that_admits_nothing_and_writes_nothing(
    source: Counting, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(source, store, [("app", "app")])
    stored = sorted(map(str, store.blobs))

    def no_session(*_: object) -> None:
        raise AssertionError("a session writes a root file")

    monkeypatch.setattr(Store, "session", no_session)
    plan = plan_pull("other", store, cast(RegistryAccess, OneRepository(source)), platform=Platform.host())
    assert plan.name == "docker.io/library/other:latest"
    assert plan.descriptor.digest == source.resolve("other").digest
    assert [(blob.what, blob.state) for blob in plan.blobs] == [
        ("manifest", "to fetch"),
        ("config", "to fetch"),
        ("layer", "already here"),
        ("layer", "to fetch"),
    ]
    assert plan.blobs[2].shared == ("app:latest",)
    assert sorted(map(str, store.blobs)) == stored
    assert [name for name, _ in store.names()] == ["docker.io/library/app:latest"]


def test_an_image_that_is_not_admitted_is_left_out_of_an_index(source: Counting, store: Store) -> None:
    images = [(source, "app"), (source, "other")]
    app, other = (source.resolve(name).digest for _, name in images)
    asked: list[tuple[str, str]] = []

    def admit(proposal: Proposal) -> bool:
        asked.append((proposal.name, proposal.documents[-1][2]))
        return proposal.name != "other"

    index = make_index(images, store, "both:1", admit=admit)
    assert index is not None
    assert asked == [("app", "manifest"), ("other", "manifest"), ("both:1", "index")]
    assert [entry.digest for entry in index.manifests] == [app]
    assert store.resolve("both:1").digest == index.descriptor.digest
    assert store.blobs.size(other) is None


def test_an_index_that_is_not_admitted_gets_no_name(source: Counting, store: Store) -> None:
    refuse_all = make_index([(source, "app")], store, "both:1", admit=lambda proposal: False)
    assert refuse_all is None
    assert list(store.names()) == []
    assert list(store.blobs) == []
