"""Pulls from a registry that misbehaves: they succeed, or fail with one clear line and change nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lamina.errors import AccessDenied, Cancelled, InvalidContent, LaminaError, NotFound, RemoteFailure, SizeMismatch
from lamina.events import Cancel, Event, Warned
from lamina.remote.client import Access
from lamina.remote.credentials import Credential
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import lamina, running, write_layout
from unruly import Answer, Seen, Unruly

FILES = [("a", random.Random(1).randbytes(300_000)), ("d/b", random.Random(2).randbytes(200_000))]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout")
    write_layout(directory, "app", [FILES, [("c", b"small")]])
    return directory


def access(**changes: object) -> Access:
    return Access(**{"first_wait": 0.001, **changes})  # type: ignore[arg-type]


def fetch(server: Unruly, root: Path, **changes: object) -> Store:
    store = Store.open(str(root))
    copy(Repository(server.image, access(**changes), Registries()), store, [(server.image, server.image)])
    return store


def check_whole(store: Store, name: str) -> None:
    stack = store.stack(name, Platform.host())
    tree = stack.tree()
    with stack.open_file(tree.lookup(b"a")) as stream:
        assert b"".join(iter(lambda: stream.read(1 << 20), b"")) == FILES[0][1]


def empty(root: Path) -> bool:
    return not list(Store.open(str(root)).names())


def big(server: Unruly) -> str:
    return max(server.layers, key=lambda digest: len(server.blobs[digest]))


def test_a_pull_requests_each_object_once(layout: Path, tmp_path: Path) -> None:
    with Unruly(layout) as server:
        check_whole(fetch(server, tmp_path), server.image)
        paths = [one.path for one in server.seen if one.path != "/v2/"]
        assert len(paths) == len(set(paths)) == 4  # manifest, config, two layers
        accept = server.requests(part="/manifests/")[0].headers["accept"]
        assert accept.count(",") == 3  # all four types in one header
        fetch(server, tmp_path)
        assert len(server.requests()) == 3  # a second pull fetches no blob


@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 65_536, 200_001, "last"])
def test_a_download_cut_anywhere_resumes_there(layout: Path, tmp_path: Path, at: int | str) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) in seen.path and len(server.requests(part=big(server))) == 1:
            answer = server.plain(seen)
            answer.cut = len(answer.body) - 1 if at == "last" else int(at)
            return answer
        return None

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)
        asked = server.requests(part=big(server))
        assert len(asked) == 2
        size = len(server.blobs[big(server)])
        assert sum(one.sent for one in asked) <= size * 1.02
        if at not in (0,):
            start = size - 1 if at == "last" else int(at)
            assert asked[1].headers["range"] == f"bytes={start}-{size - 1}"


def test_a_download_cut_many_times_completes_if_each_makes_progress(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) in seen.path:
            answer = server.plain(seen)
            answer.cut = 70_000
            return answer
        return None

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)
        sent = sum(one.sent for one in server.requests(part=big(server)))
        assert sent <= len(server.blobs[big(server)]) * 1.02


@pytest.mark.parametrize("how", ["stalled", "told to wait"])
def test_first_failure_wakes_the_others(layout: Path, tmp_path: Path, how: str) -> None:
    """One layer is bad, the other does not answer: the pull ends with the first."""
    asked = threading.Event()

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        small = min(server.layers, key=lambda digest: len(server.blobs[digest]))
        if small in seen.path:
            asked.wait(10)
            return Answer(200, {}, bytes(len(server.blobs[small])))
        if big(server) in seen.path:
            asked.set()
            if how == "stalled":
                server.over.wait(30)
            return Answer(429, {"Retry-After": "50"})
        return None

    with Unruly(layout, rule=rule) as server:
        start = time.monotonic()
        with pytest.raises(InvalidContent):
            fetch(server, tmp_path)
        assert time.monotonic() - start < 10


def test_a_slow_rest_of_an_answer_delays_no_other_request(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "/manifests/" in seen.path and len(server.requests(part="/manifests/")) == 1:
            return Answer(503, {"Retry-After": "0"}, b"x" * 1000, drip=0.1)
        return None

    with Unruly(layout, rule=rule) as server:
        start = time.monotonic()
        check_whole(fetch(server, tmp_path), server.image)
        assert time.monotonic() - start < 20


def test_cut_without_progress_is_one_clear_error(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) in seen.path:
            answer = server.plain(seen)
            answer.cut = 10
            return answer
        return None

    with Unruly(layout, rule=rule) as server:
        with pytest.raises(RemoteFailure, match="broke off at byte 50 of"):
            fetch(server, tmp_path)
        assert empty(tmp_path)


def test_a_server_that_ignores_ranges_is_read_up_to_the_offset(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) in seen.path:
            first = len(server.requests(part=big(server))) == 1
            return Answer(200, {}, server.blobs[big(server)], cut=100_000 if first else None)
        return None

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)


@pytest.mark.parametrize("stated", [False, True])
def test_a_download_restarts_if_the_server_refuses_ranges(layout: Path, tmp_path: Path, stated: bool) -> None:
    """Cut once, then 416: the blob is begun anew in the same run, and comes whole."""

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) not in seen.path:
            return None
        data = server.blobs[big(server)]
        if "range" in seen.headers:
            return Answer(416, {"Content-Range": f"bytes */{len(data)}"} if stated else {})
        return Answer(200, {}, data, cut=100_000 if len(server.requests(part=big(server))) == 1 else None)

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)
        asked = server.requests(part=big(server))
        assert ["range" in one.headers for one in asked] == [False, True, False]


def test_a_refused_range_with_another_size_is_an_error(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) not in seen.path:
            return None
        if "range" in seen.headers:
            return Answer(416, {"Content-Range": "bytes */100000"})
        return Answer(200, {}, server.blobs[big(server)], cut=100_000)

    with Unruly(layout, rule=rule) as server, pytest.raises(SizeMismatch, match="has 100000 bytes instead of"):
        fetch(server, tmp_path)


def test_another_range_than_requested_is_rejected(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) not in seen.path:
            return None
        count = len(server.requests(part=big(server)))
        data = server.blobs[big(server)]
        if count == 1:
            return Answer(200, {}, data, cut=100_000)
        if count == 2:
            return Answer(206, {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}, data)
        return None

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)


def test_a_blob_with_a_wrong_digest_is_refused_and_not_kept(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) in seen.path:
            data = bytearray(server.blobs[big(server)])
            data[1000] ^= 1
            return Answer(200, {}, bytes(data))
        return None

    with Unruly(layout, rule=rule) as server:
        with pytest.raises(InvalidContent):
            fetch(server, tmp_path)
        assert empty(tmp_path)
        assert not [name for name in os.listdir(tmp_path / "ingest") if big(server).partition(":")[2] in name]
        server.rule = None
        check_whole(fetch(server, tmp_path), server.image)


@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_wrong_length_is_said_before_a_byte_moves(layout: Path, tmp_path: Path, change: int) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) in seen.path:
            data = server.blobs[big(server)]
            return Answer(200, {}, data + b"x" * change if change > 0 else data[:change])
        return None

    with Unruly(layout, rule=rule) as server, pytest.raises(SizeMismatch, match="instead of"):
        fetch(server, tmp_path)


def test_changed_content_between_two_connections(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) not in seen.path:
            return None
        data = server.blobs[big(server)]
        if len(server.requests(part=big(server))) == 1:
            return Answer(200, {}, data, cut=100_000)
        start = int(seen.headers["range"][6:].partition("-")[0])
        return Answer(206, {"Content-Range": f"bytes {start}-{len(data)}/{len(data) + 1}"}, data[start:] + b"x")

    with Unruly(layout, rule=rule) as server, pytest.raises(SizeMismatch):
        fetch(server, tmp_path)


def test_a_download_that_is_too_slow_is_cut_and_resumed(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.remote.read.SLOW_WINDOW", 0.2)

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) in seen.path and len(server.requests(part=big(server))) == 1:
            answer = server.plain(seen)
            answer.drip = 0.01
            return answer
        return None

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)
        assert len(server.requests(part=big(server))) == 2


def test_a_document_that_arrives_too_slowly_is_an_error(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.remote.http.DOCUMENT_TIME", 0.2)

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "/manifests/" in seen.path:
            answer = server.plain(seen)
            answer.drip = 0.01
            return answer
        return None

    with Unruly(layout, rule=rule) as server, pytest.raises(RemoteFailure, match="too slowly"):
        fetch(server, tmp_path)


def test_credential_of_the_call_is_for_the_registry_alone(layout: Path, tmp_path: Path) -> None:
    """--creds: neither a mirror nor the target of a redirect gets the login, even if it asks for one."""

    def greedy(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'}) if seen.path != "/v2/" else None

    with Unruly(layout, rule=greedy) as mirror, Unruly(layout, rule=greedy) as other:

        def rule(server: Unruly, seen: Seen) -> Answer | None:
            if "authorization" not in seen.headers and seen.path != "/v2/":
                return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
            return Answer(307, {"Location": f"http://{other.name}{seen.path}"}) if "/blobs/" in seen.path else None

        with Unruly(layout, rule=rule) as server:
            conf = tmp_path / "registries.conf"
            conf.write_text(
                f'[[registry]]\nlocation="{server.name}"\n[[registry.mirror]]\nlocation="{mirror.name}"\n'
            )
            done = lamina(
                *("pull", server.image, "--creds", "me:secret"),
                root=tmp_path / "s",
                CONTAINERS_REGISTRIES_CONF=str(conf),
            )
            assert done.returncode == 9
            assert any("authorization" in one.headers for one in server.seen)
        assert mirror.seen
        assert other.seen
        assert all("authorization" not in one.headers for one in [*mirror.seen, *other.seen])


def test_endless_body_is_not_read_to_its_end(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(200, {}, server.blobs[big(server)], endless=True) if big(server) in seen.path else None

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)  # what was promised came, the rest is left


def test_endless_manifest_is_refused(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return (
            Answer(200, {"Content-Type": server.manifests["1"][0]}, b"{", endless=True)
            if "/manifests/" in seen.path
            else None
        )

    with Unruly(layout, rule=rule) as server, pytest.raises(InvalidContent, match="more than 4194304 bytes"):
        fetch(server, tmp_path)


def test_cut_manifest_is_asked_for_again(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "/manifests/" in seen.path and len(server.requests(part="/manifests/")) == 1:
            answer = server.plain(seen)
            answer.cut = 100
            return answer
        return None

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_temporary_errors_are_retried(layout: Path, tmp_path: Path, status: int, part: str) -> None:
    counts: dict[str, int] = {}

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        counts[seen.path] = counts.get(seen.path, 0) + 1
        return Answer(status, {"Retry-After": "0"}) if part in seen.path and counts[seen.path] <= 2 else None

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)


def test_retry_after_is_honoured(layout: Path, tmp_path: Path) -> None:
    times: list[float] = []

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "/manifests/" not in seen.path:
            return None
        times.append(time.monotonic())
        return Answer(429, {"Retry-After": "1"}) if len(times) == 1 else None

    with Unruly(layout, rule=rule) as server:
        fetch(server, tmp_path)
    assert times[1] - times[0] >= 1.0


def test_rate_limit_is_named(layout: Path, tmp_path: Path) -> None:
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}'
    with Unruly(
        layout,
        rule=lambda server, seen: Answer(429, {"Retry-After": "3600"}, body) if "/v2/app" in seen.path else None,
    ) as server:
        with pytest.raises(RemoteFailure, match=r"limits the rate.*pull rate limit.*3600 s") as caught:
            fetch(server, tmp_path)
        assert "log in" in str(caught.value)
        assert len(server.requests(part="/manifests/")) == 1  # an hour is not waited for


def test_server_that_only_fails(layout: Path, tmp_path: Path) -> None:
    with Unruly(layout, rule=lambda server, seen: Answer(503) if "/v2/app" in seen.path else None) as server:
        with pytest.raises(RemoteFailure, match="status 503"):
            fetch(server, tmp_path)
        assert len(server.requests(part="/manifests/")) == 5


def test_a_web_page_with_status_200_is_an_error(layout: Path, tmp_path: Path) -> None:
    page = Answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>")
    for part in ("/manifests/", "/blobs/"):
        with Unruly(layout, rule=lambda server, seen, part=part: page if part in seen.path else None) as server:
            with pytest.raises(RemoteFailure, match="web page"):
                fetch(server, tmp_path / part.strip("/"))


def test_header_bombs(layout: Path, tmp_path: Path) -> None:
    many = {f"X-{number}": "y" for number in range(5000)}
    for number, headers in enumerate((many, {"X": "y" * 100_000})):
        with Unruly(
            layout,
            rule=lambda server, seen, h=headers: Answer(200, dict(h), b"{}") if "/v2/app" in seen.path else None,
        ) as server:
            with pytest.raises(LaminaError) as caught:
                fetch(server, tmp_path / str(number), attempts=2)
            assert "\n" not in str(caught.value)


def test_a_redirect_carries_no_credential(layout: Path, tmp_path: Path) -> None:
    with Unruly(layout) as other:

        def rule(server: Unruly, seen: Seen) -> Answer | None:
            if "authorization" not in seen.headers and seen.path != "/v2/":
                return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in seen.path:
                return Answer(307, {"Location": f"http://{other.name}{seen.path}"})
            return None

        with Unruly(layout, rule=rule) as server:
            fetch(
                server,
                tmp_path,
                credential=lambda host, path: Credential("me", "secret") if host == server.name else None,
            )
            assert server.requests(part="/manifests/")[-1].headers["authorization"].startswith("Basic ")
        assert len(other.requests()) == 3
        assert all("authorization" not in one.headers for one in other.seen)


def test_redirect_to_a_host_that_asks_for_a_token_of_its_own(layout: Path, tmp_path: Path) -> None:
    def other_rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.path.startswith("/token"):
            assert "authorization" not in seen.headers
            return Answer(200, {}, b'{"token":"theirs"}')
        if "/blobs/" in seen.path and seen.headers.get("authorization") != "Bearer theirs":
            return Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{server.name}/token",service="s"'})
        return None

    with Unruly(layout, rule=other_rule) as other:

        def rule(server: Unruly, seen: Seen) -> Answer | None:
            return Answer(302, {"Location": f"http://{other.name}{seen.path}"}) if "/blobs/" in seen.path else None

        with Unruly(layout, rule=rule) as server:
            check_whole(
                fetch(
                    server,
                    tmp_path,
                    credential=lambda host, path: Credential("a", "b") if host == server.name else None,
                ),
                server.image,
            )


def test_stored_credential_does_not_go_over_plain_http_elsewhere(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry spoken to by http sends us on to a host that the user has a login for, by http."""
    challenges = ['Basic realm="x"', 'Bearer realm="http://ghcr.example/token",service="s"']
    for number, challenge in enumerate(challenges):

        def elsewhere(server: Unruly, seen: Seen, challenge: str = challenge) -> Answer | None:
            return Answer(401, {"WWW-Authenticate": challenge})

        with Unruly(layout, rule=elsewhere) as proxy:
            for name in ("HTTP_PROXY", "http_proxy"):
                monkeypatch.setenv(name, f"http://{proxy.name}")

            def rule(server: Unruly, seen: Seen) -> Answer | None:
                return (
                    Answer(307, {"Location": f"http://ghcr.example{seen.path}"}) if "/blobs/" in seen.path else None
                )

            with Unruly(layout, rule=rule) as server, pytest.raises(LaminaError):
                fetch(server, tmp_path / str(number), credential=lambda host, path: Credential("alice", "s3cret"))
            assert proxy.seen
            assert all("authorization" not in one.headers for one in proxy.seen)


