"""The verb `logs` on logs that this process writes in the place of a monitor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lamina.errors import LaminaError, NotFound
from lamina.light import replace
from lamina.run.container.life import create
from lamina.run.container.log import Log, read
from lamina.run.logs.drivers import parse_options
from lamina.run.logs.writer import open_writer
from lamina.run.options import ContainerOptions
from lamina.spec.platform import Platform
from lamina.store.containers import EXITED, Container
from lamina.store.store import Store
from support import lamina, made_once, running, unmount_memory, write_layout

if TYPE_CHECKING:
    from lamina.run.logs.writer import Writer

FILES = ["local", "json-file", "k8s-file"]
STAMP = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z "


def make(top: Path) -> None:
    write_layout(top / "l", "app", [[("a", b"")]])
    assert lamina("load", "-i", str(top / "l"), root=top / "s").returncode == 0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made_once(make, tmp_path)
    yield Store.open(str(tmp_path / "s"))
    unmount_memory(tmp_path / "s")


def container(store: Store, name: str = "c", driver: str = "", *options: str) -> Container:
    """A container that was started once."""
    wanted = ContainerOptions(command=("x",), name=name, log_driver=driver, log_options=parse_options(options))
    made = create(store, store.stack("app", Platform.host()), wanted)
    store.containers.write(replace(made, status=EXITED, since=1.0))
    return store.containers.get(name)


def writer(store: Store, one: Container) -> Writer:
    wanted = one.wanted or {}
    options = tuple((key, value) for key, value in wanted["log_options"])
    about = {"id": one.id, "name": one.name, "image": one.image}
    return open_writer(store.containers.path(one.id, "log"), wanted["log_driver"], options, container=about)


@contextmanager
def supervised(store: Store, one: Container) -> Iterator[Writer]:
    """Write the log as a monitor does; it counts as one until the block ends."""
    store.containers.write(replace(store.containers.supervise(one), pid=0))  # only its lock tells that it lives
    log = writer(store, one)
    try:
        yield log
    finally:
        log.close()
        with suppress(NotFound):
            store.containers.write(store.containers.get(one.id).ended(0))
        store.containers.stop_supervising(one.id)


def root_of(store: Store) -> str:
    return store.paths.root


def write(store: Store, one: Container, *pieces: tuple[int, bytes]) -> None:
    with closing(writer(store, one)) as log:
        for stream, data in pieces:
            log.write(stream, data)


def shown(store: Store, *words: str, code: int = 0) -> bytes:
    done = lamina("logs", *words, root=root_of(store))
    assert (done.returncode, done.stderr) == (code, b""), done
    return done.stdout


@pytest.mark.parametrize("driver", FILES)
def test_streams_go_where_they_came_from(store: Store, driver: str) -> None:
    one = container(store, "c", driver)
    write(store, one, (1, b"out 1\n"), (2, b"err 1\n"), (1, b"out 2\nout 3\n"), (2, b"no end"))
    done = lamina("logs", "c", root=root_of(store))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out 1\nout 2\nout 3\n", b"err 1\nno end")


@pytest.mark.parametrize("driver", FILES)
def test_the_order_of_both_streams_is_kept(store: Store, driver: str) -> None:
    write(store, container(store, "c", driver), *((1 + number % 2, b"%d\n" % number) for number in range(50)))
    command = [*lamina_command(store), "logs", "c"]
    both = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout
    assert both == b"".join(b"%d\n" % number for number in range(50))


def lamina_command(store: Store) -> list[str]:
    return [sys.executable, "-m", "lamina", "--root", root_of(store)]


@pytest.mark.parametrize("driver", ["local", "k8s-file"])
def test_bytes_that_are_not_text_come_out_as_they_went_in(store: Store, driver: str) -> None:
    data = bytes(range(256)) * 300
    write(store, container(store, "c", driver), (1, data))
    assert shown(store, "c") == data


@pytest.mark.parametrize("driver", FILES)
@pytest.mark.parametrize("tail", ["0", "1", "3", "100", "all", "-1"])
def test_tail_shows_the_last_lines(store: Store, driver: str, tail: str) -> None:
    lines = [b"%d\n" % number for number in range(10)]
    write(store, container(store, "c", driver), (1, b"".join(lines[:7])), *((1, line) for line in lines[7:]))
    count = int(tail) if tail not in ("all", "-1") else 10
    assert shown(store, "--tail", tail, "c") == b"".join(lines[max(0, 10 - count) :] if count else [])
    assert shown(store, "-n", tail, "-t", "c").count(b"\n") == min(count, 10)


@pytest.mark.parametrize("driver", FILES)
def test_timestamps_begin_each_line(store: Store, driver: str) -> None:
    write(store, container(store, "c", driver), (1, b"one\ntw"), (1, b"o\n\nthree"))
    found = shown(store, "-t", "c")
    assert re.fullmatch(STAMP + rb"one\n" + STAMP + rb"two\n" + STAMP + rb"\n" + STAMP + rb"three", found)


@pytest.mark.parametrize("driver", FILES)
def test_since_and_until_cut_the_log(store: Store, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    second = 1_700_000_000
    now = [second]
    one = container(store, "c", driver)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now[0] * 10**9 + 500_000_000)
        with closing(writer(store, one)) as log:
            for number in range(6):
                now[0] = second + number
                log.write(1, b"%d\n" % number)
    assert shown(store, "--since", f"{second + 3}", "c") == b"3\n4\n5\n"
    assert shown(store, "--since", f"{second + 3}.6", "c") == b"4\n5\n"
    assert shown(store, "--until", f"{second + 2}", "c") == b"0\n1\n"
    assert shown(store, "--since", "2023-11-14T22:13:21Z", "--until", "2023-11-14T22:13:23Z", "c") == b"1\n2\n"
    assert shown(store, "--tail", "2", "--since", f"{second + 5}", "c") == b"5\n"
    assert shown(store, "--since", "10m", "c") == b""
    assert shown(store, "--until", "10m", "c") == b"0\n1\n2\n3\n4\n5\n"


def test_several_containers_are_told_apart(store: Store) -> None:
    first, second = container(store, "first"), container(store, "second", "json-file")
    write(store, first, (1, b"a\nb"))
    write(store, second, (1, b"c\n"))
    head, other = first.id[:12].encode(), second.id[:12].encode()
    assert shown(store, "first", "second") == head + b" a\n" + head + b" b\n" + other + b" c\n"
    assert shown(store, "--names", "first", "second") == b"first a\nfirst b\nsecond c\n"
    assert re.fullmatch(rb"first " + STAMP + rb"b\nsecond " + STAMP + rb"c\n", shown(
        store, "--names", "-t", "-n", "1", "first", "second"
    ))  # fmt: skip
    assert shown(store, "--names", "--color", "second", "first").startswith(b"\033[37msecond\033[0m c\n\033[31mfirst")
    assert shown(store, "--latest") == b"c\n"


def test_details_are_what_the_log_holds(store: Store) -> None:
    one = container(store, "c", "json-file")
    options = (("attributes", '{"team":"x","tag":"<y>/z,=\\n"}'),)
    about = {"id": one.id, "name": one.name, "image": one.image}
    with closing(open_writer(store.containers.path(one.id, "log"), "json-file", options, container=about)) as log:
        log.write(1, b"line\n")
    assert shown(store, "--details", "c") == b"tag=%3Cy%3E%2Fz%2C%3D%0A,team=x line\n"
    assert shown(store, "c") == b"line\n"


def test_a_container_that_was_never_started_has_an_empty_log(store: Store) -> None:
    create(store, store.stack("app", Platform.host()), ContainerOptions(command=("x",), name="new"))
    assert shown(store, "-f", "new") == b""


def test_a_container_that_ran_in_front_has_no_log(store: Store) -> None:
    one = container(store)
    store.containers.write(replace(one, since=None, remove=True))
    done = lamina("logs", "c", root=root_of(store))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == (
        b"lamina: the container c has no log: its output went to the terminal of its `lamina run` "
        b"(run it with -d, or without --rm)\n"
    )


def test_a_driver_that_keeps_nothing_says_so(store: Store) -> None:
    container(store, "c", "none")
    done = lamina("logs", "c", root=root_of(store))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"lamina: the container c has no log: its log driver is none (")


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("nobody",), 3, b"no container 'nobody'"),
        ((), 2, b"no containers given"),
        (("-l", "c"), 2, b"names and --latest can't be combined"),
        (("--tail", "x", "c"), 2, b"--tail 'x' is not a number"),
        (("--since", "yesterday", "c"), 2, b"'yesterday'"),
    ],
)
def test_bad_calls_are_refused(store: Store, words: tuple[str, ...], code: int, error: bytes) -> None:
    container(store)
    done = lamina("logs", *words, root=root_of(store))
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (code, b"", 1)
    assert error in done.stderr


def test_damaged_lines_are_left_out_with_a_warning(store: Store) -> None:
    one = container(store, "c", "json-file")
    write(store, one, (1, b"one\n"))
    path = Path(store.containers.path(one.id, "log", f"{one.id}-json.log"))
    path.write_bytes(path.read_bytes() + b"nonsense\n")
    done = lamina("logs", "c", root=root_of(store))
    assert (done.returncode, done.stdout) == (0, b"one\n")
    assert done.stderr == b"lamina: warning: 1 line of the log of c can't be read\n"


# -- following


@pytest.mark.parametrize("driver", FILES)
def test_follow_shows_what_comes_and_ends_with_the_container(store: Store, driver: str) -> None:
    one = container(store, "c", driver, "max-size=200", "max-file=2")
    with supervised(store, one) as log:
        log.write(1, b"before\n")
        with running("logs", "-f", "c", root=root_of(store)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"before\n"
            for number in range(50):
                log.write(1, b"line %d\n" % number)
                assert process.stdout.readline() == b"line %d\n" % number
            log.write(1, b"the last bytes")
            log.close()
            store.containers.stop_supervising(one.id)
            assert process.communicate(timeout=20) == (b"the last bytes", b"")
            assert process.returncode == 0


def test_follow_does_not_miss_what_comes_while_it_starts(store: Store) -> None:
    one = container(store)
    said = []

    def fill(log: Writer, stop: threading.Event) -> None:
        while not stop.is_set():
            said.append(b"%d\n" % len(said))
            log.write(1, said[-1])
            time.sleep(0.0005)

    with supervised(store, one) as log:
        stop = threading.Event()
        thread = threading.Thread(target=fill, args=(log, stop))
        thread.start()
        with running("logs", "--follow", "c", root=root_of(store)) as process:
            assert process.stdout is not None
            first = [process.stdout.readline() for _ in range(300)]
            stop.set()
            thread.join()
            log.close()
            store.containers.stop_supervising(one.id)
            rest = process.stdout.read()  # with what readline has read ahead
    assert b"".join(first) + rest == b"".join(said)


def test_follow_of_several_ends_with_the_last_one(store: Store) -> None:
    one, two = container(store, "one"), container(store, "two")
    with supervised(store, two) as second:
        with supervised(store, one) as first:
            with running("logs", "-f", "--names", "one", "two", root=root_of(store)) as process:
                assert process.stdout is not None
                first.write(1, b"half")
                second.write(1, b"whole\n")
                assert process.stdout.readline() == b"two whole\n"
                first.write(1, b" and half\n")
                assert process.stdout.readline() == b"one half and half\n"
                first.close()
                store.containers.stop_supervising(one.id)
                second.write(1, b"alone\n")
                assert process.stdout.readline() == b"two alone\n"
                second.close()
                store.containers.stop_supervising(two.id)
                assert process.communicate(timeout=20) == (b"", b"")


def test_follow_ends_when_a_killed_monitor_leaves_its_lock(store: Store) -> None:
    one = container(store)
    with supervised(store, one) as log:
        log.write(1, b"said\n")
        directory = Path(store.containers.path(one.id, "log"))
        with running("logs", "-f", "c", root=root_of(store)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"said\n"
            with (directory / "1.data").open("ab") as file:
                file.write(b"without a record")
            store.containers.stop_supervising(one.id)
            assert process.communicate(timeout=20) == (b"without a record", b"")


def test_follow_ends_when_the_container_is_removed(store: Store) -> None:
    one = container(store)
    with supervised(store, one) as log:
        log.write(1, b"said\n")
        with running("logs", "-f", "c", root=root_of(store)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"said\n"
            log.write(1, b"more\n")
            with store.containers.using(one):
                store.containers.set_aside(one)
            store.containers.stop_supervising(one.id)
            assert process.communicate(timeout=20) == (b"more\n", b"")
            assert process.returncode == 0


def test_follow_with_until_ends_at_that_moment(store: Store) -> None:
    one = container(store)
    with supervised(store, one) as log:
        log.write(1, b"said\n")
        until = f"{time.time() + 1:.3f}"
        started = time.time()
        assert shown(store, "-f", "--until", until, "c") == b"said\n"
        assert time.time() - started >= 0.9


def test_tail_0_follows_from_now_on(store: Store) -> None:
    one = container(store)
    with supervised(store, one) as log:
        log.write(1, b"old\n")
        with closing(Log(store, store.containers.get("c"), follow=True, tail=0)) as reader:
            log.write(1, b"new\n")
            assert [piece.data for piece in reader.available()] == [b"new\n"]


def test_an_interrupted_follow_says_nothing(store: Store) -> None:
    one = container(store)
    with supervised(store, one) as log:
        log.write(1, b"said\n")
        with running("logs", "-f", "c", root=root_of(store)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"said\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20) == (b"", b"")
            assert process.returncode == 130


def test_a_follow_that_nobody_reads_ends(store: Store) -> None:
    one = container(store)
    with supervised(store, one) as log:
        log.write(1, b"said\n")
        with running("logs", "-f", "c", root=root_of(store)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"said\n"
            process.stdout.close()
            assert process.wait(timeout=20) == 141
            assert process.stderr is not None
            assert process.stderr.read() == b""


def test_an_idle_follow_sleeps(store: Store) -> None:
    one = container(store)
    with supervised(store, one) as log:
        log.write(1, b"said\n")
        with running("logs", "-f", "c", root=root_of(store)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"said\n"
            before = _switches(process.pid)
            time.sleep(1)
            assert _switches(process.pid) - before <= 8


def _switches(pid: int) -> int:
    """How often the process has gone to sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[1])  # type: ignore[index]


