"""image.run: containers from a program, from any thread, with nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import lamina as library
from integration.run.test_run import make_store, members, mounts_of
from lamina.errors import (
    Conflict,
    ContainerFailure,
    LaminaError,
    NotFound,
    ProgramFailed,
    TimedOut,
    UsageError,
)
from lamina.run.library import runs
from lamina.store.store import Store
from support import PLAIN_USER, lamina, plain_user, require_root, require_tool, write_layout

PATIENCE = 60  # seconds, until a test gives up


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[library.Image]:
    root = make_store(tmp_path, [members(("data/", None), ("data/file", b"old\n"))], Env=["A=image"], Cmd=["env"])
    yield library.open("app", root=root)
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []


def containers(image: library.Image) -> list[str]:
    """The entries of the store's directory of containers."""
    assert image._settings is not None
    return os.listdir(os.path.join(image._settings.root, "containers"))


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def run(image: library.Image, *words: str, **more: Any) -> library.RunResult:
    return image.run(words, network="none", **more)


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_a_result_has_code_output_and_changes(image: library.Image, runtime: str) -> None:
    require_tool(runtime)
    script = "echo out; echo err >&2; echo new > /data/new; rm /data/file; exit 3"
    result = run(image, "sh", "-c", script, runtime=runtime)
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert result.text == "out\n"
    assert [str(change) for change in result.changes] == ["C /data", "D /data/file", "A /data/new"]
    assert {str(change) for change in image.diff(result, "/data/new")} == {"A /data/new"}
    made = result.commit("app:2", cmd=["sh"], epoch=0)
    assert (made.name, made.config.cmd, len(made)) == ("app:2", ("sh",), 2)
    assert made.listdir("/data") == ["new"]
    assert made.path("/data/new").read_text() == "new\n"
    assert result.commit("app:3", cmd=["sh"], epoch=0).digest == made.digest
    assert "3 of 'sh -c" in repr(result)
    result.remove()
    with pytest.raises(NotFound):
        result.commit("app:4")
    assert containers(image) == []


