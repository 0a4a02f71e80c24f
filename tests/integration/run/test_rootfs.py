"""A container's root file system, while other processes work on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lamina.run.rootfs import Inside

RENAMER = """
import os, sys
os.mkdir(sys.argv[1])
print("ready", flush=True)
while True:
    os.rename(sys.argv[1], sys.argv[2])
    os.rename(sys.argv[2], sys.argv[1])
"""


def test_a_path_with_dots_is_found_while_others_rename(tmp_path: Path) -> None:
    """While another process renames directories all the time, the kernel answers EAGAIN for about one of six such
    paths."""
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "file").touch()
    names = [str(tmp_path / name) for name in ("here", "there")]
    with subprocess.Popen([sys.executable, "-c", RENAMER, *names], stdout=subprocess.PIPE) as renamer:
        try:
            assert renamer.stdout is not None
            renamer.stdout.readline()
            with Inside(str(root)) as inside:
                for _ in range(2000):
                    os.close(inside.open("a/b/../../" + "a/../" * 20 + "file"))
        finally:
            renamer.kill()
