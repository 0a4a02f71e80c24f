"""Networks with names: containers reach each other by name, networks are closed to each other, nothing is left."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration.run.test_run import make_store, members
from lamina.run.networks.place import existing
from lamina.store.store import Store
from support import PLAIN_USER, lamina, made_once, plain_user, require_root, require_tool

_ALONE = "59999"
SERVED = b"served here\n"
_GET = """\
import socket, sys
one = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
one.sendall(b"GET /page HTTP/1.0\\r\\n\\r\\n")
said = b""
while more := one.recv(1000):
    said += more
sys.stdout.buffer.write(said.partition(b"\\r\\n\\r\\n")[2])
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Side:
    """The command line of one user, with a store."""

    def __init__(self, store: Path, call: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
        self.store, self._call = store, call

    def __call__(self, *words: str, **environment: str) -> Done:
        done = self._call(*words, **environment)
        return Done(done.returncode, done.stdout.decode().strip(), done.stderr.decode().strip())

    def ok(self, *words: str) -> str:
        done = self(*words)
        assert done.code == 0, done
        return done.out

    def start(self, name: str, *words: str, command: tuple[str, ...] = ("sleep", "60")) -> None:
        """Start a container in the background."""
        self.ok("run", "-d", "--name", name, *words, "app", *command)

    def address(self, name: str, network: str) -> str:
        (found,) = json.loads(self.ok("network", "inspect", network))
        (one,) = (one for one in found["Containers"].values() if one["Name"] == name)
        return str(one["IPv4Address"]).partition("/")[0]

    def sees(self, name: str, wanted: str) -> bool:
        """Whether the container ``name`` gets the page of ``wanted``, a name or an address."""
        if wanted.count(".") < 3:
            wanted = self.resolved(name, wanted)
        done = self("exec", name, "timeout", "1", "wget", "-q", "-O", "-", f"http://{wanted}/page")
        return done.out.encode() + b"\n" == SERVED

    def resolved(self, name: str, wanted: str) -> str:
        """The address of ``wanted`` as the container ``name`` gets it: a static program resolves no names itself."""
        said = self("exec", name, "nslookup", wanted).out
        return next(iter(re.findall(r"Name:.*\nAddress: ([0-9.]+)", said)), "")

    def clean(self) -> None:
        self.ok("rm", "--all", "--force")
        self.ok("network", "prune", "--force")

    @property
    def processes(self) -> list[str]:
        """The command lines of the processes that name the store."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.store) in line and "network" in line:
                found.append(line)
        return found


def make(top: Path) -> None:
    more = [(f"bin/{name}", "-> busybox") for name in ("httpd", "wget", "nslookup", "ip", "timeout")]
    make_store(top, [members(*more, ("www/", None), ("www/page", SERVED))])


SERVER = ("httpd", "-f", "-p", "80", "-h", "/www")


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox", "iptables")
    if not any(os.access(f"{place}/netavark", os.X_OK) for place in ("/usr/lib/podman", "/usr/libexec/podman")):
        require_tool("netavark")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Side]:
    made_once(make, tmp_path)
    store = tmp_path / "store"
    side = Side(store, lambda *words, **more: lamina(*words, root=store, **more))
    interfaces: set[str] = set()
    yield side
    for path in (store / "networks").glob("*.json"):
        interfaces |= set(re.findall(r'"interface": "(\w+)"', path.read_text()))
    side.clean()
    assert interfaces & set(os.listdir("/sys/class/net")) == set()
    rules = subprocess.run(["iptables-save"], capture_output=True, check=True).stdout.decode()
    assert [name for name in interfaces if name in rules] == []
    assert [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(store) in line] == []
    assert side.processes == []
    place = existing(Store.open(str(store)))
    assert place is not None
    assert not Path(place.directory).exists()


@pytest.fixture(params=["root", PLAIN_USER, _ALONE])
def side(request: Any, tmp_path: Path) -> Iterator[Side]:
    """root, a plain user with further ids, and one with its own id alone."""
    if request.param == "root":
        yield request.getfixturevalue("root")
        return
    require_tool("newuidmap")
    with plain_user(request.param) as (top, call):
        made_once(make, tmp_path)
        subprocess.run(["cp", "-r", str(tmp_path / "layout"), str(top)], check=True)
        assert call("load", "-i", str(top / "layout")).returncode == 0
        found = Side(top / "store", call)
        yield found
        found.clean()
        assert found.processes == []
        assert list((top / "store/networks/run").iterdir()) == []


def test_containers_reach_each_other_by_name_and_alias_and_id(side: Side) -> None:
    side.ok("network", "create", "front")
    side.start("web", "--network", "front", "--network-alias", "www", command=SERVER)
    side.start("one", "--network", "front:alias=First")
    identity = side.ok("ps", "-q", "--filter", "name=web")
    assert [side.sees("one", name) for name in ("web", "www", identity, side.address("web", "front"))] == [True] * 4
    assert side("exec", "web", "nslookup", "first").code == 0  # names are compared in lower case
    assert side("exec", "web", "nslookup", "nobody").code != 0
    hosts = side.ok("exec", "web", "cat", "/etc/hosts").splitlines()
    assert f"{side.address('web', 'front')}\t{identity}" in hosts


def test_networks_are_closed_to_each_other(side: Side) -> None:
    for name, more in (("front", ()), ("other", ()), ("back", ("--internal",))):
        side.ok("network", "create", *more, name)
    side.start("web", "--network", "front", command=SERVER)
    side.start("db", "--network", "back", command=SERVER)
    side.start("both", "--network", "front", "--network", "back")
    side.start("far", "--network", "other")
    assert side.sees("both", "web")
    assert side.sees("both", "db")
    web, db = side.address("web", "front"), side.address("db", "back")
    assert not side.sees("far", web)
    assert not side.sees("far", db)
    assert not side.sees("web", db)
    assert side("exec", "far", "nslookup", "web").code != 0
    assert "default" not in side.ok("exec", "db", "ip", "route")  # no way out
    assert "default" in side.ok("exec", "far", "ip", "route")


def test_a_running_container_is_connected_and_disconnected(side: Side) -> None:
    side.ok("network", "create", "front")
    side.ok("network", "create", "back")
    side.start("db", "--network", "back", command=SERVER)
    side.start("web", "--network", "front")
    assert not side.sees("web", "db")
    side.ok("network", "connect", "--alias", "gate", "back", "web")
    assert side.sees("web", "db")
    assert side("exec", "db", "nslookup", "gate").code == 0
    again = side("network", "connect", "back", "web")
    assert (again.code, "is on the network back already" in again.err) == (5, True)
    side.ok("restart", "-t", "0", "web")
    assert side.sees("web", "db")  # it is connected when it is started again, too
    side.ok("network", "disconnect", "back", "web")
    assert not side.sees("web", "db")
    assert side("exec", "web", "cat", "/etc/hosts").out.count(side.address("web", "front")) == 1
    again = side("network", "disconnect", "back", "web")
    assert (again.code, "is not connected to the network back" in again.err) == (5, True)
    side.ok("network", "disconnect", "front", "web")  # the last one: it still ends as the others do
    assert "eth" not in side.ok("exec", "web", "ip", "link")


def test_a_renamed_container_has_its_new_name_on_its_networks(side: Side) -> None:
    side.ok("network", "create", "front")
    side.start("web", "--network", "front", "--network-alias", "www")
    side.start("one", "--network", "front")
    before = side.resolved("one", "web")
    side.ok("rename", "web", "Shop")
    end = time.monotonic() + 10
    while side("exec", "one", "nslookup", "shop").code:  # the name server reads its files a moment later
        assert time.monotonic() < end
    assert [side.resolved("one", name) for name in ("shop", "www", "web")] == [before, before, ""]
    side.ok("stop", "-t", "0", "Shop")
    assert side("exec", "one", "nslookup", "shop").code != 0


def test_networks_are_made_once_more_with_the_same_addresses(side: Side) -> None:
    side.ok("network", "create", "front")
    side.start("web", "--network", "front", command=SERVER)
    side.start("one", "--network", "front")
    before = side.address("web", "front")
    assert side.ok("network", "reload", "web") == side.ok("inspect", "-f", "{{.Id}}", "web")
    assert side.address("web", "front") == before
    assert side.sees("one", "web")
    assert len(side.ok("network", "reload", "--all").splitlines()) == 2
    assert side.sees("one", "web")
    side.ok("stop", "-t", "0", "web")
    assert side("network", "reload", "web").code == 5
    assert side("network", "reload").code == 2


def test_a_reload_brings_rules_back_that_somebody_has_removed(root: Side, tmp_path: Path) -> None:
    root.ok("network", "create", "front")
    root.start("web", "--network", "front", command=SERVER)
    subnet = json.loads(root.ok("network", "inspect", "front"))[0]["IPAM"]["Config"][0]["Subnet"]

    def rules() -> list[str]:
        said = subprocess.run(["iptables-save", "-t", "nat"], capture_output=True, check=True).stdout.decode()
        return [line for line in said.splitlines() if line.startswith("-A") and subnet in line]

    before = rules()
    assert before
    for line in reversed(before):
        subprocess.run(["iptables", "-t", "nat", "-D", *line.split()[1:]], check=False, capture_output=True)
    assert rules() != before
    root.ok("network", "reload", "web")
    assert sorted(rules()) == sorted(before)


def test_published_ports_of_a_network_reach_from_every_side(root: Side) -> None:
    """Real packets: from this host by loopback and by its address, from another network namespace, and from a
    container of another network."""
    require_tool("ip", "nsenter")
    for name in ("front", "other"):
        root.ok("network", "create", name)
    root.start("web", "--network", "front", "-p", "80", command=SERVER)
    root.start("far", "--network", "other")
    end = time.monotonic() + 10
    while root("exec", "web", "wget", "-q", "-O", "-", "http://127.0.0.1/page").code:  # the server has not begun
        assert time.monotonic() < end
    port = root.ok("port", "web", "80").splitlines()[0].rpartition(":")[2]
    gateway = json.loads(root.ok("network", "inspect", "other"))[0]["IPAM"]["Config"][0]["Gateway"]
    link = f"lt{os.getpid()}"
    with subprocess.Popen(["unshare", "--net", "sleep", "60"]) as outside:
        try:
            while os.stat(f"/proc/{outside.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
                time.sleep(0.01)  # unshare has not begun
            inner = ("nsenter", "--net", "-t", str(outside.pid))
            for words in (
                ("ip", "link", "add", link, "type", "veth", "peer", "name", "up0", "netns", str(outside.pid)),
                ("ip", "address", "add", "198.18.77.1/30", "dev", link),
                ("ip", "link", "set", link, "up"),
                (*inner, "ip", "address", "add", "198.18.77.2/30", "dev", "up0"),
                (*inner, "ip", "link", "set", "up0", "up"),
            ):
                subprocess.run(words, check=True)
            get = (sys.executable, "-c", _GET)
            for start, address in (((), "127.0.0.1"), ((), "198.18.77.1"), (inner, "198.18.77.1")):
                done = subprocess.run([*start, *get, address, port], capture_output=True, check=False)
                assert done.stdout == SERVED, (start, address, done.stderr)
        finally:
            outside.kill()
            subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
    done = root("exec", "far", "timeout", "5", "wget", "-q", "-O", "-", f"http://{gateway}:{port}/page")
    assert done.out.encode() + b"\n" == SERVED, done
    assert not root.sees("far", root.address("web", "front"))  # but not by its own address


def test_networks_stay_closed_to_each_other_when_another_one_ends(side: Side) -> None:
    """netavark 1.4 removes what keeps all of them apart with any of them."""
    for name in ("front", "other", "third"):
        side.ok("network", "create", name)
        side.start(name, "--network", name, command=SERVER)
    address = side.address("front", "front")
    side.ok("rm", "--force", "third")
    assert side.sees("front", address)
    assert not side.sees("other", address)


def test_an_open_network_is_reached_from_a_closed_one(root: Side) -> None:
    root.ok("network", "create", "--opt", "isolate=false", "open")
    root.ok("network", "create", "closed")
    for name in ("open", "closed"):
        root.start(name, "--network", name, command=SERVER)
    assert root.sees("closed", root.address("open", "open"))


def test_a_created_container_is_connected_at_its_start(side: Side) -> None:
    side.ok("network", "create", "front")
    side.ok("network", "create", "back")
    side.ok("create", "--name", "web", "--network", "front", "app", "sleep", "60")
    side.ok("network", "connect", "back", "web")
    side.ok("network", "disconnect", "front", "web")
    side.ok("start", "web")
    assert side.address("web", "back")
    (front,) = json.loads(side.ok("network", "inspect", "front"))
    assert front["Containers"] == {}


def test_addresses_are_as_asked_for_and_free_again_after_the_end(side: Side) -> None:
    side.ok("network", "create", "--ip-range", "10.254.253.128/30", "--subnet", "10.254.253.0/24", "front")
    side.start("fixed", "--network", "front", "--ip", "10.254.253.9", "--mac-address", "02:00:00:00:00:09")
    assert side.address("fixed", "front") == "10.254.253.9"
    assert "02:00:00:00:00:09" in side.ok("exec", "fixed", "ip", "link", "show", "eth0")
    clash = side("run", "--rm", "--network", "front:ip=10.254.253.9", "app", "true")
    assert (clash.code, "10.254.253.9 of the network front is in use" in clash.err) == (125, True)
    outside = side("run", "--rm", "--network", "front", "--ip", "10.1.1.1", "app", "true")
    assert (outside.code, "is not in a subnet of the network front" in outside.err) == (125, True)
    own = side("run", "--rm", "--network", "front", "--ip", "10.254.253.1", "app", "true")
    assert (own.code, "the network front uses it itself" in own.err) == (125, True)
    for name in "abcd":
        side.start(name, "--network", "front")
    found = sorted(side.address(name, "front") for name in "abcd")
    assert found == [f"10.254.253.{number}" for number in range(128, 132)]
    full = side("run", "--rm", "--network", "front", "app", "true")
    assert (full.code, "has no free address in 10.254.253.128/30" in full.err) == (125, True)
    side.ok("rm", "--force", "b", "fixed")
    side.start("e", "--network", "front:ip=10.254.253.9")
    side.start("f", "--network", "front")
    assert side.address("f", "front") == next(one for one in found if one not in _addresses(side, "acd"))


def _addresses(side: Side, names: str) -> set[str]:
    return {side.address(name, "front") for name in names}


def test_a_network_for_one_container_is_full_with_it(root: Side) -> None:
    root.ok("network", "create", "--subnet", "10.254.252.0/30", "tiny")
    root.start("only", "--network", "tiny")
    assert root.address("only", "tiny") == "10.254.252.2"
    full = root("run", "--rm", "--network", "tiny", "app", "true")
    assert (full.code, "has no free address in 10.254.252.0/30" in full.err) == (125, True)
    assert root("network", "create", "--subnet", "10.254.251.0/31", "none-at-all").code == 2


def test_networks_with_addresses_of_ipv6(root: Side) -> None:
    root.ok("network", "create", "--ipv6", "front")
    (front,) = json.loads(root.ok("network", "inspect", "front"))
    assert [ipaddress.ip_network(one["Subnet"]).version for one in front["IPAM"]["Config"]] == [4, 6]
    own = ipaddress.ip_network(front["IPAM"]["Config"][1]["Subnet"])
    root.start("web", "--network", "front", "--ip6", str(own.network_address + 9))
    root.start("one", "--network", "front")
    assert str(own.network_address + 9) in root.ok("exec", "one", "nslookup", "-type=aaaa", "web")
    assert f"inet6 {own.network_address + 9}/64" in root.ok("exec", "web", "ip", "addr")


def test_many_start_at_once_with_addresses_of_their_own(side: Side) -> None:
    side.ok("network", "create", "front")
    with ThreadPoolExecutor(6) as pool:
        done = list(
            pool.map(
                lambda number: side("run", "-d", "--name", f"c{number}", "--network", "front", "app", "sleep", "60"),
                range(6),
            )
        )
    assert [one.code for one in done] == [0] * 6, done
    assert len({side.address(f"c{number}", "front") for number in range(6)}) == 6
    for number in range(1, 6):
        assert side("exec", "c0", "nslookup", f"c{number}").code == 0
    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(lambda number: side("rm", "-f", f"c{number}"), range(6)))
    assert [one.code for one in ended] == [0] * 6, ended


def test_two_processes_that_create_a_network_make_one(root: Side) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: root("network", "create", "front"), range(4)))
        others = list(pool.map(lambda number: root("network", "create", f"n{number}"), range(4)))
    assert sorted(one.code for one in done) == [0, 5, 5, 5]
    assert [one.code for one in others] == [0] * 4
    every = json.loads(root.ok("network", "ls", "--format", "json", "--filter", "type=custom"))
    assert len({one["IPAM"]["Config"][0]["Subnet"] for one in every}) == 5
    assert root.ok("network", "create", "--ignore", "front") == next(one.out for one in done if one.code == 0)


def test_nothing_is_left_of_killed_containers(side: Side) -> None:
    side.ok("network", "create", "front")
    side.ok("network", "create", "--internal", "back")
    side.start("web", "--network", "front", "--network", "back")
    side.start("stays", "--network", "front", command=SERVER)
    before = side.address("web", "front")
    _kill_everything_of(side, "web")
    assert "Exited" in side.ok("ps", "-a", "--filter", "name=web", "--format", "{{.Status}}")
    (front,) = json.loads(side.ok("network", "inspect", "front"))
    assert [one["Name"] for one in front["Containers"].values()] == ["stays"]
    side.ok("start", "web")
    assert side.address("web", "front") == before
    assert side.sees("web", "stays")
    _kill_everything_of(side, "web")
    _kill_everything_of(side, "stays")
    # the fixtures check that nothing is left


def _kill_everything_of(side: Side, name: str) -> None:
    """Kill the container's processes, its monitor first."""
    (record,) = (
        one
        for one in map(json.loads, (path.read_text() for path in side.store.glob("containers/*/container.json")))
        if one["name"] == name
    )
    waiting = [os.pidfd_open(pid) for pid in (record["pid"], record["program"])]
    for one in waiting:
        signal.pidfd_send_signal(one, signal.SIGKILL)
    for one in waiting:
        assert select.select([one], [], [], 10)[0]
        os.close(one)


@pytest.mark.parametrize(
    "damage", [{"network": {"version": 1}}, {"network": None}, {"interface": None}, {"names": 5}]
)
def test_a_container_whose_networks_are_damaged_is_removed(root: Side, damage: dict[str, Any]) -> None:
    root.ok("network", "create", "front")
    root.start("web", "--network", "front")
    (path,) = root.store.glob("containers/*/network.json")
    state = json.loads(path.read_text())
    for key, value in damage.items():
        if value is None:
            del state["networks"]["front"][key]
        else:
            state["networks"]["front"][key] = value
    path.write_text(json.dumps(state))
    root.ok("rm", "-f", "web")
    root.start("web", "--network", "front")


def test_labels_of_a_network_that_are_too_long_are_refused(root: Side) -> None:
    long = [word for number in range(12) for word in ("--label", f"{number}=" + "x" * 100_000)]
    refused = root("network", "create", *long, "front")
    assert (refused.code, "too long" in refused.err) == (2, True)
    root.ok("network", "create", *long[:18], "front")
    root.start("web", "--network", "front")
    (path,) = root.store.glob("containers/*/network.json")
    assert path.stat().st_size < 10_000


def test_a_network_in_use_stays(side: Side) -> None:
    side.ok("network", "create", "front")
    side.start("web", "--network", "front")
    for force in ((), ("--force",)):
        refused = side("network", "rm", *force, "front")
        assert (refused.code, "is in use by running containers: web" in refused.err) == (5, True)
    assert side.ok("network", "prune", "-f") == ""
    side.ok("stop", "-t", "0", "web")
    assert side.ok("network", "prune", "-f") == ""  # a container that has ended names it
    assert side.ok("network", "rm", "front") == "front"
    gone = side("start", "web")
    assert (gone.code != 0, "network front not found" in gone.err) == (True, True)


def test_without_netavark_one_line_says_what_to_install(root: Side, tmp_path: Path, monkeypatch: Any) -> None:
    root.ok("network", "create", "front")
    monkeypatch.setattr("lamina.run.networks.programs._DIRECTORIES", ())
    programs = tmp_path / "programs"
    programs.mkdir()
    from lamina.errors import NotFound
    from lamina.run.networks import programs as found

    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(NotFound, match="needs netavark, which is not installed") as error:
        found.netavark()
    assert "install the packages netavark and aardvark-dns" in str(error.value.hint)


def test_inspect_shows_what_a_container_has_on_its_networks(root: Side) -> None:
    root.ok("network", "create", "--subnet", "10.254.250.0/24", "front")
    root.start("web", "--network", "front:ip=10.254.250.7,alias=www")
    (web,) = json.loads(root.ok("inspect", "web"))
    (front,) = json.loads(root.ok("network", "inspect", "front"))
    found = web["NetworkSettings"]["Networks"]["front"]
    assert (found["IPAddress"], found["IPPrefixLen"], found["Gateway"]) == ("10.254.250.7", 24, "10.254.250.1")
    assert (found["MacAddress"], found["NetworkID"]) == ("02:42:0a:fe:fa:07", front["Id"])
    assert (found["Aliases"], found["IPAMConfig"]) == (["www", web["Id"][:12]], {"IPv4Address": "10.254.250.7"})
    root.ok("stop", "-t", "0", "web")
    (web,) = json.loads(root.ok("inspect", "web"))
    assert web["NetworkSettings"]["Networks"]["front"]["IPAddress"] == ""


@pytest.mark.parametrize("side", [PLAIN_USER, _ALONE], indirect=True)
def test_a_killed_holder_is_started_again_in_the_same_network(side: Side) -> None:
    side.ok("network", "create", "front")
    side.start("web", "--network", "front", command=SERVER)
    holder = json.loads((side.store / "networks/run/holder.json").read_text())["pid"]
    os.kill(holder, signal.SIGKILL)
    side.start("one", "--network", "front")
    assert side.sees("one", "web")


def test_a_network_has_a_way_out_through_the_host(root: Side, tmp_path: Path) -> None:
    """The world outside is a network namespace with a server, connected with the host by a veth."""
    require_tool("ip")
    end, far = f"lt{os.getpid() % 10**6}", "out0"
    outside = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        inside = ["nsenter", f"--net=/proc/{outside.pid}/ns/net"]
        _until(lambda: os.readlink(f"/proc/{outside.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        for words in (
            ["ip", "link", "add", end, "type", "veth", "peer", "name", far, "netns", str(outside.pid)],
            ["ip", "addr", "add", "10.254.249.1/30", "dev", end],
            ["ip", "link", "set", end, "up"],
            [*inside, "ip", "addr", "add", "10.254.249.2/30", "dev", far],
            [*inside, "ip", "link", "set", far, "up"],
        ):
            subprocess.run(words, check=True)
        (tmp_path / "page").write_bytes(SERVED)
        server = subprocess.Popen([*inside, "busybox", "httpd", "-f", "-p", "80", "-h", str(tmp_path)])
        try:
            root.ok("network", "create", "front")
            root.ok("network", "create", "--internal", "back")
            root.start("web", "--network", "front")
            root.start("db", "--network", "back")
            assert root.sees("web", "10.254.249.2")
            assert not root.sees("db", "10.254.249.2")
        finally:
            server.kill()
            server.wait()
    finally:
        outside.kill()
        outside.wait()


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("place", ["network.written", "network.set-up"])
def test_a_command_that_is_killed_at_its_start_leaves_nothing(side: Side, place: str) -> None:
    side.ok("network", "create", "front")
    side.start("stays", "--network", "front", command=SERVER)
    killed = side("run", "-d", "--name", "lost", "--network", "front:ip=", "app", "sleep", "60", LAMINA_FAULT=place)
    assert killed.code == 125  # an empty address is refused before anything is made
    killed = side("run", "-d", "--name", "lost", "--network", "front", "app", "sleep", "60", LAMINA_FAULT=place)
    assert killed.code == -signal.SIGKILL
    side.ok("rm", "-f", "lost")
    side.start("next", "--network", "front")
    assert side.sees("next", "stays")
    assert side("exec", "next", "nslookup", "lost").code != 0


def test_a_killed_disconnect_is_finished_by_the_next_command(root: Side) -> None:
    root.ok("network", "create", "front")
    root.start("web", "--network", "front")
    root("rm", "-f", "web", LAMINA_FAULT="network.released")
    root.ok("rm", "-fa")
    assert root.ok("network", "create", "--ignore", "front")
    killed = root("network", "create", "late", LAMINA_FAULT="network.record-written")
    assert killed.code == -signal.SIGKILL
    assert "late" not in root.ok("network", "ls", "--format", "{{.Name}}").split()
    assert root.ok("network", "create", "late")


@pytest.mark.parametrize("side", ["root", PLAIN_USER], indirect=True)
def test_the_network_belongs_to_the_containers_user_namespace(request: Any, side: Side) -> None:
    """Programs that are started later enter it, and the container's root has rights in it."""
    kind = "auto" if "root" in request.node.callspec.id else "keep-id"
    side.ok("network", "create", "front")
    more = ("--userns", kind, "--network", "front", "--cap-add", "NET_ADMIN", "-u", "0")
    side.start("server", "--network", "front", command=SERVER)
    side.start("c", *more, "--sysctl", "net.core.somaxconn=77")
    assert side.sees("c", "server")
    assert side.ok("exec", "c", "cat", "/proc/sys/net/core/somaxconn") == "77"
    side.ok("exec", "c", "ip", "link", "set", "eth0", "mtu", "1300")
    assert "mtu 1300" in side.ok("exec", "c", "ip", "link", "show", "eth0")
    assert side.ok("exec", "c", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    side.ok("restart", "-t", "0", "c")
    assert side.sees("c", "server")
    side.ok("rm", "-f", "-t", "0", "c", "server")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [line for line in mounts if str(side.store) in line and "/bundle/" in line] == []


@pytest.mark.skipif(os.environ.get("LAMINA_RUNTIME", "runc") != "runc", reason="it is about runc")
def test_runc_cannot_enter_a_network_of_another_user_namespace(root: Side) -> None:
    root.start("other", "--network", "none")
    root.start("c", "--userns", "auto", "--network", "container:other")
    done = root("exec", "c", "true")
    assert (done.code, done.err.count("\n")) == (7, 0)
    assert "its network does not belong to its user namespace" in done.err
    assert root("exec", "other", "true").code == 0


def test_another_store_with_a_network_of_the_same_name_takes_nothing_away(root: Side, tmp_path: Path) -> None:
    store = tmp_path / "other"
    subprocess.run(["cp", "-a", root.store, store], check=True)
    other = Side(store, lambda *words, **more: lamina(*words, root=store, **more))
    try:
        for side in (root, other):
            side.ok("network", "create", "front")
            side.start("web", "--network", "front")
        subnet = root.address("web", "front").rpartition(".")[0]
        before = _rules(subnet)
    finally:
        other.clean()
    assert _rules(subnet) == before != []


def _rules(subnet: str) -> list[str]:
    """The lines of the table nat for the network of a subnet."""
    saved = subprocess.run(["iptables-save", "-t", "nat"], capture_output=True, check=True).stdout.decode()
    (chain,) = re.findall(rf"-A POSTROUTING -s {subnet}\S* -j (\S+)", saved)
    return [line for line in saved.splitlines() if f"-A {chain} " in line]
