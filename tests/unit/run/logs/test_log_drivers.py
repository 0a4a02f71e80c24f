"""Log drivers: their options, what they write, and that reading gives back what was written."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lamina.errors import UsageError
from lamina.run.logs import attributes, cri_lines, drivers, json_lines, stamp
from lamina.run.logs.json_file import JsonEncoder, escaped
from lamina.run.logs.k8s_file import CriEncoder
from lamina.run.logs.local import LocalWriter
from lamina.run.logs.local_source import LocalSource
from lamina.run.logs.pieces import Choice, Piece, Source, starts_of_tail
from lamina.run.logs.text_source import CRI, JSON, Form, TextSource
from lamina.run.logs.writer import open_writer

CONTAINER = {"id": "a" * 64, "name": "web", "image": "nginx"}
MOMENT = 1_700_000_000_123_456_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the time is, as a list of one."""
    now = [MOMENT]
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    return now


def options_of(driver: str, words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    options = drivers.parse_options(words)
    drivers.check(driver, options)
    return options


def source(directory: Path, driver: str, *, complete: bool = True) -> Source:
    if driver == "local":
        return LocalSource(str(directory), complete=complete)
    form = JSON if driver == "json-file" else CRI
    path = drivers.log_path(str(directory), driver, (), CONTAINER["id"])
    return TextSource(path, form, complete=complete, on_damage=lambda count: pytest.fail(f"{count} damaged lines"))


def pieces(directory: Path, driver: str) -> list[Piece]:
    opened = source(directory, driver)
    try:
        return [piece for _, piece in opened.forward()]
    finally:
        opened.close()


def of_stream(found: Sequence[Piece], stream: int) -> bytes:
    return b"".join(piece.data for piece in found if piece.stream == stream)


Writes = list[tuple[int, bytes, int]]
"""Stream, data, and how much later than the one before."""
WRITES = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 2]),
        st.one_of(
            st.sampled_from([b"\n", b"a\n", b"\n\n", b"ab\ncd\n", b"no end", b"x" * 16384, b"\xff\0\n"]),
            st.just(b"y" * 40000 + b"\n"),
            st.binary(min_size=1, max_size=30),
        ),
        st.integers(0, 3),
    ),
    max_size=12,
)


def written(directory: Path, driver: str, writes: Sequence[tuple[int, bytes, int]], options: str = "") -> None:
    chosen = options_of(driver, options.split())
    clock = MOMENT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: clock)
        writer = open_writer(str(directory), driver, chosen, container=CONTAINER)
        for stream, data, later in writes:
            clock += later
            writer.write(stream, data)
        writer.close()


def as_docker_keeps(data: bytes) -> bytes:
    """json-file keeps text: each piece of 16 KiB of a line with U+FFFD for each byte that is not UTF-8."""
    found = ""
    for line in data.split(b"\n"):
        for start in range(0, len(line), 16384):
            part = line[start : start + 16384].decode("utf-8", "surrogateescape")
            found += "".join("�" if "\ud800" <= one <= "\udfff" else one for one in part)
        found += "\n"
    return found[:-1].encode()


@settings(max_examples=30, deadline=None)
@given(writes=WRITES)
@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
def test_a_log_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, driver: str, writes: list
) -> None:
    directory = tmp_path_factory.mktemp("log")
    written(directory, driver, writes)
    found = pieces(directory, driver)
    for stream in (1, 2):
        said = b"".join(data for one, data, _ in writes if one == stream)
        kept = as_docker_keeps(said) if driver == "json-file" else said
        assert of_stream(found, stream) == kept
    assert [piece.time_ns for piece in found] == sorted(piece.time_ns for piece in found)
    if driver == "local":
        times, now = [], MOMENT
        for _, _, later in writes:
            times.append(now := now + later)
        assert [(piece.time_ns, piece.data) for piece in found] == [
            (now, data) for now, (_, data, _) in zip(times, writes, strict=True)
        ]


