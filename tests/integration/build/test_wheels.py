"""Wheels in real builds: layers that images share, and builds that fetch nothing twice."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import lamina
from lamina.build.errors import StepFailed
from lamina.errors import NotFound
from support import Member, store_with, write_layout
from support import lamina as command
from unit.build.test_wheels import DEBIAN, OFFICIAL, SITE, make_wheel

WHEEL = make_wheel()
NAME = "demo-1.0-py3-none-any.whl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, members in (("official", OFFICIAL), ("other", [*OFFICIAL, ("etc/other", b"x")]), ("debian", DEBIAN)):
        config = {"config": {"Env": []}}
        write_layout(tmp_path / "layout", name, [list[Member](members)], config=config)
    store_with(tmp_path / "layout", tmp_path / "store", "official", "other", "debian")
    return tmp_path / "store"


@contextmanager
def served(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server of this directory: its address, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def guess_type(self, path: Any) -> str:
            return "application/vnd.pypi.simple.v1+json" if str(path).endswith("index.html") else "application/zip"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pylock(directory: Path, url: str) -> Path:
    lock = directory / "pylock.toml"
    digest = hashlib.sha256(WHEEL).hexdigest()
    lock.write_text(
        f'lock-version = "1.0"\n[[packages]]\nname = "demo"\nversion = "1.0"\n'
        f'[[packages.wheels]]\nname = "{NAME}"\nurl = "{url}"\nhashes = {{ sha256 = "{digest}" }}\n'
    )
    return lock


def test_images_share_the_layer_of_a_wheel(root: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / NAME).write_bytes(WHEEL)
    with served(tmp_path / "files") as (address, asked):
        lock = pylock(tmp_path, f"{address}/{NAME}")
        first = lamina.Build("official").wheels(lock).build("a:1", root=root)
        second = lamina.Build("other").wheels(lock).cmd(["x"]).build("b:1", root=root, epoch=1000)
        third = lamina.Build("debian").wheels(lock).build("c:1", root=root)
    assert asked == [f"/{NAME}"] * 2  # once for each Python
    assert first.layers[-1].digest == second.layers[-1].digest != third.layers[-1].digest
    assert first.read_bytes(f"/{SITE}/demo/__init__.py") == b"VERSION = 1\n"
    assert third.read_bytes("/usr/local/lib/python3.11/dist-packages/demo/__init__.py") == b"VERSION = 1\n"
    assert [step.created_by for step in first.config.history][-1] == "WHEEL demo==1.0"


def test_a_wheel_beside_the_lock_file_needs_no_network(root: Path, tmp_path: Path) -> None:
    lock = pylock(tmp_path, NAME)
    (tmp_path / NAME).write_bytes(WHEEL)
    done = command("build", "-q", "-t", "a:1", "--wheels", str(lock), "--base", "official", root=root)
    assert done.returncode == 0, done.stderr
    assert command("cat", "a:1", f"/{SITE}/demo/__init__.py", root=root).stdout == b"VERSION = 1\n"


def test_requirements_are_found_in_an_index(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files/simple/demo").mkdir(parents=True)
    (tmp_path / "files" / NAME).write_bytes(WHEEL)
    digest = hashlib.sha256(WHEEL).hexdigest()
    page = f'{{"files": [{{"filename": "{NAME}", "url": "../../{NAME}", "hashes": {{"sha256": "{digest}"}}}}]}}'
    (tmp_path / "files/simple/demo/index.html").write_text(page)
    (tmp_path / "requirements.txt").write_text("demo==1.0\n")
    with served(tmp_path / "files") as (address, asked):
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        image = lamina.Build("official").wheels(tmp_path / "requirements.txt").build(root=root)
    assert asked == ["/simple/demo/", f"/{NAME}"]
    assert image.read_bytes(f"/{SITE}/demo/__init__.py") == b"VERSION = 1\n"


def test_other_bytes_than_the_lock_file_says_make_no_layer(root: Path, tmp_path: Path) -> None:
    lock = pylock(tmp_path, NAME)
    (tmp_path / NAME).write_bytes(make_wheel({"evil.py": b""}))
    with pytest.raises(StepFailed, match=r"has the digest sha256:.*, not sha256:"):
        lamina.Build("official").wheels(lock).build("a:1", root=root)
    done = command("build", "-t", "a:1", "--wheels", str(lock), "--base", "official", root=root)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert command("images", "-q", "a:1", root=root).stdout == b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--wheels", "uv.lock"], b"--wheels without --base"),
        (["--base", "official"], b"--base without --wheels"),
        (["--wheels", "nothing/uv.lock", "--base", "official"], b"nothing/uv.lock"),
        (["--wheels", "uv.lock", "--base", "official", "-f", "x"], b"reads no Dockerfile"),
    ],
)
def test_what_contradicts_is_said(root: Path, words: list[str], message: bytes) -> None:
    done = command("build", *words, root=root)
    assert done.returncode not in (0, 1)
    assert message in done.stderr


def test_a_base_without_python_is_said(root: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "l2", "plain", [[("bin/sh", b"")]])
    store_with(tmp_path / "l2", root, "plain")
    with pytest.raises(NotFound, match="no python3 on its PATH"):
        lamina.Build("plain").wheels(pylock(tmp_path, NAME)).build(root=root)
