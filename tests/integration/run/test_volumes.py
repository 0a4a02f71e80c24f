"""Volumes and mounts of containers: by the command line, with real runtimes."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_crun import ONE_HIERARCHY
from integration.run.test_run import make_store, members, mounts_of, out, run, wait_for
from lamina.run.volumes.remove import discard
from lamina.store.fault import VOLUME_POINTS
from support import lamina, made_once, require_root, require_tool, running

KEPT = b"from the image\n"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    layers = [
        members(("data/", None, {"mode": 0o750, "uid": 5}), ("data/file", KEPT, {"uid": 7, "gid": 8})),
        [("data/sub/", None), ("data/sub/link", "-> /etc"), ("data/sub/tool", b"#!/bin/sh\n", {"mode": 0o4755})],
        [("opt/", None), ("opt/second", b"2\n")],
    ]
    make_store(top, layers, Volumes={"/anon": {}})


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    store = tmp_path / "store"
    yield store
    lamina("rm", "--all", "--force", root=store)
    assert mounts_of(store) == []


def ok(root: Path, *words: str, **more: Any) -> str:
    done = lamina(*words, root=root, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def names(root: Path, *words: str) -> list[str]:
    return ok(root, "volume", "ls", "-q", *words).split()


def inspected(root: Path, name: str) -> dict[str, Any]:
    (found,) = json.loads(ok(root, "volume", "inspect", name))
    return dict(found)


def made(root: Path, name: str, *words: str) -> None:
    """A container that has ended."""
    done = run(root, "--name", name, *words, "app", "true")
    assert done.returncode == 0, done.stderr


def events(root: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (root / "events").read_text().splitlines()]
    return [(one["action"], one["id"]) for one in lines if one["kind"] == "volume"]


def test_a_volume_from_its_creation_to_its_removal(root: Path) -> None:
    assert ok(root, "volume", "create", "--label", "a=b", "--label", "c", "data") == "data\n"
    assert ok(root, "volume", "create", "--label", "other=x", "data") == "data\n"  # nothing is changed
    found = inspected(root, "data")
    assert (found["Name"], found["Driver"], found["Scope"]) == ("data", "local", "local")
    assert (found["Labels"], found["Options"]) == ({"a": "b", "c": ""}, {})
    assert found["Mountpoint"] == str(root / "volumes/data")
    assert ok(root, "volume", "ls") == "DRIVER   VOLUME NAME\nlocal    data\n"
    assert ok(root, "volume", "ls", "--format", '{{.Name}} {{.Labels}} {{.Label "a"}}') == "data a=b,c= b\n"
    assert ok(root, "volume", "inspect", "-f", "{{.Mountpoint}}", "data") == f"{root}/volumes/data\n"
    assert lamina("volume", "exists", "data", root=root).returncode == 0
    assert ok(root, "volume", "rm", "data") == "data\n"
    assert lamina("volume", "exists", "data", root=root).returncode == 1
    assert os.listdir(root / "volumes") == []
    assert events(root) == [("create", "data"), ("destroy", "data")]


def test_names_that_do_not_exist(root: Path) -> None:
    ok(root, "volume", "create", "data")
    done = lamina("volume", "inspect", "none", "data", root=root)
    assert (done.returncode, [one["Name"] for one in json.loads(done.stdout)]) == (3, ["data"])
    assert done.stderr == b"lamina: no volume 'none' (see `lamina volume ls`)\n"
    done = lamina("volume", "rm", "none", "data", root=root)
    assert (done.returncode, done.stdout) == (3, b"data\n")
    assert ok(root, "volume", "rm", "--force", "none") == "none\n"


def test_a_volume_in_use_is_not_removed(root: Path) -> None:
    made(root, "c", "-v", "data:/data")
    done = lamina("volume", "rm", "--force", "data", root=root)
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"the volume data is in use by the container c" in done.stderr
    ok(root, "rm", "c")
    assert names(root, "-f", "dangling=true", "-f", "anonymous=false") == ["data"]
    assert ok(root, "volume", "rm", "data") == "data\n"


def test_an_anonymous_volume_stays_until_it_is_removed_with_its_container(root: Path) -> None:
    made(root, "kept", "-v", "/mine")
    (first, second) = names(root)
    assert all(len(name) == 64 and not set(name) - set("0123456789abcdef") for name in (first, second))
    assert inspected(root, first)["Labels"] is None
    ok(root, "rm", "kept")
    assert names(root) == [first, second]
    assert names(root, "-f", "dangling=1") == [first, second]
    made(root, "gone", "-v", "/mine", "-v", "named:/named")
    ok(root, "rm", "-v", "gone")
    assert sorted(names(root)) == sorted([first, second, "named"])
    out(root, "-v", "/mine", "app", "true")  # --rm
    assert sorted(names(root)) == sorted([first, second, "named"])
    ok(root, "volume", "create", "unused")
    said = ok(root, "volume", "prune", "--force")
    assert said.split("\n") == ["Deleted Volumes:", first, second, "", said.split("\n")[4], ""]
    assert said.split("\n")[4].startswith("Total reclaimed space: ")
    assert names(root) == ["named", "unused"]  # as docker 23 and later: names are kept without --all
    ok(root, "volume", "prune", "-af", "--filter", "label!=x")
    assert names(root) == []


def test_prune_asks_before_it_removes(root: Path) -> None:
    ok(root, "volume", "create")
    done = lamina("volume", "prune", root=root, input=b"n\n")
    assert (done.returncode, len(names(root))) == (1, 1)
    assert b"Total reclaimed space" in lamina("volume", "prune", root=root, input=b"y\n").stdout
    assert names(root) == []


def test_a_volume_starts_with_the_files_and_owners_of_the_image(root: Path) -> None:
    look = "stat -c '%a %u:%g %n' . file sub sub/tool; readlink sub/link"
    said = "750 5:0 .\n644 7:8 file\n755 0:0 sub\n4755 0:0 sub/tool\n/etc\n"
    ok(root, "volume", "create", "before")
    for name in ("new", "before"):
        assert out(root, "-w", "/data", "-v", f"{name}:/data", "app", "sh", "-c", look) == said
    # later the volume is left as it is, also if it is empty
    out(root, "-v", "new:/data", "app", "sh", "-c", "rm -r /data/*")
    assert out(root, "-v", "new:/data", "app", "ls", "/data") == ""
    assert out(root, "-v", "bare:/data:nocopy", "app", "ls", "/data") == ""
    assert out(root, "--mount", "type=volume,src=bare2,dst=/data,volume-nocopy", "app", "ls", "/data") == ""


def test_a_volume_starts_with_the_extended_attributes_of_the_image(root: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    made(root, "c")
    (upper,) = [*root.glob("containers/*/upper"), *root.glob("containers/*/memory/upper")]
    (upper / "x").mkdir()
    (upper / "x/tool").write_text("")
    os.setxattr(upper / "x/tool", "security.capability", capability)
    os.setxattr(upper / "x", "user.note", b"\0\xff")
    ok(root, "commit", "c", "noted")
    out(root, "-v", "v:/x", "noted", "true")
    assert os.getxattr(root / "volumes/v/tool", "security.capability") == capability
    assert os.getxattr(root / "volumes/v", "user.note") == b"\0\xff"


def test_labels_of_a_volume_of_mount(root: Path) -> None:
    made(root, "c", "--mount", "type=volume,src=v,dst=/v,volume-label=a=b,volume-label=c=d")
    assert inspected(root, "v")["Labels"] == {"a": "b", "c": "d"}


def test_labels_of_a_volume_that_are_too_long_are_refused(root: Path) -> None:
    long = [word for number in range(16) for word in ("--label", f"{number}=" + "\x01" * 100_000)]  # six digits each
    refused = lamina("volume", "create", *long, "data", root=root)
    assert (refused.returncode, b"too long" in refused.stderr) == (2, True)
    assert os.listdir(root / "volumes") == []


def test_filters_of_volumes(root: Path) -> None:
    for name, label in (("one", "a=1"), ("two", "a=2"), ("three", "b=1")):
        ok(root, "volume", "create", "--label", label, name)
    made(root, "c", "-v", "one:/one", "-v", "/x")
    for words, expected in (
        (("label=a",), ["one", "two"]),
        (("label=a=2",), ["two"]),
        (("label=a", "label=b"), []),
        (("name=^t",), ["three", "two"]),
        (("name=one", "name=two"), ["one", "two"]),
        (("dangling=true",), ["three", "two"]),
        (("anonymous=false",), ["one", "three", "two"]),
        (("driver=local", "name=o$"), ["two"]),
        (("driver=nfs",), []),
        (("until=1h",), []),
    ):
        assert names(root, *(f"--filter={word}" for word in words)) == expected, words
    for wrong in ("x=y", "dangling=maybe", "name=(", "until=soon"):
        done = lamina("volume", "ls", "--filter", wrong, root=root)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr


def test_volumes_from_another_container(root: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    words = ("-v", "named:/named", "-v", f"{tmp_path}/shared:/shared", "-v", "/mine", "--tmpfs", "/memory")
    done = run(root, "--name", "first", *words, "app", "sh", "-c", "echo x | tee /named/x /shared/x /mine/x /anon/x")
    assert done.returncode == 0, done.stderr
    look = "cat /named/x /shared/x /mine/x /anon/x | wc -l; ls -d /memory 2>/dev/null; touch /named/y && echo written"
    assert out(root, "--volumes-from", "first", "app", "sh", "-c", look) == "4\nwritten\n"
    assert run(root, "--rm", "--volumes-from", "first:ro", "app", "touch", "/named/z").returncode == 1
    # what is asked for here comes first; and containers that have taken volumes pass them on
    made(root, "second", "--volumes-from", "first:ro", "-v", "other:/mine")
    assert out(
        root, "--volumes-from", "second", "app", "sh", "-c", "ls /mine /named; touch /shared/z || echo no"
    ) == ("/mine:\n\n/named:\nx\ny\nno\n")
    # an anonymous volume goes with its last container
    anonymous = set(names(root)) - {"named", "other"}
    ok(root, "rm", "-v", "first")
    assert anonymous - {*names(root)} == {name for name in anonymous if not (root / "volumes" / name).exists()}
    assert len(anonymous & {*names(root)}) == 1  # /anon, which the second has
    ok(root, "rm", "-v", "second")
    assert names(root) == ["named", "other"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--volumes-from", "nobody"), "no container 'nobody'"),
        (("--volumes-from", "x:zz"), "unknown mode"),
        (("-v", "a:/x", "-v", "b:/x/"), "two mounts have the same target"),
        (("-v", "a:/x", "--mount", "type=bind,src=/tmp,dst=/x"), "two mounts have the same target"),
        (("--mount", "type=image,src=none,dst=/x"), "pull it first"),
        (("--mount", "type=volume,src=v,dst=/x,volume-opt=foo=1"), "unknown option of a volume"),
        (("--mount", "type=volume,src=v,dst=/x,volume-subpath=no/such"), "'no/such'"),
        (("--mount", "type=volume,src=v,dst=/x,volume-subpath=../.."), "not a path inside"),
        (("-v", "/etc:/x:U"), "option U would give /etc"),
        (("-v", "v:/x:O"), "temporary writable layer"),
        (("--tmpfs", "/x:foo=1"), "unknown option 'foo=1'"),
    ],
)
def test_what_is_refused_leaves_nothing(root: Path, words: tuple[str, ...], said: str) -> None:
    done = run(root, "--rm", *words, "app", "true")
    told = [line for line in done.stderr.decode().splitlines() if not line.startswith("lamina: warning: ")]
    assert (done.returncode, len(told), said in told[0]) == (125, 1, True), done.stderr
    assert lamina("ps", "-aq", root=root).stdout == b""
    assert {*names(root)} <= {"v"}
    assert mounts_of(root) == []


def test_a_missing_source_is_made_for_volume_but_not_for_mount(root: Path, tmp_path: Path) -> None:
    assert out(root, "-v", f"{tmp_path}/new/deep:/x", "app", "touch", "/x/y") == ""
    assert os.listdir(tmp_path / "new/deep") == ["y"]
    done = run(root, "--rm", "--mount", f"type=bind,src={tmp_path}/other,dst=/x", "app", "true")
    assert (done.returncode, (tmp_path / "other").exists()) == (125, False)
    assert out(root, "--mount", f"type=bind,src={tmp_path}/other,dst=/x,bind-create-src", "app", "ls", "/x") == ""


@pytest.mark.parametrize("runtime", ["runc", "crun", "bwrap"])
def test_an_image_is_mounted_into_a_container(root: Path, tmp_path: Path, runtime: str) -> None:
    require_tool(runtime)
    make_store(tmp_path / "other", [members(("tool", b"of the tool\n", {"uid": 3}))])
    ok(root, "copy", f"oci:{tmp_path}/other/layout:app", "tool")
    script = "cat /tool/tool; stat -c %u /tool/tool; touch /tool/x 2>/dev/null || echo refused; cat /one; ls /sub"
    words = ("--mount", "type=image,src=tool,dst=/tool", "--mount", "type=image,src=app,subpath=data/file,dst=/one")
    words += ("--mount", "type=image,src=app,dst=/sub,image-subpath=opt", "app", "sh", "-c", script)
    before = ONE_HIERARCHY if runtime == "crun" else ()
    command = [*before, *lamina_command(root), "run", "--rm", "--network", "none", "--runtime", runtime, *words]
    done = subprocess.run(command, capture_output=True, check=False)
    said = b"of the tool\n3\nrefused\nfrom the image\nsecond\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert mounts_of(root) == []


def test_a_writable_image_is_thrown_away(root: Path) -> None:
    words = (
        "--mount",
        "type=image,src=app,dst=/i,rw=true",
        "app",
        "sh",
        "-c",
        "ls /i/opt; echo x >/i/opt/x; ls /i/opt",
    )
    for _ in range(2):
        assert out(root, *words) == "second\nsecond\nx\n"


def test_an_image_with_the_ids_of_the_container(root: Path) -> None:
    words = ("--userns", "auto", "--mount", "type=image,src=app,dst=/i", "app", "stat", "-c", "%u:%g", "/i/data/file")
    assert out(root, *words) == "7:8\n"
    assert out(root, "--userns", "auto", "-v", "v:/data", "app", "stat", "-c", "%u:%g", "/data/file") == "7:8\n"


def test_a_mounted_image_is_kept_from_prune_and_rmi(root: Path, tmp_path: Path) -> None:
    make_store(tmp_path / "other", [members(("tool", b"of the tool\n"))])
    ok(root, "copy", f"oci:{tmp_path}/other/layout:app", "tool")
    made(root, "c", "--mount", "type=image,src=tool,dst=/tool")
    lamina("rmi", "--force", "tool", root=root)
    ok(root, "prune", "--force")
    assert "intact" in ok(root, "fsck")
    assert out(root, "--volumes-from", "c", "app", "cat", "/tool/tool") == "of the tool\n"
    ok(root, "rm", "c")
    before = sum(1 for _ in (root / "blobs/sha256").iterdir())
    ok(root, "prune", "--force")
    assert sum(1 for _ in (root / "blobs/sha256").iterdir()) < before


def test_a_killed_run_leaves_no_mount_of_an_image(root: Path) -> None:
    with running(
        "run", "--name", "c", "--network", "none", "--mount", "type=image,src=app,dst=/i,rw=true", "--mount",
        "type=volume,src=v,dst=/v,volume-subpath=.", "app", "sh", "-c", "echo up; exec sleep 600", root=root,
    ) as process:  # fmt: skip
        wait_for(process, b"up\n")
        process.kill()
        process.wait(30)
    ok(root, "stop", "-t", "0", "c")
    assert not [line for line in mounts_of(root) if "/memory " not in line]


def test_the_subpath_of_a_volume(root: Path) -> None:
    out(root, "-v", "v:/data", "app", "true")
    words = ("--mount", "type=volume,src=v,dst=/x,volume-subpath=sub")
    assert out(root, *words, "app", "sh", "-c", "ls /x; touch /x/new") == "link\ntool\n"
    assert (root / "volumes/v/sub/new").exists()
    # a symlink in the volume leads nowhere else
    done = run(root, "--rm", "--mount", "type=volume,src=v,dst=/x,volume-subpath=sub/link", "app", "true")
    assert (done.returncode, b"sub/link" in done.stderr) == (125, True), done.stderr


def test_options_of_a_bind(root: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/tool").write_text("#!/bin/sh\necho runs\n")
    (tmp_path / "d/tool").chmod(0o755)
    assert out(root, "-v", f"{tmp_path}/d:/d", "app", "/d/tool") == "runs\n"
    assert run(root, "--rm", "-v", f"{tmp_path}/d:/d:noexec", "app", "/d/tool").returncode == 126
    mounted = out(root, "-v", f"{tmp_path}/d:/d:nosuid,nodev,Z", "app", "grep", " /d ", "/proc/mounts")
    assert {"nosuid", "nodev"} <= set(mounted.split()[3].split(","))


def test_option_u_gives_the_files_to_the_user_and_follows_no_link(root: Path, tmp_path: Path) -> None:
    top = tmp_path / "d"
    (top / "sub").mkdir(parents=True)
    (top / "sub/file").write_text("")
    (top / "sub/tool").write_text("")
    (top / "sub/tool").chmod(0o4755)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("")
    (top / "link").symlink_to(outside)
    (top / "deep").symlink_to(outside / "file")
    made(root, "c", "-u", "11:12", "-v", f"{top}:/d:U")
    for path in (top, top / "sub", top / "sub/file", top / "link"):
        state = path.lstat()
        assert (state.st_uid, state.st_gid) == (11, 12), path
    assert stat.S_IMODE((top / "sub/tool").stat().st_mode) == 0o755  # else it would run as the container's user
    assert (outside.stat().st_uid, (outside / "file").stat().st_uid) == (0, 0)
    assert out(
        root, "-u", "13", "--mount", "type=volume,src=v,dst=/data,U=true", "app", "stat", "-c", "%u", "/data"
    ) == ("13\n")


def test_volumes_of_the_local_driver(root: Path, tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device/here").write_text("")
    bind = ("--opt", "type=none", "--opt", "o=bind,ro", "--opt", f"device={tmp_path}/device")
    ok(root, "volume", "create", *bind, "bound")
    assert inspected(root, "bound")["Options"] == {"type": "none", "o": "bind,ro", "device": f"{tmp_path}/device"}
    assert out(root, "-v", "bound:/b", "app", "sh", "-c", "ls /b; touch /b/x 2>/dev/null || echo refused") == (
        "here\nrefused\n"
    )
    ok(root, "volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=9", "memory")
    words = ("-v", "memory:/m", "app", "sh", "-c")
    with running("run", "--name", "a", "--network", "none", "-i", *words, "echo up >/m/x; echo up; read x", root=root,
                 stdin=subprocess.PIPE) as process:  # fmt: skip
        wait_for(process, b"up\n")
        assert (
            out(root, *words, "cat /m/x; stat -c %u /m; grep -c ' /m tmpfs .*size=1024k' /proc/mounts")
            == "up\n9\n1\n"
        )
        assert len([line for line in mounts_of(root) if "volumes/memory" in line]) == 1
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1  # of read
    assert not any("volumes/memory" in line for line in mounts_of(root))  # nobody has it: it is unmounted
    ok(root, "rm", "a")
    assert ok(root, "volume", "rm", "memory", "bound").split() == ["memory", "bound"]
    assert (tmp_path / "device/here").exists()
    for wrong in (("foo=1",), ("type=tmpfs",), ("device=/x",), ("type=none", "device=x", "o=bind"), ("size=1m",)):
        done = lamina("volume", "create", *(f"--opt={word}" for word in wrong), "wrong", root=root)
        assert (done.returncode in (2, 7), done.stderr.count(b"\n")) == (True, 1), done.stderr
    assert names(root, "-f", "anonymous=false") == []


def test_mounts_as_docker_lists_them(root: Path, tmp_path: Path) -> None:
    from lamina.run.volumes.points import mounts_of as listed
    from lamina.store.store import Store

    (tmp_path / "d").mkdir()
    words = ("-v", "v2:/data", "-v", "/mine", "-v", f"{tmp_path}/d:/b:ro", "-v", "v4:/n:nocopy")
    made(root, "c", *words, "--mount", "type=volume,src=v3,dst=/m", "--mount", "type=tmpfs,dst=/t")
    store = Store.open(str(root))
    found = {one["Destination"]: one for one in listed(store, store.containers.get("c"))}

    def volume(name: str, target: str, mode: str) -> dict[str, Any]:
        place = str(root / "volumes" / name)
        return {"Type": "volume", "Name": name, "Source": place, "Destination": target, "Driver": "local",
                "Mode": mode, "RW": True, "Propagation": ""}  # fmt: skip

    assert found == {
        "/data": volume("v2", "/data", "z"),
        "/m": volume("v3", "/m", "z"),
        "/n": volume("v4", "/n", "nocopy"),
        "/mine": volume(found["/mine"]["Name"], "/mine", ""),
        "/anon": volume(found["/anon"]["Name"], "/anon", ""),
        "/b": {"Type": "bind", "Source": f"{tmp_path}/d", "Destination": "/b", "Mode": "ro", "RW": False,
               "Propagation": "rprivate"},
        "/t": {"Type": "tmpfs", "Source": "", "Destination": "/t", "Mode": "", "RW": True, "Propagation": ""},
    }  # fmt: skip


def test_the_content_of_volumes_and_images_is_in_no_commit_and_no_export(root: Path) -> None:
    words = ("-v", "v:/vol", "--mount", "type=image,src=app,dst=/img,rw=true", "app", "sh", "-c")
    assert run(root, "--name", "c", *words, "echo x >/vol/x; echo x >/img/x; echo x >/own").returncode == 0
    assert ok(root, "diff", "c") == "A /own\n"
    ok(root, "commit", "c", "new")
    assert "own" in ok(root, "ls", "new", "/").split()
    assert out(root, "new", "sh", "-c", "ls /vol /img 2>/dev/null; cat /own") == "x\n"
    exported = subprocess.run(
        ["tar", "-t"], input=lamina("export", "c", root=root).stdout, capture_output=True, check=True
    )
    assert not [line for line in exported.stdout.decode().split() if line.startswith(("vol/x", "img/"))]


@pytest.mark.parametrize("point", VOLUME_POINTS)
def test_a_killed_removal_is_finished_by_the_next_command(root: Path, point: str) -> None:
    out(root, "-v", "v:/data", "app", "true")
    assert lamina("volume", "rm", "v", root=root, LAMINA_FAULT=point).returncode == -signal.SIGKILL
    assert names(root) == []
    ok(root, "prune")
    assert os.listdir(root / "volumes") == []
    assert ok(root, "volume", "create", "v") == "v\n"
    assert inspected(root, "v")["Labels"] == {}


@pytest.mark.parametrize("point", ["volume.directory-made", "volume.record-ready", "volume.record-written"])
def test_a_killed_creation_leaves_no_volume(root: Path, point: str) -> None:
    words = ("volume", "create", "--label", "a=b", "v")
    assert lamina(*words, root=root, LAMINA_FAULT=point).returncode == -signal.SIGKILL
    assert names(root) == []
    assert ok(root, "volume", "create", "v") == "v\n"
    assert inspected(root, "v")["Labels"] == {}
    ok(root, "prune")
    assert sorted(os.listdir(root / "volumes")) == [".v.json", "v"]
    assert "intact" in ok(root, "fsck")


def test_a_volume_called_like_a_temporary_file_is_kept(root: Path) -> None:
    out(root, "-v", "data.tmp:/data", "app", "true")
    ok(root, "prune")
    out(root, "app", "true")
    assert (root / "volumes/data.tmp/file").read_bytes() == KEPT


def test_a_damaged_record_of_a_volume(root: Path) -> None:
    ok(root, "volume", "create", "--label", "a=b", "v")
    record = root / "volumes/.v.json"
    for content in ("", "[]", "{", '{"name": "other", "created": 1}', '{"name": "v", "created": "x"}'):
        record.write_text(content)
        done = run(root, "--rm", "-v", "v:/v", "app", "true")
        assert (done.returncode, b"the record of the volume v is damaged" in done.stderr) == (125, True), done.stderr
        assert names(root) == ["v"]
        assert inspected(root, "v")["Labels"] == {}
        assert b"the record of the volume v is damaged" in lamina("fsck", root=root).stdout
    record.unlink()  # as in a store of an older lamina
    assert out(root, "-v", "v:/data", "app", "ls", "/data") == ""
    assert ok(root, "volume", "rm", "v") == "v\n"


def test_a_link_in_the_place_of_a_volume_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (root / "volumes/v").symlink_to(tmp_path / "there")
    done = run(root, "--rm", "-v", "v:/v", "app", "touch", "/v/x")
    assert (done.returncode, b"is not a directory any more" in done.stderr) == (125, True), done.stderr
    assert os.listdir(tmp_path / "there") == []
    ok(root, "volume", "rm", "v")
    assert (tmp_path / "there").is_dir()


def test_an_older_containers_volumes_still_work(root: Path) -> None:
    """Its record states no mounts, and its anonymous volumes are in its directory."""
    made(root, "c", "-v", "named:/named", "-v", "/mine")
    ok(root, "rm", "-v", "--force", "nobody")
    (record,) = root.glob("containers/*/container.json")
    value = json.loads(record.read_text())
    del value["mounts"]
    value["wanted"]["mounts"] = [
        {"kind": one["kind"], "source": one["source"], "target": one["target"], "options": one["options"]}
        for one in value["wanted"]["mounts"]
    ]
    record.write_text(json.dumps(value))
    (record.parent / "volumes/1").mkdir(parents=True)
    (record.parent / "volumes/1/old").write_text("")
    code = """
