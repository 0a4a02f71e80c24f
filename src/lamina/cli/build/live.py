"""The live lines of a build on a terminal, drawn by rich. Imported only there."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from lamina.cli.build.trace import CANCELED, Trace, Vertex, seconds, shown
from lamina.cli.format.text import human_size

_LOG_LINES = 6
_RATE = 8  # times a second


class Screen:
    """Draws ``trace`` until ``stop``. A thread of rich draws while other threads update the trace: it takes copies of
    what they change, and a line that is a moment old does no harm."""

    def __init__(self, trace: Trace, *, color: bool) -> None:
        self._trace = trace
        self._console = Console(stderr=True, no_color=not color, highlight=False)
        self._is_over = False
        self._live = Live(
            self, console=self._console, refresh_per_second=_RATE, redirect_stdout=False, redirect_stderr=False
        )

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        """Draw all vertices, and leave the lines on the terminal."""
        self._is_over = True
        self._live.vertical_overflow = "visible"
        self._live.stop()

    def write(self, text: str) -> None:
        """Print a line above the live lines."""
        self._console.print(Text.from_ansi(text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = None if self._is_over else options.size.height
        yield from lines_of(self._trace, options.max_width, height, is_over=self._is_over)


def lines_of(trace: Trace, width: int, height: int | None = None, *, is_over: bool = False) -> list[Text]:
    """Return the lines for ``trace``, none wider than ``width``; at most ``height`` lines, the newest ones."""
    vertices = list(trace.vertices.values())  # a copy: other threads add to it
    done = sum(one.ended is not None for one in vertices)
    now = trace.clock()
    is_finished = is_over and done == len(vertices)
    state = " FINISHED" if is_finished and not trace.failed else ""
    head = Text(
        f"[+] Building {seconds(now - trace.began)} ({done}/{len(vertices)}){state}", style="blue" if state else ""
    )
    blocks = {one.number: _vertex(one, now, width) for one in vertices}
    if height is not None:
        blocks = _fitting(vertices, blocks, max(1, height - 2))
    body = [line for one in vertices for line in blocks.get(one.number, ())]
    for line in (head, *body):
        line.no_wrap, line.overflow = True, "crop"
        line.truncate(width)
    return [head, *body]


def _fitting(vertices: list[Vertex], blocks: dict[int, list[Text]], room: int) -> dict[int, list[Text]]:
    """Choose the lines for ``room`` lines: the running vertices, then the newest others."""
    found: dict[int, list[Text]] = {}
    for one in sorted(vertices, key=lambda one: (one.ended is not None, -one.number)):
        lines = blocks[one.number]
        if len(lines) > room:
            lines = lines[:1]
        if room < 1:
            break
        found[one.number] = lines
        room -= len(lines)
    return found


def _vertex(vertex: Vertex, now: float, width: int) -> list[Text]:
    """The line of a vertex; while it runs, the blobs that it copies and its last output below."""
    took = seconds((now if vertex.ended is None else vertex.ended) - vertex.began)
    state, style = "", ""
    if vertex.error:
        state, style = ("CANCELED ", "yellow") if vertex.error == CANCELED else ("ERROR ", "red")
    elif vertex.cached:
        state, style = "CACHED ", "blue"
    elif vertex.ended is not None:
        style = "blue"
    lines = [_line(f" => {state}{vertex.label}", took, width, style)]
    if vertex.ended is not None:
        return lines
    for digest, transfer in list(vertex.transfers.items()):
        if not transfer.is_done:
            sizes = f"{human_size(transfer.done)} / {human_size(transfer.size)}"
            lines.append(
                _line(f" => => {transfer.what} {digest.short} {sizes}", seconds(now - transfer.began), width)
            )
    tail = [line for _, line in list(vertex.lines)[-_LOG_LINES:]]
    if vertex.partial:
        tail = [*tail, bytes(vertex.partial[-width * 4 :]).decode("utf-8", "replace")][-_LOG_LINES:]
    for line in tail:
        lines.append(Text(f" => => # {shown(line)}", style="dim"))
    return lines


def _line(left: str, right: str, width: int, style: str = "") -> Text:
    room = max(1, width - len(right) - 1)
    text = Text(left, style=style)
    text.truncate(room, pad=True)
    text.append(f" {right}")
    return text
