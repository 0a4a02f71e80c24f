"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go's clients read them."""

from __future__ import annotations

import pytest

from lamina.remote.proxy import is_direct, proxy_for


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "reg.corp.test", 443, False),
        ("*", "reg.corp.test", 443, True),
        ("x.test, *", "reg.corp.test", 443, True),
        ("corp.test", "corp.test", 443, True),
        ("corp.test", "reg.corp.test", 443, True),
        ("corp.test", "mycorp.test", 443, False),
        (".corp.test", "reg.corp.test", 443, True),
        (".corp.test", "corp.test", 443, False),
        ("*.corp.test", "a.reg.corp.test", 443, True),
        ("*.corp.test", "corp.test", 443, False),
        ("REG.Corp.test", "reg.corp.test", 443, True),
        ("reg.corp.test", "Reg.Corp.Test.", 443, True),
        ("reg.corp.test:443", "reg.corp.test", 443, True),
        ("reg.corp.test:5000", "reg.corp.test", 443, False),
        (".corp.test:5000", "reg.corp.test", 5000, True),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        (" 10.0.0.0/8 ,x", "10.1.2.3", 80, True),
        ("10.0.0.5/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("10.0.0.0/8", "10.corp.test", 80, False),
        ("10.0.0.0/8:80", "10.1.2.3", 80, False),
        ("10.1.2.3", "10.1.2.3", 80, True),
        ("10.1.2.3:5000", "10.1.2.3", 5000, True),
        ("10.1.2.3:5000", "10.1.2.3", 80, False),
        ("1.2.3", "10.1.2.3", 80, False),
        (".3", "10.1.2.3", 80, False),
        ("fd00::/8", "fd00::1", 80, True),
        ("[fd00::1]:5000", "fd00::1", 5000, True),
        ("[fd00::1]:5000", "[fd00::1]", 80, False),
        ("fd00:0::1", "[fd00::1]", 80, True),
        (":80", "reg.corp.test", 80, False),
        (",,", "reg.corp.test", 80, False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, port: int, direct: bool) -> None:
    assert is_direct(no_proxy, host, port) is direct


def test_variables_in_capitals_come_first_and_a_scheme_is_added() -> None:
    environ = {"HTTPS_PROXY": "big:1", "https_proxy": "http://small:1", "http_proxy": "http://plain:1"}
    assert proxy_for("https", "reg.test", None, environ) == "http://big:1"
    assert proxy_for("http", "reg.test", None, environ) == "http://plain:1"
    assert proxy_for("https", "reg.test", None, {**environ, "no_proxy": "reg.test:443"}) is None
    assert proxy_for("https", "reg.test", 8443, {**environ, "no_proxy": "reg.test:443"}) == "http://big:1"
    assert proxy_for("ftp", "reg.test", None, {"ALL_PROXY": "http://all:1"}) == "http://all:1"


def test_loopback_and_scripts_of_web_servers_have_no_proxy() -> None:
    environ = {"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:1"}
    assert proxy_for("http", "127.0.0.1", 5000, environ) is None
    assert proxy_for("http", "localhost", 5000, environ) is None
    assert proxy_for("http", "reg.test", None, {**environ, "REQUEST_METHOD": "GET"}) is None
    assert proxy_for("https", "reg.test", None, {**environ, "REQUEST_METHOD": "GET"}) == "http://p:1"
