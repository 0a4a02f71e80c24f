"""Backup and restore as docs/serve.md says, while a server is pushed to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.objects.address import open_bucket
from lamina.objects.bucket import Bucket
from lamina.objects.fsck import Checker
from object_storage import s3_server
from server_process import ServerProcess
from support import lamina, require_tool, write_layout

DOCUMENT = Path(__file__).parents[2] / "docs" / "serve.md"
ORDER = ("names", "repositories", "blobs", "data", "lamina")
ACCEPT = "application/vnd.oci.image.manifest.v1+json"


def commands(heading: str, after: str) -> list[str]:
    """The commands of the first block after ``after`` below a heading of the document."""
    text = DOCUMENT.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0].partition(after)[2]
    block = text.partition("```console\n")[2].partition("```")[0]
    return [re.sub(r"\s{2,}#.*", "", line[2:]) for line in block.splitlines() if line.startswith("$ ")]


class Pusher:
    """Pushes images one after the other until it is told to stop. ``pushed``: the names that the server has
    acknowledged."""

    def __init__(self, server: str, top: Path) -> None:
        self.pushed: list[str] = []
        self._server, self._top = server, top
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.error: BaseException | None = None

    def _run(self) -> None:
        from lamina.archive.layout import LayoutReader
        from lamina.remote.repository import Repository
        from lamina.transfer.copy import copy

        number = 0
        try:
            while not self._stop.is_set():
                number += 1
                name = f"{self._server}/team/app:{number}"
                layer = [("file", str(number).encode() * 5000)]
                write_layout(self._top, str(number), [[("shared", b"x" * 100)], layer])
                copy(LayoutReader(str(self._top)), Repository(name), [(str(number), name)])
                self.pushed.append(str(number))
        except BaseException as error:
            self.error = error

    def wait_for(self, count: int) -> None:
        while len(self.pushed) < count and self.error is None:
            self._stop.wait(0.02)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        assert self.error is None

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self.stop()


def check_whole(server: str, tags: list[str]) -> None:
    """Every byte of these images comes from the server."""
    for tag in tags:
        asked = urllib.request.Request(f"http://{server}/v2/team/app/manifests/{tag}", headers={"Accept": ACCEPT})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            document = json.loads(answer.read())
        for one in (document["config"], *document["layers"]):
            with urllib.request.urlopen(f"http://{server}/v2/team/app/blobs/{one['digest']}", timeout=20) as answer:
                assert len(answer.read()) == one["size"]


def test_a_store_is_copied_while_it_is_pushed_to_and_restored(tmp_path: Path) -> None:
    require_tool("rsync")
    root, backup = tmp_path / "s", tmp_path / "backup"
    program = tmp_path / "bin" / "lamina"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lamina "$@"\n')
    program.chmod(0o755)
    lines = commands("Backup and restore", "**The store**")
    assert len(lines) == 6, lines
    script = "\n".join(lines).replace("/var/lib/lamina", str(root)).replace("/backup/lamina", str(backup))
    server = ServerProcess(root, "--writable", log=tmp_path / "log").start()
    try:
        pusher = Pusher(server.name, tmp_path / "l")
        with pusher.running():
            pusher.wait_for(5)
            for wanted in (5, 10):  # the second one is incremental
                pusher.wait_for(wanted)
                before = list(pusher.pushed)
                done = subprocess.run(
                    ["bash", "-c", script],
                    capture_output=True,
                    check=False,
                    timeout=120,
                    env={"PATH": f"{program.parent}:/usr/bin:/bin"},
                )
                assert b"error" not in done.stdout, done.stdout
                assert done.returncode == 0, done.stderr
            pusher.wait_for(len(before) + 2)
    finally:
        server.close()
    shutil.rmtree(root)
    shutil.copytree(backup, root)
    restored = ServerProcess(root, log=tmp_path / "log").start()
    try:
        check_whole(restored.name, before)
    finally:
        restored.close()
    assert lamina("fsck", root=root).returncode == 0


@pytest.mark.peer
def test_object_storage_is_copied_while_it_is_pushed_to_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = commands("Backup and restore", "**Object storage**")
    assert [line.rpartition("/")[2] for line in lines] == list(ORDER)
    with s3_server("versitygw", tmp_path / "s3") as storage:
        for name, value in storage.environment.items():
            monkeypatch.setenv(name, value)
        old, kept, new = (open_bucket(f"{storage.url}/{place}") for place in ("old", "kept", "new"))
        options = ("--storage", f"{storage.url}/old", "--writable")
        server = ServerProcess(tmp_path / "s", *options, log=tmp_path / "log").start()
        try:
            pusher = Pusher(server.name, tmp_path / "l")
            with pusher.running():
                pusher.wait_for(5)
                before = list(pusher.pushed)
                for part in ORDER:
                    copied(old, kept, part)
                pusher.wait_for(len(before) + 2)
        finally:
            server.close()
        for part in reversed(ORDER):
            copied(kept, new, part)
        restored = ServerProcess(tmp_path / "s", "--storage", f"{storage.url}/new", log=tmp_path / "log").start()
        try:
            check_whole(restored.name, before)
        finally:
            restored.close()
        assert Checker(new, deep=True).run().damage == []


def copied(source: Bucket, target: Bucket, part: str) -> None:
    """What `rclone copy` does."""
    for one in source.list(part):
        found = source.get(one.key)
        if found is not None:  # else it was deleted meanwhile
            target.put(one.key, found.data)
