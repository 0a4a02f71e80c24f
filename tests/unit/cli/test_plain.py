"""Command lines that are answered without click: both parsers give the same values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lamina.cli import plain
from lamina.cli.containers import run_command
from lamina.cli.containers.verbs import run
from lamina.cli.option_table import Option
from lamina.cli.registry import plain_queries, queries
from lamina.cli.session import Session

NAMES = sorted({name for option in run_command.RUN_OPTIONS for name in option.names})
VALUES = ["x", "", "a=b", "-", "--", "-it", "--rm", "1", "1.5", "missing", "~", "é", "run"]
ODD = ["--", "-", "-it", "-ti", "-i", "-tx", "-ex", "-e=1", "--r", "--platform", "--view", "--help", "-h"]
WORDS = st.one_of(
    st.sampled_from([*NAMES, *VALUES, *ODD]),
    st.builds("{}={}".format, st.sampled_from(NAMES), st.sampled_from(VALUES)),
)


def by_click(words: list[str]) -> dict[str, Any]:
    return run.make_context("run", list(words), obj=Session({})).params


@given(st.lists(WORDS, max_size=7))
@example(["--rm", "--network", "none", "base", "true"])
@example(["-it", "--rm", "-e", "A=1", "-e", "B", "--name=x", "app:1", "sh", "-c", "--", "-x"])
@example(["--entrypoint", "", "app"])
@example(["-v", "--rm", "app"])
def test_parses_like_click(words: list[str]) -> None:
    found = plain.parse(words, run_command.RUN_OPTIONS)
    if found is None:
        return
    options, (image, *command) = found
    assert {**options, "view": None, "image": image, "words": tuple(command)} == by_click(words)


@pytest.mark.parametrize(
    "words",
    [
        ["app"],
        ["--rm", "--network", "none", "app", "true", "--help"],
        ["-it", "--rm", "-v", "/a:/b:ro", "-e", "A=1", "--name=web", "-m", "1g", "--runtime", "runc", "app:1", "sh"],
    ],
)
def test_parses_common_command_lines(words: list[str]) -> None:
    assert plain.parse(words, run_command.RUN_OPTIONS) is not None


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--rm"],
        ["-e"],
        ["--rm=1", "app"],
        ["--nothing", "app"],
        ["--net", "none", "--", "app"],
        ["--cpus", "1", "app"],
        ["--pull", "never", "app"],
        ["--help"],
    ],
)
def test_other_command_lines_are_left_to_click(words: list[str]) -> None:
    assert plain.parse(words, run_command.RUN_OPTIONS) is None


def test_run_is_answered_without_click(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        run_command, "run_container", lambda session, *words, **given: asked.append((session.flags, words)) or 3
    )
    assert plain.answer(["--root", "/s", "run", "app", "a"]) == 3
    assert plain.answer(["--root=/s", "run", "app"]) == 3
    assert plain.answer(["run", "app"]) == 3
    assert asked == [({"root": "/s"}, ("app", ("a",))), ({"root": "/s"}, ("app", ())), ({}, ("app", ()))]
    for words in (["ls", "app"], [], ["--root"], ["--help"], ["--root", "run", "app"], ["run"]):
        assert plain.answer(words) is None
    monkeypatch.setenv("_LAMINA_COMPLETE", "bash_source")
    assert plain.answer(["run", "app"]) is None


def test_tags_digest_and_manifest_are_answered_without_click(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setitem(
        plain_queries.ANSWERS, "digest", lambda session, name, **given: asked.append((session.flags, name, given))
    )
    assert plain.answer(["--root", "/s", "digest", "app"]) == 0
    assert plain.answer(["digest", "--full-ref", "app"]) == 0
    assert asked == [
        ({"root": "/s"}, "app", {"local": False, "full_ref": False}),
        ({}, "app", {"local": False, "full_ref": True}),
    ]
    for words in (
        ["digest"],
        ["digest", "app", "b"],
        ["digest", "app", "--full-ref"],
        ["digest", "--platform=linux/arm64", "app"],
        ["digest", "--help"],
        ["tags", "--format", "json", "app"],
        ["delete", "app:1"],
    ):
        assert plain.answer(words) is None
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (run, run_command.RUN_OPTIONS),
        *((getattr(queries, verb), options) for verb, options in plain_queries.OPTIONS.items()),
    ],
)
def test_click_has_the_tables_options(verb: click.Command, options: Sequence[Option]) -> None:
    known = {name: parameter for parameter in verb.params for name in parameter.opts}
    for option in options:
        assert {known[name].name for name in option.names} == {option.argument}