def test_the_images_own_program_runs_with_what_the_caller_adds(image: library.Image, tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("of the host\n")
    own = run(image, env={"B": "two words"})
    assert {"A=image", "B=two words"} <= set(own.text.splitlines())
    options: dict[str, Any] = {"workdir": "/data", "user": "web", "hostname": "box", "read_only": True}
    result = run(
        image,
        *("sh", "-c", "pwd; id -u; hostname; cat /shown; test -w /t && echo t; touch /no 2>/dev/null || echo ro"),
        mounts={"/shown": tmp_path / "shown"},
        tmpfs=["/t"],
        **options,
    )
    assert result.text.splitlines() == ["/data", "33", "box", "of the host", "t", "ro"]
    assert run(image, "-n1", "/etc/passwd", entrypoint="head").text == "root:x:0:0:root:/root:/bin/sh\n"
    assert run(image, "cat", "/x", mounts=[f"{tmp_path}/shown:/x:ro"]).text == "of the host\n"


def test_standard_streams_go_where_the_caller_wants_them(image: library.Image, tmp_path: Path) -> None:
    assert run(image, "cat", stdin=b"\0bytes").stdout == b"\0bytes"
    assert run(image, "cat", stdin="täxt").text == "täxt"
    assert run(image, "cat").stdout == b""
    big = os.urandom(3 << 20)
    assert run(image, "cat", stdin=big).stdout == big
    pieces: list[bytes] = []
    result = run(image, "sh", "-c", "echo out; echo err >&2", stdout=pieces.append, stderr=subprocess.DEVNULL)
    assert (b"".join(pieces), result.stdout, result.stderr) == (b"out\n", b"", b"")
    both = run(image, "sh", "-c", "echo out; echo err >&2", stderr=subprocess.STDOUT)
    # runc copies each stream through its own pipe, so their order is lost
    assert (sorted(both.stdout.splitlines()), both.stderr) == ([b"err", b"out"], b"")
    with open(tmp_path / "said", "w+b") as file:
        file.write(b"before\n")
        run(image, "echo", "after", stdout=file)
        file.seek(0)
        assert file.read() == b"before\nafter\n"
        file.seek(0)
        assert run(image, "head", "-n1", stdin=file).stdout == b"before\n"


def test_a_callback_is_called_while_the_program_runs(image: library.Image) -> None:
    """The program ends only after the callback has answered its output."""
    reading, writing = os.pipe()
    heard: list[bytes] = []

    def hear(piece: bytes) -> None:
        heard.append(piece)
        if piece == b"ask\n":
            os.write(writing, b"answer\n")
            os.close(writing)

    try:
        result = run(image, "sh", "-c", "echo ask; cat", stdin=reading, stdout=hear, timeout=PATIENCE)
    finally:
        os.close(reading)
    assert (result.exit_code, b"".join(heard)) == (0, b"ask\nanswer\n")


def test_a_program_is_killed_after_its_timeout(image: library.Image) -> None:
    with pytest.raises(TimedOut, match=r"longer than 0\.2 seconds") as late:
        # whether or not it has started before the timeout, it ends
        run(image, "sh", "-c", "echo up; sleep 1000", timeout=0.2)
    assert isinstance(late.value, TimeoutError)
    assert late.value.stdout in (b"", b"up\n")
    assert containers(image) == []


def test_errors_hold_the_output_so_far(image: library.Image) -> None:
    started = threading.Event()

    def hear(piece: bytes) -> None:
        started.set()
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        run(image, "sh", "-c", "echo up; sleep 1000", stdout=hear)
    assert started.is_set()
    until(lambda: containers(image) == [])


def test_a_failed_start_and_a_failed_program_are_different_errors(image: library.Image) -> None:
    with pytest.raises(ContainerFailure, match="nothing-here") as absent:
        run(image, "nothing-here")
    assert absent.value.exit_code == 127
    with pytest.raises(ContainerFailure) as refused:
        run(image, "/etc/passwd")
    assert refused.value.exit_code == 126
    assert run(image, "sh", "-c", "exit 127").exit_code == 127
    assert run(image, "sh", "-c", "sh -c 'kill -9 $$'; exit $?").exit_code == 137
    with pytest.raises(ProgramFailed, match=r"exit code 5 \(its last output: 'worse'\)") as failed:
        run(image, "sh", "-c", "echo half; echo bad >&2; echo worse >&2; exit 5", check=True)
    assert (failed.value.code, failed.value.stdout, failed.value.stderr) == (5, b"half\n", b"bad\nworse\n")
    assert run(image, "true", check=True).exit_code == 0
    with pytest.raises(NotFound):
        run(image, "true", runtime="no-such-runtime")
    del absent, refused, failed
    until(lambda: containers(image) == [])


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        ("sh -c true", {}, "command is a string, not a list"),
        (["true"], {"env": "A=1"}, "env is a string, not a list"),
        (["true"], {"env": ["=x"]}, "variable"),
        (["true"], {"mounts": {"relative": "/x"}}, "path in the container"),
        (["true"], {"memory": "much"}, "size"),
        (["true"], {"workdir": "here"}, "directory"),
        (["true"], {"network": "cloud"}, "network"),
        (["true"], {"stdout": -7}, "open file"),
        (["true"], {"stdin": object()}, "descriptor"),
    ],
)
def test_invalid_arguments_of_run_are_refused(
    image: library.Image, words: Any, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        image.run(words, **{"network": "none", **more})
    assert containers(image) == []


def test_only_whole_images_of_the_store_run(image: library.Image, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="range of layers"):
        image[:0].run(["true"])
    Store.open(str(tmp_path / "store2"))
    with pytest.raises(NotFound, match=r"pull it with lamina\.pull\(\)"):
        library.open(f"oci:{tmp_path}/layout:app", root=tmp_path / "store2").run(["true"])


def test_a_container_is_removed_with_its_result(image: library.Image) -> None:
    with run(image, "sh", "-c", "echo x > /x") as result:
        assert containers(image) == [result.container]
        assert json.loads(lamina("ps", "-a", "--format", "json", root=image._settings.root).stdout)[0]["State"] == (  # type: ignore[union-attr]
            "exited"
        )
    assert containers(image) == []
    result = run(image, "true")
    assert containers(image) == [result.container]
    # other commands clear up leftovers, but this container belongs to a process
    run(image, "true").remove()
    assert lamina("prune", "--force", root=image._settings.root).returncode == 0  # type: ignore[union-attr]
    assert containers(image) == [result.container]
    del result
    until(lambda: containers(image) == [])


def test_a_container_may_be_removed_before_its_result(image: library.Image) -> None:
    result = run(image, "sh", "-c", "echo x > /x")
    assert lamina("rm", "--all", root=image._settings.root).returncode == 0  # type: ignore[union-attr]
    assert containers(image) == []
    with pytest.raises(NotFound):
        result.changes
    result.remove()


def test_a_kept_container_is_as_any_other(image: library.Image) -> None:
    with run(image, "sh", "-c", "echo x > /x", keep=True, name="kept") as result:
        with pytest.raises(Conflict, match="taken"):
            run(image, "true", name="kept")
    del result
    root = image._settings.root  # type: ignore[union-attr]
    assert lamina("diff", "kept", root=root).stdout == b"A /x\n"
    assert lamina("rm", "kept", root=root).returncode == 0


PROGRAM = """
import os, signal, sys, threading
import lamina
image = lamina.open("app", root={root!r})
{then}
"""


def program(image: library.Image, then: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(root=image._settings.root, then=then)]  # type: ignore[union-attr]


def test_containers_of_a_killed_program_are_cleared_up_by_the_next(image: library.Image) -> None:
    then = "kept = image.run(['true'], network='none'); os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run(program(image, then), check=False).returncode == -signal.SIGKILL
    (left,) = containers(image)
    with run(image, "true") as result:
        assert result.container != left
        assert containers(image) == [result.container]


def test_containers_of_a_killed_program_are_killed(image: library.Image) -> None:
    then = (
        "say = lambda piece: os.kill(os.getpid(), signal.SIGKILL)\n"
        "image.run(['sh', '-c', 'echo up; sleep 1000'], network='none', stdout=say)"
    )
    assert subprocess.run(program(image, then), check=False).returncode == -signal.SIGKILL
    until(lambda: containers(image) == [])


def test_containers_are_removed_when_the_program_ends(image: library.Image) -> None:
    then = "kept = image.run(['true'], network='none')"
    assert subprocess.run(program(image, then), check=False).returncode == 0
    until(lambda: containers(image) == [])


def test_running_a_container_does_not_change_the_callers_process(image: library.Image) -> None:
    """No children to wait for, no handlers, no thread."""
    then = (
        "before = {number: signal.getsignal(number) for number in signal.valid_signals()}\n"
        "image.run(['true'], network='none').remove()\n"
        "assert before == {number: signal.getsignal(number) for number in signal.valid_signals()}\n"
        "assert threading.active_count() == 1\n"
        "assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()\n"
        "try:\n"
        "    os.waitpid(-1, os.WNOHANG)\n"
        "except ChildProcessError:\n"
        "    print('alone')\n"
    )
    done = subprocess.run(program(image, then), capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"alone\n", b"")


def test_a_forked_process_leaves_its_parents_containers_alone(image: library.Image) -> None:
    result = run(image, "sh", "-c", "echo x > /x")
    then = (
        "first = image.run(['sh', '-c', 'echo x > /x'], network='none')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    del first\n"
        "    image.run(['true'], network='none').remove()\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(*first.changes)\n"
    )
    done = subprocess.run([*program(image, then)], capture_output=True, check=False)
    assert done.stdout == b"A /x\n", done.stderr
    assert [str(change) for change in result.changes] == ["A /x"]


def test_eight_threads_run_one_image_at_once(image: library.Image) -> None:
    together = threading.Barrier(8, timeout=PATIENCE)

    def work(number: int) -> tuple[str, list[str], bytes]:
        together.wait()
        with run(image, "sh", "-c", f"echo {number} | tee /data/{number}") as result:
            changes = [str(change) for change in result.changes]
            made = result.commit(f"app:t{number}")
            return result.text, changes, made.read_bytes(f"/data/{number}")

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(work, range(8))):
            assert found == (f"{number}\n", ["C /data", f"A /data/{number}"], f"{number}\n".encode())
    assert containers(image) == []


