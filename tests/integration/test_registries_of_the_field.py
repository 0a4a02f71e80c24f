"""Registries and proxies as they exist: what they refuse, encode and redirect."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import (
    AccessDenied,
    BlobNotFound,
    LimitExceeded,
    NotFound,
    ReferenceNotFound,
    RemoteFailure,
    Unsupported,
)
from lamina.events import Event, Warned
from lamina.layer.codec import zstd
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import lamina, real_registry, write_index, write_layout
from unruly import Answer, Rule, Seen, Unruly

REFUSALS = [400, 403, 404, 405, 501]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout")
    write_layout(directory, "app", [[("a", random.Random(3).randbytes(300_000))], [("c", b"small")]])
    return directory


def repository(server: Unruly, **changes: object) -> Repository:
    return Repository(server.image, Access(**{"first_wait": 0.001, **changes}), Registries())  # type: ignore[arg-type]


def no_head(status: int) -> Rule:
    return lambda server, seen: Answer(status) if seen.method == "HEAD" else None


@pytest.mark.parametrize("status", REFUSALS)
def test_head_is_refused_where_get_works(layout: Path, status: int) -> None:
    with Unruly(layout, rule=no_head(status)) as server:
        remote = repository(server)
        raw = server.manifests["1"][1]
        assert remote.head(server.image).digest == Digest.of(raw)
        layer = Digest.parse(server.layers[0])
        assert remote.stat_blob(layer).size == len(server.blobs[str(layer)])
        with pytest.raises(ReferenceNotFound):
            remote.head(f"{server.name}/app:none")
        with pytest.raises(BlobNotFound):
            remote.stat_blob(Digest.of(b"nothing"))


@pytest.mark.parametrize("status", REFUSALS)
def test_push_where_head_is_refused(layout: Path, status: int) -> None:
    with Unruly(rule=no_head(status)) as server:
        copy(LayoutReader(str(layout)), repository(server), [("app", server.image)])
        sent = len(server.requests("POST", "/uploads/"))
        copy(LayoutReader(str(layout)), repository(server), [("app", server.image)])
        again = len(server.requests("POST", "/uploads/")) - sent
        # 404 is mostly true: it is believed, and the blob sent again, which does no harm
        assert (sent, again) == (3, 3 if status == 404 else 0)
        assert "1" in server.manifests


def test_a_refused_get_is_an_error(layout: Path) -> None:
    with Unruly(layout, rule=lambda server, seen: Answer(403) if "/manifests/" in seen.path else None) as server:
        with pytest.raises(AccessDenied):
            repository(server).head(server.image)


def encoded(coding: str, pack: object, part: str, *, stated: bool = True) -> Rule:
    """What a proxy before a registry makes of its answers."""

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if part not in seen.path:
            return None
        answer = server.plain(seen) if "/tags/" not in part else Answer(200, {}, b'{"name":"app","tags":["1","2"]}')
        answer.headers["Content-Encoding"] = coding
        answer.body = pack(answer.body)  # type: ignore[operator]
        return answer

    return rule


def bare_deflate(data: bytes) -> bytes:
    """Without zlib's header, as some servers take the word."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("identity, GZIP", gzip.compress),
        ("zstd", zstd().compress),
        ("deflate", zlib.compress),
        ("deflate", bare_deflate),
    ],
)
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/", "/tags/"])
def test_a_content_encoding_is_decoded(layout: Path, tmp_path: Path, coding: str, pack: object, part: str) -> None:
    with Unruly(layout, rule=encoded(coding, pack, part)) as server:
        remote = repository(server)
        store = Store.open(str(tmp_path / "s"))
        done = copy(remote, store, [(server.image, "app")])
        assert done[0].descriptor.digest == Digest.of(server.manifests["1"][1])
        assert remote.head(server.image).digest == done[0].descriptor.digest
        if part == "/tags/":
            assert list(remote.tags()) == ["1", "2"]


def test_a_content_encoding_that_only_names_the_blobs_compression_is_ignored(layout: Path, tmp_path: Path) -> None:
    """Some file servers take a .tar.gz for an encoded tar."""
    with Unruly(layout, rule=encoded("gzip", bytes, "/blobs/")) as server:
        copy(repository(server), Store.open(str(tmp_path / "s")), [(server.image, "app")])


