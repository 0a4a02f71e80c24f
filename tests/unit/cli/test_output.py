"""Lists as JSON: the text equals that of the whole list, and nothing is written if making a value fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lamina.cli.format import output
from lamina.errors import InvalidContent

VALUES = [{"path": "/a\n\x1b ä\u2028", "n": number, "some": [], "more": [{"x": None}, {}]} for number in range(1001)]


@pytest.mark.parametrize("count", [0, 1, 2, 199, 200, 201, 400, 1001])
@pytest.mark.parametrize("held", [1, 10_000, 1 << 24])
@pytest.mark.parametrize("checked", [True, False])
def test_a_list_is_written_like_json_dumps(
    count: int, held: int, checked: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_HELD", held)
    output.emit_json_list(iter(VALUES[:count]), checked=checked)
    assert capsys.readouterr().out == json.dumps(VALUES[:count], indent=2) + "\n"


@pytest.mark.parametrize("held", [1, 1 << 24])
def test_nothing_is_written_if_making_a_value_fails(
    held: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_HELD", held)

    def failing() -> Iterator[Any]:
        yield from VALUES
        raise InvalidContent("the last one is damaged")

    with pytest.raises(InvalidContent):
        output.emit([], [], "json", json_rows=failing())
    assert capsys.readouterr().out == ""


def test_checked_values_are_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    read: list[str] = []

    def values() -> Iterator[Any]:
        for value in VALUES:
            yield value
            read.append(capsys.readouterr().out)

    output.emit_json_list(values(), checked=True)
    assert read[0] == ""
    assert "".join(read[:-1]) != ""
    assert json.loads("".join(read) + capsys.readouterr().out) == VALUES


def test_each_line_of_a_template_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"Path": f"/{number}\t\x1b\n{number}"} for number in range(2500)]
    output.emit(rows, [], "{{.Path}}")
    assert capsys.readouterr().out == "".join(f"/{number}\t\\x1b\n{number}\n" for number in range(2500))


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2001])
def test_columns_are_as_wide_as_their_widest_cell(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["x" * (number % 7), str(number), "end"] for number in range(count)]
    output.table(iter(rows), ["ONE", "N", "LAST"], right=[1])
    first, second = max(3, min(count - 1, 6)), len(str(max(count - 1, 0)))
    lines = [f"{one:{first}}   {two:>{second}}   {last}" for one, two, last in [["ONE", "N", "LAST"], *rows]]
    assert capsys.readouterr().out.splitlines() == lines
    output.table(iter(rows))
    assert len(capsys.readouterr().out.splitlines()) == count
