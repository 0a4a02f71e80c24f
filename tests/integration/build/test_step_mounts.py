"""Secrets, caches and ssh agents of RUN steps: where they are seen, and where they never are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integration.build.running import (
    RUNTIMES,
    GivenInputs,
    base,
    bytes_in,
    left_in,
    make_store,
    members,
    run_step,
    running_step,
    said,
)
from lamina.build.files.contexts import open_context
from lamina.build.options import MAX_SECRET, Secret, SshAgent
from lamina.build.programs import run_program
from lamina.build.programs.cache_mounts import CacheWanted, cache_directories, cache_mounts, remove_cache_mount
from lamina.build.steps import RunMount, RunStep
from lamina.errors import Cancelled, LaminaError, LimitExceeded, NotFound, UsageError
from lamina.events import Cancel
from lamina.store.store import Store
from support import lamina, made_once, require_root, require_tool

SECRET = b"xyzzy-0123456789-plugh"


def make(top: Path) -> None:
    make_store(top, [members()])
    make_store(top, [[("seed/", None), ("seed/file", b"seed\n"), ("top", b"top\n")]], "seeds")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    require_root()
    require_tool(*RUNTIMES, "busybox")
    made_once(make, tmp_path)
    store = Store.open(str(tmp_path / "store"))
    yield store
    assert left_in(store) == []


@pytest.fixture(params=RUNTIMES)
def inputs(store: Store, request: pytest.FixtureRequest) -> GivenInputs:
    return GivenInputs(store, runtime=request.param)


def secret(target: str = "/run/secrets/s", **more: object) -> RunMount:
    return replace(RunMount("secret", target, id="s", read_only=True), **more)


def cache(target: str = "/cache", **more: object) -> RunMount:
    return replace(RunMount("cache", target, "/", id="c"), **more)


def with_secret(inputs: GivenInputs, content: bytes = SECRET) -> GivenInputs:
    return replace(inputs, secrets={"s": Secret("s", value=content)})


# secrets


def test_a_secret_is_a_file_that_only_its_owner_reads(inputs: GivenInputs) -> None:
    script = "stat -c '%a %u:%g' /run/secrets/s /k; cat /k; echo x 2>/dev/null > /k || echo refused"
    mounts = (secret(), secret("/k", mode=0o440, uid=33, gid=44))
    with running_step(with_secret(inputs), run_step(script, mounts=mounts)) as done:
        assert done.output.decode() == f"400 0:0\n440 33:44\n{SECRET.decode()}refused\n"
        assert done.paths == []


def test_a_secret_is_a_variable_and_no_file_if_asked(inputs: GivenInputs) -> None:
    found = said(with_secret(inputs), run_step("echo $T; ls /run 2>&1 || true", mounts=(secret("", variable="T"),)))
    assert found == f"{SECRET.decode()}\nls: /run: No such file or directory\n"


def test_a_secret_reaches_no_file_of_the_store(inputs: GivenInputs, tmp_path: Path) -> None:
    """Also while the program runs, when a kill -9 would leave everything where it is."""
    inputs = with_secret(inputs)
    seen: list[Path] = []
    memory: set[str] = set()

    def look(_: bytes) -> None:
        memory.update(mounts_below(tmp_path))
        seen.extend(path for path, data in bytes_in(tmp_path) if SECRET in data)

    mounts = (secret(), secret("", variable="T"))
    step = run_step("cat /run/secrets/s > /dev/null; echo up; sleep 0.2; echo $T > /dev/null", mounts=mounts)
    from lamina.build.programs.run_program import ran

    with ran(step, inputs.stack(step.below), inputs, look) as items:  # type: ignore[arg-type]
        assert list(items) == []
        assert seen
        assert all(any(str(path).startswith(one) for one in memory) for path in seen)  # only in memory
    assert [path for path, data in bytes_in(tmp_path) if SECRET in data] == []


def test_a_whole_build_with_a_secret_leaves_no_byte_of_it(store: Store, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM app\nRUN --mount=type=secret,id=s,required --mount=type=secret,id=s,env=T "
        "wc -c < /run/secrets/s > /size"
        "; echo ${#T} >> /size\n"
    )
    words = (
        "--network",
        "none",
        "--secret",
        "id=s,env=OF_THIS_TEST",
        "-t",
        "new",
        "--progress",
        "plain",
        str(context),
    )
    done = lamina("build", *words, root=store.paths.root, OF_THIS_TEST=SECRET.decode())
    assert done.returncode == 0, done.stderr
    assert lamina("cat", "new", "/size", root=store.paths.root).stdout == b"%d\n%d\n" % (len(SECRET), len(SECRET))
    said = done.stdout + done.stderr + lamina("history", "--no-trunc", "new", root=store.paths.root).stdout
    assert b"required" in said
    assert SECRET not in said
    assert [path for path, data in bytes_in(Path(store.paths.root)) if SECRET in data] == []


def mounts_below(top: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if " - tmpfs " in line and line.split()[4].startswith(str(top))]


def test_a_secret_that_was_not_given_is_left_out_or_an_error(inputs: GivenInputs) -> None:
    assert said(inputs, run_step("ls /run 2>&1 || true", mounts=(secret(),))).startswith("ls: /run")
    with pytest.raises(NotFound, match="'s' is required") as caught:
        said(inputs, run_step("true", mounts=(secret(required=True),)))
    assert "--secret id=s" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "mount", "error"),
    [
        (bytes(MAX_SECRET + 1), secret(), LimitExceeded),
        (b"a\0b", secret("", variable="T"), UsageError),
        (b"\xff", secret("", variable="T"), UsageError),
    ],
)
def test_a_secret_that_does_not_fit_is_an_error(
    store: Store, content: bytes, mount: RunMount, error: type[LaminaError]
) -> None:
    with pytest.raises(error, match="the secret 's'"):
        said(with_secret(GivenInputs(store), content), run_step("true", mounts=(mount,)))


# caches


def test_a_cache_survives_and_is_not_in_the_layer(inputs: GivenInputs) -> None:
    step = run_step("cat /cache/n 2>/dev/null; echo more >> /cache/n", mounts=(cache(),))
    with running_step(inputs, step) as done:
        assert (done.output, done.paths) == (b"", [])
    assert said(inputs, step) == "more\n"
    assert said(inputs, run_step("ls /cache", mounts=(cache(id="other"),))) == ""


def test_a_new_cache_has_the_attributes_that_were_asked_for(inputs: GivenInputs) -> None:
    mounts = (cache(mode=0o700, uid=33, gid=44), cache("/plain"))
    found = said(inputs, run_step("stat -c '%a %u:%g' /cache /plain", mounts=mounts))
    assert found == "700 33:44\n755 0:0\n"


def test_a_new_cache_starts_with_the_files_of_an_image(inputs: GivenInputs) -> None:
    seeds = base("seeds")
    step = run_step(
        "cat /cache/file /all/top; echo changed > /cache/file",
        mounts=(cache(source="/seed", origin=seeds), cache("/all", origin=seeds)),
    )
    assert said(inputs, step) == "seed\ntop\n"
    assert said(inputs, step) == "changed\ntop\n"
    assert said(inputs, run_step("ls /cache", mounts=(cache(),))) == ""  # another cache: it began empty


def test_a_read_only_cache_takes_nothing(inputs: GivenInputs) -> None:
    step = run_step("touch /cache/x 2>/dev/null || echo refused", mounts=(cache(read_only=True),))
    assert said(inputs, step) == "refused\n"


def test_a_source_that_a_cache_lacks_is_an_error(inputs: GivenInputs) -> None:
    with pytest.raises(NotFound, match="nothing is at '/x'"):
        said(inputs, run_step("true", mounts=(cache(source="/x"),)))


def test_a_part_of_a_cache_is_seen_and_never_a_file_of_this_host(inputs: GivenInputs) -> None:
    make = "mkdir -p /cache/a/b; echo in > /cache/a/b/file; ln -s /etc /cache/host; ln -s a/b /cache/short"
    said(inputs, run_step(make, mounts=(cache(),)))
    assert said(inputs, run_step("cat /part/file", mounts=(cache("/part", source="/a/b"),))) == "in\n"
    assert said(inputs, run_step("cat /part/file", mounts=(cache("/part", source="/short"),))) == "in\n"
    assert said(inputs, run_step("cat /part", mounts=(cache("/part", source="/a/b/file"),))) == "in\n"
    with pytest.raises(NotFound, match="nothing is at '/host'"):
        said(inputs, run_step("ls /part", mounts=(cache("/part", source="/host"),)))


def test_a_part_of_a_cache_that_is_swapped_before_the_program_starts_is_not_followed(
    inputs: GivenInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another step does that shares the cache (CVE-2024-23651)."""
    said(inputs, run_step("mkdir -p /cache/part; echo ours > /cache/part/hostname", mounts=(cache(),)))
    described = run_program.prepare_spec

    def swapped(*words: Any) -> Any:
        (data,) = Path(inputs.store.paths.build, "mounts").glob("*/*/data")
        (data / "part").rename(data / "old")
        (data / "part").symlink_to("/etc")
        return described(*words)

    monkeypatch.setattr(run_program, "prepare_spec", swapped)
    assert said(inputs, run_step("cat /part/hostname", mounts=(cache("/part", source="/part"),))) == "ours\n"