def test_the_next_run_works_after_the_helper_was_killed(image: library.Image) -> None:
    run(image, "true").remove()
    helper = runs._helper
    assert helper is not None
    helper._control.shutdown(2)  # as when its process has ended
    assert run(image, "echo", "again").text == "again\n"
    assert runs._helper is not helper


def test_runtimes_are_looked_up_in_the_current_environment(
    image: library.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(image, "true")
    real = shutil.which("runc")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/runc-again").symlink_to(real or "")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("OF_THE_MOMENT", "yes")
    result = run(image, "env", runtime="runc-again", env=["OF_THE_MOMENT"])
    assert "OF_THE_MOMENT=yes" in result.text.splitlines()


THREADS = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
import lamina

image = lamina.open("app")
before = os.geteuid(), os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/mnt")
together = threading.Barrier(8)

def work(number):
    together.wait()
    with image.run(["sh", "-c", f"id -u; echo {number} > /tmp/n; mkdir -m 0 /closed"], network="none") as result:
        assert result.exit_code == 0, result.stderr
        changes = [str(change) for change in result.changes]
        return result.text, changes, result.commit(f"app:t{number}").read_bytes("/tmp/n")

with ThreadPoolExecutor(8) as pool:
    for number, found in enumerate(pool.map(work, range(8))):
        assert found == ("0\\n", ["A /closed", "C /tmp", "A /tmp/n"], b"%d\\n" % number), found
assert before == (os.geteuid(), os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/mnt"))
assert os.geteuid() != 0
assert os.listdir(os.environ["LAMINA_ROOT"] + "/containers") == []
print("all")
"""


@pytest.mark.parametrize("name", [PLAIN_USER, "59999"])
def test_the_process_of_a_plain_user_stays_that_users(name: str) -> None:
    require_tool("newuidmap")
    with plain_user(name) as (top, call):
        write_layout(top / "layout", "app", [members()], config={"config": {"Cmd": ["/bin/sh"]}})
        assert call("load", "-i", str(top / "layout")).returncode == 0
        done = subprocess.run(
            [*call.drop, call.python, "-W", "ignore", "-c", THREADS],
            capture_output=True,
            env=call.environment,
            cwd=top,
            check=False,
            timeout=120,
        )
        assert done.stdout == b"all\n", done.stderr.decode()


def test_a_librarys_container_is_a_leftover_only_when_no_process_holds_it(image: library.Image) -> None:
    store = Store.open(image._settings.root)  # type: ignore[union-attr]
    result = run(image, "true")
    one = store.containers.get(result.container)
    assert (one.status, one.remove, store.containers.is_abandoned(one)) == ("exited", True, False)
    result._finished._last.detach()  # type: ignore[union-attr]
    with store.containers.using(one):
        os.unlink(store.containers.path(one.id, "owner"))
    assert store.containers.is_abandoned(one)
    with pytest.raises(LaminaError):
        store.containers.get("none")
