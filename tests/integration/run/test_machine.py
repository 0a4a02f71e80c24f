"""Images as virtual machines: QEMU with Debian's kernel, by emulation where the host has no KVM that runs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members, mounts_of
from kernel_package import kernel_path, kernel_tree
from lamina.store.store import Store
from support import lamina, require_root, running

LISTEN = "while :; do echo hello | busybox nc -l -p 80; done"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    kernel_tree()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = make_store(tmp_path, [members()])
    yield root
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []
    eventually(lambda: not machines(root))


def machines(root: Path) -> list[int]:
    """The pids of QEMU's processes for this store."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                words = Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(b"/usr/bin/qemu-system") and os.fsencode(root) in words:
                found.append(int(entry.name))
    return found


def eventually(check: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def boot(root: Path, *words: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    return lamina("boot", "-q", "--kernel", str(kernel_path()), *words, root=root, **more)  # type: ignore[arg-type]


def test_streams_and_exit_code(root: Path) -> None:
    script = "echo out; echo err >&2; cat; exit 7"
    done = boot(root, "--rm", "-i", "app", "sh", "-c", script, input=b"typed\n" * 1000)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n" + b"typed\n" * 1000, b"err\n")
    assert Store.open(str(root)).containers.scan() == ([], [])


def test_the_program_has_what_was_asked_for(root: Path) -> None:
    words = ["-e", 'A=it\'s "x" $y', "-w", "/tmp", "-u", "7:8", "--hostname", "box", "--add-host", "h:192.0.2.1"]
    script = 'echo "$A"; pwd; id -u; id -g; hostname; cat /etc/hosts; ls -l /dev/stdout; echo again >/dev/stdout'
    done = boot(root, "--rm", *words, "app", "sh", "-c", script)
    lines = done.stdout.decode().splitlines()
    assert lines[:5] == ['it\'s "x" $y', "/tmp", "7", "8", "box"], done
    assert "192.0.2.1\th" in lines
    assert lines[-1] == "again"


def test_verbs_of_containers(root: Path) -> None:
    script = "trap 'echo stopped; exit 5' TERM; echo up; sleep 600 & wait"
    done = boot(root, "-d", "--name", "vm", "app", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    eventually(lambda: lamina("logs", "vm", root=root).stdout == b"up\n")
    (row,) = json.loads(lamina("ps", "--format", "json", root=root).stdout)
    assert (row["State"], row["Names"]) == ("running", ["vm"])
    assert lamina("stop", "vm", root=root).returncode == 0
    assert lamina("wait", "vm", root=root).stdout == b"5\n"
    assert lamina("logs", "vm", root=root).stdout == b"up\nstopped\n"
    assert machines(root) == []
    assert lamina("start", "vm", root=root).returncode == 0
    assert lamina("rm", "-f", "vm", root=root).returncode == 0


def test_changes_are_kept_and_become_an_image(root: Path) -> None:
    before = digests(root)
    script = "echo new >/etc/new; rm /etc/passwd; chown 5:6 /etc/new; chmod 640 /etc/new"
    assert boot(root, "--name", "vm", "app", "sh", "-c", script).returncode == 0
    assert lamina("diff", "vm", root=root).stdout.split(b"\n")[:3] == [b"C /etc", b"A /etc/new", b"D /etc/passwd"]
    assert lamina("commit", "vm", "mine", root=root).returncode == 0
    assert lamina("cat", "mine", "/etc/new", root=root).stdout == b"new\n"
    assert b"5:6" in lamina("ls", "-l", "mine", "/etc/new", root=root).stdout
    assert lamina("cat", "mine", "/etc/passwd", root=root).returncode != 0
    again = lamina("start", "-a", "vm", root=root)  # with the same disk
    assert b"can't remove '/etc/passwd'" in again.stderr
    assert digests(root).items() >= before.items()


def digests(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.glob("layers/sha256/*/tar")}


def test_many_layers_are_joined(tmp_path: Path) -> None:
    layers = [[("bin/", None), *members()]] + [[(f"l{number}", b"%d\n" % number)] for number in range(60)]
    root = make_store(tmp_path, layers)
    done = boot(root, "--rm", "app", "sh", "-c", "cat /l0 /l31 /l59; ls -d /l* | wc -l")
    assert done.stdout == b"0\n31\n59\n60\n", done
    lamina("rm", "-af", root=root)


def test_shared_directories(root: Path, tmp_path: Path) -> None:
    shared = tmp_path / "a b"
    shared.mkdir()
    (shared / "host").write_text("from the host\n")
    words = ["-v", f"{shared}:/rw", "-v", f"{shared}:/r o:ro", "-v", "named:/etc", "--tmpfs", "/t"]
    script = "cat '/r o/host'; echo guest >/rw/guest; touch '/r o/x' 2>/dev/null || echo refused"
    script += "; ls /etc/passwd; touch /t/x"
    done = boot(root, "--name", "vm", *words, "app", "sh", "-c", script)
    assert done.stdout == b"from the host\nrefused\n/etc/passwd\n", done
    assert (shared / "guest").read_text() == "guest\n"
    assert lamina("diff", "vm", root=root).stdout == b""


def test_published_ports(root: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    done = boot(root, "-d", "--name", "vm", "-p", f"127.0.0.1:{port}:80", "app", "sh", "-c", f"echo up; {LISTEN}")
    assert done.returncode == 0, done.stderr
    assert lamina("port", "vm", root=root).stdout == f"80/tcp -> 127.0.0.1:{port}\n".encode()

    def answers() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            try:
                return connection.recv(100) == b"hello\n"
            except OSError:
                return False

    eventually(answers)
    done = boot(root, "--name", "other", "-p", f"127.0.0.1:{port}:80", "app", "true")
    assert done.returncode == 125
    assert b"in use" in done.stderr


def test_two_machines_share_the_layers(root: Path) -> None:
    for name in ("a", "b"):
        assert boot(root, "-d", "--name", name, "app", "sleep", "600").returncode == 0
    opened = [{os.readlink(one.path) for one in os.scandir(f"/proc/{pid}/fd")} for pid in machines(root)]
    assert len(opened) == 2
    tars = [{path for path in one if path.endswith("/tar")} for one in opened]
    assert tars[0] == tars[1] != set()


def test_the_end_from_inside(root: Path) -> None:
    assert boot(root, "--rm", "app", "busybox", "poweroff", "-f").returncode == 0


def test_a_killed_command_and_monitor_leave_nothing(root: Path) -> None:
    words = ("boot", "-q", "--kernel", str(kernel_path()), "--name", "vm", "app", "sh", "-c", "echo up; sleep 600")
    with running(*words, root=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGKILL)
    record = Store.open(str(root)).containers.get("vm")
    os.kill(record.pid, signal.SIGKILL)
    assert lamina("rm", "-f", "vm", root=root).returncode == 0
    eventually(lambda: not machines(root))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("app", "true"), 125, b"the image app has no kernel"),
        (("--kernel", "/etc/passwd", "app", "true"), 125, b"is not a kernel image"),
        (("--kernel", "/nowhere/vmlinuz", "app", "true"), 125, b"vmlinuz"),
        (("--kernel", "KERNEL", "app", "no-such"), 127, b"no program 'no-such'"),
        (("--kernel", "KERNEL", "-m", "8m", "app", "true"), 125, b"96 MiB"),
        (("--kernel", "KERNEL", "-m", "1000000g", "app", "true"), 125, b"memory"),
        (("--kernel", "KERNEL", "--network", "host", "app", "true"), 125, b"a virtual machine has no --network host"),
        (("--kernel", "KERNEL", "--machine", "nonsense", "app", "true"), 125, b"nonsense"),
        (
            ("--kernel", "KERNEL", "--append", "rdinit=/nowhere", "app", "true"),
            125,
            b"before the program",
        ),
    ],
)
def test_refusals(root: Path, words: tuple[str, ...], code: int, message: bytes) -> None:
    given = [str(kernel_path()) if word == "KERNEL" else word for word in words]
    done = lamina("boot", "-q", "--rm", *given, root=root)
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert Store.open(str(root)).containers.scan() == ([], [])


def test_an_image_with_its_kernel(tmp_path: Path) -> None:
    """The kernel is a layer, as its package has it; the modules say what they need."""
    root = make_store(tmp_path, [members()])
    assert lamina("append", "app", f"{kernel_tree()}:/", "-t", "whole", root=root).returncode == 0
    done = lamina("boot", "-q", "--rm", "whole", "sh", "-c", "uname -r; exit 3", root=root)
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout.decode().strip() == kernel_path().name.removeprefix("vmlinuz-")
    lamina("rm", "-af", root=root)
