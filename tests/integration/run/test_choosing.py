"""Which containers a verb works on: names, files with IDs, --all, --latest, --filter."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members
from support import lamina, made_once, require_root, require_tool


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    make_store(top, [members()])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    yield tmp_path / "store"
    lamina("rm", "--all", "--force", root=tmp_path / "store")


def ok(root: Path, *words: str, code: int = 0) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == code, done
    return done.stdout.decode().strip()


@pytest.fixture
def three(root: Path) -> Path:
    """A store with three running containers; all but the first have a label."""
    for name, labels in (("a", ()), ("b", ("--label", "of=test")), ("c", ("--label", "of=test"))):
        ok(root, "run", "-d", "--network", "none", "--name", name, *labels, "app", "sleep", "600")
    return root


def states(root: Path) -> dict[str, str]:
    return dict(line.split() for line in ok(root, "ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines())


def test_filters_choose_what_a_verb_works_on(three: Path) -> None:
    with_label = ("--filter", "label=of=test")
    assert sorted(ok(three, "pause", *with_label).split()) == ["b", "c"]
    assert states(three) == {"a": "running", "b": "paused", "c": "paused"}
    ok(three, "unpause", *with_label, "--filter", "name=b")
    assert states(three) == {"a": "running", "b": "running", "c": "paused"}
    ok(three, "unpause", "--latest")
    assert sorted(ok(three, "stop", "-t", "0", *with_label).split()) == ["b", "c"]
    assert sorted(ok(three, "start", "--filter", "status=exited").split()) == ["b", "c"]
    assert sorted(ok(three, "restart", "-t", "0", *with_label).split()) == ["b", "c"]
    ok(three, "rm", "--force", *with_label)
    assert states(three) == {"a": "running"}
    for verb in ("rm", "stop", "start", "restart", "pause", "unpause"):
        assert ok(three, verb, "--filter", "name=nothing") == ""
    assert states(three) == {"a": "running"}


def test_latest_is_the_container_that_was_made_last(three: Path) -> None:
    assert ok(three, "exec", "--latest", "hostname") == ok(three, "inspect", "-l", "-f", "{{.Config.Hostname}}")
    assert ok(three, "top", "-l", "args").split() == ["COMMAND", "sleep", "600"]
    assert ok(three, "update", "-l", "--pids-limit", "77") == ok(three, "inspect", "c", "-f", "{{.Id}}")
    assert ok(three, "inspect", "c", "-f", "{{.HostConfig.PidsLimit}}") == "77"
    ok(three, "exec", "c", "touch", "/made")
    assert ok(three, "diff", "-l") == "A /made"
    assert ok(three, "stats", "-l", "--no-stream", "--format", "{{.Name}}") == "c"
    ok(three, "restart", "-t", "0", "-l")
    ok(three, "kill", "-l")
    assert ok(three, "wait", "-l") == "137"
    ok(three, "start", "-l")
    assert ok(three, "stop", "-t", "0", "-l") == "c"
    assert states(three) == {"a": "running", "b": "running", "c": "exited"}
    assert ok(three, "rm", "-l") == "c"
    assert states(three) == {"a": "running", "b": "running"}


@pytest.mark.parametrize("verb", ["stop", "rm", "pause", "unpause", "restart", "start"])
def test_a_verb_on_several_needs_one_way_to_choose(tmp_path: Path, verb: str) -> None:
    for words, why in (
        ((), b"no containers given"),
        (("a", "--all"), b"can't be combined"),
        (("a", "--latest"), b"can't be combined"),
        (("--all", "--latest"), b"can't be combined"),
        (("a", "--filter", "name=a"), b"can't be combined"),
    ):
        done = lamina(verb, *words, root=tmp_path)
        assert (done.returncode, why in done.stderr) == (2, True), words


@pytest.mark.parametrize(
    "verb", ["kill", "wait", "logs", "update", "attach", "top", "inspect", "exec", "diff", "port"]
)
def test_a_verb_needs_a_container(tmp_path: Path, verb: str) -> None:
    more = {"update": ("--cpus", "1"), "exec": ("true",)}.get(verb, ())
    assert lamina(verb, *(more if verb != "exec" else ()), root=tmp_path).returncode == 2
    done = lamina(verb, "--latest", *more, root=tmp_path)
    assert (done.returncode, b"there are no containers" in done.stderr) == (3, True)


def test_a_number_alone_is_an_interval_in_milliseconds(root: Path) -> None:
    ok(root, "run", "-d", "--network", "none", "--name", "c", "app", "sh", "-c", "exit 4")
    assert ok(root, "wait", "--condition", "exited", "--interval", "20", "c") == "4"
    assert lamina("wait", "--condition", "exited", "--interval", "-20", "c", root=root).returncode == 2


def test_a_condition_tells_the_code_while_the_monitor_still_ends(root: Path) -> None:
    ok(root, "run", "-d", "--network", "none", "--name", "c", "app", "sh", "-c", "exit 4")
    ok(root, "wait", "c")
    lock = root / "containers" / ok(root, "inspect", "--format", "{{.Id}}", "c") / "lock"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert ok(root, "wait", "--condition", "exited", "c") == "4"


@pytest.mark.parametrize("given", [("--pause",), ()])
def test_a_commit_pauses_a_running_container(root: Path, given: tuple[str, ...]) -> None:
    ok(root, "run", "-d", "--network", "none", "--name", "c", "app", "sleep", "600")
    frozen = f"""
import sys
from lamina.run.sandbox import Sandbox
pause, resume = Sandbox.pause, Sandbox.resume
Sandbox.pause = lambda self: (print("pause"), pause(self))
Sandbox.resume = lambda self: (resume(self), print("resume"))
sys.argv = ["lamina", "--root", {str(root)!r}, "commit", *{given!r}, "c", "new"]
from lamina.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", frozen], capture_output=True, check=True)
    assert done.stdout.split()[:2] == [b"pause", b"resume"]
    assert states(root) == {"c": "running"}


def test_a_commit_of_a_container_that_can_not_be_paused_goes_on(root: Path) -> None:
    require_tool("bwrap")
    ok(root, "run", "-d", "--network", "none", "--runtime", "bwrap", "--name", "c", "app", "sleep", "600")
    ok(root, "commit", "c", "new")
    assert b"can't be paused" in lamina("commit", "--pause", "c", "new", root=root).stderr
