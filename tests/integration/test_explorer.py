"""The explorer over real places: what it says is what the command line says; hostile images stay data."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.cli import run
from lamina.errors import BlobNotFound
from lamina.serve.explorer import opened
from lamina.serve.explorer.asked import Answer, Asked, Refused
from lamina.serve.explorer.explorer import Explorer
from lamina.serve.explorer.gallery import Gallery, Place
from lamina.serve.explorer.layer_cache import LayerCache
from lamina.serve.explorer.loopback import ExplorerServer
from lamina.serve.explorer.work import Work
from lamina.serve.http_message import Asker
from lamina.serve.permit import EVERYTHING, Everything, Permit
from lamina.source.repositories import ListedRepositories
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from support import index_of, make_tar, rounds, running, write_index, write_layout

MANY = 50_000
EVIL = "<img src=x onerror=alert(1)>"
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 10
DEEP = "/".join(["deep"] * 200)
BASE = [
    ("etc", None),
    ("etc/passwd", b"root:x:0:0\n"),
    ("etc/same", b"same" * 100),
    ("etc/old", b"old" * 1000),
    ("etc/dir", None),
    ("etc/dir/a", b"a" * 50),
    ("etc/dir/b", b"b" * 60),
    ("bin", None),
    ("bin/tool", b"\x7fELF\x02\x01\x01\0" + bytes(range(256)) * 8, {"mode": 0o755}),
    ("bin/link", "= bin/tool"),
    ("sh", "-> bin/tool"),
    ("loop", "-> loop"),
    ("out", "-> ../../../../etc/passwd"),
    ("bad", None),
    (f"bad/{EVIL}", b"<script>alert(2)</script>"),
    ("bad/\x1b[31mred\x07", b"bell"),
    ("bad/caf\udce9", b"latin"),
    ("bad/caf\udcea", b"latin too"),
    ("bad/\u202ecod.exe", b"bidi"),
    ("bad/back\\slash'quote\"", b"quotes"),
    (f"{DEEP}/leaf", b"leaf"),
    ("pic.png", PNG),
    ("pic.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(3)'/>"),
    ("fake.png", b"<html><script>alert(4)</script>"),
    ("var", None),
    ("var/cache", None),
    ("var/cache/apt", None),
    ("var/cache/apt/pkg", b"deb" * 500),
]
MIDDLE = [
    ("etc/passwd", b"root:x:0:0\nuser:x:1:1\n"),
    ("etc/.wh.old", b""),
    ("etc/dir", None),
    ("etc/dir/.wh..wh..opq", b""),
    ("etc/dir/c", b"c" * 70),
    ("copy", b"same" * 100),
]
TOP = [("etc/same", b"same" * 100, {"mode": 0o600}), ("etc/new", b"new\n"), ("etc/.wh.nothing", b"")]
LATER = [("etc/new", b"newer\n"), ("bin/.wh.link", b""), ("opt", None), ("opt/tool", b"tool" * 10)]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("explorer")
    directory = top / "layout"
    write_layout(directory, "docker.io/library/app:1", [BASE, MIDDLE, TOP])
    write_layout(directory, "docker.io/library/app:2", [BASE, MIDDLE, TOP, LATER])
    write_layout(directory, "ghcr.io/me/plain:1", [BASE], compress=False)
    big = [("many", None), *((f"many/f{number:05}", b"") for number in range(MANY))]
    write_layout(directory, "docker.io/library/big:1", [big])
    return directory


@pytest.fixture(scope="module")
def root(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store") / "s"
    assert run(["--root", str(root), "load", "-q", "-i", str(layout)]) == 0
    return root


@pytest.fixture(scope="module")
def explorer(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    gallery = Gallery(ListedRepositories(LayoutReader(str(layout))))
    with Explorer(gallery, LayerCache(str(tmp_path_factory.mktemp("cache")))) as explorer:
        yield explorer


def fetch(explorer: Explorer, page: str, permit: Permit = EVERYTHING, **query: object) -> Answer:
    """Ask until there is an answer."""
    until = time.monotonic() + 120
    target = f"/explore/api/{page}?{urlencode(query)}"
    while True:
        answer = explorer.answer(Asked.parse("GET", target, {}, Asker("127.0.0.1"), permit))
        if answer.status != 202:
            return answer
        assert json.loads(answer.body)["working"].keys() == {"what", "done", "total", "percent", "retry_ms"}
        assert time.monotonic() < until, answer.body
        time.sleep(0.02)


def ask(explorer: Explorer, page: str, permit: Permit = EVERYTHING, **query: object) -> Any:
    answer = fetch(explorer, page, permit, **query)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def refused(explorer: Explorer, page: str, permit: Permit = EVERYTHING, **query: object) -> int:
    answer = fetch(explorer, page, permit, **query)
    assert json.loads(answer.body).keys() == {"error"}
    assert b"Traceback" not in answer.body
    return answer.status


@pytest.fixture
def says(root: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Any]:
    """What the command line prints as JSON."""

    def says(*words: str) -> Any:
        capsysbinary.readouterr()
        assert run(["--root", str(root), *words, "--format", "json"]) == (words[0] == "diff")
        return json.loads(capsysbinary.readouterr().out)

    return says


APP, APP2 = "app:1", "app:2"
FULL = "docker.io/library/app:1"


def shown(name: str) -> str:
    return Reference.parse(name).familiar


class TestAsTheCommandLine:
    @pytest.mark.parametrize("path", ["/", "/etc", "/bad", "/bin", "/" + DEEP, "/etc/passwd"])
    def test_ls(self, explorer: Explorer, says: Callable[..., Any], path: str) -> None:
        listed = says("ls", "app:1", path)
        found = ask(explorer, "tree", image=APP, path=path)
        ours = found["entries"] if found["node"]["kind"] == "directory" else [found["node"]]
        assert [{key: one[key] for key in like} for one, like in zip(ours, listed, strict=True)] == listed
        assert found["total"] == len(found["entries"])

    @pytest.mark.parametrize("path", ["/etc/passwd", "/etc/old", "/etc/dir", "/etc/nothing", "/bin/link", "/"])
    def test_blame(self, explorer: Explorer, says: Callable[..., Any], path: str) -> None:
        if path == "/etc/nothing":
            assert refused(explorer, "blame", image=APP, path=path) == 404
            return
        assert [ask(explorer, "blame", image=APP, path=path)] == says("blame", "app:1", path)

    def test_layers(self, explorer: Explorer, says: Callable[..., Any]) -> None:
        told = says("layers", "app:1")
        found = ask(explorer, "stack", image=APP)["layers"]
        shared = ask(explorer, "sharing", image=APP)["layers"]
        for layer, own, sharing in zip(told, found, shared, strict=True):
            assert sorted(map(shown, layer.pop("shared_with"))) == sorted(sharing["images"])
            assert own == layer

    @pytest.mark.parametrize("path", ["/", "/etc", "/bin"])
    def test_du(self, explorer: Explorer, says: Callable[..., Any], path: str) -> None:
        weights = {one["path"]: one for one in says("du", "-a", "-d", "2", "app:1", path)}
        found: dict[str, Any] = {}

        def collect(one: dict[str, Any]) -> None:
            keys = ("path", "path_b64", "kind", "size", "files", "layers")
            found[one["path"]] = {key: one[key] for key in keys if key in one}
            for child in one["children"]:
                collect(child)

        top = ask(explorer, "treemap", image=APP, path=path)
        collect(top)
        assert found == weights
        assert top["rest"] == {"count": 0, "size": 0}
        sizes = [one["size"] for one in top["children"]]
        assert sizes == sorted(sizes, reverse=True)

    def test_waste(self, explorer: Explorer, says: Callable[..., Any]) -> None:
        told, found = says("waste", "app:1"), ask(explorer, "waste", image=APP)
        totals = found.pop("totals")
        for one in found["copies"]:
            assert one.pop("count") == len(one["paths"])
        assert {**found, "image": told["image"]} == told
        assert totals["rewrites"]["count"] == len(told["rewrites"]) == 1
        page = ask(explorer, "waste", image=APP, kind="caches", offset=0, limit=5)
        assert (page["items"], page["total"]) == (told["caches"], 1)

    def test_ghosts(self, explorer: Explorer, says: Callable[..., Any]) -> None:
        told = says("ghosts", "--no-secrets", "app:1")
        found = ask(explorer, "ghosts", image=APP)
        nodes = [one.pop("node") for one in found["ghosts"]]
        assert found["ghosts"] == told["ghosts"]
        assert found["hidden"] == told["hidden"]
        assert found["total"] == len(nodes)
        hidden = ask(explorer, "file", image=APP, node=nodes[0])
        assert hidden["entry"]["state"] == "hidden"
        assert hidden["entry"]["path"] == told["ghosts"][0]["path"]

    def test_diff(self, explorer: Explorer, says: Callable[..., Any]) -> None:
        told = says("diff", "app:1", "app:2")
        found: dict[str, Any] = {}
        pending = ["/"]
        while pending:
            page = ask(explorer, "diff", before=APP, after=APP2, path=pending.pop())
            assert page["total"] == len(page["entries"])
            for one in page["entries"]:
                if one["change"] is not None:
                    found[one["path"]] = {key: one[key] for key in ("change", "path", "fields", "before", "after")}
                if one["children"]:
                    pending.append(one["path"])
        assert found == {one["path"]: one for one in told["changes"]}
        first = ask(explorer, "diff", before=APP, after=APP2)
        assert first["summary"] == {**told["summary"], "touched": 0, "touched_bytes": 0}
        assert (first["config"], first["history"]) == (told["config"], told["history"])
        lines = ask(explorer, "diff/text", before=APP, after=APP2, path="/etc/new")["lines"]
        assert lines[-2:] == ["-new", "+newer"]
        assert ask(explorer, "diff/text", before=APP, after=APP2, path="/opt/tool")["lines"][-2] == "+" + "tool" * 10
        assert refused(explorer, "diff/text", before=APP, after=APP2, path="/etc/passwd") == 404

    def test_paths_of_which_only_the_time_differs_are_counted_apart(self, tmp_path: Path) -> None:
        later = {"mtime": 1_700_000_999}
        write_layout(
            tmp_path, "app:1", [[("a", None), ("a/same", b"same"), ("a/new", b"1"), ("b", None), ("b/x", b"xyz")]]
        )
        write_layout(
            tmp_path,
            "app:2",
            [
                [
                    *(("a", None, later), ("a/same", b"same", later), ("a/new", b"2", later)),
                    *(("b", None, later), ("b/x", b"xyz", later)),
                ]
            ],
        )
        gallery = Gallery(ListedRepositories(LayoutReader(str(tmp_path))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache"))) as explorer:

            def page(path: str, **more: int) -> dict[str, Any]:
                found: dict[str, Any] = ask(explorer, "diff", before="app:1", after="app:2", path=path, **more)
                return found

            summary = page("/")["summary"]
            assert (summary["changed"], summary["touched"], summary["touched_bytes"]) == (5, 4, 7)
            assert [one["name"] for one in page("/")["entries"]] == ["a", "b"]
            assert [one["name"] for one in page("/b")["entries"]] == ["x"]
            (entry,) = page("/", skip_times=1)["entries"]
            assert (entry["name"], entry["fields"], entry["children"]) == ("a", ["time"], 1)
            assert (entry["below"]["changed"], entry["below"]["touched"]) == (2, 1)
            assert [one["name"] for one in page("/a", skip_times=1)["entries"]] == ["new"]
            assert page("/b", skip_times=1)["total"] == 0

    @pytest.mark.parametrize("words", [("*.png",), ("pass*", "--ghosts"), ("*", "--type", "d"), ("*/etc/*",)])
    def test_find(self, explorer: Explorer, says: Callable[..., Any], words: tuple[str, ...]) -> None:
        told = says("find", *words, "--in", "app:1", "--in", "app:2", "--in", "ghcr.io/me/plain:1")
        query: dict[str, Any] = {"q": words[0], "hidden": int("--ghosts" in words), "limit": 5000}
        if "--type" in words:
            query["kind"] = "d"
        found = ask(explorer, "search", **query)
        hits: dict[tuple[str, str], list[Any]] = {}
        for one in found["results"]:
            images = [
                {
                    "layer": place["layer"],
                    "state": place.get("how", place["state"]),  # one field of `find`, two of all pages
                    "hidden_by": place.get("hidden_by"),
                    "name": place["image"],
                }
                for place in one["images"]
                if "big" not in place["image"]
            ]
            if images:  # the layer of two compressions is two layers here
                hits.setdefault((one["path"], one["diff_id"]), []).extend(images)
        ours = [(*key, images) for key, images in hits.items()]
        theirs = [
            (
                one["path"],
                one["diff_id"],
                [
                    {**{key: place[key] for key in ("layer", "state", "hidden_by")}, "name": shown(place["name"])}
                    for place in one["images"]
                ],
            )
            for one in told
        ]
        assert ours == theirs
        assert (found["complete"], found["cut"], found["searched"]["images"]) == (True, False, 4)


class TestRepositories:
    def test_they_are_listed_in_pages(self, explorer: Explorer) -> None:
        first = ask(explorer, "repositories", limit=2)
        assert [one["name"] for one in first["repositories"]] == ["app", "big"]
        assert [one["tags"] for one in first["repositories"]] == [2, 1]
        second = ask(explorer, "repositories", limit=2, after=first["next"])
        assert [one["repository"] for one in second["repositories"]] == ["ghcr.io/me/plain"]
        assert second["next"] is None
        assert [one["name"] for one in ask(explorer, "repositories", filter="ME/")["repositories"]] == [
            "ghcr.io/me/plain"
        ]

    def test_names_are_as_clients_write_them_and_in_that_order(self, tmp_path: Path) -> None:
        for name in ("alice/x", "library/app", "library/zoo", "shop/web"):
            write_layout(tmp_path, f"docker.io/{name}:1", [BASE, TOP] if name == "library/zoo" else [BASE])
        write_layout(tmp_path, "host:5000/a:1", [BASE])
        gallery = Gallery(ListedRepositories(LayoutReader(str(tmp_path))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache"))) as explorer:
            found = ask(explorer, "repositories")["repositories"]
            names = ["alice/x", "app", "host:5000/a", "shop/web", "zoo"]
            assert [one["repository"] for one in found] == names
            # a client could not ask this server for it
            assert [one["name"] for one in found] == [name if name != "host:5000/a" else None for name in names]
            assert [one["name"] for one in ask(explorer, "repositories", filter="library")["repositories"]] == []
            for repository in ("app", "docker.io/library/app"):
                answer = ask(explorer, "tags", repository=repository)
                assert (answer["repository"], answer["name"]) == ("app", "app")
                assert [tag["image"] for tag in answer["tags"]] == ["app:1"]
            for image in ("app:1", "docker.io/library/app:1"):
                answer = ask(explorer, "image", image=image)
                assert (answer["image"], answer["repository"], answer["name"]) == ("app:1", "app", "app")
            assert ask(explorer, "image", image="host:5000/a:1")["name"] is None
            shared = ask(explorer, "sharing", image="shop/web:1")["layers"][0]["images"]
            assert shared == ["zoo:1"]

    def test_tags_have_their_image_in_short(self, explorer: Explorer) -> None:
        found = ask(explorer, "tags", repository="app", limit=1)
        assert (found["total"], found["next"]) == (2, "1")
        tag = found["tags"][0]
        assert (tag["image"], tag["kind"], tag["layers"], tag["platform"]) == (APP, "image", 3, str(Platform.host()))
        assert tag["size"] > 0
        image = ask(explorer, "image", image=APP)
        assert [step["layer"] for step in image["history"]] == [1, 2, 3]
        assert [layer["step"] for layer in image["layers"]] == ["step 1", "step 2", "step 3"]
        assert (image["config"]["cmd"], image["range"], image["signed"]) == (["/bin/sh"], None, False)

    def test_what_is_not_there(self, explorer: Explorer) -> None:
        assert refused(explorer, "tags", repository="docker.io/library/no") == 404
        assert refused(explorer, "tags", repository="../../etc") == 404
        for image in (
            "no:1",
            "app:99",
            "oci:/etc",
            f"docker://{FULL}",
            "/etc/passwd",
            "dir:/",
            "a b",
        ):
            assert refused(explorer, "tree", image=image) == 404, image
        assert refused(explorer, "tree") == 400
        assert refused(explorer, "tree", image=APP, path="/nowhere") == 404
        assert refused(explorer, "tree", image=APP, node=10**6) == 404
        assert refused(explorer, "tree", image=APP, layer=9) == 400
        assert refused(explorer, "tree", image=APP, platform="plan9/riscv64/../x") == 400
        assert refused(explorer, "nothing") == 404
        assert refused(explorer, "search", q="[a-z]" * 9) == 400
        assert refused(explorer, "search", q="x" * 301) == 400
        assert refused(explorer, "search", q="") == 400


class TestHostile:
    def test_names_are_text(self, explorer: Explorer) -> None:
        found = ask(explorer, "tree", image=APP, path="/bad")
        names = {one["name"] for one in found["entries"]}
        assert {EVIL, "\x1b[31mred\x07", "caf\\xe9", "\u202ecod.exe"} <= names
        coded = {one["name"]: base64.b64decode(one["path_b64"]) for one in found["entries"] if "path_b64" in one}
        assert coded == {"caf\\xe9": b"/bad/caf\xe9", "caf\\xea": b"/bad/caf\xea"}
        for one in found["entries"]:
            where = {"path_b64": one["path_b64"]} if "path_b64" in one else {"path": one["path"]}
            assert ask(explorer, "file", image=APP, **where)["entry"]["name"] == one["name"]

    def test_every_answer_forbids_what_browsers_might_run(self, explorer: Explorer) -> None:
        answers = [
            fetch(explorer, "tree", image=APP, path="/bad"),
            fetch(explorer, "raw", image=APP, path="/pic.png"),
            fetch(explorer, "raw", image=APP, path="/pic.svg"),
            fetch(explorer, "download", image=APP, path=f"/bad/{EVIL}"),
            fetch(explorer, "nothing"),
            explorer.answer(Asked.parse("GET", "/", {}, Asker())),
            explorer.answer(Asked.parse("GET", "/explore/any/deep/link", {}, Asker())),
            explorer.answer(Asked.parse("POST", "/explore/api/about", {}, Asker())),
        ]
        for answer in answers:
            headers = answer.headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["X-Frame-Options"] == "DENY"
            assert not any("\n" in value or "\r" in value for value in headers.values())
            if answer.stream is not None:
                answer.stream.close()
        assert [answer.status for answer in answers] == [200, 200, 415, 200, 404, 200, 200, 405]

    def test_a_picture_has_the_type_of_its_bytes(self, explorer: Explorer) -> None:
        found = ask(explorer, "file", image=APP, path="/pic.png")["preview"]
        assert (found["kind"], found["media_type"]) == ("image", "image/png")
        target = found["url"]
        answer = explorer.answer(Asked.parse("GET", target, {}, Asker()))
        assert (answer.body, answer.headers["Content-Type"]) == (PNG, "image/png")
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        for path in ("/fake.png", "/pic.svg", "/bin/tool"):
            assert refused(explorer, "raw", image=APP, path=path) == 415
        assert ask(explorer, "file", image=APP, path="/fake.png")["preview"]["kind"] == "text"
        assert ask(explorer, "file", image=APP, path="/bin/tool")["preview"]["hex"].startswith("7f454c46")

    def test_a_download_is_an_attachment(self, explorer: Explorer) -> None:
        answer = fetch(explorer, "download", image=APP, path=f"/bad/{EVIL}")
        assert answer.stream is not None
        with answer.stream as stream:
            assert stream.read(answer.length) == b"<script>alert(2)</script>"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment; ")
        assert "<" not in answer.headers["Content-Disposition"]
        assert refused(explorer, "download", image=APP, path="/etc") == 400

    def test_symlinks_stay_inside(self, explorer: Explorer) -> None:
        found = ask(explorer, "file", image=APP, path="/out")
        assert found["preview"]["text"] == "root:x:0:0\nuser:x:1:1\n"
        assert ask(explorer, "file", image=APP, path="/../../etc/passwd")["entry"]["path"] == "/etc/passwd"
        loop = ask(explorer, "file", image=APP, path="/loop")
        assert (loop["entry"]["kind"], loop["preview"]["kind"]) == ("symlink", "none")

    def test_hidden_entries_are_shown_on_demand(self, explorer: Explorer) -> None:
        plain = ask(explorer, "tree", image=APP, path="/etc")
        assert {one["state"] for one in plain["entries"]} == {"visible"}
        every = ask(explorer, "tree", image=APP, path="/etc", hidden=1)
        hidden = [(one["name"], one["hidden_by"], one["how"]) for one in every["entries"] if one["state"] == "hidden"]
        assert hidden == [("old", 2, "whiteout"), ("passwd", 2, "replaced"), ("same", 3, "replaced")]
        inside = ask(explorer, "tree", image=APP, path="/etc/dir", hidden=1)
        assert [(one["name"], one["state"]) for one in inside["entries"]] == [
            ("a", "hidden"),
            ("b", "hidden"),
            ("c", "visible"),
        ]
        assert plain["node"]["older"] == 5
        by_two = ask(explorer, "tree", image=APP, path="/", layer=2)
        assert [one["name"] for one in by_two["entries"]] == ["copy", "etc"]


ODD = [
    *("", "0", "1", "-1", "9" * 14, "1e9", "\0", "/", "//", "..", "/../..", "a" * 2500, "%", "\ud800", "\u202e"),
    *("*", "[", "[]", "[!]", "?", "\\", "~1:2", "@", ":", "sha256:" + "0" * 64, "linux", "linux/amd64/v9/x"),
    *("name", "size", "f", "app", "app:1", APP, APP2, "big:1", "/etc", "/etc/passwd", "/loop", "/out", "/bad"),
    *("rewrites", "'\"<>&", "ⅷ", "٣"),
]
PAGES = ["about", "repositories", "tags", "image", "stack", "sharing", "tree", "blame", "diff", "diff/text"]
PAGES += ["treemap", "waste", "ghosts", "search", "file", "raw", "download", "", "nothing", "tree/", "../tree"]
FIELDS = ["image", "before", "after", "platform", "path", "path_b64", "node", "offset", "limit", "sort", "hidden"]
FIELDS += ["layer", "kind", "each", "q", "hidden", "depth", "bytes", "filter", "repository", "before_platform", "x"]
QUERIES = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), max_size=6)


@settings(max_examples=rounds(3000, 400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PAGES), QUERIES, st.booleans())
def test_no_request_makes_it_fail(explorer: Explorer, page: str, query: dict[str, str], complete: bool) -> None:
    if complete:  # as far as a real question, with odd parts
        query = {"image": APP, "before": APP, "after": APP2, "path": "/etc", "q": "a", **query}
    target = f"/explore/api/{page}?{urlencode(query, errors='surrogatepass')}"
    try:
        asked = Asked.parse("GET", target, {}, Asker())
    except Refused:
        return
    answer = explorer.answer(asked)
    assert answer.status in (200, 202, 400, 404, 415, 422, 503), (target, answer.body)
    if answer.stream is not None:
        answer.stream.close()
    elif answer.headers["Content-Type"].startswith("application/json"):
        json.loads(answer.body)


class TestLarge:
    def test_a_directory_with_many_entries_comes_in_pages(self, explorer: Explorer) -> None:
        seen: list[str] = []
        while True:
            page = ask(explorer, "tree", image="big:1", path="/many", offset=len(seen), limit=5000)
            assert page["total"] == MANY
            if not page["entries"]:
                break
            seen += [one["name"] for one in page["entries"]]
        assert seen == [f"f{number:05}" for number in range(MANY)]
        middle = ask(explorer, "tree", image="big:1", path="/many", offset=25_000, limit=1)
        assert middle["entries"][0]["name"] == "f25000"
        assert ask(explorer, "tree", image="big:1", path="/many", offset=10**9)["entries"] == []

    def test_a_search_has_an_end(self, explorer: Explorer) -> None:
        found = ask(explorer, "search", q="f", image="big:1", limit=10)
        assert (found["total"], found["cut"], len(found["results"])) == (10_000, True, 10)

    def test_a_treemap_has_a_bound(self, explorer: Explorer) -> None:
        found = ask(explorer, "treemap", image="big:1", limit=50)
        assert len(found["children"]) + sum(len(one["children"]) for one in found["children"]) == 50
        assert found["children"][0]["rest"]["count"] == MANY - 49


class TestLimits:
    def test_an_image_that_takes_too_much_memory_is_not_opened(self, layout: Path, tmp_path: Path) -> None:
        gallery = Gallery(ListedRepositories(LayoutReader(str(layout))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache")), max_entries=50) as explorer:
            answer = fetch(explorer, "tree", image="big:1")
            assert (answer.status, b"50001 entries" in answer.body) == (422, True)
            assert ask(explorer, "tree", image=APP)["total"] == 12
            answer = fetch(explorer, "diff", before=APP, after=APP2)
            assert (answer.status, b"are compared here" in answer.body) == (422, True)

    def test_an_image_whose_paths_imply_too_many_directories_is_not_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opened, "MAX_IMPLIED", 100)
        write_layout(tmp_path / "layout", FULL, [[(f"{number}/" + "d/" * 60 + "f", b"") for number in range(2)]])
        gallery = Gallery(ListedRepositories(LayoutReader(str(tmp_path / "layout"))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache"))) as explorer:
            answer = fetch(explorer, "tree", image=APP)
            assert (answer.status, b"102 files and directories" in answer.body) == (422, True)

    def test_an_image_whose_paths_are_too_long_together_is_not_opened(
        self, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tar = make_tar([("a", b""), ("b/cc/d", b""), ("b/cc/e", b""), ("b/f", b"")])
        assert opened.bytes_of_paths(index_of(tar)) == 0 + 5 + 5 + 2
        monkeypatch.setattr(opened, "PATH_LENGTH", 2)
        gallery = Gallery(ListedRepositories(LayoutReader(str(layout))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache")), max_entries=100_000) as explorer:
            answer = fetch(explorer, "tree", image="big:1")
            assert (answer.status, b"200000 bytes together" in answer.body) == (422, True)
            assert ask(explorer, "tree", image=APP)["total"] == 12

    def test_an_image_with_too_many_layers_is_not_opened(self, tmp_path: Path) -> None:
        directory = tmp_path / "layout"
        write_layout(directory, "docker.io/library/app:1", [[("a", b"a")]] * 1001, compress=False)
        gallery = Gallery(ListedRepositories(LayoutReader(str(directory))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache"))) as explorer:
            answer = fetch(explorer, "tree", image=APP)
            assert (answer.status, b"1001 layers" in answer.body) == (422, True)
            assert len(ask(explorer, "image", image=APP)["layers"]) == 1001


class Only(Everything):
    """A permit for some repositories."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def may_see(self, repository: str) -> bool:
        return repository in self.names

    may_pull = may_see


