"""Machines under what a stranger does: signals while they start, odd environments, hostile files of an image."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_machine import boot, eventually, machines
from integration.run.test_run import make_store, members, mounts_of
from kernel_package import kernel_path, kernel_tree
from support import busybox, lamina, require_root, running


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("more", [("--rm",), ("-d",)])
def test_a_signal_while_it_starts_ends_the_machine(root: Path, number: int, more: tuple[str, ...]) -> None:
    words = ("boot", "-q", "--kernel", str(kernel_path()), "--name", "vm", *more, "app", "sleep", "600")
    with running(*words, root=root) as process:
        eventually(lambda: machines(root))
        for _ in range(20):  # who waits presses the keys again
            process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.read().strip() == b"lamina: interrupted"
        assert process.wait(30) == 130
    assert machines(root) == []
    names = b"" if "--rm" in more else b"vm created\n"
    assert lamina("ps", "-a", "--format", "{{.Names}} {{.State}}", root=root).stdout == names


def test_files_of_etc_that_are_symlinks_to_what_is_missing(tmp_path: Path) -> None:
    """systemd's resolv.conf is one: as in a container, the target is made, and is no change of the image."""
    links = {"etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf", "etc/hosts": "/nowhere/hosts"}
    root = make_store(tmp_path, [members(), [(name, f"-> {target}") for name, target in links.items()]])
    done = boot(root, "--name", "vm", "--add-host", "h:192.0.2.1", "app", "cat", *(f"/{name}" for name in links))
    assert (done.returncode, done.stderr) == (0, b""), done
    assert b"nameserver" in done.stdout
    assert b"192.0.2.1\th" in done.stdout
    assert lamina("diff", "vm", root=root).stdout == b""
    lamina("rm", "-f", "vm", root=root)


def test_a_file_of_etc_that_can_not_be_mounted_is_one_clear_line(tmp_path: Path) -> None:
    root = make_store(tmp_path, [members(), [("etc/hosts/", None)]])
    done = boot(root, "--name", "vm", "app", "true")
    assert done.returncode == 125
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"lamina: vm: /etc/hosts can't be mounted in the machine (check the options; ")
    assert line.endswith(b"/bundle has more in console.log and qemu.log)")
    lamina("rm", "-f", "vm", root=root)


def test_a_program_in_a_mount_gets_variables_whose_names_begin_with_a_dash(root: Path, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/env").write_bytes(busybox())
    (tmp_path / "tools/env").chmod(0o755)
    words = ("-v", f"{tmp_path}/tools:/tools:ro", "-e", "-u=1", "-e", "--help=2", "-e", "-=3")
    done = boot(root, "--rm", *words, "app", "/tools/env")
    assert {b"-u=1", b"--help=2", b"-=3"} <= set(done.stdout.splitlines()), done
    done = boot(root, "--rm", *words, "app", "/tools/none")
    assert (done.returncode, done.stderr.count(b"\n")) == (127, 1)


def test_a_file_system_without_room_for_a_machine(tmp_path: Path) -> None:
    root = make_store(tmp_path, [members()])
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", place], check=True)
    try:
        shutil.copytree(root, place / "store", symlinks=True)
        room = os.statvfs(place)
        (place / "more").write_bytes(bytes(room.f_bavail * room.f_frsize - (1 << 20)))
        done = boot(place / "store", "--rm", "app", "true")
        assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
        assert b"/bundle: the disk is full" in done.stderr
        assert list((place / "store/containers").iterdir()) == []
    finally:
        subprocess.run(["umount", place], check=True)