def test_one_step_may_use_a_locked_cache_twice(store: Store) -> None:
    mounts = (cache(sharing="locked"), cache("/too"))
    assert said(GivenInputs(store), run_step("echo x > /cache/x; cat /too/x", mounts=mounts)) == "x\n"


HOLD = """
import sys
from lamina.build.programs.cache_mounts import CacheWanted, cache_directories
from lamina.events import Cancel
from lamina.store.store import Store
wanted = CacheWanted("c", sys.argv[2])
with cache_directories(Store.open(sys.argv[1]), [(wanted, lambda path: None)], Cancel()) as (path,):
    print(path, flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that uses the cache."""

    def __init__(self, store: Store, sharing: str) -> None:
        command = [sys.executable, "-c", HOLD, store.paths.root, sharing]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.path = self._process.stdout.readline().strip()

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self._process.kill()
        self._process.communicate("")

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(kill=True)


def taken(store: Store, sharing: str, cancel: Cancel | None = None) -> str:
    wanted = CacheWanted("c", sharing)
    with cache_directories(store, [(wanted, lambda path: None)], cancel or Cancel()) as (path,):
        return path


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        ("shared", "shared", True),
        ("shared", "private", False),
        ("private", "private", False),
        ("private", "shared", False),
        ("locked", "private", False),
    ],
)
def test_a_cache_is_shared_between_processes_as_its_sharing_says(
    store: Store, theirs: str, ours: str, same: bool
) -> None:
    with Holder(store, theirs) as other:
        assert (taken(store, ours) == other.path) == same


