"""The network of virtual machines: what they reach, and what reaches them, as of containers."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.run.test_machine import _tools, boot, eventually, root  # noqa: F401  (fixtures)
from support import free_port, lamina, require_tool

pytestmark = pytest.mark.usefixtures("_tools")

PLACES = ("/usr/lib/podman", "/usr/libexec/podman")
SERVE = "serve() { while :; do echo $1 | busybox nc -l -p $1; done; }\n"


@contextmanager
def listening(address: str) -> Iterator[int]:
    """A server that greets whoever connects; its port."""
    with socket.create_server((address, 0)) as server:

        def greet() -> None:
            while True:
                try:
                    with server.accept()[0] as one:
                        one.sendall(b"host\n")
                except OSError:
                    return

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def require_netavark() -> None:
    if not any(os.access(f"{place}/netavark", os.X_OK) for place in PLACES):
        require_tool("netavark")


def told(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        try:
            return connection.recv(100)
        except OSError:
            return b""


def test_the_hosts_loopback_is_out_of_reach_and_ports_are_published(root: Path) -> None:  # noqa: F811
    require_tool("pasta")
    port = free_port()
    words = ["-p", f"127.0.0.1:{port}:80", "-p", "127.0.0.1::81/udp", "--expose", "82", "-P", "--dns", "192.0.2.53"]
    script = """ip route | grep default; cat /etc/resolv.conf
gateway=$(ip route | busybox awk '/default/ { print $3 }')
busybox timeout 10 nc $gateway INSIDE </dev/null || echo closed
busybox timeout 10 nc this OUTSIDE </dev/null
serve 80 & serve 82 & echo up; wait"""
    with listening("127.0.0.1") as inside, listening("0.0.0.0") as outside:
        script = SERVE + script.replace("INSIDE", str(inside)).replace("OUTSIDE", str(outside))
        words += ["--add-host", "this:host-gateway"]
        done = boot(root, "-d", "--name", "vm", *words, "app", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        eventually(lambda: lamina("logs", "vm", root=root).stdout.endswith(b"up\n"))
    lines = lamina("logs", "vm", root=root).stdout.decode().splitlines()
    assert lines[0].startswith("default via ")
    assert lines[1:] == ["nameserver 192.0.2.53", "closed", "host", "up"]
    (found,) = json.loads(lamina("inspect", "vm", root=root).stdout)
    ports = found["NetworkSettings"]["Ports"]
    assert ports["81/udp"][0]["HostIp"] == "127.0.0.1"
    assert ports["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(port)}]
    eventually(lambda: told(port) == b"80\n")
    eventually(lambda: told(int(ports["82/tcp"][0]["HostPort"])) == b"82\n")
    other = boot(root, "--name", "other", "-p", f"127.0.0.1:{port}:80", "app", "true")
    assert (other.returncode, b"it is in use" in other.stderr) == (125, True)
    assert b"that is a virtual machine" in lamina("run", "--network", "container:vm", "app", root=root).stderr
    assert lamina("restart", "-t", "0", "vm", root=root).returncode == 0
    eventually(lambda: told(port) == b"80\n")


def test_a_network_with_a_name(root: Path) -> None:  # noqa: F811
    require_netavark()
    assert lamina("network", "create", "net", root=root).returncode == 0
    serving = ("-d", "--network", "net", "--name", "peer", "app", "sh", "-c", SERVE + "serve 90")
    assert lamina("run", *serving, root=root).returncode == 0
    script = SERVE + "busybox timeout 10 nc peer 90 </dev/null; serve 91 & serve 92 & echo up; wait"
    words = ("-d", "--network", "net", "--name", "vm", "--expose", "91", "app", "sh", "-c", script)
    done = boot(root, *words)
    assert done.returncode == 0, done.stderr
    eventually(lambda: lamina("logs", "vm", root=root).stdout.endswith(b"up\n"))
    assert lamina("logs", "vm", root=root).stdout == b"90\nup\n"
    script = "busybox timeout 10 nc vm 91 </dev/null; busybox timeout 10 nc vm 92 </dev/null || echo closed"
    words = ("--rm", "--network", "net", "app", "sh", "-c", script)
    eventually(lambda: lamina("run", *words, root=root).stdout == b"91\nclosed\n")
    assert lamina("rm", "-f", "-t", "0", "vm", "peer", root=root).returncode == 0
    assert lamina("network", "rm", "net", root=root).returncode == 0


def test_no_network(root: Path) -> None:  # noqa: F811
    done = boot(root, "--rm", "--network", "none", "app", "sh", "-c", "ls /sys/class/net; cat /etc/resolv.conf")
    assert (done.returncode, done.stdout) == (0, b"lo\n"), done
