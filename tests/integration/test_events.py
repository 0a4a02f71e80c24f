"""The journal of a store, and the verb `events`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lamina.errors import StoreDamaged, UsageError
from lamina.run.container.events import note_event
from lamina.store import journal
from lamina.store.journal import journal_path, note, old_path
from lamina.store.journal_reading import Event, Filters, Journal, followed, last_exit_code, read_line, recorded
from lamina.store.store import Store
from support import lamina, make_tar, write_layout

_ID = "c0ffee" + "0" * 58


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


def _actions(root: str) -> list[str]:
    return [event.action for event in recorded(root)]


def test_events_are_read_as_they_were_noted(root: str) -> None:
    before = time.time_ns()
    note(root, "container", "die", _ID, {"exitCode": "3", "name": "w\u00e9b", "odd": "\udcff\n"})
    note(root, "volume", "create", "data", {})
    first, second = recorded(root)
    assert before <= first.time <= second.time <= time.time_ns()
    assert (first.kind, first.action, first.id) == ("container", "die", _ID)
    assert first.attributes == {"exitCode": "3", "name": "w\u00e9b", "odd": "\udcff\n"}
    assert (second.kind, second.action, second.id, second.attributes) == ("volume", "create", "data", {})
    assert os.stat(journal_path(root)).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b"\xff",
        b'{"time":1}',
        b'{"time":"1","kind":"a","action":"b","id":"c","attributes":{}}',
        b'{"time":-1,"kind":"a","action":"b","id":"c","attributes":{}}',
        b'{"time":99999999999999999999999,"kind":"a","action":"b","id":"c","attributes":{}}',
        b'{"time":1,"kind":"a","action":"b","id":"c","attributes":{"x":1}}',
        b'{"time":1,"kind":"a","action":"b","id":"c","attributes":["x"]}',
        b'{"time":1,"kind":["a"],"action":"b","id":"c","attributes":{}}',
        b'{"time":' + b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_no_event(line: bytes, root: str) -> None:
    assert read_line(line) is None
    Path(journal_path(root)).write_bytes(line + b"\n")
    note(root, "image", "pull", "a", {})
    assert _actions(root) == ["pull"]


def test_an_event_after_a_line_that_was_cut_off_is_found(root: str) -> None:
    note(root, "image", "pull", "a", {})
    whole = Path(journal_path(root)).read_bytes()
    Path(journal_path(root)).write_bytes(whole[:-20])  # as a full disk leaves it
    note(root, "image", "tag", "b", {})
    assert _actions(root) == ["tag"]


def test_a_full_file_is_put_aside_and_the_one_before_is_deleted(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_SIZE", 1000)
    for number in range(100):
        note(root, "image", f"pull{number}", "a", {})
    assert sorted(os.listdir(root)) == ["events", "events.old"] or os.listdir(root) == ["events.old"]
    found = _actions(root)
    assert found == [f"pull{number}" for number in range(100 - len(found), 100)]
    assert len(found) >= 10
    assert all(os.stat(path).st_size < 1200 for path in (old_path(root), journal_path(root)) if os.path.exists(path))


def test_no_event_is_lost_while_processes_write_and_files_are_put_aside(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_SIZE", 35_000)
    children = []
    with Journal(root, past=True) as reading:
        for writer in range(4):
            child = os.fork()
            if child == 0:
                try:
                    for number in range(150):
                        note(root, "image", f"{writer}-{number}", "a", {})
                finally:
                    os._exit(0)
            children.append(child)
        seen: list[str] = []
        while children:
            seen += [event.action for event in reading.new()]
            children = [child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)]
        seen += [event.action for event in reading.new()]
    assert sorted(seen) == sorted(f"{writer}-{number}" for writer in range(4) for number in range(150))
    for writer in range(4):  # in the order of each writer
        own = [action for action in seen if action.startswith(f"{writer}-")]
        assert own == [f"{writer}-{number}" for number in range(150)]


def test_a_reader_that_was_away_while_two_files_were_put_aside_misses_nothing(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(root, past=False) as reading:
        note(root, "image", "one", "a", {})
        monkeypatch.setattr(journal, "MAX_SIZE", 1)
        assert [event.action for event in reading.new()] == ["one"]
        for action in ("two", "three"):
            note(root, "image", action, "a", {})
        monkeypatch.setattr(journal, "MAX_SIZE", 1000)
        note(root, "image", "four", "a", {})
        assert [event.action for event in reading.new()] == ["two", "three", "four"]
        assert list(reading.new()) == []


def test_only_new_events_are_followed_unless_the_past_is_asked_for(root: str) -> None:
    note(root, "image", "old", "a", {})
    with Journal(root, past=False) as reading:
        assert list(reading.new()) == []
        note(root, "image", "new", "a", {})
        assert [event.action for event in reading.new()] == ["new"]
    ends = followed(root, past=True, until=time.time_ns())
    assert [event.action for event in ends if event] == ["old", "new"]


def test_a_journal_that_does_not_exist_yet_is_waited_for(root: str) -> None:
    with Journal(os.path.join(root, "store"), past=False) as reading:
        assert list(reading.new()) == []
        os.mkdir(os.path.join(root, "store"))
        note(os.path.join(root, "store"), "image", "first", "a", {})
        assert [event.action for event in reading.new()] == ["first"]


def test_an_event_that_cannot_be_written_stops_nothing(root: str) -> None:
    note(os.path.join(root, "missing"), "image", "pull", "a", {})
    os.mkfifo(journal_path(root))
    note(root, "image", "pull", "a", {})  # nobody reads the FIFO
    with pytest.raises(StoreDamaged, match="is not a file"):
        list(recorded(root))
    os.unlink(journal_path(root))
    os.symlink("/dev/full", journal_path(root))
    note(root, "image", "pull", "a", {})


def test_a_writer_does_not_wait_for_ever_for_a_lock(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.host.lock import acquire

    monkeypatch.setattr(journal, "_PAUSE", 0.0)
    note(root, "image", "one", "a", {})
    with open(journal_path(root), "rb") as held:
        acquire(held.fileno(), journal_path(root))
        note(root, "image", "two", "a", {})
    assert _actions(root) == ["one", "two"]


def test_a_long_event_keeps_its_short_attributes(root: str) -> None:
    note(root, "container", "start", _ID, {"big": "x" * 1_000_000, "image": "app", "name": "web"})
    note(root, "container", "exec_create: " + "y" * 1_000_000, _ID, {f"k{i}": "v" * 100 for i in range(5000)})
    first, second = recorded(root)
    assert first.attributes == {"image": "app", "name": "web"}
    assert second.action.startswith("exec_create: yy")
    assert len(second.attributes) == 200
    assert os.stat(journal_path(root)).st_size < 64 << 10


def _event(kind: str = "container", action: str = "die", identity: str = _ID, **attributes: str) -> Event:
    return Event(1, kind, action, identity, attributes)


@pytest.mark.parametrize(
    ("filters", "event", "expected"),
    [
        ((), _event(), True),
        (("event=die",), _event(), True),
        (("event=start",), _event(), False),
        (("event=start", "event=die"), _event(), True),
        (("event=exec_create",), _event(action="exec_create: sh -c x"), True),
        (("event=health_status",), _event(action="health_status: healthy"), True),
        (("event=health_status: healthy",), _event(action="health_status: healthy"), True),
        (("event=health_status: unhealthy",), _event(action="health_status: healthy"), False),
        (("type=container",), _event(), True),
        (("type=image",), _event(), False),
        (("container=c0ff",), _event(), True),
        (("container=web",), _event(name="web"), True),
        (("container=web",), _event(name="db"), False),
        (("container=c0ff",), _event("network", "connect", "n", container=_ID), True),
        (("container=web",), _event("volume", "create", "web"), False),
        (("volume=data",), _event("volume", "mount", "data"), True),
        (("network=front",), _event("network", "create", "n", name="front"), True),
        (("image=app",), _event(image="app:latest"), True),
        (("image=app:latest",), _event(image="app"), False),
        (("image=app",), _event("image", "tag", "sha256:1", name="app:1"), True),
        (("image=other",), _event(image="app"), False),
        (
            ("image=localhost:5000/app",),
            _event("image", "pull", "localhost:5000/app", name="localhost:5000/app"),
            True,
        ),
        (("label=a",), _event(a="1"), True),
        (("label=a=1", "label=b"), _event(a="1", b=""), True),
        (("label=a=2",), _event(a="1"), False),
        (("label=a=1", "label=c"), _event(a="1"), False),
        (("event=die", "type=image"), _event(), False),
    ],
)
def test_filters(filters: tuple[str, ...], event: Event, expected: bool) -> None:
    assert Filters.parse(filters).match(event) is expected


@pytest.mark.parametrize("word", ["die", "colour=red", "", "=x"])
def test_a_filter_that_does_not_exist_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="is not a filter"):
        Filters.parse([word])


@pytest.fixture
def noted(root: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with five events, a second apart."""
    Store.open(root)
    for number, (kind, action, identity, attributes) in enumerate(
        (
            ("image", "pull", "app:1", {"name": "app:1"}),
            ("container", "start", _ID, {"image": "app:1", "name": "web", "tier": "front"}),
            ("container", "health_status: healthy", _ID, {"image": "app:1", "name": "web", "tier": "front"}),
            ("container", "die", _ID, {"exitCode": "3", "image": "app:1", "name": "w\x1b[31m", "tier": "front"}),
            ("volume", "create", "data", {"driver": "local"}),
        )
    ):
        monkeypatch.setattr(time, "time_ns", lambda number=number: (1_764_380_000 + number) * 10**9 + 7)
        note(root, kind, action, identity, attributes)
    monkeypatch.undo()
    return root


