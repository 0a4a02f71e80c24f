"""crun, the other OCI runtime. Debian's crun does not support hybrid cgroups, so these tests mount version 2 only."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members
from support import PLAIN_USER, lamina, plain_user, require_root, require_tool, write_layout

ONE_HIERARCHY = (
    "unshare",
    "--mount",
    "sh",
    "-ec",
    'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"',
    "sh",
)
WORDS = ("run", "--rm", "--network", "none", "--runtime", "crun")


@pytest.fixture(autouse=True)
def _tools() -> None:
    require_root()
    require_tool("crun", "busybox", "unshare")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("sh", "-c", "test $(id -u) = 0"), 0),
        (("sh", "-c", "exit 7"), 7),
        (("nothing-here",), 127),
        (("/etc/passwd",), 126),
        (("/bin",), 126),
    ],
)
def test_exit_codes(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    store = make_store(tmp_path, [members()])
    done = subprocess.run(
        [*ONE_HIERARCHY, sys.executable, "-m", "lamina", "--root", store, *WORDS, "app", *words],
        capture_output=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert os.listdir(store / "containers") == []


def test_a_program_outlives_its_killed_lamina_and_has_none_of_its_descriptors(tmp_path: Path) -> None:
    store = make_store(tmp_path, [members()])
    script = "ls /proc/self/fd; echo up; exec sleep 600"
    words = ("run", "--name", "c", "--network", "none", "--runtime", "crun", "app", "sh", "-c", script)
    command = [*ONE_HIERARCHY, sys.executable, "-m", "lamina", "--root", str(store), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(5)] == [b"0\n", b"1\n", b"2\n", b"3\n", b"up\n"]
        process.kill()
    assert lamina("ps", "--format", "{{.Name}} {{.State}}", root=store).stdout == b"c running\n"
    assert lamina("rm", "c", root=store).returncode == 5
    assert lamina("rm", "--force", "c", root=store).returncode == 0
    assert os.listdir(store / "containers") == []
    assert lamina("prune", root=store).returncode == 0


@pytest.mark.parametrize("more", [(), ("--read-only",), ("--userns", "auto"), ("--cap-add", "ALL")])
def test_no_device_of_the_host_can_be_read(tmp_path: Path, more: tuple[str, ...]) -> None:
    """No cgroup guards devices here, and crun mounts the root file system again, without nodev."""
    image = tmp_path / "disk"
    image.write_bytes(b"secret".ljust(1 << 20, b"\0"))
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=True)
    device = made.stdout.strip()
    try:
        state = os.stat(device)
        number = os.major(state.st_rdev), os.minor(state.st_rdev)
        node = ("in-image", f"c {number[0]} {number[1]}", {"type": b"4", "mode": 0o666})
        store = make_store(tmp_path, [members(node)])
        (tmp_path / "volume").mkdir()
        os.mknod(tmp_path / "volume/device", 0o666 | stat.S_IFBLK, os.makedev(*number))
        script = f"mknod /d b {number[0]} {number[1]}; for one in /in-image /v/device /d; do head -c 6 $one; done"
        words = (*WORDS, *more, "-v", f"{tmp_path}/volume:/v", "app", "sh", "-c", script)
        done = subprocess.run(
            [*ONE_HIERARCHY, sys.executable, "-m", "lamina", "--root", store, *words],
            capture_output=True,
            check=False,
        )
        assert done.stdout == b"", done.stderr
        assert done.stderr.count(b"/in-image") == 1
        assert done.stderr.count(b"/v/device") == 1
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize("userns", ["host", "keep-id"])
def test_as_a_plain_user(userns: str) -> None:
    with plain_user(PLAIN_USER) as (top, call):
        write_layout(top / "layout", "app", [members()])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        command = [*ONE_HIERARCHY, *call.drop, call.python, "-W", "ignore", "-m", "lamina", *WORDS]
        done = subprocess.run(
            [*command, "--userns", userns, "-u", "web", "app", "sh", "-c", "id; exit 3"],
            capture_output=True,
            env=call.environment,
            cwd=top,
            check=False,
        )
        first, _, groups = done.stdout.strip().partition(b" groups=")
        assert (done.returncode, first) == (3, b"uid=33(web) gid=44(web)"), done.stderr
        assert len(groups.split(b",")) == (3 if userns == "keep-id" else 2)  # the caller keeps its group


def test_hybrid_cgroups_are_one_error_line(tmp_path: Path) -> None:
    controllers = Path("/sys/fs/cgroup/unified/cgroup.controllers")
    if not (controllers.exists() and controllers.read_text().strip()):
        pytest.skip("this host's cgroups are of one version")
    store = make_store(tmp_path, [members()])
    done = lamina("run", "--rm", "--network", "none", "app", "true", root=store, LAMINA_RUNTIME="crun")
    said = "lamina: crun can't run here: this host's cgroups are of both versions, with controllers in version 2"
    assert (done.returncode, done.stderr.decode().partition(" (")[0]) == (125, said)
    done = lamina("run", "--rm", "--runtime", "runc", "app", "true", root=store, LAMINA_RUNTIME="crun")
    assert done.returncode == 0, done.stderr
