"""The process that forwards published ports, with real sockets and a network namespace instead of a container."""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.errors import Conflict, SystemFailure, Unsupported, UsageError
from lamina.run.network import NetworkNamespace
from lamina.run.options import Port
from lamina.run.published import forwarder
from lamina.run.published.forwarder import close_left, publish
from lamina.run.published.syntax import parse_published
from support import require_root, require_tool

SERVER = """\
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[3] == "udp" else socket.SOCK_STREAM
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.socket(family, kind)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[2])))
if kind == socket.SOCK_STREAM:
    server.listen()
print("up", flush=True)
while kind == socket.SOCK_DGRAM:
    data, client = server.recvfrom(65535)
    server.sendto(data[::-1], client)
while True:
    one, _ = server.accept()
    data = b""
    while more := one.recv(1 << 16):
        data += more
    one.sendall(data[::-1])
    one.close()
"""
"""Answers what it gets, backwards: over tcp when the client has ended its side."""


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Path]:
    require_root()
    require_tool("unshare", "nsenter", "ip")
    namespace = NetworkNamespace(str(tmp_path))
    entered("ip", "link", "set", "lo", "up", path=tmp_path).wait()
    try:
        yield tmp_path
    finally:
        close_left(str(tmp_path))
        namespace.close()


def entered(*words: str, path: Path, **more: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["nsenter", f"--net={path}/netns", *words], **more)