@pytest.mark.parametrize("kill", [False, True])
def test_a_locked_cache_is_waited_for_until_its_process_ends(store: Store, kill: bool) -> None:
    with Holder(store, "locked") as other:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(taken(store, "locked")))
        thread.start()
        thread.join(0.3)
        assert found == []
        other.end(kill=kill)
        thread.join(60)
        assert found == [other.path]


def test_a_wait_for_a_cache_can_be_cancelled(store: Store) -> None:
    with Holder(store, "locked"):
        cancel = Cancel()
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        with pytest.raises(Cancelled):
            taken(store, "locked", cancel)


def test_a_cache_is_used_again_when_its_user_has_ended(store: Store) -> None:
    assert taken(store, "private") == taken(store, "private") == taken(store, "locked") == taken(store, "shared")


def test_caches_are_listed_and_removed_unless_somebody_uses_them(store: Store) -> None:
    inputs = GivenInputs(store)
    said(inputs, run_step("head -c 100000 /dev/zero > /cache/zeros", mounts=(cache(),)))
    (one,) = cache_mounts(store)
    assert (one.id, one.busy) == ("c", False)
    assert one.size >= 100_000
    with Holder(store, "shared"):
        assert cache_mounts(store)[0].busy
        assert remove_cache_mount(store, one.key) == 0
    assert remove_cache_mount(store, one.key) >= 100_000
    assert cache_mounts(store) == []
    assert said(inputs, run_step("ls /cache", mounts=(cache(),))) == ""