def test_an_encoded_blob_resumes_after_a_cut(layout: Path, tmp_path: Path) -> None:
    cuts = [1]

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        answer = encoded("gzip", gzip.compress, server.layers[0])(server, seen)
        if answer is not None and cuts:
            answer.cut = 200_000
            cuts.pop()
        return answer

    with Unruly(layout, rule=rule) as server:
        copy(repository(server), Store.open(str(tmp_path / "s")), [(server.image, "app")])
        assert not cuts


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "deflate, br"])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/", "/tags/"])
def test_encodings_that_are_not_known_are_refused_in_one_line(
    layout: Path, tmp_path: Path, coding: str, part: str
) -> None:
    with Unruly(layout, rule=encoded(coding, lambda body: b"\x0b" + body, part)) as server:
        with pytest.raises(Unsupported, match=f"comes with Content-Encoding '{coding}'"):
            remote = repository(server)
            if part == "/tags/":
                _ = list(remote.tags())
            copy(remote, Store.open(str(tmp_path / "s")), [(server.image, "app")])


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_mirror_whose_answers_are_encoded_otherwise_is_passed_over(layout: Path, tmp_path: Path, part: str) -> None:
    with Unruly(layout, rule=encoded("br", lambda body: b"\x0b" + body, part)) as mirror, Unruly(layout) as home:
        conf = tmp_path / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{home.name}"\n[[registry.mirror]]\nlocation = "{mirror.name}"\n')
        remote = Repository(home.image, Access(first_wait=0.001), Registries.load(files=[str(conf)]))
        copy(remote, Store.open(str(tmp_path / "s")), [(home.image, "app")])
        assert mirror.requests(part=part)
        assert home.requests(part=part)


def test_an_encoded_error_body_is_decoded(layout: Path) -> None:
    missing = Answer(404, {"Content-Encoding": "br"}, b"\x0b\x02\x80")
    with Unruly(layout, rule=lambda server, seen: missing if "/manifests/" in seen.path else None) as server:
        with pytest.raises(NotFound):
            repository(server).resolve(server.image)


@pytest.mark.parametrize(
    "body", [b"x", zlib.compress(b"{}")[:-3], zlib.compress(b"{}") + b"more", b"\x78\x9c" + b"\xff" * 50]
)
def test_damaged_deflate_data_is_an_error(layout: Path, body: bytes) -> None:
    with Unruly(layout, rule=encoded("deflate", lambda _: body, "/manifests/")) as server:
        with pytest.raises(RemoteFailure, match="deflate"):
            repository(server, attempts=1).resolve(server.image)


def test_decompression_bombs_in_encodings_are_refused(layout: Path) -> None:
    inflated = zlib.compress(bytes(64 << 20), 9)
    with (
        Unruly(layout, rule=encoded("deflate", lambda body: inflated, "/manifests/")) as server,
        pytest.raises(LimitExceeded, match="more than"),
    ):
        repository(server).resolve(server.image)
    bomb = gzip.compress(bytes(64 << 20), 9)
    with (
        Unruly(layout, rule=encoded("gzip", lambda body: bomb, "/manifests/")) as server,
        pytest.raises(LimitExceeded, match="more than"),
    ):
        repository(server).resolve(server.image)
    with (
        Unruly(layout, rule=encoded("gzip", lambda body: body, "/manifests/")) as server,
        pytest.raises(RemoteFailure, match="gzip"),
    ):
        repository(server).resolve(server.image)


def test_encoded_blob_of_frames_without_end(layout: Path, tmp_path: Path) -> None:
    """Frames of nothing: no byte of the blob ever comes, and yet the connection never rests."""
    nothing = (b"\x50\x2a\x4d\x18" + (4088).to_bytes(4, "little") + bytes(4088)) * 8000

    def pack(body: bytes) -> bytes:
        return zstd().compress(body[:100_000]) + nothing

    with Unruly(layout) as server:
        server.rule = encoded("zstd", pack, server.layers[0])
        with pytest.raises(RemoteFailure, match=r"broke off at byte 100000 of"):
            copy(repository(server, attempts=1), Store.open(str(tmp_path / "s")), [(server.image, "app")])
        asked = server.requests(part=server.layers[0])
        assert max(one.sent for one in asked) < len(nothing)


