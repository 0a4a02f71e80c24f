"""How podman, umoci and docker apply the rules of the union: a check of the table in tests/oracles.md. Where another
engine differs from lamina, its result is stated here, so that a test fails if that engine changes."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from docker_engine import Docker
from lamina.archive.layout import LayoutReader
from lamina.errors import LaminaError
from lamina.serve.server import RegistryServer
from lamina.union.merge import merge
from support import layer_index, podman_command, require_root, require_tool, write_layout

pytestmark = pytest.mark.peer
DIR = [("d/", None), ("d/x", b"1"), ("d/y/", None), ("d/y/z", b"22")]
USR = [("usr/", None), ("usr/lib/", None), ("usr/lib/a", b"one")]
USR_SHOWN = {"usr": "dir", "usr/lib": "dir", "usr/lib/a": 3}
AUFS = [
    (".wh..wh.aufs", b""),
    (".wh..wh.orph/", None),
    (".wh..wh.plnk/", None),
    (".wh..wh.plnk/1.2", b"one"),
    ("x", "= .wh..wh.plnk/1.2"),
    ("y", "= .wh..wh.plnk/1.2"),
]
AUFS_SHOWN = {"x": 3, "y": 3, ".wh..wh.plnk": "dir", ".wh..wh.plnk/1.2": 3}
FAILS = "fails"

# rule: layers, what lamina shows, and what a peer shows where that is something else
RULES: dict[str, tuple[list[list[tuple[Any, ...]]], Any, dict[str, Any]]] = {
    "whiteout of a directory": ([DIR, [(".wh.d", b"")]], {}, {}),
    "whiteout of a file": ([DIR, [("d/.wh.x", b"")]], {"d": "dir", "d/y": "dir", "d/y/z": 2}, {}),
    "whiteout after the entry of its own layer": (
        [DIR, [("d/x", b"333"), ("d/.wh.x", b"")]],
        {"d": "dir", "d/x": 3, "d/y": "dir", "d/y/z": 2},
        {"podman vfs": {"d": "dir", "d/y": "dir", "d/y/z": 2}, "podman overlay": FAILS},
    ),
    "opaque mark after the entries of its own layer": (
        [DIR, [("d/", None), ("d/new", b""), ("d/.wh..wh..opq", b"")]],
        {"d": "dir", "d/new": 0},
        {},
    ),
    "opaque mark before": ([DIR, [("d/.wh..wh..opq", b""), ("d/new", b"")]], {"d": "dir", "d/new": 0}, {}),
    "opaque mark of the root": (
        [DIR, [(".wh..wh..opq", b""), ("n", b"")]],
        {"n": 0},
        {"podman overlay": {"d": "dir", "d/x": 1, "d/y": "dir", "d/y/z": 2, "n": 0}},
    ),
    "deleted, then made again in the next layer": (
        [DIR, [(".wh.d", b"")], [("d/", None), ("d/q", b"")]],
        {"d": "dir", "d/q": 0},
        {},
    ),
    "file over directory": ([DIR, [("d", b"file")]], {"d": 4}, {}),
    "directory over file": ([[("d", b"file")], [("d/", None), ("d/f", b"")]], {"d": "dir", "d/f": 0}, {}),
    "symlink over directory": ([DIR, [("d", "-> t")]], {"d": "-> t"}, {}),
    "entry below a symlink of a lower layer": (
        [[("real/", None), ("d", "-> real")], [("d/f", b"")]],
        {"d": "dir", "d/f": 0, "real": "dir"},
        {
            "umoci": {"d": "-> real", "real": "dir", "real/f": 0},
            "podman vfs": {"d": "-> real", "real": "dir", "real/f": 0},
        },
    ),
    "hardlink into a lower layer": ([[("a", b"one")], [("b", "= a")]], {"a": 3, "b": 3}, {"podman overlay": FAILS}),
    "hardlink through a symlink of its layer": (
        [[*USR, ("lib", "-> usr/lib"), ("x", "= lib/a")]],
        {**USR_SHOWN, "lib": "-> usr/lib", "x": 3},
        {},
    ),
    "hardlink through a symlink that is absolute": (
        [[*USR, ("lib", "-> /usr/lib"), ("x", "= lib/a")]],
        {**USR_SHOWN, "lib": "-> /usr/lib", "x": 3},
        {},
    ),
    "hardlink through a symlink that leads out": (
        [[*USR, ("lib", "-> ../../usr/lib"), ("x", "= lib/a")]],
        {**USR_SHOWN, "lib": "-> ../../usr/lib", "x": 3},
        {},
    ),
    "hardlink through a symlink of a lower layer": (
        [[*USR, ("lib", "-> usr/lib")], [("x", "= lib/a")]],
        {**USR_SHOWN, "lib": "-> usr/lib", "x": 3},
        {"podman overlay": FAILS},
    ),
    "hardlink to a symlink": (
        [[("a", b"one"), ("l", "-> a"), ("x", "= l")]],
        {"a": 3, "l": "-> a", "x": "-> a"},
        {},
    ),
    "entry below a symlink of its own layer": (
        [[("real/", None), ("d", "-> real"), ("d/f", b"")]],
        {"d": "dir", "d/f": 0, "real": "dir"},
        {name: {"d": "-> real", "real": "dir", "real/f": 0} for name in ("umoci", "podman")},
    ),
    "files that aufs keeps for hardlinks": (
        [AUFS],
        {"x": 3, "y": 3},
        {
            "umoci": AUFS_SHOWN,
            "podman vfs": {"x": 3, "y": 3, ".wh..wh.plnk": "dir"},
            "podman overlay": AUFS_SHOWN,
        },
    ),
    "hardlink to a file that aufs did not keep": ([[("x", "= .wh..wh.plnk/1.2")]], FAILS, {}),
    "hardlink, then the other name replaced": ([[("a", b"one"), ("b", "= a")], [("a", b"2")]], {"a": 1, "b": 3}, {}),
    "duplicate entries": ([[("a", b"1"), ("a", b"22")]], {"a": 2}, {"podman": FAILS}),
    "whiteout that is a hardlink": ([DIR, [("d/.wh.x", "= d/y/z")]], {"d": "dir", "d/y": "dir", "d/y/z": 2}, {}),
}


def shown(top: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for where, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = Path(where, name)
            kind: Any = "dir"
            if path.is_symlink():
                kind = f"-> {os.readlink(path)}"
            elif path.is_file():
                kind = path.stat().st_size
            found[str(path.relative_to(top))] = kind
    return found


def ours(layers: list[list[tuple[Any, ...]]]) -> Any:
    try:
        tree = merge([layer_index(*layer) for layer in layers])
    except LaminaError:
        return FAILS
    found: dict[str, Any] = {}
    for node in tree.walk():
        if node:
            entry = tree.entry(node)
            kind: Any = entry.size
            if tree.is_directory(node):
                kind = "dir"
            elif entry.link:
                kind = f"-> {entry.link.decode()}"
            found[tree.path(node).decode()] = kind
    return found


@pytest.mark.parametrize("rule", RULES)
def test_lamina_does_what_the_table_says(rule: str) -> None:
    layers, expected, _ = RULES[rule]
    assert ours(layers) == expected


@pytest.mark.parametrize("rule", RULES)
def test_umoci(rule: str, tmp_path: Path) -> None:
    require_tool("umoci")
    require_root()
    layers, expected, others = RULES[rule]
    write_layout(tmp_path / "l", "x", layers)
    done = subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{tmp_path}/l:x", str(tmp_path / "out")],
        capture_output=True,
        check=False,
    )
    got = shown(tmp_path / "out") if done.returncode == 0 else FAILS
    assert got == others.get("umoci", expected), done.stderr


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("rule", RULES)
def test_podman(rule: str, driver: str, tmp_path: Path) -> None:
    layers, expected, others = RULES[rule]
    write_layout(tmp_path / "l", "x", layers)
    wanted = others.get(f"podman {driver}", others.get("podman", expected))
    with podman_command(driver) as podman:
        done = subprocess.run(
            [*podman, "pull", "-q", f"oci:{tmp_path}/l:x"], capture_output=True, check=False, text=True
        )
        if done.returncode != 0:
            assert wanted == FAILS, done.stderr
            return
        mounted = subprocess.run(
            [*podman, "image", "mount", done.stdout.split()[-1]], capture_output=True, check=True, text=True
        )
        assert shown(Path(mounted.stdout.strip())) == wanted


DOCKERS = {
    *(".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "proc", "sys"),
    *("etc", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"),
}
"""What docker makes in every container; no rule's layers have any of it."""


