"""What the program of a virtual machine sees, how it ends, and the verbs that reach it while it runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from integration.run.test_machine import _tools, boot, eventually, machines, root  # noqa: F401  (fixtures)
from lamina.run.machine.ends import reason_for
from lamina.run.machine.entering import entering
from support import lamina

pytestmark = pytest.mark.usefixtures("_tools")


def test_a_plain_user_is_process_1_and_reaches_nothing_of_lamina(root: Path) -> None:  # noqa: F811
    script = """echo $$; grep -E '^(Groups|SigIgn):' /proc/self/status | tr -s '\\t ' ' '; umask; pwd
cat /dev/stdin; echo again >/dev/stdout; ls /proc/self/fd | tr '\\n' ' '; ls -d /lamina /run/lamina
for one in /dev/vport* /dev/vd*; do (echo x >$one) 2>/dev/null && echo written; done
stat -c %a /dev/full /dev/mqueue"""
    words = ["-i", "-u", "7:8", "--group-add", "9", "-w", "/new/dir"]
    done = boot(root, "--rm", *words, "app", "sh", "-c", script, input=b"typed\n")
    lines = done.stdout.decode().splitlines()
    assert lines[:3] == ["1", "Groups: 8 9 ", "SigIgn: 0000000000000000"], done
    assert lines[3:7] == ["0022", "/new/dir", "typed", "again"]
    assert lines[7:] == ["0 1 2 3 666", "1777"]  # 3 is of ls
    assert done.stderr.count(b"No such file") == 2


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60", 125, b"Kernel panic"),
        ("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", 137, b"too little memory (Out of memory: Killed process"),
        ("head -c 3000000 /dev/zero; (while :; do echo x; done) & exit 4", 4, b""),
    ],
)
def test_ends(root: Path, script: str, code: int, message: bytes) -> None:  # noqa: F811
    done = boot(root, "--name", "vm", "-m", "128m", "app", "sh", "-c", script)
    assert done.returncode == code, done
    assert message in done.stderr
    assert done.stderr.count(b"\n") == bool(message)
    if code == 4:
        assert done.stdout[:3000000] == bytes(3000000)
    (found,) = json.loads(lamina("inspect", "vm", root=root).stdout)
    assert (found["State"]["ExitCode"], found["State"]["OOMKilled"]) == (code, code == 137)


def test_verbs_of_a_running_machine(root: Path) -> None:  # noqa: F811
    script = "trap 'echo usr1' USR1; trap '' TERM; echo up; while :; do sleep 0.05; done"
    done = lamina("boot", "--kernel", kernel(), "-d", "--name", "vm", "app", "sh", "-c", script, root=root)
    assert done.returncode == 0
    assert (b"emulation" in done.stderr) == (b"-accel\0tcg" in command_of(root))
    eventually(lambda: lamina("logs", "vm", root=root).stdout == b"up\n")
    assert lamina("kill", "-s", "USR1", "vm", root=root).returncode == 0
    eventually(lambda: lamina("logs", "vm", root=root).stdout == b"up\nusr1\n")
    for words, said in (
        (("exec", "vm", "true"), b"can't reach into the virtual machine vm"),
        (("top", "vm"), b"can't reach into the virtual machine vm"),
        (("update", "--memory", "1g", "vm"), b"can't be changed while it runs"),
    ):
        done = lamina(*words, root=root)
        assert done.returncode != 0
        assert said in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert lamina("pause", "vm", root=root).returncode == 0
    assert b"Paused" in lamina("ps", root=root).stdout
    assert lamina("unpause", "vm", root=root).returncode == 0
    assert lamina("unpause", "vm", root=root).returncode != 0
    assert lamina("kill", "-s", "USR1", "vm", root=root).returncode == 0
    eventually(lambda: lamina("logs", "vm", root=root).stdout == b"up\nusr1\nusr1\n")
    assert lamina("stop", "-t", "0", "vm", root=root).returncode == 0
    assert lamina("wait", "vm", root=root).stdout == b"137\n"
    assert machines(root) == []


def kernel() -> str:
    from kernel_package import kernel_path

    return str(kernel_path())


def command_of(root: Path) -> bytes:  # noqa: F811
    (pid,) = machines(root)
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_program_of_system_calls(tmp_path: Path) -> None:
    for words, code, said in (
        (["/bin/sh", "-c", "id -u; id -g; id -G; pwd; exit 5"], 5, b"7\n8\n8 9 70000\n/usr\n"),
        (["/nowhere"], 127, b"no way\n"),
        (["/etc/passwd"], 126, b"no way\n"),
    ):
        path = tmp_path / "enter"
        path.write_bytes(entering("amd64", uid=7, gid=8, groups=(8, 9, 70000), cwd=b"/usr", message=b"no way\n"))
        path.chmod(0o755)
        done = subprocess.run([path, *words], capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (code, said)


def relayed(bundle: Path, command: list[str], words: list[str], more: str = "") -> subprocess.CompletedProcess[str]:
    """A relay whose QEMU is another program; what it tells its caller, and its exit code, are on standard output."""
    program = f"""import os, sys
from lamina.run.machine.relay import Launch, Relay
held = os.open("/dev/null", os.O_RDONLY)
launch = Launch({command}, lambda *_: {words}, sys.argv[1], False, held=held, {more})
print(Relay(launch, lambda reason: print(reason, flush=True)).run())"""
    words = [sys.executable, "-c", program, str(bundle)]
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)


def test_a_kvm_that_runs_nothing_is_left(tmp_path: Path) -> None:
    done = relayed(tmp_path, ["/bin/sleep"], ["600"], 'emulated=["/bin/true"], patience=0.2')
    assert done.stderr == "lamina: KVM has run nothing in 0.2 seconds: the machine runs by emulation\n"
    assert done.stdout == "the machine ended before the program started: it was reset\n125\n"


def test_a_signal_before_the_start_ends_the_machine(tmp_path: Path) -> None:
    done = relayed(tmp_path, ["/bin/sh"], ["-c", "kill -TERM $PPID; exec sleep 600"])
    assert done.stdout == f"the machine was stopped before the program started\n{128 + signal.SIGTERM}\n", done.stderr


@pytest.mark.parametrize(
    ("status", "console", "why"),
    [
        (0, "x\r\n[ 3.1] reboot: Power down\r\n", ""),
        (0, "[1] Kernel panic - not syncing: no init ---\nCPU: 0", "Kernel panic - not syncing: no init"),
        (0, "", "it was reset"),
        (-9, "x", "QEMU was killed by signal 9"),
        (0, "[2] Out of memory: Killed process 3 (a b) total-vm:5kB", "Out of memory: Killed process 3 (a b)"),
    ],
)
def test_why_a_machine_has_ended(status: int, console: str, why: str) -> None:
    assert reason_for(status, console, "") == why
