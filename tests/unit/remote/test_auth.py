"""Which hosts get a login, and how long a token is valid: a registry, its token server, redirects; in memory."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import urllib3

from lamina.errors import AccessDenied, InvalidContent, LaminaError, RemoteFailure
from lamina.remote import auth
from lamina.remote.auth import Authorizer, basic
from lamina.remote.challenge import DEFAULT_LIFE, Challenge
from lamina.remote.client import Access, Client
from lamina.remote.credentials import Credential
from lamina.remote.http import Answer

ME = Credential("me", "secret")
BASIC = "Basic " + base64.b64encode(b"me:secret").decode()
TOKEN = Credential("", "", "identity")
PULL = ("repository:app:pull",)


def answer(url: str, status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = urllib3.HTTPResponse(io.BytesIO(body), fields, status, preload_content=False)
    return Answer(raw, None, url)


class Web:
    """Hosts by name; each answers to (method, URL, headers). ``seen``: what was sent, in order."""

    def __init__(self, **hosts: Callable[[str, str, Mapping[str, str]], Answer]) -> None:
        self.hosts = {name.replace("_", "."): host for name, host in hosts.items()}
        self.seen: list[tuple[str, str, Mapping[str, str], Any]] = []
        self.elsewhere: set[str] = set()  # hosts that may not be on this machine

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        *,
        cancel: object = None,
        elsewhere: bool = False,
    ) -> Answer:
        if elsewhere:
            self.elsewhere.add(urlsplit(url).netloc)
        self.seen.append((method, url, headers, body))
        return self.hosts[urlsplit(url).netloc](method, url, headers)

    def close(self) -> None:
        pass

    def sent(self, host: str) -> list[str]:
        """The Authorization headers that a host has seen, "" for none."""
        return [h.get("Authorization", "") for _, url, h, _ in self.seen if urlsplit(url).netloc == host]


def token_server(method: str, url: str, headers: Mapping[str, str]) -> Answer:
    return answer(url, body=b'{"token":"good"}')


def registry(realm: str) -> Callable[[str, str, Mapping[str, str]], Answer]:
    def answers(method: str, url: str, headers: Mapping[str, str]) -> Answer:
        if headers.get("Authorization") == "Bearer good":
            return answer(url, body=b"content")
        return answer(url, 401, WWW_Authenticate=f'Bearer realm="{realm}",service="s"')

    return answers


def needs_login(method: str, url: str, headers: Mapping[str, str]) -> Answer:
    if headers.get("Authorization") == BASIC:
        return answer(url, body=b"content")
    return answer(url, 401, WWW_Authenticate='Basic realm="x"')


def leads_to(target: str, status: int = 307) -> Callable[[str, str, Mapping[str, str]], Answer]:
    return lambda method, url, headers: answer(url, status, Location=target)


def client(web: Web, monkeypatch: pytest.MonkeyPatch, host: str = "reg.example.com", **access: Any) -> Client:
    monkeypatch.setattr("lamina.remote.client.Transport", lambda **more: web)
    insecure = access.pop("insecure", False)
    return Client(host, Access(**{"attempts": 1, "first_wait": 0.0, **access}), insecure=insecure)


def logins(*hosts: str) -> Callable[[str, str], Credential | None]:
    return lambda host, path: ME if host in hosts else None


class TestRealms:
    def test_a_token_server_of_the_same_site_gets_the_login(self, monkeypatch: pytest.MonkeyPatch) -> None:
        web = Web(reg_example_com=registry("https://auth.example.com/token"), auth_example_com=token_server)
        one = client(web, monkeypatch, credential=logins("reg.example.com"))
        assert one.request("GET", "/v2/x", scopes=PULL).status == 200
        assert web.sent("auth.example.com") == [BASIC]
        assert web.sent("reg.example.com") == ["", "Bearer good"]

    @pytest.mark.parametrize("credential", [ME, TOKEN])
    def test_another_site_gets_nothing_and_the_error_names_the_setting(
        self, monkeypatch: pytest.MonkeyPatch, credential: Credential
    ) -> None:
        web = Web(reg_example_com=registry("https://auth.other.org/token"), auth_other_org=token_server)
        one = client(web, monkeypatch, given=credential)
        with pytest.raises(AccessDenied, match=r"sent to auth\.other\.org, which is another site") as caught:
            one.request("GET", "/v2/x", scopes=PULL)
        assert "login_hosts = 'reg.example.com=auth.other.org'" in str(caught.value)
        assert web.sent("auth.other.org") == []

    @pytest.mark.parametrize("credential", [ME, TOKEN])
    def test_a_token_server_of_another_site_gets_the_login_if_the_setting_allows_it(
        self, monkeypatch: pytest.MonkeyPatch, credential: Credential
    ) -> None:
        web = Web(reg_example_com=registry("https://auth.other.org/token"), auth_other_org=token_server)
        one = client(
            web, monkeypatch, given=credential, login_hosts=frozenset({("reg.example.com", "auth.other.org")})
        )
        assert one.request("GET", "/v2/x", scopes=PULL).status == 200
        ((method, url, headers, body),) = [item for item in web.seen if "auth.other.org" in item[1]]
        if credential is ME:
            assert (method, headers["Authorization"], body) == ("GET", BASIC, None)
            query = [("account", "me"), ("service", "s"), ("scope", "repository:app:pull")]
            assert parse_qsl(urlsplit(url).query) == query
        else:
            assert (method, "Authorization" in headers) == ("POST", False)
            form = {"grant_type": "refresh_token", "refresh_token": "identity", "client_id": "lamina"}
            assert dict(parse_qsl(body.decode())) == {**form, "service": "s", "scope": "repository:app:pull"}

    def test_without_a_login_any_token_server_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        web = Web(reg_example_com=registry("https://auth.other.org/token?a=b"), auth_other_org=token_server)
        assert client(web, monkeypatch).request("GET", "/v2/x", scopes=PULL).status == 200
        assert web.sent("auth.other.org") == [""]
        (url,) = (url for _, url, _, _ in web.seen if "auth.other.org" in url)
        assert urlsplit(url).query == "a=b&service=s&scope=repository%3Aapp%3Apull"

    @pytest.mark.parametrize("credential", [None, ME])
    def test_plain_http_elsewhere_is_refused_whatever_the_user_says(
        self, monkeypatch: pytest.MonkeyPatch, credential: Credential | None
    ) -> None:
        web = Web(reg_example_com=registry("http://auth.example.com/token"), auth_example_com=token_server)
        login_hosts = frozenset({("reg.example.com", "auth.example.com")})
        with pytest.raises(InvalidContent, match="only sent by https"):
            client(web, monkeypatch, given=credential, login_hosts=login_hosts).request("GET", "/v2/x", scopes=PULL)
        assert web.sent("auth.example.com") == []

    @pytest.mark.parametrize("status", [404, 405])
    def test_an_identity_token_falls_back_to_get_if_the_server_does_not_support_post(
        self, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        def old(method: str, url: str, headers: Mapping[str, str]) -> Answer:
            return answer(url, status) if method == "POST" else token_server(method, url, headers)

        web = Web(reg_example_com=registry("https://auth.example.com/token"), auth_example_com=old)
        assert client(web, monkeypatch, given=TOKEN).request("GET", "/v2/x", scopes=PULL).status == 200
        assert web.sent("auth.example.com") == ["", ""]

    @pytest.mark.parametrize(
        ("status", "given", "kind", "said"),
        [
            (401, ME, AccessDenied, "auth.example.com refuses the credential for reg.example.com"),
            (403, None, AccessDenied, "auth.example.com gives no anonymous token for reg.example.com"),
            (404, None, RemoteFailure, "gives no token for reg.example.com: status 404"),
            (300, None, RemoteFailure, "gives no token for reg.example.com: status 300"),
            (199, None, RemoteFailure, "gives no token for reg.example.com: status 199"),
            (403, TOKEN, AccessDenied, "auth.example.com refuses the credential for reg.example.com"),
        ],
    )
    def test_a_token_server_that_refuses(
        self,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        given: Credential | None,
        kind: type[LaminaError],
        said: str,
    ) -> None:
        refusing = leads_to("", status)
        web = Web(reg_example_com=registry("https://auth.example.com/token"), auth_example_com=refusing)
        with pytest.raises(kind) as caught:
            client(web, monkeypatch, given=given).request("GET", "/v2/x", scopes=PULL)
        assert type(caught.value) is kind
        assert said in str(caught.value)


class TestTokenServersThatRedirect:
    """Each of them has to be one that the login may go to."""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("target", ["https://new.example.com/token?x=y", "//new.example.com/token?x=y"])
    def test_a_token_request_redirected_within_the_site_keeps_the_login(
        self, monkeypatch: pytest.MonkeyPatch, status: int, target: str
    ) -> None:
        web = Web(
            reg_example_com=registry("https://auth.example.com/token"),
            auth_example_com=leads_to(target, status),
            new_example_com=token_server,
        )
        assert client(web, monkeypatch, given=ME).request("GET", "/v2/x", scopes=PULL).status == 200
        assert web.sent("new.example.com") == [BASIC]
        assert [url for _, url, _, _ in web.seen if "//new." in url] == ["https://new.example.com/token?x=y"]

    @pytest.mark.parametrize("credential", [ME, TOKEN])
    def test_a_token_request_redirected_to_another_site_has_no_login(
        self, monkeypatch: pytest.MonkeyPatch, credential: Credential
    ) -> None:
        web = Web(
            reg_example_com=registry("https://auth.example.com/token"),
            auth_example_com=leads_to("https://auth.other.org/token"),
            auth_other_org=token_server,
        )
        with pytest.raises(AccessDenied, match=r"sent to auth\.other\.org") as caught:
            client(web, monkeypatch, given=credential).request("GET", "/v2/x", scopes=PULL)
        assert "reg.example.com=auth.other.org" in str(caught.value)
        assert web.sent("auth.other.org") == []
        assert client(web, monkeypatch).request("GET", "/v2/x", scopes=PULL).status == 200  # anonymously

    @pytest.mark.parametrize("status", [307, 308])
    def test_an_identity_token_is_sent_where_its_form_is_sent(
        self, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        hosts = {"reg_example_com": registry("https://auth.example.com/token"), "new_example_com": token_server}
        web = Web(**hosts, auth_example_com=leads_to("https://new.example.com/token", status))
        assert client(web, monkeypatch, given=TOKEN).request("GET", "/v2/x", scopes=PULL).status == 200
        ((method, _, _, body),) = [item for item in web.seen if "new.example.com" in item[1]]
        assert (method, b"refresh_token=identity" in body) == ("POST", True)
        web = Web(**hosts, auth_example_com=leads_to("https://new.example.com/token", 302))
        with pytest.raises(RemoteFailure, match=r"gives no token for reg\.example\.com: status 302"):
            client(web, monkeypatch, given=TOKEN).request("GET", "/v2/x", scopes=PULL)
        assert web.sent("new.example.com") == []

    def test_token_requests_do_not_follow_plain_http_or_endless_redirects(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web = Web(
            reg_example_com=registry("https://auth.example.com/token"),
            auth_example_com=leads_to("http://auth.example.com/token"),
        )
        with pytest.raises(InvalidContent, match="only sent by https"):
            client(web, monkeypatch).request("GET", "/v2/x", scopes=PULL)
        web.hosts["auth.example.com"] = leads_to("/token")
        web.seen.clear()
        with pytest.raises(RemoteFailure, match="status 307"):
            client(web, monkeypatch).request("GET", "/v2/x", scopes=PULL)
        assert len(web.sent("auth.example.com")) == 5
        web.hosts["auth.example.com"] = leads_to("https://[x")
        with pytest.raises(RemoteFailure, match="gives an invalid URL"):
            client(web, monkeypatch).request("GET", "/v2/x", scopes=PULL)

    @pytest.mark.parametrize("status", [200, 201, 203, 299])
    def test_a_token_is_accepted_with_any_success_status(self, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
        web = Web(
            reg_example_com=registry("https://auth.example.com/token"),
            auth_example_com=lambda method, url, headers: answer(url, status, b'{"token":"good"}'),
        )
        assert client(web, monkeypatch).request("GET", "/v2/x", scopes=PULL).status == 200


class TestRedirects:
    def test_the_target_of_a_redirect_gets_no_login(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not the registry's, and not the one that the user has there: the registry chose where we are sent."""
        for target in ("cdn.other.org", "cdn.example.com"):
            web = Web(
                **{"reg.example.com": leads_to(f"https://{target}/v2/x"), target: needs_login},
            )
            one = client(web, monkeypatch, credential=logins("reg.example.com", target))
            with pytest.raises(AccessDenied, match=f"redirects to {target}, which requires a login") as caught:
                one.request("GET", "/v2/x", scopes=PULL)
            assert f"login_hosts = 'reg.example.com={target}'" in str(caught.value)
            assert web.sent(target) == [""]

    def test_whoever_a_registry_names_may_not_be_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        web = Web(
            reg_example_com=leads_to("https://cdn.other.org/v2/x"),
            cdn_other_org=registry("https://auth.third.net/token"),
            auth_third_net=token_server,
        )
        assert client(web, monkeypatch).request("GET", "/v2/x", scopes=PULL).status == 200
        assert web.elsewhere == {"cdn.other.org", "auth.third.net"}
        assert client(web, monkeypatch).request("GET", "https://reg.example.com/v2/", scopes=PULL).status == 200
        assert "reg.example.com" not in web.elsewhere
        near = Web(**{"localhost": leads_to("https://cdn.other.org/"), "cdn.other.org": needs_login})
        with pytest.raises(AccessDenied):
            client(near, monkeypatch, "localhost", tls_verify=True).request("GET", "/v2/x")
        assert near.elsewhere == set()

    @pytest.mark.parametrize("stored", [("reg.example.com",), ("reg.example.com", "cdn.other.org")])
    def test_the_target_of_a_redirect_gets_a_login_if_the_setting_allows_it(
        self, monkeypatch: pytest.MonkeyPatch, stored: tuple[str, ...]
    ) -> None:
        web = Web(reg_example_com=leads_to("https://cdn.other.org/v2/x"), cdn_other_org=needs_login)
        login_hosts = frozenset({("reg.example.com", "cdn.other.org")})
        asked: list[str] = []

        def credential(host: str, path: str) -> Credential | None:
            asked.append(host)
            return ME if host == stored[-1] else None

        one = client(web, monkeypatch, credential=credential, login_hosts=login_hosts)
        assert one.request("GET", "/v2/x", scopes=PULL).status == 200
        assert web.sent("cdn.other.org") == ["", BASIC]
        assert asked[0] == "cdn.other.org"

    def test_its_token_server_gets_none_unless_it_is_named_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hosts = {
            "reg_example_com": leads_to("https://cdn.other.org/v2/x"),
            "cdn_other_org": registry("https://auth.third.net/token"),
            "auth_third_net": token_server,
        }
        first = ("reg.example.com", "cdn.other.org")
        web = Web(**hosts)
        with pytest.raises(AccessDenied, match=r"sent to auth\.third\.net"):
            client(web, monkeypatch, given=ME, login_hosts=frozenset({first})).request("GET", "/v2/x")
        assert web.sent("auth.third.net") == []
        web = Web(**hosts)
        both = frozenset({first, ("reg.example.com", "auth.third.net")})
        assert client(web, monkeypatch, given=ME, login_hosts=both).request("GET", "/v2/x").status == 200
        assert web.sent("auth.third.net") == [BASIC]
        web = Web(**hosts)  # and without any login, it is asked like every other one
        assert client(web, monkeypatch).request("GET", "/v2/x").status == 200

    def test_a_later_refusal_of_the_registry_is_not_blamed_on_the_redirect_target(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web = Web(
            reg_example_com=leads_to("https://cdn.other.org/v2/x"),
            cdn_other_org=registry("https://auth.other.org/token"),
            auth_other_org=token_server,
        )
        one = client(web, monkeypatch)
        assert one.request("GET", "/v2/x").status == 200
        web.hosts["reg.example.com"] = needs_login
        with pytest.raises(AccessDenied, match=r"reg\.example\.com denies access") as caught:
            one.request("GET", "/v2/y")
        assert "lamina login reg.example.com" in str(caught.value)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_https_never_leads_to_plain_http(self, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
        web = Web(
            reg_example_com=leads_to("http://cdn.example.com/x", status), cdn_example_com=lambda m, u, h: answer(u)
        )
        with pytest.raises(RemoteFailure, match="redirects from https to plain http"):
            client(web, monkeypatch).request("GET", "/v2/x")
        assert web.sent("cdn.example.com") == []

    def test_plain_http_to_which_the_user_has_agreed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        web = Web(reg_example_com=leads_to("http://cdn.example.com/x"), cdn_example_com=lambda m, u, h: answer(u))
        one = client(web, monkeypatch, insecure=True)
        one._base_url = "https://reg.example.com"
        assert one.request("GET", "/v2/x").status == 200


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(auth.time, "monotonic", lambda: self.now)


def test_a_token_is_renewed_before_its_end_and_not_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, given = Clock(monkeypatch), []

    def exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        given.append(url)
        return answer(url, body=b'{"token":"t%d","expires_in":300}' % len(given))

    one = Authorizer("reg.example.com", lambda: None, exchange, plain=False)
    challenge = Challenge("bearer", {"realm": "https://auth.example.com/token"})
    assert one.header(PULL) == ""  # nobody has asked for one
    assert one.answer([challenge], PULL, "")
    assert (one.header(PULL), len(given)) == ("Bearer t1", 1)
    clock.now = 1000.0 + 300 - auth.MARGIN
    assert (one.header(PULL), len(given)) == ("Bearer t1", 1)
    clock.now += 0.5  # less than the margin is left: it could end on its way
    assert (one.header(PULL), len(given)) == ("Bearer t2", 2)
    assert 5 <= auth.MARGIN <= DEFAULT_LIFE / 2  # long enough for a request, and shorter than the shortest life


def test_a_token_is_used_only_for_its_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    given: list[str] = []

    def exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        given.append(dict(parse_qsl(urlsplit(url).query)).get("scope", ""))
        return answer(url, body=b'{"token":"t%d"}' % len(given))

    one = Authorizer("reg.example.com", lambda: None, exchange, plain=False)
    challenge = Challenge("bearer", {"realm": "https://auth.example.com/token", "scope": "registry:catalog:*"})
    assert one.answer([challenge], PULL, "")
    assert one.header(("repository:other:pull",)) == "Bearer t2"
    assert one.header(PULL) == "Bearer t1"
    assert one.answer([challenge], PULL, "Bearer t1")  # rejected: a fresh one
    assert one.header(PULL) == "Bearer t3"
    assert one.answer([challenge], PULL, "Bearer t1")  # another thread was faster
    assert one.header(PULL) == "Bearer t3"
    assert len(given) == 3
    assert not one.answer([], PULL, "")
    assert not one.answer([Challenge("negotiate", {})], PULL, "")


def test_a_token_that_was_rejected_is_not_tried_again() -> None:
    one = Authorizer(
        "reg.example.com", lambda: None, lambda method, url, *more: answer(url, body=b'{"token":"m"}'), plain=False
    )
    challenge = [Challenge("bearer", {"realm": "https://auth.example.com/token"})]
    for rejected, goes_on in (("", True), ("Bearer a", True), ("Bearer z", True), ("Bearer m", False)):
        one._tokens.clear()
        assert one.answer(challenge, PULL, rejected) is goes_on


def test_a_refused_password_is_not_sent_again() -> None:
    one = Authorizer("reg.example.com", lambda: ME, lambda *words: answer(""), plain=False)
    challenge = [Challenge("basic", {})]
    assert one.answer(challenge, PULL, "")
    assert one.header(PULL) == basic(ME) == BASIC
    assert not one.answer(challenge, PULL, BASIC)
    for scheme in ("aws4", "negotiate"):
        other = Authorizer("reg.example.com", lambda: ME, lambda *words: answer(""), plain=False)
        assert not other.answer([Challenge(scheme, {})], PULL, "")
        assert other.header(PULL) == ""
    nobody = Authorizer("reg.example.com", lambda: None, lambda *words: answer(""), plain=False)
    assert not nobody.answer(challenge, PULL, "")
    assert nobody.header(PULL) == ""