def _events(root: str, *words: str, code: int = 0) -> list[str]:
    done = lamina("events", *words, root=root, TZ="UTC")
    assert (done.returncode, done.stderr) == (code, b"")
    return done.stdout.decode().splitlines()


def test_events_are_printed_as_docker_prints_them(noted: str) -> None:
    assert _events(noted, "--no-stream") == [
        "2025-11-29T01:33:20.000000007Z image pull app:1 (name=app:1)",
        f"2025-11-29T01:33:21.000000007Z container start {_ID} (image=app:1, name=web, tier=front)",
        f"2025-11-29T01:33:22.000000007Z container health_status: healthy {_ID} (image=app:1, name=web, tier=front)",
        f"2025-11-29T01:33:23.000000007Z container die {_ID} (exitCode=3, image=app:1, name=w\\x1b[31m, tier=front)",
        "2025-11-29T01:33:24.000000007Z volume create data (driver=local)",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--since", "1764380003", "--until", "1764380005"), ["die", "create"]),
        (("--until", "2025-11-29T01:33:21"), ["pull"]),
        (("--until", "2025-11-29T01:33:22Z", "--filter", "type=container"), ["start"]),
        (("--stream=false", "--filter", "event=start", "--filter", "event=die"), ["start", "die"]),
        (("--no-stream", "-f", "label=tier=front", "-f", "event=health_status"), ["health_status: healthy"]),
        (("--no-stream", "--since", "1h"), []),
        (("--no-stream", "-f", "volume=data"), ["create"]),
    ],
)
def test_which_events_are_shown(noted: str, words: tuple[str, ...], expected: list[str]) -> None:
    assert _events(noted, "--format", "{{.Action}}", *words) == expected