@pytest.mark.parametrize(
    "query", ["sig=a%2fb%3D&x=%7e~", "X-Sig=A+b/c==&p=a%20b", "a=1&&b=%5B%5d&c='(x)'", "Expires=1&Signature=a|b^`{}"]
)
@pytest.mark.parametrize("path", ["/data/x", "/data//x/../y", "/data/%41%2e"])
def test_signed_redirect_is_sent_byte_for_byte(layout: Path, tmp_path: Path, path: str, query: str) -> None:
    with Unruly(layout) as storage:

        def rule(server: Unruly, seen: Seen) -> Answer | None:
            if server.layers[0] not in seen.path:
                return None
            return Answer(307, {"Location": f"http://{storage.name}{path}?{query}"})

        with Unruly(layout, rule=rule) as server:
            storage.rule = lambda one, seen: Answer(200, {}, server.blobs[server.layers[0]])
            copy(repository(server), Store.open(str(tmp_path / "s")), [(server.image, "app")])
        assert [seen.path for seen in storage.seen] == [f"{path}?{query}"]


def test_the_next_page_is_requested_from_the_proxy_of_the_registry() -> None:
    """It names itself as it is known inside."""

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "/tags/" not in seen.path:
            return None
        if "last=b" in seen.path:
            return Answer(200, {}, b'{"tags":["c"]}')
        link = f'<https://registry.inside.invalid:5000{seen.path}?last=b>; rel="next"'
        return Answer(200, {"Link": link}, b'{"tags":["a","b"]}')

    with Unruly(rule=rule) as server:
        assert list(repository(server).tags()) == ["a", "b", "c"]


@pytest.mark.parametrize("link", ["</v2/app/tags/list", "<" * 60_000, ";;;"])
def test_an_incomplete_list_is_an_error(link: str) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(200, {"Link": link}, b'{"tags":["a"]}') if "/tags/" in seen.path else None

    with Unruly(rule=rule) as server, pytest.raises(RemoteFailure):
        list(repository(server).tags())