@contextmanager
def serving(bundle: Path, address: str, port: int, protocol: str = "tcp") -> Iterator[None]:
    words = (sys.executable, "-c", SERVER, address, str(port), protocol)
    with entered(*words, path=bundle, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            yield
        finally:
            process.kill()


def asked(address: str, port: int, data: bytes = b"hello") -> bytes:
    with socket.create_connection((address, port), 10) as one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        found = b""
        while more := one.recv(1 << 16):
            found += more
        return found


def asked_by_datagram(address: str, port: int, data: bytes = b"hello") -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.settimeout(10)
        one.connect((address, port))  # an answer from another address is refused
        one.send(data)
        return one.recv(1 << 16)


def published(bundle: Path, *words: str) -> list[int]:
    """Publish these ports; the host's ports."""
    found = publish(parse_published(words), str(bundle), f"{bundle}/netns")
    return list(dict.fromkeys(one.host_port for one in found))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("server", ["0.0.0.0", "::"])
def test_connections_and_datagrams_reach_the_container(bundle: Path, server: str, address: str) -> None:
    tcp, udp = published(bundle, "80", "81/udp")
    with serving(bundle, server, 80), serving(bundle, server, 81, "udp"):
        assert asked(address, tcp) == b"olleh"
        assert asked_by_datagram(address, udp) == b"olleh"
        # an address of this host that is not the first one of its interface: the answer comes from it
        if address == "127.0.0.1":
            assert asked_by_datagram("127.0.0.77", udp, b"x" * 5000) == b"x" * 5000


def test_large_data_in_both_directions_at_once_and_many_connections(bundle: Path) -> None:
    (port,) = published(bundle, "80")
    found: dict[int, bool] = {}

    def ask(number: int) -> None:
        data = os.urandom(2_000_000 + number)
        found[number] = asked("127.0.0.1", port, data) == data[::-1]

    with serving(bundle, "0.0.0.0", 80):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == dict.fromkeys(range(12), True)


def test_a_client_that_does_not_read_does_not_stop_others(bundle: Path) -> None:
    (port,) = published(bundle, "80")
    sender = "import socket; s = socket.create_server(('', 80)); print('up', flush=True)\nwhile True:\n"
    sender += (
        " c, _ = s.accept(); import threading; threading.Thread(target=c.sendall, args=(b'x' * 50_000_000,)).start()"
    )
    with entered(sys.executable, "-c", sender, path=bundle, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            with socket.create_connection(("127.0.0.1", port), 10) as idle:
                assert idle.recv(1) == b"x"
                with socket.create_connection(("127.0.0.1", port), 10) as other:
                    left = 10_000_000
                    while left > 0:
                        left -= len(other.recv(1 << 20))
        finally:
            process.kill()


def test_a_client_with_many_ports_does_not_keep_others_out(bundle: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))  # a shell's: the process takes more
    try:
        (port,) = published(bundle, "127.0.0.1::7000/udp")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with serving(bundle, "127.0.0.1", 7000, "udp"):
        for number in range(5000):
            assert asked_by_datagram("127.0.0.1", port, b"%d" % number) == (b"%d" % number)[::-1]


def test_a_port_without_a_server_refuses(bundle: Path) -> None:
    (port,) = published(bundle, "80")
    with pytest.raises(OSError):
        if asked("127.0.0.1", port) == b"":
            raise ConnectionResetError
    with serving(bundle, "0.0.0.0", 80):  # it comes later
        assert asked("127.0.0.1", port) == b"olleh"


def test_a_server_on_the_containers_loopback_is_not_published(bundle: Path) -> None:
    entered("ip", "address", "add", "198.51.100.9/32", "dev", "lo", path=bundle).wait()
    (port,) = published(bundle, "80")
    with serving(bundle, "127.0.0.1", 80), pytest.raises(OSError):
        if asked("127.0.0.1", port) == b"":
            raise ConnectionResetError
    with serving(bundle, "198.51.100.9", 80):
        assert asked("127.0.0.1", port) == b"olleh"


def test_ports_bind_to_what_was_said(bundle: Path) -> None:
    (port,) = published(bundle, "127.0.0.2::80", "127.0.0.2:0:81/udp")[:1]
    with serving(bundle, "0.0.0.0", 80):
        assert asked("127.0.0.2", port) == b"olleh"
        for other in ("127.0.0.1", "::1"):
            with pytest.raises(ConnectionRefusedError):
                asked(other, port)


def test_a_port_in_use_is_said_and_leaves_nothing(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(Conflict, match=rf"port {number}/tcp of 0\.0\.0\.0 can't be published: it is in use"):
            published(bundle, f"{number}:80")
        with pytest.raises(Conflict, match=f"no port {number}-{number} is free"):
            publish([Port(80, number, "127.0.0.1", "tcp", number)], str(bundle), f"{bundle}/netns")
    assert published(bundle, f"{number}:80") == [number]


def test_other_failures_are_said(bundle: Path) -> None:
    with pytest.raises(UsageError, match="this host does not have this address"):
        published(bundle, "198.51.100.77:8080:80")
    with pytest.raises(Unsupported, match="only tcp and udp"):
        published(bundle, "8080:80/sctp")
    with pytest.raises(SystemFailure, match="nothing"):
        publish(parse_published(["80"]), str(bundle), f"{bundle}/nothing")
    with pytest.raises(SystemFailure, match="ports can't be forwarded"):
        publish(parse_published(["80"]), str(bundle), "/dev/null")
    assert published(bundle, "80") != []


def test_its_end_frees_the_ports_and_it_survives_its_starter(bundle: Path) -> None:
    script = "import sys; from lamina.run.published.forwarder import publish; "
    script += "from lamina.run.published.syntax import parse_published as parse; "
    script += "print(publish(parse(['80']), sys.argv[1], sys.argv[1] + '/netns')[0].host_port)"
    done = subprocess.run([sys.executable, "-c", script, str(bundle)], capture_output=True, check=True)
    port = int(done.stdout)
    pid = int((bundle / "ports").read_text())
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
    with serving(bundle, "0.0.0.0", 80):
        assert asked("127.0.0.1", port) == b"olleh"
    assert "Uid:\t65534\t65534\t65534\t65534\n" in Path(f"/proc/{pid}/status").read_text()  # it needs no rights
    close_left(str(bundle))
    assert not (bundle / "ports").exists()
    with socket.create_server(("127.0.0.1", port)):
        pass
    close_left(str(bundle))


def test_every_port_is_free_when_it_has_ended(bundle: Path) -> None:
    """The kernel frees its lock and its ports in no fixed order."""
    for _ in range(40):
        (port,) = published(bundle, "80")
        close_left(str(bundle))
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_two_get_different_free_ports(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    try:
        one, two = published(bundle, "80", "81")
        (other,) = [found.host_port for found in publish([Port(80)], str(tmp_path / "other"), f"{bundle}/netns")][:1]
        assert len({one, two, other}) == 3
    finally:
        close_left(str(tmp_path / "other"))


def test_it_ends_when_somebody_has_deleted_the_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = forwarder._STARTER.replace("main(", "main.__globals__['EVERY'] = 0.02\nmain(")
    monkeypatch.setattr(forwarder, "_STARTER", quick)
    (one,) = publish([Port(80, 0, "127.0.0.1")], str(bundle), str(bundle / "netns"))
    held = os.pidfd_open(int((bundle / "ports").read_text()))
    assert not select.select([held], [], [], 0.1)[0]  # it stays while the file does
    (bundle / "ports").unlink()
    assert select.select([held], [], [], 20)[0]
    os.close(held)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", one.host_port), 10)