# ssh agents


class Agent:
    """An agent that answers each message with the same message in capitals."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                while data := client.recv(100):
                    client.sendall(data.upper())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "agent"
    made = Agent(path)
    yield str(path)
    made.close()


def ssh_step(script: str, **more: object) -> RunStep:
    mount = RunMount("ssh", "/run/buildkit/ssh_agent.0", id="default", read_only=True)
    return run_step(script, mounts=(replace(mount, **more),))


def test_a_program_reaches_the_agent_through_a_socket_of_its_own(inputs: GivenInputs, agent: str) -> None:
    inputs = replace(inputs, ssh={"default": SshAgent(socket=agent)})
    script = "echo $SSH_AUTH_SOCK; stat -c '%F %a %u:%g' $SSH_AUTH_SOCK"
    with running_step(inputs, ssh_step(script)) as done:
        assert done.output == b"/run/buildkit/ssh_agent.0\nsocket 600 0:0\n"
        assert done.paths == []
    found = said(inputs, ssh_step(script, target="/a", uid=33, gid=44, mode=0o660))
    assert found == "/a\nsocket 660 33:44\n"


def test_bytes_pass_both_ways(store: Store, agent: str, tmp_path: Path) -> None:
    from lamina.build.programs.agent import agent_socket

    path = tmp_path / ("d" * 100) / ("e" * 100)  # longer than an address
    path.mkdir(parents=True)
    with agent_socket(agent, str(path / "s")):
        here = os.open(path, os.O_PATH)
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"/proc/self/fd/{here}/s")
                client.sendall(b"hello")
                assert client.recv(100) == b"HELLO"
        open_one = socket.socket(socket.AF_UNIX)
        open_one.connect(f"/proc/self/fd/{here}/s")
        os.close(here)
    with open_one:
        assert open_one.recv(100) == b""  # it was closed with the block


def test_an_agent_that_was_not_given_is_left_out_or_an_error(inputs: GivenInputs) -> None:
    assert said(inputs, ssh_step("echo $SSH_AUTH_SOCK")) == "/run/buildkit/ssh_agent.0\n"
    with pytest.raises(NotFound, match="'default' is required"):
        said(inputs, ssh_step("true", required=True))
    nobody = replace(inputs, ssh={"default": SshAgent(socket="/nowhere/agent")})
    with pytest.raises(NotFound, match="no ssh agent answers at '/nowhere/agent'"):
        said(nobody, ssh_step("true"))


def test_key_files_are_given_by_an_agent_of_their_own(inputs: GivenInputs, tmp_path: Path) -> None:
    require_tool("ssh-agent", "ssh-add", "ssh-keygen")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the-key", "-f", str(key)], check=True)
    from lamina.build.programs.agent import agent_with_keys

    with agent_with_keys(str(tmp_path), [str(key)]) as path:
        env = {**os.environ, "SSH_AUTH_SOCK": path}
        listed = subprocess.run(["ssh-add", "-l"], env=env, capture_output=True, text=True, check=True)
        assert "the-key" in listed.stdout
    inputs = replace(inputs, ssh={"default": SshAgent(keys=(str(key),))})
    assert said(inputs, ssh_step("stat -c %F $SSH_AUTH_SOCK")) == "socket\n"
    with pytest.raises(NotFound, match="no key file"), agent_with_keys(str(tmp_path), ["/nowhere"]):
        pass


# contexts


@pytest.fixture
def context(inputs: GivenInputs, tmp_path: Path) -> Iterator[Path]:
    top = tmp_path / "context"
    (top / "dir/deep").mkdir(parents=True)
    for name in ("file", "dir/in", "dir/deep/in", "dir/left.out", "star*", "star1"):
        (top / name).write_text(f"{name}\n")
        os.chown(top / name, 1234, 1234)
    (top / "dir/outside").symlink_to("/etc/hostname")
    (top / "up").symlink_to("../secret")
    (top / ".dockerignore").write_text("**/*.out\n")
    (tmp_path / "secret").write_text("of this host\n")
    inputs.contexts[""] = opened = open_context(str(top), store=inputs.store, network=None, cancel=inputs.cancel)
    yield top
    opened.close()


def bind(source: str, **more: object) -> tuple[RunMount, ...]:
    return (replace(RunMount("bind", "/src", source, read_only=True), **more),)


def test_a_context_is_seen_without_what_is_ignored_and_belongs_to_root(inputs: GivenInputs, context: Path) -> None:
    script = "cd /src; ls -R . | sort; cat dir/in; stat -c %u:%g file dir/in; touch x 2>/dev/null || echo refused"
    with running_step(inputs, run_step(script, mounts=bind("/"))) as done:
        lines = done.output.decode().splitlines()
        assert done.paths == []
    assert lines[-4:] == ["dir/in", "0:0", "0:0", "refused"]
    assert {"file", "in", "deep"} <= set(lines)
    assert "left.out" not in lines


def test_a_part_of_a_context_is_seen(inputs: GivenInputs, context: Path) -> None:
    assert (
        said(inputs, run_step("ls /src; cat /src/deep/in", mounts=bind("/dir"))) == "deep\nin\noutside\ndir/deep/in\n"
    )
    assert said(inputs, run_step("cat /src", mounts=bind("/file"))) == "file\n"
    assert said(inputs, run_step("cat /src", mounts=bind("/star*"))) == "star*\n"


def test_no_program_reaches_the_files_of_this_host(inputs: GivenInputs, context: Path) -> None:
    mounts = bind("/", read_only=False)
    script = "cd /src; cat up dir/outside 2>/dev/null; echo changed > dir/in; rm file; touch made; cat dir/in"
    with running_step(inputs, run_step(script, mounts=mounts)) as done:
        assert done.output == b"changed\n"
        assert done.paths == []
    assert (context / "dir/in").read_text() == "dir/in\n"
    assert sorted(os.listdir(context)) == [".dockerignore", "dir", "file", "star*", "star1", "up"]


def test_steps_of_a_build_share_copies_that_they_can_not_write_to(inputs: GivenInputs, context: Path) -> None:
    def numbers(mounts: tuple[RunMount, ...], **more: Any) -> str:
        step = run_step("stat -c %i /src/file", mounts=mounts, **more)
        output: list[bytes] = []
        with run_program.ran(step, inputs.stack(step.below), inputs, output.append, shared):
            return b"".join(output).decode().splitlines()[-1]

    with run_program.run_programs(inputs.store, print) as shared:
        read_only = numbers(bind("/"))
        assert numbers(bind("/")) == read_only
        assert numbers(bind("/", read_only=False)) != read_only
        assert numbers(bind("/"), insecure=True) != read_only
    assert os.listdir(Path(inputs.store.paths.build, "running")) == []


@pytest.mark.parametrize("source", ["/nowhere", "/dir/left.out", "/dir/outside/x", "/up/x"])
def test_a_source_that_a_context_lacks_is_an_error(inputs: GivenInputs, context: Path, source: str) -> None:
    with pytest.raises(NotFound, match="nothing is at"):
        said(inputs, run_step("true", mounts=bind(source)))
