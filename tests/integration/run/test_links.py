"""Mounts at dangling symlinks of the image, with every runtime: targets are created inside its root, and only
there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from integration.run.test_crun import ONE_HIERARCHY
from integration.run.test_run import make_store, members, mounts_of
from support import lamina, require_root, require_tool

RUNTIMES = ("runc", "crun", "bwrap")


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def run(root: Path, runtime: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    require_tool(runtime)
    before = ONE_HIERARCHY if runtime == "crun" else ()
    command = [*before, sys.executable, "-m", "lamina", "--root", str(root), "run", "--network", "none"]
    return subprocess.run(
        [*command, "--runtime", runtime, *words], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("tmpfs", [False, True])
def test_network_files_exist_even_if_the_image_has_symlinks_into_run(
    tmp_path: Path, runtime: str, tmpfs: bool
) -> None:
    links = {"resolv.conf": "../run/systemd/resolve/stub.conf", "hostname": "/var/run/host/name", "hosts": "/tmp/x"}
    image = members(("run/", None), ("var/", None), ("var/run", "-> /run"))
    store = make_store(tmp_path, [[*image, *((f"etc/{name}", f"-> {target}") for name, target in links.items())]])
    words = ["--tmpfs", "/run"] if tmpfs else []
    script = "cat /etc/hostname; head -n 1 /etc/hosts; test -f /run/systemd/resolve/stub.conf && cat /run/host/name"
    done = run(store, runtime, "--name", "c", "--hostname", "box", *words, "app", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, b"box\n127.0.0.1\tlocalhost\nbox\n"), done.stderr
    assert lamina("diff", "c", root=store).stdout == b""
    assert lamina("rm", "c", root=store).returncode == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("above", ["/nowhere/yet", "../../../../../{}/made"])
def test_targets_through_dangling_links_are_made_inside(tmp_path: Path, runtime: str, above: str) -> None:
    machine, given = tmp_path / "machine", tmp_path / "given"
    machine.mkdir()
    given.mkdir()
    links = {name: f"{above.format(machine)}/{name}" for name in ("declared", "bound", "named", "memory", "work")}
    image = members(*((name, f"-> {target}") for name, target in links.items()))
    store = make_store(tmp_path, [image], Volumes={"/declared": {}}, WorkingDir="/work")
    words = ("--rm", "-v", f"{given}:/bound", "-v", "name:/named", "--tmpfs", "/memory")
    script = "for one in declared bound named memory; do touch /$one/file && readlink /$one; done; pwd -P; ls -A $1/*"
    inside = "/" + above.format(machine).replace("../", "").strip("/")
    done = run(store, runtime, *words, "app", "busybox", "sh", "-c", script, "sh", inside)
    said = done.stdout.decode().splitlines()
    assert done.returncode == 0, done.stderr
    assert said[:5] == [*(links[name] for name in ("declared", "bound", "named", "memory")), f"{inside}/work"]
    assert said.count("file") == 4
    assert os.listdir(given) == ["file"]
    assert list(machine.iterdir()) == []
    assert mounts_of(store) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_mount_target_in_a_symlink_loop_is_one_error_line(tmp_path: Path, runtime: str) -> None:
    store = make_store(tmp_path, [members(("data", "-> data"))], Volumes={"/data": {}})
    done = run(store, runtime, "--rm", "app", "true")
    assert done.returncode == 125
    assert b"nothing can be mounted at '/data': Too many levels of symbolic links" in done.stderr
