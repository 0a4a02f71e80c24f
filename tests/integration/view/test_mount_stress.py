"""Processes and threads mount and unmount the same and different images, beside prune, rmi and load. Bounded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lamina.host.mountinfo import mounts as mountinfo
from lamina.store.prune import prune
from lamina.store.store import Store
from lamina.view.overlay.mount import mounts
from support import lamina, require_root, rounds, write_layout

ROUNDS = rounds(12, 4)
PROCESSES = 4
WORK = """
import os, sys, threading
import lamina
from lamina.errors import NotFound
root, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
failed = []
def work(number):
    for at in range(rounds):
        name = "abc"[(seed + number + at) % 3]
        try:
            image = lamina.open(name, root=root)
        except NotFound:
            assert name == "c", name  # the one that is removed now and then
            continue
        try:
            with image.mount() as place:
                said = open(os.path.join(place, "name")).read(), open(os.path.join(place, "base", "7")).read()
                assert said == (name, "7"), said
        except NotFound:
            assert name == "c", name  # its layers went between the name and the mount
def thread(number):
    try:
        work(number)
    except BaseException as error:
        failed.append(f"{type(error).__name__}: {error}")
threads = [threading.Thread(target=thread, args=(number,)) for number in range(2)]
for one in threads: one.start()
for one in threads: one.join()
print(*failed, sep="\\n", end="")
"""
SWEEP = """
import sys
from lamina.archive.layout import LayoutReader
from lamina.store.prune import prune
from lamina.store.remove import remove_images
from lamina.store.store import Store
from lamina.transfer.copy import copy
root, layout, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store.open(root)
for at in range(rounds):
    prune(store, grace=0)
    remove_images(store, ["c"])
    copy(LayoutReader(layout), store, [("c", "c")])
"""


def test_mounts_beside_each_other_and_beside_prune_and_rmi(tmp_path: Path) -> None:
    require_root()
    root, layout = str(tmp_path / "s"), str(tmp_path / "l")
    base = [(f"base/{number}", f"{number}".encode()) for number in range(30)]
    for name in "abc":
        write_layout(layout, name, [base, [("name", name.encode())]])
    assert lamina("load", "-i", layout, root=root).returncode == 0
    commands = [[sys.executable, "-c", WORK, root, str(seed), str(ROUNDS)] for seed in range(PROCESSES)]
    commands.append([sys.executable, "-c", SWEEP, root, layout, str(ROUNDS)])
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    said = [process.communicate(timeout=300) for process in started]
    assert [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)] == (
        [(0, b"", b"")] * len(commands)
    )
    store = Store.open(root)
    assert mounts(store) == []
    assert [one.target for one in mountinfo() if one.target.startswith(f"{tmp_path}/")] == []
    assert [root.purpose for root in store.roots] == []
    for name in "abc":
        assert lamina("validate", name, root=root).returncode == 0
    assert lamina("fsck", root=root).returncode == 0
    prune(store, all=True, grace=0)
    assert os.listdir(store.paths.unions) == []
    assert list(store.blobs) == []
