"""Monitors that are killed, stopped or asked for odd things: their containers stay usable, and `ps` stays true."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_library_run import until
from integration.run.test_run import make_store, members, mounts_of
from lamina.errors import Conflict
from lamina.run.logs.journald import SOCKET
from lamina.run.monitor import client
from lamina.run.monitor.packets import WAKE
from lamina.store.journal import note
from lamina.store.store import Store
from support import lamina, made_once, require_root, require_tool, running

LIVE = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    make_store(top, [members()])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    store = tmp_path / "store"
    yield store
    lamina("rm", "--all", "--force", root=store)
    assert mounts_of(store) == []


def told(root: Path, *words: str, code: int = 0) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == code, done
    return done.stdout.decode().strip()


def behind(root: Path, *flags: str, script: str = LIVE, name: str = "c") -> dict[str, Any]:
    """A container in the background, whose program has begun if it says so; its record."""
    told(root, "run", "-d", "--network", "none", "--name", name, *flags, "app", "sh", "-c", script)
    if "ready" in script:
        until(lambda: "ready" in told(root, "logs", name))
    return record(root)


def record(root: Path) -> dict[str, Any]:
    (path,) = root.glob("containers/*/container.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def kill_monitor(root: Path) -> None:
    pid = record(root)["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))


def state(root: Path, name: str = "c") -> str:
    return told(root, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name)


def test_a_container_runs_on_without_its_monitor(root: Path) -> None:
    behind(root)
    kill_monitor(root)
    assert state(root) == "running 0"
    assert told(root, "exec", "c", "echo", "still there") == "still there"
    assert told(root, "logs", "c") == "ready"
    assert told(root, "stop", "c") == "c"
    assert state(root).split()[0] == "exited"
    assert told(root, "start", "c") == "c"
    until(lambda: told(root, "logs", "c") == "ready\nready")
    assert told(root, "rm", "-f", "c") == "c"


@pytest.mark.parametrize("verb", [("kill",), ("rm", "-f"), ("restart", "-t", "0")], ids=" ".join)
def test_verbs_work_on_a_container_without_its_monitor(root: Path, verb: tuple[str, ...]) -> None:
    program = behind(root)["program"]
    kill_monitor(root)
    assert told(root, *verb, "c") == "c"
    until(lambda: not os.path.exists(f"/proc/{program}"))
    shown = told(root, "ps", "-a", "--format", "{{.Names}} {{.State}}")
    assert shown == {"kill": "c exited", "rm": "", "restart": "c running"}[verb[0]]


def test_a_container_that_ended_without_its_monitor_has_ended(root: Path) -> None:
    program = behind(root)["program"]
    kill_monitor(root)
    os.kill(program, signal.SIGKILL)
    until(lambda: state(root).startswith("exited"))
    assert told(root, "start", "c") == "c"
    assert state(root) == "running 0"


@pytest.mark.parametrize("verb", [("stop",), ("rm", "-f"), ("restart",)], ids=" ".join)
def test_a_stopped_monitor_goes_on_to_end(root: Path, verb: tuple[str, ...]) -> None:
    monitor = behind(root)["pid"]
    os.kill(monitor, signal.SIGSTOP)
    assert told(root, *verb, "c") == "c"
    until(lambda: not os.path.exists(f"/proc/{monitor}"))
    shown = told(root, "ps", "-a", "--format", "{{.Names}} {{.State}}")
    assert shown == {"stop": "c exited", "rm": "", "restart": "c running"}[verb[0]]


def test_a_restart_keeps_a_container_that_is_removed_at_its_end(root: Path) -> None:
    behind(root, "--rm")
    told(root, "exec", "c", "touch", "/made")
    for _ in range(2):
        assert told(root, "restart", "c") == "c"
        assert told(root, "exec", "c", "ls", "/made") == "/made"
    told(root, "stop", "c")
    assert told(root, "ps", "-a", "-q") == ""


def test_wait_tells_the_exit_code_of_a_container_that_is_removed(root: Path) -> None:
    behind(root, "--rm", script="while ! test -e /go; do sleep 0.05; done; exit 7")
    waiting = lamina_behind(root, "wait", "c")
    until(lambda: connections(record(root)["pid"]) > 0)
    told(root, "exec", "-d", "c", "touch", "/go")
    assert waiting() == "7"
    assert told(root, "ps", "-a", "-q") == ""


def test_wait_tells_the_exit_code_of_a_container_that_is_removed_by_force(root: Path) -> None:
    behind(root)
    waiting = lamina_behind(root, "wait", "c")
    until(lambda: connections(record(root)["pid"]) > 0)
    told(root, "rm", "-f", "c")
    assert waiting() == "137"


def lamina_behind(root: Path, *words: str) -> Callable[[], str]:
    """Start a command; what it has printed at its end."""
    future = ThreadPoolExecutor(1).submit(told, root, *words)
    return lambda: future.result(30)


def connections(pid: int) -> int:
    """How many commands are connected to a monitor: its sockets but the one that it listens on."""
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # it was closed meanwhile
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sum(link.startswith("socket:") for link in links) - 1


@pytest.mark.parametrize("number", ["KILL", "TERM"])
def test_a_killed_container_is_not_started_again(root: Path, number: str) -> None:
    behind(root, "--restart", "always")
    told(root, "kill", "-s", number, "c")
    told(root, "wait", "c")
    assert state(root) == {"KILL": "exited 137", "TERM": "exited 3"}[number]


def test_exec_and_kill_of_a_container_that_is_about_to_start_or_end(root: Path) -> None:
    behind(root)
    (described,) = root.glob("containers/*/bundle/config.json")
    described.rename(described.with_name("elsewhere"))
    done = lamina("exec", "c", "true", root=root)
    assert (done.returncode, done.stderr) == (5, b"lamina: the container c does not run (see `lamina ps -a`)\n")


def test_a_stop_while_a_container_waits_for_its_restart(root: Path) -> None:
    told(root, "run", "-d", "--network", "none", "--name", "c", "--restart", "always", "app", "sh", "-c", "exit 1")
    until(lambda: record(root)["restarts"] > 2 and record(root)["status"] == "restarting")
    assert told(root, "stop", "c") == "c"
    assert state(root) == "exited 1"


def test_logs_of_a_container_whose_run_was_killed_before_its_start(root: Path) -> None:
    dead = lamina("run", "-d", "--network", "none", "--name", "c", "app", "true", root=root,
                  LAMINA_FAULT="container.mounted")  # fmt: skip
    assert dead.returncode < 0
    assert told(root, "logs", "c") == ""


def test_names_as_inspect_shows_them(root: Path) -> None:
    behind(root)
    assert told(root, "inspect", "-f", "{{.Name}}", "c") == "/c"
    assert told(root, "stop", "/c") == "/c"


def test_a_terminal_in_the_background_needs_none_in_front(root: Path) -> None:
    told(root, "run", "-dit", "--network", "none", "--name", "c", "app", "sh", "-c", "test -t 0 && echo a terminal")
    told(root, "wait", "c")
    assert told(root, "logs", "c") == "a terminal"


def test_a_paused_container_is_not_started(root: Path) -> None:
    behind(root)
    told(root, "pause", "c")
    done = lamina("start", "c", root=root)
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"the container c is paused" in done.stderr


def test_detach_and_attach_exclude_each_other(root: Path) -> None:
    done = lamina("run", "-d", "-a", "stdout", "app", "true", root=root)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"--detach and --attach exclude each other" in done.stderr
    assert told(root, "ps", "-a", "-q") == ""


def test_a_command_that_is_attached_and_never_reads_does_not_keep_the_container(root: Path) -> None:
    behind(root, script="while :; do echo a line that nobody reads; done")
    (directory,) = root.glob("containers/*")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        to_monitor(silent, directory)
        silent.send(b"Aoe")
        until(lambda: sleeps_in_write(record(root)["program"]))
        assert told(root, "stop", "-t", "0", "c") == "c"
        assert state(root) == "exited 137"
        assert told(root, "start", "c") == "c"


def to_monitor(one: socket.socket, directory: Path) -> None:
    """Connect; the path of a socket has 107 bytes at most."""
    place = os.open(directory, os.O_PATH)
    try:
        one.connect(f"/proc/self/fd/{place}/control")
    finally:
        os.close(place)


def sleeps_in_write(pid: int) -> bool:
    return b"pipe_write" in Path(f"/proc/{pid}/wchan").read_bytes()


def test_who_reads_late_reads_all(root: Path) -> None:
    enough = 60_000  # a pipe has 64 KiB; what sockets take besides differs
    script = "trap 'exit 4' TERM; while :; do echo 0123456789; done & wait"
    words = ("run", "--network", "none", "--name", "c", "app", "sh", "-c", script)
    with running(*words, root=root) as process:
        sizes = [0]

        def it_is_held_up() -> bool:  # every pipe and socket on the way is full
            sizes.append(sum(path.stat().st_size for path in root.glob("containers/*/log/*")))
            return sizes[-1] > enough and len(set(sizes[-30:])) == 1

        until(it_is_held_up)
        told(root, "kill", "-s", "TERM", "c")
        until(lambda: state(root) == "exited 4")
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 4
    assert len(out) > enough
    assert out == lamina("logs", "c", root=root).stdout


@pytest.mark.parametrize(
    "said", [b"", b"?", b"A", b"W1 1 1", b"W99999 99999", b"S99", b"Sx", b"I" + b"x" * 40_000, b"\xff"]
)
def test_a_monitor_takes_any_words(root: Path, said: bytes) -> None:
    behind(root, "-i")
    (directory,) = root.glob("containers/*")
    many = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(100)]
    for one in many:
        one.setblocking(False)
        with suppress(BlockingIOError, BrokenPipeError):  # it lets go who speaks no sense
            to_monitor(one, directory)
            one.send(said)
            one.send(said)
    for one in many:
        one.close()
    assert told(root, "exec", "c", "echo", "lives") == "lives"
    assert told(root, "stop", "c") == "c"
    assert state(root) == "exited 3"


def test_a_pause_of_a_container_that_is_about_to_end(root: Path) -> None:
    program = behind(root)["program"]
    os.kill(record(root)["pid"], signal.SIGSTOP)  # it does not see the end
    os.kill(program, signal.SIGKILL)
    until(lambda: "State:\tZ" in Path(f"/proc/{program}/status").read_text())
    done = lamina("pause", "c", root=root)
    assert done.returncode == 5, done
    assert b"does not run" in done.stderr
    assert record(root)["paused"] is False


def test_a_kill_of_a_container_that_is_about_to_start(root: Path) -> None:
    told(root, "create", "--network", "none", "--name", "c", "app", "true")
    (lock,) = root.glob("containers/*/lock")
    change = {"status": "running", "pid": os.getpid()}
    lock.with_name("container.json").write_text(json.dumps(record(root) | change))
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as the command that starts it
        done = lamina("kill", "c", root=root)
    assert (done.returncode, done.stderr) == (5, b"lamina: the container c does not run (see `lamina ps -a`)\n")


def test_cgroups_that_a_killed_runtime_has_left_are_removed(root: Path) -> None:
    """It makes them before it notes that the container exists, so that it can't be asked to delete it."""
    cgroups = Path("/sys/fs/cgroup")
    tops = [cgroups / name for name in ("pids", "unified")] if (cgroups / "pids").is_dir() else [cgroups]
    told(root, "create", "--network", "none", "--name", "c", "app", "true")
    left = [top / record(root)["id"] for top in tops]
    for one in left:
        one.mkdir()
    told(root, "rm", "c")
    assert [one for one in left if one.exists()] == []


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_a_container_ends_when_its_store_was_deleted(root: Path, tmp_path: Path, runtime: str) -> None:
    """Nothing could stop it any more."""
    words = ("run", "-d", "--network", "none", "--restart", "always", "--runtime", runtime, "--name", "c", "app")
    told(root, *words, "sleep", "600")
    record = json.loads(next((root / "containers").glob("*/container.json")).read_bytes())
    program, monitor = os.pidfd_open(record["program"]), os.pidfd_open(record["pid"])
    connection = socket.socket(fileno=client.connect(str(root / "containers" / record["id"]), "c"))
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], capture_output=True, check=False)
    connection.send(WAKE)  # it would look by itself some seconds later
    for process in (program, monitor):
        assert select.select([process], [], [], 20)[0]
        os.close(process)
    connection.close()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(root) not in mounts
    assert not Path("/run/lamina-runtime", record["id"]).exists()