def lines_of(found: Sequence[Piece]) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """The lines by their ends, each as the (piece, first byte, end) that it consists of."""
    open_lines: dict[int, list[tuple[int, int, int]]] = {1: [], 2: []}
    lines = []
    for number, piece in enumerate(found):
        start = 0
        while start < len(piece.data):
            newline = piece.data.find(b"\n", start)
            end = newline + 1 if newline >= 0 else len(piece.data)
            open_lines[piece.stream].append((number, start, end))
            if newline >= 0:
                lines.append((piece.stream, open_lines[piece.stream]))
                open_lines[piece.stream] = []
            start = end
    rest = [(stream, parts) for stream, parts in open_lines.items() if parts]
    return sorted(lines + rest, key=lambda one: one[1][-1])


def modelled(found: Sequence[Piece], tail: int | None, since: int | None, until: int | None) -> dict[int, bytes]:
    lines = lines_of(found)
    if tail is not None:
        lines = lines[len(lines) - tail :] if tail < len(lines) else lines
    wanted: dict[int, bytes] = {1: b"", 2: b""}
    cut = next((n for n, piece in enumerate(found) if until is not None and piece.time_ns > until), len(found))
    parts = sorted((part, stream) for stream, line in lines for part in line)
    for (number, start, end), stream in parts:
        if number < cut and (since is None or found[number].time_ns >= since):
            wanted[stream] += found[number].data[start:end]
    return wanted


@settings(max_examples=60, deadline=None)
@given(
    writes=WRITES,
    tail=st.none() | st.integers(0, 8),
    since=st.none() | st.integers(MOMENT, MOMENT + 20),
    until=st.none() | st.integers(MOMENT, MOMENT + 20),
)
@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
def test_tail_and_times_choose_as_a_list_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    driver: str,
    writes: Writes,
    tail: int | None,
    since: int | None,
    until: int | None,
) -> None:
    directory = tmp_path_factory.mktemp("log")
    written(directory, driver, writes)
    expected = modelled(pieces(directory, driver), tail, since, until)

    def choice(opened: Source) -> Choice:
        starts = None if tail is None else starts_of_tail(opened.backward() if tail else (), tail, opened.end())
        return Choice(since, until, starts)

    opened = source(directory, driver)
    chosen, got = choice(opened), {1: b"", 2: b""}
    for position, piece in opened.forward(chosen.last_start):
        skipped = chosen.skipped(position, piece.time_ns, piece.stream, len(piece.data))
        if chosen.over:
            break
        got[piece.stream] += piece.data[skipped:]
    assert got == expected
    opened.close()
    again = source(directory, driver)
    assert copied(again, choice(again)) == expected
    again.close()
    if tail:
        later = source(directory, driver)
        later_choice = choice(later)
        assert later_choice.starts is not None
        later.seek(min(position for position, _ in later_choice.starts.values()))
        assert copied(later, later_choice) == expected
        later.close()


def copied(opened: Source, choice: Choice) -> dict[int, bytes]:
    found = {1: b"", 2: b""}
    for part in opened.bulk(choice):
        data = part.data if isinstance(part, Piece) else os.pread(part.descriptor, part.end - part.start, part.start)
        found[part.stream] += data
    return found


@settings(max_examples=40, deadline=None)
@given(
    writes=st.lists(st.sampled_from([b"a" * 50, b"b\n" * 20, b"c" * 9 + b"\n"]), max_size=30), files=st.integers(1, 4)
)
@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
def test_rotation_keeps_the_newest_files(
    tmp_path_factory: pytest.TempPathFactory, driver: str, writes: list[bytes], files: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    written(directory, driver, [(1, data, 1) for data in writes], f"max-size=200 max-file={files}")
    kept = of_stream(pieces(directory, driver), 1)
    everything = b"".join(writes)
    assert everything.endswith(kept)
    sizes = [path.stat().st_size for path in directory.iterdir() if not path.name.endswith(".index")]
    assert len(sizes) <= files
    assert max(sizes) < 200 + 3000
    if driver == "local" and len(everything) < 200 * files:
        assert kept == everything


@pytest.mark.parametrize("driver", ["json-file", "k8s-file"])
def test_a_file_has_one_line_more_than_its_size_at_most(tmp_path: Path, driver: str) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(500))
    written(tmp_path, driver, [(1, lines, 1)], "max-size=1000 max-file=100")
    sizes = [path.stat().st_size for path in tmp_path.iterdir() if path.suffix != ".index"]
    assert len(sizes) > 20
    assert max(sizes) < 1000 + 100
    assert of_stream(pieces(tmp_path, driver), 1) == lines


