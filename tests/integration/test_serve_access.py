"""The gate before the registry's API: logins, tokens, rules, limits, immutable tags and quotas, over a real store."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from lamina.errors import RateLimited, UsageError
from lamina.serve.access import quotas
from lamina.serve.access.gate import Gate
from lamina.serve.access.htpasswd import hashed_password
from lamina.serve.access.opening import AccessOptions, OpenAccess, open_access
from lamina.serve.api import open_api
from lamina.serve.failures import answered
from lamina.serve.http_message import Asker, Request, Response
from lamina.serve.routes import ApiError, parse_target
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.repositories import RepositoryUploads
from lamina.store.store import Store

RULES = """
[groups]
dev = ["alice"]

[[rules]]
repositories = ["team/**", "{user}/*"]
who = ["@dev", "bob"]
actions = ["pull", "push"]

[[rules]]
repositories = ["team/**"]
who = "reader"
actions = "pull"

[[rules]]
repositories = ["public/**"]
who = "anonymous"
actions = "pull"

[[rules]]
repositories = ["**"]
who = "root"
actions = "admin"

[[rules]]
repositories = ["team/**"]
who = "cleaner"
actions = "delete"

[[immutable]]
repositories = ["team/**"]
tags = ["v*"]

[[quotas]]
repositories = ["team/small"]
size = 2000

