"""Other engines see in an edited image what lamina shows of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support import lamina, podman_command, require_root, require_tool, write_layout

pytestmark = pytest.mark.peer
LAYERS = [
    [("d/", None), ("d/old", b"o"), ("d/sub/", None), ("d/sub/x", b"x"), ("f", b"1"), ("gone", b"g")],
    [("d/.wh.sub", b""), ("f", b"2"), (".wh.gone", b""), ("a", b"data"), ("b", "= a"), ("t", b"t")],
    [("d/sub/", None), ("d/sub/new", b"n"), (".wh.t", b""), ("l", "-> f")],
]
LISTING = ("find", ".", "-mindepth", "1", "-printf", "%p %y %m %U %G %s %T@ %l %n\\n")


def tree(where: Path, *, times: bool = True) -> list[bytes]:
    listed = subprocess.run(LISTING, cwd=where, capture_output=True, check=True).stdout
    if not times:  # podman touches directories that a layer passes through; overlay does not count their links
        listed = re.sub(rb"(?m)^(\S+ d .*) \S+  \d+$", rb"\1", listed)
    return sorted(listed.splitlines())


@pytest.mark.parametrize("words", [("squash", "app", "--from", "2"), ("flatten", "app"), ("erase", "app", "nothing")])
def test_umoci_and_podman_see_the_tree_that_lamina_shows(tmp_path: Path, words: tuple[str, ...]) -> None:
    require_tool("umoci")
    require_root()
    root = tmp_path / "s"
    write_layout(tmp_path / "l", "app", [*LAYERS, [("nothing", b"x")]] if words[0] == "erase" else LAYERS)
    for step in (("load", "-i", str(tmp_path / "l")), (*words, "-t", "new"), ("copy", "new", f"oci:{tmp_path}/o:v1")):
        done = lamina(*step, root=root)
        assert done.returncode == 0, done.stderr
    assert lamina("unpack", "new", str(tmp_path / "mine"), root=root).returncode == 0
    mine = tree(tmp_path / "mine")
    assert mine
    umoci = ["umoci", "unpack", "--image", f"{tmp_path}/o:v1", str(tmp_path / "bundle")]
    assert subprocess.run(umoci, capture_output=True, check=False).returncode == 0
    assert tree(tmp_path / "bundle/rootfs") == mine
    for driver in ("vfs", "overlay"):
        with podman_command(driver) as podman:
            pulled = subprocess.run([*podman, "pull", "-q", f"oci:{tmp_path}/o:v1"], capture_output=True, check=False)
            assert pulled.returncode == 0, pulled.stderr
            identity = pulled.stdout.decode().strip()
            mounted = subprocess.run([*podman, "image", "mount", identity], capture_output=True, check=True).stdout
            theirs = tree(Path(mounted.decode().strip()), times=False)
            assert theirs == tree(tmp_path / "mine", times=False)