def test_a_container_goes_on_when_its_store_was_moved(root: Path, tmp_path: Path) -> None:
    told(root, "run", "-d", "--network", "none", "--name", "c", "app", "sleep", "600")
    record = json.loads(next((root / "containers").glob("*/container.json")).read_bytes())
    connection = socket.socket(fileno=client.connect(str(root / "containers" / record["id"]), "c"))
    moved = tmp_path / "moved"
    root.rename(moved)
    connection.send(WAKE)
    connection.send(b"?")
    assert connection.recv(1) == b""  # the monitor has done what came before
    moved.rename(root)
    assert told(root, "inspect", "-f", "{{.State.Running}}", "c").strip() == "true"
    connection.close()


def test_how_it_ended_is_kept_on_a_full_disk(tmp_path: Path) -> None:
    """The record takes the space of the store's reserve; the container can be removed."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(small)], check=True)
    try:
        make(small)
        root = small / "store"
        program = int(behind(root)["program"])
        with suppress(OSError), (small / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert os.statvfs(small).f_bavail == 0
        os.kill(program, signal.SIGTERM)
        assert told(root, "wait", "c") == "3"
        assert state(root) == "exited 3"
        assert told(root, "rm", "c") == "c"
    finally:
        lamina("rm", "-fa", root=small / "store")
        subprocess.run(["umount", "--lazy", str(small)], check=True)  # the monitor may be about to end


def test_a_log_that_nothing_would_keep_is_refused(root: Path) -> None:
    """As docker does: journald that does not run is no log driver."""
    if os.path.exists(SOCKET):
        told(root, "run", "-d", "--network", "none", "--log-driver", "journald", "app", "true")
        return
    done = lamina(
        "run", "-d", "--name", "c", "--log-driver", "journald", "--network", "none", "app", "true", root=root
    )
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"journald does not run on this host" in done.stderr
    assert told(root, "ps", "-a", "--format", "{{.Names}} {{.State}}") == "c created"


def attached(directory: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.settimeout(10)
    to_monitor(one, directory)
    one.send(b"Aoe")
    return one


def test_many_commands_are_attached_at_once(root: Path) -> None:
    behind(root, script="echo ready; while ! test -e /go; do sleep 0.05; done; echo seen; exit 3")
    (directory,) = root.glob("containers/*")
    many = [attached(directory) for _ in range(100)]
    until(lambda: connections(record(root)["pid"]) == 100)
    told(root, "exec", "-d", "c", "touch", "/go")
    assert {(one.recv(100), one.recv(100)) for one in many} == {(b"Oseen\n", b"X3")}
    for one in many:
        one.close()


def test_a_monitor_without_descriptors_waits_for_some(root: Path) -> None:
    """It takes as many commands as it can, does not look for more all the time, and takes the next one when one has
    gone."""
    monitor = behind(root)["pid"]
    (directory,) = root.glob("containers/*")
    used = len(os.listdir(f"/proc/{monitor}/fd"))
    resource.prlimit(monitor, resource.RLIMIT_NOFILE, (used + 3, used + 3))
    many = [attached(directory) for _ in range(6)]
    until(lambda: connections(monitor) == 3)
    until(lambda: Path(f"/proc/{monitor}/wchan").read_bytes() not in (b"", b"0"))  # it sleeps
    spent = cpu_ticks(monitor)
    assert told(root, "exec", "c", "echo", "lives") == "lives"
    assert cpu_ticks(monitor) - spent < 5
    for one in many[:3]:
        one.close()
    until(lambda: connections(monitor) == 3)
    assert told(root, "stop", "c") == "c"
    assert [one.recv(100) for one in many[3:]] == [b"X3"] * 3
    assert state(root) == "exited 3"
    for one in many[3:]:
        one.close()


def cpu_ticks(pid: int) -> int:
    """Hundredths of a second that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_who_connects_while_a_monitor_ends_is_told_the_exit_code(root: Path) -> None:
    """The record is held, so the monitor can't write the end; meanwhile a command connects."""
    behind(root, script="echo ready; while ! test -e /go; do sleep 0.05; done; exit 7")
    (directory,) = root.glob("containers/*")
    with (directory / "changing").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        program = record(root)["program"]
        told(root, "exec", "-d", "c", "touch", "/go")
        until(lambda: not os.path.exists(f"/proc/{program}"))
        connection = client.connect(str(directory), "c")
    assert client.exit_code_from(connection) == 7
    assert told(root, "wait", "c") == "7"