def test_redirects_without_end(layout: Path, tmp_path: Path) -> None:
    with (
        Unruly(
            layout, rule=lambda server, seen: Answer(302, {"Location": seen.path}) if "/v2/app" in seen.path else None
        ) as server,
        pytest.raises(RemoteFailure, match="redirects without end"),
    ):
        fetch(server, tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        "ftp://example.com/x",
        "http://me:pw@127.0.0.1/x",
        "//",
        "file:///etc/passwd",
        "https://[::1",
        "http://x:99999/",
    ],
)
def test_redirects_to_nowhere(layout: Path, tmp_path: Path, target: str) -> None:
    with (
        Unruly(
            layout, rule=lambda server, seen: Answer(302, {"Location": target}) if "/v2/app" in seen.path else None
        ) as server,
        pytest.raises(RemoteFailure),
    ):
        fetch(server, tmp_path)


class Tokens:
    """A rule: tokens by docker's protocol; each is good for ``life`` requests."""

    def __init__(self, life: int = 1000, answer: bytes | None = None, key: str = "token") -> None:
        self.life, self.issued = life, 0
        self.used: dict[str, int] = {}
        self.body, self.key = answer, key
        self.asked: list[Seen] = []

    def __call__(self, server: Unruly, seen: Seen) -> Answer | None:
        if seen.path.startswith("/token"):
            self.asked.append(seen)
            self.issued += 1
            self.used[f"Bearer t{self.issued}"] = 0
            return Answer(200, {}, self.body or b'{"%s":"t%d"}' % (self.key.encode(), self.issued))
        token = seen.headers.get("authorization", "")
        if token in self.used:
            self.used[token] += 1
        if self.used.get(token, self.life + 1) > self.life:
            challenge = f'Bearer realm="http://{server.name}/token",service="reg",scope="repository:app:pull"'
            return Answer(401, {"WWW-Authenticate": challenge})
        return None


