"""The explorer of a real server: with users and rules, over object storage, and while clients push."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from lamina.archive.layout import LayoutReader
from lamina.cli import run
from lamina.serve.access.htpasswd import hashed_password
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import Manifest, parse
from lamina.spec.platform import Platform
from object_storage import KINDS, s3_server
from server_process import ServerProcess, serving
from support import make_tar, running, write_layout

LAYERS = [
    [("etc", None), ("etc/passwd", b"root\n"), ("etc/secret-plan", b"hidden soon")],
    [("etc/.wh.secret-plan", b""), ("big.bin", bytes(range(256)) * 40_000)],  # 10 MB of content
]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("images") / "layout"
    write_layout(directory, "docker.io/alice/app:1", LAYERS)
    write_layout(directory, "docker.io/bob/app:1", [*LAYERS, [("bobs-file", b"only bob's")]])
    return directory


def login(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def get(
    server: ServerProcess, target: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", target, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def send(
    server: ServerProcess, method: str, target: str, headers: dict[str, str], body: bytes, expected: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        assert answer.status == expected, answer.read()
    finally:
        connection.close()


def fetch(
    server: ServerProcess, page: str, headers: dict[str, str] | None = None, **query: object
) -> tuple[int, Any]:
    """Ask until there is an answer."""
    until = time.monotonic() + 120
    while True:
        status, _, body = get(server, f"/explore/api/{page}?{urlencode(query)}", headers)
        if status != 202:
            return status, json.loads(body)
        assert time.monotonic() < until
        time.sleep(0.05)


def ask(server: ServerProcess, page: str, headers: dict[str, str] | None = None, **query: object) -> Any:
    status, value = fetch(server, page, headers, **query)
    assert status == 200, value
    return value


@pytest.fixture(scope="module")
def server(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    top = tmp_path_factory.mktemp("users")
    assert run(["--root", str(top / "store"), "load", "-q", "-i", str(layout)]) == 0
    (top / "users").write_text(f"alice:{hashed_password('one', 4)}\nbob:{hashed_password('two', 4)}\n")
    (top / "rules").write_text(
        '[[rules]]\nwho = ["alice"]\nrepositories = ["alice/**"]\nactions = ["pull"]\n'
        '[[rules]]\nwho = ["bob"]\nrepositories = ["**"]\nactions = ["pull"]\n'
    )
    words = ["--htpasswd", str(top / "users"), "--access", str(top / "rules")]
    with serving(top / "store", *words, "--explorer-cache", str(top / "cache"), log=top / "log") as server:
        yield server
        assert server.stop() == 0
    assert "Traceback" not in (top / "log").read_text()


class TestUsers:
    def test_a_browser_is_asked_to_log_in(self, server: ServerProcess) -> None:
        for target in ("/", "/explore/api/about", "/explore/api/tree?image=bob/app:1", "/explore/static/main.js"):
            status, headers, _ = get(server, target)
            assert (status, headers["www-authenticate"].startswith("Basic ")) == (401, True), target
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'")
        assert json.loads(get(server, "/explore/api/about")[2])["error"]["code"] == "unauthorized"
        assert get(server, "/explore/api/about", login("alice", "wrong"))[0] == 401

    def test_each_user_sees_what_he_may_pull(self, server: ServerProcess) -> None:
        alice, bob = login("alice", "one"), login("bob", "two")
        assert ask(server, "about", alice)["user"] == "alice"
        names = {
            name: [one["name"] for one in ask(server, "repositories", who)["repositories"]]
            for name, who in (("alice", alice), ("bob", bob))
        }
        assert names == {"alice": ["alice/app"], "bob": ["alice/app", "bob/app"]}
        assert ask(server, "tree", bob, image="bob/app:1", path="/")["total"] == 3
        for page in ("image", "tree", "stack", "sharing", "blame", "ghosts", "file", "download", "raw", "treemap"):
            status, value = fetch(server, page, alice, image="bob/app:1", path="/bobs-file")
            assert (status, value["error"]["code"]) == (404, "not_found"), page
            missing = fetch(server, page, alice, image="nobody/app:1", path="/bobs-file")[1]["error"]
            assert value["error"]["message"].replace("bob/", "X/") == missing["message"].replace("nobody/", "X/")
        assert fetch(server, "diff", alice, before="alice/app:1", after="bob/app:1")[0] == 404
        for who, found in ((alice, set()), (bob, {"bob/app:1"})):
            results = ask(server, "search", who, q="bobs-file")["results"]
            assert {place["image"] for one in results for place in one["images"]} == found
        shared = ask(server, "sharing", alice, image="alice/app:1")["layers"]
        assert [one["images"] for one in shared] == [[], []]
        shared = ask(server, "sharing", bob, image="alice/app:1")["layers"]
        assert [one["images"] for one in shared] == [["bob/app:1"]] * 2


def test_a_layer_that_was_read_elsewhere_is_not_shown_to_who_only_names_it(layout: Path, tmp_path: Path) -> None:
    assert run(["--root", str(tmp_path / "store"), "load", "-q", "-i", str(layout)]) == 0
    (tmp_path / "users").write_text(f"alice:{hashed_password('one', 4)}\nbob:{hashed_password('two', 4)}\n")
    (tmp_path / "rules").write_text(
        '[[rules]]\nwho = ["alice"]\nrepositories = ["alice/**"]\nactions = ["push"]\n'
        '[[rules]]\nwho = ["bob"]\nrepositories = ["**"]\nactions = ["pull"]\n'
    )
    words = ["--htpasswd", str(tmp_path / "users"), "--access", str(tmp_path / "rules"), "--writable"]
    alice, bob = login("alice", "one"), login("bob", "two")
    with serving(
        tmp_path / "store", *words, "--explorer-cache", str(tmp_path / "cache"), log=tmp_path / "log"
    ) as server:
        assert ask(server, "search", bob, q="bobs-file")["results"]  # now its index is kept
        secret = LayoutReader(str(layout))
        manifest = parse(secret.manifest(secret.resolve("docker.io/bob/app:1")), mediatype.OCI_MANIFEST)
        assert isinstance(manifest, Manifest)
        layer = {**manifest.layers[2].to_json(), "mediaType": mediatype.OCI_FOREIGN_GZIP}
        tar = make_tar([("bobs-file", b"only bob's")])
        config = ImageConfig.build(Platform.host(), diff_ids=[Digest.of(tar)])
        raw = json.dumps(config.json).encode()
        stated = Descriptor.of(mediatype.OCI_CONFIG, raw)
        send(server, "POST", f"/v2/alice/trap/blobs/uploads/?digest={stated.digest}", alice, raw, 201)
        kind = mediatype.OCI_MANIFEST
        body = {"schemaVersion": 2, "mediaType": kind, "config": stated.to_json(), "layers": [layer]}
        named = {**alice, "Content-Type": kind}
        send(server, "PUT", "/v2/alice/trap/manifests/1", named, json.dumps(body).encode(), 201)
        assert server.stop() == 0
        server.start()  # it keeps the indexes, and lists the images anew
        for page in ("tree", "stack", "treemap", "waste", "ghosts"):
            assert fetch(server, page, alice, image="alice/trap:1", path="/")[0] == 404, page
        assert fetch(server, "search", alice, q="bobs-file", image="alice/trap:1")[0] == 404
        assert ask(server, "search", alice, q="bobs-file")["results"] == []
        found = ask(server, "search", bob, q="bobs-file")  # what alice names does not hide what bob has
        assert "bob/app:1" in {place["image"] for one in found["results"] for place in one["images"]}
        assert server.stop() == 0


@pytest.mark.peer
@pytest.mark.parametrize("kind", KINDS)
def test_images_in_object_storage_are_shown(
    kind: str, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3").mkdir()
    with s3_server(kind, tmp_path / "s3") as storage:
        environment = {**storage.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        words = ["--storage", storage.url, "--writable"]
        with serving(tmp_path / "none", *words, log=tmp_path / "log", environment=environment) as server:
            target = f"docker://{server.name}/alice/app:1"
            assert run(["copy", "-q", f"oci:{layout}:docker.io/alice/app:1", target]) == 0
            image = "alice/app:1"
            (repository,) = ask(server, "repositories")["repositories"]
            assert (repository["name"], repository["tags"]) == ("alice/app", 1)
            (tag,) = ask(server, "tags", repository="alice/app")["tags"]
            assert (tag["image"], tag["layers"]) == (image, 2)
            found = ask(server, "tree", image=image, path="/etc", hidden=1)
            assert [(one["name"], one["state"]) for one in found["entries"]] == [
                ("passwd", "visible"),
                ("secret-plan", "hidden"),
            ]
            hidden = found["entries"][1]["node"]
            assert ask(server, "file", image=image, node=hidden)["preview"]["text"] == "hidden soon"
            status, _, body = get(server, "/explore/api/download?" + urlencode({"image": image, "path": "/big.bin"}))
            assert (status, body == bytes(range(256)) * 40_000) == (200, True)
            (result,) = ask(server, "search", q="secret*", hidden=1)["results"]
            image_of_it = result["images"][0]
            hidden = ("hidden", 2, "whiteout")
            assert (image_of_it["state"], image_of_it["hidden_by"], image_of_it["how"]) == hidden
            assert server.stop() == 0
        with serving(tmp_path / "none", *words, log=tmp_path / "log", environment=environment) as server:
            assert ask(server, "stack", image=image)["total"]["paths"] == 3
            assert server.stop() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_pushed_image_is_shown_at_once_and_a_moved_tag_is_the_new_image(layout: Path, tmp_path: Path) -> None:
    words = ["--writable", "--explorer-cache", str(tmp_path / "cache")]
    with serving(tmp_path / "store", *words, log=tmp_path / "log") as server:
        assert ask(server, "repositories")["repositories"] == []
        assert fetch(server, "tree", image="new/app:1")[0] == 404
        target = f"docker://{server.name}/new/app:1"
        assert run(["copy", "-q", f"oci:{layout}:docker.io/alice/app:1", target]) == 0
        assert ask(server, "tree", image="new/app:1")["total"] == 2
        assert run(["copy", "-q", f"oci:{layout}:docker.io/bob/app:1", target]) == 0
        assert ask(server, "tree", image="new/app:1")["total"] == 3
        digest = ask(server, "image", image="new/app:1")["digest"]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("DELETE", f"/v2/new/app/manifests/{digest}")
        assert connection.getresponse().status == 202
        connection.close()
        assert fetch(server, "tree", image="new/app:1")[0] == 404
        assert server.stop() == 0


def test_ui_shows_an_image_of_a_registry_without_pulling_it(layout: Path, tmp_path: Path) -> None:
    access, cache = tmp_path / "access", tmp_path / "cache"
    words = ["--access-log", str(access), "--log-format", "text", "--no-explorer", f"oci:{layout}"]
    with serving(tmp_path / "none", *words, log=tmp_path / "log") as registry:
        name = f"docker://{registry.name}/alice/app:1"
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        with running("ui", "-p", "0", name, root=tmp_path / "store", env=environment) as ui:
            assert ui.stdout is not None
            found = re.search(rb":(\d+)/", ui.stdout.readline())
            assert found
            server: Any = SimpleNamespace(port=int(found[1]))
            assert ask(server, "about")["images"] == [name]
            assert ask(server, "tree", image=name, path="/etc")["total"] == 1
            asked = access.read_text().count("manifests")
            assert ask(server, "file", image=name, path="/etc/passwd")["preview"]["text"] == "root\n"
            assert ask(server, "tree", image=name, path="/")["total"] == 2
            assert access.read_text().count("manifests") == asked  # it knows what the name stands for
            status, value = fetch(server, "tree", image=f"docker://{registry.name}/bob/app:1")
            assert (status, value["error"]["code"]) == (404, "not_found")
            ui.send_signal(signal.SIGINT)
            assert ui.wait(30) == 0
        assert registry.stop() == 0
    assert not (tmp_path / "store").exists()
