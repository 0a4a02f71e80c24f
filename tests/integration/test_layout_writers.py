"""Several processes write to one OCI layout: no name is lost, and it stays a valid layout for other tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lamina.archive import layout as layout_module
from lamina.archive.layout import LOCK, LayoutSession, LayoutWriter
from lamina.host.lock import acquire
from lamina.spec.descriptor import Descriptor
from support import lamina, write_layout

SCRIPT = """
import sys
from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.transfer.copy import copy
source, target, own = sys.argv[1:]
sys.stdin.read()  # all begin at once
for number in range(6):
    copy(LayoutReader(source), LayoutWriter(target), [("app", f"{own}{number}")])
"""


def names(layout: Path) -> set[str]:
    index = json.loads((layout / "index.json").read_text())
    return {one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]}


def test_four_processes_on_a_new_layout_lose_no_name(tmp_path: Path) -> None:
    write_layout(tmp_path / "from", "app", [[("a", b"1")]])
    layout = tmp_path / "to"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "from"), str(layout), own],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for own in "abcd"
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert names(layout) == {f"{own}{number}" for own in "abcd" for number in range(6)}
    assert sorted(os.listdir(layout)) == ["blobs", "index.json", "oci-layout"]
    if shutil.which("skopeo"):
        subprocess.run(["skopeo", "inspect", f"oci:{layout}:a0"], check=True, capture_output=True)
    if shutil.which("umoci"):
        subprocess.run(["umoci", "ls", "--layout", str(layout)], check=True, capture_output=True)


def test_a_second_tag_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = write_layout(tmp_path, "app", [[("a", b"1")]])
    first, second = LayoutSession(str(tmp_path)), LayoutSession(str(tmp_path))
    other = threading.Thread(target=second.tag, args=("second", top))
    before = layout_module._replace_index

    def slow(directory: str, entries: list[Descriptor]) -> None:
        monkeypatch.undo()
        other.start()
        other.join(0.2)
        assert other.is_alive()
        before(directory, entries)

    monkeypatch.setattr(layout_module, "_replace_index", slow)
    first.tag("first", top)
    other.join()
    assert names(tmp_path) == {"app", "first", "second"}
    assert not (tmp_path / LOCK).exists()


def test_a_lock_file_that_its_holder_removed_does_not_count(tmp_path: Path) -> None:
    """BuildKit removes the file at its end: a process that waited for the lock creates a new file."""
    top = write_layout(tmp_path, "app", [[("a", b"1")]])
    path = tmp_path / LOCK
    with open(path, "w") as theirs:
        assert acquire(theirs.fileno(), str(path))
        waits = threading.Thread(target=LayoutSession(str(tmp_path)).tag, args=("ours", top))
        waits.start()
        waits.join(0.2)
        assert waits.is_alive()
        path.unlink()
    waits.join()
    assert names(tmp_path) == {"app", "ours"}
    assert not path.exists()


def test_a_layout_that_somebody_is_making_keeps_its_names(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [[("a", b"1")]])
    (tmp_path / "l/oci-layout").unlink()
    with LayoutWriter(str(tmp_path / "l")).session("test"):
        assert names(tmp_path / "l") == {"app"}


def test_two_command_lines_at_once(tmp_path: Path) -> None:
    write_layout(tmp_path / "from", "app", [[("a", b"1")]])
    words = ["copy", "-q", f"oci:{tmp_path}/from:app"]
    done: list[int] = []

    def copies(name: str) -> None:
        done.append(lamina(*words, f"oci:{tmp_path}/to:{name}", root=tmp_path / "s").returncode)

    threads = [threading.Thread(target=copies, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [0, 0]
    assert names(tmp_path / "to") == {"one", "two"}
