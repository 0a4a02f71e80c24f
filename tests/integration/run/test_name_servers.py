"""Name servers and the network of a container on hosts with unusual settings."""

from __future__ import annotations

import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members
from lamina.run import network
from support import require_root, require_tool

HERE, ANSWER = "127.0.0.153", "192.0.2.7"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    require_root()
    require_tool("busybox", "unshare")
    return make_store(tmp_path, [members()])


def run(root: Path, before: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """`lamina run` after the shell's words ``before``, in its own mount namespace with an empty /run."""
    script = f'mount -t tmpfs none /run; {before}; exec "$@"'
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, "-m", "lamina", "--root", str(root)]
    return subprocess.run([*command, "run", "--rm", *words], capture_output=True, check=False)


@contextmanager
def name_server() -> Iterator[None]:
    """A name server on a loopback address of the host, with the same address for every name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.bind((HERE, 53))
        except OSError as error:
            pytest.skip(f"{HERE}: {error}")

        def serve() -> None:
            while True:
                query, who = one.recvfrom(512)
                if query == b"end":
                    return
                end = query.index(b"\0", 12) + 5
                known = query[end - 4 : end - 2] == b"\0\1"  # an IPv4 address is asked for
                found = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(ANSWER) if known else b""
                counts = struct.pack(">HHHH", 1, int(known), 0, 0)
                one.sendto(query[:2] + b"\x81\x80" + counts + query[12:end].join((b"", found)), who)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"end", (HERE, 53))
            thread.join()


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_pasta_forwards_to_name_servers_that_only_the_host_reaches(root: Path, tmp_path: Path, runtime: str) -> None:
    require_tool(runtime, "pasta")
    if reason := network.refusal():
        pytest.skip(reason)
    (tmp_path / "resolv").write_text(f"search lan\nnameserver {HERE}\n")
    script = "cat /etc/resolv.conf; busybox nslookup example.org"
    with name_server():
        before = f"mount --bind {tmp_path}/resolv /etc/resolv.conf"
        done = run(root, before, "--runtime", runtime, "app", "busybox", "sh", "-c", script)
    said = done.stdout.decode()
    assert said.startswith("search lan\nnameserver 169.254.1.1\n"), done.stderr
    assert f"Address: {ANSWER}" in said
    assert f"only this host reaches its name server ({HERE}): pasta forwards".encode() in done.stderr


def test_the_container_uses_the_servers_behind_systemd_resolved(root: Path, tmp_path: Path) -> None:
    require_tool("pasta")
    if reason := network.refusal():
        pytest.skip(reason)
    (tmp_path / "resolv").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "upstream").write_text("nameserver 10.1.2.3\n")
    before = f"mount --bind {tmp_path}/resolv /etc/resolv.conf; mkdir -p /run/systemd/resolve"
    before += f"; cp {tmp_path}/upstream /run/systemd/resolve/resolv.conf"
    done = run(root, before, "app", "cat", "/etc/resolv.conf")
    assert done.stdout == b"nameserver 10.1.2.3\n", done.stderr
    assert b"name server" not in done.stderr


def test_a_container_without_a_network_says_so_unless_that_was_asked_for(root: Path) -> None:
    hidden = f"mount --bind /dev/null {shutil.which('pasta')}" if shutil.which("pasta") else "true"
    devices = "ls /sys/class/net"
    done = run(root, hidden, "app", "sh", "-c", devices)
    assert done.stdout == b"lo\n", done.stderr
    line = b"lamina: warning: the container has no network: pasta is not installed: install the package passt\n"
    assert done.stderr.count(line) == 1
    assert line not in run(root, hidden, "--network", "none", "app", "true").stderr


def test_pasta_ends_with_its_network_at_once(tmp_path: Path) -> None:
    require_root()
    require_tool("pasta")
    if reason := network.refusal():
        pytest.skip(reason)
    made = network.Pasta(str(tmp_path))
    number = int((tmp_path / "pasta.pid").read_text())
    held = os.pidfd_open(number)
    try:
        assert network.end_pasta(str(tmp_path))  # whatever its program is called
        assert select.select([held], [], [], 30)[0] == [held]
    finally:
        os.close(held)
        made.close()
    assert os.listdir(tmp_path) in ([], ["pasta.pid"])