@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
def test_a_reader_follows_across_rotation(tmp_path: Path, driver: str) -> None:
    options = options_of(driver, ["max-size=100", "max-file=3"])
    writer = open_writer(str(tmp_path), driver, options, container=CONTAINER)
    opened = source(tmp_path, driver, complete=False)
    said, got = b"", b""
    for number in range(200):
        data = b"line %d of many\n" % number
        said += data
        writer.write(1, data)
        if number % 3 == 0:
            got += b"".join(piece.data for _, piece in opened.forward())
    writer.close()
    got += b"".join(piece.data for _, piece in opened.forward())
    opened.close()
    assert got == said


@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
def test_a_slow_reader_finishes_the_file_that_it_reads(tmp_path: Path, driver: str) -> None:
    options = options_of(driver, ["max-size=100"])
    writer = open_writer(str(tmp_path), driver, options, container=CONTAINER)
    writer.write(1, b"first\n")
    opened = source(tmp_path, driver, complete=False)
    reading = opened.forward()
    assert next(reading)[1].data == b"first\n"
    writer.write(1, b"second" * 30 + b"\n")
    for number in range(40):
        writer.write(1, b"%d\n" % number)
    writer.close()
    rest = b"".join(piece.data for _, piece in [*reading, *opened.forward()])
    opened.close()
    assert rest.startswith(b"second" * 30 + b"\n")
    assert rest.endswith(b"39\n")


def test_json_file_has_the_bytes_of_docker(clock: list[int]) -> None:
    encoder = JsonEncoder()
    assert encoder.encode(1, b"begin", MOMENT) == b""
    assert encoder.encode(2, b"err\n", MOMENT + 1000) == (
        b'{"log":"err\\n","stream":"stderr","time":"2023-11-14T22:13:20.123457Z"}\n'
    )
    assert encoder.encode(1, b" end\nnext\n", MOMENT) == (
        b'{"log":"begin end\\n","stream":"stdout","time":"2023-11-14T22:13:20.123456Z"}\n'
        b'{"log":"next\\n","stream":"stdout","time":"2023-11-14T22:13:20.123456Z"}\n'
    )
    encoder.encode(1, b"rest", MOMENT)
    assert encoder.rest(MOMENT) == b'{"log":"rest","stream":"stdout","time":"2023-11-14T22:13:20.123456Z"}\n'
    assert encoder.rest(MOMENT) == b""


def test_json_file_splits_long_lines_as_docker() -> None:
    line = b"x" * 16384
    encoded = JsonEncoder().encode(1, line + b"\n" + line + b"yz\n", MOMENT)
    assert [json.loads(one)["log"] for one in encoded.splitlines()] == ["x" * 16384, "\n", "x" * 16384, "yz\n"]


def test_json_file_holds_attributes_before_the_time() -> None:
    options = attributes.resolved(
        (("labels", "team"), ("tag", "{{.Name}}/{{.ID}}")),
        identity="b" * 64, name="web", image="i", labels={"team": "a&b", "other": "no"}, env=(),
    )  # fmt: skip
    assert options == (("tag", "web/bbbbbbbbbbbb"), ("attributes", '{"tag":"web/bbbbbbbbbbbb","team":"a\\u0026b"}'))
    line = JsonEncoder(dict(options)["attributes"]).encode(1, b"x\n", 10**18)
    assert line == (
        b'{"log":"x\\n","stream":"stdout","attrs":{"tag":"web/bbbbbbbbbbbb","team":"a\\u0026b"},'
        b'"time":"2001-09-09T01:46:40Z"}\n'
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'"\\<>&', b'\\"\\\\\\u003c\\u003e\\u0026'),
        (b"\t\r\0\x1b\x7f", b"\\u0009\\r\\u0000\\u001b\x7f"),
        ("é\u2028\u2029€".encode(), "é\\u2028\\u2029€".encode()),
        (b"\xe2\x82 \xff\xc3", "\ufffd\ufffd \ufffd\ufffd".encode()),
    ],
)
def test_json_file_escapes_as_go(data: bytes, text: bytes) -> None:
    assert escaped(data) == text.replace("\ufffd".encode(), b"\\ufffd")


