"""The words of EXPOSE, by docker's rules."""

from __future__ import annotations

import pytest

from lamina.build.dockerfile.ports import exposed_ports
from lamina.errors import UsageError

PORTS = [
    ("80", ["80/tcp"]),
    ("80/", ["80/tcp"]),
    ("80/UDP", ["80/udp"]),
    ("53/sctp", ["53/sctp"]),
    ("8000-8002", ["8000/tcp", "8001/tcp", "8002/tcp"]),
    ("7-7/udp", ["7/udp"]),
    ("0", ["0/tcp"]),
    ("65535", ["65535/tcp"]),
    ("8080:80", ["80/tcp"]),
    ("8000-8001:80-81", ["80/tcp", "81/tcp"]),
    ("8000-8009:80", ["80/tcp"]),
    ("127.0.0.1:8080:80/udp", ["80/udp"]),
    ("[::1]:8080:80", ["80/tcp"]),
    ("::1:8080:80", ["80/tcp"]),
    (":80", ["80/tcp"]),
    ("+80", ["80/tcp"]),
]


@pytest.mark.parametrize(("word", "expected"), PORTS)
def test_ports(word: str, expected: list[str]) -> None:
    assert exposed_ports([word]) == expected


@pytest.mark.parametrize(
    "word",
    [
        "",
        "/tcp",
        "80/icmp",
        "x",
        "65536",
        "-1",
        "80-70",
        "1-2-3",
        "8000-8002:80-81",
        "nohost:1:80",
        "\u0668",
        "80:",
        "9" * 30,
    ],
)
def test_texts_that_are_not_a_port(word: str) -> None:
    with pytest.raises(UsageError):
        exposed_ports([word])
