"""Every Python block in README and docs/, and every console line of README, runs in a temporary directory with a
store and a registry; without network."""

from __future__ import annotations

import doctest
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from lamina.archive.docker import DockerArchiveWriter
from lamina.archive.layout import LayoutReader
from lamina.cli.verbs import VERBS
from lamina.host import privileges
from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import lamina, write_layout

TOP = Path(__file__).parents[2]
PAGES = [
    page
    for page in (TOP / "README.md", *sorted((TOP / "docs").rglob("*.md")))
    if "```python\n" in page.read_text(encoding="utf-8")
]
RELEASE = b'ID=debian\nVERSION_ID="%s"\n'
STATUS = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\n"


def base(version: bytes) -> list[Any]:
    """Return the entries of a base layer. If the host has a static busybox, the layer can be run."""
    shell = shutil.which("busybox")
    return [
        ("bin/", None),
        ("bin/busybox", Path(shell).read_bytes() if shell else b"none", {"mode": 0o755}),
        *((f"bin/{name}", "-> busybox") for name in ("sh", "echo", "cat")),
        ("etc/", None),
        ("etc/os-release", RELEASE % version),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/motd", b"hello\n"),
        ("root/", None, {"mode": 0o700}),
        ("tmp/", None, {"mode": 0o1777}),
        ("usr/", None),
        ("usr/bin/", None),
        ("usr/bin/cat", "-> ../../bin/busybox"),
        ("usr/share/", None),
        ("usr/share/one", b"0123456789" * 200),
        ("usr/share/two", b"0123456789" * 200),
        ("var/lib/dpkg/status", STATUS),
    ]


def parquet() -> bytes:
    import pyarrow.parquet  # which takes its time, and not only the workers that run this collect it

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"name": ["a", "b"], "size": [1, 2]}), out)
    return out.getvalue()


CONF = """
[[registry]]
prefix = "docker.io/library"
location = "127.0.0.1:{port}"
insecure = true

[[registry]]
prefix = "ghcr.io"
location = "127.0.0.1:{port}/ghcr.io"
insecure = true
"""
COMPOSE = """
services:
  web:
    image: debian:12
    command: sh
    tty: true
    stdin_open: true
    network_mode: none
"""


