"""The widgets of `explore` (textual): lines, colours and keys. ``insight.explore_state`` has the state and the
content. Every text from an image is made safe to print.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.geometry import Region, Size
from textual.message import Message
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Footer, Input, Static

from lamina.cli.format.text import clean, counted, human_size, mode_text
from lamina.cli.look.files import LETTER, iso
from lamina.errors import LaminaError
from lamina.insight.explore_state import Explorer, Mark, Row
from lamina.layer.entry import Entry, Kind

LETTERS = {Mark.SAME: " ", Mark.ADDED: "A", Mark.CHANGED: "M", Mark.REMOVED: "R"}
COLOURS = {
    Mark.SAME: Style(),
    Mark.ADDED: Style(color="green"),
    Mark.CHANGED: Style(color="yellow"),
    Mark.REMOVED: Style(color="red"),
}
_PLAIN = Style()
"""Textual's filter for NO_COLOR fails on segments without a style."""
_FAINT = Style(dim=True)
_CURSOR = Style(reverse=True)
_MARKED = Style(bold=True)
PREVIEW_LINES = 200
AT_ONCE = 50_000
"""In an image with up to this many paths, the filter runs after each key."""
PAUSE = 0.2
"""In a larger image, the filter runs after this many seconds without a key."""
Line = list[tuple[str, Style]]


class Lines(ScrollView, can_focus=True):
    """Lines that are made when they are shown, and a cursor on one of them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move_to(0)", show=False),
        Binding("end", "move_to(-1)", show=False),
    ]

    class Moved(Message):
        """The cursor has moved to another line."""

        def __init__(self, lines: Lines) -> None:
            super().__init__()
            self.lines = lines

        @property
        def control(self) -> Widget:
            return self.lines

    def __init__(self, line: Callable[[int], Line], *, id: str) -> None:
        super().__init__(id=id)
        self._line = line
        self.count = 0
        self.cursor = 0

    def show(self, count: int, width: int, cursor: int | None = None) -> None:
        """Set the number of lines, and the largest width of a line in cells."""
        self.count = count
        self.virtual_size = Size(width, count)
        self.cursor = max(0, min(count - 1, self.cursor if cursor is None else cursor))
        self._follow()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        number = y + self.scroll_offset.y
        width = self.size.width
        if number >= self.count:
            return Strip.blank(width, _PLAIN)
        line = Strip([Segment(text, style) for text, style in self._line(number)])
        line = line.crop_extend(self.scroll_offset.x, self.scroll_offset.x + width, _PLAIN)
        if number == self.cursor:
            line = line.apply_style(_CURSOR if self.has_focus else _MARKED)
        return line

    def action_move(self, by: int) -> None:
        self.action_move_to(max(0, self.cursor + by))

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 1))

    def action_move_to(self, number: int) -> None:
        """Negative: from the end."""
        number = self.count + number if number < 0 else number
        number = max(0, min(self.count - 1, number))
        if number != self.cursor:
            self.cursor = number
            self._follow()
            self.refresh()
            self.post_message(self.Moved(self))

    def _follow(self) -> None:
        self.scroll_to_region(Region(self.scroll_offset.x, self.cursor, 1, 1), animate=False)

    def on_click(self, event: events.Click) -> None:
        number = event.y + self.scroll_offset.y
        if number < self.count:
            if number == self.cursor:
                self.clicked_again()
            self.action_move_to(number)

    def clicked_again(self) -> None:
        """The line of the cursor was clicked."""

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()


class LayerList(Lines):
    """The list of layers; moving the cursor selects."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+l", "app.compare(False)", "layer's changes"),
        Binding("ctrl+a", "app.compare(True)", "all changes"),
    ]