def exported(path: Path) -> dict[str, Any]:
    """As ``shown``, of docker's export."""
    found: dict[str, Any] = {}
    with tarfile.open(path, errors="surrogateescape") as tar:
        for member in tar:
            name = member.name.strip("/")
            kind: Any = member.size
            if member.isdir():
                kind = "dir"
            elif member.issym():
                kind = f"-> {member.linkname}"
            elif member.islnk():
                kind = found[member.linkname.strip("/")]
            if name not in DOCKERS:
                found[name] = kind
    return found


@pytest.mark.parametrize("rule", RULES)
def test_docker(docker: Docker, rule: str, tmp_path: Path) -> None:
    """By its driver overlay2, or vfs where that can't be: both do what podman's do."""
    layers, expected, others = RULES[rule]
    driver = "overlay" if docker.driver == "overlay2" else docker.driver
    write_layout(tmp_path / "l", "x", layers)
    wanted = others.get(f"podman {driver}", others.get("podman", expected))
    with RegistryServer(LayoutReader(str(tmp_path / "l"))) as server:
        done = docker("pull", f"{server.name}/x")
        if done.returncode != 0:
            assert wanted == FAILS, done.stderr
            return
        docker.export(f"{server.name}/x", tmp_path / "theirs.tar")
    assert exported(tmp_path / "theirs.tar") == wanted