def test_json_has_dockers_fields(noted: str) -> None:
    (line,) = _events(noted, "--no-stream", "-f", "event=start", "--format", "json")
    assert json.loads(line) == {
        "status": "start",
        "id": _ID,
        "from": "app:1",
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": _ID, "Attributes": {"image": "app:1", "name": "web", "tier": "front"}},
        "scope": "local",
        "time": 1764380001,
        "timeNano": 1764380001000000007,
    }
    template = "{{.Name}} {{.Image}} {{.ID}} {{.Status}} {{.Actor.Attributes.tier}} {{.TimeNano}}"
    shown = _events(noted, "--no-stream", "-f", "event=start", "--format", template)
    assert shown == [f"web app:1 {_ID} start front 1764380001000000007"]
    assert _events(noted, "--no-stream", "-f", "event=start", "--format", "{{json .}}") == [line]


def test_new_events_are_shown_as_they_come(noted: str) -> None:
    words = [sys.executable, "-m", "lamina", "--root", noted, "events", "--format", "{{.Action}} {{.ID}}"]
    stop = threading.Event()

    def make() -> None:
        while not stop.wait(0.02):
            note(noted, "volume", "create", "new", {})

    writer = threading.Thread(target=make)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        writer.start()  # until the first line comes, we do not know that it reads
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "create new\n"  # and none of the past
        finally:
            stop.set()
            writer.join()
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_bad_words_are_refused_in_one_line(root: str) -> None:
    for words, named in (
        (("--since", "soon"), "soon"),
        (("--filter", "x=1"), "x=1"),
        (("--format", "{{.X}"), "{{.X}"),
    ):
        done = lamina("events", "--no-stream", *words, root=root)
        assert done.returncode == 2
        assert named in done.stderr.decode()
        assert len(done.stderr.splitlines()) <= 2


