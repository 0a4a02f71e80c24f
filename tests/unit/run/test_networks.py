"""Networks with names, the pure parts: words of the command line, addresses, records."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import Conflict, StoreDamaged, UsageError
from lamina.run.networks import addresses
from lamina.run.networks.connection import resolv_conf
from lamina.run.networks.names import question, renamed
from lamina.run.networks.record import Network, Subnet, from_json, parse_network_name, to_json
from lamina.run.networks.rules import guard_rules
from lamina.run.networks.syntax import parse_networks
from lamina.run.options import NetworkEndpoint


@pytest.mark.parametrize(
    ("words", "kind", "networks"),
    [
        (("host",), "host", ()),
        (("none", "host"), "host", ()),  # the last one counts
        (("container:x",), "container:x", ()),
        (("front",), "", (NetworkEndpoint("front"),)),
        (("front,back",), "", (NetworkEndpoint("front"), NetworkEndpoint("back"))),
        (("front", "back"), "", (NetworkEndpoint("front"), NetworkEndpoint("back"))),
        (
            ("front:ip=10.1.0.9,alias=a,alias=b,mac=02-00-00-00-00-0A",),
            "",
            (NetworkEndpoint("front", ("a", "b"), "10.1.0.9", "", "02:00:00:00:00:0a"),),
        ),
        (("name=front,alias=a,ip6=fd00::9",), "", (NetworkEndpoint("front", ("a",), "", "fd00::9"),)),
        (("front:ip=fd00::9",), "", (NetworkEndpoint("front", (), "", "fd00::9"),)),
    ],
)
def test_networks_are_read_in_dockers_and_podmans_forms(
    words: tuple[str, ...], kind: str, networks: tuple[NetworkEndpoint, ...]
) -> None:
    assert parse_networks(words) == (kind, networks)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("host", "front"), "can't be combined"),
        (("front", "front"), "is given twice"),
        (("front:color=red",), "unknown option 'color'"),
        (("front:ip",), "is not KEY=VALUE"),
        (("front:ip=10.1.0",), "is not an address"),
        (("front:mac=03:00:00:00:00:01",), "the address of a group"),
        (("front:alias=a b",), "is not a network alias"),
        (("../front",), "is not the name of a network"),
        (("",), ""),
    ],
)
def test_invalid_networks_are_refused(words: tuple[str, ...], said: str) -> None:
    if words == ("",):
        assert parse_networks(words) == ("", ())
        return
    with pytest.raises(UsageError, match=said):
        parse_networks(words)


def test_aliases_and_addresses_need_networks_with_names() -> None:
    with pytest.raises(UsageError, match="--ip needs a network with a name"):
        parse_networks(("none",), ip="10.0.0.1")
    with pytest.raises(UsageError, match="are for one network"):
        parse_networks(("a", "b"), ip="10.0.0.1")
    assert parse_networks(("a", "b"), ("x",))[1] == (NetworkEndpoint("a", ("x",)), NetworkEndpoint("b", ("x",)))


@pytest.mark.parametrize(
    "name", ["host", "none", "bridge", "podman", "pasta", "aardvark.pid", "", "-a", "a/b", "a" * 201]
)
def test_names_that_no_network_gets(name: str) -> None:
    with pytest.raises(UsageError):
        parse_network_name(name)


@given(st.integers(0, 1 << 32), st.lists(st.integers(0, 42751), max_size=30))
def test_a_chosen_subnet_overlaps_no_other(start: int, numbers: list[int]) -> None:
    taken = [ip_network((0x0A590000 + number * 256, 24)) for number in numbers] + [ip_network("10.128.0.0/9")]
    found = addresses.free_subnet(taken, start)
    assert not any(found.overlaps(one) for one in taken)
    assert found.subnet_of(ip_network("10.0.0.0/8"))


def test_no_subnet_is_free() -> None:
    with pytest.raises(Conflict, match="no subnet is free"):
        addresses.free_subnet([ip_network("10.0.0.0/8")], 7)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((("10.1.0.0/31",), (), ()), "has no address for a container"),
        ((("10.1.0.1/24",), (), ()), "is not a subnet"),
        ((("10.1.0.0",), (), ()), "is not a subnet"),
        ((("fd00::%a\nb/64",), (), ()), "is not a subnet"),
        ((("127.0.0.0/8",), (), ()), "that no container can have"),
        ((("127.5.0.0/16",), (), ()), "that no container can have"),
        ((("0.0.0.0/0",), (), ()), "that no container can have"),
        ((("255.255.255.0/24",), (), ()), "that no container can have"),
        ((("::/0",), (), ()), "that no container can have"),
        ((("ff02::/64",), (), ()), "that no container can have"),
        ((("fd00::/64",), ("fd00::9%a\nb",), ()), "is not an address"),
        ((("10.1.0.0/24", "10.1.0.0/25"), (), ()), "overlaps"),
        ((("10.1.0.0/24",), ("10.2.0.1",), ()), "is in no subnet"),
        ((("10.1.0.0/24",), ("10.1.0.255",), ()), "is not the address of a host"),
        ((("10.1.0.0/24",), (), ("10.1.0.9-10.1.0.3",)), "is empty"),
        ((("10.1.0.0/24",), (), ("10.1.0.0/23",)), "is not in the subnet"),
    ],
)
def test_impossible_subnets_are_refused(given: tuple[tuple[str, ...], ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        addresses.ipam(*given)


def test_addresses_are_given_in_order_and_once() -> None:
    (subnet,) = addresses.ipam(("10.1.0.0/29",), (), ())
    network = Network("n", "1", subnets=(subnet,))
    taken: set[str] = set()
    for number in range(2, 7):
        (found,) = addresses.allocate(network, taken)
        assert found == f"10.1.0.{number}/29"
        taken.add(found.partition("/")[0])
    with pytest.raises(Conflict, match="has no free address"):
        addresses.allocate(network, taken)
    with pytest.raises(Conflict, match="is in use"):
        addresses.allocate(network, taken, ("10.1.0.3",))
    assert addresses.allocate(network, taken - {"10.1.0.3"}) == ["10.1.0.3/29"]


def test_a_record_is_read_as_it_was_written() -> None:
    network = Network(
        "n", "ab", "bridge", "lam0", (Subnet("10.1.0.0/24", "10.1.0.1"),), labels=(("a", "b"),), created=5.0
    )
    assert from_json(to_json(network), "n") == network


RECORD = to_json(Network("n", "1", interface="lam1", subnets=(Subnet("10.1.0.0/24", "10.1.0.1"),)))
DAMAGED: list[Any] = [
    *(None, [], {}, {"version": 2}, {"version": 1, "name": "n"}),
    *({**RECORD, "interface": value} for value in (5, None, "../x", "a b", "x" * 16, "-j", "..\n")),
    *({**RECORD, "driver": value} for value in (5, "\ud800")),
    *({**RECORD, "internal": value} for value in (5, "false", None)),
    *({**RECORD, "created": value} for value in (-1, float("inf"), float("nan"), "now", [["a"]])),
    *({**RECORD, "subnets": value} for value in (5, ["10.1.0.0/24"])),
    *({**RECORD, "subnets": [{"subnet": value}]} for value in ("zzz", "10.1.0.1/24", 5)),
    *(
        {**RECORD, "subnets": [{"subnet": "10.1.0.0/24", **more}]}
        for more in ({"gateway": "q"}, {"gateway": "10.2.0.1"})
    ),
    {**RECORD, "subnets": [{"subnet": "10.1.0.0/24", "first": "fd00::1", "last": "fd00::2"}]},
    {**RECORD, "dns_servers": ["1.1.1.1 x"]},
    {**RECORD, "labels": [["a"]]},
    {**RECORD, "options": [["mtu", "\ud800"]]},
]


@pytest.mark.parametrize("value", DAMAGED)
def test_a_damaged_record_says_how_to_remove_it(value: object) -> None:
    with pytest.raises(StoreDamaged, match="the record of the network 'n' is damaged") as error:
        from_json(value, "n")
    assert "lamina network rm n" in str(error.value.hint)


def test_an_internal_bridge_is_closed_in_both_directions() -> None:
    network = Network("n", "1", interface="lam1", subnets=(Subnet("10.1.0.0/24"), Subnet("fd00::/64")), internal=True)
    found = [(rule[0], *rule[3:8]) for rule in guard_rules(network)]
    assert found == [
        (program, *rule)
        for program in ("ip6tables", "iptables")
        for rule in (("-i", "lam1", "!", "-o", "lam1"), ("-o", "lam1", "!", "-i", "lam1"))
    ]


def test_a_question_for_a_name_is_as_the_rfc_says() -> None:
    assert question("db", 1)[12:] == b"\x02db\0\0\x01\0\x01"


def test_without_name_servers_of_networks_the_hosts_are_kept() -> None:
    assert resolv_conf((), "nameserver 192.0.2.1\n") == "nameserver 192.0.2.1\n"
    assert resolv_conf(("10.1.0.1",), "nameserver 192.0.2.1\n") == "nameserver 10.1.0.1\n"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ID 10.0.0.2  old,old,1234", "ID 10.0.0.2  new,1234"),
        ("ID 10.0.0.2 fd00::2 old 10.0.0.9", "ID 10.0.0.2 fd00::2 new,1234 10.0.0.9"),
        ("OTHER 10.0.0.2  old,1234", "OTHER 10.0.0.2  old,1234"),
        ("ID 10.0.0.2", "ID 10.0.0.2"),
        ("10.0.0.1,fd00::1 1.1.1.1", "10.0.0.1,fd00::1 1.1.1.1"),
        ("", ""),
    ],
)
def test_a_line_of_the_name_server_gets_the_new_names_of_its_container(line: str, wanted: str) -> None:
    assert renamed(line, "ID", ["new", "1234"]) == wanted
