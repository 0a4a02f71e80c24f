"""Volumes and mounts of containers of plain users: with further ids, and with one id alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_plain_user import ALONE
from integration.run.test_run import members
from support import PLAIN_USER, PlainUser, plain_user, require_root, require_tool, write_layout

RUNTIMES = ("runc", "bwrap")
User = tuple[str, Path, PlainUser]


@pytest.fixture(params=[PLAIN_USER, ALONE])
def user(request: Any) -> Iterator[User]:
    require_root()
    require_tool("runc", "bwrap", "busybox", "newuidmap")
    with plain_user(request.param) as (top, call):
        first = members(("data/", None, {"uid": 5, "mode": 0o755}), ("data/file", b"x\n", {"uid": 7, "gid": 8}))
        layers = [first, [("opt/", None), ("opt/second", b"2\n")]]
        write_layout(top / "layout", "app", layers, config={"config": {"Volumes": {"/anon": {}}}})
        assert call("load", "-i", str(top / "layout")).returncode == 0
        yield request.param, top, call
        call("rm", "--all", "--force")


def out(call: PlainUser, *words: str) -> str:
    done = call("run", "--rm", "--network", "none", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_volumes_and_images(user: User, runtime: str) -> None:
    _, top, call = user
    script = (
        "cat /data/file /i/opt/second; touch /i/x 2>/dev/null || echo refused; touch /b/new /data/new && echo made"
    )
    (top / "b").mkdir(mode=0o777)
    (top / "b").chmod(0o777)
    words = ("-v", "v:/data", "--mount", "type=image,src=app,dst=/i", "-v", f"{top}/b:/b")
    assert out(call, "--runtime", runtime, *words, "app", "sh", "-c", script) == "x\n2\nrefused\nmade\n"
    assert (top / "store/volumes/v/new").exists()
    assert out(call, "--runtime", runtime, "-v", "v:/v", "app", "ls", "/v") == "file\nnew\n"
    assert call("volume", "ls", "-q").stdout == b"v\n"  # /anon went with its containers
    assert call("volume", "rm", "v").returncode == 0
    assert os.listdir(top / "store/volumes") == []


def test_subpaths_and_volumes_from(user: User) -> None:
    _, _, call = user
    done = call("run", "--network", "none", "--name", "c", "-v", "v:/data", "app", "mkdir", "/data/sub")
    assert done.returncode == 0, done.stderr
    words = ("--mount", "type=volume,src=v,dst=/x,volume-subpath=sub", "--volumes-from", "c:ro")
    script = "touch /x/y; ls /data/sub; touch /data/z 2>/dev/null || echo refused"
    assert out(call, *words, "app", "sh", "-c", script) == "y\nrefused\n"
    words = ("--mount", "type=image,src=app,dst=/x,image-subpath=data/file")
    assert out(call, *words, "app", "cat", "/x") == "x\n"


def test_a_tmpfs_volume_is_each_containers_own(user: User) -> None:
    _, _, call = user
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m")
    assert call("volume", "create", *options, "memory").returncode == 0
    for _ in range(2):
        assert out(
            call, "-v", "memory:/m", "app", "sh", "-c", "ls /m; touch /m/x; grep -c ' /m tmpfs' /proc/mounts"
        ) == ("1\n")
    assert call("volume", "create", "--opt", "type=ext4", "--opt", "device=/dev/loop0", "disk").returncode == 0
    done = call("run", "--rm", "--network", "none", "-v", "disk:/d", "app", "true")
    assert (done.returncode, b"only root may mount a file system of type 'ext4'" in done.stderr) == (125, True)


def test_option_u(user: User) -> None:
    name, top, call = user
    (top / "d").mkdir()
    (top / "d/file").write_text("")
    for path in (top / "d", top / "d/file"):
        os.chown(path, (state := top.stat()).st_uid, state.st_gid)
    done = call(
        "run", "--rm", "--network", "none", "-u", "7:8", "-v", f"{top}/d:/d:U", "app", "stat", "-c", "%u", "/d"
    )
    if name == ALONE:  # it has no other id to give the files to
        assert (done.returncode, done.stderr.count(b"\n"), b"7:8" in done.stderr) == (125, 1, True), done.stderr
        assert (top / "d/file").stat().st_uid == top.stat().st_uid
    else:
        assert (done.returncode, done.stdout) == (0, b"7\n"), done.stderr
        assert (top / "d/file").stat().st_uid > 65536


def test_keep_id_maps_images_and_volumes(user: User) -> None:
    name, _, call = user
    words = ("--userns", "keep-id", "--mount", "type=image,src=app,dst=/i", "-v", "v:/data")
    done = call(
        "run", "--rm", "--network", "none", *words, "app", "stat", "-c", "%u:%g", "/i/data/file", "/data/file"
    )
    if name == ALONE:
        assert done.returncode == 125
    else:
        assert (done.returncode, done.stdout) == (0, b"7:8\n7:8\n"), done.stderr
        assert call("volume", "rm", "v").returncode == 0


def test_a_container_in_the_background_keeps_its_mounts(user: User) -> None:
    _, top, call = user
    words = ("-d", "--name", "c", "--network", "none", "-v", "v:/data", "--mount", "type=image,src=app,dst=/i")
    done = call("run", *words, "app", "sleep", "600")
    assert done.returncode == 0, done.stderr
    done = call("exec", "c", "sh", "-c", "cat /i/opt/second; touch /data/here")
    assert (done.returncode, done.stdout) == (0, b"2\n"), done.stderr
    assert call("volume", "rm", "v").returncode == 5
    (found,) = json.loads(call("inspect", "c").stdout)
    assert {one["Destination"]: one["Type"] for one in found["Mounts"]} == {
        "/data": "volume", "/i": "image", "/anon": "volume",
    }  # fmt: skip
    done = call("rm", "-f", "-v", "c")
    assert done.returncode == 0, done.stderr
    assert call("volume", "ls", "-q").stdout == b"v\n"
    assert (top / "store/volumes/v/here").exists()
