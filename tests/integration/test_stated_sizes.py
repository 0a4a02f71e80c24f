"""A document that states a wrong size of what it names: refused when it is written, and named by fsck."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import lamina.objects.repositories
import lamina.store.repositories
from lamina.errors import SizeMismatch
from lamina.objects.fsck import Checker
from lamina.objects.place import open_place
from lamina.serve.api import Api
from lamina.serve.failures import answered
from lamina.serve.http_message import Request, Response
from lamina.serve.routes import parse_target
from lamina.source.served import WritableRepositories
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, build_index, build_manifest
from lamina.store.fsck import fsck
from lamina.store.store import Store

MINE, OTHERS = "docker.io/library/app", "docker.io/other/app"
CONFIG = Descriptor.of("application/vnd.oci.empty.v1+json", b"{}")
LAYER = Descriptor.of("application/vnd.example", b"layer")
CHILD = build_manifest(CONFIG, [LAYER], artifact_type="a/b")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


Problems = Callable[[], list[str]]
"""What fsck finds."""


@pytest.fixture(params=["store", "objects"])
def opened(request: pytest.FixtureRequest, store: Store) -> Iterator[tuple[WritableRepositories, Problems]]:
    if request.param == "store":
        with store.repositories() as place:
            yield place, lambda: [one.what for one in fsck(store) if one.severity == "error"]
        return
    objects = open_place("memory:")
    with objects.repositories() as place:
        yield place, lambda: Checker(objects.bucket, deep=True).run().damage


def larger(one: Descriptor) -> Descriptor:
    return replace(one, size=one.size + 1)


def push_blobs(place: WritableRepositories, repository: str) -> None:
    for data in (b"{}", b"layer"):
        ident = place.uploads.create(repository)
        place.uploads.append(repository, ident, [data])
        place.uploads.finish(repository, ident, Digest.of(data))


def push(place: WritableRepositories, document: Manifest | Index, tag: str, repository: str = MINE) -> None:
    place.put_manifest(repository, document.descriptor, document.raw, [tag])


@pytest.mark.parametrize(
    ("document", "stated"),
    [
        (build_manifest(larger(CONFIG), [LAYER], artifact_type="a/b"), CONFIG),
        (build_manifest(CONFIG, [larger(LAYER)], artifact_type="a/b"), LAYER),
        (build_manifest(CONFIG, [replace(LAYER, size=0)], artifact_type="a/b"), LAYER),
        (build_index([larger(CHILD.descriptor)]), CHILD.descriptor),
        (build_index([replace(CHILD.descriptor, size=1)]), CHILD.descriptor),
        (build_index([larger(LAYER)]), LAYER),  # BuildKit's caches list blobs
    ],
)
def test_a_wrong_size_of_what_is_there_is_refused_and_found(
    opened: tuple[WritableRepositories, Problems],
    document: Manifest | Index,
    stated: Descriptor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, problems = opened
    push_blobs(place, MINE)
    push(place, CHILD, "child")
    with pytest.raises(SizeMismatch, match=f"{stated.digest}, which has {stated.size}"):
        push(place, document, "wrong")
    assert place.tags(MINE) == ["child"]
    assert problems() == []

    # as before this was checked
    monkeypatch.setattr(lamina.objects.repositories, "check_stated_size", lambda *words: None)
    monkeypatch.setattr(lamina.store.repositories, "check_stated_size", lambda *words: None)
    monkeypatch.setattr(lamina.store.repositories, "check_listed_size", lambda *words: None)
    monkeypatch.setattr(lamina.store.repositories, "first_missing", lambda *words: None)
    push(place, document, "wrong")
    found = problems()
    if isinstance(document, Index) and stated is LAYER and place.location != "memory:":
        assert found == []  # the store follows only documents
        return
    assert len(found) == 1
    assert f"{document.descriptor.digest} states" in found[0]
    assert found[0].endswith(f"{stated.digest}, which has {stated.size}")


def test_an_index_may_list_what_is_not_in_its_repository(opened: tuple[WritableRepositories, Problems]) -> None:
    """Also what only another repository has: whether it has it is not told."""
    place, _ = opened
    push_blobs(place, OTHERS)
    push(place, CHILD, "child", OTHERS)
    push(place, build_index([larger(LAYER), Descriptor.of("application/vnd.oci.image.manifest.v1+json", b"x")]), "1")
    push(place, build_index([larger(CHILD.descriptor)]), "2")
    assert place.tags(MINE) == ["1", "2"]


def test_a_client_is_told_which_size_is_wrong(opened: tuple[WritableRepositories, Problems]) -> None:
    place, _ = opened
    push_blobs(place, MINE)
    push(place, CHILD, "child")
    api = Api(place, place)

    def put(document: Index) -> Response:
        headers = {"Content-Type": document.media_type}
        target = parse_target(f"/v2/app/manifests/{document.descriptor.digest}")
        return answered(api.answer, Request("PUT", target, headers, iter([document.raw]), len(document.raw)))

    answer = put(build_index([larger(CHILD.descriptor)]))
    assert (answer.status, b"MANIFEST_INVALID" in answer.body) == (400, True)
    assert b"which has %d" % CHILD.descriptor.size in answer.body
    assert put(build_index([CHILD.descriptor])).status == 201


def test_a_session_of_the_store_refuses_it_too(store: Store) -> None:
    with store.session("test") as session:
        for one, data in ((CONFIG, b"{}"), (LAYER, b"layer")):
            session.put_blob(one, BytesBlob(one, data))
        session.put_manifest(CHILD.descriptor, CHILD.raw)
        for document in (
            build_manifest(CONFIG, [larger(LAYER)], artifact_type="a/b"),
            build_index([larger(CHILD.descriptor)]),
        ):
            with pytest.raises(SizeMismatch, match="which has"):
                session.put_manifest(document.descriptor, document.raw)


def test_a_damaged_child_is_not_taken_for_a_wrong_size(store: Store) -> None:
    with store.repositories() as place:
        push_blobs(place, MINE)
        push(place, CHILD, "child")
        push(place, build_index([CHILD.descriptor]), "index")
    path = Path(store.blobs.path(CHILD.descriptor.digest))
    path.chmod(0o644)
    path.write_bytes(CHILD.raw[:-1])
    found = [one.what for one in fsck(store) if one.severity == "error"]
    assert not any("states" in one for one in found)
    assert sum(one.endswith("which is damaged") for one in found) == 2


def test_a_damaged_child_says_nothing_about_an_index(store: Store) -> None:
    """A pull for one platform does not fail because of another one."""
    with store.repositories() as place:
        push_blobs(place, MINE)
        push(place, CHILD, "child")
        path = Path(store.blobs.path(CHILD.descriptor.digest))
        path.chmod(0o644)
        path.write_bytes(CHILD.raw[:-1])
        index = build_index([CHILD.descriptor])
        with store.session("test") as session:
            session.put_manifest(index.descriptor, index.raw)
        push(place, index, "index")


def test_sizes_of_one_child_in_two_indexes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index with the true size is not blamed, whichever is read first."""
    monkeypatch.setattr(lamina.store.repositories, "check_listed_size", lambda *words: None)
    wrong, right = build_index([larger(CHILD.descriptor)]), build_index([CHILD.descriptor])
    with store.repositories() as place:
        push_blobs(place, MINE)
        push(place, CHILD, "child")
        for number, pair in enumerate(itertools.permutations([wrong, right])):
            for one in pair:
                push(place, one, "inner")
            push(place, build_index([one.descriptor for one in pair]), f"outer{number}")
    found = [one.what for one in fsck(store) if one.severity == "error"]
    assert found
    assert all(f"{wrong.descriptor.digest} states" in one for one in found)
