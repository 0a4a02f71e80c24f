"""Object storage: naming a digest does not bring it into a repository."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from lamina.errors import BlobNotFound, NotFound
from lamina.objects.repositories import ObjectRepositories
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, build_index, build_manifest
from object_model import AtOnce, ModelBucket, Stage

MINE, OTHERS = "docker.io/mallory/app", "docker.io/bob/app"
SECRET = b"only bob's"


def push(place: ObjectRepositories, repository: str, data: bytes, media_type: str) -> Descriptor:
    ident = place.uploads.create(repository)
    place.uploads.append(repository, ident, [data])
    place.uploads.finish(repository, ident, Digest.of(data))
    return Descriptor(media_type, Digest.of(data), len(data))


def index_of(own: Descriptor, document: Manifest) -> Manifest | Index:
    return build_index([document.descriptor])


def index_of_blobs(own: Descriptor, document: Manifest) -> Manifest | Index:
    return build_index([document.config, *document.layers])


def foreign_layer(own: Descriptor, document: Manifest) -> Manifest | Index:
    one = document.layers[0]
    return build_manifest(own, [Descriptor(mediatype.OCI_FOREIGN_GZIP, one.digest, one.size)])


def foreign_document(own: Descriptor, document: Manifest) -> Manifest | Index:
    one = document.descriptor
    return build_manifest(own, [Descriptor(mediatype.OCI_FOREIGN_GZIP, one.digest, one.size)])


def subject(own: Descriptor, document: Manifest) -> Manifest | Index:
    return build_manifest(own, [], subject=document.descriptor)


@pytest.mark.parametrize("name", [index_of, index_of_blobs, foreign_layer, foreign_document, subject])
@pytest.mark.parametrize("tags", [["1"], []])
@pytest.mark.parametrize("warm", [True, False])
def test_what_is_only_named_is_not_in_the_repository(
    name: Callable[[Descriptor, Manifest], Manifest | Index], tags: list[str], warm: bool
) -> None:
    bucket = ModelBucket(Stage(random.Random(1), 0.0).step)

    def server() -> ObjectRepositories:
        return ObjectRepositories(bucket, clock=bucket.clock, pool=AtOnce())

    place = server()
    config = push(place, OTHERS, b"{}", mediatype.OCI_CONFIG)
    document = build_manifest(config, [push(place, OTHERS, SECRET, mediatype.OCI_LAYER_GZIP)])
    place.put_manifest(OTHERS, document.descriptor, document.raw, ["1"])
    own = push(place, MINE, b"{ }", mediatype.OCI_CONFIG)
    trap = name(own, document)
    place.put_manifest(MINE, trap.descriptor, trap.raw, tags)
    for asked in (place, server() if not warm else place):
        assert asked.find(MINE, trap.descriptor.digest).digest == trap.descriptor.digest
        for digest in (document.descriptor.digest, config.digest, document.layers[0].digest):
            with pytest.raises(NotFound):
                asked.find(MINE, digest)
            with pytest.raises(BlobNotFound):
                asked.blob(MINE, digest)
            assert not asked.keep(MINE, digest)
            assert not asked.mount("docker.io/mallory/other", digest, MINE)
        assert asked.referrers(OTHERS, document.descriptor.digest) == []
        assert asked.find(OTHERS, "1").digest == document.descriptor.digest
    wanted = build_manifest(own, [Descriptor(mediatype.OCI_LAYER_GZIP, document.layers[0].digest, len(SECRET))])
    with pytest.raises(BlobNotFound):
        place.put_manifest(MINE, wanted.descriptor, wanted.raw, ["2"])
