"""The documents of a built image: which history entries have a layer, when they were made, and where annotations
go."""

from __future__ import annotations

import pytest

from lamina.build.solving.cache import Made
from lamina.build.solving.image_documents import annotations_for, image_config
from lamina.build.solving.step_result import EMPTY, Result
from lamina.build.steps import BaseStep, Planned, RunStep, Step
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import History, ImageConfig, chain_ids
from lamina.spec.mediatype import OCI_CONFIG
from lamina.spec.platform import Platform

AMD64 = Platform("linux", "amd64")


def made(name: str, created: str) -> Made:
    digest = Digest.of(name.encode())
    return Made(Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", digest, 1), digest, created)


def entry(text: str, created: str | None = None, *, empty: bool = False) -> History:
    return History(created, text, empty_layer=empty)


def config_of(planned: Planned, results: dict[Step, Result]) -> tuple[list[tuple[str | None, str, bool]], str | None]:
    config = image_config(planned, results, media_type=OCI_CONFIG)
    return [(one.created, one.created_by, one.empty_layer) for one in config.history], config.created


def test_entries_get_the_times_of_their_layers_and_the_others_those_beside_them() -> None:
    base = BaseStep(name="b", digest="d", platform=AMD64)
    empty = RunStep(below=base, words=("x",), platform=AMD64)
    top = RunStep(below=empty, words=("y",), platform=AMD64)
    below = Result.of([made("b", "2020-01-01T00:00:00Z")])
    nothing = Result(below, key="k")
    results: dict[Step, Result] = {
        base: below,
        empty: nothing,
        top: Result(nothing, made("y", "2024-01-01T00:00:00Z")),
    }
    history = (entry("base", "2020-01-01T00:00:00Z"), entry("ENV", empty=True), entry("RUN x"), entry("RUN y"))
    planned = Planned("s", top, ImageConfig.build(AMD64), (*history, entry("CMD", empty=True)), AMD64)
    assert config_of(planned, results) == (
        [
            ("2020-01-01T00:00:00Z", "base", False),
            ("2024-01-01T00:00:00Z", "ENV", True),
            ("2024-01-01T00:00:00Z", "RUN x", True),
            ("2024-01-01T00:00:00Z", "RUN y", False),
            ("2024-01-01T00:00:00Z", "CMD", True),
        ],
        "2024-01-01T00:00:00Z",
    )


def test_an_image_without_layers_has_the_time_of_the_epoch() -> None:
    planned = Planned("s", None, ImageConfig.build(AMD64), (entry("ENV", empty=True),), AMD64, epoch=1_700_000_000)
    assert config_of(planned, {}) == ([(None, "ENV", True)], "2023-11-14T22:13:20Z")
    assert EMPTY.chain == ""


GIVEN = {
    "k": "1",
    "manifest:m": "2",
    "index:i": "3",
    "index,manifest:both": "4",
    "manifest[linux/arm64]:arm": "5",
    "manifest[linux/amd64]:amd": "6",
    "org.x:y": "7",
    "manifest-descriptor:d": "8",
}


@pytest.mark.parametrize(
    ("kind", "platform", "expected"),
    [
        ("manifest", AMD64, {"k": "1", "m": "2", "both": "4", "amd": "6", "org.x:y": "7"}),
        ("index", None, {"i": "3", "both": "4"}),
        ("manifest-descriptor", AMD64, {"d": "8"}),
        ("index-descriptor", None, {}),
    ],
)
def test_annotations_go_where_their_type_says(kind: str, platform: Platform | None, expected: dict[str, str]) -> None:
    assert annotations_for(GIVEN, kind, platform) == expected


def test_layers_are_identified_by_their_chain_and_steps_without_layers_too() -> None:
    layers = [made("a", ""), made("b", "")]
    one = Result.of(layers)
    assert one.layers == tuple(layers)
    assert one.chain == one.identity == str(chain_ids([layer.diff_id for layer in layers])[-1])
    twice = Result(Result(one, key="k"), key="k")
    assert twice.chain == one.chain
    assert len({one.identity, Result(one, key="k").identity, Result(one, key="l").identity, twice.identity}) == 4
