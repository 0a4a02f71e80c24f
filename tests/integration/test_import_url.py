"""`import` of a URL, as in docker, from servers that behave and from those that don't."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from support import free_port, lamina, make_tar
from unruly import Answer, Rule, Seen, Unruly

TAR = make_tar([("etc/", None), ("etc/motd", b"hello\n"), ("big", b"0123456789" * 50_000)])


def serving(answers: dict[str, Answer]) -> Rule:
    def rule(server: Unruly, seen: Seen) -> Answer:
        return answers.get(seen.path.partition("?")[0], Answer(404))

    return rule


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_a_root_file_system_comes_from_a_web_server(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    answers = {"/a": Answer(302, {"Location": "/b/rootfs.tar"}), "/b/rootfs.tar": Answer(body=pack(TAR))}
    with Unruly(rule=serving(answers)) as server:
        url = f"http://{server.name}/a?signature=secret"
        done = lamina("import", url, "base", "-c", "CMD x", root=tmp_path / "s")
        assert done.returncode == 0, done.stderr
        assert [one.path for one in server.seen] == ["/a?signature=secret", "/b/rootfs.tar"]
        assert all("Authorization" not in one.headers for one in server.seen)
    shown = lamina("cat", "base", "/etc/motd", root=tmp_path / "s").stdout
    assert shown == b"hello\n"
    (step,) = json.loads(lamina("history", "base", "--format", "json", root=tmp_path / "s").stdout)
    assert step["created_by"] == f"lamina import http://{server.name}/a"
    assert b"secret" not in done.stdout + done.stderr
    here = lamina("import", "-", "same", "-c", "CMD x", root=tmp_path / "s", input=pack(TAR))
    assert here.returncode == 0
    layers = {name: lamina("layers", name, "--format", "{{.DiffID}}", root=tmp_path / "s").stdout for name in SAME}
    assert layers["base"] == layers["same"]


@pytest.mark.parametrize("path", ["//a/rootfs.tar", "/a//rootfs.tar", "?a=//b"])
def test_several_slashes_in_a_url_are_part_of_the_path(tmp_path: Path, path: str) -> None:
    with Unruly(rule=lambda server, seen: Answer(body=TAR)) as server:
        done = lamina("import", f"http://{server.name}{path}", "base", root=tmp_path / "s")
        assert done.returncode == 0, done.stderr
        # Python's server makes one of those that it begins with
        assert [one.path for one in server.seen] == ["/" + path.lstrip("/")]


SAME = ("base", "same")
BAD = {
    "/cut": Answer(headers={"Content-Length": str(len(TAR))}, body=TAR, cut=100_000),
    "/cut-unsaid": Answer(body=gzip.compress(TAR)[:-20]),
    "/endless": Answer(endless=True),
    "/large": Answer(headers={"Content-Length": str(9 << 30)}, body=TAR),
    "/page": Answer(headers={"Content-Type": "text/html; charset=utf-8"}, body=b"<html>log in</html>"),
    "/secret": Answer(401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/token"'}),
    "/forbidden": Answer(403),
    "/round": Answer(302, {"Location": "/round"}),
    "/file": Answer(302, {"Location": "file:///etc/passwd"}),
    "/with-password": Answer(302, {"Location": "http://me:secret@127.0.0.1:1/x"}),
    "/not-a-tar": Answer(body=b"no tar at all" * 100),
    "/empty": Answer(body=b""),
    "/teapot": Answer(418),
}


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/cut", 8, "broke off at byte"),
        ("/cut-unsaid", 4, "/cut-unsaid"),
        ("/endless", 4, "1000000 bytes"),
        ("/large", 4, "1000000 bytes"),
        ("/page", 8, "web page"),
        ("/secret", 9, "denies access"),
        ("/forbidden", 9, "denies access"),
        ("/none", 3, "not found at"),
        ("/round", 8, "without end"),
        ("/file", 8, "file:///etc/passwd"),
        ("/with-password", 8, "password"),
        ("/not-a-tar", 4, "/not-a-tar"),
        ("/empty", 4, "empty"),
        ("/teapot", 8, "418"),
    ],
)
def test_unexpected_answers_of_web_servers_are_errors(tmp_path: Path, path: str, code: int, words: str) -> None:
    with Unruly(rule=serving(BAD)) as server:
        url = f"http://{server.name}{path}"
        done = lamina("import", url, "base", root=tmp_path / "s", LAMINA_MAX_LAYER="1000000")
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert words in line
    assert "secret" not in line.removeprefix(f"lamina: {url}")
    assert done.stdout == b""
    assert json.loads(lamina("images", "--format", "json", root=tmp_path / "s").stdout or "[]") == []


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("ftp://host/rootfs.tar", 7, "ftp:"),
        ("file:///etc/passwd", 7, "file:"),
        ("http://", 2, "not a valid URL"),
        ("http://host:x/", 2, "not a valid URL"),
        ("http://me:secret@host/x", 2, "password"),
        ("http://host/a b", 2, "not a valid URL"),
        ("http://h\x1b[1m/", 2, "not a valid URL"),
        ("http://127.0.0.1:PORT/x", 8, "can't be reached"),
        ("https://127.0.0.1:PORT/x", 8, "can't be reached"),
    ],
    ids=ascii,
)
def test_invalid_urls_are_refused(tmp_path: Path, url: str, code: int, words: str) -> None:
    done = lamina("import", url.replace("PORT", str(free_port())), "base", root=tmp_path / "s")
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert words in line
    assert "secret" not in line
    assert line.isprintable()


def test_a_passing_failure_is_tried_again(tmp_path: Path) -> None:
    tries: list[Seen] = []

    def rule(server: Unruly, seen: Seen) -> Answer:
        tries.append(seen)
        return Answer(503, {"Retry-After": "0"}) if len(tries) < 3 else Answer(body=TAR)

    with Unruly(rule=rule) as server:
        done = lamina("import", f"http://{server.name}/x", "base", root=tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert len(tries) == 3
    content = lamina("cat", "base", "/big", root=tmp_path / "s").stdout
    assert hashlib.sha256(content).hexdigest() == hashlib.sha256(b"0123456789" * 50_000).hexdigest()