@pytest.mark.parametrize("key", ["token", "access_token"])
def test_anonymous_token_is_asked_for_once(layout: Path, tmp_path: Path, key: str) -> None:
    tokens = Tokens(key=key)
    with Unruly(layout, rule=tokens) as server:
        check_whole(fetch(server, tmp_path), server.image)
    assert len(tokens.asked) == 1
    assert tokens.asked[0].path == "/token?service=reg&scope=repository%3Aapp%3Apull"
    assert "authorization" not in tokens.asked[0].headers


def test_token_that_ends_in_the_middle_is_renewed(layout: Path, tmp_path: Path) -> None:
    tokens = Tokens(life=2)

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        answer = tokens(server, seen)
        if answer is None and big(server) in seen.path:
            answer = server.plain(seen)
            answer.cut = 100_000
        return answer

    with Unruly(layout, rule=rule) as server:
        check_whole(fetch(server, tmp_path), server.image)
    assert len(tokens.asked) > 1


def test_credentials_go_to_the_token_server(layout: Path, tmp_path: Path) -> None:
    tokens = Tokens()
    with Unruly(layout, rule=tokens) as server:
        fetch(server, tmp_path, credential=lambda host, path: Credential("me", "pw"))
    assert tokens.asked[0].headers["authorization"] == "Basic bWU6cHc="
    assert "account=me" in tokens.asked[0].path


