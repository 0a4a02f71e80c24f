"""ADD of addresses and git repositories, and both as contexts."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from integration.build.copying import Build, described
from lamina.build import addresses
from lamina.build.files import copy_files, git
from lamina.build.options import SshAgent
from lamina.build.steps import CopyStep, Remote, Repository
from lamina.errors import (
    DigestMismatch,
    LaminaError,
    LimitExceeded,
    NotFound,
    RemoteFailure,
    UsageError,
)
from lamina.places import load_settings
from lamina.spec.platform import Platform
from lamina.transfer.connect import RegistryAccess
from support import free_port, make_tar, require_tool

PLATFORM = Platform("linux", "amd64")
MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"
SECONDS = 1_700_000_000


class Site(ThreadingHTTPServer):
    """A web server: files by path, what was asked, and whether it knows ETags."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.asked: list[tuple[str, int]] = []
        self.logins: list[str] = []
        self.etags = True
        self.redirect: dict[str, str] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        data = self.server.files.get(path)
        etag = f'"{hashlib.sha256(data or b"").hexdigest()[:8]}"' if self.server.etags else ""
        status = 200
        if path in self.server.redirect:
            status = 302
        elif data is None:
            status = 404
        elif etag and self.headers.get("If-None-Match") == etag:
            status = 304
        self.server.asked.append((self.path, status))
        self.server.logins.append(self.headers.get("Authorization", ""))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.redirect[path])
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Last-Modified", MODIFIED)
        self.send_header("Content-Type", self.server.types.get(path, "application/octet-stream"))
        body = data if status == 200 and data is not None else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


def access(**flags: str) -> RegistryAccess:
    return RegistryAccess(load_settings(flags))


def added(
    build: Build,
    source: Remote | Repository,
    to: str = "/n/",
    *,
    ssh: dict[str, SshAgent] | None = None,
    **options: Any,
) -> list[Any]:
    step = CopyStep(platform=PLATFORM, sources=(source,), target=to, is_add=True, **options)
    return build.items(step, network=access(), ssh=ssh or {})


def digests(build: Build, source: Remote | Repository) -> dict[str, str]:
    step = CopyStep(platform=PLATFORM, sources=(source,), target="/n/", is_add=True)
    with ExitStack() as opened:
        return copy_files.digests(step, build.given(opened, network=access()))


def test_a_file_at_an_address(build: Build, site: Site) -> None:
    site.files["/x/file.txt"] = b"content"
    items = added(build, Remote(site.url("/x/file.txt?token=secret")))
    assert described(items) == {"n": "directory", "n/file.txt": "file 600 content"}
    assert items[-1][0].mtime == SECONDS * 10**9
    assert described(added(build, Remote(site.url("/x/file.txt")), to="/name", mode="755")) == {
        "name": "file 755 content"
    }


def test_an_address_is_asked_once_in_a_build_and_then_only_whether_it_changed(build: Build, site: Site) -> None:
    site.files["/f"] = b"1" * 100
    source = Remote(site.url("/f"))
    added(build, source)
    assert site.asked == [("/f", 200)]
    assert described(added(build, source))["n/f"].startswith("file 600 111")
    assert site.asked == [("/f", 200), ("/f", 304)]
    site.files["/f"] = b"2"
    assert described(added(build, source))["n/f"] == "file 600 2"
    site.etags = False
    first = digests(build, source)
    assert digests(build, source) == first
    assert [status for _, status in site.asked[2:]] == [200, 200, 200]


def test_what_is_kept_is_not_believed_if_it_is_damaged(build: Build, site: Site) -> None:
    site.files["/f"] = b"content"
    source = Remote(site.url("/f"))
    added(build, source)
    kept = build.where / "store/build/fetched" / hashlib.sha256(b"content").hexdigest()
    kept.write_bytes(b"CONTENT")
    assert described(added(build, source))["n/f"] == "file 600 content"


def test_a_checksum_needs_no_server(build: Build, site: Site) -> None:
    site.files["/f"] = b"content"
    right = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    source = Remote(site.url("/f"), right)
    assert list(digests(build, source).values()) == [right]
    assert site.asked == []
    assert described(added(build, source))["n/f"] == "file 600 content"
    longer = Remote(site.url("/f"), f"sha512:{hashlib.sha512(b'content').hexdigest()}")
    assert described(added(build, longer))["n/f"] == "file 600 content"
    for wrong in (f"sha256:{'0' * 64}", f"sha512:{'0' * 128}"):
        with pytest.raises(DigestMismatch, match="has the digest"):
            added(build, Remote(site.url("/f"), wrong))
    with pytest.raises(UsageError, match="is not a digest"):
        added(build, Remote(site.url("/f"), "md5"))