class TestPermits:
    def test_only_what_may_be_pulled_is_shown(self, explorer: Explorer) -> None:
        permit = Only("ghcr.io/me/plain")
        ask(explorer, "tree", image=APP)  # it is open, for others
        found = ask(explorer, "repositories", permit)
        assert [one["name"] for one in found["repositories"]] == ["ghcr.io/me/plain"]
        absent = json.loads(fetch(explorer, "tree", permit, image="nowhere:1").body)
        for page in ("image", "stack", "sharing", "tree", "blame", "treemap", "waste", "ghosts", "file", "raw"):
            answer = fetch(explorer, page, permit, image=APP, path="/etc/passwd")
            assert answer.status == 404, page
            told = json.loads(answer.body)["error"]["message"]
            assert told.replace(APP, "X") == absent["error"]["message"].replace("nowhere:1", "X")
        assert refused(explorer, "diff", permit, before="ghcr.io/me/plain:1", after=APP) == 404
        assert refused(explorer, "search", permit, q="*", image=APP) == 404
        assert refused(explorer, "download", permit, image=APP, path="/etc/passwd") == 404
        results = ask(explorer, "search", permit, q="passwd")["results"]
        assert {place["image"] for one in results for place in one["images"]} == {"ghcr.io/me/plain:1"}
        sharing = ask(explorer, "sharing", permit, image="ghcr.io/me/plain:1")
        assert {name for one in sharing["layers"] for name in one["images"]} == set()
        everybody = ask(explorer, "sharing", image="ghcr.io/me/plain:1")
        assert set(everybody["layers"][0]["images"]) == {APP, APP2}