def test_a_store_without_events_has_none(root: str) -> None:
    assert _events(root + "/missing", "--no-stream") == []


def test_an_event_of_a_container_has_its_image_name_and_labels(root: str) -> None:
    from lamina.store.containers import Container

    labels = (("tier", "front"), ("name", "fake"))
    one = Container(_ID, "web", "app:1", "sha256:" + "0" * 64, "", 0, (), 0.0, labels=labels)
    note_event(root, one, "die", exitCode="137")
    (event,) = recorded(root)
    assert event.attributes == {"tier": "front", "name": "web", "image": "app:1", "exitCode": "137"}


def test_verbs_note_what_happens_to_images(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write_layout(tmp_path / "l", "app:1", [[("f", b"1")]], config={"config": {"Labels": {"tier": "front"}}})

    def ok(*words: str, input: bytes | None = None) -> str:
        done = lamina(*words, root=root, input=input)
        assert done.returncode == 0, done
        return done.stdout.decode().strip()

    ok("load", "-i", str(tmp_path / "l"))
    ident = ok("images", "--no-trunc", "-q")
    ok("tag", "app:1", "app:2")
    ok("save", "-o", str(tmp_path / "a.tar"), "app:1")
    ok("rmi", "--dry-run", "app:1", "app:2")
    ok("rmi", "app:1")
    ok("rmi", "app:2")
    ok("import", "-", "base", input=make_tar([("f", b"2")]))
    imported = ok("images", "--no-trunc", "-q")
    ok("prune", "--all", "--force")
    shown = ok("events", "--no-stream", "--format", "{{.Action}} {{.ID}} {{json .Attributes}}").splitlines()
    assert shown == [
        f'load {ident} {{"name":"{ident}","tier":"front"}}',
        f'tag {ident} {{"name":"app:2","tier":"front"}}',
        f'save {ident} {{"name":"{ident}","tier":"front"}}',
        f'untag {ident} {{"name":"{ident}"}}',
        f'untag {ident} {{"name":"{ident}"}}',
        f'delete {ident} {{"name":"{ident}"}}',
        f'import {imported} {{"name":"{imported}"}}',
        f'untag {imported} {{"name":"{imported}"}}',
        f'delete {imported} {{"name":"{imported}"}}',
    ]


def test_the_journal_knows_the_last_exit_code(root: str) -> None:
    def die(code: str, identity: str = _ID) -> None:
        note(root, "container", "die", identity, {"exitCode": code})

    assert last_exit_code(root, _ID, 0) is None
    die("3")
    die("4", "f00" + _ID[3:])
    assert last_exit_code(root, _ID, 0) == 3
    assert last_exit_code(root, _ID, time.time() + 1) is None
    note(root, "container", "start", _ID, {"exitCode": "a label"})
    assert last_exit_code(root, _ID, 0) is None
    die("x")
    assert last_exit_code(root, _ID, 0) is None
    die("137")
    assert last_exit_code(root, _ID, 0) == 137