def test_a_web_page_is_a_file_too(build: Build, site: Site) -> None:
    site.files["/"] = b"<html>"
    site.types["/"] = "text/html"
    assert described(added(build, Remote(site.url("/")))) == {"n": "directory", "n/__unnamed__": "file 600 <html>"}


def test_an_archive_at_an_address_is_unpacked_only_if_that_is_asked(build: Build, site: Site) -> None:
    site.files["/a.tar"] = make_tar([("x/y", b"Y", {"uid": 3})])
    assert set(described(added(build, Remote(site.url("/a.tar"))))) == {"n", "n/a.tar"}
    assert described(added(build, Remote(site.url("/a.tar")), unpack=True)) == {
        "n": "directory", "n/x": "directory", "n/x/y": "file 3:0 Y"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("/missing", NotFound, "not found"),
        ("/loop", LaminaError, "redirect"),
        ("/file", LaminaError, "redirects to"),
        ("/large", LimitExceeded, "too large"),
    ],
)
def test_what_can_not_be_fetched(
    build: Build, site: Site, monkeypatch: pytest.MonkeyPatch, path: str, error: type[LaminaError], says: str
) -> None:
    site.redirect.update({"/loop": "/loop", "/file": "file:///etc/passwd"})
    site.files["/large"] = bytes(1000)
    monkeypatch.setenv("LAMINA_MAX_LAYER", "999")
    with pytest.raises(error, match=says):
        added(build, Remote(site.url(f"{path}?secret=1")))


def test_a_login_in_an_address_is_sent_only_to_its_server_and_shown_nowhere(build: Build, site: Site) -> None:
    """The redirect leads to another server."""
    with Site() as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            other.files["/f"] = b"there"
            site.files["/f"] = b"here"
            site.redirect["/away"] = other.url("/f")
            base = f"http://user:hunter2%21@127.0.0.1:{site.server_address[1]}"
            assert described(added(build, Remote(f"{base}/f")))["n/f"] == "file 600 here"
            assert described(added(build, Remote(f"{base}/away")))["n/away"] == "file 600 there"
            with pytest.raises(NotFound, match="not found") as raised:
                added(build, Remote(f"{base}/missing"))
        finally:
            other.shutdown()
            thread.join()
    login = f"Basic {base64.b64encode(b'user:hunter2!').decode()}"
    assert site.logins == [login] * 3
    assert other.logins == [""]
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in str(digests(build, Remote(f"{base}/f")))
    everything = b"".join(path.read_bytes() for path in (build.where / "store").rglob("*") if path.is_file())
    assert b"hunter2" not in everything
    assert login.split()[1].encode() not in everything
    with pytest.raises(UsageError, match="over plain http") as refused:
        added(build, Remote("http://user:hunter2@192.0.2.1/f"))
    assert "hunter2" not in str(refused.value)


def test_an_address_as_context(build: Build, site: Site) -> None:
    site.files["/ctx.tar"] = make_tar([("Dockerfile", b"FROM x"), ("a", b"A")])
    site.files["/Dockerfile"] = b"FROM busybox"
    for path, text, names in (("/ctx.tar", b"FROM x", [b"Dockerfile", b"a"]), ("/Dockerfile", b"FROM busybox", [])):
        context = build.opened(site.url(path), registries=access())
        assert context.read("Dockerfile") == text
        assert [name for name, _ in context.tree.children(context.tree.root)] == names
        context.close()