class Union(Lines):
    """The tree of files."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "open_close", "open/close"),
        Binding("ctrl+@", "toggle_all", "all"),
        Binding("ctrl+a,a", "mark('ADDED')", "added"),
        Binding("ctrl+r,r", "mark('REMOVED')", "removed"),
        Binding("m", "mark('CHANGED')", "modified"),  # in a terminal, ctrl+m is Enter
        Binding("ctrl+u,u", "mark('SAME')", "unmodified"),
        Binding("ctrl+b,b", "app.attributes", "attributes"),
        Binding("right", "enter_directory", show=False),
        Binding("left", "leave_directory", show=False),
        Binding("enter", "app.details", "details"),
    ]

    def __init__(self, explorer: Explorer, line: Callable[[int], Line], *, id: str) -> None:
        super().__init__(line, id=id)
        self.explorer = explorer

    @property
    def row(self) -> Row | None:
        """Return the row of the cursor."""
        rows = self.explorer.rows
        return rows[self.cursor] if self.cursor < len(rows) else None

    def update(self) -> None:
        """Show the rows of the explorer. The cursor stays on its path, or near it if the path is not shown any
        more."""
        self.show_rows(None)

    def show_rows(self, node: int | None) -> None:
        rows = self.explorer.rows
        cursor = None
        if node is not None:
            cursor = next((number for number, row in enumerate(rows) if row.node == node), None)
        self.show(len(rows), 1000, cursor)
        self.post_message(self.Moved(self))

    def clicked_again(self) -> None:
        self.action_open_close()

    def action_open_close(self) -> None:
        if self.row is not None:
            node = self.row.node
            self.explorer.toggle(node)
            self.show_rows(node)

    def action_toggle_all(self) -> None:
        node = self.row.node if self.row is not None else None
        self.explorer.toggle_all()
        self.show_rows(node)

    def action_mark(self, name: str) -> None:
        node = self.row.node if self.row is not None else None
        self.explorer.toggle_mark(Mark[name])
        self.show_rows(node)
        self.post_message(Compared())

    def action_enter_directory(self) -> None:
        row = self.row
        if row is not None and row.parent:
            if row.open:
                self.action_move(1)
            else:
                self.action_open_close()

    def action_leave_directory(self) -> None:
        row = self.row
        if row is None:
            return
        if row.open and row.parent:
            self.action_open_close()
            return
        rows = self.explorer.rows
        above = [number for number in range(self.cursor) if rows[number].depth < row.depth]
        if above:
            self.action_move_to(above[-1])


class Compared(Message):
    """The marks, or the choice of marks that are shown, have changed."""


KEYS = """Everywhere
  tab         switch between layers and files
  / ctrl+f    show only paths that match a regular expression
  escape      end the filter, go back to the files
  ?           this help
  q ctrl+c    quit
Layers
  up down     select a layer: files up to it are shown
  ctrl+l      mark the changes of the selected layer
  ctrl+a      mark the changes of all layers but the lowest
Files
  up down     move; right, left open, close and go up
  space       open, close a directory; ctrl+space all
  a r m u     show or hide what was added, removed,
              modified, or is unmodified
  b           attributes
  enter       details: history of the path, its text
Signs
  A added   M modified   R removed
  *           a directory with changes in it"""


class Help(ModalScreen[None]):
    """The screen with the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,space,question_mark", "dismiss", show=False)]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(Text(KEYS))

    def on_mount(self) -> None:
        self.query_one("#help").focus()


