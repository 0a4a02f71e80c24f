"""The list of records of a shared build cache: what is written is read again, and what is hostile is refused."""

from __future__ import annotations

import pytest

from lamina.build.solving.cache import Made
from lamina.build.solving.shared_cache import listed, records_in
from lamina.errors import InvalidDocument
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

LAYERS = tuple(Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(b"%d" % n), n) for n in range(3))
KEYS = [f"{n:064x}" for n in range(4)]
DIFF_ID = Digest.of(b"diff")


def test_records_are_read_as_they_were_written() -> None:
    records = {
        KEYS[0]: Made(LAYERS[1], DIFF_ID, "2024-01-01T00:00:00Z"),
        KEYS[1]: None,
        KEYS[2]: Made(LAYERS[0], DIFF_ID, ""),
    }
    assert records_in(listed(records, LAYERS), LAYERS, "x") == records


def test_records_of_layers_that_are_not_written_are_left_out() -> None:
    records = {KEYS[0]: Made(LAYERS[2], DIFF_ID, ""), KEYS[1]: None}
    assert listed(records, LAYERS[:2]) == [{"key": KEYS[1]}]


HOSTILE: list[object] = [
    None,
    {},
    [1],
    [{}],
    [{"key": "../../x"}],
    [{"key": KEYS[0].upper() + "G"}],
    [{"key": KEYS[0], "layer": 3, "diff_id": str(DIFF_ID)}],
    [{"key": KEYS[0], "layer": -1, "diff_id": str(DIFF_ID)}],
    [{"key": KEYS[0], "layer": True, "diff_id": str(DIFF_ID)}],
    [{"key": KEYS[0], "layer": 0}],
    [{"key": KEYS[0], "layer": 0, "diff_id": "sha256:no"}],
    [{"key": KEYS[0], "layer": 0, "diff_id": str(DIFF_ID), "created": 7}],
    [{"key": KEYS[0], "layer": 0, "diff_id": str(DIFF_ID), "created": "yesterday"}],
    [{"key": KEYS[0], "layer": 0, "diff_id": str(DIFF_ID), "created": "2024-01-01T00:00:00Z\n"}],
    [{"key": KEYS[0]}] * 50_001,
]


@pytest.mark.parametrize(
    "layer",
    [
        Descriptor("text/html", LAYERS[0].digest, 1),
        Descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", LAYERS[0].digest, 1),
        Descriptor(LAYERS[0].media_type, LAYERS[0].digest, 1, urls=("http://127.0.0.1/layer",)),
    ],
    ids=["page", "foreign", "elsewhere"],
)
def test_layers_that_must_not_be_in_an_image_are_refused(layer: Descriptor) -> None:
    with pytest.raises(InvalidDocument, match="is not what lamina writes"):
        records_in([{"key": KEYS[0], "layer": 0, "diff_id": str(DIFF_ID)}], (layer,), "x")


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_what_lamina_does_not_write_is_refused(value: object) -> None:
    with pytest.raises(InvalidDocument, match="the build cache x is not what lamina writes"):
        records_in(value, LAYERS, "x")
