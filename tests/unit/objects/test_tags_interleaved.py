"""Tags that are moved, fixed and removed by several servers at once, in random orders of their single requests."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import Conflict, NotFound, RemoteFailure
from lamina.objects.bucket import Version
from lamina.objects.documents import CONDEMNED, Record
from lamina.objects.records import Records
from lamina.objects.removal import LEASE
from lamina.objects.tags import Tags
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from object_model import ModelBucket, Stage

REPOSITORY = "docker.io/library/app"
DOCUMENTS = [Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"%d" % n), n) for n in range(4)]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_the_last_change_of_a_tag_stays(seed: int) -> None:
    choice = random.Random(seed)
    stage = Stage(choice)
    bucket = ModelBucket(stage.step)
    done: list[Descriptor | None] = []

    def move(document: Descriptor) -> None:
        Tags(bucket, bucket.clock).set(REPOSITORY, "x", document)

    def remove() -> None:
        with suppress(NotFound):
            Tags(bucket, bucket.clock).remove(REPOSITORY, "x")

    actors = [lambda document=document: move(document) for document in DOCUMENTS]
    stage.play([*actors[:2], remove, remove])
    stage.play([*actors[2:], remove])
    tags = Tags(bucket, bucket.clock)
    move(DOCUMENTS[0])  # after all others: nothing that they began undoes it
    done.append(tags.get(REPOSITORY, "x"))
    assert done == [DOCUMENTS[0]]
    assert list(tags.list(REPOSITORY)) == ["x"]
    stage.play([actors[1], actors[2]])
    assert tags.get(REPOSITORY, "x") in (DOCUMENTS[1], DOCUMENTS[2])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_fixed_tag_has_one_winner(seed: int) -> None:
    stage = Stage(random.Random(seed))
    bucket = ModelBucket(stage.step)
    won: list[Descriptor] = []

    def fix(document: Descriptor) -> None:
        with suppress(Conflict):
            Tags(bucket, bucket.clock).set(REPOSITORY, "x", document, fixed=True)
            won.append(document)

    stage.play([lambda document=document: fix(document) for document in DOCUMENTS])
    assert [Tags(bucket).get(REPOSITORY, "x")] == won


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_a_removal_that_was_broken_off_does_not_block_the_tag(seed: int) -> None:
    choice = random.Random(seed)
    stage = Stage(choice, kills=0.3)
    bucket = ModelBucket(stage.step)
    Tags(bucket, bucket.clock).set(REPOSITORY, "x", DOCUMENTS[0])
    stage.play([lambda: Tags(bucket, bucket.clock).remove(REPOSITORY, "x")])
    before = bucket.time
    Tags(bucket, bucket.clock).set(REPOSITORY, "x", DOCUMENTS[1])
    assert Tags(bucket).get(REPOSITORY, "x") == DOCUMENTS[1]
    assert bucket.time - before < 2 * LEASE


class Refusing(ModelBucket):
    """Something on the way to the storage changes ETags, so that no condition is ever met."""

    refuses = False

    def swap(self, key: str, data: bytes, version: Version) -> Version | None:
        return None if self.refuses else super().swap(key, data, version)

    def create(self, key: str, data: bytes) -> Version | None:
        return None if self.refuses else super().create(key, data)


@pytest.mark.parametrize(
    "change",
    [
        lambda bucket: Tags(bucket, bucket.clock).set(REPOSITORY, "x", DOCUMENTS[1]),
        lambda bucket: Tags(bucket, bucket.clock).set(REPOSITORY, "new", DOCUMENTS[1]),
        lambda bucket: Tags(bucket, bucket.clock).remove(REPOSITORY, "x"),
        lambda bucket: Records(bucket, bucket.clock).rely(DOCUMENTS[0].digest),
        lambda bucket: Records(bucket, bucket.clock).publish(DOCUMENTS[1].digest, Record(0, "1", ())),
    ],
)
def test_storage_that_refuses_every_change_is_not_asked_for_ever(change: Callable[[ModelBucket], object]) -> None:
    bucket = Refusing()
    Tags(bucket, bucket.clock).set(REPOSITORY, "x", DOCUMENTS[0])
    Records(bucket, bucket.clock).publish(DOCUMENTS[0].digest, Record(0, "1", (), CONDEMNED))
    bucket.refuses = True
    with pytest.raises(RemoteFailure, match="refuses each change"):
        change(bucket)