def test_identity_token_is_posted(layout: Path, tmp_path: Path) -> None:
    tokens = Tokens()
    with Unruly(layout, rule=tokens) as server:
        fetch(server, tmp_path, credential=lambda host, path: Credential("", "", "refresh-me"))
    assert tokens.asked[0].method == "POST"
    assert "authorization" not in tokens.asked[0].headers


def test_realm_on_plain_http_elsewhere_gets_nothing(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(401, {"WWW-Authenticate": 'Bearer realm="http://192.0.2.1/token",service="x"'})

    with Unruly(layout, rule=rule) as server, pytest.raises(InvalidContent, match="only sent by https"):
        fetch(server, tmp_path, credential=lambda host, path: Credential("me", "pw"))


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"token": 5}', b'{"token": "a\\r\\nX: y"}', b"[" * 5000])
def test_invalid_answers_of_a_token_server_are_errors(layout: Path, tmp_path: Path, body: bytes) -> None:
    with Unruly(layout, rule=Tokens(answer=body)) as server, pytest.raises(InvalidContent, match="token"):
        fetch(server, tmp_path)


def test_denied_access_names_the_login(layout: Path, tmp_path: Path) -> None:
    with Unruly(layout, rule=lambda server, seen: Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})) as server:
        with pytest.raises(AccessDenied, match=r"check the name: it may not exist; .* `lamina login"):
            fetch(server, tmp_path)
        with pytest.raises(AccessDenied):
            fetch(server, tmp_path, credential=lambda host, path: Credential("me", "wrong"))
    with Unruly(layout, rule=lambda server, seen: Answer(403) if "/v2/app" in seen.path else None) as server:
        with pytest.raises(AccessDenied):
            fetch(server, tmp_path)
    with Unruly(layout) as server, pytest.raises(NotFound, match="login"):
        copy(Repository(f"{server.name}/app", access()), Store.open(str(tmp_path)), [(f"{server.name}/app:2", "x")])