def test_k8s_file_marks_partial_lines() -> None:
    encoded = CriEncoder().encode(2, b"one\n\ntwo", MOMENT)
    at = b"2023-11-14T22:13:20.123456000+00:00 stderr "
    assert encoded == at + b"F one\n" + at + b"F \n" + at + b"P two\n"


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-14T22:13:20.123456Z",
        "2023-11-14T22:13:20.123456000+00:00",
        "2023-11-15T00:13:20.123456000+02:00",
        "2023-11-14T17:43:20.123456-04:30",
    ],
)
def test_times_in_logs_are_read(text: str) -> None:
    assert stamp.parse(text) == MOMENT


@pytest.mark.parametrize("text", ["", "2023-11-14", "2023-11-14T22:13:20", "2023-13-14T22:13:20Z", "x" * 30])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        stamp.parse(text)


def test_times_are_shown_as_docker_shows_them() -> None:
    assert stamp.fixed(MOMENT) == "2023-11-14T22:13:20.123456000Z"
    assert stamp.short(10**18) == "2001-09-09T01:46:40Z"


# -- torn files


@pytest.fixture
def three(tmp_path: Path, clock: list[int]) -> Path:
    writer = LocalWriter(str(tmp_path), drivers.Limits())
    for data in (b"one\n", b"two\n", b"three\n"):
        writer.write(1, data)
        clock[0] += 1
    writer.close()
    return tmp_path


def continued(directory: Path, data: bytes = b"more\n") -> list[bytes]:
    writer = LocalWriter(str(directory), drivers.Limits())
    writer.write(2, data)
    writer.close()
    return [piece.data for piece in pieces(directory, "local")]


def test_data_without_a_record_is_shown_and_kept(three: Path) -> None:
    with (three / "1.data").open("ab") as file:
        file.write(b"killed here")
    assert [piece.data for piece in pieces(three, "local")] == [b"one\n", b"two\n", b"three\n", b"killed here"]
    assert [piece.data for _, piece in source(three, "local", complete=False).forward()][-1] == b"three\n"
    assert continued(three) == [b"one\n", b"two\n", b"three\n", b"killed here", b"more\n"]


@pytest.mark.parametrize("size", [0, 1, 4, 5, 7, 8, 13])
def test_records_beyond_the_data_are_left_out(three: Path, size: int) -> None:
    os.truncate(three / "1.data", size)
    said = b"one\ntwo\nthree\n"[:size]
    assert b"".join(piece.data for piece in pieces(three, "local")) == said
    assert b"".join(continued(three)) == said + b"more\n"


@pytest.mark.parametrize("size", [0, 3, 16, 33, 47])
def test_a_torn_index_loses_no_data(three: Path, size: int) -> None:
    os.truncate(three / "1.index", size)
    assert b"".join(piece.data for piece in pieces(three, "local")) == b"one\ntwo\nthree\n"
    assert b"".join(continued(three)) == b"one\ntwo\nthree\nmore\n"


@pytest.mark.parametrize("zeros", [5, 16, 160, 200_000])
def test_zeros_at_the_end_of_an_index_are_left_out(three: Path, zeros: int) -> None:
    with (three / "1.index").open("ab") as file:
        file.write(bytes(zeros))
    assert b"".join(piece.data for piece in pieces(three, "local")) == b"one\ntwo\nthree\n"
    assert continued(three) == [b"one\n", b"two\n", b"three\n", b"more\n"]


