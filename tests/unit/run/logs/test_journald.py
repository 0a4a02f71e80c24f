"""The log driver journald, with a socket in the place of journald's."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.run.logs.export_format import parse_export
from lamina.run.logs.journald import JournalWriter

CONTAINER = {"id": "d" * 64, "name": "db", "image": "postgres:16"}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.settimeout(5)
        yield listener


def writer(tmp_path: Path, *options: tuple[str, str]) -> JournalWriter:
    return JournalWriter(options, CONTAINER, path=str(tmp_path / "socket"))


def received(listener: socket.socket) -> dict[str, bytes]:
    data, descriptors, _, _ = socket.recv_fds(listener, 1 << 20, 1)
    for descriptor in descriptors:
        with open(descriptor, "rb") as file:
            file.seek(0)
            data = file.read()
    fields = {}
    file = io.BytesIO(data)
    while line := file.readline():
        name, equals, value = line.removesuffix(b"\n").partition(b"=")
        if not equals:
            value = file.read(int.from_bytes(file.read(8), "little"))
            assert file.read(1) == b"\n"
        fields[name.decode()] = value
    return fields


def test_entries_have_the_fields_of_docker(tmp_path: Path, journal: socket.socket) -> None:
    one = writer(tmp_path)
    one.write(1, b"hello\nhalf")
    one.write(2, b"\xff=\n")
    one.write(1, b" done\n")
    common = {
        "CONTAINER_ID": b"d" * 12,
        "CONTAINER_ID_FULL": b"d" * 64,
        "CONTAINER_NAME": b"db",
        "CONTAINER_TAG": b"d" * 12,
        "IMAGE_NAME": b"postgres:16",
        "SYSLOG_IDENTIFIER": b"d" * 12,
    }
    assert received(journal) == {"MESSAGE": b"hello", "PRIORITY": b"6", **common}
    assert received(journal) == {"MESSAGE": b"\xff=", "PRIORITY": b"3", **common}
    assert received(journal) == {"MESSAGE": b"half done", "PRIORITY": b"6", **common}
    one.close()


def test_the_tag_and_labels_are_fields(tmp_path: Path, journal: socket.socket) -> None:
    held = '{"com.example/team":"a\\nb","ID":"1","tag":"mine","message":"m","Container_Name":"n","priority":"0"}'
    one = writer(tmp_path, ("tag", "mine"), ("attributes", held))
    one.write(1, b"x\n")
    entry = received(journal)
    assert (entry["MESSAGE"], entry["PRIORITY"], entry["CONTAINER_NAME"]) == (b"x", b"6", b"db")
    assert "TAG" not in entry
    assert entry["CONTAINER_TAG"] == entry["SYSLOG_IDENTIFIER"] == b"mine"
    assert (entry["COM_EXAMPLE_TEAM"], entry["ID"]) == (b"a\nb", b"1")
    one.close()


def test_long_lines_are_partial_messages(tmp_path: Path, journal: socket.socket) -> None:
    one = writer(tmp_path)
    one.write(1, b"x" * 20_000 + b"\n")
    one.write(2, b"between\n")
    one.write(1, b"rest")
    one.close()
    first, second, between, third = (received(journal) for _ in range(4))
    names = ("CONTAINER_PARTIAL_ID", "CONTAINER_PARTIAL_ORDINAL", "CONTAINER_PARTIAL_LAST")
    assert not between.keys() & {*names}
    ids, numbers, ends = zip(*[[entry[name] for name in names] for entry in (first, second, third)], strict=True)
    assert (numbers, ends) == ((b"1", b"2", b"1"), (b"false", b"true", b"false"))
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 64
    assert (first["MESSAGE"], first["CONTAINER_PARTIAL_MESSAGE"]) == (b"x" * 16384, b"true")
    assert (second["MESSAGE"], "CONTAINER_PARTIAL_MESSAGE" in second) == (b"x" * 3616, False)
    assert (third["MESSAGE"], third["CONTAINER_PARTIAL_MESSAGE"]) == (b"rest", b"true")


def test_the_end_of_a_run_is_a_message_of_its_own(tmp_path: Path, journal: socket.socket) -> None:
    one = writer(tmp_path)
    one.write(1, b"rest")
    one.end_run()
    one.write(1, b"next\n")
    one.close()
    assert [received(journal)["MESSAGE"] for _ in range(2)] == [b"rest", b"next"]


def test_an_entry_that_is_too_large_for_a_datagram_goes_in_memory(tmp_path: Path, journal: socket.socket) -> None:
    one = writer(tmp_path, ("attributes", '{"BIG":"%s"}' % ("y" * 4_000_000)))
    one.write(1, b"x\n")
    entry = received(journal)
    assert (entry["MESSAGE"], entry["BIG"]) == (b"x", b"y" * 4_000_000)
    one.close()


def test_a_missing_journald_costs_output_and_says_so(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.write(1, b"lost\nlost too\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        one.write(1, b"back\n")
        note, entry = received(listener), received(listener)
    assert note["MESSAGE"].startswith(b"lamina: 12 bytes of output are missing here: journald: ")
    assert (note["PRIORITY"], entry["MESSAGE"]) == (b"3", b"back")
    os.unlink(tmp_path / "socket")
    one.write(1, b"gone again\n")
    one.close()


def test_a_journald_that_hangs_does_not_stop_the_program(tmp_path: Path, journal: socket.socket) -> None:
    one = writer(tmp_path, ("mode", "non-blocking"))
    for _ in range(5000):  # more than the queue of a socket holds
        one.write(1, b"z" * 1000 + b"\n")
    queued = 0
    journal.setblocking(False)
    while True:
        try:
            journal.recv(1 << 20)
            queued += 1
        except BlockingIOError:
            break
    assert 0 < queued < 5000
    one.write(1, b"after\n")
    assert received(journal)["MESSAGE"].startswith(b"lamina: %d bytes" % ((5000 - queued) * 1000))
    one.close()


def test_the_export_format_gives_the_log_back() -> None:
    text = (
        b"__CURSOR=c1\n__REALTIME_TIMESTAMP=1700000000123456\nPRIORITY=6\nMESSAGE=one\n\n"
        b"__CURSOR=c2\n__REALTIME_TIMESTAMP=1700000000123457\nPRIORITY=3\nMESSAGE\n"
        + (4).to_bytes(8, "little")
        + b"a\n\xffb\nCONTAINER_PARTIAL_MESSAGE=true\n\n__CURSOR=bad\nMESSAGE=no time\n\n"
    )
    found = [(cursor, *piece[:3]) for cursor, piece in parse_export(io.BytesIO(text))]
    assert found == [
        ("c1", 1_700_000_000_123_456_000, 1, b"one\n"),
        ("c2", 1_700_000_000_123_457_000, 2, b"a\n\xffb"),
    ]
