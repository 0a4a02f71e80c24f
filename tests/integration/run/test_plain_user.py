"""What a plain user can do without being root: mount and run, in a user namespace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_library_run import until
from integration.run.test_run import members
from lamina.host import privileges
from support import PLAIN_USER, PlainUser, plain_user, require_root, require_tool, write_layout

ALONE = "59999"
TOP = [
    (".wh.old", b""),
    ("data/", None, {"uid": 33, "gid": 44, "mode": 0o750}),
    ("data/secret", b"only mine", {"uid": 33, "gid": 44, "mode": 0o600}),
    ("fixed/", None, {"mode": 0o555}),
    ("fixed/file", b"x", {"mode": 0o444}),
    ("suid", b"#!/bin/sh\n", {"mode": 0o4755}),
]


@pytest.fixture(params=[PLAIN_USER, ALONE])
def user(request: Any, tmp_path: Path) -> Iterator[tuple[Path, PlainUser]]:
    require_root()
    require_tool("runc", "busybox", "newuidmap")
    with plain_user(request.param) as (top, call):
        layers = [members(("old", b"hidden"), ("dir/", None), ("dir/below", b"b")), TOP, [("dir/", None)]]
        write_layout(top / "layout", "app", layers, config={"config": {"Cmd": ["/bin/sh"]}})
        assert call("load", "-i", str(top / "layout")).returncode == 0
        yield top, call
        call("rm", "--all", "--force")
        call("umount", "--all")


def test_a_mount_is_held_by_a_process_and_ends_with_it(user: tuple[Path, PlainUser]) -> None:
    _, call = user
    done = call("mount", "app")
    assert done.returncode == 0, done.stderr
    target = Path(done.stdout.decode().strip())
    assert (target / "dir/below").read_bytes() == b"b"
    assert not (target / "old").exists()
    assert (target / "fixed/file").read_bytes() == b"x"
    (listed,) = json.loads(call("mounts", "--format", "json").stdout)
    assert (listed["image"], listed["target"]) == ("app", str(target))
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_text("")
    assert call("rmi", "app").returncode == 0
    assert call("prune", "--force").returncode == 0
    assert (target / "data/secret").read_bytes() == b"only mine"  # gc keeps mounted layers
    assert call("umount", str(target)).returncode == 0
    assert not target.exists()
    assert json.loads(call("mounts", "--format", "json").stdout) == []


def test_umount_takes_the_directory_that_mount_was_given(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    for given in ("m", f"{top}/m", "./m/"):
        target = call("mount", "app", given).stdout.decode().strip()
        assert Path(target, "dir/below").read_bytes() == b"b"
        done = call("umount", "m")
        assert (done.returncode, done.stdout.decode().strip()) == (0, target), done.stderr
        assert json.loads(call("mounts", "--format", "json").stdout) == []
    assert call("umount", "m").returncode == 3
    two = [call("mount", "app", "m").stdout.decode().strip() for _ in range(2)]  # each in a namespace of its own
    done = call("umount", "m")
    assert done.returncode == 5
    assert all(one in done.stderr.decode() for one in two)
    assert [call("umount", one).returncode for one in two] == [0, 0]
    (top / "file").touch()
    done = call("mount", "app", "file")
    assert (done.returncode, b"file: it is not a directory" in done.stderr) == (5, True)


def test_an_opaque_root_hides_all_layers_below_it(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    layers = [members(("old", b"hidden")), members(("new", b"seen"), (".wh..wh..opq", b"")), [("late", b"too")]]
    write_layout(top / "other", "other", layers, config={"config": {"Cmd": ["/bin/sh"]}})
    assert call("load", "-i", str(top / "other")).returncode == 0
    words = ("ls", "other", "/")
    listed = set(call(*words).stdout.decode().split())
    assert {"new", "late"} <= listed
    assert "old" not in listed
    target = call("mount", "other").stdout.decode().strip()
    assert set(os.listdir(target)) == listed
    done = call("run", "--rm", "--network", "none", "other", "sh", "-c", "cat /new /late; test ! -e /old")
    assert (done.returncode, done.stdout) == (0, b"seentoo"), done.stderr


def test_nothing_is_left_after_the_holder_is_killed(user: tuple[Path, PlainUser]) -> None:
    _, call = user
    target = call("mount", "app").stdout.decode().strip()
    holder = int(target.split("/")[2])
    assert "sleep" in Path(f"/proc/{holder}/comm").read_text()
    os.kill(holder, signal.SIGKILL)
    assert json.loads(call("mounts", "--format", "json").stdout) == []
    again = call("mount", "app").stdout.decode().strip()
    assert again != target
    assert call("umount", "--all").stdout.decode().strip() == again


def test_run_as_root_of_a_namespace(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    done = call("run", "--rm", "--network", "none", "app", "sh", "-c", "id; cat /old; cat /dir/below; exit 7")
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(b"uid=0")
    assert done.stdout.endswith(b"b")
    assert call("ps", "-aq").stdout == b""
    assert list((top / "store/containers").iterdir()) == []


def test_owners_are_kept_if_the_user_has_further_ids() -> None:
    with plain_user(PLAIN_USER) as (top, call):
        require_tool("newuidmap", "runc", "busybox")
        write_layout(top / "layout", "app", [members(), TOP])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        done = call(
            "run", "--rm", "--network", "none", "-u", "web", "app", "sh", "-c", "id; cat /data/secret; ls -ln /data"
        )
        assert done.returncode == 0, done.stderr
        assert b"uid=33(web) gid=44(web) groups=44(web),55(extra)\nonly mine" in done.stdout
        assert done.stdout.split()[-7:-5] == [b"33", b"44"]


def test_changes_are_seen_committed_and_removed(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    script = "rm -r /dir; mkdir /dir; echo new > /fixed/file; mkdir -m 700 /mine; echo x > /mine/x"
    done = call("run", "--name", "one", "--network", "none", "app", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    expected = ["C /dir", "D /dir/below", "C /fixed", "C /fixed/file", "A /mine", "A /mine/x"]
    assert call("diff", "one").stdout.decode().splitlines() == expected
    assert call("cp", "one:/mine/x", str(top / "got")).returncode == 0
    assert (top / "got").read_text() == "x\n"
    assert call("cp", str(top / "got"), "one:/mine/y").returncode == 0
    digests = {call("commit", "one", "app:2", SOURCE_DATE_EPOCH="1700000000").stdout for _ in range(2)}
    assert len(digests) == 1
    shown = call("cat", "app:2", "/mine/y", "/fixed/file")
    assert shown.stdout == b"x\nnew\n"
    listed = call("ls", "app:2", "/dir")
    assert (listed.returncode, listed.stdout) == (0, b"")
    stated = json.loads(call("stat", "app:2", "/mine", "--format", "json").stdout)[0]
    assert (stated["uid"], stated["mode"]) == (0, "0700")
    assert call("rm", "one").returncode == 0
    assert list((top / "store/containers").iterdir()) == []


def test_exec_cp_and_stop_while_it_runs(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    with call.started(
        "run", "--name", "long", "--network", "none", "app", "sh", "-c", "echo up; sleep 1000"
    ) as process:
        assert process.stdout.readline() == b"up\n"
        assert call("exec", "long", "sh", "-c", "echo in > /in; exit 3").returncode == 3
        assert call("cp", "long:/in", str(top / "out")).returncode == 0
        assert (top / "out").read_text() == "in\n"
        assert call("rm", "long").returncode != 0
        assert call("stop", "--time", "0.2", "long").returncode == 0
        assert process.wait() == 137
    assert call("rm", "long").returncode == 0


FURTHER = """
import os
from lamina.places import open_store
from lamina.run.child import Streams
from lamina.run.container.exec import execute
from lamina.run.container.user_namespace import enter
from lamina.run.options import ContainerOptions
store = open_store()
one = store.containers.get("long")
enter(store, one)
script = "trap 'exit 5' TERM; echo up; while true; do sleep 0.05; done"
for number in (15, 9):
    reading, writing = os.pipe()
    wanted = ContainerOptions(command=("sh", "-c", script))
    with execute(store, one, wanted, Streams(0, writing, 2, interactive=False)) as program:
        os.close(writing)
        os.read(reading, 100)
        program.signal(number)
        print(program.wait().code, os.read(reading, 100))