@settings(max_examples=200, deadline=None)
@example(raw=bytes(32), data=b"a", tail=0)
@given(raw=st.binary(max_size=100), data=st.binary(max_size=40), tail=st.integers(0, 5))
def test_no_index_breaks_a_reader(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, data: bytes, tail: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    (directory / "1.data").write_bytes(data)
    (directory / "1.index").write_bytes(raw)
    opened = LocalSource(str(directory))
    starts = starts_of_tail(opened.backward(), tail, opened.end())
    assert set(starts) == {1, 2}
    assert sum(len(piece.data) for _, piece in opened.forward()) <= len(data)
    opened.close()
    again = LocalSource(str(directory))
    spans = list(again.bulk(Choice()))
    assert sum(span.end - span.start for span in spans) <= len(data)
    assert {span.stream for span in spans} <= {1, 2}
    again.close()
    assert b"".join(continued(directory)).endswith(b"more\n")


@pytest.mark.parametrize("driver", ["json-file", "k8s-file"])
def test_a_torn_line_is_cut_off(tmp_path: Path, driver: str) -> None:
    written(tmp_path, driver, [(1, b"one\n", 1)])
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    assert [piece.data for piece in pieces(tmp_path, driver)] == [b"one\n"]
    written(tmp_path, driver, [(1, b"two\n", 1)])
    assert of_stream(pieces(tmp_path, driver), 1) == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("decode", "good", "bad"),
    [
        (json_lines.decode, b'{"log":"x\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}', b'{"log":1}'),
        (json_lines.decode, b'{"log":"x\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}', b"[" * 100_000),
        (json_lines.decode, b'{"log":"x\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}', b"\xff"),
        (json_lines.decode, b'{"log":"x\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}', b"1],[2"),
        (json_lines.decode, b'{"log":"x\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}', b"{},{}"),
        (cri_lines.decode, b"2023-11-14T22:13:20Z stdout F x", b"2023-11-14T22:13:20Z stdin F x"),
        (cri_lines.decode, b"2023-11-14T22:13:20Z stdout F x", b"now stdout F x"),
        (cri_lines.decode, b"2023-11-14T22:13:20Z stdout F x", b""),
    ],
)
def test_a_damaged_line_hides_no_other_one(decode: object, good: bytes, bad: bytes) -> None:
    assert callable(decode)
    found = decode([good, bad, good])
    assert [piece and piece.data for piece in found] == [b"x\n", None, b"x\n"]


FORMS = pytest.mark.parametrize("form", [JSON, CRI], ids=["json", "cri"])


def encoded(form: Form, writes: Writes) -> bytes:
    encoder, found, now = JsonEncoder('{"a":"b"}') if form is JSON else CriEncoder(), b"", MOMENT
    for stream, data, later in writes:
        now += later
        found += encoder.encode(stream, data, now)
    return found + encoder.rest(now)


def neighbors(found: Sequence[Piece | None]) -> list[Piece]:
    """Pieces of one moment and stream put together."""
    whole: list[Piece] = []
    for piece in found:
        assert piece is not None
        if whole and whole[-1][:2] == piece[:2]:
            whole[-1] = piece._replace(data=whole[-1].data + piece.data)
        else:
            whole.append(piece)
    return whole


@settings(max_examples=100, deadline=None)
@given(writes=WRITES, copies=st.integers(1, 9))
@FORMS
def test_lines_that_are_read_together_give_what_each_line_gives(form: Form, writes: Writes, copies: int) -> None:
    block = encoded(form, [(stream, data * copies, later) for stream, data, later in writes])
    each = form.decode(block.split(b"\n")[:-1])
    assert None not in each
    runs = form.runs(block)
    if runs is not None:
        assert neighbors([piece for _, piece in runs]) == neighbors(each)
        assert sum(size for size, _ in runs) == len(block)
        at = 0
        for size, piece in runs:  # each tells of the lines that it has the size of
            assert neighbors(form.decode(block[at : at + size].split(b"\n")[:-1])) == [piece]
            at += size
    streams = form.streams(block)
    for stream in (1, 2) if streams is not None else ():
        expected = b"".join(piece.data for piece in each if piece and piece.stream == stream)
        assert b"".join(data for one, data in streams or () if one == stream) == expected