def test_an_endless_list_of_pages_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is another one, and all of them are large."""
    monkeypatch.setattr("lamina.remote.list.MAX_BYTES", 1 << 20)
    page = json.dumps({"tags": [f"{number:0>100}" for number in range(1000)]}).encode()

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        link = f"</v2/app/tags/list?last={len(server.seen)}>; rel=next"
        return Answer(200, {"Link": link}, page) if "/tags/" in seen.path else None

    with Unruly(rule=rule) as server:
        with pytest.raises(LimitExceeded, match="list has more than 1 MiB"):
            list(repository(server).tags())
        assert len(server.requests(part="/tags/")) == (1 << 20) // len(page) + 1


def test_page_served_as_a_web_page_is_a_blob_by_its_size(layout: Path, tmp_path: Path) -> None:
    """That is where configs of type text/html come from; a real page has another size."""

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "/blobs/" not in seen.path:
            return None
        answer = server.plain(seen)
        answer.headers["Content-Type"] = "text/html; charset=utf-8"
        return answer

    with Unruly(layout, rule=rule) as server:
        copy(repository(server), Store.open(str(tmp_path / "s")), [(server.image, "app")])
        server.rule = lambda one, seen: (
            Answer(200, {"Content-Type": "text/html"}, b"<html>") if "/blobs/" in seen.path else None
        )
        with pytest.raises(RemoteFailure, match="web page"):
            copy(repository(server), Store.open(str(tmp_path / "t")), [(server.image, "app")])


def platforms(directory: Path, *names: str) -> LayoutReader:
    """An index "many" with an image for each."""
    entries = []
    for name in names:
        platform = Platform.parse(name)
        config = {"architecture": platform.architecture}
        made = write_layout(directory, platform.architecture, [[("who", name.encode())]], config=config)
        entries.append(Descriptor(made.media_type, made.digest, made.size, platform=platform))
    return write_index(directory, "many", entries)


def test_registry_gets_one_platform_as_an_image_of_its_own(tmp_path: Path) -> None:
    """As skopeo and docker do it: distribution refuses an index that lists what is not there."""
    host = Platform.host()
    other = "linux/s390x" if host.architecture != "s390x" else "linux/amd64"
    source = platforms(tmp_path / "l", str(host), other)
    events: list[Event] = []
    with real_registry("docker-registry", tmp_path / "r") as name:
        remote = Repository(f"{name}/app", Access(), Registries())
        copy(source, remote, [("many", f"{name}/app:1")], on_event=events.append)
        fresh = Repository(f"{name}/app", Access(), Registries())
        assert fresh.resolve(f"{name}/app:1").digest == source.resolve(host.architecture).digest
        assert any("--all-platforms" in one.message for one in events if isinstance(one, Warned))
        copy(source, remote, [("many", f"{name}/app:2")], all_platforms=True)
        assert fresh.resolve(f"{name}/app:2").digest == source.resolve("many").digest
        copy(source, remote, [("many", f"{name}/app:3")])  # all of it is there now
        assert fresh.resolve(f"{name}/app:3").digest == source.resolve("many").digest


def test_index_of_which_a_part_is_here_is_pushed_or_says_what_is_missing(tmp_path: Path) -> None:
    host = Platform.host()
    source = platforms(tmp_path / "l", str(host), "linux/s390x", "linux/ppc64le")
    store = Store.open(str(tmp_path / "s"))
    copy(source, store, [("many", "app")])
    with Unruly() as server:
        assert lamina("push", "-q", "app", server.image, root=tmp_path / "s").returncode == 0
        assert json.loads(server.manifests["1"][1])["config"]
        done = lamina("push", "-q", "--all-platforms", "app", server.image, root=tmp_path / "s")
        assert done.returncode == 3
        assert b"pull --all-platforms" in done.stderr


def test_head_that_states_no_size_or_zero(layout: Path, tmp_path: Path) -> None:
    """Proxies between do so; of what is there nothing is sent again."""

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method != "HEAD":
            return None
        answer = server.plain(seen)
        answer.headers["Content-Length"] = "0"
        answer.headers["Docker-Content-Digest"] = str(Digest.of(answer.body))
        return answer

    with Unruly(layout, rule=rule) as server:
        remote = repository(server)
        raw = server.manifests["1"][1]
        assert (remote.head(server.image).digest, remote.head(server.image).size) == (Digest.of(raw), len(raw))
        layer = Digest.parse(server.layers[0])
        assert remote.stat_blob(layer).size == len(server.blobs[str(layer)])
        copy(LayoutReader(str(layout)), remote, [("app", server.image)])
        assert not server.requests("POST", "/uploads/")


def test_repository_that_is_not_made_yet_may_be_refused_to_readers(layout: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(403) if seen.method in ("GET", "HEAD") and "/blobs/sha256" in seen.path else None

    with Unruly(rule=rule) as server:
        copy(LayoutReader(str(layout)), repository(server), [("app", server.image)])
        assert "1" in server.manifests


def test_platform_that_was_not_fetched_is_named_and_run_asks_for_it(tmp_path: Path) -> None:
    host = Platform.host()
    other = "linux/s390x" if host.architecture != "s390x" else "linux/amd64"
    source = platforms(tmp_path / "l", str(host), other)
    copy(source, Store.open(str(tmp_path / "s")), [("many", "many")])
    done = lamina("ls", "--platform", other, "many", "/", root=tmp_path / "s")
    assert done.returncode == 3
    assert f"lamina pull --platform {other} many".encode() in done.stderr
    with Unruly() as server:  # it has nothing, but it is asked
        name = f"{server.name}/app:1"
        assert lamina("tag", "many", name, root=tmp_path / "s").returncode == 0
        for pull, asked in (("never", False), ("missing", True)):
            words = ("run", "--rm", "--pull", pull, "--platform", other, name, "true")
            assert lamina(*words, root=tmp_path / "s").returncode == 125
            assert bool(server.requests(part="/manifests/")) is asked
