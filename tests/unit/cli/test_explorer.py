"""The widgets of `explore`, driven by the pilot of textual; and the errors of the verb."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.layout import LayoutReader
from lamina.insight.explore_state import Explorer, Mark
from lamina.layer.index import LayerIndex
from lamina.spec.platform import Platform
from lamina.transfer.open_stack import open_stack
from support import lamina, write_layout

pytest.importorskip("textual")
from lamina.cli.look import explorer as widgets
from lamina.cli.look.explorer import ExplorerApp, LayerList, Union

HOSTILE = b"e\x1b[31m\x07\r\xffvil"


def explorer(where: Path, *layers: list[Any]) -> Explorer:
    write_layout(where / "l", "app", list(layers))
    return Explorer(open_stack(LayoutReader(str(where / "l")), "app", Platform.host(), "app"))


def drive(
    model: Explorer,
    actions: Callable[[ExplorerApp, Any], Awaitable[None]],
    size: tuple[int, int] = (140, 40),
) -> None:
    async def run() -> None:
        app = ExplorerApp(model)
        async with app.run_test(size=size) as pilot:
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


def test_keys_of_the_explorer(tmp_path: Path) -> None:
    model = explorer(tmp_path, LOWER, UPPER)

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        assert model.layer == 1
        assert len(lines(app, LayerList)) == 2
        assert [line.split()[-1] for line in lines(app)] == ["d", "a", "b", "c", "plain"]
        await pilot.press("tab", "space")
        assert [line[0] for line in lines(app)] == ["*", " "]
        await pilot.press("space")
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
        assert len(lines(app)) == 5
        await pilot.press("slash", *"pla")
        assert [line.split()[-1] for line in lines(app)] == ["plain"]  # as it is typed
        await pilot.press("backspace", "backspace", "backspace", "slash", "c")
        assert [line.split()[-1] for line in lines(app)] == ["d", "c"]
        assert "filter: /c" in text(app, "#heading")
        await pilot.press("escape")
        assert len(lines(app)) == 5
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


def test_only_visible_lines_of_a_large_image_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = explorer(tmp_path, [(f"d{number % 50}/f{number}", b"") for number in range(20_000)])
    made: list[int] = []
    entry = LayerIndex.entry

    def counted(self: LayerIndex, row: int, path: bytes | None = None) -> Any:
        made.append(row)
        return entry(self, row, path)

    monkeypatch.setattr(LayerIndex, "entry", counted)

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        await pilot.press("tab", "ctrl+@")
        assert len(model.rows) == 50
        await pilot.press("ctrl+@", "end")
        assert len(model.rows) == 20_050
        assert lines(app)[-1].split()[-1].startswith("f")
        assert len(made) < 2000

    drive(model, actions)


def test_a_large_image_is_filtered_after_a_pause_in_typing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = explorer(tmp_path, LOWER, UPPER)
    monkeypatch.setattr(widgets, "AT_ONCE", 3)
    monkeypatch.setattr(widgets, "PAUSE", 3600)
    asked: list[str] = []
    monkeypatch.setattr(model, "filter", asked.append)

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        await pilot.press("slash", *"plain")
        assert asked == []
        await pilot.press("enter")
        assert asked == ["plain"]

    drive(model, actions)


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (140, 40)])
@pytest.mark.parametrize("colour", [True, False])
def test_layers_can_be_read_at_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], colour: bool
) -> None:
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    model = explorer(tmp_path, LOWER, UPPER)

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        assert app.no_color is not colour
        layers = app.query_one(LayerList)
        assert layers.size.height >= 3
        for line, layer in zip(lines(app, LayerList), model.layers, strict=True):
            assert layer.step
            assert line.endswith(layer.step)
        assert layers.size.width >= 30
        assert app.query_one(Union).size.height >= 5
        await pilot.press("tab", "down", "enter")
        assert app.query_one("#details").size.height >= 3
        await pilot.press("escape")
        screens = len(app.screen_stack)
        await pilot.press("question_mark")
        assert len(app.screen_stack) == screens + 1
        assert "ctrl+space" in str(app.screen.query_one("Static").render())
        await pilot.press("question_mark")
        assert len(app.screen_stack) == screens

    drive(model, actions, size)


def test_a_directory_with_changes_in_it_is_marked_and_coloured(tmp_path: Path) -> None:
    model = explorer(tmp_path, [("d/e/a", b"1"), ("f/b", b"2")], [("d/e/a", b"22")])

    async def actions(app: ExplorerApp, pilot: Any) -> None:
        rows = [app._row_line(number) for number in range(len(model.rows))]
        told = {
            line[-1][0].split()[-1]: (line[0][0], str(line[-1][1].color and line[-1][1].color.name)) for line in rows
        }
        assert told == {
            "d": ("* ", "yellow"),
            "e": ("* ", "yellow"),
            "f": ("  ", "None"),
            "b": ("  ", "None"),
        }

    drive(model, actions)


COLOUR = re.compile(rb"[34]8;2;(\d+);(\d+);(\d+)")


@pytest.mark.parametrize("colour", [True, False])
def test_on_a_real_terminal(tmp_path: Path, colour: bool) -> None:
    """Send keys and read the screen until it ends; without colour nothing is coloured."""
    write_layout(tmp_path / "l", "app", [LOWER, UPPER])
    head, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LAMINA_ROOT": str(tmp_path / "s")}
    env.pop("NO_COLOR", None)
    if not colour:
        env["NO_COLOR"] = "1"
    command = [sys.executable, "-m", "lamina", "explore", f"oci:{tmp_path}/l:app"]
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        start, latest = len(seen), time.monotonic() + 40
        while text not in seen[start:]:
            assert time.monotonic() < latest, f"no {text!r} in {seen[start:]!r}"
            assert select.select([head], [], [], 60)[0], f"no {text!r} in {seen[start:]!r}"
            seen += os.read(head, 65536)

    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=env, start_new_session=True) as process:
        os.close(end)
        try:
            until(b"plain")
            os.write(head, b"?")
            until(b"Everywhere")
            os.write(head, b"?")
            until(b"plain")
            os.write(head, b"\t/")
            until(b"regular expression")
            os.write(head, b"lai\r")
            until(b"open/close")  # the files have the keys again
            ends, latest = b"q", time.monotonic() + 40
            with suppress(OSError):  # Linux reports so that no process has the other end open
                while time.monotonic() < latest:
                    os.write(head, ends)
                    ends = b"\rq"  # on a slow machine the filter took the first one for a letter
                    while select.select([head], [], [], 5)[0]:
                        seen += os.read(head, 65536)
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(head)
    assert process.returncode == 0
    assert b"Traceback" not in seen
    assert any(len(set(match.groups())) > 1 for match in COLOUR.finditer(seen)) is colour


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how Linux tells of a hang-up")
def test_explore_ends_with_a_terminal_that_is_not_its_controlling_one(tmp_path: Path) -> None:
    """Then there is no SIGHUP, and read returns end of file again and again."""
    write_layout(tmp_path / "l", "app", [LOWER, UPPER])
    head, end = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "LAMINA_ROOT": str(tmp_path / "s")}
    command = [sys.executable, "-m", "lamina", "explore", f"oci:{tmp_path}/l:app"]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=env, start_new_session=True) as process:
        os.close(end)
        seen = b""
        try:
            while b"plain" not in seen:
                assert select.select([head], [], [], 60)[0], seen
                seen += os.read(head, 65536)
            os.close(head)
            assert process.wait(60) == 128 + signal.SIGHUP
        finally:
            process.kill()


def test_explore_without_layers(tmp_path: Path) -> None:
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