@pytest.mark.parametrize("stream", [1, 2])
@FORMS
def test_what_a_program_writes_at_once_is_one_piece(form: Form, stream: int) -> None:
    text = b'a "quoted" line\n' * 50 + b"\\ \xc3\xa9 <&>\x01\n" + b"\n"
    block = encoded(form, [(stream, text, 0)])
    assert form.runs(block) is not None
    assert [(piece.stream, piece.data, piece.time_ns) for _, piece in form.runs(block) or ()] == [
        (stream, text, MOMENT)
    ]
    assert form.streams(block) == [(stream, text)]


@settings(max_examples=200, deadline=None)
@given(writes=WRITES, at=st.integers(0, 1 << 16), junk=st.binary(max_size=9), cut=st.integers(0, 9))
@FORMS
def test_a_damaged_block_is_read_line_by_line(form: Form, writes: Writes, at: int, junk: bytes, cut: int) -> None:
    whole = encoded(form, [*writes, (1, b"the end\n", 1)])
    at %= len(whole)
    block = whole[:at] + junk + whole[at + cut :]
    if not block.endswith(b"\n"):
        return
    each = form.decode(block.split(b"\n")[:-1])
    runs, streams = form.runs(block), form.streams(block)
    if None in each:  # only `decode` knows which
        assert runs is None
    if runs is not None:
        assert neighbors([piece for _, piece in runs]) == neighbors(each)
    if streams is not None and None not in each:
        expected = [b"".join(piece.data for piece in each if piece and piece.stream == one) for one in (1, 2)]
        assert [b"".join(data for stream, data in streams if stream == one) for one in (1, 2)] == expected


@pytest.mark.parametrize(
    ("form", "block"),
    [
        (JSON, b'{"log":"a\\n","stream":"stdout","time":"x"}\n'),
        (JSON, b'{"log":"a\\n","stream":"stdin","time":"2023-11-14T22:13:20Z"}\n'),
        (JSON, b'{"log":1,"stream":"stdout","time":"2023-11-14T22:13:20Z"}\n'),
        (JSON, b'{"log":"a","stream":"stdout"},{"log":"b","stream":"stdout"}\n\n'),
        (JSON, b'{"log":"a\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\n\n'),
        (JSON, b'\0\0{"log":"a\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\n'),
        (JSON, b'{"log":"a\0\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\n'),
        (JSON, b'{"log":"\xff\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\n'),
        (CRI, b"2023-11-14T22:13:20Z stdout F a\n"),
        (CRI, b"2023-11-14T22:13:20.123456789-01:00 stdout F a\n"),
        (CRI, b"2023-11-14T22:13:20.123456789+00:00 stdin  F a\n"),
        (CRI, b"2023-11-14T22:13:20.123456789+00:00 stdout X a\n"),
        (CRI, b"2023-11-14T22:13:20.123456789+00:00 stdout F a\n\n"),
        (CRI, b"2023-11-14T22:13:20.123456789+00:00 stdout F\n"),
    ],
)
def test_lines_of_another_form_are_not_read_together(form: Form, block: bytes) -> None:
    assert form.runs(block) is None
    assert form.streams(block) is None


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    path.write_bytes(b'{"log":"x\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\nnonsense\n' * 3)
    counts: list[int] = []
    opened = TextSource(str(path), JSON, on_damage=counts.append)
    assert [piece.data for _, piece in opened.forward()] == [b"x\n"] * 3
    assert sum(counts) == 3
    opened.close()


def test_a_file_that_another_program_empties_is_read_from_its_start(tmp_path: Path) -> None:
    options = options_of("json-file", [])
    writer = open_writer(str(tmp_path), "json-file", options, container=CONTAINER)
    writer.write(1, b"a long line that is gone soon\n" * 3)
    opened = source(tmp_path, "json-file", complete=False)
    assert b"".join(piece.data for _, piece in opened.forward()).count(b"gone soon\n") == 3
    os.truncate(tmp_path / f"{CONTAINER['id']}-json.log", 0)
    writer.write(1, b"new\n")
    assert [piece.data for _, piece in opened.forward()] == [b"new\n"]
    opened.close()
    writer.close()


