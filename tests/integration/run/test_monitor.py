"""Containers that live on when the command that started them has ended: their monitors."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.run.test_killed_run import nothing_is_left
from integration.run.test_run import make_store, members, mounts_of
from lamina.store.fault import MONITOR_POINTS
from lamina.store.store import Store
from support import lamina, loaded, require_root, require_tool

HOLD = ("sh", "-c", "echo up; exec sleep 600")
RUNTIMES = ("runc", "bwrap")


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox", "bwrap")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = make_store(tmp_path, [members(("bin/tty", "-> busybox"))])
    yield root
    lamina("rm", "--all", "--force", root=root)
    lamina("umount", "--all", root=root)


def text(root: Path, *words: str) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.decode()


def behind(root: Path, *words: str, runtime: str = "runc") -> str:
    """Start a container in the background; its ID."""
    return text(root, "run", "-d", "--network", "none", "--runtime", runtime, *words).strip()


def state(root: Path, name: str) -> tuple[str, int]:
    shown = json.loads(text(root, "inspect", name))[0]["State"]
    return shown["Status"], shown["ExitCode"]


def record(root: Path, name: str) -> dict[str, object]:
    identity = Store.open(str(root)).containers.get(name).id
    found = json.loads((root / "containers" / identity / "container.json").read_bytes())
    assert isinstance(found, dict)
    return found


def eventually(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def monitor_of(root: Path, name: str) -> int:
    pid = record(root, name)["pid"]
    assert isinstance(pid, int)
    assert b"lamina-monitor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return pid


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_container_lives_on_and_tells_how_it_ended(root: Path, runtime: str) -> None:
    identity = behind(root, "--name", "c", "app", "sh", "-c", "echo out; echo err >&2; exit 7", runtime=runtime)
    assert text(root, "wait", "c") == "7\n"
    assert state(root, "c") == ("exited", 7)
    done = lamina("logs", "c", root=root)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert text(root, "ps", "-aq", "--no-trunc").strip() == identity
    assert mounts_of(root) == []


@pytest.mark.parametrize("words", [("-d",), ("-d", "--rm"), ()], ids=["behind", "removed", "in front"])
def test_a_start_of_a_monitor_loads_no_click(root: Path, words: tuple[str, ...]) -> None:
    modules = loaded(root, "run", *words, "--network", "none", "--runtime", "runc", "app", "true")
    assert "lamina.run.monitor.spawn" in modules
    assert "click" not in modules


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_stop_start_restart_and_rm(root: Path, runtime: str) -> None:
    behind(root, "--name", "c", "app", *HOLD, runtime=runtime)
    text(root, "exec", "c", "touch", "/made")
    text(root, "restart", "-t", "0", "c")
    assert state(root, "c")[0] == "running"
    text(root, "exec", "c", "ls", "/made")
    assert lamina("rm", "c", root=root).returncode == 5
    text(root, "stop", "-t", "0", "c")
    assert state(root, "c") == ("exited", 137)
    text(root, "start", "c")
    monitor = monitor_of(root, "c")
    text(root, "rm", "-f", "c")
    eventually(lambda: is_gone(monitor))
    nothing_is_left(root)


def test_a_program_that_is_not_there_is_the_commands_error(root: Path) -> None:
    for runtime in RUNTIMES:
        done = lamina("run", "-d", "--runtime", runtime, "--name", runtime, "app", "nosuch", root=root)
        assert (done.returncode, done.stdout) == (127, b"")
        (line,) = (one for one in done.stderr.splitlines() if b"nosuch" in one)
        assert line.startswith(b"lamina: " + runtime.encode())
        assert state(root, runtime) == ("created", 127)
    assert mounts_of(root) == []


def test_on_failure_is_tried_again_as_often_as_was_said(root: Path) -> None:
    behind(root, "--name", "c", "--restart", "on-failure:2", "app", "sh", "-c", "echo run; exit 3")
    eventually(lambda: state(root, "c") == ("exited", 3))
    assert record(root, "c")["restarts"] == 2
    assert text(root, "logs", "c") == "run\n" * 3


def test_a_run_that_ends_inside_a_line_is_a_piece_of_its_own_in_the_log(root: Path) -> None:
    words = ("--log-driver", "json-file", "--restart", "on-failure:1")
    behind(root, "--name", "c", *words, "app", "sh", "-c", "printf 'a\\nrest'; exit 3")
    assert text(root, "wait", "c") == "3\n"
    path = json.loads(text(root, "inspect", "c"))[0]["LogPath"]
    assert [json.loads(line)["log"] for line in Path(path).read_text().splitlines()] == ["a\n", "rest"] * 2


def test_always_ends_with_stop_and_begins_with_start(root: Path) -> None:
    behind(root, "--name", "c", "--restart", "always", "app", "sh", "-c", "exit 1")
    eventually(lambda: int(str(record(root, "c")["restarts"])) >= 2)
    text(root, "stop", "c")
    assert state(root, "c")[0] == "exited"
    text(root, "start", "c")
    assert state(root, "c")[0] in ("running", "restarting")
    text(root, "rm", "-f", "c")
    nothing_is_left(root)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_rm_removes_the_container_at_its_end(root: Path, runtime: str) -> None:
    behind(root, "--rm", "--name", "c", "app", "sh", "-c", "read line; exit 4", "-", runtime=runtime)
    eventually(lambda: os.listdir(root / "containers") == [])
    assert mounts_of(root) == []


@pytest.mark.parametrize("code", [0, 5])
def test_wait_tells_the_code_of_a_container_that_removes_itself(root: Path, code: int) -> None:
    behind(root, "--rm", "--name", "c", "app", "sh", "-c", f"while ! [ -e /go ]; do :; done; exit {code}")
    monitor = monitor_of(root, "c")
    before = len(os.listdir(f"/proc/{monitor}/fd"))
    with subprocess.Popen(
        [sys.executable, "-m", "lamina", "--root", str(root), "wait", "c"], stdout=subprocess.PIPE
    ) as waiting:
        eventually(lambda: len(os.listdir(f"/proc/{monitor}/fd")) > before)
        lamina("exec", "c", "touch", "/go", root=root)  # it may be killed by the end of the container
        assert waiting.stdout is not None
        assert waiting.stdout.read() == b"%d\n" % code
    assert os.listdir(root / "containers") == []


def test_in_front_everything_is_passed_on_and_logged(root: Path) -> None:
    script = "cat; echo err >&2; exit 9"
    done = lamina(
        "run", "-i", "--network", "none", "--name", "c", "app", "sh", "-c", script, root=root, input=b"in\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, b"in\n", b"err\n")
    again = lamina("start", "-ai", "c", root=root, input=b"more\n")
    assert (again.returncode, again.stdout, again.stderr) == (9, b"more\n", b"err\n")
    logged = lamina("logs", "c", root=root)
    assert (logged.stdout, logged.stderr) == (b"in\nmore\n", b"err\nerr\n")


def test_a_signal_for_the_command_goes_to_the_program(root: Path) -> None:
    script = "trap 'echo got; exit 6' TERM; echo up; while :; do sleep 0.01; done"
    words = [sys.executable, "-m", "lamina", "--root", str(root), "run", "--network", "none", "--name", "c", "app"]
    with subprocess.Popen([*words, "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"got\n"
    assert process.returncode == 6
    assert state(root, "c") == ("exited", 6)


def test_a_killed_command_in_front_leaves_the_container_running(root: Path) -> None:
    words = [sys.executable, "-m", "lamina", "--root", str(root), "run", "--network", "none", "--name", "c", "app"]
    with subprocess.Popen([*words, *HOLD], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
    assert state(root, "c")[0] == "running"
    assert text(root, "exec", "c", "echo", "here") == "here\n"
    text(root, "rm", "-f", "c")
    nothing_is_left(root)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, root: Path, *words: str) -> None:
        self.head, end = pty.openpty()
        command = [sys.executable, "-m", "lamina", "--root", str(root), *words]
        self.process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, start_new_session=True)
        os.close(end)
        self.seen = b""

    def until(self, wanted: bytes) -> None:
        while wanted not in self.seen:
            assert select.select([self.head], [], [], 20)[0], self.seen
            self.seen += os.read(self.head, 4096)

    def type(self, data: bytes) -> None:
        os.write(self.head, data)

    def code(self) -> int:
        try:
            while select.select([self.head], [], [], 20)[0] and os.read(self.head, 4096):
                pass
        except OSError:
            pass
        os.close(self.head)
        return self.process.wait(20)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_terminal_detaches_and_attaches_again(root: Path, runtime: str) -> None:
    words = ("run", "-it", "--network", "none", "--runtime", runtime, "--name", "c", "app", "sh")
    first = Terminal(root, *words)
    first.type(b"echo fi''rst; tty\n")
    first.until(b"first")
    first.type(b"\x10\x11")
    assert first.code() == 0
    assert state(root, "c")[0] == "running"
    second = Terminal(root, "attach", "c")
    second.type(b"echo sec''ond; exit 3\n")
    second.until(b"second")
    assert second.code() == 3
    assert state(root, "c") == ("exited", 3)


def test_keys_that_detach_are_the_users(root: Path) -> None:
    behind(root, "-it", "--name", "c", "app", "cat")
    one = Terminal(root, "attach", "--detach-keys", "ctrl-a,x", "c")
    one.type(b"\x10\x11y\x01z\n")  # neither the default keys nor the first of the chosen ones alone
    one.until(b"z")
    one.type(b"\x01x")
    assert one.code() == 0
    assert state(root, "c")[0] == "running"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_killed_monitor_leaves_a_true_record(root: Path, runtime: str) -> None:
    behind(root, "--name", "c", "app", *HOLD, runtime=runtime)
    eventually(lambda: text(root, "logs", "c") == "up\n")  # else the monitor may be killed before it has read this
    os.kill(monitor_of(root, "c"), signal.SIGKILL)
    expected = "running" if runtime == "runc" else "exited"  # bubblewrap ends with its parent
    eventually(lambda: state(root, "c")[0] == expected)
    if expected == "running":
        assert text(root, "exec", "c", "echo", "here") == "here\n"
        assert lamina("rm", "c", root=root).returncode == 5
        assert lamina("start", "c", root=root).stdout == b"c\n"  # it runs already
        done = lamina("attach", "c", root=root)
        assert (done.returncode, done.stdout) == (5, b"")
        assert b"has no monitor" in done.stderr
    assert text(root, "logs", "c") == "up\n"
    text(root, "stop", "-t", "0", "c")
    assert state(root, "c")[0] == "exited"
    text(root, "start", "c")
    assert state(root, "c")[0] == "running"
    text(root, "rm", "-f", "c")
    nothing_is_left(root)


@pytest.mark.parametrize("point", MONITOR_POINTS)
def test_a_monitor_killed_at_each_point_leaves_nothing_that_rm_does_not_take(root: Path, point: str) -> None:
    words = ("run", "-d", "--network", "none", "--name", "c", "app", "sh", "-c", "echo up; exit 3")
    started = lamina(*words, root=root, LAMINA_FAULT=point)
    early = point in ("monitor.ready", "monitor.program-started", "monitor.start-noted")
    assert (started.returncode == 0) is not early, started.stderr
    lamina("wait", "c", root=root)
    eventually(lambda: state(root, "c")[0] in ("exited", "created"))
    text(root, "start", "c")
    assert text(root, "wait", "c") == "3\n"
    assert state(root, "c") == ("exited", 3)
    nothing_is_left(root)


@pytest.mark.parametrize("garbage", [b"", b"Z", b"S99", b"W1", b"Wx y", b"I" + b"x" * 30000, b"A" * 40000])
def test_garbage_on_the_socket_does_no_harm(root: Path, garbage: bytes) -> None:
    identity = behind(root, "--name", "c", "app", *HOLD)
    place = os.open(root / "containers" / identity, os.O_PATH)
    try:
        for _ in range(70):  # more than may be attached at once
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
                one.connect(f"/proc/self/fd/{place}/control")
                one.send(garbage)
    finally:
        os.close(place)
    assert text(root, "exec", "c", "echo", "here") == "here\n"
    text(root, "stop", "-t", "0", "c")
    assert state(root, "c") == ("exited", 137)


def test_the_files_of_a_container_are_its_owners_alone(root: Path) -> None:
    identity = behind(root, "-e", "SECRET=x", "--name", "c", "app", *HOLD)
    for path in (root / "containers" / identity).iterdir():
        if path.is_socket() or path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    assert (root / "containers" / identity).stat().st_mode & 0o077 == 0
    assert b"SECRET" not in Path(f"/proc/{monitor_of(root, 'c')}/cmdline").read_bytes()


def test_a_monitor_is_small(root: Path) -> None:
    behind(root, "--name", "c", "app", *HOLD)
    maps = Path(f"/proc/{monitor_of(root, 'c')}/smaps").read_text()
    assert "_ctypes" not in maps
    assert "_ssl" not in maps
    assert "libsqlite" not in maps


def test_exec_in_the_background(root: Path) -> None:
    for runtime in RUNTIMES:
        behind(root, "--name", runtime, "app", *HOLD, runtime=runtime)
        text(root, "exec", "-d", runtime, "sh", "-c", "cat > /in; echo done > /x; exec sleep 600")
        eventually(lambda: lamina("exec", runtime, "cat", "/x", root=root).stdout == b"done\n")  # noqa: B023
        assert text(root, "exec", runtime, "cat", "/in") == ""
        done = lamina("exec", "-d", runtime, "nosuch", root=root)
        assert done.returncode == 127
        assert b"nosuch" in done.stderr


def test_a_monitor_holds_nothing_of_the_caller(root: Path) -> None:
    reading, writing = os.pipe()
    words = [sys.executable, "-m", "lamina", "--root", str(root), "run", "-d", "--network", "none", "app", *HOLD]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, pass_fds=[writing])
    os.close(writing)
    assert select.select([reading], [], [], 20)[0]  # its end, while the container runs
    assert os.read(reading, 1) == b""
    os.close(reading)