class ExplorerApp(App[None]):
    """``lamina explore``."""

    TITLE = "lamina explore"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #left { width: 40%; }
    #right { width: 60%; }
    .title { height: 1; background: $panel; color: $text; text-style: bold; padding: 0 1; }
    Lines { height: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    #layer, #image { height: auto; max-height: 10; padding: 0 1; }
    #details { height: 35%; }
    #details Static { padding: 0 1; }
    #details:focus { background: $boost; }
    Input { display: none; height: 3; }
    Input.asked { display: block; }
    Help { align: center middle; }
    #help { width: 80; max-width: 100%; height: auto; max-height: 100%; padding: 0 1; background: $panel; }
    .-narrow #top { layout: vertical; }
    .-narrow #left { width: 100%; height: 40%; }
    .-narrow #right { width: 100%; height: 60%; }
    .-narrow .about, .-short .about { display: none; }
    .-short #what, .-short #details { display: none; }
    .-short .details-shown #what, .-short .details-shown #details { display: block; }
    .-short .details-shown #details { height: 60%; }
    .-short Input { border: none; height: 1; }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (90, "-wide")]  # noqa: RUF012  (textual declares it otherwise)
    VERTICAL_BREAKPOINTS = [(0, "-short"), (24, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "switch", "switch", priority=True),
        Binding("ctrl+f,/", "filter", "filter"),
        Binding("question_mark", "help", "help"),
        Binding("escape", "leave", show=False),
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, explorer: Explorer) -> None:
        super().__init__()
        self.explorer = explorer
        self.shows_attributes = True
        self.story = False
        self._typing: Timer | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="top"):
            with Vertical(id="left"):
                yield Static(Text("Layers (? shows the keys)"), classes="title")
                yield LayerList(self._layer_line, id="layers")
                yield Static(Text("Layer"), classes="title about")
                yield Static(id="layer", classes="about")
                yield Static(Text("Image"), classes="title about")
                yield Static(id="image", classes="about")
            with Vertical(id="right"):
                yield Static(id="heading", classes="title")
                yield Union(self.explorer, self._row_line, id="union")
                yield Static(id="what", classes="title")
                with VerticalScroll(id="details"):
                    yield Static(id="text")
        yield Input(placeholder="a regular expression, found in paths; Enter keeps it, Escape ends it")
        yield Footer()

    def on_mount(self) -> None:
        self.explorer.select(len(self.explorer.layers) - 1)
        layers = self.query_one(LayerList)
        layers.show(len(self.explorer.layers), 300, self.explorer.layer)
        self.query_one("#image", Static).update(self._image_text())
        self._selected()
        layers.focus()

    def _selected(self) -> None:
        self.query_one(LayerList).refresh()
        self.query_one("#layer", Static).update(self._layer_text())
        self.query_one(Union).update()
        self._heading()

    @on(Compared)
    def _heading(self) -> None:
        explorer = self.explorer
        number = explorer.layers[explorer.layer].number if explorer.layers else 0
        first = explorer.stack.first
        what = f"since layer {first}" if explorer.aggregated else f"by layer {number}"
        hidden = [mark.name.lower() for mark in Mark if not explorer.marks & 1 << mark]
        words = [f"Union up to layer {number}", f"marks: {what}"]
        if hidden:
            words.append(
                "not shown: " + ", ".join({"same": "unmodified", "changed": "modified"}.get(w, w) for w in hidden)
            )
        if explorer.pattern:
            words.append(f"filter: {clean(explorer.pattern)}")
        self.query_one("#heading", Static).update(Text(" | ".join(words), no_wrap=True))

    @on(Lines.Moved, "#layers")
    def _layer_moved(self, event: Lines.Moved) -> None:
        self.explorer.select(event.lines.cursor)
        self._selected()

    @on(Lines.Moved, "#union")
    def _row_moved(self) -> None:
        self.story = False
        self._show_details()

    def action_switch(self) -> None:
        layers, union = self.query_one(LayerList), self.query_one(Union)
        (union if layers.has_focus else layers).focus()

    def action_compare(self, aggregated: bool) -> None:
        self.explorer.compare(aggregated=aggregated)
        self._selected()

    def action_attributes(self) -> None:
        self.shows_attributes = not self.shows_attributes
        self.query_one(Union).refresh()

    def action_details(self) -> None:
        self.story = True
        self._show_details()
        self.query_one("#right").add_class("details-shown")
        self.query_one("#details").focus()

    def action_help(self) -> None:
        if not isinstance(self.screen, Help):
            self.push_screen(Help())

    def action_filter(self) -> None:
        asked = self.query_one(Input)
        asked.add_class("asked")
        asked.focus()

    def action_leave(self) -> None:
        asked = self.query_one(Input)
        if asked.has_class("asked"):
            asked.value = ""
            asked.remove_class("asked")
            self._filter("")
        self.query_one("#right").remove_class("details-shown")
        self.query_one(Union).focus()

    @on(Input.Changed)
    def _filter_typed(self, event: Input.Changed) -> None:
        """Run the filter: at once, or in a large image after a pause."""
        if self._typing is not None:
            self._typing.stop()
            self._typing = None
        if len(self.explorer.tree.names) <= AT_ONCE:
            self._filter(event.value)
        else:
            self._typing = self.set_timer(PAUSE, partial(self._filter, event.value))

    @on(Input.Submitted)
    def _filter_taken(self, event: Input.Submitted) -> None:
        if not event.value:
            event.input.remove_class("asked")
        self._filter(event.value)
        self.query_one(Union).focus()

    def _filter(self, pattern: str) -> None:
        if self._typing is not None:
            self._typing.stop()
            self._typing = None
        if pattern == self.explorer.pattern:
            return
        self.explorer.filter(pattern)
        self.query_one(Union).update()
        self._heading()

    def _layer_line(self, number: int) -> Line:
        layer = self.explorer.layers[number]
        low = 1 if self.explorer.aggregated else self.explorer.layer
        is_compared = low <= number <= self.explorer.layer
        return [
            ("● " if is_compared else "  ", COLOURS[Mark.ADDED]),
            (f"{layer.number:>4} {human_size(layer.size):>7}  ", Style()),
            (clean(layer.step) or layer.digest[:19], _FAINT),
        ]

    def _row_line(self, number: int) -> Line:
        row = self.explorer.rows[number]
        entry = self.explorer.entry(row.node)
        style = COLOURS[row.mark]
        touched = row.touched and row.mark == Mark.SAME
        line: Line = [("* " if touched else f"{LETTERS[row.mark]} ", COLOURS[Mark.CHANGED] if touched else style)]
        if self.shows_attributes:
            owner = f"{entry.uid}:{entry.gid}"
            line.append(
                (f"{mode_text(LETTER[entry.kind], entry.mode)} {owner:>9} {human_size(row.size):>7}  ", _FAINT)
            )
        sign = ("▾ " if row.open else "▸ ") if row.parent else "  "
        shown = COLOURS[Mark.CHANGED] if touched else style
        line.append(("  " * row.depth + sign + clean(self.explorer.tree.name(row.node)), shown))
        if entry.kind == Kind.SYMLINK:
            line.append((f" → {clean(entry.link)}", _FAINT))
        return line

    def _layer_text(self) -> Text:
        if not self.explorer.layers:
            return Text("no layers")
        layer = self.explorer.layers[self.explorer.layer]
        lines = [
            f"{layer.number} of {self.explorer.layers[-1].number}",
            layer.digest,
            f"{counted(layer.entries, 'entry', 'entries')}, {human_size(layer.size)} of content",
            clean(layer.step)[:600] or "its build step is not recorded",
        ]
        return Text("\n".join(lines))

    def _image_text(self) -> Text:
        total = self.explorer.total
        hidden = total.content - total.visible
        lines = [
            clean(self.explorer.stack.name),
            f"{counted(total.paths, 'path')}, {human_size(total.content)} of content in "
            f"{counted(len(self.explorer.layers), 'layer')}",
            f"efficiency {100 * total.efficiency:.2f} %, {human_size(hidden)} ship though hidden (`lamina waste`)",
        ]
        return Text("\n".join(lines))

    def _show_details(self) -> None:
        row = self.query_one(Union).row
        what, text = self.query_one("#what", Static), self.query_one("#text", Static)
        if row is None:
            what.update(Text("nothing to show"))
            text.update(Text(""))
            return
        what.update(Text("/" + clean(self.explorer.path(row.node)), no_wrap=True))
        text.update(self._details(row))
        self.query_one("#details").scroll_home(animate=False)

    def _details(self, row: Row) -> Text:
        explorer, first = self.explorer, self.explorer.stack.first
        entry, before = explorer.entry(row.node), explorer.before(row.node)
        lines = [_entry_line(entry), f"layer {first + explorer.layer_of(row.node)}"]
        gone = explorer.removed_by(row.node)
        if gone is not None:
            lines[-1] += f", removed by layer {first + gone}"
        if before is not None:
            lines.append(f"before: {_entry_line(before)}")
        if entry.xattrs:
            lines.append("xattrs: " + ", ".join(clean(name) for name in sorted(entry.xattrs)))
        found = Text("\n".join(lines) + "\n")
        if self.story:
            for state in explorer.story(row.node).states:
                ended = f", {state.ended.how} by layer {first + state.ended.layer}" if state.ended else ""
                found.append(f"  layer {first + state.layer}: {_entry_line(state.entry)}{ended}\n", _FAINT)
        try:
            preview = explorer.preview(row.node)
        except LaminaError as error:
            found.append(clean(str(error)) + "\n", COLOURS[Mark.REMOVED])
            return found
        if preview:
            found.append("\n")
            shown = preview.split("\n", PREVIEW_LINES)[:PREVIEW_LINES]
            found.append("\n".join(clean(line.rstrip("\r").expandtabs()) for line in shown))
        elif entry.kind == Kind.FILE and entry.size:
            found.append("no text\n", _FAINT)
        return found


def _entry_line(entry: Entry) -> str:
    words = [mode_text(LETTER[entry.kind], entry.mode), f"{entry.uid}:{entry.gid}"]
    if entry.kind == Kind.FILE:
        words.append(f"{entry.size} bytes")
    elif entry.kind in (Kind.CHAR, Kind.BLOCK):
        words.append(f"device {entry.rdev[0]}, {entry.rdev[1]}")
    elif entry.kind == Kind.SYMLINK:
        words.append(f"→ {clean(entry.link)}")
    return " ".join([*words, iso(entry.mtime)])
