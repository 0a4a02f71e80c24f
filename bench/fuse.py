"""The union walked and read: through FUSE, mounted by the kernel (erofs), unpacked. Root, Linux; journaled disk.

python bench/fuse.py LAYOUT REFERENCE DIRECTORY     (e.g. bench/fuse.py oci/ node /scratch)
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable

from lamina.archive.layout import LayoutReader
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.view.overlay.mount import mount, unmount
from lamina.view.unpack.unpack import unpack

ROUNDS = 3


def walk(top: str) -> int:
    return sum(len(files) for _, _, files in os.walk(top))


def walk_and_stat(top: str) -> int:
    return sum(os.lstat(os.path.join(where, name)).st_size for where, _, files in os.walk(top) for name in files)


def read(top: str) -> int:
    total = 0
    for where, _, files in os.walk(top):
        for name in files:
            path = os.path.join(where, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb", buffering=0) as file:
                    while data := file.read(1 << 20):
                        total += len(data)
    return total


def timed(action: Callable[[str], int], top: str) -> float:
    start = time.perf_counter()
    action(top)
    return time.perf_counter() - start


def drop_caches() -> None:
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def rounds(name: str, top: str, enter: Callable[[], object], leave: Callable[[], object]) -> None:
    """Each action first with nothing in memory, then again; medians."""
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for action in (walk, walk_and_stat, read):
            drop_caches()
            start = time.perf_counter()
            enter()
            found.setdefault("mount", []).append(time.perf_counter() - start)
            found.setdefault(action.__name__, []).append(timed(action, top))
            found.setdefault(action.__name__ + " again", []).append(timed(action, top))
            leave()
    print(name, ", ".join(f"{what} {sorted(times)[len(times) // 2]:.2f} s" for what, times in found.items()))


def main() -> None:
    layout, reference, directory = sys.argv[1:4]
    with tempfile.TemporaryDirectory(prefix="bench-fuse-", dir=directory) as scratch:
        store = Store.open(os.path.join(scratch, "store"))
        copy(LayoutReader(layout), store, [(reference, "image")])
        stack = store.stack("image", Platform.host())
        target = os.path.join(scratch, "mnt")
        for view in ("fuse", "erofs"):
            rounds(
                view,
                target,
                lambda view=view: mount(store, stack, target, view=view),  # type: ignore[misc]
                lambda: unmount(store, target),
            )
        tree = os.path.join(scratch, "tree")
        unpack(stack, os.fsencode(tree))
        rounds("unpacked", tree, lambda: None, lambda: None)


if __name__ == "__main__":
    main()