import sys
from lamina.run.container.life import run
from lamina.run.container.record import stack_of
from lamina.store.store import Store
store = Store.open(sys.argv[1])
one = store.containers.get("c")
sys.exit(run(store, stack_of(store, one), one).code)
"""
    value["command"] = ["sh", "-c", "ls /mine; ls -d /anon /named"]
    record.write_text(json.dumps(value))
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"old\n/anon\n/named\n"), done.stderr
    assert lamina("volume", "rm", "named", root=root).returncode == 5


def test_two_creators_make_one_volume(root: Path) -> None:
    command = ["volume", "create", "--label"]
    started = [running(*command, f"who={number}", "v", root=root) for number in range(4)]
    for one in started:
        with one as process:
            assert process.wait(60) == 0
    assert inspected(root, "v")["Labels"]["who"] in set("0123")
    assert sorted(os.listdir(root / "volumes")) == [".v.json", "v"]


def test_labels_that_are_not_text(root: Path) -> None:
    done = subprocess.run(
        [*lamina_command(root), "volume", "create", "--label", b"a=\xff\n\x1b", "v"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert inspected(root, "v")["Labels"] == {"a": "\udcff\n\x1b"}
    assert "\x1b" not in ok(root, "volume", "ls", "--format", "{{.Labels}}")


def lamina_command(root: Path) -> list[str]:
    return [sys.executable, "-m", "lamina", "--root", str(root)]


def test_a_full_disk_leaves_no_volume(root: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=2", "none", root / "volumes"], check=True)
    try:
        done = run(root, "--rm", "-v", "v:/data", "app", "true")
        assert (done.returncode, b"the disk is full" in done.stderr) == (125, True), done.stderr
        assert names(root) == []
        assert os.listdir(root / "volumes") == []
    finally:
        subprocess.run(["umount", root / "volumes"], check=True)
    assert lamina("ps", "-aq", root=root).stdout == b""


def test_two_processes_remove_one_volume(tmp_path: Path) -> None:
    """Commands clear up what others have set aside, so a removal has company at any time."""
    for turn in range(5):
        top = tmp_path / f"aside-{turn}"
        for number in range(200):
            (top / f"d{number}").mkdir(parents=True)
            (top / f"d{number}" / "file").touch()
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(discard, [str(top)] * 4)) == [None] * 4
        assert not top.exists()
