"""The walk over documents: its order, its depth limit, and how it classifies documents."""

from __future__ import annotations

import pytest

from lamina.errors import BlobNotFound, DigestMismatch, InvalidDocument, SystemFailure, Unsupported
from lamina.source.protocols import Blob
from lamina.source.select import MAX_NESTING
from lamina.source.walk import (
    Absent,
    Classified,
    Damaged,
    Known,
    Unrecognized,
    classifier,
    classify,
    listed_documents,
    reachable,
    walk,
)
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, build_index, build_manifest

LAYER = Descriptor.of(mediatype.OCI_LAYER, b"layer")


class Place:
    """Documents in memory; how often each was asked for."""

    location = "memory"

    def __init__(self) -> None:
        self.data: dict[Digest, bytes | Exception] = {}
        self.asked: list[Digest] = []

    def put(self, document: Manifest | Index) -> Descriptor:
        self.data[document.descriptor.digest] = document.raw
        return document.descriptor

    def image(self, name: str) -> Descriptor:
        return self.put(build_manifest(Descriptor.of(mediatype.OCI_CONFIG, name.encode()), [LAYER, LAYER]))

    def index(self, *children: Descriptor) -> Descriptor:
        return self.put(build_index(children))

    def manifest(self, descriptor: Descriptor) -> bytes:
        self.asked.append(descriptor.digest)
        found = self.data.get(descriptor.digest, BlobNotFound("gone"))
        if isinstance(found, Exception):
            raise found
        descriptor.check(found)
        return found

    def resolve(self, name: str) -> Descriptor:
        raise NotImplementedError

    def blob(self, descriptor: Descriptor) -> Blob:
        raise NotImplementedError


def order(place: Place, *tops: Descriptor, children_first: bool = False) -> list[Digest]:
    found = walk(classifier(place), tops, children=listed_documents, children_first=children_first)
    return [one.descriptor.digest for one in found]


def test_each_document_comes_once_in_the_order_of_the_indexes_before_or_after_what_it_lists() -> None:
    place = Place()
    one, two, three = (place.image(name) for name in ("one", "two", "three"))
    inner = place.index(two, one)
    top = place.index(one, inner, three)
    other = place.index(three)
    assert order(place, top, other) == [one_.digest for one_ in (top, one, inner, two, three, other)]
    assert len(place.asked) == len(set(place.asked)) == 6
    assert order(place, top, other, children_first=True) == [
        one_.digest for one_ in (one, two, inner, three, top, other)
    ]


def test_a_shared_child_comes_before_all_that_list_it() -> None:
    place = Place()
    shared = place.image("shared")
    first, second = place.index(shared), place.index(place.image("x"), shared)
    found = order(place, place.index(first, second), children_first=True)
    assert found.index(shared.digest) < found.index(first.digest)
    assert found.index(shared.digest) < found.index(second.digest)


def test_known_absent_damaged_and_unrecognized_documents_are_classified() -> None:
    place = Place()
    image = place.image("image")
    assert classify(place.manifest, image) == Known(
        image, build_manifest(Descriptor.of(mediatype.OCI_CONFIG, b"image"), [LAYER, LAYER])
    )
    cases: list[tuple[Descriptor, bytes | Exception | None, type[Classified]]] = [
        (Descriptor.of(mediatype.OCI_MANIFEST, b"nowhere"), None, Absent),
        (Descriptor.of(mediatype.OCI_MANIFEST, b"other bytes"), b"OTHER bytes", Damaged),
        (Descriptor.of(mediatype.OCI_MANIFEST, b"fewer"), b"few", Damaged),
        (Descriptor.of(mediatype.OCI_MANIFEST, b"disk"), SystemFailure("input/output error"), Damaged),
        (Descriptor.of(mediatype.OCI_MANIFEST, b"no document"), b"no document", Unrecognized),
        (Descriptor(mediatype.OCI_MANIFEST, Digest("sha999", "a"), 1), Unsupported("unknown digest"), Unrecognized),
    ]
    for descriptor, data, kind in cases:
        if data is not None:
            place.data[descriptor.digest] = data
        found = classify(place.manifest, descriptor)
        assert type(found) is kind
        assert found.descriptor == descriptor
    for what, said in (("", str(cases[4][0].digest)), ("app:1", "app:1")):
        unread = classify(place.manifest, cases[4][0], what=what)
        assert isinstance(unread, Unrecognized)
        assert unread.error.message.startswith(said)
    error = classify(place.manifest, cases[1][0])
    assert isinstance(error, Damaged)
    assert isinstance(error.error, DigestMismatch)


def test_a_document_with_another_media_type_than_stated_is_unrecognized_unless_unchecked() -> None:
    place = Place()
    image = place.image("image")
    other = Descriptor(mediatype.OCI_INDEX, image.digest, image.size)
    assert isinstance(classify(place.manifest, other), Unrecognized)
    assert isinstance(classify(place.manifest, other, check_media_type=False), Known)


def test_layers_in_an_index_are_not_read_as_documents() -> None:
    place = Place()
    image = place.image("image")
    top = place.index(LAYER, image)
    assert order(place, top) == [top.digest, image.digest]
    assert {one.digest for one in reachable(place, top)} == {
        top.digest,
        image.digest,
        LAYER.digest,
        Digest.of(b"image"),
    }


def test_nesting_has_a_limit_and_what_is_not_there_leads_nowhere() -> None:
    place = Place()
    top = place.image("image")
    for _ in range(MAX_NESTING):
        top = place.index(top)
    assert len(order(place, top)) == MAX_NESTING + 1
    deeper = place.index(top)
    with pytest.raises(InvalidDocument, match="app: indexes are nested more than 8 deep"):
        list(walk(classifier(place), [deeper], children=listed_documents, what="app"))
    assert len(list(walk(classifier(place), [deeper], children=listed_documents, max_depth=None))) == MAX_NESTING + 2
    del place.data[top.digest]
    assert [type(one) for one in walk(classifier(place), [deeper], children=listed_documents)] == [Known, Absent]


def test_documents_are_read_only_when_the_walk_reaches_them() -> None:
    place = Place()
    image = place.image("image")
    found = walk(classifier(place), [place.index(image)], children=listed_documents)
    next(found)
    assert image.digest not in place.asked
