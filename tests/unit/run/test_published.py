"""Published ports, pure: docker's syntax of -p and --expose, and how docker shows ports."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import UsageError
from lamina.run.host_gateway import own_address
from lamina.run.options import ContainerOptions, Port
from lamina.run.published.shown import (
    Binding,
    exposed_ports,
    from_json,
    port_bindings,
    port_map,
    table_cell,
    to_json,
)
from lamina.run.published.syntax import MAX_PORTS, all_ports, expand_exposed, parse_published


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("8080:80",), (Port(80, 8080),)),
        (("80",), (Port(80),)),
        (("80/udp",), (Port(80, protocol="udp"),)),
        (("0:80",), (Port(80),)),
        ((":80",), (Port(80),)),
        (("127.0.0.1:8080:80",), (Port(80, 8080, "127.0.0.1"),)),
        (("127.0.0.1::80",), (Port(80, 0, "127.0.0.1"),)),
        (("127.0.0.1:53:53/UDP",), (Port(53, 53, "127.0.0.1", "udp"),)),
        (("[::1]:8080:80",), (Port(80, 8080, "::1"),)),
        (("::1:8080:80",), (Port(80, 8080, "::1"),)),
        (("[fd00:0::2]::80/sctp",), (Port(80, 0, "fd00::2", "sctp"),)),
        (("[::ffff:127.0.0.1]:1:1",), (Port(1, 1, "127.0.0.1"),)),
        (("8000-8002:80-82",), (Port(80, 8000), Port(81, 8001), Port(82, 8002))),
        (("80-81",), (Port(80), Port(81))),
        (("8000-8010:80",), (Port(80, 8000, host_last=8010),)),
        (("8000-8000:80",), (Port(80, 8000),)),
        (("80:80", "80:80/tcp", "80:80/udp"), (Port(80, 80), Port(80, 80, protocol="udp"))),
        (("127.0.0.1:80:80", "127.0.0.2:80:80"), (Port(80, 80, "127.0.0.1"), Port(80, 80, "127.0.0.2"))),
        (("0.0.0.0:80:80", "[::]:80:80"), (Port(80, 80, "0.0.0.0"), Port(80, 80, "::"))),
    ],
)
def test_ports_are_parsed_as_docker_does(words: tuple[str, ...], expected: tuple[Port, ...]) -> None:
    assert parse_published(words) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("",), "is not a port"),
        (("abc",), "is not a port"),
        (("70000:80",), "'70000' is not a port"),
        (("80:65536",), "'65536' is not a port"),
        (("80:0",), "'0' is not a port"),
        (("80:",), "is not a port"),
        (("-1:80",), "is not a port"),
        (("80:80/icmp",), "unknown protocol"),
        (("80/",), "unknown protocol"),
        (("1.2.3:80:80",), "'1.2.3' is not an address"),
        (("localhost:80:80",), "is not an address"),
        (("[]:80:80",), "no address in brackets"),
        (("[::1:80:80",), "is not an address"),
        (("224.0.0.1:80:80",), "is not the address of one host"),
        (("fe80::1%eth0:80:80",), "is not the address of one host"),
        (("8000-8001:80-82",), "differ in length"),
        (("8000:80-82",), "differ in length"),
        (("90-80:90-80",), "is not a range"),
        (("0-5:80",), "is not a range"),
        (("٣:٣",), "is not a port"),
        (("80:80", "127.0.0.1:80:81"), "published twice"),
        (("80:80", "80:81"), "published twice"),
        (("0.0.0.0:80:80", "127.0.0.1:80:80"), "published twice"),
        (("1-5000:1-5000",), f"more than {MAX_PORTS}"),
        (("1-65535",), f"more than {MAX_PORTS}"),
    ],
)
def test_what_is_not_a_port_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_published(words)


@given(st.text(alphabet="0123456789:-/.[]abtcpudp %", max_size=30))
def test_any_word_is_parsed_or_refused(word: str) -> None:
    try:
        found = parse_published([word])
    except UsageError:
        return
    assert all(0 < port.port < 1 << 16 and 0 <= port.host_port < 1 << 16 for port in found)


def test_publish_all_takes_what_is_exposed_and_not_published_yet() -> None:
    wanted = ContainerOptions(ports=(Port(80, 8080),), publish_all=True, expose=("90-91", "53/udp"))
    assert all_ports(wanted, {"80/tcp": {}, "443/tcp": {}}) == (
        Port(80, 8080),
        Port(443),
        Port(90),
        Port(91),
        Port(53, protocol="udp"),
    )
    assert all_ports(ContainerOptions(expose=("90",)), {"80/tcp": {}}) == ()
    assert len(all_ports(ContainerOptions(publish_all=True), [f"1-{MAX_PORTS}"])) == MAX_PORTS
    with pytest.raises(UsageError, match="more than 4096 ports"):
        all_ports(ContainerOptions(publish_all=True), [f"1-{MAX_PORTS + 1}"])


def test_ports_without_an_address_get_the_default_one() -> None:
    wanted = ContainerOptions(
        ports=(Port(80, 8080), Port(81, 81, "0.0.0.0"), Port(82, 90, host_last=99)), publish_address="127.0.0.1"
    )
    assert all_ports(wanted, ()) == (
        Port(80, 8080, "127.0.0.1"),
        Port(81, 81, "0.0.0.0"),
        Port(82, 90, "127.0.0.1", host_last=99),
    )


def test_what_an_image_exposes_may_be_anything() -> None:
    words = ("80", "81/TCP", "", "0", "65536", "x/udp", "9-8", "53/icmp", "1-70000", "7-8/udp")
    assert expand_exposed(words) == [(80, "tcp"), (81, "tcp"), (7, "udp"), (8, "udp")]
    assert len(expand_exposed(["1-65535", "1-65535/udp"])) == MAX_PORTS


FOUR, SIX = "0.0.0.0", "::"


def test_the_column_of_ps_is_dockers() -> None:
    both = [Binding(FOUR, 8080, 80), Binding(SIX, 8080, 80)]
    assert table_cell(both) == "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
    assert table_cell([], ["80/tcp", "443/tcp", "81/tcp", "53/udp"]) == "80-81/tcp, 53/udp, 443/tcp"
    same = [Binding(FOUR, number, number) for number in (80, 81, 82, 90)]
    assert table_cell(same, ["80/tcp", "70"]) == "0.0.0.0:80-82->80-82/tcp, 70/tcp, 0.0.0.0:90->90/tcp"
    assert table_cell([Binding("127.0.0.1", 53, 53, "udp")]) == "127.0.0.1:53->53/udp"
    assert table_cell([]) == ""


def test_inspect_has_dockers_forms() -> None:
    bound = [Binding(FOUR, 8080, 80), Binding(SIX, 8080, 80)]
    assert port_map(bound, ["80/tcp", "443"]) == {
        "443/tcp": None,
        "80/tcp": [{"HostIp": FOUR, "HostPort": "8080"}, {"HostIp": SIX, "HostPort": "8080"}],
    }
    wanted = ContainerOptions(ports=(Port(80, 8080), Port(81), Port(82, 90, "::1", "udp", 99)), expose=("7",))
    assert port_bindings(wanted) == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "81/tcp": [{"HostIp": "", "HostPort": ""}],
        "82/udp": [{"HostIp": "::1", "HostPort": "90-99"}],
    }
    assert list(exposed_ports(wanted, ["443"])) == ["443/tcp", "7/tcp", "80/tcp", "81/tcp", "82/udp"]


def test_bindings_survive_a_file_and_damage() -> None:
    bound = (Binding(FOUR, 8080, 80), Binding("::1", 53, 53, "udp"))
    assert from_json(to_json(bound)) == bound
    assert from_json([*to_json(bound), None, {}, {"host_ip": 1}, {"host_port": True}]) == bound
    assert from_json({"ports": 1}) == ()


ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ("eth0\t00000000\t010200C0\t3\t0\t0\t0\t00000000\n", "10.0.2.100"),
        ("eth0\t0002000A\t00000000\t1\t0\t0\t0\t00FFFFFF\n", "10.113.2.100"),
        ("eth0\t0F02000A\t00000000\t1\t0\t0\t0\tFFFFFFFF\n", "10.113.2.100"),
        ("eth0\t0000000A\t00000000\t1\t0\t0\t0\t000000FF\n", "172.29.2.100"),
        ("nonsense\n", "10.0.2.100"),
        ("", "10.0.2.100"),
    ],
)
def test_a_container_gets_an_address_where_this_host_has_no_route(routes: str, expected: str) -> None:
    found = own_address(ROUTES + routes)
    assert (found.address, found.gateway) == (expected, expected.removesuffix("100") + "2")
