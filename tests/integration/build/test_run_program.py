"""RUN steps in real sandboxes: what a program sees, what becomes of what it changed, and how it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from integration.build.running import (
    RUNTIMES,
    GivenInputs,
    base,
    left_in,
    make_store,
    members,
    run_step,
    running_step,
    said,
    sleeping,
)
from lamina.build.errors import ProgramFailed
from lamina.build.programs.run_program import LAST_OUTPUT, MAX_OUTPUT, ran, run_programs
from lamina.build.run_mounts import run_mounts
from lamina.build.steps import RunMount
from lamina.errors import Cancelled, Conflict, LaminaError, NotFound, PathNotFound, Unsupported, UsageError
from lamina.run.options import Ulimit
from lamina.store.store import Store
from support import made_once, require_root, require_tool


def make(top: Path) -> None:
    make_store(top, [members(("data/", None), ("data/file", b"old\n"), ("data/more", b"more\n"))])


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


def mounts(*values: str) -> tuple[RunMount, ...]:
    return run_mounts(values, lambda text: text, "/")


def test_what_a_program_changed_is_the_layer_and_nothing_else(inputs: GivenInputs) -> None:
    script = "echo new > /new; rm /data/file; mkdir -p /a/b; chmod 700 /data; echo out; echo err >&2"
    with running_step(inputs, run_step(script)) as done:
        assert done.paths == ["a", "a/b", "data", "data/file!", "new"]
        assert done.content("new") == b"new\n"
        assert sorted(done.output.split()) == [b"err", b"out"]


def test_a_replaced_directory_hides_what_it_had(inputs: GivenInputs) -> None:
    with running_step(inputs, run_step("rm -r /data; mkdir /data; echo x > /data/x")) as done:
        assert done.paths == ["data", "data/*", "data/x"]


def test_a_program_that_changes_nothing_makes_no_layer(inputs: GivenInputs) -> None:
    with running_step(inputs, run_step("true; cat /data/file > /dev/null")) as done:
        assert done.paths == []


def test_environment_user_and_working_directory(inputs: GivenInputs) -> None:
    given = {"env": (("A", "1"), ("PATH", "/bin")), "hidden": (("B", "2"),), "user": "web", "workdir": "/srv/made"}
    with running_step(inputs, run_step("echo $(id -u):$(id -G) $(pwd) $(hostname)", **given)) as done:
        assert done.output == b"33:44 55 /srv/made buildkitsandbox\n"
        assert done.paths == ["srv", "srv/made"]
    found = said(inputs, run_step("/bin/env", "-", "/bin/env", **given))
    assert found == ""
    found = said(inputs, run_step("/bin/busybox", "env", **given))
    more = {"PWD=/srv/made"} if inputs.runtime == "bwrap" else set()
    assert {*found.split()} - more == {"A=1", "B=2", "HOME=/srv/web", "PATH=/bin"}


def test_defaults_are_those_of_run(inputs: GivenInputs) -> None:
    caps = said(inputs, run_step("grep CapEff /proc/self/status; echo $PATH; id -u"))
    bits, path, uid = caps.split()[1:]
    assert int(bits, 16) & (1 << 21) == 0  # CAP_SYS_ADMIN
    assert path == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert uid == "0"


@pytest.mark.parametrize(("user", "says"), [("nobody", "no user 'nobody'"), ("0:nogroup", "no group 'nogroup'")])
def test_an_unknown_user_is_an_error(inputs: GivenInputs, user: str, says: str) -> None:
    with pytest.raises(NotFound, match=says), running_step(inputs, run_step("true", user=user)):
        pass


def test_an_exit_code_is_an_error_with_it(inputs: GivenInputs) -> None:
    with pytest.raises(ProgramFailed) as caught, running_step(inputs, run_step("exit 42")):
        pass
    assert caught.value.code == 42
    assert caught.value.message == 'process "sh -c exit 42" did not complete successfully: exit code: 42'


@pytest.mark.parametrize(
    ("words", "more", "code", "hint"),
    [
        (("/bin/bash", "-c", "true"), {}, 127, "has the program"),
        (("/etc/passwd", "x"), {}, 126, "has the program"),
        (("/bin/sh", "-c", "true"), {"workdir": "/etc/passwd"}, 125, "the working directory"),
    ],
)
def test_a_program_that_can_not_start_is_named(
    inputs: GivenInputs, words: tuple[str, ...], more: dict[str, str], code: int, hint: str
) -> None:
    with pytest.raises(ProgramFailed, match=f"'{words[0]}' could not be started") as caught:
        said(inputs, run_step(*words, **more))
    assert caught.value.code == code
    assert hint in (caught.value.hint or "")


def test_a_step_on_nothing_runs_what_is_mounted(inputs: GivenInputs) -> None:
    mount = RunMount("bind", "/tools", "/bin", base(), read_only=True)
    step = run_step("/tools/busybox", "touch", "/made", below=None, mounts=(mount,))
    with running_step(inputs, step) as done:
        assert done.paths == ["made"]


def test_without_a_network_there_is_only_the_loopback(inputs: GivenInputs) -> None:
    assert said(inputs, run_step("ls /sys/class/net")).split() == ["lo"]


def test_a_program_that_has_ended_leaves_its_network_to_the_next_one(inputs: GivenInputs) -> None:
    require_tool("pasta")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun")

    def network(**more: Any) -> str:
        step = run_step("ls /sys/class/net | wc -l; stat -L -c %i /proc/self/ns/net", network="", **more)
        output: list[bytes] = []
        with ran(step, inputs.stack(step.below), inputs, output.append, shared):
            links, number = b"".join(output).decode().split()[-2:]
            assert links == "2"
            return number

    with run_programs(inputs.store, print) as shared:
        first = network()
        with ThreadPoolExecutor(2) as pool:
            both = {job.result() for job in [pool.submit(network) for _ in range(2)]}
        assert first in both
        assert network(insecure=True) not in {first, *both}
        with pytest.raises(ProgramFailed):
            network(workdir="/etc/passwd")
        assert network() in both
    assert os.listdir(Path(inputs.store.paths.build, "running")) == []


def test_the_hosts_network_is_the_hosts(inputs: GivenInputs) -> None:
    found = said(inputs, run_step("cat /proc/net/dev", network="host"))
    assert [line.split(":")[0] for line in found.splitlines() if ":" in line] == [
        line.split(":")[0] for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line
    ]


def test_files_of_the_network_are_read_only_and_not_in_the_layer(inputs: GivenInputs) -> None:
    step = run_step(
        "cat /etc/hosts; echo x 2>/dev/null >> /etc/hosts || echo refused; echo name > /etc/hostname",
        add_hosts=(("db", "10.0.0.5"),),
    )
    with running_step(inputs, step) as done:
        assert b"10.0.0.5\tdb\n" in done.output
        assert done.output.endswith(b"refused\n")
        assert done.paths == ["etc", "etc/hostname"]


def test_limits_and_the_size_of_shared_memory(inputs: GivenInputs) -> None:
    step = run_step(
        "ulimit -n; grep ' /dev/shm ' /proc/mounts", shm_size=8 << 20, ulimits=(Ulimit("nofile", 77, 99),)
    )
    count, mount = said(inputs, step).splitlines()
    assert count == "77"
    assert "size=8192k" in mount


def test_all_rights_only_if_asked(inputs: GivenInputs) -> None:
    script = "grep CapEff /proc/self/status"
    few, many = (int(said(inputs, run_step(script, insecure=one)).split()[1], 16) for one in (False, True))
    assert few & (1 << 12) == 0  # CAP_NET_ADMIN
    assert many & (1 << 12)


def test_a_program_for_another_machine_is_refused(inputs: GivenInputs, store: Store) -> None:
    program = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100)
    make_store(Path(store.paths.root).parent, [members(("bin/strange", program, {"mode": 0o755}))], "strange")
    if Path("/proc/sys/fs/binfmt_misc/qemu-riscv64").exists():
        pytest.skip("this host runs it")
    with (
        pytest.raises(Unsupported, match="riscv64"),
        running_step(inputs, run_step("/bin/strange", "x", below=base("strange"))),
    ):
        pass


def test_binds_of_unions_are_read_only_or_thrown_away(inputs: GivenInputs, store: Store) -> None:
    make_store(
        Path(store.paths.root).parent, [[("dir/", None), ("dir/in", b"inside\n"), ("link", "-> /dir")]], "other"
    )
    other = base("other")
    step = run_step(
        "cat /all/dir/in /part/in /file; touch /all/x 2>/dev/null || echo refused; echo w > /rw/in; cat /rw/in",
        mounts=(
            RunMount("bind", "/all", "/", other, read_only=True),
            RunMount("bind", "/part", "/link", other, read_only=True),
            RunMount("bind", "/file", "/dir/in", other, read_only=True),
            RunMount("bind", "/rw", "/dir", other),
        ),
    )
    for _ in range(2):  # what the first one wrote is gone
        with running_step(inputs, step) as done:
            assert done.output.decode() == "inside\n" * 3 + "refused\nw\n"
            assert done.paths == []


def test_a_bind_of_a_missing_path_is_an_error(inputs: GivenInputs) -> None:
    mount = RunMount("bind", "/x", "/nowhere", base(), read_only=True)
    with (
        pytest.raises(PathNotFound, match="nothing is at '/nowhere'"),
        running_step(inputs, run_step("true", mounts=(mount,))),
    ):
        pass


def test_mount_points_stay_only_with_what_a_program_put_there(inputs: GivenInputs) -> None:
    step = run_step(
        "ls -d /made/deep/tmp /etc/file; touch /made/own; echo x > /made/deep/tmp/lost",
        mounts=(RunMount("tmpfs", "/made/deep/tmp"), RunMount("tmpfs", "/gone/tmp")),
        files=(("/etc/file", b"text"),),
    )
    with running_step(inputs, step) as done:
        assert done.paths == ["made", "made/own"]


def test_programs_run_in_a_tmpfs(inputs: GivenInputs) -> None:
    step = run_step(
        "cp /bin/busybox /t; /t/busybox echo ran; grep ' /t ' /proc/mounts",
        mounts=(RunMount("tmpfs", "/t", size=4 << 20),),
    )
    ran, mount = said(inputs, step).splitlines()
    assert ran == "ran"
    assert "size=4096k" in mount


def test_here_documents_are_programs_that_leave_nothing(inputs: GivenInputs) -> None:
    step = run_step("/dev/pipes/EOF", "a", files=(("/dev/pipes/EOF", b"#!/bin/sh\necho ran $1\n"),))
    with running_step(inputs, step) as done:
        assert done.output == b"ran a\n"
        assert done.paths == []


def test_standard_input_is_empty(inputs: GivenInputs) -> None:
    assert said(inputs, run_step("cat | wc -c")).strip() == "0"


def test_a_nul_is_refused(inputs: GivenInputs) -> None:
    with pytest.raises(UsageError, match="a NUL"), running_step(inputs, run_step("sh", "-c", "echo \0")):
        pass


def test_long_output_arrives_whole(inputs: GivenInputs) -> None:
    with running_step(inputs, run_step("seq 1 100000; seq 1 1000 >&2")) as done:
        assert len(done.output.split()) == 101_000


def test_of_endless_output_the_first_and_the_last_is_passed_on(store: Store) -> None:
    with running_step(GivenInputs(store), run_step("seq 1 1000000")) as done:
        lines = done.output.split(b"\n")
    assert MAX_OUTPUT <= len(done.output) <= MAX_OUTPUT + LAST_OUTPUT + 100
    assert lines[:2] == [b"1", b"2"]
    assert lines[-2:] == [b"1000000", b""]
    (note,) = [number for number, line in enumerate(lines) if line.startswith(b"lamina: ")]
    skipped = int(lines[note].split()[1])
    assert lines[note] == b"lamina: %d bytes of output are left out here" % skipped
    assert len(done.output) - len(lines[note]) - 2 + skipped == sum(
        len(f"{number}\n") for number in range(1, 1000001)
    )
    assert int(lines[note + 1]) + 1 == int(lines[note + 2])  # whole lines


def test_a_listener_that_fails_ends_the_program(inputs: GivenInputs) -> None:
    def log(data: bytes) -> None:
        raise Conflict("nobody listens")

    step = run_step("echo up; while true; do echo more; done")
    with pytest.raises(Conflict, match="nobody listens"), ran(step, inputs.stack(step.below), inputs, log):
        pass


def test_a_cancelled_build_ends_all_programs_of_a_step(inputs: GivenInputs) -> None:
    up = threading.Event()
    output: list[bytes] = []

    def log(data: bytes) -> None:
        output.append(data)
        if b"up" in b"".join(output):
            up.set()

    mark = f"7{os.getpid()}"
    caught: list[BaseException] = []

    def work() -> None:
        step = run_step(f"trap '' TERM INT; sleep {mark} & echo up; sleep {mark}")
        try:
            with ran(step, inputs.stack(step.below), inputs, log):
                pass
        except LaminaError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert up.wait(60)
    inputs.cancel.set()
    thread.join(60)
    assert [type(error) for error in caught] == [Cancelled]
    assert not sleeping(mark)