def test_warning_header_is_shown_once(layout: Path, tmp_path: Path) -> None:
    events: list[Event] = []

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        answer = server.plain(seen)
        answer.headers["Warning"] = '299 - "this registry moves"'
        return answer

    with Unruly(layout, rule=rule) as server:
        fetch(server, tmp_path, on_event=events.append)
    assert [event.message for event in events if isinstance(event, Warned)] == [
        f"{server.name} says: this registry moves"
    ]


def test_cancel_wakes_a_pull_that_waits(layout: Path, tmp_path: Path) -> None:
    reached = threading.Event()

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) not in seen.path:
            return None
        answer = server.plain(seen)
        answer.cut, answer.stall = 300_000, True
        reached.set()
        return answer

    cancel = Cancel()
    with Unruly(layout, rule=rule) as server:
        repository = Repository(server.image, access(cancel=cancel), Registries())
        store = Store.open(str(tmp_path))
        ended: list[float] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                copy(repository, store, [(server.image, server.image)], cancel=cancel)
            except BaseException as error:
                raised.append(error)
            ended.append(time.monotonic())

        thread = threading.Thread(target=run)
        thread.start()
        assert reached.wait(10)
        wait_for_part(tmp_path, 300_000)
        asked = time.monotonic()
        cancel.set()
        thread.join(10)
        assert ended
        assert ended[0] - asked < 1.0
        assert isinstance(raised[0], Cancelled)
        server.rule = None
        before = len(server.requests(part=big(server)))
        check_whole(fetch(server, tmp_path), server.image)
        again = server.requests(part=big(server))[before:]
        assert len(again) == 1
        assert int(again[0].headers["range"][6:].partition("-")[0]) > 0  # went on where it stopped


