"""Other engines read what lamina writes, lamina reads what they write, digests stay."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support import lamina, podman_command, require_root, require_tool, write_layout

pytestmark = pytest.mark.peer
LAYERS = [[("bin/", None), ("etc/conf", b"one\n")], [("etc/conf", b"two\n"), ("srv/x", b"x")]]


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "app", LAYERS)
    assert lamina("load", "-i", str(tmp_path / "layout"), root=tmp_path / "store").returncode == 0
    return tmp_path / "store"


def digest(root: Path, name: str = "app") -> str:
    return lamina("images", name, "--digests", "--format", "{{.Digest}}", root=root).stdout.decode().strip()


def image_id(root: Path, name: str = "app") -> str:
    return lamina("images", name, "--no-trunc", "-q", root=root).stdout.decode().strip()


def test_skopeo_reads_the_store_itself(root: Path) -> None:
    require_tool("skopeo")
    told = json.loads(run("skopeo", "inspect", f"oci:{root}:docker.io/library/app:latest"))
    assert told["Digest"] == digest(root)


def test_skopeo_copies_layouts_and_archives_both_ways(root: Path, tmp_path: Path) -> None:
    require_tool("skopeo")
    assert lamina("copy", "app", f"oci:{tmp_path}/mine:v1", root=root).returncode == 0
    run("skopeo", "copy", "--insecure-policy", f"oci:{tmp_path}/mine:v1", f"oci-archive:{tmp_path}/theirs.tar:v2")
    assert lamina("copy", f"oci-archive:{tmp_path}/theirs.tar:v2", "back", root=root).returncode == 0
    assert digest(root, "back") == digest(root)
    assert lamina("save", "--type", "oci-archive", "-o", str(tmp_path / "a.tar"), "app", root=root).returncode == 0
    run("skopeo", "copy", "--insecure-policy", f"oci-archive:{tmp_path}/a.tar", f"oci:{tmp_path}/again:x")
    assert lamina("copy", f"oci:{tmp_path}/again:x", "again", root=root).returncode == 0
    assert digest(root, "again") == digest(root)


def test_docker_archives_both_ways_keep_the_image_id(root: Path, tmp_path: Path) -> None:
    require_tool("skopeo")
    assert lamina("save", "-o", str(tmp_path / "d.tar"), "app", root=root).returncode == 0
    told = json.loads(run("skopeo", "inspect", "--config", "--raw", f"docker-archive:{tmp_path}/d.tar"))
    assert told["rootfs"] == json.loads(lamina("inspect", "--config", "app", root=root).stdout)["rootfs"]
    run(
        "skopeo",
        "copy",
        "--insecure-policy",
        f"docker-archive:{tmp_path}/d.tar",
        f"docker-archive:{tmp_path}/s.tar:host.example/y:3",
    )
    done = lamina("load", "-i", str(tmp_path / "s.tar"), root=tmp_path / "other")
    assert done.stdout == b"loaded host.example/y:3\n"
    assert image_id(tmp_path / "other", "host.example/y:3") == image_id(root)


def test_podman_loads_runs_of_layers_and_saves_them_back(root: Path, tmp_path: Path) -> None:
    assert lamina("save", "-o", str(tmp_path / "d.tar"), "app", root=root).returncode == 0
    with podman_command() as podman:
        assert "app:latest" in run(*podman, "load", "-i", tmp_path / "d.tar")
        mounted = Path(run(*podman, "image", "mount", "app").strip())
        assert (mounted / "etc/conf").read_text() == "two\n"
        run(*podman, "image", "umount", "app")
        for kind in ("docker-archive", "oci-archive"):
            run(*podman, "save", "--format", kind, "-o", tmp_path / f"{kind}.tar", "app")
            done = lamina("load", "-i", str(tmp_path / f"{kind}.tar"), root=tmp_path / kind)
            assert done.returncode == 0, done.stderr
            name = done.stdout.decode().split()[1]
            assert name.endswith("app:latest")
            assert lamina("cat", name, "/etc/conf", root=tmp_path / kind).stdout == b"two\n"
            told = [
                json.loads(lamina("inspect", "--config", n, root=r).stdout)
                for n, r in ((name, tmp_path / kind), ("app", root))
            ]
            assert told[0]["rootfs"] == told[1]["rootfs"]


def test_umoci_unpacks_alike_and_lamina_reads_what_it_packs(root: Path, tmp_path: Path) -> None:
    require_tool("umoci")
    require_root()
    assert lamina("copy", "app", f"oci:{tmp_path}/l:v1", root=root).returncode == 0
    run("umoci", "unpack", "--image", f"{tmp_path}/l:v1", tmp_path / "bundle")
    assert lamina("unpack", "app", str(tmp_path / "mine"), root=root).returncode == 0
    listing = ("find", ".", "-printf", "%p %y %m %U %G %s %T@ %l\\n")
    trees = [
        sorted(subprocess.run(listing, cwd=where, capture_output=True, check=True).stdout.splitlines())
        for where in (tmp_path / "mine", tmp_path / "bundle/rootfs")
    ]
    changed = [
        line for line in trees[0] if line not in trees[1] and line.split()[0] not in (b".", b"./etc", b"./srv")
    ]
    assert changed == []  # directories that no layer states: umoci gives them the time of unpacking
    (tmp_path / "bundle/rootfs/etc/conf").unlink()
    (tmp_path / "bundle/rootfs/new").write_text("n")
    run("umoci", "repack", "--image", f"{tmp_path}/l:v2", tmp_path / "bundle")
    assert lamina("copy", f"oci:{tmp_path}/l:v2", "v2", root=root).returncode == 0
    assert lamina("ls", "-R", "v2", root=root).stdout.split() == [b"bin", b"etc", b"new", b"srv", b"srv/x"]
    told = json.loads(lamina("blame", "v2", "/etc/conf", "--format", "json", root=root).stdout)
    assert (told[0]["hidden"], told[0]["states"][0]["ended"]["layer"]) == (True, 3)
