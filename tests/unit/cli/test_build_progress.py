"""How the progress of a build is shown: plain lines, JSON, live lines, and the excerpt of a failure."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from lamina.build.events import Ran, VertexDone, VertexEvent, VertexLog, VertexStarted
from lamina.build.instructions import At
from lamina.cli.build.live import lines_of
from lamina.cli.build.progress import Display, Json, Live, Plain, display
from lamina.cli.build.report import excerpt, reasons
from lamina.cli.build.trace import CANCELED, Trace, Vertex, shown
from lamina.errors import Cancelled, NotFound, UsageError
from lamina.events import BlobDone, BlobProgress, BlobStarted, Event, Warned
from lamina.spec.digest import Digest

BLOB = Digest.parse("sha256:" + "ab" * 32)


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(kind: type[Display], clock: Clock, *events: Event | float) -> list[str]:
    """Return the lines for events; a number lets so many seconds pass."""
    shown_by = kind(clock)
    lines: list[str] = []
    shown_by.write = lines.append  # type: ignore[method-assign]
    with shown_by:
        for event in events:
            if isinstance(event, float):
                clock.now += event
            else:
                shown_by(event)
    return lines


def test_plain_lines_are_those_of_buildkit(clock: Clock) -> None:
    assert told(
        Plain,
        clock,
        VertexStarted(1, "[internal] load build definition from Dockerfile"),
        VertexDone(1, 0.04),
        VertexStarted(2, "[1/2] FROM docker.io/library/base"),
        VertexDone(2, 0.0, cached=True),
        VertexStarted(3, "[2/2] RUN make"),
        0.123,
        VertexLog(3, b"one\ntw"),
        0.25,
        VertexLog(3, b"o\nthree"),
        VertexDone(3, 0.5),
    ) == [
        "#1 [internal] load build definition from Dockerfile",
        "#1 DONE 0.0s",
        "",
        "#2 [1/2] FROM docker.io/library/base",
        "#2 CACHED",
        "",
        "#3 [2/2] RUN make",
        "#3 0.123 one",
        "#3 0.123 two",
        "#3 0.373 three",
        "#3 DONE 0.5s",
    ]


def test_lines_of_two_steps_are_not_mixed(clock: Clock) -> None:
    assert told(
        Plain,
        clock,
        VertexStarted(1, "a"),
        VertexStarted(2, "b"),
        VertexLog(2, b"from b\n"),
        VertexLog(1, b"from a\n"),
        VertexDone(2, 1.0),
        VertexLog(1, b"more\n"),
        VertexDone(1, 1.0),
    ) == [
        "#1 a",
        "#1 0.000 from a",
        "#1 0.000 more",
        "#1 DONE 1.0s",
        "",
        "#2 b",
        "#2 0.000 from b",
        "#2 DONE 1.0s",
    ]


def test_lines_that_wait_for_long_are_shown(clock: Clock) -> None:
    assert told(
        Plain,
        clock,
        VertexStarted(1, "a"),
        VertexStarted(2, "b"),
        VertexLog(2, b"one\n"),
        5.0,
        VertexLog(2, b"two\n"),
        VertexDone(2, 5.0),
        VertexDone(1, 5.0),
    ) == ["#1 a", "#1 ...", "", "#2 b", "#2 0.000 one", "#2 5.000 two", "#2 DONE 5.0s", "", "#1 a", "#1 DONE 5.0s"]


def test_many_lines_do_not_wait(clock: Clock) -> None:
    many = b"".join(b"%d\n" % number for number in range(1001))
    lines = told(Plain, clock, VertexStarted(1, "a"), VertexStarted(2, "b"), VertexLog(2, many), VertexLog(2, b"x\n"))
    assert lines[:4] == ["#1 a", "#1 ...", "", "#2 b"]
    assert len(lines) == 4 + 1002


def test_what_still_waits_is_shown_when_the_build_is_interrupted(clock: Clock) -> None:
    lines = told(Plain, clock, VertexStarted(1, "a"), VertexStarted(2, "b"), VertexLog(2, b"last\n"))
    assert lines == ["#1 a", "#1 ...", "", "#2 b", "#2 0.000 last"]


def test_a_failed_step_shows_its_last_output_again(clock: Clock) -> None:
    log = b"".join(b"line %d\n" % number for number in range(12))
    lines = told(
        Plain,
        clock,
        VertexStarted(1, "[1/1] RUN x"),
        VertexLog(1, log),
        VertexDone(1, 1.0, error="exit code: 2"),
        VertexStarted(2, "other"),
        VertexDone(2, 1.0, error=CANCELED),
    )
    assert "#1 ERROR: exit code: 2" in lines
    assert "#2 CANCELED" in lines
    assert lines[-13:] == [
        "------",
        " > [1/1] RUN x:",
        *(f"0.000 line {number}" for number in range(2, 12)),
        "------",
    ]


def test_quiet_shows_only_warnings_and_the_output_of_a_failure(clock: Clock) -> None:
    assert told(
        Display,
        clock,
        Warned("careful"),
        VertexStarted(1, "x"),
        VertexLog(1, b"why\n"),
        VertexDone(1, 0.1, error="failed"),
    ) == ["lamina: warning: careful", "------", " > x:", "0.000 why", "------"]


def test_blobs_of_a_step(clock: Clock) -> None:
    assert told(
        Plain,
        clock,
        VertexStarted(1, "pull"),
        VertexEvent(1, BlobStarted(BLOB, 3000, "layer")),
        1.0,
        VertexEvent(1, BlobProgress(BLOB, 1000, 3000)),
        4.5,
        VertexEvent(1, BlobProgress(BLOB, 2000, 3000)),
        VertexEvent(1, BlobDone(BLOB, 3000, "layer")),
        VertexEvent(1, BlobDone(Digest.parse("sha256:" + "cd" * 32), 5, "config", reused=True)),
        VertexEvent(1, Warned("old\x1b[1m")),
        VertexDone(1, 5.5),
    ) == [
        "#1 pull",
        f"#1 {BLOB.short} 2kB / 3kB 5.5s",
        f"#1 layer {BLOB.short} 3kB 5.5s done",
        "#1 config cdcdcdcdcdcd 5B already there",
        "#1 WARN: old\\x1b[1m",
        "#1 DONE 5.5s",
    ]


def test_json_is_that_of_buildkit(clock: Clock) -> None:
    lines = told(
        Json,
        clock,
        VertexStarted(1, "[1/1] RUN x"),
        VertexLog(1, b"caf\xe9\n"),
        VertexEvent(1, BlobStarted(BLOB, 7, "layer")),
        VertexEvent(1, BlobDone(BLOB, 7, "layer")),
        Warned("w"),
        VertexDone(1, 2.0, error="exit code: 1"),
    )
    said: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [list(one) for one in said] == [
        ["vertexes"],
        ["logs"],
        ["statuses"],
        ["statuses"],
        ["warnings"],
        ["vertexes"],
    ]
    (start,), (end,) = said[0]["vertexes"], said[-1]["vertexes"]
    assert start["name"] == "[1/1] RUN x"
    assert start["digest"] == end["digest"] == said[1]["logs"][0]["vertex"]
    assert start["digest"].startswith("sha256:")
    assert end["error"] == "exit code: 1"
    assert end["completed"] > end["started"]
    assert base64.b64decode(said[1]["logs"][0]["data"]) == b"caf\xe9\n"
    assert said[3]["statuses"][0] | {"started": 0, "timestamp": 0, "completed": 0} == {
        "id": str(BLOB),
        "vertex": start["digest"],
        "total": 7,
        "current": 7,
        "timestamp": 0,
        "started": 0,
        "completed": 0,
    }


def test_live_lines_show_what_runs_and_its_last_output(clock: Clock) -> None:
    trace = Trace(clock)
    for event in (
        VertexStarted(1, "[1/3] FROM base"),
        VertexDone(1, 0.0, cached=True),
        VertexStarted(2, "[2/3] RUN " + "x" * 100),
        VertexLog(2, b"".join(b"%d\n" % number for number in range(9)) + b"part"),
        VertexStarted(3, "[3/3] COPY"),
        VertexEvent(3, BlobStarted(BLOB, 3000, "layer")),
    ):
        trace.update(event)
    clock.now += 1.5
    lines = [line.plain for line in lines_of(trace, 40)]
    assert lines[0] == "[+] Building 1.5s (1/3)"
    assert lines[1].startswith(" => CACHED [1/3] FROM base ")
    assert lines[1].endswith(" 0.0s") or lines[1].endswith(" 1.5s")
    assert lines[2].startswith(" => [2/3] RUN xxx")
    assert lines[2].endswith(" 1.5s")
    assert lines[3:9] == [f" => => # {text}" for text in ("4", "5", "6", "7", "8", "part")]
    assert lines[9].startswith(" => [3/3] COPY")
    assert lines[10].startswith(f" => => layer {BLOB.short} 0B")
    assert all(len(line) <= 40 for line in lines)


def test_live_lines_fit_the_terminal_and_keep_what_runs(clock: Clock) -> None:
    trace = Trace(clock)
    trace.update(VertexStarted(1, "slow"))
    for number in range(2, 30):
        trace.update(VertexStarted(number, f"step {number}"))
        trace.update(VertexDone(number, 0.1))
    lines = [line.plain for line in lines_of(trace, 60, 10)]
    assert len(lines) == 9
    assert [line.split()[1] for line in lines[1:]] == ["slow", *["step"] * 7]
    assert lines[-1].startswith(" => step 29")
    assert lines_of(trace, 60, None, is_over=True)[-1].plain.startswith(" => step 29")
    assert len(lines_of(trace, 60, None, is_over=True)) == 30


def test_live_lines_end_with_the_number_of_finished_steps(clock: Clock) -> None:
    trace = Trace(clock)
    trace.update(VertexStarted(1, "a"))
    trace.update(VertexDone(1, 2.0))
    clock.now += 2
    assert lines_of(trace, 80, None, is_over=True)[0].plain == "[+] Building 2.0s (1/1) FINISHED"


@pytest.mark.parametrize(
    ("line", "color", "safe"),
    [
        ("plain caf\xe9", False, "plain caf\xe9"),
        ("10%\r50%\r100%", False, "100%"),
        ("done\r", False, "done"),
        ("a\tb", False, "a       b"),
        ("\x1b[31mred\x1b[0m", False, "red"),
        ("\x1b[31mred", True, "\x1b[31mred\x1b[0m"),
        ("\x1b[2J\x1b]0;title\x07x\x1b[1A", True, "x"),
        ("bell\x07\x9b", True, "bell\\x07\\x9b"),
        ("\u202egnp", False, "\\u202egnp"),
    ],
)
def test_output_of_programs_is_safe_to_show(line: str, color: bool, safe: str) -> None:
    assert shown(line, color=color) == safe


def test_output_is_clipped_and_a_failure_still_shows_its_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDKIT_STEP_LOG_MAX_SIZE", "10")
    events = (
        VertexStarted(1, "x"),
        VertexLog(1, b"1234\n"),
        VertexLog(1, b"abcdef\n"),
        VertexLog(1, b"more\n"),
        VertexDone(1, 1.0, error="exit code: 1"),
    )
    assert told(Plain, clock, *events) == [
        "#1 x",
        "#1 0.000 1234",
        "#1 0.000 abcdef",
        "#1 [output clipped, log limit 10B reached]",
        "#1 ERROR: exit code: 1",
        *("------", " > x:", "0.000 1234", "0.000 abcdef", "0.000 more", "------"),
    ]
    assert sum('"logs"' in line for line in told(Json, clock, *events)) == 1
    monkeypatch.setenv("BUILDKIT_STEP_LOG_MAX_SIZE", "-1")
    assert "#1 0.000 more" in told(Plain, clock, *events)


def test_a_line_without_end_is_cut() -> None:
    vertex = Vertex(1, "x", 0.0)
    lines = [text for _, text in vertex.add(b"y" * 100_000, 1.0)]
    assert {len(line) for line in lines} == {16384}
    assert sum(map(len, lines)) + len(vertex.partial) == 100_000


def test_a_vertex_of_the_command_line_ends_as_its_block_does(clock: Clock) -> None:
    shown_by = Plain(clock)
    lines: list[str] = []
    shown_by.write = lines.append  # type: ignore[method-assign]
    shown_by(VertexStarted(4, "before"))
    shown_by(VertexDone(4, 0.0, cached=True))
    with shown_by.vertex("push") as on_event:
        on_event(BlobDone(BLOB, 5, "layer"))
    with pytest.raises(NotFound), shown_by.vertex("fails"):
        raise NotFound("nothing there")
    with pytest.raises(Cancelled), shown_by.vertex("stops"):
        raise Cancelled("cancelled")
    assert lines[3:] == [
        "#5 push",
        f"#5 layer {BLOB.short} 5B 0.0s done",
        "#5 DONE 0.0s",
        "",
        "#6 fails",
        "#6 ERROR: nothing there",
        "",
        "#7 stops",
        "#7 CANCELED",
    ]


def test_the_display_follows_the_mode_and_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert type(display("auto")) is Plain
    assert type(display("plain")) is Plain
    assert type(display("json")) is type(display("rawjson")) is Json
    assert type(display("plain", quiet=True)) is type(display("quiet")) is Display
    with pytest.raises(UsageError, match="not a terminal"):
        display("tty")
    with pytest.raises(UsageError, match="'fancy'"):
        display("fancy")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert type(display("auto")) is Live
    assert type(display("plain")) is Plain
    monkeypatch.setenv("TERM", "dumb")
    assert type(display("auto")) is Plain
    assert type(display("tty")) is Live


SOURCE = "FROM a\nRUN one\nRUN two \\\n  more\nRUN three\nRUN four\nRUN five\n"


@pytest.mark.parametrize(
    ("at", "lines"),
    [
        (
            At("Dockerfile", 2, 2),
            ["Dockerfile:2", "   1 |     FROM a", "   2 | >>> RUN one", "   3 |     RUN two \\", "   4 |       more"],
        ),
        (
            At("x/Dockerfile", 3, 4),
            [
                "x/Dockerfile:3",
                "   2 |     RUN one",
                "   3 | >>> RUN two \\",
                "   4 | >>>   more",
                "   5 |     RUN three",
            ],
        ),
    ],
)
def test_an_excerpt_marks_the_lines_of_the_instruction(at: At, lines: list[str]) -> None:
    found = excerpt(SOURCE, at)
    assert found[0] == lines[0]
    assert found[1] == found[-1] == "-" * 20
    marked = [line for line in found if "| >>>" in line]
    assert marked == [line for line in lines if "| >>>" in line]
    assert set(lines[1:]) <= set(found)


def test_an_excerpt_is_safe_to_show() -> None:
    found = excerpt("RUN \x1b[2J\x07", At("a\x1b[1m", 1, 1))
    assert all(line.isprintable() for line in found)
    assert excerpt("RUN x", At("a", 9, 9)) == []
    assert "secret" not in "".join(excerpt("ADD https://me:secret@host/x /x", At("a", 1, 1)))


def test_reasons_name_the_inputs_that_differ() -> None:
    at = At("Dockerfile", 7, 7)
    steps = [
        Ran("[1/3] FROM a", at, "k", True),
        Ran("[2/3] COPY a b", at, "k", False, "", (("context a", "sha256:" + "1" * 64, "sha256:" + "2" * 64),)),
        Ran("[3/3] RUN make", at, "k", False, "it has not run before"),
    ]
    assert list(reasons(steps)) == [
        "[2/3] COPY a b (Dockerfile:7)",
        "    context a: sha256:111111111111 -> sha256:222222222222",
        "[3/3] RUN make (Dockerfile:7)",
        "    it has not run before",
    ]
    assert list(reasons(steps[:1])) == ["every step was in the cache"]
