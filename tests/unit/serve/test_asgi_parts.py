"""The pure parts of the HTTP server: proxies, metrics, log lines, conditions, addresses, where it may listen."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.cli.registry.serving import whole_service
from lamina.errors import Unsupported, UsageError
from lamina.serve.asgi.access_log import line_of, shown_target
from lamina.serve.asgi.callers import Callers
from lamina.serve.asgi.connection import common_name
from lamina.serve.asgi.exchange import Exchange
from lamina.serve.asgi.forwarded import Client, client_of, host_of, is_in, parse_networks
from lamina.serve.asgi.headers import Headers
from lamina.serve.asgi.listen import Address, parse_address
from lamina.serve.asgi.metrics import Metrics, added, render
from lamina.serve.conditions import is_known, range_of
from lamina.serve.exposure import check_exposure

PROXY = Client("10.0.0.1", "http", "inside:5000")
TRUSTED = parse_networks(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ({}, "10.0.0.1"),
        ({"x-forwarded-for": "203.0.113.9"}, "203.0.113.9"),
        ({"x-forwarded-for": "6.6.6.6, 203.0.113.9, 10.9.9.9"}, "203.0.113.9"),
        ({"x-forwarded-for": "10.1.1.1, 10.2.2.2"}, "10.1.1.1"),
        ({"x-forwarded-for": "6.6.6.6, nonsense, 10.9.9.9"}, "10.9.9.9"),
        ({"x-forwarded-for": "203.0.113.9:4711"}, "203.0.113.9"),
        ({"x-forwarded-for": "[2001:db8::1]:4711"}, "2001:db8::1"),
        ({"x-forwarded-for": "::ffff:203.0.113.9"}, "203.0.113.9"),
        ({"x-forwarded-for": 'fe80::1%"\x1b forged'}, "fe80::1"),
        ({"x-forwarded-for": ", ".join(["6.6.6.6"] * 100)}, "6.6.6.6"),
    ],
)
def test_the_client_behind_trusted_proxies(told: dict[str, str], address: str) -> None:
    assert client_of(PROXY, told, TRUSTED).address == address
    assert client_of(PROXY, told, ()) == replace(PROXY, relayed=bool(told))


def test_what_a_trusted_proxy_tells_of_the_address_is_checked() -> None:
    told = {"x-forwarded-proto": "https", "x-forwarded-host": "hub.example:8443"}
    assert client_of(PROXY, told, TRUSTED) == Client("10.0.0.1", "https", "hub.example:8443")
    told = {"x-forwarded-proto": "gopher", "x-forwarded-host": 'evil"/x'}
    assert client_of(PROXY, told, TRUSTED) == PROXY
    local = Client("", "http", "x")
    told = {"x-forwarded-for": "203.0.113.9"}
    assert client_of(local, told, TRUSTED) == replace(local, relayed=True)
    assert client_of(local, told, TRUSTED, trust_unix=True).address == "203.0.113.9"


def test_connections_of_an_address_are_counted_in_all_processes() -> None:
    parent = Callers(2, TRUSTED, processes=2)
    first, second = copy.copy(parent), copy.copy(parent)
    first.begin(0)
    second.begin(1)
    entered = [one.enter("203.0.113.9") for one in (first, second, first)]
    assert entered[0] is not None
    assert second.is_over(entered[0])
    other = first.enter("203.0.113.10")
    assert other is not None
    assert not first.is_over(other)
    assert first.enter("") is None  # a Unix socket
    assert first.enter("10.9.9.9") is None  # a trusted proxy
    assert first.enter("2001:db8::1") == first.enter("2001:db8::2")
    first.leave(entered[0])
    assert not second.is_over(entered[0])
    assert second.enter("::ffff:203.0.113.9") == entered[0]
    assert first.is_over(entered[0])
    second.begin(1)  # it was killed, and another process takes its place
    assert not first.is_over(entered[0])


@given(st.text(max_size=60))
def test_any_header_of_a_proxy_gives_an_address(text: str) -> None:
    found = client_of(PROXY, {"x-forwarded-for": text, "x-forwarded-host": text}, TRUSTED)
    assert found.address
    assert "\n" not in found.host


def test_networks() -> None:
    assert is_in("::ffff:10.1.1.1", TRUSTED)
    assert is_in("fd00::5", TRUSTED)
    assert not is_in("11.0.0.1", TRUSTED)
    assert not is_in("", TRUSTED)
    assert parse_networks(["unix"]) == ()
    with pytest.raises(UsageError, match="network"):
        parse_networks(["10.0.0.0/64"])


@pytest.mark.parametrize(
    ("text", "host"), [("a.b:5000", "a.b:5000"), ("[::1]:5", "[::1]:5"), ("a b", ""), ("a\r\nb", ""), ("", "")]
)
def test_hosts(text: str, host: str) -> None:
    assert host_of(text) == host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("localhost", Address("localhost", 5000)),
        ("[::1]:80", Address("::1", 80)),
        ("[::1]", Address("::1", 5000)),
        ("::1", Address("::1", 5000)),
        (":80", Address("0.0.0.0", 80)),
        ("unix:/run/x", Address(path="/run/x")),
        ("", None),
        ("host:99999", None),
        ("a b", None),
        ("unix:", None),
        ("http://x", None),
    ],
)
def test_addresses(text: str, expected: Address | None) -> None:
    if expected is None:
        with pytest.raises(UsageError):
            parse_address(text)
    else:
        assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("local", "tls", "plain", "writable", "users", "anonymous", "fine"),
    [
        (True, False, False, True, False, False, True),
        (False, False, False, False, False, False, False),
        (False, True, False, False, False, False, True),
        (False, False, True, False, False, False, True),
        (False, True, False, True, False, False, False),
        (False, True, False, True, True, False, True),
        (False, True, False, True, False, True, True),
        (False, False, False, True, True, True, False),
    ],
)
def test_where_a_server_may_listen(
    local: bool, tls: bool, plain: bool, writable: bool, users: bool, anonymous: bool, fine: bool
) -> None:
    def check() -> None:
        check_exposure(
            "a",
            local=local,
            tls=tls,
            plain_http=plain,
            writable=writable,
            has_users=users,
            anonymous_push=anonymous,
        )

    if fine:
        check()
    else:
        with pytest.raises(UsageError):
            check()


def exchange(**parts: object) -> Exchange:
    whole: dict[str, object] = {
        "method": "GET",
        "target": "/v2/",
        "client": Client("192.0.2.1", "http", ""),
        "headers": Headers([]),
        **parts,
    }
    return Exchange(**whole)  # type: ignore[arg-type]


@given(st.text(max_size=200), st.text(max_size=50), st.sampled_from(["json", "text"]))
def test_a_request_is_one_line_without_control_characters(target: str, user: str, form: str) -> None:
    agent = Headers([(b"user-agent", target.encode("latin-1", "replace"))])
    line = line_of(exchange(target=target, user=user, headers=agent), datetime.now(UTC), 0.5, form).decode()
    assert line.endswith("\n")
    assert all(letter >= " " and not "\x7f" <= letter < "\xa0" for letter in line[:-1])
    if form == "json":
        assert json.loads(line)["user"] == user


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/v2/", "/v2/"),
        ("/v2/a?digest=sha256:1&from=b", "/v2/a?digest=sha256:1&from=b"),
        ("/v2/a?_state=SECRET&n=3", "/v2/a?_state=...&n=3"),
        ("/token?password=SECRET&service=x", "/token?password=...&service=x"),
        ("/x?" + "&".join(["a=SECRET"] * 100), "/x?..."),
    ],
)
def test_secrets_in_a_url_are_not_shown(target: str, shown: str) -> None:
    assert shown_target(target) == shown


def test_metrics_as_text_and_added_up() -> None:
    first, second = Metrics(), Metrics()
    first.note("blob", "GET", 200, 0.02, 0, 500)
    first.note("blob", "FROB", 200, 400.0, 7, 0)
    second.note("blob", "GET", 200, 0.0001, 0, 1)
    total = added([first.series(), second.series()])
    text = render(total).decode()
    assert 'lamina_requests_total{kind="blob",method="GET",status="200"} 2\n' in text
    assert 'lamina_requests_total{kind="blob",method="other",status="200"} 1\n' in text
    assert 'lamina_sent_bytes_total{kind="blob"} 501\n' in text
    assert 'lamina_request_seconds_bucket{kind="blob",le="0.001"} 1\n' in text
    assert 'lamina_request_seconds_bucket{kind="blob",le="0.025"} 2\n' in text
    assert 'lamina_request_seconds_bucket{kind="blob",le="300.0"} 2\n' in text
    assert 'lamina_request_seconds_bucket{kind="blob",le="+Inf"} 3\n' in text
    assert 'lamina_request_seconds_count{kind="blob"} 3\n' in text
    assert text.count("# TYPE lamina_request_seconds histogram\n") == 1
    assert text.count("lamina_build_info{") == 1
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))


def test_headers_of_any_case_and_joined() -> None:
    found = Headers([(b"x-a", b"1"), (b"x-a", b"2"), (b"host", b"h")])
    assert found["X-A"] == "1, 2"
    assert "HOST" in found
    assert found.get("none") is None
    assert sorted(found) == ["host", "x-a"]


def test_conditions() -> None:
    tag = '"sha256:1"'
    for text in (tag, f"W/{tag}", f'"other", {tag}', "*", "sha256:1"):
        assert is_known({"If-None-Match": text}, tag)
    for text in ("", '"other"', '"sha256:11"'):
        assert not is_known({"If-None-Match": text}, tag)
    assert not is_known({}, tag)
    assert range_of({"Range": "bytes=0-1"}, tag) == "bytes=0-1"
    assert range_of({"Range": "bytes=0-1", "If-Range": tag}, tag) == "bytes=0-1"
    assert range_of({"Range": "bytes=0-1", "If-Range": '"other"'}, tag) is None
    assert range_of({"Range": "bytes=0-1", "If-Range": "Sun, 29 Nov 2026 15:12:51 GMT"}, tag) is None


def test_the_name_in_a_certificate() -> None:
    subject = ((("countryName", "DE"),), (("commonName", "alice"),))
    assert common_name({"subject": subject}) == "alice"
    assert common_name({"subject": ()}) == ""
    assert common_name(None) == ""


def test_a_package_that_is_missing_in_the_extra_is_named() -> None:
    with pytest.raises(Unsupported, match="anyio is missing") as caught, whole_service():
        raise ModuleNotFoundError("No module named 'anyio.abc'", name="anyio.abc".partition(".")[0])
    assert "pip install 'lamina[serve]'" in str(caught.value)
    with pytest.raises(ModuleNotFoundError), whole_service():
        raise ModuleNotFoundError("No module named 'lamina.none'", name="lamina.none")
