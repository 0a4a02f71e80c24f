"""The kind of an error depends on its type or code, not on the text of its message."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping

import pytest
from urllib3 import exceptions

from lamina.errors import LaminaError, RemoteFailure, Unsupported
from lamina.remote import http
from lamina.remote.http import Answer, RequestFailed, joined
from unit.remote.test_auth import Web, answer, client

HOST = "reg.example.com"


def errors(status: int, code: str, message: str) -> Callable[[str, str, Mapping[str, str]], Answer]:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return lambda method, url, headers: answer(url, status, body)


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "UNSUPPORTED", "no", Unsupported),
        (405, "DENIED", "no", Unsupported),
        (501, "DENIED", "no", Unsupported),
        (400, "MANIFEST_INVALID", "UNSUPPORTED media type", RemoteFailure),
        (400, "NOT_UNSUPPORTED", "no", RemoteFailure),
    ],
)
def test_status_and_code_of_an_answer_decide_the_kind_of_error(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str, kind: type[LaminaError]
) -> None:
    web = Web(**{HOST: errors(status, code, message)})
    with pytest.raises(kind, match=f"{code} {message}"):
        client(web, monkeypatch).request("GET", "/v2/x")


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (404, "MANIFEST_BLOB_UNKNOWN", "push again"),
        (400, "MANIFEST_BLOB_UNKNOWN", "push again"),
        (404, "MANIFEST_UNKNOWN", "check the name"),
        (507, "UNKNOWN", "free space"),
    ],
)
def test_hints_name_what_helps(monkeypatch: pytest.MonkeyPatch, status: int, code: str, hint: str) -> None:
    web = Web(**{HOST: errors(status, code, "no")})
    with pytest.raises(LaminaError) as caught:
        client(web, monkeypatch).request("PUT", "/v2/x")
    assert hint in str(caught.value.hint)


def broken(**kinds: bool) -> Callable[[str, str, Mapping[str, str]], Answer]:
    def fails(method: str, url: str, headers: Mapping[str, str]) -> Answer:
        raise RequestFailed("broken", **kinds)

    return fails


class Schemes(Web):
    """One host that speaks each scheme in its way."""

    def __init__(self, **schemes: Callable[[str, str, Mapping[str, str]], Answer]) -> None:
        super().__init__()
        self.schemes = schemes

    def send(self, method: str, url: str, headers: Mapping[str, str], body: object = None, **more: object) -> Answer:
        return self.schemes[url.partition(":")[0]](method, url, headers)


GOOD = errors(200, "", "")
BAD = errors(400, "", "whatever")
NO_TLS, UNTRUSTED = broken(fatal=True, tls=True), broken(fatal=True, tls=True, untrusted=True)


@pytest.mark.parametrize(
    ("host", "plain", "secure", "expected"),
    [
        ("localhost:5000", GOOD, NO_TLS, "http"),
        ("localhost:5000", BAD, GOOD, "https"),  # a TLS port says 400 to plain http, in words of its own
        ("localhost:5000", BAD, BAD, "https"),
        ("localhost:5000", BAD, NO_TLS, "http"),  # one that answers so, but speaks nothing else
        ("localhost:5000", BAD, UNTRUSTED, ""),
        ("localhost:5000", broken(), GOOD, "https"),
        ("localhost:5000", broken(fatal=True), GOOD, ""),  # nobody listens
        (HOST, BAD, BAD, "https"),
        (HOST, BAD, NO_TLS, "http"),
        (HOST, broken(), UNTRUSTED, ""),
        ("localhost:5000", broken(), UNTRUSTED, ""),  # a TLS port that breaks off plain http
    ],
)
def test_which_scheme_a_host_speaks(
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    plain: Callable[[str, str, Mapping[str, str]], Answer],
    secure: Callable[[str, str, Mapping[str, str]], Answer],
    expected: str,
) -> None:
    one = client(Schemes(http=plain, https=secure), monkeypatch, host, insecure=host == HOST)
    if expected:
        assert one.base == f"{expected}://{host}"
    else:
        with pytest.raises(RemoteFailure) as error:
            _ = one.base
        assert ("certs.d" in str(error.value.hint)) is (secure is UNTRUSTED), "what helps is told"


@pytest.mark.parametrize(
    ("first", "asked"),
    [
        ([GOOD], 3),  # it restarts, and comes back
        ([], 1),  # it was never there
    ],
)
def test_a_registry_that_was_there_is_asked_again_where_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, first: list[Callable[[str, str, Mapping[str, str]], Answer]], asked: int
) -> None:
    answers = [*first, broken(fatal=True, refused=True), GOOD]
    seen: list[str] = []

    def speaks(method: str, url: str, headers: Mapping[str, str]) -> Answer:
        seen.append(url)
        return answers[len(seen) - 1](method, url, headers)

    one = client(Web(**{HOST: speaks}), monkeypatch, attempts=3)
    monkeypatch.setattr(one, "pause", lambda *_: None)
    if first:
        one.request("GET", "/v2/x").release()
        one.request("GET", "/v2/y").release()
    else:
        with pytest.raises(RemoteFailure):
            one.request("GET", "/v2/x")
    assert len(seen) == asked


def wrapped(inner: BaseException) -> exceptions.HTTPError:
    outer = exceptions.NewConnectionError(None, "words")  # type: ignore[arg-type]
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "fatal", "tls", "untrusted"),
    [
        (wrapped(ConnectionRefusedError(111, "nobody there")), True, False, False),
        (wrapped(OSError(113, "the route was refused")), False, False, False),
        (exceptions.SSLError(ssl.SSLCertVerificationError(1, "self-signed")), True, True, True),
        (exceptions.SSLError(ssl.SSLError(1, "a certificate of sorts")), True, True, False),
        (ssl.SSLCertVerificationError(1, "expired"), True, True, True),
    ],
)
def test_why_a_connection_broke(error: Exception, fatal: bool, tls: bool, untrusted: bool) -> None:
    found = http._in_words(error, f"https://{HOST}/v2/")
    assert found.refused is isinstance(error.__cause__, ConnectionRefusedError)
    assert (found.fatal, found.tls, found.untrusted) == (fatal, tls, untrusted)
    assert ("its certificate is not trusted" in str(found)) is untrusted


@pytest.mark.parametrize("target", ["https://zebra.example\\.registry.example/", "http://zebra.example\\.localhost/"])
def test_an_address_whose_host_has_two_readings_is_not_followed(target: str) -> None:
    with pytest.raises(RequestFailed, match="gives an invalid URL") as error:
        joined("https://registry.example/v2/", target)
    assert error.value.fatal
    assert joined("https://registry.example/v2/", "/a\\b") == "https://registry.example/a\\b"