def images(layout: Path) -> None:
    """Write debian:12, debian:12.6, and two versions of an app on top."""
    app = [
        ("etc/motd", b"hello, app\n"),
        ("root/.netrc", b"machine host login me password pass\n"),
        ("srv/", None),
        ("srv/app/", None),
        ("srv/app/main.py", b'print("one")\n', {"mode": 0o755}),
        ("srv/app/data.csv", b"name,size\na,1\nb,2\n"),
        ("srv/app/data.parquet", parquet()),
    ]
    again = {"mode": 0o755, "mtime": 1_700_000_001}
    new = [("srv/app/main.py", b'print("three")\n', again), ("srv/app/new.txt", b"new\n")]
    one = [base(b"12"), app, [("root/.wh..netrc", b"")]]
    two = [*one, new]
    steps = [{"created_by": words} for words in ("FROM scratch", "COPY app /", "RUN rm /root/.netrc", "COPY app2 /")]
    run = {"Cmd": ["/srv/app/main.py"], "Env": ["PATH=/bin:/usr/bin", "LANG=C.UTF-8"]}
    all_layers = {
        "alpine": one[:1],
        "debian:12": one[:1],
        "debian:12.6": [base(b"12.6")],
        "app": one,
        "app:1": one,
        "app:2": two,
    }
    for name, layers in all_layers.items():
        config = run if "app" in name else {"Env": run["Env"][:1]}
        write_layout(layout, name, layers, config={"config": config, "history": steps[: len(layers)]})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """Prepare what the pages assume; yields the names for their conditions."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("LAMINA_ROOT", str(tmp_path / "store"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    images(tmp_path / "layout")
    layout = LayoutReader("layout")
    here = Store.open(str(tmp_path / "store"))
    copy(layout, here, [("app:1", "app:1"), ("app:2", "app:2"), ("app:2", "app")])
    copy(layout, here, [("debian:12", "debian:12"), ("debian:12.6", "debian:12.6")])
    copy(layout, DockerArchiveWriter("images.tar"), [("app:1", "app:1")])
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<p>a site</p>\n")
    (tmp_path / "motd.txt").write_text("a site\n")
    (tmp_path / "Dockerfile").write_text('FROM app:1\nCOPY motd.txt /etc/motd\nCMD ["cat", "/etc/motd"]\n')
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    there = Store.open(str(tmp_path / "there"))
    copy(layout, there, [("alpine", "alpine"), ("debian:12", "debian:12"), ("app:1", "ghcr.io/me/app:1")])
    with RegistryServer(there, writable=True) as registry:
        (tmp_path / "registries.conf").write_text(CONF.format(port=registry.port))
        can_run = os.geteuid() == 0 and shutil.which("busybox") and (shutil.which("runc") or shutil.which("crun"))
        yield {
            "can_mount": os.geteuid() == 0 or not privileges.refusal() or _has_fuse(),
            "can_run": can_run,
        }
    if can_run:  # a line that fails must not leave the container of an earlier one running
        assert lamina("rm", "--all", "--force", root=tmp_path / "store").returncode == 0


def _has_fuse() -> bool:
    return shutil.which("fusermount3") is not None and importlib.util.find_spec("mfusepy") is not None


def _skip(why: str) -> NoReturn:
    """Skip the test; fail if CI says that nothing may be missing."""
    if os.environ.get("LAMINA_TEST_REQUIRE"):
        pytest.fail(f"skipped: {why}")
    pytest.skip(why)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_blocks_run(page: Path, world: dict[str, object], subtests: pytest.Subtests) -> None:
    blocks = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)
    document = Document.parse(str(page), blocks, SkipParser())
    document.namespace.update(world)
    if page == TOP / "README.md" and not world["can_mount"]:
        _skip("README mounts an image, and nobody may do that here")
    for example in document.examples():
        done = False
        with subtests.test(f"line {example.line}"):
            try:
                example.evaluate()
            except unittest.SkipTest as why:
                done = True
                _skip(str(why))
            done = True
        if not done:
            break  # the following lines depend on it


def console_lines() -> list[str]:
    """Return the console lines of README, without prompts and comments."""
    text = (TOP / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ").partition(" #")[0].strip() for block in blocks for line in block.splitlines()]


OTHER_CODES = {"diff": 1}
"""Verbs that end with another exit code than 0 here."""
NEEDS_RUN = (*("run", "commit", "cp", "diff try", "rm"), *("port", "exec", "logs", "stop", "compose"))


def test_the_console_lines_of_readme_run(
    world: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """In order: later lines need the results of earlier ones."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/lamina"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -W error -m lamina "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    lines = console_lines()
    assert len(lines) > 30
    for line in lines:
        _, _, words = line.partition("lamina ")
        assert words, line
        if words.startswith(("serve", "boot", "ui", "vm-disk")) or "kernel" in words:
            continue  # until Ctrl-C; with a kernel: tests/integration/run/test_machine_stack.py
        with subtests.test(line):
            if words.startswith(NEEDS_RUN) and not world["can_run"]:
                _skip("containers can't be run here")
            if words.startswith("compose") and not importlib.util.find_spec("podman_compose"):
                _skip("podman-compose is not installed")
            done = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, check=False)
            code = OTHER_CODES.get(words.split()[0], 0) if "try" not in words else 0
            assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done


def test_readme_names_every_verb_and_only_extras_that_are_there() -> None:
    text = (TOP / "README.md").read_text(encoding="utf-8")
    tables = "\n".join(line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([a-z-]+)`", tables)) == set(VERBS) - {"help"}
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name for names in re.findall(r"lamina\[([a-z0-9,]+)\]", text) for name in names.split(",")}
    assert extras == set(project["optional-dependencies"]) - {"dev"}


def test_every_page_of_the_library_has_blocks() -> None:
    assert {TOP / "README.md", *(TOP / "docs/api").glob("[a-z]*.md")} <= set(PAGES)