class TestTrust:
    def test_a_config_that_states_another_images_diff_id_shows_nothing_of_it(self, tmp_path: Path) -> None:
        """An index is found by the blob that a repository has, never by the diff_id that anybody can state."""
        directory = tmp_path / "layout"
        secret = make_tar([("secret-name", b"secret content")])
        write_layout(directory, "docker.io/team/secret:1", [secret])
        own = gzip.compress(make_tar([("own", b"mine")]))
        layer = Descriptor.of(mediatype.OCI_LAYER_GZIP, own)
        config = ImageConfig.build(Platform.host(), diff_ids=[Digest.of(secret)])
        with LayoutWriter(str(directory)).session("test") as session:
            session.put_blob(layer, BytesBlob(layer, own))
            session.put_blob(config.descriptor, BytesBlob(config.descriptor, config.raw))
            manifest = build_manifest(config.descriptor, [layer])
            session.put_manifest(manifest.descriptor, manifest.raw)
            session.tag("docker.io/evil/app:1", manifest.descriptor)
        gallery = Gallery(ListedRepositories(LayoutReader(str(directory))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache"))) as explorer:
            assert ask(explorer, "tree", image="team/secret:1")["total"] == 1
            permit = Only("docker.io/evil/app")
            for page in ("tree", "stack", "search"):
                answer = fetch(explorer, page, permit, image="evil/app:1", q="*")
                assert answer.status == 422, page
                assert b"secret-name" not in answer.body
            assert b"secret-name" not in fetch(explorer, "search", permit, q="*").body
            found = ask(explorer, "search", q="secret*")  # and does not keep others from being found
            assert [one["path"] for one in found["results"]] == ["/secret-name"]
            assert [one["image"] for one in found["skipped"]] == ["evil/app:1"]

    def test_a_damaged_layer_is_told_and_nothing_of_it_is_kept(self, tmp_path: Path) -> None:
        directory = tmp_path / "layout"
        write_layout(directory, "docker.io/library/app:1", [BASE])
        reader = LayoutReader(str(directory))
        found = ListedRepositories(reader).find("docker.io/library/app", "1")
        manifest = json.loads(reader.manifest(found))
        path = directory / "blobs/sha256" / manifest["layers"][0]["digest"].removeprefix("sha256:")
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
        cache = tmp_path / "cache"
        with Explorer(Gallery(ListedRepositories(reader)), LayerCache(str(cache))) as explorer:
            assert refused(explorer, "tree", image=APP) == 422
            assert ask(explorer, "image", image=APP)["layers"][0]["step"] == "step 1"
        assert not list(cache.glob("*")) if cache.exists() else True

    def test_an_artifact_has_no_files(self, tmp_path: Path) -> None:
        directory = tmp_path / "layout"
        blob = Descriptor.of("application/x-chart", b"chart")
        with LayoutWriter(str(directory)).session("test") as session:
            empty = Descriptor.of("application/vnd.oci.empty.v1+json", b"{}")
            for descriptor, data in ((blob, b"chart"), (empty, b"{}")):
                session.put_blob(descriptor, BytesBlob(descriptor, data))
            manifest = build_manifest(empty, [blob], artifact_type="application/x-chart")
            session.put_manifest(manifest.descriptor, manifest.raw)
            session.tag("docker.io/library/chart:1", manifest.descriptor)
        gallery = Gallery(ListedRepositories(LayoutReader(str(directory))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache"))) as explorer:
            (tag,) = ask(explorer, "tags", repository="docker.io/library/chart")["tags"]
            assert (tag["kind"], tag["artifact_type"]) == ("artifact", "application/x-chart")
            assert refused(explorer, "tree", image="chart:1") == 422
            assert ask(explorer, "search", q="*")["results"] == []


class TestCache:
    def test_indexes_are_made_once_and_files_are_read_through_the_blob(self, layout: Path, tmp_path: Path) -> None:
        counted = CountedReader(str(layout))
        cache = LayerCache(str(tmp_path / "cache"))
        for _ in range(2):
            with Explorer(Gallery(ListedRepositories(counted)), cache) as explorer:
                before = counted.read
                assert ask(explorer, "tree", image="big:1", path="/many")["total"] == MANY
                read = counted.read - before
        assert read < 2000  # the second time only manifest and config
        with Explorer(Gallery(ListedRepositories(counted)), cache) as explorer:
            assert ask(explorer, "file", image=APP, path="/etc/new")["preview"]["text"] == "new\n"

    def test_an_image_is_opened_while_the_browser_loads_the_page(self, layout: Path, tmp_path: Path) -> None:
        class Ended(Work):
            """Work that is waited for."""

            def get(self, key: Any, compute: Any, **more: Any) -> Any:
                return super().get(key, compute, **{**more, "wait": 60})

            @property
            def has_waiting(self) -> bool:
                return others_wait

        others_wait = False
        gallery = Gallery(ListedRepositories(LayoutReader(str(layout))))
        cache = tmp_path / "cache"
        with Explorer(gallery, LayerCache(str(cache)), work=Ended()) as explorer:

            def load(query: str, permit: Permit = EVERYTHING) -> None:
                answer = explorer.answer(Asked.parse("GET", f"/?{query}", {}, Asker(), permit))
                assert (answer.status, answer.body[:15]) == (200, b"<!doctype html>")

            load(f"image={APP}", Only())
            for query in ("", "image=none:1", "image=%21", f"image={APP}&platform=%21", "image=" + "x" * 3000):
                load(query)
            others_wait = True
            load(f"image={APP}")
            others_wait = False
            assert not cache.exists()
            load(f"image={APP}&view=details")
            assert len(list(cache.glob("*.index"))) == 3

    def test_many_who_ask_at_once_wait_for_the_same_work(self, layout: Path, tmp_path: Path) -> None:
        counted = CountedReader(str(layout))
        answers: list[Any] = []
        with Explorer(Gallery(ListedRepositories(counted)), LayerCache(str(tmp_path / "cache"))) as explorer:

            def look(path: str) -> None:
                answers.append(ask(explorer, "tree", image="big:1", path=path)["total"])
                answers.append(ask(explorer, "stack", image="big:1")["total"]["paths"])

            threads = [threading.Thread(target=look, args=(path,)) for path in ("/", "/many") * 5]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        assert sorted(answers) == [1] * 5 + [MANY] * 5 + [MANY + 1] * 10
        layer = json.loads(counted.manifest(counted.resolve("docker.io/library/big:1")))["layers"][0]
        assert counted.read < 2 * layer["size"]  # once, and documents

    def test_the_cache_stays_within_its_bound(self, layout: Path, tmp_path: Path) -> None:
        place = tmp_path / "cache"
        cache = LayerCache(str(place), room=20_000)
        with Explorer(Gallery(ListedRepositories(LayoutReader(str(layout)))), cache) as explorer:
            for image in (APP, APP2, "ghcr.io/me/plain:1"):
                ask(explorer, "tree", image=image)
                assert sum(path.stat().st_size for path in place.iterdir()) <= 20_000
            assert ask(explorer, "file", image=APP, path="/etc/new")["preview"]["text"] == "new\n"

    def test_a_cache_that_cannot_be_written_is_said_to_be(self, layout: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a directory")
        cache = LayerCache(str(tmp_path / "file" / "cache"))
        with Explorer(Gallery(ListedRepositories(LayoutReader(str(layout)))), cache) as explorer:
            answer = fetch(explorer, "tree", image=APP)
            assert (answer.status, b"--explorer-cache" in answer.body) == (500, True), answer.body
            assert ask(explorer, "image", image=APP)["size"] > 0

    @pytest.mark.parametrize("damage", [b"", b"garbage" * 100])
    def test_a_damaged_file_of_the_cache_is_made_again(self, layout: Path, tmp_path: Path, damage: bytes) -> None:
        place = tmp_path / "cache"
        gallery = Gallery(ListedRepositories(LayoutReader(str(layout))))
        with Explorer(gallery, LayerCache(str(place))) as explorer:
            whole = ask(explorer, "tree", image=APP, path="/etc", hidden=1)
        for path in place.iterdir():
            path.write_bytes(damage)
        with Explorer(gallery, LayerCache(str(place))) as explorer:
            assert ask(explorer, "tree", image=APP, path="/etc", hidden=1) == whole
            assert ask(explorer, "file", image=APP, path="/etc/new")["preview"]["text"] == "new\n"

    def test_a_blob_that_is_gone_is_said_to_be(self, layout: Path, tmp_path: Path) -> None:
        class Without(LayoutReader):
            def blob(self, descriptor: Descriptor) -> Any:
                if descriptor.media_type != mediatype.OCI_CONFIG and descriptor.size > 500:
                    raise BlobNotFound("it was deleted")
                return super().blob(descriptor)

        with Explorer(
            Gallery(ListedRepositories(Without(str(layout)))), LayerCache(str(tmp_path / "cache"))
        ) as explorer:
            assert refused(explorer, "tree", image=APP) == 404


class TestProcess:
    """Large layers are read by another process."""

    @pytest.fixture(autouse=True)
    def _all_are_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lamina.serve.explorer.cached_layer.SMALL", 0)

    def test_it_makes_the_same(self, explorer: Explorer, layout: Path, tmp_path: Path) -> None:
        gallery = Gallery(ListedRepositories(LayoutReader(str(layout))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache"))) as other:
            for query in ({"path": "/etc", "hidden": 1}, {"path": "/bad"}):
                assert ask(other, "tree", image=APP, **query) == ask(explorer, "tree", image=APP, **query)
            assert ask(other, "file", image=APP, path="/etc/new")["preview"]["text"] == "new\n"
            assert ask(other, "tree", image="ghcr.io/me/plain:1")["total"] == 11
        kinds = sorted(path.suffix for path in (tmp_path / "cache").iterdir())
        assert (kinds.count(".index"), kinds.count(".diffid"), kinds.count(".seek")) == (4, 4, 3)

    def test_what_is_wrong_with_a_layer_is_told(self, tmp_path: Path) -> None:
        directory = tmp_path / "layout"
        tar = make_tar([("a", b"a" * 3000)])
        write_layout(directory, "docker.io/library/app:1", [tar[:1500]], compress=False)
        cache = tmp_path / "cache"
        with Explorer(Gallery(ListedRepositories(LayoutReader(str(directory)))), LayerCache(str(cache))) as explorer:
            answer = fetch(explorer, "tree", image=APP)
            assert (answer.status, b"ends" in answer.body) == (422, True), answer.body
        assert not cache.exists() or not list(cache.iterdir())

    def test_a_process_that_is_killed_is_told(
        self, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lamina.serve.explorer.index_process._START", "import os; os.kill(os.getpid(), 9)")
        with Explorer(
            Gallery(ListedRepositories(LayoutReader(str(layout)))), LayerCache(str(tmp_path / "cache"))
        ) as explorer:
            answer = fetch(explorer, "tree", image=APP)
            assert (answer.status, b"has ended" in answer.body) == (500, True), answer.body

    def test_clients_of_a_registry_are_told_where_the_reason_is(
        self, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("lamina.serve.explorer.index_process._START", "import os; os.kill(os.getpid(), 9)")
        with Explorer(
            Gallery(ListedRepositories(LayoutReader(str(layout)))), LayerCache(str(tmp_path / "cache")), pulls=True
        ) as explorer:
            answer = fetch(explorer, "tree", image=APP)
        assert (answer.status, b"has ended" in answer.body) == (500, False), answer.body
        ident = json.loads(answer.body)["error"]["hint"].rpartition(" ")[2]
        assert [ident in one.getMessage() and "has ended" in one.getMessage() for one in caplog.records] == [True]

    def test_clients_of_a_registry_are_not_told_where_it_keeps_images(self, layout: Path, tmp_path: Path) -> None:
        place = ListedRepositories(LayoutReader(str(layout)))
        for pulls in (False, True):
            with Explorer(Gallery(place), LayerCache(str(tmp_path / "cache")), pulls=pulls) as explorer:
                about = ask(explorer, "about")
                missing = fetch(explorer, "image", image="nobody/has:this")
                tags = fetch(explorer, "tags", repository="nobody/has")
            said = [about["location"], missing.body.decode(), tags.body.decode()]
            assert (missing.status, tags.status) == (404, 404)
            assert any(str(layout) in one for one in said) != pulls
            assert ("this registry" in said[0]) == pulls

    def test_files_of_the_working_directory_are_not_run(
        self, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("json.py", "lamina.py", "os.py"):
            (tmp_path / name).write_text("raise SystemExit(9)")
        monkeypatch.chdir(tmp_path)
        with Explorer(
            Gallery(ListedRepositories(LayoutReader(str(layout)))), LayerCache(str(tmp_path / "cache"))
        ) as explorer:
            assert ask(explorer, "tree", image=APP)["total"] == 12

    def test_it_ends_with_the_explorer(self, layout: Path, tmp_path: Path) -> None:
        """A blob that never ends holds nothing up once the explorer is closed."""
        begun, released = threading.Event(), threading.Event()
        reader = LayoutReader(str(layout))
        layers = {layer["digest"] for layer in json.loads(reader.manifest(reader.resolve(FULL)))["layers"]}

        class Slow(LayoutReader):
            def blob(self, descriptor: Descriptor) -> Any:
                blob = super().blob(descriptor)
                return Endless(blob.descriptor) if str(descriptor.digest) in layers else blob

        class Endless:
            origin = ""

            def __init__(self, descriptor: Descriptor) -> None:
                self.descriptor = descriptor

            def open(self, start: int = 0, end: int | None = None) -> Any:
                return self

            def read(self, size: int = -1, /) -> bytes:
                begun.set()
                released.wait(0.01)
                return b"\0"

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                released.set()

        explorer = Explorer(
            Gallery(ListedRepositories(Slow(str(layout)))), LayerCache(str(tmp_path / "cache")), wait=0
        )
        asked = Asked.parse("GET", f"/explore/api/tree?{urlencode({'image': APP})}", {}, Asker())
        assert explorer.answer(asked).status == 202
        assert begun.wait(60)
        explorer.close()
        assert released.wait(60)


class CountedReader(LayoutReader):
    """A layout that counts the bytes of blobs that are read."""

    read = 0

    def blob(self, descriptor: Descriptor) -> Any:
        blob = super().blob(descriptor)
        owner = self

        class Counted:
            origin = ""

            def __init__(self) -> None:
                self.descriptor = blob.descriptor

            def open(self, start: int = 0, end: int | None = None) -> Any:
                data = blob.open(start, end).read()
                owner.read += len(data)
                return BytesBlob(self.descriptor, data).open()

        return Counted()


class TestPlatforms:
    def test_each_platform_can_be_shown(self, tmp_path: Path) -> None:
        directory = tmp_path / "layout"
        entries = []
        for number, architecture in enumerate(("riscv64", "s390x")):
            config = {"architecture": architecture, "os": "linux"}
            entry = write_layout(
                directory, f"docker.io/library/one:{number}", [[(architecture, b"x")]], config=config
            )
            platform = Platform("linux", architecture)
            entries.append(Descriptor(entry.media_type, entry.digest, entry.size, platform=platform))
        reader = write_index(directory, "docker.io/library/multi:1", entries)
        with Explorer(Gallery(ListedRepositories(reader)), LayerCache(str(tmp_path / "cache"))) as explorer:
            found = ask(explorer, "image", image="multi:1")
            assert [one["platform"] for one in found["platforms"]] == ["linux/riscv64", "linux/s390x"]
            assert (found["platform"], found["index_digest"] is None) == ("linux/riscv64", False)
            names = {
                platform: ask(explorer, "tree", image="multi:1", platform=platform)["entries"][0]["name"]
                for platform in ("linux/riscv64", "linux/s390x")
            }
            assert names == {"linux/riscv64": "riscv64", "linux/s390x": "s390x"}
            assert refused(explorer, "tree", image="multi:1", platform="linux/amd64") == 404
            (tag,) = ask(explorer, "tags", repository="docker.io/library/multi")["tags"]
            assert tag["platforms"] == ["linux/riscv64", "linux/s390x"]


class TestReferrers:
    def test_signatures_and_bills_of_materials_are_named(self, tmp_path: Path) -> None:
        directory = tmp_path / "layout"
        image = write_layout(directory, "docker.io/library/app:1", [[("a", b"a")]])
        empty = Descriptor.of(mediatype.OCI_EMPTY, b"{}")
        with LayoutWriter(str(directory)).session("test") as session:
            session.put_blob(empty, BytesBlob(empty, b"{}"))
            for tag, kind, subject in (
                ("bom", "application/spdx+json", image),
                ("chart", "application/x-other", image),
                (f"sha256-{image.digest.encoded}.sig", "application/vnd.dev.cosign.artifact.sig.v1+json", None),
            ):
                document = build_manifest(empty, [empty], artifact_type=kind, subject=subject)
                session.put_manifest(document.descriptor, document.raw)
                session.tag(f"docker.io/library/app:{tag}", document.descriptor)
        gallery = Gallery(ListedRepositories(LayoutReader(str(directory))))
        with Explorer(gallery, LayerCache(str(tmp_path / "cache"))) as explorer:
            found = ask(explorer, "image", image=APP)
            assert sorted(one["kind"] for one in found["referrers"]) == ["other", "sbom", "signature"]
            assert (found["signed"], found["sbom"]) == (True, True)
            kinds = {one["tag"]: one["kind"] for one in ask(explorer, "tags", repository=APP[:-2])["tags"]}
            assert kinds["bom"] == kinds["chart"] == "artifact"


class TestNamed:
    def test_a_range_of_layers_of_an_image_by_its_own_name(self, layout: Path, tmp_path: Path) -> None:
        reader = LayoutReader(str(layout))
        name = f"oci:{layout}:{FULL}~2:3"

        def find() -> Place:
            return Place(name, name, reader, reader.resolve(FULL), low=2, high=3)

        with Explorer(Gallery(named={name: find}), LayerCache(str(tmp_path / "cache"))) as explorer:
            about = ask(explorer, "about")
            assert (about["kind"], about["images"]) == ("images", [name])
            assert [layer["number"] for layer in ask(explorer, "stack", image=name)["layers"]] == [2, 3]
            image = ask(explorer, "image", image=name)
            assert ([one["number"] for one in image["layers"]], image["range"]) == ([2, 3], [2, 3])
            assert ask(explorer, "tree", image=name, path="/copy")["node"]["layer"] == 2
            (found,) = ask(explorer, "search", image=name, q="copy")["results"]
            assert found["images"][0]["layer"] == 2
            assert [one["name"] for one in ask(explorer, "tree", image=name, layer=3)["entries"]] == ["etc"]
            assert ask(explorer, "repositories")["repositories"] == []
            assert refused(explorer, "tags", repository="docker.io/library/app") == 404


class TestServers:
    def test_the_loopback_server_sends_what_the_explorer_answers(self, explorer: Explorer) -> None:
        ask(explorer, "tree", image=APP)
        work = Work()
        inner = Explorer(explorer.gallery, LayerCache("/nonexistent"), work=work)
        with ExplorerServer(inner) as server:
            status, headers, body = request(server.port, "GET", "/explore/api/about")
            assert (status, json.loads(body)["kind"]) == (200, "registry")
            etag = headers["etag"]
            assert request(server.port, "GET", "/explore/api/about", {"If-None-Match": etag})[0] == 304
            assert request(server.port, "HEAD", "/")[2] == b""
            assert request(server.port, "GET", "/x")[0] == 404
            assert request(server.port, "PUT", "/explore/api/about", body=b"data")[0] == 405
            assert request(server.port, "GET", "/", {"Host": "evil.example"})[0] == 403
            assert request(server.port, "GET", "/", {"Origin": "http://evil.example"})[0] == 403
            assert request(server.port, "GET", "/explore/api/tree?image=%ff")[0] == 400

    @pytest.mark.parametrize("verb", ["serve", "ui"])
    def test_a_real_process_shows_the_store(self, verb: str, root: Path, tmp_path: Path) -> None:
        words = (verb, "-p", "0", *(("docker.io/library/app:1",) if verb == "ui" else ()))
        with server_of(words, root, tmp_path) as port:
            status, headers, body = request(port, "GET", "/")
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            about = json.loads(request(port, "GET", "/explore/api/about")[2])
            assert about["images"] == ([APP] if verb == "ui" else [])
            target = "/explore/api/tree?" + urlencode({"image": APP, "path": "/bad"})
            found = until_ready(port, target)
            assert EVIL in {one["name"] for one in found["entries"]}
            target = "/explore/api/download?" + urlencode({"image": APP, "path": "/bin/tool"})
            status, headers, body = request(port, "GET", target)
            assert (status, len(body), headers["content-length"]) == (200, 2056, "2056")
            assert headers["content-disposition"].startswith("attachment")
            assert request(port, "GET", "/explore/api/tree?image=no:1")[0] == 404
            assert request(port, "DELETE", "/explore/api/tree?image=no:1")[0] == 405

    def test_ui_shows_an_image_anywhere(self, layout: Path, tmp_path: Path) -> None:
        name = f"oci:{layout}:{FULL}~1"
        with server_of(("ui", "-p", "0", name), tmp_path / "no-store", tmp_path) as port:
            assert json.loads(request(port, "GET", "/explore/api/about")[2])["images"] == [name]
            found = until_ready(port, "/explore/api/tree?" + urlencode({"image": name, "path": "/etc"}))
            assert "old" in {one["name"] for one in found["entries"]}
            assert request(port, "GET", "/explore/api/tree?" + urlencode({"image": f"oci:{layout}:{FULL}"}))[0] == 404


def request(
    port: int, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def until_ready(port: int, target: str) -> Any:
    until = time.monotonic() + 60
    while True:
        status, _, body = request(port, "GET", target)
        if status != 202:
            assert status == 200, body
            return json.loads(body)
        assert time.monotonic() < until
        time.sleep(0.05)


@contextmanager
def server_of(words: tuple[str, ...], root: Path, cache: Path) -> Iterator[int]:
    """The port of a server process, which ends well at SIGTERM."""
    with running(*words, root=root, env={**os.environ, "XDG_CACHE_HOME": str(cache)}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(rb"http://127\.0\.0\.1:(\d+)", line)
        assert found, (line, process.stderr and process.stderr.read())
        yield int(found[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
