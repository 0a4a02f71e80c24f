"""Comparison of configs, histories and texts; alignment of history and layers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.insight.config_diff import diff_configs, diff_histories
from lamina.insight.history import aligned
from lamina.insight.text_diff import unified
from lamina.spec.image_config import History, ImageConfig
from lamina.spec.json import dump
from lamina.spec.platform import Platform


def config(**changes: Any) -> ImageConfig:
    return ImageConfig.build(Platform("linux", "amd64"), **changes)


def test_configs_are_compared_field_by_field() -> None:
    one = config(env=["A=1", "B=2"], cmd=["sh"], labels={"x": "1"}, created="2024-01-01T00:00:00Z")
    other = config(env=["B=3", "A=1", "C="], cmd=["sh"], user="me", created="2025-01-01T00:00:00Z")
    value = {**other.json, "config": {**other.json["config"], "Healthcheck": {"Test": ["NONE"]}, "OnBuild": None}}
    other = ImageConfig.parse(dump(value))
    found = diff_configs(one, other)
    assert [(change.field, change.before, change.after) for change in found] == [
        ("config.Env.B", "2", "3"),
        ("config.Healthcheck", None, {"Test": ["NONE"]}),
        ("config.Labels.x", "1", None),
        ("config.User", None, "me"),
        ("created", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
    ]
    assert "created" not in [change.field for change in diff_configs(one, other, created=False)]
    assert diff_configs(one, one) == []


def test_histories_are_aligned() -> None:
    def step(name: str, created: str = "2024-01-01T00:00:00Z") -> History:
        return History(created, name)

    one = [step("base"), step("apt"), step("copy"), step("cmd")]
    other = [step("base"), step("apt", "2025-01-01T00:00:00Z"), step("pip"), step("cmd")]
    told = [(change.how, change.step.created_by) for change in diff_histories(one, other)]
    assert told == [("removed", "apt"), ("removed", "copy"), ("added", "apt"), ("added", "pip")]
    told = [(change.how, change.step.created_by) for change in diff_histories(one, other, created=False)]
    assert told == [("removed", "copy"), ("added", "pip")]


def test_histories_of_many_equal_steps_are_aligned_in_little_time() -> None:
    one, other = [History(created_by="x")] * 30_000, [History(created_by=word) for word in "yx" * 15_000]
    assert len(diff_histories([History(created_by="a"), *one], [*other, History(created_by="b")])) == 60_002


names = st.text(alphabet="ab", min_size=1, max_size=2)
histories = st.lists(st.builds(History, created_by=names, empty_layer=st.booleans()), max_size=8)


@given(histories, histories)
def test_history_changes_turn_one_history_into_the_other(one: list[History], other: list[History]) -> None:
    found = diff_histories(one, other)
    went = [change.step for change in found if change.how == "removed"]
    came = [change.step for change in found if change.how == "added"]

    def without(steps: list[History], some: list[History]) -> list[History]:
        left = list(steps)
        for step in some:
            left.remove(step)
        return left

    assert sorted(map(repr, without(one, went))) == sorted(map(repr, without(other, came)))


@given(histories, st.integers(0, 6))
def test_every_layer_has_one_step_and_every_step_is_listed_once(history: list[History], layers: int) -> None:
    found = aligned(history, layers)
    assert [step.layer for step in found if step.layer is not None] == list(range(1, layers + 1))
    claimed = [step for step in history if not step.empty_layer][:layers]
    assert [step.history for step in found if step.layer and step.recorded] == claimed
    assert [step.history for step in found if not step.layer] == [step for step in history if step.empty_layer]
    for low in range(1, layers + 1):
        for high in range(low, layers + 1):
            part = aligned(history, layers, low=low, high=high)
            assert [step.layer for step in part if step.layer is not None] == list(range(low, high + 1))
            assert any(found[at : at + len(part)] == part for at in range(len(found)))


def test_a_range_has_the_empty_steps_between_its_layers() -> None:
    def step(name: str, empty: bool = False) -> History:
        return History(created_by=name, empty_layer=empty)

    history = [step("arg", True), step("one"), step("env", True), step("two"), step("cmd", True), step("three")]

    def told(**layers: int) -> list[tuple[int | None, str]]:
        return [(one.layer, one.history.created_by) for one in aligned(history, 3, **layers)]

    assert told(high=1) == [(None, "arg"), (1, "one"), (None, "env")]
    assert told(low=2, high=2) == [(2, "two"), (None, "cmd")]
    assert told() == [(None, "arg"), (1, "one"), (None, "env"), (2, "two"), (None, "cmd"), (3, "three")]


def test_texts_are_compared_line_by_line() -> None:
    assert unified(b"a\nb\nc", b"a\nB\nc", ("a/x", "b/x")) == [
        "--- a/x",
        "+++ b/x",
        "@@ -1,3 +1,3 @@",
        " a",
        "-b",
        "+B",
        " c",
        "\\ No newline at end of file",
    ]
    assert unified(b"a\r\nb\x0cc\n", b"a\nb\x0cc\n", ("x", "x"))[3:] == ["-a\r", "+a", " b\x0cc"]  # type: ignore[index]
    assert unified(b"", b"new\n", ("x", "x"))[2:] == ["@@ -0,0 +1 @@", "+new"]  # type: ignore[index]


@pytest.mark.parametrize("data", [b"\0", b"\xff\xfe", b"text\0"])
def test_binary_files_have_no_text_diff(data: bytes) -> None:
    assert unified(data, b"text", ("x", "x")) is None
    assert unified(b"text", data, ("x", "x")) is None


def test_text_that_would_take_too_long_is_refused() -> None:
    one = "".join(f"{number % 150}\n" for number in range(60_000))
    assert unified(one.encode(), ("x\n" + one[::-1]).encode(), ("x", "x")) is None