"""


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_a_further_program_is_signalled_and_waited_for(user: tuple[Path, PlainUser], runtime: str) -> None:
    require_tool(runtime)
    top, call = user
    words = ("run", "--name", "long", "--network", "none", "--runtime", runtime, "app")
    with call.started(*words, "sh", "-c", "echo up; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        program = [*call.drop, call.python, "-W", "ignore", "-c", FURTHER]
        done = subprocess.run(program, capture_output=True, env=call.environment, cwd=top, check=False)
        assert done.stdout == b"5 b''\n137 b''\n", done.stderr
        assert call("stop", "--time", "0.2", "long").returncode == 0


def test_cp_takes_host_paths_relative_to_the_working_directory(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    with call.started(
        "run", "--name", "long", "--network", "none", "app", "sh", "-c", "echo inner > /in; echo up; sleep 1000"
    ) as process:
        assert process.stdout.readline() == b"up\n"
        (top / "etc").mkdir()
        (top / "etc/passwd").write_text("of the working directory")
        os.chmod(top / "etc", 0o777)
        for words in (("long:/in", "out"), ("long:/in", "etc"), ("etc/passwd", "long:/got"), ("etc/.", "long:/all")):
            done = call("cp", *words)
            assert done.returncode == 0, done.stderr
        assert call("cp", "long:/in", ".").returncode == 0
        assert [(top / name).read_text() for name in ("out", "etc/in", "in")] == ["inner\n"] * 3
        shown = call("exec", "long", "cat", "/got", "/all/passwd", "/all/in").stdout
        assert shown == b"of the working directory" * 2 + b"inner\n"
        (top / "shut").mkdir(mode=0o700)  # root's
        command = [*call.drop, call.python, "-W", "ignore", "-m", "lamina", "cp", "long:/in"]
        for target, code in (("out2", 6), (f"{top}/etc/out2", 0)):
            done = subprocess.run(
                [*command, target], capture_output=True, env=call.environment, cwd=top / "shut", check=False
            )
            assert (done.returncode, done.stderr.count(b"\n")) == (code, int(code > 0)), done.stderr
        assert (top / "etc/out2").read_text() == "inner\n"
        assert not os.path.lexists("/out2")
        assert call("stop", "--time", "0.2", "long").returncode == 0


@pytest.mark.parametrize("killed", ["run --rm", "run", "monitor"])
def test_rm_force_removes_a_container_whose_lamina_was_killed(user: tuple[Path, PlainUser], killed: str) -> None:
    """`run --rm` is killed, which has no monitor; `run`, whose monitor goes on; or `run` and its monitor."""
    top, call = user
    sleep = f"sleep 987{os.getpid()}"
    flags = ["--rm"] if killed == "run --rm" else []
    script = f"echo up; {sleep}"
    with call.started("run", "--name", "lost", *flags, "--network", "none", "app", "sh", "-c", script) as process:
        assert process.stdout.readline() == b"up\n"
        process.kill()
        process.wait()
    if killed == "monitor":
        (record,) = (top / "store/containers").glob("*/container.json")
        monitor = json.loads(record.read_text())["pid"]
        os.kill(monitor, signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{monitor}"))
    assert b" Up " in call("ps").stdout  # the program still runs
    assert call("rm", "lost").returncode == 5
    done = call("exec", "lost", "sh", "-c", "echo in; exit 4")
    assert (done.returncode, done.stdout) == (4, b"in\n"), done.stderr
    done = call("cp", "lost:/etc/passwd", str(top / "passwd"))
    if killed == "run":
        assert (done.returncode, done.stderr) == (0, b"")
        assert (top / "passwd").read_bytes() == call("exec", "lost", "cat", "/etc/passwd").stdout != b""
        assert call("logs", "lost").stdout == b"up\n"
    else:  # who has mounted its files is gone
        assert (done.returncode, done.stderr.count(b"\n")) == (5, 1), done.stderr
        assert not (top / "passwd").exists()
    assert call("rm", "--force", "lost").returncode == 0
    assert subprocess.run(["pgrep", "-f", sleep], capture_output=True, check=False).stdout == b""
    assert list((top / "store/containers").iterdir()) == []


@pytest.mark.parametrize("remove", [True, False])
def test_the_next_run_clears_up_after_a_killed_lamina(user: tuple[Path, PlainUser], remove: bool) -> None:
    top, call = user
    more = ["--rm"] if remove else []
    script = "mkdir -m 700 /own; echo x > /own/x; echo up; sleep 986"
    with call.started("run", "--name", "lost", *more, "--network", "none", "app", "sh", "-c", script) as process:
        assert process.stdout.readline() == b"up\n"
        process.kill()
        process.wait()
    assert call("run", "--rm", "--network", "none", "app", "true").returncode == 0
    assert call("ps", "--format", "{{.State}}").stdout == b"running\n"
    assert call("stop", "-t", "0", "lost").returncode == 0
    done = call("run", "--rm", "--network", "none", "app", "true")
    assert (done.returncode, done.stderr) == (0, b"")
    assert call("ps", "-a", "--format", "{{.State}}").stdout == (b"" if remove else b"exited\n")
    assert call("rm", "--force", "--all").returncode == 0
    assert list((top / "store/containers").iterdir()) == []
    assert list((top / "store/lamina-runtime").iterdir()) == []


def test_files_of_other_ids_are_counted_and_removed() -> None:
    with plain_user(PLAIN_USER) as (top, call):
        require_tool("newuidmap", "runc", "busybox")
        write_layout(top / "layout", "app", [members(), TOP])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        mounted = call("mount", "app")
        assert mounted.returncode == 0, mounted.stderr
        assert call("umount", "--all").returncode == 0
        usage = json.loads(call("df", "--format", "json").stdout)
        on_disk = subprocess.run(
            ["find", top / "store", "-not", "-type", "d", "-printf", "%D %i %b\n"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        assert usage["total"] == sum(512 * int(line.split()[2]) for line in set(on_disk.splitlines()))
        assert call("rmi", "app").returncode == 0
        assert call("prune", "--force").returncode == 0
        assert list((top / "store/unions").iterdir()) == []


def test_limits_without_a_cgroup_are_refused(user: tuple[Path, PlainUser]) -> None:
    _, call = user
    done = call("run", "--rm", "--network", "none", "-m", "100m", "app", "true")
    assert done.returncode == 125
    assert b"can't be limited here" in done.stderr
    assert call("ps", "-aq").stdout == b""


def test_without_user_namespaces_there_is_one_error_line() -> None:
    require_tool("bwrap")
    with plain_user(PLAIN_USER) as (top, call):
        write_layout(top / "layout", "app", [[("a", b"1")]])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        inside = ("bwrap", "--dev-bind", "/", "/", "--unshare-user", "--disable-userns")
        for words, code in ((("mount", "--view", "overlay", "app"), 6), (("run", "--rm", "app", "true"), 125)):
            done = call(*words, before=inside)
            assert done.returncode == code, done.stderr
            assert done.stderr.startswith(b"lamina: can't create a user namespace: ")
            assert done.stderr.count(b"\n") == 1
        assert call("mounts", "--format", "json").stdout.strip() == b"[]"
        assert call("ps", "-aq").stdout == b""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], [(0, 1000, 1)]),
        ([(100000, 65536)], [(0, 1000, 1), (1, 100000, 65536)]),
        ([(100000, 10), (300000, 5)], [(0, 1000, 1), (1, 100000, 10), (11, 300000, 5)]),
    ],
)
def test_ids_are_mapped_to_the_given_ranges(
    given: list[tuple[int, int]], expected: list[tuple[int, int, int]]
) -> None:
    assert privileges.map_ranges(given, 1000) == expected


def test_fsck_checks_trees_that_only_their_root_can_read(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    assert call("mount", "app").returncode == 0
    assert call("umount", "--all").returncode == 0
    said = call("fsck")
    assert (said.returncode, said.stdout.count(b"\n")) == (0, 1), said
    (secret,) = top.glob("store/unions/*/tree*/data/secret")
    secret.write_bytes(b"0nly mine")
    said = call("fsck")
    assert (said.returncode, b"/data/secret has different content" in said.stdout) == (1, True)
    assert call("fsck", "--repair").returncode == 0
    assert not secret.exists()
    assert call("fsck").returncode == 0
    assert call("run", "--rm", "--network", "none", "app", "cat", "/data/secret").stdout == b"only mine"


def test_sizes_are_of_the_users_own_default_store(user: tuple[Path, PlainUser]) -> None:
    """Sizes need the IDs of a user namespace. The process is root in there, so the store is chosen before."""
    top, call = user
    home = {"LAMINA_ROOT": "", "HOME": str(top), "XDG_DATA_HOME": str(top / "data")}
    os.mkdir(top / "data")
    os.chown(top / "data", top.stat().st_uid, top.stat().st_gid)
    assert call("load", "-i", str(top / "layout"), **home).returncode == 0
    assert call("run", "--name", "job", "app", "sh", "-c", "echo 123 > /new", **home).returncode == 0
    done = call("ps", "-as", "--format", "{{.Names}} {{.Size}}", **home)
    assert (done.returncode, done.stdout.split()[0]) == (0, b"job"), done.stderr
    assert call("rm", "job", **home).returncode == 0
