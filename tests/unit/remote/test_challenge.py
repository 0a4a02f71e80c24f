"""Parsing of challenges, tokens, scopes and realms, by table."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidContent, InvalidDocument
from lamina.remote.challenge import (
    Challenge,
    check_realm,
    merge_scopes,
    parse_challenges,
    parse_token,
    scope,
)

TABLE = [
    (['Basic realm="x"'], [("basic", {"realm": "x"})]),
    (
        ['Bearer realm="https://auth.example.com/token",service="reg",scope="repository:a/b:pull,push"'],
        [
            (
                "bearer",
                {"realm": "https://auth.example.com/token", "service": "reg", "scope": "repository:a/b:pull,push"},
            )
        ],
    ),
    # several in one header, and several headers
    (['Bearer realm="r", Basic realm="b"'], [("bearer", {"realm": "r"}), ("basic", {"realm": "b"})]),
    (["Negotiate", 'Basic realm="b"'], [("negotiate", {}), ("basic", {"realm": "b"})]),
    (['Negotiate, Basic realm="b"'], [("negotiate", {}), ("basic", {"realm": "b"})]),
    (["NTLM TlRMTVNTUAAB==, Basic realm=b"], [("ntlm", {}), ("basic", {"realm": "b"})]),
    # case, spaces around =, no quotes, escapes, a missing closing quote
    (['BEARER Realm = "r" , SERVICE=s'], [("bearer", {"realm": "r", "service": "s"})]),
    ([r'Bearer realm="a\"b,c",service=""'], [("bearer", {"realm": 'a"b,c', "service": ""})]),
    (['Bearer realm="open'], [("bearer", {"realm": "open"})]),
    # the first of two equal keys counts
    (['Bearer realm="a",realm="b"'], [("bearer", {"realm": "a"})]),
    # junk is passed over, what follows counts
    (['"junk", Bearer realm="r"'], [("bearer", {"realm": "r"})]),
    (['=, Bearer realm="r"'], [("bearer", {"realm": "r"})]),
    ([""], []),
    (["   ,,, "], []),
    (["x" * 20_000], []),
]


@pytest.mark.parametrize(("headers", "expected"), TABLE)
def test_challenges(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(headers) == tuple(Challenge(scheme, values) for scheme, values in expected)


@given(st.text(alphabet=' ,="\\aB/:\x00é', max_size=60))
def test_a_malformed_challenge_never_raises(text: str) -> None:
    for challenge in parse_challenges([text]):
        assert challenge.scheme == challenge.scheme.lower()


@pytest.mark.parametrize(
    ("body", "value", "life"),
    [
        (b'{"token":"a"}', "a", 60),
        (b'{"access_token":"b","expires_in":300}', "b", 300),
        (b'{"token":"a","access_token":"b","expires_in":5}', "a", 60),  # less than a minute counts as one
        (b'{"token":"a","expires_in":null,"issued_at":"2199-01-01T00:00:00Z"}', "a", 60),
        (b'{"token":"a","expires_in":99999999999999}', "a", 60),
    ],
)
def test_tokens(body: bytes, value: str, life: float) -> None:
    token = parse_token(body, 1000.0, "t")
    assert (token.value, token.expires) == (value, 1000.0 + life)
    assert value not in repr(token).replace("Token", "").replace("until", "")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"token":""}', b'{"token":"a b"}', b'{"token":"\\n"}']
)
def test_answers_without_a_token_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidDocument, match="the answer"):
        parse_token(body, 0.0, "the answer")


def test_how_large_headers_and_answers_may_be() -> None:
    def header(size: int) -> str:
        return 'Bearer realm="' + "r" * (size - 15) + '"'

    for size in (1000, 16384):
        (found,) = parse_challenges([header(size)])
        assert len(found.parameters["realm"]) == size - 15
    assert parse_challenges([header(16385)]) == ()
    start, end = b'{"token":"a","pad":"', b'"}'
    for size in (1 << 20, (1 << 20) + 1):
        body = start + b"x" * (size - len(start) - len(end)) + end
        if size == 1 << 20:
            assert parse_token(body, 0.0, "t").value == "a"
        else:
            with pytest.raises(InvalidDocument, match="can't be read"):
                parse_token(body, 0.0, "t")


@pytest.mark.parametrize(
    ("stated", "life"),
    [
        (59, 60),
        (60, 60),
        (61, 61),
        (10**9 - 1, 10**9 - 1),
        (10**9, 60),
        (True, 60),
        (-5, 60),
        ("300", 60),
        (299.5, 60),
    ],
)
def test_lives_of_tokens(stated: object, life: int) -> None:
    body = json.dumps({"token": "a", "expires_in": stated}).encode()
    assert parse_token(body, 5.0, "t").expires == 5.0 + life


def test_challenges_and_tokens_are_immutable() -> None:
    (challenge,) = parse_challenges(["Basic"])
    for value, field in ((challenge, "scheme"), (parse_token(b'{"token":"a"}', 0.0, "t"), "expires")):
        with pytest.raises(AttributeError):
            setattr(value, field, "x")


def test_scopes_that_are_none() -> None:
    assert merge_scopes([":pull", "", ":", "junk"]) == []


def test_scopes() -> None:
    assert scope("repository", "a/b", "pull") == "repository:a/b:pull"
    wanted = ["repository:host:5000/a:pull", "repository:b:pull,push", "repository:host:5000/a:push,pull", "junk"]
    assert merge_scopes(wanted) == ["repository:host:5000/a:pull,push", "repository:b:pull,push"]


@pytest.mark.parametrize(
    ("realm", "host", "plain", "allowed"),
    [
        ("https://auth.example.com/token", "example.com", False, True),
        ("http://127.0.0.1:5001/token", "127.0.0.1:5000", True, True),
        ("http://localhost/token", "127.0.0.1:5000", False, True),
        ("http://[::1]:5000/token", "localhost", False, True),
        ("http://auth.example.com/token", "example.com", False, False),
        ("http://auth.example.com/token", "example.com", True, False),
        ("http://example.com/token", "example.com", True, True),
        ("http://zebra.example/token", "example.com", True, False),
        ("http://a.example/token", "example.com", True, False),
        ("http://example.com:8080/token", "example.com:5000", True, True),
        ("http://example.com/token", "example.com", False, False),
        ("https://user:pw@auth.example.com/token", "example.com", False, False),
        ("ftp://auth.example.com/", "example.com", False, False),
        ("//auth.example.com", "example.com", False, False),
        ("", "example.com", False, False),
        ("wss://auth.example.com/token", "example.com", False, False),
        ("ws://localhost/token", "localhost:5000", True, False),
        ("ftp://localhost/token", "localhost:5000", True, False),
        ("gopher://localhost/token", "localhost:5000", True, False),
        ("https://@auth.example.com/token", "example.com", False, False),
        ("https:///token", "example.com", False, False),
        ("HTTPS://auth.example.com/token", "example.com", False, True),
        ("https://auth.example.com/tok\nen", "example.com", False, False),
        # what urlsplit raises ValueError for
        ("https://[::1", "example.com", False, False),
        ("https://[x]/token", "example.com", False, False),
        ("https://a\u2100b/token", "example.com", False, False),
        ("https://auth.example.com:99999/token", "example.com", False, False),
        ("https://auth example.com/token", "example.com", False, False),
        ("https://10.0.0.7/token", "example.com", False, True),
        # urllib3 connects to zebra.example
        ("https://zebra.example\\.example.com/token", "example.com", False, False),
        ("http://zebra.example\\.localhost/token", "example.com", False, False),
    ],
)
def test_realms(realm: str, host: str, plain: bool, allowed: bool) -> None:
    if allowed:
        check_realm(realm, host, plain)
    else:
        with pytest.raises(InvalidContent, match="only sent by https"):
            check_realm(realm, host, plain)
