"""Peak memory and time of the commands that see a whole image, on images of 1,000,000 entries. Each command runs in a
process of its own; of the processes that it starts, the largest counts.

python bench/million.py [ENTRIES]     (as root: the EROFS mount too)

The limit of issue 20: 300 MB (10^6 bytes) each.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time

from layer_index import synthetic

LIMIT = 300


def spent(root: str, *words: str) -> tuple[float, float]:
    """Seconds, and MB at the peak."""
    start = time.monotonic()
    process = os.fork()
    if not process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.execv(sys.executable, [sys.executable, "-m", "lamina", "--root", root, *words])
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"lamina {' '.join(words)} failed: {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_maxrss * 1024 / 1e6


def write_image(top: str, entries: int) -> str:
    """A store with ``one``, an image of one layer, and ``two``, which has a small layer on top."""
    root, tar = os.path.join(top, "store"), os.path.join(top, "layer.tar")
    process = os.fork()  # a child inherits the peak of the process that starts it: this one stays small
    if not process:
        with open(tar, "wb") as file:
            file.writelines(synthetic(entries))
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        raise SystemExit("the tar could not be written")
    spent(root, "import", tar, "one")
    os.unlink(tar)
    spent(root, "append", "one", __file__, "-t", "two")
    return root


def main() -> None:
    entries = int(sys.argv[1]) if sys.argv[1:] else 1_000_000
    with tempfile.TemporaryDirectory(prefix="lamina-million-", ignore_cleanup_errors=True) as top:
        root = write_image(top, entries)
        tree = os.path.join(top, "tree")
        for name in ("one", "two"):
            commands: list[tuple[str, ...]] = [("ls", "-R", name), ("unpack", name, tree)]
            if os.geteuid() == 0:
                commands.insert(0, ("mount", "--view", "erofs", name))
            for words in commands:
                seconds, peak = spent(root, *words)
                much = "" if peak <= LIMIT else f", more than {LIMIT}"
                print(f"{name} {words[0]:7} {seconds:6.1f} s {peak:5.0f} MB{much}", flush=True)
                if words[0] == "mount":
                    spent(root, "umount", "--all")
            shutil.rmtree(tree)


if __name__ == "__main__":
    main()