def wait_for_part(root: Path, size: int) -> None:
    """Until a part file has about this many bytes (they arrive in pieces)."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for path in (root / "ingest").glob("*.part"):
            try:
                if path.stat().st_size >= size // 2:
                    return
            except FileNotFoundError:
                continue
        time.sleep(0.01)
    pytest.fail("no part file grew")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_pull_resumes_where_it_stopped(layout: Path, tmp_path: Path, number: int) -> None:
    stalled = threading.Event()

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) not in seen.path:
            return None
        answer = server.plain(seen)
        answer.cut, answer.stall = 300_000, True
        stalled.set()
        return answer

    with Unruly(layout, rule=rule) as server:
        with running("pull", server.image, root=tmp_path / "s") as process:
            assert stalled.wait(20)
            wait_for_part(tmp_path / "s", 300_000)
            process.send_signal(number)
            start = time.monotonic()
            _, stderr = process.communicate(timeout=10)
            assert time.monotonic() - start < 1.0
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert b"Traceback" not in stderr
        server.rule = None
        before = len(server.seen)
        done = lamina("pull", server.image, root=tmp_path / "s")
        assert done.returncode == 0, done.stderr
        again = [one for one in server.seen[before:] if big(server) in one.path]
        size = len(server.blobs[big(server)])
        assert sum(one.sent for one in again) < size * 0.72
        assert lamina("fsck", root=tmp_path / "s").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_pull_of_a_large_layer_resumes(tmp_path: Path, number: int) -> None:
    """Its blob is written around the page cache, a MiB at a time: what is on the disk is not asked for again."""
    write_layout(tmp_path / "l", "app", [[("data", os.urandom(12 << 20))]], compress=True)
    cut = (9 << 20) + 12_345

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if big(server) not in seen.path:
            return None
        answer = server.plain(seen)
        answer.cut, answer.stall = cut, True
        return answer

    with Unruly(tmp_path / "l", rule=rule) as server:
        with running("pull", server.image, root=tmp_path / "s") as process:
            wait_for_part(tmp_path / "s", 18 << 20)
            process.send_signal(number)
            process.communicate(timeout=10)
        server.rule = None
        before = len(server.seen)
        done = lamina("pull", server.image, root=tmp_path / "s")
        assert done.returncode == 0, done.stderr
        asked = [one.headers["range"] for one in server.seen[before:] if big(server) in one.path]
        start = int(asked[0].removeprefix("bytes=").partition("-")[0])
        assert 9 << 20 <= start <= cut
        assert lamina("fsck", root=tmp_path / "s").returncode == 0


def test_a_part_file_damaged_by_a_power_cut_is_fetched_again(layout: Path, tmp_path: Path) -> None:
    with Unruly(layout) as server:
        store = Store.open(str(tmp_path))
        digest = big(server).partition(":")[2]
        (tmp_path / "ingest" / f"sha256-{digest}.part").write_bytes(b"\0" * 100_000)
        check_whole(fetch(server, tmp_path), server.image)
        assert not list((tmp_path / "ingest").iterdir())
        assert store.location


def test_eight_processes_send_one_get_a_blob(layout: Path, tmp_path: Path) -> None:
    with Unruly(layout) as server:
        command = [sys.executable, "-m", "lamina", "--root", str(tmp_path / "s"), "pull", "-q", server.image]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
        for process in processes:
            _, stderr = process.communicate(timeout=60)
            assert process.returncode == 0, stderr
        paths = [one.path for one in server.requests()]
        assert sorted(paths) == sorted(set(paths))
        assert len(paths) == 3
        assert lamina("fsck", root=tmp_path / "s").returncode == 0


def test_layer_known_by_diff_id_is_fetched_under_another_digest_unless_only_tars_are_kept(tmp_path: Path) -> None:
    write_layout(tmp_path / "one", "app", [FILES], compress=False)
    write_layout(tmp_path / "two", "app", [FILES], compress=True)  # the same layer, as another blob
    with Unruly(tmp_path / "one") as first, Unruly(tmp_path / "two") as second:
        fetch(first, tmp_path / "both")
        check_whole(fetch(second, tmp_path / "both"), second.image)
        assert len(second.requests()) == 1  # not the config: it is the same
    with Unruly(tmp_path / "one") as first, Unruly(tmp_path / "two") as second:
        fetch(first, tmp_path / "s")
        store = Store.open(str(tmp_path / "s"), keep="tar")
        copy(Repository(second.image, access(), Registries()), store, [(second.image, second.image)])
        assert not second.requests()
        check_whole(store, second.image)
        assert lamina("fsck", root=tmp_path / "s").returncode == 0
        assert lamina("prune", "-f", root=tmp_path / "s").returncode == 0
        assert lamina("validate", second.image, "-q", root=tmp_path / "s").returncode == 0
        assert len(second.requests()) == 1
        # saved again: what is not here is fetched from where it is
        done = lamina(
            "save", "-o", str(tmp_path / "x.tar"), "--type", "oci-archive", second.image, root=tmp_path / "s"
        )
        assert done.returncode == 0, done.stderr
        assert len(second.requests()) == 2
        assert lamina("validate", f"oci-archive:{tmp_path}/x.tar", root=tmp_path / "s").returncode == 0


def test_a_mirror_is_used_first_and_gets_no_credential(layout: Path, tmp_path: Path) -> None:
    with (
        Unruly(layout) as home,
        Unruly(layout) as mirror,
        Unruly(layout, rule=lambda s, r: Answer(404) if r.path != "/v2/" else None) as poor,
    ):
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nlocation = "{home.name}"\n'
            f'[[registry.mirror]]\nlocation = "{poor.name}"\n[[registry.mirror]]\nlocation = "{mirror.name}"\n'
        )
        asked: list[str] = []

        def credential(host: str, path: str) -> Credential | None:
            asked.append(host)
            return Credential("me", "pw") if host == home.name else None

        store = Store.open(str(tmp_path / "s"))
        registries = Registries.load(files=[str(conf)])
        copy(Repository(home.image, access(credential=credential), registries), store, [(home.image, home.image)])
        check_whole(store, home.image)
        assert not home.requests()
        assert len(mirror.requests()) == 3
        assert poor.requests(part="/manifests/")
        assert all("authorization" not in one.headers for one in [*mirror.seen, *poor.seen])