[limits]
manifest = "100KB"
layers = 3
"""
USERS = ("alice", "bob", "reader", "root", "cleaner", "lonely")


@dataclass
class Client:
    """Sends requests to a gate as an HTTP server would."""

    gate: Gate
    access: OpenAccess
    headers: dict[str, str] = field(default_factory=dict)
    asker: Asker = field(default_factory=lambda: Asker("192.0.2.1"))

    def request(self, method: str, target: str, body: bytes = b"", **headers: str) -> Request:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        length = None if named.pop("Length", "") else len(body)
        pieces = iter([body[at : at + 100] for at in range(0, len(body), 100)])
        return Request(
            method, parse_target(target), {"Host": "r:5000", **self.headers, **named}, pieces, length, self.asker
        )

    def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> Response:
        try:
            return self.gate.answer(self.request(method, target, body, **headers))
        except ApiError as error:
            return Response(error.status, error.headers, error.body())

    def status(self, method: str, target: str, body: bytes = b"", **headers: str) -> int:
        return self.send(method, target, body, **headers).status

    def code(self, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        answer = self.send(method, target, body, **headers)
        return answer.status, json.loads(answer.body)["errors"][0]["code"]

    def as_user(self, name: str, password: str = "") -> Client:
        return Client(
            self.gate, self.access, {"Authorization": basic(name, password or f"{name}-secret")}, self.asker
        )

    def anonymous(self) -> Client:
        return Client(self.gate, self.access, {}, self.asker)

    def token(self, *scopes: str, **query: str) -> dict[str, Any]:
        target = "/token?" + urlencode(
            [("service", "lamina-registry"), *query.items(), *(("scope", s) for s in scopes)]
        )
        answer = self.send("GET", target)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def with_token(self, *scopes: str) -> Client:
        return self.bearer(self.token(*scopes)["token"])

    def bearer(self, token: str) -> Client:
        return Client(self.gate, self.access, {"Authorization": f"Bearer {token}"}, self.asker)

    def push_blob(self, repository: str, data: bytes) -> Response:
        return self.send("POST", f"/v2/{repository}/blobs/uploads/?digest={Digest.of(data)}", data)

    def push(self, repository: str, tag: str, *, text: str = "x", layers: int = 1) -> Response:
        """Push an image whose layer is ``text``."""
        config, layer = b"{}", text.encode()
        for blob in (config, layer):
            answer = self.push_blob(repository, blob)
            if answer.status != 201:
                return answer
        raw = document(config, [layer] * layers)
        return self.send("PUT", f"/v2/{repository}/manifests/{tag}", raw, Content_Type=mediatype.OCI_MANIFEST)


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def document(config: bytes, layers: list[bytes]) -> bytes:
    def one(kind: str, blob: bytes) -> dict[str, Any]:
        return {"mediaType": kind, "digest": str(Digest.of(blob)), "size": len(blob)}

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": mediatype.OCI_MANIFEST,
            "config": one("application/vnd.example+json", config),
            "layers": [one("application/vnd.example.blob", layer) for layer in layers],
        }
    ).encode()


@contextmanager
def serving(tmp_path: Path, *, uploads_each: int = 500, **options: Any) -> Iterator[Client]:
    store = Store.open(str(tmp_path / "store"))
    access = open_access(AccessOptions(**options))
    try:
        with open_api(store, writable=True, uploads_each=uploads_each) as api:
            yield Client(Gate(api, access.policy), access)
    finally:
        access.close()


def write_users(tmp_path: Path, names: tuple[str, ...] = USERS) -> str:
    path = tmp_path / "users"
    path.write_text("".join(f"{name}:{hashed_password(f'{name}-secret', 4)}\n" for name in names))
    return str(path)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    (tmp_path / "rules.toml").write_text(RULES)
    with serving(
        tmp_path,
        htpasswd=write_users(tmp_path),
        rules=str(tmp_path / "rules.toml"),
        token_key=str(tmp_path / "key"),
        audit=str(tmp_path / "audit"),
        local=False,
    ) as client:
        yield client


def audit(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]


def test_docker_login_by_a_token(client: Client) -> None:
    answer = client.send("GET", "/v2/")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="http://r:5000/token",service="lamina-registry"'
    assert client.as_user("alice").with_token().status("GET", "/v2/") == 200
    assert client.as_user("alice").status("GET", "/v2/") == 200
    wrong = client.as_user("alice", "guess").send("GET", "/token?service=lamina-registry")
    assert (wrong.status, wrong.headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
    assert client.as_user("nobody").status("GET", "/token") == 401
    assert client.status("GET", "/v2/") == 401
    assert client.code("GET", "/token?service=other") == (400, "UNSUPPORTED")


def test_a_user_pushes_and_pulls_by_basic_and_by_token(client: Client) -> None:
    alice = client.as_user("alice")
    assert alice.push("team/app", "1").status == 201
    assert alice.with_token("repository:team/app:pull").status("GET", "/v2/team/app/manifests/1") == 200
    assert alice.with_token("repository:team/app:pull,push").push("team/app", "2").status == 201
    assert alice.push("alice/app", "1").status == 201
    assert alice.code("GET", "/v2/bob/app/manifests/1") == (404, "NAME_UNKNOWN")


def test_a_token_allows_what_it_says_and_no_more(client: Client) -> None:
    alice = client.as_user("alice")
    alice.push("team/app", "1")
    pull = alice.with_token("repository:team/app:pull")
    answer = pull.push("team/app", "2")
    assert answer.status == 401
    assert 'scope="repository:team/app:pull,push",error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    assert pull.status("GET", "/v2/alice/app/tags/list") == 401
    assert alice.with_token("repository:team/app:push").status("GET", "/v2/team/app/tags/list") == 401
    everything = alice.token("repository:team/app:*", "repository:bob/app:pull", "repository:alice/x:delete,push")
    assert everything["scope"] == "repository:team/app:pull,push repository:alice/x:push"


def test_a_read_only_user_can_not_push_or_delete(client: Client) -> None:
    client.as_user("alice").push("team/app", "1")
    reader = client.as_user("reader")
    token = reader.token("repository:team/app:pull,push")
    assert token["scope"] == "repository:team/app:pull"
    for one in (reader, reader.bearer(token["token"])):
        assert one.status("GET", "/v2/team/app/manifests/1") == 200
        assert one.code("POST", "/v2/team/app/blobs/uploads/") == (403, "DENIED")
        assert one.code("DELETE", "/v2/team/app/manifests/1") == (403, "DENIED")
        assert one.code("PUT", "/v2/team/app/manifests/2", b"{}") == (403, "DENIED")
        assert one.code("PATCH", "/v2/team/app/manifests/2", b"{}") == (403, "DENIED")
        assert one.code("PATCH", "/v2/team/app/blobs/uploads/" + "0" * 32, b"x") == (403, "DENIED")


def test_existing_and_unknown_repositories_answer_alike(client: Client) -> None:
    client.as_user("alice").push("alice/secret", "1")
    digest = Digest.of(b"x")
    for one in (client.anonymous(), client.anonymous().with_token(), client.as_user("lonely"), client.as_user("bob")):
        for method, rest in [
            ("GET", "manifests/1"),
            ("HEAD", "manifests/1"),
            ("GET", f"blobs/{digest}"),
            ("GET", "tags/list"),
            ("GET", f"referrers/{digest}"),
            ("POST", f"blobs/uploads/?mount={digest}&from=alice/third"),
            ("DELETE", "manifests/1"),
        ]:
            there = one.send(method, f"/v2/alice/secret/{rest}")
            absent = one.send(method, f"/v2/alice/absent/{rest}")
            assert there.status == absent.status >= 400
            assert there.body.replace(b"secret", b"absent") == absent.body.replace(b"secret", b"absent")
            assert {k: v.replace("secret", "absent") for k, v in there.headers.items()} == absent.headers


def test_an_anonymous_client_pulls_what_is_public(client: Client) -> None:
    assert client.as_user("root").push("public/app", "1").status == 201
    for one in (client.anonymous(), client.anonymous().with_token("repository:public/app:pull")):
        assert one.status("GET", "/v2/public/app/manifests/1") == 200
        assert one.status("POST", "/v2/public/app/blobs/uploads/") == 401
        assert one.status("GET", "/v2/team/app/manifests/1") == 401
    assert client.anonymous().token("repository:public/app:push", "repository:team/app:pull")["scope"] == ""


def test_lists_show_only_what_the_asker_may_pull(client: Client) -> None:
    root = client.as_user("root")
    for name in ("alice/a", "bob/b", "public/p", "team/t", "zeta/z"):
        assert root.push(name, "1").status == 201

    def shown(one: Client, query: str = "") -> list[str]:
        answer = one.send("GET", f"/v2/_catalog{query}")
        assert answer.status == 200
        found: list[str] = json.loads(answer.body)["repositories"]
        return found

    assert shown(root) == ["alice/a", "bob/b", "public/p", "team/t", "zeta/z"]
    assert shown(client.as_user("alice")) == ["alice/a", "public/p", "team/t"]
    assert shown(client.as_user("alice").with_token("registry:catalog:*")) == ["alice/a", "public/p", "team/t"]
    assert shown(client.anonymous()) == ["public/p"]
    assert shown(client.as_user("alice"), "?n=2&last=alice/a") == ["public/p", "team/t"]
    assert client.as_user("alice").with_token().status("GET", "/v2/_catalog") == 401


def test_a_mount_needs_pull_on_its_source(client: Client) -> None:
    data = b"only here"
    client.as_user("alice").push_blob("alice/app", data)
    target = f"/v2/team/app/blobs/uploads/?mount={Digest.of(data)}&from=alice/app"
    assert client.as_user("alice").status("POST", target) == 201
    target = target.replace("team/app", "bob/app")
    assert client.as_user("bob").status("POST", target) == 202  # as if it were not there
    alice_to = client.as_user("alice")
    target = target.replace("/v2/bob/app", "/v2/alice/other")
    assert alice_to.with_token("repository:alice/other:pull,push").status("POST", target) == 202
    both = alice_to.with_token("repository:alice/other:pull,push repository:alice/app:pull")
    assert both.status("POST", target) == 201


def test_a_refresh_token_stands_for_a_login(client: Client) -> None:
    alice = client.as_user("alice")
    assert "refresh_token" not in alice.token("repository:team/app:pull")
    assert "refresh_token" not in client.anonymous().token(offline_token="true")
    refresh = alice.token(offline_token="true")["refresh_token"]

    def post(**form: str) -> Response:
        return client.anonymous().send("POST", "/token", urlencode(form).encode())

    scope = "repository:team/app:pull,push repository:alice/b:pull"
    answer = post(grant_type="refresh_token", refresh_token=refresh, scope=scope, service="lamina-registry")
    assert answer.status == 200
    assert json.loads(answer.body)["scope"] == scope
    assert client.bearer(json.loads(answer.body)["access_token"]).push("team/app", "1").status == 201
    assert client.bearer(refresh).status("GET", "/v2/") == 401
    access = alice.token("repository:team/app:pull")["token"]
    assert post(grant_type="refresh_token", refresh_token=access).status == 401
    assert client.bearer(access).status("GET", "/token?scope=repository:team/app:push") == 401
    by_password = post(grant_type="password", username="alice", password="alice-secret", access_type="offline")
    assert json.loads(by_password.body)["refresh_token"]
    assert post(grant_type="password", username="alice", password="x").status == 401
    assert post(grant_type="client_credentials").status == 400
    assert client.status("POST", "/token", b"x=1&" * 30_000) == 413
    assert client.status("POST", "/token", b"&x" * 200) == 400
    assert client.status("POST", "/token", b"\xff") == 400
    assert client.status("DELETE", "/token") == 405


def test_tokens_end_with_the_password_and_with_the_user(client: Client, tmp_path: Path) -> None:
    alice, bob = client.as_user("alice"), client.as_user("bob")
    token = alice.token("repository:team/app:pull", offline_token="true")
    of_bob = bob.token("repository:team/app:pull")["token"]
    assert client.bearer(token["token"]).status("GET", "/v2/") == 200
    path = tmp_path / "users"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("alice:", "bob:"))]
    path.write_text("\n".join([*lines, f"alice:{hashed_password('new', 4)}"]))
    client.access.reload()
    form = urlencode({"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}).encode()
    assert client.anonymous().status("POST", "/token", form) == 401
    assert client.bearer(token["token"]).status("GET", "/v2/") == 401
    assert client.bearer(of_bob).status("GET", "/v2/") == 401
    assert alice.status("GET", "/v2/") == 401
    assert client.as_user("alice", "new").status("GET", "/v2/") == 200


def test_changed_rules_hold_at_once_and_broken_ones_not_at_all(client: Client, tmp_path: Path) -> None:
    token = client.as_user("reader").with_token("repository:team/app:pull")
    client.as_user("alice").push("team/app", "1")
    assert token.status("GET", "/v2/team/app/manifests/1") == 200
    path = tmp_path / "rules.toml"
    path.write_text("[[rules")
    client.access.reload()
    assert token.status("GET", "/v2/team/app/manifests/1") == 200
    path.write_text(RULES.replace('who = "reader"', 'who = "other"'))
    client.access.reload()
    assert token.code("GET", "/v2/team/app/manifests/1") == (404, "NAME_UNKNOWN")


def test_immutable_tags_are_neither_moved_nor_deleted(client: Client) -> None:
    alice, cleaner, root = (client.as_user(name) for name in ("alice", "cleaner", "root"))
    assert alice.push("team/app", "v1", text="one").status == 201
    digest = alice.send("HEAD", "/v2/team/app/manifests/v1").headers["Docker-Content-Digest"]
    assert alice.push("team/app", "v1", text="one").status == 201  # the same again
    assert alice.push("team/app", "latest", text="one").status == 201
    assert alice.push("team/app", "latest", text="two").status == 201
    moved = alice.push("team/app", "v1", text="two")
    assert moved.status == 409
    assert root.push("team/app", "v1", text="two").status == 409
    assert alice.send("HEAD", "/v2/team/app/manifests/v1").headers["Docker-Content-Digest"] == digest
    assert cleaner.code("DELETE", "/v2/team/app/manifests/v1") == (403, "DENIED")
    assert cleaner.code("DELETE", f"/v2/team/app/manifests/{digest}") == (403, "DENIED")
    assert cleaner.status("DELETE", "/v2/team/app/manifests/latest") == 202
    assert cleaner.status("DELETE", "/v2/team/app/manifests/none") == 404
    assert root.status("DELETE", "/v2/team/app/manifests/v1") == 202
    assert alice.push("alice/app", "v1", text="one").status == alice.push("alice/app", "v1", text="two").status == 201


def test_a_push_of_several_tags_moves_all_or_none(client: Client) -> None:
    alice = client.as_user("alice")
    for tag in ("v1", "latest"):
        assert alice.push("team/app", tag, text="one").status == 201
    assert alice.push("team/app", "two", text="two").status == 201
    raw = alice.send("GET", "/v2/team/app/manifests/two").body
    before = alice.send("GET", "/v2/team/app/manifests/latest").body
    for tags in ("tag=latest&tag=v1", "tag=v1&tag=latest", "tag=v2&tag=latest&tag=v1"):
        target = f"/v2/team/app/manifests/{Digest.of(raw)}?{tags}"
        assert alice.status("PUT", target, raw, Content_Type=mediatype.OCI_MANIFEST) == 409
        assert alice.send("GET", "/v2/team/app/manifests/latest").body == before
        assert alice.status("GET", "/v2/team/app/manifests/v2") == 404
    target = f"/v2/team/app/manifests/{Digest.of(raw)}?tag=latest&tag=v2"
    assert alice.status("PUT", target, raw, Content_Type=mediatype.OCI_MANIFEST) == 201
    assert alice.send("GET", "/v2/team/app/manifests/v2").body == raw


def test_pushes_of_one_immutable_tag_at_once_have_one_winner(client: Client) -> None:
    alice = client.as_user("alice")
    for number in range(8):
        assert alice.push("team/app", f"part{number}", text=f"text {number}").status == 201
    documents = [alice.send("GET", f"/v2/team/app/manifests/part{number}").body for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        done = [
            pool.submit(alice.status, "PUT", "/v2/team/app/manifests/v1", raw, Content_Type=mediatype.OCI_MANIFEST)
            for raw in documents
        ]
    codes = [one.result() for one in done]
    assert sorted(codes) == [201] + [409] * 7
    assert alice.send("GET", "/v2/team/app/manifests/v1").body == documents[codes.index(201)]


def test_what_an_immutable_image_needs_is_not_deleted(client: Client) -> None:
    alice, cleaner, root = (client.as_user(name) for name in ("alice", "cleaner", "root"))
    alice.push("team/app", "part", text="in an index")
    part = alice.send("GET", "/v2/team/app/manifests/part")
    child = {"mediaType": mediatype.OCI_MANIFEST, "digest": str(Digest.of(part.body)), "size": len(part.body)}
    index = json.dumps({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": [child]}).encode()
    put = alice.status("PUT", "/v2/team/app/manifests/v1", index, Content_Type=mediatype.OCI_INDEX)
    assert put == 201
    alice.push_blob("team/app", b"free")
    needed = (f"manifests/{child['digest']}", f"blobs/{Digest.of(b'in an index')}", f"blobs/{Digest.of(b'{}')}")
    for rest in needed:
        assert cleaner.code("DELETE", f"/v2/team/app/{rest}") == (403, "DENIED")
        assert alice.status("GET", f"/v2/team/app/{rest}") == 200
    assert cleaner.status("DELETE", "/v2/team/app/manifests/part") == 202
    assert cleaner.status("DELETE", f"/v2/team/app/blobs/{Digest.of(b'free')}") == 202
    assert cleaner.status("DELETE", f"/v2/team/app/blobs/{Digest.of(b'none')}") == 404
    assert root.status("DELETE", f"/v2/team/app/blobs/{Digest.of(b'in an index')}") == 202


def test_a_quota_refuses_before_and_within_the_body(client: Client) -> None:
    alice = client.as_user("alice")
    taken = iter([b"z" * 100] * 1000)
    request = alice.request("POST", f"/v2/team/small/blobs/uploads/?digest={Digest.of(b'z')}")
    request.body, request.length = taken, 100_000
    with pytest.raises(ApiError) as caught:
        client.gate.answer(request)
    assert (caught.value.status, caught.value.code) == (403, "DENIED")
    assert "quota of team/small is 2kB" in str(caught.value)
    assert len(list(taken)) == 1000  # nothing was read
    taken = iter([b"z" * 100] * 1000)
    request.body, request.length = taken, None
    with pytest.raises(ApiError):
        client.gate.answer(request)
    assert len(list(taken)) == 1000 - 21
    assert alice.push("team/small", "1", text="a" * 1000).status == 201
    assert alice.push_blob("team/small", b"b" * 1000).status == 403
    alice.push_blob("team/big", b"b" * 1000)
    mount = f"/v2/team/small/blobs/uploads/?mount={Digest.of(b'b' * 1000)}&from=team/big"
    assert alice.code("POST", mount) == (403, "DENIED")
    assert alice.push("team/big", "1", text="a" * 5000).status == 201


def test_an_open_upload_counts_toward_the_quota_until_it_is_removed(client: Client) -> None:
    alice = client.as_user("alice")
    first, second, third = (alice.send("POST", "/v2/team/small/blobs/uploads/").headers["Location"] for _ in range(3))
    assert alice.status("PATCH", first, b"a" * 1200) == 202
    assert alice.code("PATCH", second, b"b" * 801) == (403, "DENIED")
    assert alice.status("GET", second) == 404  # what does not fit is not kept
    assert alice.status("PATCH", third, b"c" * 800) == 202
    assert alice.code("PUT", "/v2/team/small/manifests/1", b"{}") == (403, "DENIED")
    assert alice.status("DELETE", first) == 204
    assert alice.status("PUT", f"{third}?digest={Digest.of(b'c' * 800 + b'd' * 1200)}", b"d" * 1200) == 201
    assert alice.push_blob("team/small", b"x").status == 403


def test_pushes_at_once_do_not_exceed_a_quota_together(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = client.as_user("alice")
    assert alice.push_blob("team/small", b"{}").status == 201  # the quota is counted, and there is room for one more
    together = threading.Barrier(6, timeout=30)
    finish = RepositoryUploads.finish

    def finished(self: RepositoryUploads, repository: str, ident: str, digest: Digest) -> Descriptor:
        with suppress(threading.BrokenBarrierError):
            together.wait(1)  # all that got so far go on together
        return finish(self, repository, ident, digest)

    monkeypatch.setattr(RepositoryUploads, "finish", finished)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda one: alice.push_blob("team/small", bytes([one]) * 1200).status, range(6)))
    assert sorted(answers) == [201, *[403] * 5]
    monkeypatch.undo()
    assert alice.push_blob("team/small", b"a" * 600).status == 201  # nothing is held by those that were refused
    assert alice.push_blob("team/small", b"b" * 600).status == 403


def test_a_quota_counts_what_no_manifest_names_and_not_what_was_deleted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "LIFE", 0.0)  # each request counts
    root = client.as_user("root")
    for letter in b"abc":
        assert root.push_blob("team/small", bytes([letter]) * 600).status == 201
    assert root.push_blob("team/small", b"d" * 600).status == 403
    assert root.status("DELETE", f"/v2/team/small/blobs/{Digest.of(b'a' * 600)}") == 202
    assert root.push_blob("team/small", b"d" * 600).status == 201
    assert root.push_blob("team/small", b"f" * 600).status == 403


def test_manifests_have_limits(client: Client) -> None:
    alice = client.as_user("alice")
    assert alice.push("team/app", "1", layers=3).status == 201
    answer = alice.push("team/app", "1", layers=4)
    assert (answer.status, b"at most 3" in answer.body) == (400, True)
    assert alice.code("PUT", "/v2/team/app/manifests/1", b" " * 100_001) == (413, "MANIFEST_INVALID")
    assert alice.code("PUT", "/v2/team/app/manifests/1", b" " * 100_001, Length="none") == (413, "MANIFEST_INVALID")


def test_wrong_passwords_are_limited_by_address_and_good_logins_go_on(client: Client) -> None:
    assert client.as_user("alice").status("GET", "/v2/") == 200
    found = [client.as_user("alice", f"guess{n}").status("GET", "/v2/") for n in range(12)]
    assert found == [401] * 10 + [429] * 2
    answer = client.as_user("bob", "x").send("GET", "/token")
    assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (429, True)
    assert client.as_user("alice").status("GET", "/v2/") == 200  # it is known to be good
    client.asker = Asker("192.0.2.2")
    assert client.as_user("bob").status("GET", "/v2/") == 200


def test_requests_are_limited_by_user_or_address(client: Client, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES.replace("[limits]", "[limits]\nrequests = 0.01\nburst = 3"))
    client.access.reload()
    alice = client.as_user("alice")
    assert [alice.status("GET", "/v2/") for _ in range(4)] == [200, 200, 200, 429]
    assert client.as_user("bob").status("GET", "/v2/") == 200
    assert alice.code("GET", "/v2/")[1] == "TOOMANYREQUESTS"
    assert [client.anonymous().status("GET", "/v2/") for _ in range(4)] == [401, 401, 401, 429]


def test_each_user_may_have_so_many_open_uploads(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    options = {"htpasswd": write_users(tmp_path), "rules": str(tmp_path / "rules.toml"), "local": False}
    with serving(tmp_path, uploads_each=2, **options) as client:
        alice, uploads = client.as_user("alice"), "/v2/team/{}/blobs/uploads/"
        first = alice.send("POST", uploads.format("a"))
        assert (first.status, alice.status("POST", uploads.format("b"))) == (202, 202)
        request = alice.request("POST", uploads.format("c"))
        refused = answered(client.gate.answer, request)
        assert (refused.status, json.loads(refused.body)["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
        assert refused.headers["Retry-After"] == "60"
        alice.asker = Asker("192.0.2.2")
        with pytest.raises(RateLimited, match="2 uploads of this client"):
            alice.push_blob("team/d", b"x")
        assert client.as_user("bob").status("POST", uploads.format("c")) == 202
        assert alice.status("DELETE", first.headers["Location"]) == 204
        assert alice.push_blob("team/d", b"x").status == 201
    with serving(tmp_path, uploads_each=0, **options) as client:
        alice = client.as_user("alice")
        assert [alice.status("POST", uploads.format("e")) for _ in range(3)] == [202] * 3


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !",
        "Basic " + base64.b64encode(b"alice").decode(),
        "Basic " + base64.b64encode(b"\xff:x").decode(),
        "Basic " + base64.b64encode(b"alice:" + b"x" * 100).decode(),
        "Bearer",
        "Bearer x",
        "Bearer " + "x" * 60_000,
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Digest username=alice",
        "\x00",
    ],
)
def test_bad_credentials_are_refused_even_where_everyone_may_read(client: Client, header: str) -> None:
    client.as_user("root").push("public/app", "1")
    assert client.anonymous().status("GET", "/v2/public/app/manifests/1") == 200
    client.headers = {"Authorization": header}
    answer = client.send("GET", "/v2/public/app/manifests/1")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_a_web_page_can_not_write_with_the_login_of_a_browser(client: Client) -> None:
    alice = client.as_user("alice")
    for header in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
        assert alice.code("POST", "/v2/team/app/blobs/uploads/", **header) == (403, "DENIED")
        assert alice.status("POST", "/token", b"grant_type=password", **header) == 403
    assert alice.status("GET", "/v2/", Sec_Fetch_Site="same-origin") == 200


@pytest.mark.parametrize("host", ['a"b', "a/b", "a b", "x\r\ny", 'x",scope="y'])
def test_the_realm_never_has_hostile_text(client: Client, host: str) -> None:
    answer = client.send("GET", "/v2/", Host=host)
    assert answer.status == 400
    assert "WWW-Authenticate" not in answer.headers


def test_the_audit_log_says_who_did_what_and_no_secret(client: Client, tmp_path: Path) -> None:
    alice = client.as_user("alice")
    token = alice.token("repository:team/app:pull,push")["token"]
    alice.bearer(token).push("team/app", "1")
    client.as_user("alice", "guess-secret").status("GET", "/v2/team/app/manifests/1")
    client.as_user("reader").status("DELETE", "/v2/team/app/manifests/1")
    records = audit(tmp_path)
    assert [(one["action"], one["status"]) for one in records] == [
        ("token", 200),
        ("push", 201),
        ("push", 201),
        ("push", 201),
        ("pull", 401),
        ("delete", 403),
    ]
    put = records[3]
    assert (put["user"], put["address"], put["repository"], put["what"]) == ("alice", "192.0.2.1", "team/app", "1")
    assert records[5]["user"] == "reader"
    assert (records[4]["claimed"], "user" in records[4]) == ("alice", False)
    text = (tmp_path / "audit").read_text()
    for secret in (token, "alice-secret", "guess-secret", "Basic", "Bearer"):
        assert secret not in text
    client.as_user("n" * 30_000, "guess").status("GET", f"/v2/team/app/manifests/{'t' * 60_000}")
    client.as_user("reader").status("GET", f"/v2/team/app/manifests/{'t' * 60_000}")
    assert max(map(len, (tmp_path / "audit").read_text().splitlines())) < 1000


def test_certificates_are_logins(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    with serving(tmp_path, rules=str(tmp_path / "rules.toml"), certificates=True, local=False) as client:
        assert client.status("GET", "/v2/") == 401
        client.asker = Asker("192.0.2.1", "alice")
        assert client.anonymous().push("team/app", "1").status == 201
        token = client.anonymous().token("repository:team/app:pull")["token"]
        assert client.bearer(token).status("GET", "/v2/team/app/manifests/1") == 200
        client.asker = Asker("192.0.2.1", "")
        assert client.bearer(token).status("GET", "/v2/team/app/manifests/1") == 401  # it is bound to the certificate
        client.asker = Asker("192.0.2.1", "@dev")
        assert client.anonymous().status("GET", "/v2/") == 401


def test_without_users_everything_is_open_on_this_machine_only(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        client.headers = {"Host": "localhost:5000"}
        assert client.push("app", "1").status == 201
        assert client.status("GET", "/token") == 404
        client.headers = {"Host": "localhost:5000", "Authorization": basic("who", "ever")}
        assert client.status("GET", "/v2/app/manifests/1") == 200
        for bad in ({"Host": "evil.example"}, {"Host": "localhost", "Origin": "http://evil.example"}):
            client.headers = bad
            assert client.code("GET", "/v2/app/manifests/1") == (403, "DENIED")


def test_options_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--access can't be combined"):
        open_access(AccessOptions(rules=str(tmp_path / "x"), anonymous_pull=True))
    with pytest.raises(UsageError, match="not a URL"):
        open_access(AccessOptions(url="registry.example.com"))
    with serving(tmp_path, local=False) as client:
        assert client.code("POST", "/v2/app/blobs/uploads/") == (403, "DENIED")
    with serving(tmp_path, local=False, anonymous_push=True) as client:
        assert client.push("app", "1").status == 201


def test_users_without_a_file_of_rules(tmp_path: Path) -> None:
    with serving(tmp_path, htpasswd=write_users(tmp_path), local=False, anonymous_pull=True) as client:
        assert client.as_user("lonely").push("any/app", "1").status == 201
        assert client.anonymous().status("GET", "/v2/any/app/manifests/1") == 200
        assert client.anonymous().status("DELETE", "/v2/any/app/manifests/1") == 401
        assert client.as_user("bob").status("DELETE", "/v2/any/app/manifests/1") == 202
    with serving(tmp_path, htpasswd=str(tmp_path / "users"), local=False) as client:
        assert client.anonymous().status("GET", "/v2/any/app/manifests/1") == 401
        assert client.anonymous().status("GET", "/token") == 401
    assert os.path.exists(tmp_path / "users")
