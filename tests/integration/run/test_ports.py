"""Published ports of containers, and namespaces that containers share: as root and as plain users, with the runtimes
that are here. A container serves a page with busybox httpd."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_library_run import until
from integration.run.test_run import members, mounts_of
from lamina.run import network
from lamina.run.networks import programs
from support import PLAIN_USER, lamina, plain_user, require_root, require_tool, write_layout

ALONE = "59999"
PAGE = [("srv/", None), ("srv/index.html", b"page\n")]
SERVE = ("busybox", "httpd", "-f", "-p", "80", "-h", "/srv")
RUNTIMES = ("runc", "bwrap")

Call = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(params=["root", PLAIN_USER, ALONE])
def call(request: Any, tmp_path: Path) -> Iterator[Call]:
    """The command line of root, of a plain user with more ids, and of one with its own id alone."""
    yield from _call(request.param, tmp_path)


@pytest.fixture
def root_call(tmp_path: Path) -> Iterator[Call]:
    yield from _call("root", tmp_path)


@pytest.fixture
def plain_call(tmp_path: Path) -> Iterator[Call]:
    yield from _call(PLAIN_USER, tmp_path)


def _call(name: str, tmp_path: Path) -> Iterator[Call]:
    require_root()
    require_tool("runc", "bwrap", "busybox", "newuidmap", "pasta")
    if reason := network.refusal():
        pytest.skip(reason)
    config = {"config": {"Cmd": list(SERVE), "ExposedPorts": {"80/tcp": {}}}}
    layers = [members(*PAGE)]
    if name == "root":
        write_layout(tmp_path / "layout", "app", layers, config=config)

        def by_root(*words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
            return lamina(*words, root=tmp_path / "store", **more)

        assert by_root("load", "-i", str(tmp_path / "layout")).returncode == 0
        yield by_root
        by_root("rm", "--all", "--force")
        assert mounts_of(tmp_path / "store") == []
        return
    with plain_user(name) as (top, by_user):
        write_layout(top / "layout", "app", layers, config=config)
        assert by_user("load", "-i", str(top / "layout")).returncode == 0
        yield by_user
        by_user("rm", "--all", "--force")


def said(call: Call, *words: str, code: int = 0) -> str:
    done = call(*words)
    assert done.returncode == code, done
    return done.stdout.decode().strip()


def port_of(call: Call, name: str, inside: str = "80") -> int:
    return int(said(call, "port", name, inside).splitlines()[0].rpartition(":")[2])


def page(port: int, address: str = "127.0.0.1") -> bytes:
    """What the container serves; b"" if the connection is refused or reset."""
    try:
        with socket.create_connection((address, port), 10) as one:
            one.sendall(b"GET / HTTP/1.0\r\n\r\n")
            found = b""
            while more := one.recv(1 << 16):
                found += more
            return found.rpartition(b"\r\n\r\n")[2]
    except ConnectionError:
        return b""


def served(port: int) -> bool:
    """Whether the server answers; it may need a moment to start."""
    until(lambda: page(port) == b"page\n")
    return True


def is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_published_port_reaches_the_container_until_it_ends(call: Call, runtime: str) -> None:
    said(call, "run", "-d", "--name", "web", "--runtime", runtime, "-p", "80", "-p", "127.0.0.1::81/udp", "app")
    port = port_of(call, "web")
    assert served(port)
    assert page(port, "::1") == b"page\n"
    other = port_of(call, "web", "81/udp")
    lines = [f"80/tcp -> 0.0.0.0:{port}", f"80/tcp -> [::]:{port}", f"81/udp -> 127.0.0.1:{other}"]
    assert said(call, "port", "web").splitlines() == lines
    cell = f"0.0.0.0:{port}->80/tcp, [::]:{port}->80/tcp, 127.0.0.1:{other}->81/udp"
    assert said(call, "ps", "--format", "{{.Ports}}") == cell
    (found,) = json.loads(said(call, "inspect", "web"))
    places = [{"HostIp": address, "HostPort": str(port)} for address in ("0.0.0.0", "::")]
    assert found["NetworkSettings"]["Ports"]["80/tcp"] == places
    assert found["HostConfig"]["PortBindings"]["81/udp"] == [{"HostIp": "127.0.0.1", "HostPort": ""}]
    assert found["Config"]["ExposedPorts"] == {"80/tcp": {}, "81/udp": {}}
    said(call, "stop", "-t", "0", "web")
    assert is_free(port)
    assert (said(call, "port", "web"), said(call, "ps", "-a", "--format", "{{.Ports}}")) == ("", "")
    said(call, "start", "web")
    assert served(port_of(call, "web"))
    said(call, "rm", "-f", "web")


def test_every_exposed_port_is_published_where_the_setting_says(root_call: Call) -> None:
    words = ("run", "-d", "--name", "web", "-P", "--expose", "90-91", "app")
    done = root_call(*words, LAMINA_PUBLISH_ADDRESS="127.0.0.1")
    assert done.returncode == 0, done.stderr
    lines = said(root_call, "port", "web").splitlines()
    assert [line.rpartition(":")[0] for line in lines] == [f"{port}/tcp -> 127.0.0.1" for port in (80, 90, 91)]
    assert served(port_of(root_call, "web"))
    assert page(port_of(root_call, "web"), "::1") == b""
    assert said(root_call, "port", "web", "92", code=1) == ""
    assert said(root_call, "port", "--all").count("/tcp -> 127.0.0.1:") == 3
    assert said(root_call, "port", "--latest", "90") == f"127.0.0.1:{port_of(root_call, 'web', '90')}"
    assert root_call("port", "web", "eighty").returncode == 2
    assert root_call("port", "nobody").returncode == 3


def test_a_port_in_use_leaves_a_created_container(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words in (("run", "-d", "--name", "one"), ("run", "--rm", "--name", "two")):
            done = call(*words, "-p", f"{port}:80", "app")
            assert done.returncode == 125
            (line,) = (line for line in done.stderr.decode().splitlines() if "published" in line)
            assert line.startswith(f"lamina: port {port}/tcp of 0.0.0.0 can't be published: it is in use (")
        assert said(call, "ps", "-a", "--format", "{{.Names}} {{.State}}") == "one created"
        (found,) = json.loads(said(call, "inspect", "one"))
        assert (found["State"]["ExitCode"], "it is in use" in found["State"]["Error"]) == (128, True)
    said(call, "start", "one")
    assert served(port)


def test_a_plain_user_may_not_publish_low_ports(plain_call: Call) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first == 0:
        pytest.skip("every user of this host may use low ports")
    done = plain_call("run", "--rm", "-p", f"{first - 1}:80", "app", "true")
    assert done.returncode == 125
    assert f"only root may use ports below {first}" in done.stderr.decode()


@pytest.mark.parametrize(("network", "why"), [("none", "has no network"), ("host", "uses the ports of this host")])
def test_ports_have_no_effect_without_a_network_of_its_own(root_call: Call, network: str, why: str) -> None:
    done = root_call("run", "--rm", "--network", network, "-p", "80:80", "app", "true")
    assert (done.returncode, done.stdout) == (0, b"")
    assert f"--publish has no effect with --network {network}: the container {why}" in done.stderr.decode()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_restart_by_policy_keeps_the_port(call: Call, runtime: str) -> None:
    script = "busybox httpd -p 80 -h /srv; while test ! -e /die; do sleep 0.05; done; rm /die; exit 1"
    words = ("run", "-d", "--name", "web", "--runtime", runtime, "--restart", "always", "-p", "80")
    said(call, *words, "app", "sh", "-c", script)
    port = port_of(call, "web")
    assert served(port)
    said(call, "exec", "web", "touch", "/die")
    until(lambda: said(call, "inspect", "web", "--format", "{{.RestartCount}}") != "0")
    assert served(port)
    assert port_of(call, "web") == port


def test_a_port_outlives_its_monitor_and_ends_with_the_next_look(call: Call) -> None:
    said(call, "run", "-d", "--name", "web", "--runtime", "runc", "-p", "80", "app")
    port = port_of(call, "web")
    assert served(port)
    store = Path(json.loads(said(call, "info", "--format", "json"))["settings"]["root"]["value"])
    (record,) = store.glob("containers/*/container.json")
    os.kill(json.loads(record.read_bytes())["pid"], signal.SIGKILL)
    assert served(port)
    said(call, "kill", "web")
    until(lambda: said(call, "ps", "-q") == "")
    assert said(call, "port", "web") == ""
    said(call, "rm", "web")
    assert is_free(port)


def test_ports_on_a_network_with_a_name(call: Call) -> None:
    if not programs.find("netavark"):
        require_tool("netavark")
    said(call, "network", "create", "front")
    try:
        said(call, "run", "-d", "--name", "web", "--network", "front", "-p", "80", "app")
        assert served(port_of(call, "web"))
        said(call, "rm", "-f", "web")
    finally:
        call("rm", "--all", "--force")
        call("network", "rm", "front")


INSIDE = "cat /etc/hosts; hostname; busybox wget -qO - http://127.0.0.1/index.html"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("first", RUNTIMES)
def test_a_container_in_the_network_of_another_one(call: Call, first: str, runtime: str) -> None:
    said(call, "run", "-d", "--name", "web", "--runtime", first, "-h", "webhost", "-p", "80", "app")
    assert served(port_of(call, "web"))
    words = ("run", "--rm", "--runtime", runtime, "--network", "container:web", "app", "sh", "-c", INSIDE)
    lines = said(call, *words).splitlines()
    assert lines[-3:] == ["127.0.1.1\twebhost", "webhost", "page"]
    assert said(call, "exec", "web", "cat", "/etc/hosts").splitlines() == lines[:-2]


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts"])
def test_other_namespaces_of_another_container(call: Call, kind: str) -> None:
    words = ("--runtime", "runc", "--network", "none", "--ipc", "shareable", "-h", "first")
    said(call, "run", "-d", "--name", "first", *words, "app", "sh", "-c", "echo data > /dev/shm/x; exec sleep 999")
    until(lambda: call("exec", "first", "test", "-e", "/dev/shm/x").returncode == 0)
    script = {"pid": "cat /proc/1/cmdline", "ipc": "cat /dev/shm/x", "uts": "hostname"}[kind]
    expected = {"pid": "sleep\x00999\x00", "ipc": "data", "uts": "first"}[kind]
    link = f"readlink /proc/self/ns/{kind}"
    words = ("run", "--rm", "--runtime", "runc", "--network", "none", f"--{kind}", "container:first", "app")
    found = said(call, *words, "sh", "-c", f"{link}; {script}").splitlines()
    assert found == [said(call, "exec", "first", "busybox", "readlink", f"/proc/self/ns/{kind}"), expected]


def test_what_can_not_be_shared_is_said(root_call: Call) -> None:
    said(root_call, "create", "--name", "idle", "app")
    done = root_call("run", "--rm", "--network", "container:idle", "app", "true")
    assert done.returncode == 125
    line = "--network container:idle: that container does not run (start it with `lamina start idle`)"
    assert line in done.stderr.decode()
    said(root_call, "run", "-d", "--name", "alone", "--network", "none", "app", "sleep", "999")
    done = root_call("run", "--rm", "--ipc", "container:alone", "app", "true")
    assert (done.returncode, "does not share its IPC namespace" in done.stderr.decode()) == (125, True)
    said(root_call, "create", "--name", "guest", "--network", "container:alone", "app", "true")
    said(root_call, "rm", "-f", "alone")
    done = root_call("start", "guest")
    assert done.returncode == 3
    assert re.search("the container [0-9a-f]{12} does not exist any more", done.stderr.decode())


def test_a_guest_follows_its_host_when_both_are_started_again(call: Call) -> None:
    said(call, "run", "-d", "--name", "web", "-p", "80", "app")
    assert served(port_of(call, "web"))
    words = ("run", "--name", "guest", "--network", "container:web", "app", "busybox", "wget", "-qO", "-")
    assert said(call, *words, "http://127.0.0.1/") == "page"
    said(call, "restart", "-t", "0", "web")
    assert served(port_of(call, "web"))
    assert said(call, "start", "--attach", "guest") == "page"


def test_a_namespace_that_is_a_file(root_call: Call, tmp_path: Path) -> None:
    namespace = network.NetworkNamespace(str(tmp_path))
    try:
        script = "busybox readlink /proc/self/ns/net"
        found = said(root_call, "run", "--rm", "--network", f"ns:{namespace.path}", "app", "sh", "-c", script)
        assert found == f"net:[{os.stat(namespace.path).st_ino}]"
    finally:
        namespace.close()


def accepted_from(server: socket.socket) -> str:
    """Accept a connection and close it; the client's address."""
    one, client = server.accept()
    one.close()
    return str(client[0])


@pytest.mark.parametrize("words", [(), ("--network", "front")])
def test_host_gateway_reaches_this_host_but_not_its_loopback(root_call: Call, words: tuple[str, ...]) -> None:
    if words:
        if not programs.find("netavark"):
            require_tool("netavark")
        said(root_call, "network", "create", "front")
    try:
        with socket.create_server(("0.0.0.0", 0)) as every, socket.create_server(("127.0.0.1", 0)) as loopback:
            ports = [one.getsockname()[1] for one in (every, loopback)]
            script = "; ".join(f"busybox nc -w 1 here {port} </dev/null && echo {port}" for port in ports)
            run = ("run", "--rm", *words, "--add-host", "here:host-gateway", "app", "sh", "-c", f"{script}; true")
            with ThreadPoolExecutor(1) as pool:
                every.settimeout(30)
                client = pool.submit(accepted_from, every)
                assert said(root_call, *run).split() == [str(ports[0])]
                assert client.result() != "127.0.0.1"
    finally:
        root_call("network", "rm", "--force", "front")
