"""A mirror of another registry: one fetch for many clients, tags that age, an upstream that fails, lies or stalls."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lamina.errors import RemoteFailure
from lamina.host.temporary import Temporary
from lamina.remote.client import Access
from lamina.remote.credentials import Credential
from lamina.serve.access.htpasswd import hashed_password
from lamina.serve.api import open_api
from lamina.serve.asgi.application import Site
from lamina.serve.asgi.background import in_background
from lamina.serve.asgi.limits import Limits
from lamina.serve.busy import Busy
from lamina.serve.mirror.cache import Cache
from lamina.serve.mirror.mirror import Mirror
from lamina.serve.mirror.once import Once
from lamina.serve.mirror.upstream import Upstream
from lamina.serve.server import RegistryServer
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.store import Store
from server_process import ServerProcess, serving
from support import THOROUGH, lamina, require_root, write_layout
from upstream import PIECE, Registry, upstream

HOST = "up.example"
LAYER = random.Random(1).randbytes(20 * PIECE)


class Answer:
    """A whole answer; ``body`` is None if the connection was cut before its end."""

    def __init__(self, server: str, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> None:
        connection = http.client.HTTPConnection(server, timeout=30)
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        self.status = answer.status
        self.headers = answer.headers
        self.body: bytes | None
        try:
            self.body = answer.read()
        except (http.client.IncompleteRead, ConnectionError):
            self.body = None
        connection.close()


class World:
    def __init__(self, top: Path, registry: Registry, host: str) -> None:
        self.top, self.registry, self.upstream = top, registry, host
        self.store = Store.open(str(top / "s"))

    @contextmanager
    def mirror(
        self,
        *,
        ttl: float = 0.0,
        size: int | None = None,
        age: float | None = None,
        writable: bool = False,
        access: Access | None = None,
        fetches: int = 64,
    ) -> Iterator[str]:
        made = Mirror(
            [Upstream.parse(f"{HOST}=http://{self.upstream}")],
            str(self.top / "mirror"),
            access or Access(first_wait=0.01),
            ttl=ttl,
            size=size,
            age=age,
            fetches=fetches,
        )
        with RegistryServer(self.store, writable=writable, mirror=made) as server:
            yield server.name

    def kept(self) -> list[str]:
        top = self.top / "mirror" / "blobs"
        return sorted(path.name for path in top.glob("*/*"))

    def parts(self) -> list[Path]:
        return list((self.top / "mirror" / "parts").iterdir())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    registry = Registry()
    with upstream(registry) as host:
        yield World(tmp_path, registry, host)


@contextmanager
def reading(server: str, digest: str, repository: str = f"{HOST}/app") -> Iterator[http.client.HTTPResponse]:
    """The answer to a request of a blob, to be read piece by piece; the client goes away at the end of the block."""
    connection = http.client.HTTPConnection(server, timeout=30)
    try:
        connection.request("GET", f"/v2/{repository}/blobs/{digest}")
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def manifest(server: str, name: str, repository: str = f"{HOST}/app", **headers: str) -> Answer:
    return Answer(server, f"/v2/{repository}/manifests/{name}", **headers)


def blob(server: str, digest: str, repository: str = f"{HOST}/app", **headers: str) -> Answer:
    return Answer(server, f"/v2/{repository}/blobs/{digest}", **headers)


def at_once(work: Callable[[int], Answer], count: int) -> list[Answer]:
    found: list[Answer | None] = [None] * count

    def run(number: int) -> None:
        found[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one for one in found if one is not None]


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fails(status: int, **headers: str) -> Callable[[str, str], tuple[int, dict[str, str]]]:
    return lambda method, path: (status, {key.replace("_", "-"): value for key, value in headers.items()})


def test_an_image_comes_in_once_and_is_then_served_from_here(world: World) -> None:
    digest, (layer,) = world.registry.push("app", "1", [LAYER])
    with world.mirror(ttl=60) as server:
        for _ in range(2):
            found = manifest(server, "1")
            assert (found.status, found.headers["Docker-Content-Digest"]) == (200, digest)
            assert found.headers["Content-Type"] == mediatype.OCI_MANIFEST
            assert found.body == world.registry.manifests["app", "1"][1]
            assert manifest(server, digest).body == found.body
            assert blob(server, layer).body == LAYER
    assert world.registry.count("manifests") == 1
    assert world.registry.count("blobs") == 1
    assert layer.removeprefix("sha256:") in world.kept()
    assert world.parts() == []


@pytest.mark.parametrize("path", [f"/v2/{HOST}/team/app/manifests/1", f"/v2/team/app/manifests/1?ns={HOST}"])
def test_clients_name_the_registry_in_the_path_or_as_containerd_does(world: World, path: str) -> None:
    world.registry.push("team/app", "1", [b"x"])
    with world.mirror() as server:
        assert Answer(server, path).status == 200


def test_names_without_a_host_are_those_of_docker_io(world: World) -> None:
    world.registry.push("library/debian", "12", [b"x"])
    made = Mirror([Upstream.parse(f"docker.io=http://{world.upstream}")], str(world.top / "m"), Access())
    with RegistryServer(world.store, mirror=made) as server:
        for name in ("debian", "library/debian", "docker.io/library/debian"):
            assert manifest(server.name, "12", name).status == 200
        assert Answer(server.name, "/v2/debian/manifests/12?ns=docker.io").status == 200
        assert Answer(server.name, "/v2/_catalog").body == b'{"repositories": ["debian"]}'
        assert manifest(server.name, "12", "ghcr.io/library/debian").status == 404  # not mirrored


def test_many_clients_cause_one_fetch_and_read_while_it_runs(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    go_on = threading.Event()
    world.registry.gate = lambda digest, sent: (sent < 10 * PIECE or go_on.wait(20), None)[1]
    with world.mirror() as server:
        manifest(server, "1")
        with reading(server, layer) as answer:
            assert answer.read(4 * PIECE) == LAYER[: 4 * PIECE]  # long before the fetch has ended
            assert not go_on.is_set()
            late: list[Answer] = []
            others = threading.Thread(target=lambda: late.extend(at_once(lambda _: blob(server, layer), 16)))
            others.start()
            with reading(server, layer) as gone:  # a client that goes away does not stop the others
                assert gone.read(PIECE) == LAYER[:PIECE]
            go_on.set()
            others.join()
            assert LAYER[: 4 * PIECE] + answer.read() == LAYER
        assert [one.body for one in late] == [LAYER] * 16
    assert world.registry.count("blobs", "GET") == 1


def test_many_clients_cause_one_question_about_a_tag(world: World) -> None:
    world.registry.push("app", "1", [b"x"])
    go_on = threading.Event()

    def held(method: str, path: str) -> None:
        go_on.wait(20)

    world.registry.fault = held
    with world.mirror() as server:
        asked = threading.Thread(target=lambda: until(lambda: world.registry.requests) or go_on.set())
        asked.start()
        found = at_once(lambda _: manifest(server, "1"), 12)
        asked.join()
    assert {one.status for one in found} == {200}
    assert world.registry.count("manifests") <= 2  # one that came after the first had ended


def test_a_tag_is_asked_again_when_it_is_old_with_head_and_by_digest_never(world: World) -> None:
    old, _ = world.registry.push("app", "1", [b"old"])
    with world.mirror(ttl=0) as server:
        assert manifest(server, "1").status == 200
        assert manifest(server, "1").headers["Docker-Content-Digest"] == old
        assert world.registry.count("manifests", "GET") == 1
        assert world.registry.count("manifests", "HEAD") == 1
        new, _ = world.registry.push("app", "1", [b"new"])
        assert manifest(server, "1").headers["Docker-Content-Digest"] == new
        asked = len(world.registry.requests)
        assert manifest(server, old).status == 200
        assert len(world.registry.requests) == asked
    with world.mirror(ttl=60) as server:  # what was learnt is still known after a restart
        assert manifest(server, "1").headers["Docker-Content-Digest"] == new
        assert len(world.registry.requests) == asked


@pytest.mark.parametrize("status", [500, 503, 429, None])
def test_without_the_upstream_what_is_there_is_served_with_a_warning(world: World, status: int | None) -> None:
    digest, (layer,) = world.registry.push("app", "1", [LAYER])
    with world.mirror() as server:
        assert "Warning" not in manifest(server, "1").headers
        assert blob(server, layer).status == 200
        tags = Answer(server, f"/v2/{HOST}/app/tags/list").body
        if status is None:
            world.registry.fault = lambda method, path: (_ for _ in ()).throw(ConnectionError())  # the line is cut
        else:
            world.registry.fault = fails(status)
        for _ in range(2):
            found = manifest(server, "1")
            assert (found.status, found.headers["Docker-Content-Digest"]) == (200, digest)
            assert found.headers["Warning"].startswith('299 - "up.example/app:1 may be old')
        assert blob(server, layer).body == LAYER
        assert (
            Answer(server, f"/v2/{HOST}/app/tags/list").body == tags == b'{"name": "up.example/app", "tags": ["1"]}'
        )
        assert manifest(server, "2").status == (429 if status == 429 else 502)


def test_a_rate_limit_is_passed_on_with_its_time(world: World) -> None:
    world.registry.fault = fails(429, Retry_After="77")
    with world.mirror() as server:
        found = manifest(server, "1")
    assert (found.status, found.headers["Retry-After"]) == (429, "77")
    assert json.loads(found.body or b"")["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert world.registry.count("manifests") == 1  # the client waits, not the server


def test_a_wrong_digest_never_becomes_a_whole_answer(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    world.registry.changed[layer] = LAYER[:-1] + bytes([LAYER[-1] ^ 1])
    with world.mirror() as server:
        manifest(server, "1")
        found = at_once(lambda _: blob(server, layer), 4)
        assert [one.body for one in found] == [None] * 4  # cut off
        assert blob(server, layer, Range="bytes=0-99").body is None
        assert layer.removeprefix("sha256:") not in world.kept()
        until(lambda: world.parts() == [])
        world.registry.changed.clear()
        assert blob(server, layer).body == LAYER


def test_a_wrong_size_is_refused(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    world.registry.changed[layer] = LAYER + b"more"
    with world.mirror() as server:
        manifest(server, "1")
        assert blob(server, layer).status == 502
        assert layer.removeprefix("sha256:") not in world.kept()


def test_a_manifest_that_does_not_match_its_digest_is_refused(world: World) -> None:
    digest, _ = world.registry.push("app", "1", [b"x"])
    other, _ = world.registry.push("app", "2", [b"y"])
    world.registry.manifests["app", digest] = world.registry.manifests["app", other]
    with world.mirror() as server:
        assert manifest(server, digest).status == 502
    assert world.kept() == []


def test_a_range_of_what_is_not_here_yet_comes_from_the_same_fetch(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    with world.mirror() as server:
        manifest(server, "1")
        found = at_once(lambda n: blob(server, layer, Range=f"bytes={n * PIECE}-{n * PIECE + 9}"), 5)
        assert [(one.status, one.body) for one in found] == [
            (206, LAYER[n * PIECE : n * PIECE + 10]) for n in range(5)
        ]
        assert blob(server, layer, Range="bytes=-5").body == LAYER[-5:]
    assert world.registry.count("blobs", "GET") == 1


def test_a_fetch_that_breaks_off_is_resumed_where_it_was(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    world.registry.cut[layer] = 7 * PIECE
    with world.mirror() as server:
        manifest(server, "1")
        assert blob(server, layer).body == LAYER
    assert world.registry.count("blobs", "GET") == 2


def test_a_server_that_stops_in_mid_fetch_resumes_later(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    stop = threading.Event()
    world.registry.gate = lambda digest, sent: (sent < 10 * PIECE or stop.wait(20), None)[1]
    with world.mirror(ttl=60) as server:
        manifest(server, "1")
        with reading(server, layer) as answer:
            assert answer.read(8 * PIECE) == LAYER[: 8 * PIECE]
    stop.set()
    until(lambda: world.parts() and world.parts()[0].stat().st_size >= 8 * PIECE)
    starts: list[int] = []
    world.registry.gate = lambda digest, sent: starts.append(sent)
    with world.mirror(ttl=60) as server:
        assert blob(server, layer).body == LAYER
    assert starts[0] >= 8 * PIECE


def test_a_damaged_rest_of_a_fetch_is_thrown_away(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    with world.mirror(ttl=60) as server:
        manifest(server, "1")
        part = world.top / "mirror" / "parts" / layer.replace(":", "-")
        part.write_bytes(bytes(5 * PIECE))  # a power cut
        assert blob(server, layer).body is None
        assert blob(server, layer).body == LAYER
        part.write_bytes(bytes(len(LAYER) + 1))
        (world.top / "mirror" / "blobs" / layer.replace(":", "/")).unlink()
        blob(server, layer)
        assert blob(server, layer).body == LAYER


def test_nothing_is_served_from_a_repository_that_does_not_have_it(world: World) -> None:
    secret, (layer,) = world.registry.push("private", "1", [LAYER])
    world.registry.push("app", "1", [b"x"])
    # a manifest of another repository claims to have the layer
    value = json.loads(world.registry.manifests["private", "1"][1])
    raw = json.dumps({**value, "annotations": {"liar": "yes"}}).encode()
    world.registry.manifests["app", "liar"] = (mediatype.OCI_MANIFEST, raw)
    with world.mirror() as server:
        assert manifest(server, "1", f"{HOST}/private").status == 200
        assert blob(server, layer, f"{HOST}/private").body == LAYER
        assert manifest(server, "liar").status == 200
        assert blob(server, layer).status == 404
        assert manifest(server, secret).status == 404
        world.registry.blobs["app", layer] = LAYER  # mounted there
        assert blob(server, layer).body == LAYER
    assert world.registry.count("blobs", "GET", "/private/") == 1


def test_who_joins_a_fetch_of_another_repository_must_have_the_blob_too(world: World) -> None:
    _, (layer,) = world.registry.push("private", "1", [LAYER])
    value = json.loads(world.registry.manifests["private", "1"][1])
    raw = json.dumps({**value, "annotations": {"liar": "yes"}}).encode()
    world.registry.manifests["app", "liar"] = (mediatype.OCI_MANIFEST, raw)
    go_on = threading.Event()
    world.registry.gate = lambda digest, sent: (sent < 10 * PIECE or go_on.wait(20), None)[1]
    with world.mirror() as server:
        manifest(server, "1", f"{HOST}/private")
        manifest(server, "liar")
        with reading(server, layer, f"{HOST}/private") as answer:
            assert answer.read(PIECE) == LAYER[:PIECE]
            assert blob(server, layer).status == 404
            go_on.set()
            assert len(answer.read()) == len(LAYER) - PIECE


def test_the_login_is_the_servers_own_and_never_the_clients(world: World) -> None:
    world.registry.push("app", "1", [b"x"])
    world.registry.token = "Basic bWU6c2VjcmV0"
    with world.mirror() as server:
        assert (
            manifest(server, "1", Authorization=world.registry.token).status == 404
        )  # denied: as if it were not there
    assert all(sent == "" for _, _, sent in world.registry.requests)
    access = Access(credential=lambda host, path: Credential("me", "secret") if host == world.upstream else None)
    with world.mirror(access=access) as server:
        assert manifest(server, "1").status == 200


def test_what_the_registry_has_removed_is_gone_here_too(world: World) -> None:
    digest, _ = world.registry.push("app", "1", [b"x"])
    with world.mirror() as server:
        assert manifest(server, "1").status == 200
        del world.registry.manifests["app", "1"]
        assert manifest(server, "1").status == 404
        assert manifest(server, digest).status == 200  # by digest, once fetched, it is never asked again


def test_lists_are_passed_through(world: World) -> None:
    digest, _ = world.registry.push("app", "1", [b"x"])
    world.registry.push("app", "2", [b"y"])
    signature = {
        "mediaType": mediatype.OCI_MANIFEST,
        "digest": f"sha256:{'1' * 64}",
        "size": 5,
        "artifactType": "a/b",
    }
    world.registry.referrers["app", digest] = [signature]
    with world.mirror() as server:
        assert json.loads(Answer(server, f"/v2/{HOST}/app/tags/list?n=1").body or b"")["tags"] == ["1"]
        for _ in range(2):
            found = json.loads(Answer(server, f"/v2/{HOST}/app/referrers/{digest}").body or b"")
            assert [one["digest"] for one in found["manifests"]] == [signature["digest"]]
            world.registry.fault = fails(503)
        assert Answer(server, f"/v2/{HOST}/nothing/tags/list").status == 502
        world.registry.fault = lambda method, path: None


def test_pushes_to_mirrored_names_are_refused_with_words(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    with world.mirror(writable=True) as server:
        for method, path in (
            ("POST", f"/v2/{HOST}/app/blobs/uploads/"),
            ("PUT", f"/v2/{HOST}/app/manifests/2"),
            ("DELETE", f"/v2/{HOST}/app/manifests/1"),
            ("DELETE", f"/v2/{HOST}/app/blobs/{layer}"),
        ):
            raw = world.registry.manifests["app", "1"][1] if method == "PUT" else b""
            answer = Answer(server, path, method, raw, Content_Type=mediatype.OCI_MANIFEST)
            said = json.loads(answer.body or b"")["errors"][0]
            assert (answer.status, said["code"]) == (403, "DENIED"), path
            assert f"this server mirrors {HOST}" in said["message"]
        assert blob(server, layer, method="HEAD").status == 200
        assert Answer(server, "/v2/mine/blobs/uploads/", "POST").status == 202  # own names are written to as ever


def test_images_of_the_store_under_a_mirrored_name_are_used(world: World, tmp_path: Path) -> None:
    one = write_layout(tmp_path / "l", f"{HOST}/app:1", [[("a", b"1")]])
    assert lamina("load", "-i", str(tmp_path / "l"), root=tmp_path / "s").returncode == 0
    layer = json.loads(world.store.manifest(one))["layers"][0]["digest"]
    world.registry.fault = fails(503)
    with world.mirror() as server:
        found = manifest(server, "1")
        assert (found.status, found.headers["Docker-Content-Digest"]) == (200, str(one.digest))
        assert "may be old" in found.headers["Warning"]
        assert blob(server, layer).status == 200
        world.registry.fault = lambda method, path: None
        assert manifest(server, "1").status == 200  # not there upstream, but here
    assert world.registry.count("blobs") == 0


def test_the_least_recently_used_blobs_go_when_the_mirror_is_full(world: World) -> None:
    layers = [random.Random(n).randbytes(PIECE) for n in range(6)]
    _, digests = world.registry.push("app", "1", layers)
    with world.mirror(ttl=60, size=4 * PIECE) as server:
        manifest(server, "1")
        for number, digest in enumerate(digests):
            assert blob(server, digest).body == layers[number]
            path = world.top / "mirror" / "blobs" / digest.replace(":", "/")
            until(path.exists)
            os.utime(path, (time.time() - 1000 + number,) * 2)
            if number == 2:
                os.utime(world.top / "mirror" / "blobs" / digests[0].replace(":", "/"))  # used just now
        until(lambda: sum(path.stat().st_size for path in (world.top / "mirror" / "blobs").glob("*/*")) <= 4 * PIECE)
        kept = world.kept()
        assert digests[0].removeprefix("sha256:") in kept
        assert digests[1].removeprefix("sha256:") not in kept
        assert blob(server, digests[1]).body == layers[1]  # fetched again
        assert manifest(server, "1").status == 200


def test_what_nobody_has_used_for_long_goes(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    with world.mirror(ttl=60) as server:
        manifest(server, "1")
        blob(server, layer)
    old = time.time() - 10 * 86_400
    for directory, _, files in os.walk(world.top / "mirror"):
        for name in files:
            os.utime(os.path.join(directory, name), (old, old))
    with world.mirror(age=86_400) as server:
        until(lambda: not any(files for _, _, files in os.walk(world.top / "mirror")))
        assert manifest(server, "1").status == 200
        assert blob(server, layer).body == LAYER


def test_two_servers_beside_one_directory_fetch_once(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    begun, go_on = threading.Event(), threading.Event()

    def gate(digest: str, sent: int) -> None:
        if sent >= 10 * PIECE:
            begun.set()
            go_on.wait(20)

    world.registry.gate = gate
    with world.mirror(ttl=60) as one, world.mirror(ttl=60) as other:
        manifest(one, "1")
        found: list[Answer] = []
        threads = [
            threading.Thread(target=lambda server=server: found.append(blob(server, layer)))
            for server in (one, other)
        ]
        threads[0].start()
        assert begun.wait(20)
        threads[1].start()
        with reading(other, layer) as late:
            assert late.read(4 * PIECE) == LAYER[: 4 * PIECE]  # while the other server fetches
        go_on.set()
        for thread in threads:
            thread.join()
        assert [one.body == LAYER for one in found] == [True] * 2
    assert world.registry.count("blobs", "GET") == 1


def test_a_killed_server_leaves_what_another_one_can_use(world: World, tmp_path: Path) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    go_on = threading.Event()
    world.registry.gate = lambda digest, sent: (sent < 10 * PIECE or go_on.wait(20), None)[1]
    options = ("--mirror", f"{HOST}=http://{world.upstream}", "--mirror-dir", str(tmp_path / "mirror"))
    with ExitStack() as held:
        servers = [ServerProcess(tmp_path / f"s{n}", *options, log=tmp_path / f"log{n}") for n in range(2)]
        for server in servers:
            held.callback(server.close)
            server.start()
        manifest(servers[0].name, "1")
        first = held.enter_context(reading(servers[0].name, layer))
        assert first.read(4 * PIECE) == LAYER[: 4 * PIECE]
        found: list[Answer] = []
        waiting = threading.Thread(target=lambda: found.append(blob(servers[1].name, layer)))
        waiting.start()
        answer = held.enter_context(reading(servers[1].name, layer))
        assert answer.read(4 * PIECE) == LAYER[: 4 * PIECE]
        servers[0].kill()
        go_on.set()
        waiting.join()
        assert found[0].body == LAYER
        assert len(answer.read()) == len(LAYER) - 4 * PIECE
    assert world.parts() == []


def test_a_real_server_streams_to_many_clients_from_one_fetch(world: World, tmp_path: Path) -> None:
    digest, (layer,) = world.registry.push("app", "1", [LAYER])
    go_on = threading.Event()
    world.registry.gate = lambda name, sent: (sent < 10 * PIECE or go_on.wait(20), None)[1]
    server = ServerProcess(
        tmp_path / "s", "--mirror", f"{HOST}=http://{world.upstream}", "--mirror-ttl", "0s", log=tmp_path / "log"
    )
    try:
        server.start()
        assert manifest(server.name, "1").headers["Docker-Content-Digest"] == digest
        found: list[Answer] = []
        waiting = threading.Thread(target=lambda: found.extend(at_once(lambda _: blob(server.name, layer), 200)))
        waiting.start()
        until(lambda: world.registry.count("blobs", "GET"))
        assert manifest(server.name, digest).status == 200  # not behind those who wait for the upstream
        go_on.set()
        waiting.join()
        assert [one.body == LAYER for one in found] == [True] * 200
        world.registry.fault = fails(500)
        assert "may be old" in manifest(server.name, "1").headers["Warning"]
        assert server.stop() == 0
    finally:
        server.close()
    assert world.registry.count("blobs", "GET") == 1


def test_what_is_asked_of_the_command_line_is_checked(tmp_path: Path) -> None:
    for words in (
        ("--mirror", "docker.io/library"),
        ("--mirror", "nohost"),
        ("--mirror", "docker.io=ftp://x.example"),
        ("--mirror", "docker.io=http://me:secret@x.example"),
        ("--mirror", "docker.io", "--mirror-size", "much"),
        ("--mirror", "docker.io", "--mirror-ttl", "-1s"),
    ):
        done = lamina("serve", "--port", "0", *words, root=tmp_path / "s")
        assert done.returncode == 2, words
        assert b"Traceback" not in done.stderr


def test_hosts_and_urls_of_mirrors() -> None:
    assert Upstream.parse("docker.io") == Upstream("docker.io")
    assert Upstream.parse("index.docker.io").host == "docker.io"
    assert Upstream.parse("a.example:5000=https://b.example/hub/") == Upstream("a.example:5000", "b.example/hub")
    assert Upstream.parse("a.example=http://b.example:80") == Upstream("a.example", "b.example:80", insecure=True)


def test_digests_of_all_kinds(world: World) -> None:
    digest = Digest.of(LAYER, "sha512")
    world.registry.blobs["app", str(digest)] = LAYER
    with world.mirror() as server:
        assert blob(server, str(digest)).body == LAYER
        assert blob(server, f"sha256:{'0' * 64}").status == 404
        assert blob(server, "other:abc").status in (400, 404)
        assert manifest(server, "other:abc").status == 404


def test_users_and_rules_are_asked_before_the_mirror(world: World, tmp_path: Path) -> None:
    digest, (layer,) = world.registry.push("private", "1", [LAYER])
    (tmp_path / "users").write_text(f"alice:{hashed_password('a')}\nbob:{hashed_password('b')}\n")
    (tmp_path / "rules").write_text(
        f'[[rules]]\nrepositories = ["{HOST}/private"]\nwho = "alice"\nactions = "pull"\n'
        '[[rules]]\nrepositories = ["other/**"]\nwho = "bob"\nactions = "pull"\n'
    )
    options = ("--mirror", f"{HOST}=http://{world.upstream}", "--htpasswd", str(tmp_path / "users"))
    log = tmp_path / "log"
    with serving(tmp_path / "s", *options, "--access", str(tmp_path / "rules"), log=log) as server:

        def status(user: str, path: str) -> int:
            login = base64.b64encode(f"{user}:{user[0]}".encode()).decode()
            return Answer(server.name, path, Authorization=f"Basic {login}").status

        forms = (f"/v2/{HOST}/private/{{}}", f"/v2/private/{{}}?ns={HOST}")
        parts = ("manifests/1", f"manifests/{digest}", f"blobs/{layer}", "tags/list", f"referrers/{digest}")
        for turn in range(2):
            for part in parts:
                for form in forms:
                    path = form.format(part)
                    assert status("bob", path) in (401, 403, 404), path
                    assert Answer(server.name, path).status == 401
                    if turn == 0:
                        assert world.registry.requests == []  # nobody who may not pull causes a request
            for part in parts:
                for form in forms:
                    assert status("alice", form.format(part)) == 200, form.format(part)
        assert all(sent == "" for _, _, sent in world.registry.requests)


def test_who_looks_at_the_images_in_a_browser_causes_no_requests(world: World, tmp_path: Path) -> None:
    with RegistryServer(Store.open(str(tmp_path / "up")), writable=True) as real:
        write_layout(tmp_path / "l", "app", [[("a", b"1")], [("b", b"2")]])
        for tag in ("1", "2", "3"):
            words = ("copy", f"oci:{tmp_path / 'l'}:app", f"docker://{real.name}/team/app:{tag}")
            assert lamina(*words, root=tmp_path / "none").returncode == 0
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        options = ("--mirror", f"{HOST}=http://{real.name}", "--mirror-ttl", "0s")
        with serving(tmp_path / "s", *options, log=tmp_path / "log", environment=cache) as server:
            digest = manifest(server.name, "1", f"{HOST}/team/app").headers["Docker-Content-Digest"]
            assert json.loads(Answer(server.name, f"/v2/{HOST}/team/app/tags/list").body or b"")["tags"] == [*"123"]
            found = Answer(server.name, f"/explore/api/tags?repository={HOST}/team/app")
            assert [one["tag"] for one in json.loads(found.body or b"")["tags"]] == ["1"]  # the one that is here
            document = json.loads(manifest(server.name, digest, f"{HOST}/team/app").body or b"")
            tree = f"/explore/api/tree?image={HOST}/team/app:1&path="
            assert Answer(server.name, tree).status == 404  # its layers are not here yet
            for layer in (document["config"], *document["layers"]):
                assert blob(server.name, layer["digest"], f"{HOST}/team/app").status == 200
            end = time.monotonic() + 60
            while (found := Answer(server.name, tree)).status == 202:  # its layers are being read
                assert time.monotonic() < end
                time.sleep(0.05)
            assert [one["name"] for one in json.loads(found.body or b"")["entries"]] == ["a", "b"]


def test_a_registry_that_stalls_keeps_nobody_waiting_for_what_is_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.serve.mirror.repositories.SHORT_PATIENCE", 0.2)
    monkeypatch.setattr("lamina.serve.mirror.repositories.PATIENCE", 0.3)
    digest, _ = world.registry.push("app", "1", [b"x"])
    go_on = threading.Event()
    with world.mirror() as server:
        assert manifest(server, "1").status == 200
        world.registry.fault = lambda method, path: go_on.wait(20) and None
        found = manifest(server, "1")
        assert (found.status, found.headers["Docker-Content-Digest"]) == (200, digest)
        assert "no answer from up.example" in found.headers["Warning"]
        asked = len(world.registry.requests)
        assert manifest(server, "1").status == 200  # it is not even asked now
        assert len(world.registry.requests) == asked
        assert manifest(server, "2").status == 502
        go_on.set()


def test_a_blob_that_is_larger_than_the_mirror_is_passed_on(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    with world.mirror(ttl=60, size=PIECE) as server:
        manifest(server, "1")
        for _ in range(2):
            assert [one.body == LAYER for one in at_once(lambda _: blob(server, layer), 4)] == [True] * 4
            until(lambda: layer.removeprefix("sha256:") not in world.kept())
        assert world.parts() == []


def test_on_a_full_disk_what_is_not_used_goes_first(world: World) -> None:
    require_root()
    layers = [random.Random(n).randbytes(40 * PIECE) for n in range(2)]
    _, digests = world.registry.push("app", "1", layers)
    huge, (too_large,) = world.registry.push("app", "2", [bytes(400 * PIECE)])
    disk = world.top / "mirror"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        with world.mirror(ttl=60) as server:
            assert manifest(server, "1").status == 200
            for number in (0, 1, 0):
                assert blob(server, digests[number]).body == layers[number]
            assert manifest(server, huge).status == 200
            assert blob(server, too_large).status == 507
            assert blob(server, digests[1]).body == layers[1]
            until(lambda: world.parts() == [])
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_size_that_a_manifest_invents_removes_nothing(world: World) -> None:
    """Anybody who may push to the other registry may state any size."""
    _, (layer,) = world.registry.push("app", "1", [LAYER])
    _, (other,) = world.registry.push("app", "2", [b"small"])
    media_type, raw = world.registry.manifests["app", "2"]
    with world.mirror() as server:
        assert blob(server, layer).body == LAYER
        state = os.statvfs(world.top)
        for repository, size in (("a", 1 << 62), ("b", state.f_bavail * state.f_frsize)):
            world.registry.manifests[repository, "1"] = media_type, raw.replace(b'"size": 5', b'"size": %d' % size)
            world.registry.blobs[repository, other] = b"small"
            assert manifest(server, "1", f"{HOST}/{repository}").status == 200
            assert blob(server, other, f"{HOST}/{repository}").status == 502
            assert layer.removeprefix("sha256:") in world.kept()


def test_nobody_fills_the_disk_with_lists_of_nothing(world: World) -> None:
    digest, _ = world.registry.push("app", "1", [b"x"])
    with world.mirror() as server:
        manifest(server, digest)
        for subject in (digest, "sha256:" + "0" * 64):
            found = Answer(server, f"/v2/{HOST}/app/referrers/{subject}")
            assert json.loads(found.body or b"")["manifests"] == []
    kept = [path.name for path in (world.top / "mirror").rglob("referrers-*")]
    assert kept == [f"referrers-{digest.replace(':', '-')}"]


def test_a_list_of_tags_without_end_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.serve.mirror.repositories.MAX_TAGS", 3)
    with world.mirror() as server:
        for number, repository in enumerate(("a", "b", "b", "b", "b")):
            world.registry.push(repository, str(number), [b"x"])
        for repository, status in (("a", 200), ("b", 502)):
            assert Answer(server, f"/v2/{HOST}/{repository}/tags/list").status == status


def test_whatever_happens_no_whole_answer_is_wrong(world: World, tmp_path: Path) -> None:
    """Clients, a registry that cuts, lies and fails, servers that are killed, and a mirror that is too small."""
    layers = [random.Random(n).randbytes((n % 7 + 1) * 3 * PIECE + n) for n in range(14)]
    _, digests = world.registry.push("app", "1", layers)
    content = dict(zip(digests, layers, strict=True))
    chance = random.Random(5)
    guard = threading.Lock()

    def gate(digest: str, sent: int) -> None:
        with guard:
            kind = chance.random()
        if kind < 0.02:
            raise ConnectionError
        time.sleep(0.001)

    def fault(method: str, path: str) -> tuple[int, dict[str, str]] | None:
        with guard:
            kind = chance.random()
            lying = chance.choice(digests)
            if kind < 0.2:
                world.registry.changed[lying] = content[lying][:-9] + bytes(9)
            elif kind < 0.5:
                world.registry.changed.clear()
        return (503, {}) if kind > 0.97 else None

    world.registry.gate, world.registry.fault = gate, fault
    size = sum(map(len, layers)) // 2
    options = ("--mirror", f"{HOST}=http://{world.upstream}", "--mirror-dir", str(tmp_path / "mirror"))
    servers = [
        ServerProcess(tmp_path / f"s{n}", *options, "--mirror-size", f"{size}b", log=tmp_path / f"log{n}")
        for n in range(2)
    ]
    ended = threading.Event()
    right, wrong = [0], [0]

    def client(number: int) -> None:
        own = random.Random(number)
        while not ended.is_set():
            digest = own.choice(digests)
            start = own.choice((0, 0, 0, own.randrange(len(content[digest]))))
            headers = {"Range": f"bytes={start}-"} if start else {}
            try:
                found = blob(own.choice(servers).name, digest, **headers)
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)  # the server was killed
                continue
            if found.status in (200, 206) and found.body is not None:
                good = found.body == content[digest][start if found.status == 206 else 0 :]
                with guard:
                    (right if good else wrong)[0] += 1

    try:
        for server in servers:
            server.start()
        world.registry.fault = lambda method, path: None
        manifest(servers[0].name, "1")
        world.registry.fault = fault
        clients = [threading.Thread(target=client, args=(number,)) for number in range(10)]
        for one in clients:
            one.start()
        for turn in range(6 if THOROUGH else 2):
            time.sleep(1.5)
            servers[turn % 2].kill()
            servers[turn % 2].start()
        ended.set()
        for one in clients:
            one.join()
    finally:
        ended.set()
        for server in servers:
            server.close()
    assert wrong == [0]
    assert right[0] > 20
    for path in (tmp_path / "mirror" / "blobs" / "sha256").iterdir():
        assert Digest.of(path.read_bytes()).encoded == path.name


def test_a_rate_limit_of_blobs_and_an_empty_blob(world: World) -> None:
    _, digests = world.registry.push("app", "1", [LAYER, b""])
    with world.mirror(ttl=60) as server:
        assert manifest(server, "1").status == 200
        world.registry.fault = fails(429, Retry_After="33")
        found = blob(server, digests[0])
        assert (found.status, found.headers["Retry-After"]) == (429, "33")
        world.registry.fault = lambda method, path: None
        assert blob(server, digests[1]).body == b""
        assert blob(server, digests[0]).body == LAYER
    assert world.parts() == []


def test_mirrors_of_registries_conf_are_not_asked(world: World, tmp_path: Path) -> None:
    """One of them may be this server."""
    world.registry.push("app", "1", [LAYER])
    server = ServerProcess(
        tmp_path / "s",
        *("--mirror", f"{HOST}=http://{world.upstream}"),
        log=tmp_path / "log",
        environment={"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf")},
    )
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nlocation = "{HOST}"\n'
        f'[[registry.mirror]]\nlocation = "{server.name}/{HOST}"\ninsecure = true\n'
    )
    try:
        server.start()
        assert manifest(server.name, "1").status == 200
        assert manifest(server.name, "2").status == 404
        assert lamina("fsck", root=tmp_path / "s").returncode == 0  # what is in the mirror is not of the store
        assert lamina("prune", "--all", "--force", root=tmp_path / "s").returncode == 0
        assert manifest(server.name, "1").status == 200
    finally:
        server.close()


def test_a_client_that_does_not_read_does_not_keep_others_from_a_new_fetch(world: World) -> None:
    _, (layer,) = world.registry.push("app", "1", [LAYER * 4])
    world.registry.changed[layer] = (LAYER * 4)[:-1] + b"?"
    with world.mirror(ttl=60) as server:
        manifest(server, "1")
        with reading(server, layer) as idle:  # it keeps the part file of the fetch that fails
            assert idle.read(100) == LAYER[:100]
            assert blob(server, layer).body is None
            world.registry.changed.clear()
            assert blob(server, layer).body == LAYER * 4


def test_fetches_have_a_number_and_others_wait_for_their_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, layers = world.registry.push("app", "1", [LAYER, LAYER + b"2"])
    go_on = threading.Event()
    world.registry.gate = lambda digest, sent: (sent < 10 * PIECE or go_on.wait(20), None)[1]
    with world.mirror(ttl=60, fetches=1) as server:
        manifest(server, "1")
        with reading(server, layers[0]) as first:
            assert first.read(100) == LAYER[:100]
            monkeypatch.setattr("lamina.serve.mirror.fetch.WAIT", 0.1)
            refused = blob(server, layers[1])
            assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
            assert b"TOOMANYREQUESTS" in (refused.body or b"")
            assert manifest(server, "1").status == 200
            with reading(server, layers[0]) as joined:
                assert joined.read(100) == LAYER[:100]
            monkeypatch.setattr("lamina.serve.mirror.fetch.WAIT", 20.0)
            waiting: list[Answer] = []
            other = threading.Thread(target=lambda: waiting.extend(at_once(lambda _: blob(server, layers[1]), 3)))
            other.start()
            go_on.set()
            other.join()
            assert [one.body for one in waiting] == [LAYER + b"2"] * 3
            assert first.read() == LAYER[100:]
    assert world.registry.count("blobs", "GET") == 2


def test_a_fetch_whose_clients_have_gone_makes_room_for_another(world: World) -> None:
    _, layers = world.registry.push("app", "1", [LAYER, LAYER + b"2"])
    first = layers[0]
    go_on = threading.Event()
    begins: list[int] = []

    def held(digest: str, sent: int) -> None:
        if digest == first and not go_on.is_set():
            begins.append(sent)
            if sent == 10 * PIECE:
                go_on.wait(20)

    world.registry.gate = held
    # not the small server: its threads see that a client has gone when they send again
    where = [Upstream.parse(f"{HOST}=http://{world.upstream}")]
    made = Mirror(where, str(world.top / "mirror"), Access(first_wait=0.01), ttl=60, fetches=1)
    with open_api(world.store, writable=False, mirror=made) as api:
        with in_background(Site(api.answer, Limits(grace=2)), stopping=go_on.set) as address:
            server = str(address)
            manifest(server, "1")
            with reading(server, first) as gone:
                assert gone.read(100) == LAYER[:100]
                until(lambda: 10 * PIECE in begins)
            assert blob(server, layers[1]).body == LAYER + b"2"
            assert not go_on.is_set()
            world.registry.gate = lambda digest, sent: begins.append(sent)
            assert blob(server, first).body == LAYER
    assert begins[10] == 10 * PIECE
    assert begins[11] > 0  # what has come in is not fetched again


def test_questions_have_a_number() -> None:
    once: Once[int] = Once(most=1)
    go_on, begun = threading.Event(), threading.Event()
    held = threading.Thread(target=lambda: once.run("a", lambda: begun.set() or go_on.wait(20) or 1, 20, "it"))
    held.start()
    assert begun.wait(20)
    with pytest.raises(Busy):
        once.run("b", lambda: 2, 0.05, "it")
    with pytest.raises(RemoteFailure, match="no answer"):
        once.run("a", lambda: 3, 0.05, "it")
    go_on.set()
    assert once.run("b", lambda: 2, 20, "it") == 2
    held.join()


def test_a_record_that_is_being_written_is_not_taken_for_a_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = Cache(str(tmp_path / "m")), Cache(str(tmp_path / "m"))
    cache.set_tag("up.example/app", "1", Descriptor.of(mediatype.OCI_MANIFEST, b"{}"))
    before, seen = Temporary.put, []

    def put(self: Temporary, target: str) -> None:
        seen.append(other.tags("up.example/app"))
        before(self, target)

    monkeypatch.setattr(Temporary, "put", put)
    cache.set_tag("up.example/app", "2", Descriptor.of(mediatype.OCI_MANIFEST, b"{}"))
    assert seen == [["1"]]
    assert other.tags("up.example/app") == ["1", "2"]


def test_a_wrong_size_does_not_remove_a_document_from_the_cache(tmp_path: Path) -> None:
    """An index may state what it likes of a document that is here; only damage is removed."""
    right = Descriptor.of(mediatype.OCI_MANIFEST, b"{}")
    Cache(str(tmp_path)).put_document(right, b"{}")
    cache = Cache(str(tmp_path))  # nothing is in memory
    assert cache.document(Descriptor(right.media_type, right.digest, 3)) is None
    assert cache.document(right) == b"{}"
    path = Path(cache.path(right.digest))
    path.chmod(0o644)
    path.write_bytes(b"[]")
    assert Cache(str(tmp_path)).document(right) is None
    assert not path.exists()