def test_what_a_monitor_said_is_heard_if_it_went_before_it_read_all() -> None:
    ours, theirs = client.pair()
    with socket.socket(fileno=theirs) as monitor:
        with socket.socket(fileno=os.dup(ours)) as same:
            same.send(b"unread")
        monitor.send(b"X7")
    assert client.exit_code_from(ours) == 7


@pytest.mark.parametrize("known", [True, False])
def test_an_exit_code_that_the_record_lacks(root: Path, known: bool) -> None:
    """It is what the journal tells; if that does not tell it either, 255 as with docker, and never 0."""
    program = behind(root)["program"]
    kill_monitor(root)
    os.kill(program, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{program}"))
    if known:
        note(str(root), "container", "die", record(root)["id"], {"exitCode": "9"})
    code = "9" if known else "255"
    assert told(root, "wait", "c") == code
    assert state(root) == f"exited {code}"
    told(root, "create", "--name", "other", "app", "true")  # looks after killed containers
    assert f"Exited ({code})" in told(root, "ps", "-a", "--filter", "name=c$", "--format", "{{.Status}}")
    assert state(root) == f"exited {code}"


@pytest.mark.parametrize("there", ["directory", "FIFO", "link"])
def test_a_stop_that_can_not_be_noted_is_a_stop(root: Path, there: str) -> None:
    """As on a file system that became read-only: the monitor knows of it, and does not start the program again."""
    behind(root, "--restart", "always")
    (directory,) = root.glob("containers/*")
    path = directory / "stopped"
    if there == "directory":
        path.mkdir()
    elif there == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    assert told(root, "stop", "c") == "c"
    assert state(root) == "exited 3"
    assert record(root)["restarts"] == 0


def test_a_start_that_was_killed_before_the_program_ran(root: Path) -> None:
    done = lamina(
        "run", "-d", "--network", "none", "--name", "c", "app", "true", root=root, LAMINA_FAULT="container.mounted"
    )
    assert done.returncode == -signal.SIGKILL
    assert state(root) == "created 0"
    assert told(root, "ps", "-a", "--format", "{{.Status}}") == "Created"
    told(root, "create", "--name", "other", "app", "true")  # looks after killed containers
    assert state(root) == "created 0"
    assert told(root, "start", "c") == "c"
    assert told(root, "wait", "c") == "0"


def test_a_file_that_is_no_file_keeps_nobody_waiting(root: Path) -> None:
    behind(root)
    (directory,) = root.glob("containers/*")
    for name in ("network.json", "bundle/config.json"):
        (directory / name).unlink(missing_ok=True)
        os.mkfifo(directory / name)
    assert told(root, "ps", "--format", "{{.Names}} {{.Ports}}") == "c"
    assert lamina("exec", "c", "true", root=root).returncode == 6
    assert told(root, "rm", "-f", "c") == "c"


def test_a_container_that_can_not_be_taken_down_keeps_its_exit_code(root: Path) -> None:
    behind(root, script="echo ready; while ! test -e /go; do sleep 0.05; done; exit 7")
    (directory,) = root.glob("containers/*")
    monitor = record(root)["pid"]
    (directory / "bundle" / "netns").mkdir()  # unlink fails
    told(root, "exec", "-d", "c", "touch", "/go")
    until(lambda: not os.path.exists(f"/proc/{monitor}"))
    assert state(root) == "exited 7"
    (directory / "bundle" / "netns").rmdir()


def test_a_container_that_can_not_be_cleared_up_does_not_keep_others_from_running(root: Path) -> None:
    program = behind(root)["program"]
    kill_monitor(root)
    os.kill(program, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{program}"))
    (directory,) = root.glob("containers/*")
    (directory / "bundle" / "netns").mkdir()  # unlink fails
    assert told(root, "run", "--rm", "--network", "none", "app", "echo", "works") == "works"
    done = lamina("rm", "-f", "c", root=root)
    assert done.returncode == 6, done
    assert b"netns" in done.stderr
    (directory / "bundle" / "netns").rmdir()


def test_the_hint_for_a_container_that_runs_names_it(root: Path) -> None:
    behind(root)
    store = Store.open(root, create=False)
    with pytest.raises(Conflict) as caught:
        store.containers.supervise(store.containers.get("c"))
    assert "lamina stop c" in str(caught.value.hint)