# --- git


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Repositories, and the address of a git daemon that serves them."""
    require_tool("git")
    top = tmp_path_factory.mktemp("git")
    port = free_port()
    command = ["git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", f"--port={port}",
               f"--base-path={top}", "--informative-errors", str(top)]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as daemon:
        try:
            work = top / "work"
            run("init", "-q", "-b", "main", str(work))
            write(work, {"README": "1", "docs/guide": "G", "run.sh": "#!"})
            (work / "run.sh").chmod(0o755)
            (work / "link").symlink_to("README")
            (work / ".gitattributes").write_text("*.bad filter=evil\n")
            (work / "x.bad").write_text("B")
            commit(work, "one")
            run("-C", str(work), "tag", "v1")
            write(work, {"README": "2"})
            commit(work, "two")
            run("-C", str(work), "tag", "-a", "-m", "second", "v2")
            run("-C", str(work), "branch", "other/branch")
            write(work, {"README": "3"})
            commit(work, "three")
            run("clone", "-q", "--bare", str(work), str(top / "repo.git"))
            for _ in range(200):
                if git_says("ls-remote", f"git://127.0.0.1:{port}/repo.git"):
                    break
            yield top, f"git://127.0.0.1:{port}"
        finally:
            os.killpg(daemon.pid, 9)


def run(*words: str) -> bytes:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ALLOW_PROTOCOL": "file:git"}
    for name in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{name}_NAME": "n", f"GIT_{name}_EMAIL": "e@x", f"GIT_{name}_DATE": "1700000000 +0000"}
    done = subprocess.run(["git", *words], check=True, capture_output=True, env=environment)
    return done.stdout.strip()


def git_says(*words: str) -> bytes:
    return subprocess.run(["git", *words], check=False, capture_output=True).stdout


def write(where: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)


def commit(where: Path, message: str) -> None:
    run("-C", str(where), "add", "-A")
    run("-C", str(where), "commit", "-q", "-m", message)


def commit_of(top: Path, ref: str) -> str:
    return run("-C", str(top / "repo.git"), "rev-parse", f"{ref}^{{commit}}").decode()


@pytest.mark.parametrize(
    ("fragment", "readme"),
    [
        ("", "3"),
        ("#main", "3"),
        ("#v1", "1"),
        ("#v2", "2"),
        ("#refs/tags/v1", "1"),
        ("#other/branch", "2"),
        ("?branch=main", "3"),
        ("?tag=v2", "2"),
    ],
)
def test_refs(build: Build, served: tuple[Path, str], fragment: str, readme: str) -> None:
    source = addresses.git_repository(f"{served[1]}/repo.git{fragment}")
    assert source
    items = added(build, source)
    states = described(items)
    assert {entry.mtime for entry, _ in items} == {SECONDS * 10**9}  # of the commit
    assert states["n/README"] == f"file {readme}"
    assert states["n/run.sh"] == "file 755 #!"
    assert states["n/link"] == "symlink -> README"
    assert not any(path.startswith("n/.git/") or path == "n/.git" for path in states)


def test_commits_by_id(build: Build, served: tuple[Path, str]) -> None:
    top, base = served
    one = commit_of(top, "v1")
    assert described(added(build, Repository(f"{base}/repo.git", one)))["n/README"] == "file 1"
    with pytest.raises(LaminaError, match=r"has no commit|git fails"):
        added(build, Repository(f"{base}/repo.git", "0" * 40))


def test_the_key_is_the_commit(build: Build, served: tuple[Path, str]) -> None:
    top, base = served
    url = f"{base}/repo.git"
    main = commit_of(top, "main")
    assert digests(build, Repository(url)) == {f"repository {url}": main}
    assert digests(build, Repository(url, "main", subdirectory="docs")) == {f"repository {url}": f"{main} :docs"}
    assert digests(build, Repository(url, "main", keep=True)) == {f"repository {url}": f"{main} refs/heads/main"}
    assert digests(build, Repository(url, "v2")) == {f"repository {url}": commit_of(top, "v2")}


def test_a_checksum_is_a_commit(build: Build, served: tuple[Path, str]) -> None:
    top, base = served
    main = commit_of(top, "main")
    assert digests(build, Repository(f"{base}/repo.git", "main", checksum=main[:12]))
    with pytest.raises(UsageError, match="is at the commit"):
        added(build, Repository(f"{base}/repo.git", "v1", checksum=main))
    with pytest.raises(UsageError, match="is not a commit"):
        added(build, Repository(f"{base}/repo.git", "v1", checksum="xyz"))


def test_a_subdirectory(build: Build, served: tuple[Path, str]) -> None:
    url = f"{served[1]}/repo.git"
    assert described(added(build, Repository(url, subdirectory="docs"))) == {"n": "directory", "n/guide": "file G"}
    for bad in ("nothing", "README", "link", "../other"):
        with pytest.raises(NotFound, match="has no directory"):
            added(build, Repository(url, subdirectory=bad))


def test_the_git_directory_is_kept_if_that_is_asked(build: Build, served: tuple[Path, str], tmp_path: Path) -> None:
    top, base = served
    source = Repository(f"{base}/repo.git", "main", keep=True)
    items = added(build, source)
    out = tmp_path / "out"
    for entry, content in items:
        path = out / os.fsdecode(entry.path)
        if entry.kind.name == "DIRECTORY":
            path.mkdir(parents=True, exist_ok=True)
        elif entry.kind.name == "FILE":
            path.write_bytes(content)
            path.chmod(entry.mode)
    assert run("-C", str(out / "n"), "rev-parse", "HEAD").decode() == commit_of(top, "main")
    assert run("-C", str(out / "n"), "remote", "get-url", "origin").decode() == f"{base}/repo.git"
    states = described(items)
    assert not [path for path in states if "FETCH_HEAD" in path or "/logs" in path]


def test_a_repository_as_context(build: Build, served: tuple[Path, str]) -> None:
    context = build.opened(f"{served[1]}/repo.git#v1:docs", registries=access())
    assert [name for name, _ in context.tree.children(context.tree.root)] == [b"guide"]
    context.close()
    assert not [name for name in os.listdir(build.where / "store/build") if name.startswith("git-")]


def test_a_branch_that_moves_is_fetched_again(build: Build, served: tuple[Path, str], tmp_path: Path) -> None:
    top, base = served
    work = tmp_path / "moving"
    run("init", "-q", "-b", "main", str(work))
    write(work, {"f": "1"})
    commit(work, "one")
    run("clone", "-q", "--bare", str(work), str(top / "moving.git"))
    source = Repository(f"{base}/moving.git", "main")
    assert described(added(build, source))["n/f"] == "file 1"
    write(work, {"f": "2"})
    run("-C", str(work), "commit", "-q", "-a", "--amend", "-m", "again")
    run("-C", str(work), "push", "-q", "--force", str(top / "moving.git"), "main")
    assert described(added(build, source))["n/f"] == "file 2"


def test_submodules(build: Build, served: tuple[Path, str], tmp_path: Path) -> None:
    """They come from their own address, which may be relative; one that is a path of this machine is refused."""
    top, base = served
    work = tmp_path / "parent"
    run("init", "-q", "-b", "main", str(work))
    run("-C", str(work), "-c", "protocol.git.allow=always", "submodule", "add", "-q", f"{base}/repo.git", "sub")
    run("-C", str(work), "config", "-f", ".gitmodules", "submodule.sub.url", "../repo.git")
    commit(work, "one")
    run("clone", "-q", "--bare", str(work), str(top / "parent.git"))
    source = Repository(f"{base}/parent.git")
    assert described(added(build, source))["n/sub/README"] == "file 3"
    without = described(added(build, Repository(f"{base}/parent.git", submodules=False)))
    assert "n/sub/README" not in without
    run("-C", str(work), "config", "-f", ".gitmodules", "submodule.sub.url", str(top / "repo.git"))
    commit(work, "local")
    run("clone", "-q", "--bare", str(work), str(top / "sneaky.git"))
    with pytest.raises(RemoteFailure, match="not allowed"):
        added(build, Repository(f"{base}/sneaky.git"))


@pytest.mark.parametrize(
    ("url", "ref", "error", "says"),
    [
        ("{base}/repo.git", "nothing", NotFound, "has no branch and no tag 'nothing'"),
        ("{base}/nothing.git", "", RemoteFailure, "git fails"),
        ("{base}/repo.git", "--upload-pack=touch /tmp/x", UsageError, "is not the name"),
        ("{base}/repo.git", "a..b", UsageError, "is not the name"),
        ("{top}/repo.git", "", RemoteFailure, "not allowed|transport"),
        ("file://{top}/repo.git", "", RemoteFailure, "not allowed|transport"),
        ("ext::sh -c 'touch /tmp/x'", "", RemoteFailure, "not allowed|transport"),
        ("--upload-pack=touch", "", RemoteFailure, "git fails"),
    ],
)
def test_what_git_is_not_asked(
    build: Build, served: tuple[Path, str], url: str, ref: str, error: type[LaminaError], says: str
) -> None:
    top, base = served
    with pytest.raises(error, match=says):
        added(build, Repository(url.format(base=base, top=top), ref))


def test_git_reads_no_configuration_of_this_user(
    build: Build, served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from HOME, not from the environment: such settings can run programs."""
    ran = tmp_path / "ran"
    config = tmp_path / ".gitconfig"
    config.write_text(f'[core]\n\tfsmonitor = "touch {ran}"\n[filter "evil"]\n\tsmudge = "touch {ran}; cat"\n')
    template = tmp_path / "template/hooks"
    template.mkdir(parents=True)
    (template / "post-checkout").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (template / "post-checkout").chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path / "template"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"touch {ran}")
    assert described(added(build, Repository(f"{served[1]}/repo.git")))["n/x.bad"] == "file B"
    added(build, Repository(f"{served[1]}/repo.git", "main", keep=True))
    assert not ran.exists()


