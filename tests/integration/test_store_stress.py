"""Loads, pulls, tags and removals by several processes beside gc and prune, some of them killed at a fault point:
then every name is whole, with the registry gone."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

from lamina.archive.layout import LayoutReader
from lamina.serve.server import RegistryServer
from lamina.spec.platform import Platform
from lamina.store.fault import POINTS
from lamina.store.fsck import fsck
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import lamina, write_layout

IMAGES, WORKERS, EACH = 4, 3, 14
SEED = int(os.environ.get("LAMINA_TEST_SEED", "20"))
BASE = [("base", b"the same for all" * 2000)]


def content(number: int) -> bytes:
    return b"image %d " % number * 3000


def test_after_many_concurrent_commands_every_named_image_is_complete(tmp_path: Path) -> None:
    root, layout = tmp_path / "s", tmp_path / "l"
    digests = {}
    for number in range(IMAGES):
        top = write_layout(layout, f"app{number}", [BASE, [("own", content(number))]])
        digests[top.digest] = number
    served = Store.open(str(tmp_path / "served"))
    copy(LayoutReader(str(layout)), served, [(f"app{number}", f"app{number}") for number in range(IMAGES)])
    Store.open(str(root))
    failed: list[object] = []
    killed: list[str] = []
    ended = threading.Event()

    def run(chance: random.Random, *words: str, allowed: tuple[int, ...] = (0,)) -> None:
        point = chance.choice(POINTS) if chance.random() < 0.3 else ""
        done = lamina(*words, root=root, LAMINA_FAULT=point)
        if point and done.returncode == -signal.SIGKILL:
            killed.append(point)
        elif done.returncode not in allowed:
            failed.append(done)

    def work(seed: int, registry: str) -> None:
        chance = random.Random(SEED * 100 + seed)
        for step in range(EACH):
            number = chance.randrange(IMAGES)
            moving = f"moves{chance.randrange(2)}"
            pulled = f"{registry}/library/app{number}:latest"
            verbs = [
                ("copy", "-q", f"oci:{layout}:app{number}", f"n{seed}-{step}"),
                ("copy", "-q", f"oci:{layout}:app{number}", moving),
                ("pull", "-q", pulled),
                ("tag", moving, f"t{seed}-{step}"),
                ("rmi", pulled),
                ("rmi", f"n{seed}-{chance.randrange(step + 1)}"),
            ]
            words = verbs[chance.randrange(len(verbs))]
            # what is tagged or removed, another process may have removed
            run(chance, *words, allowed=(0, 3) if words[0] in ("tag", "rmi") else (0,))

    def sweep(seed: int) -> None:
        chance = random.Random(SEED * 100 + seed)
        while not ended.is_set():
            run(chance, "prune", "-f")

    with RegistryServer(served) as server:
        workers = [threading.Thread(target=work, args=(seed, server.name)) for seed in range(WORKERS)]
        sweeper = threading.Thread(target=sweep, args=(WORKERS,))
        for thread in (*workers, sweeper):
            thread.start()
        for thread in workers:
            thread.join()
        ended.set()
        sweeper.join()
    assert failed == []
    assert killed  # else nothing was proved of kills
    store = Store.open(str(root), create=False)
    assert [one.what for one in fsck(store) if one.severity == "error"] == []
    assert list(store.names())
    for name, top in store.names():
        stack = store.stack_at(top, Platform.host(), name)
        tree = stack.tree()
        with stack.open_file(tree.lookup(b"own")) as own, stack.open_file(tree.lookup(b"base")) as base:
            assert own.read() == content(digests[top.digest]), name
            assert base.read() == BASE[0][1], name
    assert lamina("prune", "--all", "--force", root=root).returncode == 0
    assert (
        list(store.blobs) == list(store.layers.diff_ids()) == list(store.roots) == os.listdir(root / "ingest") == []
    )