def test_the_library_reads_pieces(store: Store) -> None:
    one = container(store)
    before = time.time_ns()
    write(store, one, (1, b"out\n"), (2, b"err\n"))
    found = list(read(store, one))
    assert [(piece.stream, piece.data) for piece in found] == [(1, b"out\n"), (2, b"err\n")]
    assert before <= found[0].time_ns <= found[1].time_ns <= time.time_ns()
    assert [piece.data for piece in read(store, one, tail=1)] == [b"err\n"]
    with pytest.raises(LaminaError, match="its log driver is none"):
        next(read(store, container(store, "d", "none")))


@pytest.mark.parametrize("mode", ["pipe", "file", "append"])
def test_large_logs_are_copied_whole(store: Store, tmp_path: Path, mode: str) -> None:
    data = os.urandom(1 << 20)
    one = container(store)
    write(store, one, *((1, data[start : start + 65536]) for start in range(0, 1 << 20, 65536)))
    if mode == "pipe":
        assert shown(store, "c") == data
        return
    with (tmp_path / "out").open("wb" if mode == "file" else "ab") as file:
        subprocess.run([*lamina_command(store), "logs", "c"], stdout=file, check=True)
    assert (tmp_path / "out").read_bytes() == data


def test_a_reader_that_goes_away_is_no_error(store: Store) -> None:
    one = container(store)
    write(store, one, *((1, b"x" * 65535 + b"\n") for _ in range(20)))
    with running("logs", "c", root=root_of(store)) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=20) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""