def test_long_lines_are_read_from_both_ends(tmp_path: Path) -> None:
    data = b"z" * (3 << 20)
    written(tmp_path, "k8s-file", [(1, b"before\n", 0), (1, data + b"\n", 0), (1, b"after\n", 0)])
    opened = source(tmp_path, "k8s-file")
    assert b"".join(piece.data for _, piece in opened.forward()) == b"before\n" + data + b"\nafter\n"
    assert [piece.data for _, piece in opened.backward()] == [b"after\n", data + b"\n", b"before\n"]
    opened.close()


# -- a disk that takes nothing


class Disk:
    """os.write for a disk that has room for so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 40
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        done = self._write(descriptor, data[: self.room])
        self.room -= done
        return done


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
@pytest.mark.parametrize("room", [0, 1, 5, 9, 16, 20, 70])
def test_a_full_disk_is_told_in_the_log(tmp_path: Path, disk: Disk, driver: str, room: int) -> None:
    writer = open_writer(str(tmp_path), driver, (), container=CONTAINER)
    writer.write(1, b"first\n")
    disk.room = room
    lost = 0
    kept = b"first\n"
    for _ in range(5):
        before = len(of_stream(pieces(tmp_path, driver), 1))
        writer.write(1, b"second\n")
        if len(of_stream(pieces(tmp_path, driver), 1)) == before:
            lost += 7
        else:
            kept += b"second\n"
    assert lost
    disk.room = 1 << 40
    writer.write(1, b"third\n")
    writer.close()
    found = pieces(tmp_path, driver)
    assert of_stream(found, 1) == kept + b"third\n"
    assert of_stream(found, 2).startswith(b"lamina: %d bytes of output are missing here: " % lost)


@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
def test_a_log_that_can_not_be_opened_begins_later(tmp_path: Path, driver: str) -> None:
    directory = tmp_path / "log"
    directory.write_bytes(b"")  # a file in its place, which also root can't change
    writer = open_writer(str(directory), driver, (), container=CONTAINER)
    writer.write(1, b"lost\n")
    directory.unlink()
    writer.write(1, b"kept\n")
    writer.close()
    found = pieces(directory, driver)
    assert of_stream(found, 1) == b"kept\n"
    assert of_stream(found, 2).startswith(b"lamina: 5 bytes of output are missing here: ")


@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
def test_a_full_disk_at_rotation_loses_nothing(tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of(driver, ["max-size=100", "max-file=3"])
    writer = open_writer(str(tmp_path), driver, options, container=CONTAINER)
    writer.write(1, b"a" * 120 + b"\n")
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if str(path).startswith(str(tmp_path)):
            raise OSError(28, "No space left on device")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    writer.write(1, b"b\n")
    monkeypatch.undo()
    writer.write(1, b"c\n")
    writer.close()
    assert of_stream(pieces(tmp_path, driver), 1) == b"a" * 120 + b"\nb\nc\n"
    assert len([path for path in tmp_path.iterdir() if path.suffix != ".index"]) == 2


# -- options


@pytest.mark.parametrize(
    ("driver", "words", "message"),
    [
        ("json-file", ["foo=1"], "unknown log opt 'foo' for json-file log driver"),
        ("local", ["labels=a"], "unknown log opt 'labels' for local log driver"),
        ("json-file", ["max-size"], "invalid logging option 'max-size'"),
        ("json-file", ["max-size=0"], "is not a possible size"),
        ("json-file", ["max-size=ten"], "is not a size"),
        ("json-file", ["max-size=1e400"], "is not a size"),
        ("json-file", ["max-size=99999999999p"], "is not a possible size"),
        ("json-file", ["max-file=0"], "is not a number of files"),
        ("json-file", ["max-file=-1"], "is not a number of files"),
        ("json-file", ["compress=true"], "compress needs max-size"),
        ("json-file", ["compress=perhaps"], "neither true nor false"),
        ("local", ["mode=fast"], "is not a mode"),
        ("local", ["max-buffer-size=1m"], "needs mode=non-blocking"),
        ("k8s-file", ["path=log"], "is not absolute"),
        ("passthrough", ["tag=x"], "unknown log opt 'tag'"),
    ],
)
def test_bad_options_are_refused(driver: str, words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options_of(driver, words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((("tag", "{{.Nothing}}"),), "no field .Nothing"),
        ((("tag", "{{range .X}}"),), "more than fields"),
        ((("labels-regex", "("),), "labels-regex"),
    ],
)
def test_bad_tags_and_expressions_are_refused(options: tuple[tuple[str, str], ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attributes.check(options)


def test_labels_and_variables_are_chosen_as_docker_chooses_them() -> None:
    options = attributes.resolved(
        (("labels", "a,missing"), ("env", "HOME"), ("env-regex", "^PG"), ("max-size", "1m")),
        identity="c" * 64, name="n", image="i", labels={"a": "1", "b": "2"}, env=("HOME=/", "PGDATA=x=y", "PATH=z"),
    )  # fmt: skip
    assert options == (("max-size", "1m"), ("attributes", '{"HOME":"/","PGDATA":"x=y","a":"1"}'))


@pytest.mark.parametrize(
    ("text", "size"), [("10", 10), ("10b", 10), ("10k", 10240), ("10kb", 10240), ("10KiB", 10240), ("1.5m", 3 << 19)]
)
def test_sizes_are_read_as_docker_reads_them(text: str, size: int) -> None:
    assert drivers.parse_size(text, "max-size") == size


@pytest.mark.parametrize("name", ["syslog", "fluentd"])
def test_drivers_of_docker_that_are_missing_are_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"the log driver {name} is not supported"):
        drivers.parse_driver(name)


def test_an_unknown_driver_is_refused_in_the_words_of_docker() -> None:
    with pytest.raises(UsageError, match="no log driver named 'foo' is registered"):
        drivers.parse_driver("foo")


def test_inspect_shows_the_path_that_others_can_read() -> None:
    assert drivers.log_path("/d", "json-file", (), "abc") == "/d/abc-json.log"
    assert drivers.log_path("/d", "k8s-file", (), "abc") == "/d/ctr.log"
    assert drivers.log_path("/d", "k8s-file", (("path", "/x/y"),), "abc") == "/x/y"
    assert drivers.log_path("/d", "local", (), "abc") == ""


def test_none_writes_nothing(tmp_path: Path) -> None:
    written(tmp_path, "none", [(1, b"x\n", 0)])
    assert list(tmp_path.iterdir()) == []


def test_a_reader_closes_the_files_that_it_has_read(tmp_path: Path) -> None:
    options = options_of("json-file", ["max-size=1", "max-file=50"])
    writer = open_writer(str(tmp_path), "json-file", options, container=CONTAINER)
    opened = source(tmp_path, "json-file", complete=False)
    before, got = len(os.listdir("/proc/self/fd")), 0
    for number in range(40):
        writer.write(1, b"%d\n" % number)
        got += len(list(opened.forward()))
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    writer.close()
    opened.close()
    assert got == 40


def test_a_log_of_too_many_files_leaves_none_open(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    for number in range(100):
        (tmp_path / (f"log.json.{number}" if number else "log.json")).touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 20, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            TextSource(str(path), JSON, on_damage=lambda count: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_rotation_looks_only_at_files_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of("json-file", ["max-size=1", "max-file=100000"])
    writer = open_writer(str(tmp_path), "json-file", options, container=CONTAINER)
    renamed, real = [], os.rename

    def rename(old: str, new: str) -> None:
        renamed.append(new)
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    for number in range(4):
        writer.write(1, b"%d\n" % number)
    writer.close()
    assert len(renamed) == 2 + 3 + 4
    assert of_stream(pieces(tmp_path, "json-file"), 1) == b"0\n1\n2\n3\n"
