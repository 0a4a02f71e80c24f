"""A build that is killed at any point: the store is whole, and the next build goes on from the last finished step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from integration.build.building import build, write_files
from lamina.store.fault import CACHE_POINTS
from lamina.store.fsck import fsck
from lamina.store.prune import prune
from lamina.store.store import Store

TESTS = Path(__file__).parents[2]
BUILD = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from integration.build.building import *
build(Store.open(sys.argv[1]), sys.argv[2], sys.argv[3])
"""
POINTS = (
    "root.created",
    "root.extended",
    "ingest.part-written",
    "ingest.part-synced",
    "ingest.index-renamed",
    "ingest.tar-renamed",
    "ingest.blob-renamed",
    "manifest.written",
    "refs.locked",
    "refs.written",
    "refs.renamed",
    "pin.written",
    "pin.renamed",
    *CACHE_POINTS,
)
FIRST = "FROM scratch\nCOPY a /a\n"
WHOLE = FIRST + "COPY b /b\nCOPY c /c\n"


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_build_leaves_a_whole_store_and_the_next_one_goes_on(tmp_path: Path, point: str) -> None:
    store = Store.open(str(tmp_path / "store"))
    context = write_files(tmp_path / "context", {"a": "A", "b": "B", "c": "C"})
    assert build(store, context, FIRST).ran == ["[1/1] COPY a /a"]
    if point == "build.records-removed":  # old records are looked for only now and then
        os.utime(os.path.join(store.paths.build, "lock"), (1, 1))
    env = {**os.environ, "LAMINA_FAULT": point}
    command = [sys.executable, "-c", BUILD, store.paths.root, str(context), WHOLE]
    killed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [finding.what for finding in fsck(store) if finding.severity not in ("leftover", "derived")] == []
    prune(store)
    done = build(store, context, WHOLE)
    assert "[1/3] COPY a /a" not in done.ran
    assert done.files() == {"a": b"A", "b": b"B", "c": b"C"}
    prune(store, grace=0)
    assert fsck(store) == []
    assert os.listdir(store.paths.ingest) == []
    assert build(store, context, WHOLE).ran == []


def test_two_processes_that_build_the_same_at_once(tmp_path: Path) -> None:
    """Both get the image; whatever the order, nothing is broken."""
    store = Store.open(str(tmp_path / "store"))
    context = write_files(tmp_path / "context", {name: name * 10_000 for name in "abcdefgh"})
    text = "FROM scratch\n" + "".join(f"COPY {name} /{name}\n" for name in "abcdefgh")
    command = [sys.executable, "-c", BUILD, store.paths.root, str(context), text]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert build(store, context, text).ran == []
    assert fsck(store) == []
    assert [root.purpose for root in store.roots] == ["build cache"]