def test_a_password_in_the_address_is_shown_nowhere(build: Build) -> None:
    url = f"http://user:hunter2@127.0.0.1:{free_port()}/repo.git"
    with pytest.raises(RemoteFailure, match="git fails") as raised:
        added(build, Repository(url))
    assert "hunter2" not in str(raised.value)
    everything = b"".join(path.read_bytes() for path in (build.where / "store").rglob("*") if path.is_file())
    assert b"hunter2" not in everything


def stub(top: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that git or lamina finds first."""
    path = top / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_a_password_in_the_address_is_in_no_command_line(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    real = shutil.which("git")
    stub(tmp_path, "git", f'echo "$@" >> {seen}; exec {real} "$@"', monkeypatch)
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.headers.get("Authorization", ""))
        request.send_response(404 if asked[-1] else 401)
        request.send_header("WWW-Authenticate", 'Basic realm="x"')
        request.end_headers()

    with answered(answer) as address, pytest.raises(RemoteFailure, match="git fails") as raised:
        added(build, Repository(f"http://us%40er:hunter2@{address}/repo.git"))
    assert base64.b64decode(asked[1].removeprefix("Basic ")) == b"us@er:hunter2"
    assert "hunter2" not in str(raised.value)
    assert "ls-remote" in seen.read_text()
    assert "hunter2" not in seen.read_text()


@contextmanager
def answered(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A web server: its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("given", "socket", "words"),
    [
        (None, "", "-o IdentityFile=none -o IdentityAgent=none"),
        (SshAgent(), "/run/own", "-o IdentityFile=none"),
        (SshAgent(socket="/run/other"), "/run/other", "-o IdentityFile=none"),
        (SshAgent(keys=("/k e y", "/l")), "", "-i /k e y -i /l -o IdentityAgent=none"),
    ],
    ids=["nothing", "agent", "other agent", "key"],
)
def test_a_dockerfile_logs_in_only_with_what_the_build_was_given(
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: SshAgent | None,
    socket: str,
    words: str,
) -> None:
    """Else any Dockerfile could fetch what only this user may read."""
    seen = tmp_path / "seen"
    stub(tmp_path, "ssh", f'echo "$SSH_AUTH_SOCK|$*" >> {seen}; exit 1', monkeypatch)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/own")
    address = "ssh://git@example.org/repo.git"

    def calls() -> set[str]:
        lines = seen.read_text().splitlines()
        return {line.partition(" git@")[0].replace(" -o SendEnv=GIT_PROTOCOL", "") for line in lines}

    with pytest.raises(RemoteFailure):
        added(build, Repository(address), ssh={"default": given} if given else {})
    assert calls() == {f"{socket}|-F /dev/null -o BatchMode=yes {words}"}
    seen.unlink()
    with pytest.raises(RemoteFailure):
        build.opened(address)  # this user named it
    assert calls() == {"/run/own|-F /dev/null -o BatchMode=yes"}


def test_a_build_that_is_cancelled_ends_git(build: Build) -> None:
    """A server that says nothing."""
    import socket

    from lamina.errors import Cancelled
    from lamina.events import Cancel

    with socket.create_server(("127.0.0.1", 0)) as listening:
        cancel = Cancel()
        url = f"git://127.0.0.1:{listening.getsockname()[1]}/x"

        def stop() -> None:
            connection, _ = listening.accept()
            with connection:
                cancel.set()
                connection.recv(1 << 20)
                while connection.recv(1 << 20):  # until git has ended
                    pass

        thread = threading.Thread(target=stop, daemon=True)
        thread.start()
        with pytest.raises(Cancelled), git.checked_out_in(Repository(url), build.store, cancel, print):
            pass
        thread.join()


def test_prune_removes_what_was_fetched(build: Build, site: Site, served: tuple[Path, str]) -> None:
    from lamina.build.storage import prune_cache

    site.files["/f"] = b"x" * 100_000
    added(build, Remote(site.url("/f")))
    added(build, Repository(f"{served[1]}/repo.git"))
    kept = build.where / "store/build"

    def names() -> set[str]:
        return {path.parent.name for path in kept.glob("*/*") if path.parent.name in ("fetched", "git", "contexts")}

    assert {"fetched", "git"} <= names()
    prune_cache(build.store, age=3600)
    assert {"fetched", "git"} <= names()
    assert prune_cache(build.store).freed > 100_000
    assert names() == set()
    assert not [name for name in os.listdir(build.where / "store/ingest") if "git" in name]
