"""The terminal explorer's widgets, driven by textual's pilot; and what the verb refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.layout import LayoutReader
from lamina.insight.explore import Explorer, Mark
from lamina.layer.index import LayerIndex
from lamina.spec.platform import Platform
from lamina.transfer.open import open_stack
from support import lamina, write_layout

pytest.importorskip("textual")
from lamina.cli.explorer import ExplorerApp, LayerList, Union

HOSTILE = b"e\x1b[31m\x07\r\xffvil"


def explorer(where: Path, *layers: list[Any]) -> Explorer:
    write_layout(where / "l", "app", list(layers))
    return Explorer(open_stack(LayoutReader(str(where / "l")), "app", Platform.host(), "app"))


def drive(model: Explorer, actions: Callable[[ExplorerApp, Any], Awaitable[None]]) -> None:
    async def run() -> None:
        app = ExplorerApp(model)
        async with app.run_test(size=(140, 40)) as pilot:
            await pilot.pause()
            await actions(app, pilot)

    asyncio.run(run())


def lines(app: ExplorerApp, kind: type = Union) -> list[str]:
    widget = app.query_one(kind)
    return [widget.render_line(y).text.rstrip() for y in range(min(widget.count, widget.size.height))]


def text(app: ExplorerApp, selector: str) -> str:
    return str(app.query_one(selector).render())


LOWER = [("d/a", b"1"), ("d/b", b"2"), ("plain", b"first line\nsecond\ttab\n")]
UPPER = [("d/.wh.a", b""), ("d/b", b"22"), ("d/c", b"")]


def test_keys(tmp_path: Path) -> None:
    model = explorer(tmp_path, LOWER, UPPER)

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        assert model.layer == 1
        assert len(lines(app, LayerList)) == 2
        assert [line[0] for line in lines(app)] == ["*", " "]
        await pilot.press("tab", "space")
        assert [line.split()[-1] for line in lines(app)] == ["d", "a", "b", "c", "plain"]
        assert [line[0] for line in lines(app)] == ["*", "R", "M", "A", " "]
        await pilot.press("ctrl+r")
        assert not any(line.startswith("R") for line in lines(app))
        await pilot.press("ctrl+a", "m")
        assert [line.split()[-1] for line in lines(app)] == ["d", "plain"]
        await pilot.press("ctrl+r", "ctrl+a", "m", "ctrl+u")
        assert [line.split()[-1] for line in lines(app)] == ["d", "a", "b", "c"]
        await pilot.press("ctrl+u", "ctrl+b")
        assert lines(app)[1].split() == ["R", "a"]
        await pilot.press("ctrl+@")
        assert len(lines(app)) == 2
        await pilot.press("ctrl+@", "left")
        assert len(lines(app)) == 2
        await pilot.press("tab", "up")
        assert model.layer == 0
        assert [line[0] for line in lines(app)] == ["A", "A"]
        await pilot.press("ctrl+a")
        assert model.aggregated
        assert [line[0] for line in lines(app)] == [" ", " "]
        await pilot.press("ctrl+l")
        assert not model.aggregated

    drive(model, actions)


def test_filter_and_details(tmp_path: Path) -> None:
    model = explorer(tmp_path, LOWER, UPPER)

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        await pilot.press("ctrl+f", *"plain", "enter")
        assert [line.split()[-1] for line in lines(app)] == ["plain"]
        assert "first line\nsecond  tab" in text(app, "#text")
        assert text(app, "#what") == "/plain"
        await pilot.press("enter")
        assert text(app, "#text").count("layer 1") == 2  # where it is, and its story
        await pilot.press("escape")
        assert len(lines(app)) == 2
        await pilot.press("ctrl+f", *"nothing", "enter")
        assert lines(app) == []
        assert text(app, "#what") == "nothing to show"
        await pilot.press("down", "space", "left", "right")

    drive(model, actions)


def test_hostile_names_and_texts_are_escaped(tmp_path: Path) -> None:
    name = HOSTILE.decode("utf-8", "surrogateescape")
    model = explorer(tmp_path, [(name, b"\x1b]0;title\x07 text [red]"), (name + "2", "-> \x1b[2J")])

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        await pilot.press("tab")
        found = "\n".join([*lines(app), text(app, "#what"), text(app, "#text")])
        assert all(letter.isprintable() or letter == "\n" for letter in found)
        assert "e\\x1b[31m\\x07\\r\\xffvil" in found
        assert "\\x1b]0;title\\x07 text [red]" in found
        assert "\\x1b[2J" in found

    drive(model, actions)


def test_a_big_image_makes_only_the_lines_that_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = explorer(tmp_path, [(f"d{number % 50}/f{number}", b"") for number in range(20_000)])
    made: list[int] = []
    entry = LayerIndex.entry

    def counted(self: LayerIndex, row: int, path: bytes | None = None) -> Any:
        made.append(row)
        return entry(self, row, path)

    monkeypatch.setattr(LayerIndex, "entry", counted)

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        assert len(model.rows) == 50
        await pilot.press("tab", "ctrl+@", "end")
        assert len(model.rows) == 20_050
        assert lines(app)[-1].split()[-1].startswith("f")
        assert len(made) < 2000

    drive(model, actions)


def test_no_layers_at_all(tmp_path: Path) -> None:
    model = explorer(tmp_path)

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        await pilot.press("tab", "space", "enter", "ctrl+a", "tab", "down", "ctrl+a", "q")

    drive(model, actions)
    assert model.marks & 1 << Mark.SAME


def test_without_a_terminal(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [LOWER])
    done = lamina("explore", f"oci:{tmp_path}/l:app", root=tmp_path / "s")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"needs a terminal" in done.stderr
