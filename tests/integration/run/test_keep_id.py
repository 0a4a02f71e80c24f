"""`run --userns keep-id` of a plain user: the caller has the same ID inside, all other IDs are the image's."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_run import members
from support import PLAIN_USER, PlainUser, lamina, plain_user, require_root, require_tool, write_layout

TOP = [
    ("data/", None, {"uid": 33, "gid": 44, "mode": 0o750}),
    ("data/secret", b"only web's", {"uid": 33, "gid": 44, "mode": 0o600}),
    ("tool", b"#!/bin/sh\n", {"mode": 0o4755}),
    ("far", b"", {"uid": 4_000_000}),
]
KEEP = ("run", "--network", "none", "--userns", "keep-id")


@pytest.fixture
def user() -> Iterator[tuple[Path, PlainUser]]:
    require_root()
    require_tool("runc", "busybox", "newuidmap")
    with plain_user(PLAIN_USER) as (top, call):
        write_layout(top / "layout", "app", [members(), TOP])
        write_layout(top / "web", "web", [members(), TOP], config={"config": {"User": "web"}})
        for name in ("layout", "web"):
            assert call("load", "-i", str(top / name)).returncode == 0
        yield top, call
        call("rm", "--all", "--force")


def own_ids() -> tuple[int, int]:
    entry = pwd.getpwnam(PLAIN_USER)
    return entry.pw_uid, entry.pw_gid


def test_the_caller_keeps_its_id_and_root_owns_the_image(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    (top / "mine").mkdir()
    os.chown(top / "mine", *own_ids())
    uid, gid = own_ids()
    script = (
        "id -u; id -g; touch /shared/made; touch /no 2>/dev/null || echo refused; cat /data/secret 2>/dev/null || "
        "echo hidden; stat -c %u:%g:%a /etc/passwd /tool /data /far /shared / /etc/hosts; "
        "cat /proc/self/uid_map; id; grep Cap /proc/self/status"
    )
    done = call(*KEEP, "--rm", "-v", f"{top}/mine:/shared", "app", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[:4] == [str(uid), str(gid), "refused", "hidden"]
    assert lines[4:11] == [
        "0:0:644",
        "0:0:4755",
        "33:44:750",
        "0:0:644",  # an ID that the namespace lacks belongs to its root
        f"{uid}:{gid}:755",
        "0:0:755",
        "0:0:644",
    ]
    assert [line.split() for line in lines[11:14]] == [
        ["0", "1", str(uid)],
        [str(uid), "0", "1"],
        [str(uid + 1), str(uid + 1), str(65536 - uid)],
    ]
    assert lines[14] == f"uid={uid}({PLAIN_USER}) gid={gid}({PLAIN_USER}) groups={gid}({PLAIN_USER})"
    assert "CapEff:\t0000000000000000" in lines
    state = (top / "mine/made").stat()
    assert (state.st_uid, state.st_gid) == (uid, gid)


def test_another_user_and_other_ids(user: tuple[Path, PlainUser]) -> None:
    _, call = user
    _, gid = own_ids()

    def seen(*words: str) -> list[str]:
        done = call("run", "--rm", "--network", "none", *words, "sh", "-c", "id; echo $HOME; cat /data/secret")
        return done.stdout.decode().splitlines()

    # the image's user and -u come first; the caller keeps its group
    first, _, groups = seen("--userns", "keep-id", "web")[0].partition(" groups=")
    assert first == "uid=33(web) gid=44(web)"
    assert set(groups.split(",")) == {"44(web)", "55(extra)", f"{gid}({PLAIN_USER})"}
    assert seen("--userns", "keep-id", "-u", "root", "app")[0].startswith("uid=0(root) gid=0(root)")
    assert seen("--userns", "keep-id:uid=33,gid=44", "app") == [
        "uid=33(web) gid=44(web) groups=44(web)",
        "/srv/web",
        "only web's",
    ]
    assert seen("--userns", "keep-id:uid=7", "app")[:2] == [f"uid=7(7) gid={gid}(7) groups={gid}(7)", "/"]
    assert seen("--userns", "keep-id:uid=0,gid=0", "app")[0] == "uid=0(root) gid=0(root) groups=0(root)"
    # more than there are further ids: the caller has its own, above a gap
    assert seen("--userns", "keep-id:uid=3000000", "app")[0].startswith("uid=3000000(3000000)")


def test_diff_cp_and_commit_use_the_ids_of_the_image(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    uid, _ = own_ids()
    script = "echo x > /tmp/mine; mkdir /data/sub; chown 33:44 /data/sub; rm /tool"
    done = call(*KEEP, "-u", "0", "--name", "c", "app", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert call("diff", "c").stdout.decode().splitlines() == [
        "C /data",
        "A /data/sub",
        "C /tmp",
        "A /tmp/mine",
        "D /tool",
    ]
    (top / "given").write_text("given")
    assert call("cp", str(top / "given"), "c:/data/new").returncode == 0
    assert call("cp", "c:/tmp/mine", str(top / "got")).returncode == 0
    assert (top / "got").stat().st_uid == uid
    assert call("commit", "c", "app:2").returncode == 0
    listed = call("stat", "app:2", "/data/sub", "/data/new", "/tmp/mine", "--format", "json")
    stated = json.loads(listed.stdout)
    assert [(one["uid"], one["gid"]) for one in stated] == [(33, 44), (0, 0), (0, 0)]
    # a second map is a second tree of the same layers; both go with the image
    assert call(*KEEP[:-1], "keep-id:uid=5", "--rm", "app", "true").returncode == 0
    assert call("run", "--rm", "--network", "none", "app", "true").returncode == 0
    assert {
        len([tree for tree in part.glob("tree*") if tree.is_dir()])
        for part in (top / "store/unions").glob("*")
        if list(part.glob("tree*"))
    } == {3}
    assert call("rm", "c").returncode == 0
    assert call("rmi", "app", "app:2", "web").returncode == 0
    assert call("prune", "--force").returncode == 0
    assert list((top / "store/unions").iterdir()) == []
    assert list((top / "store/containers").iterdir()) == []


def test_exec_and_volumes(user: tuple[Path, PlainUser]) -> None:
    _, call = user
    uid, _ = own_ids()
    words = (*KEEP, "--name", "c", "-v", "kept:/data", "-v", "empty:/new", "app", "sh", "-c", "echo up; sleep 1000")
    with call.started(*words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert call("exec", "c", "id", "-u").stdout.decode() == f"{uid}\n"
        assert call("exec", "-u", "web", "c", "cat", "/data/secret").stdout == b"only web's"
        assert call("exec", "c", "stat", "-c", "%u:%g", "/data", "/new").stdout == b"33:44\n0:0\n"
        assert call("stop", "--time", "0.2", "c").returncode == 0
        process.wait()
    assert call("rm", "c").returncode == 0


def test_a_home_that_is_closed_to_all_but_its_owner(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    os.chown(top, own_ids()[0], 100)  # a group that the user's namespaces lack
    top.chmod(0o700)
    script = "id -u; cat /etc/hostname; touch /vol/x; ls /vol"
    words = (*KEEP, "--rm", "--hostname", "box", "-v", "vol:/vol", "-u", "0", "app")
    done = call(*words, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, b"0\nbox\nx\n"), done.stderr
    assert list((top / "store/containers").iterdir()) == []


def test_keep_id_without_further_ids_is_refused(tmp_path: Path) -> None:
    require_root()
    require_tool("runc")
    with plain_user("59999") as (top, call):
        write_layout(top / "layout", "app", [members()])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        done = call(*KEEP, "--rm", "app", "true")
        assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
        assert b"/etc/subuid" in done.stderr
        assert call("ps", "-aq").stdout == b""
        assert lamina("load", "-i", str(top / "layout"), root=tmp_path / "roots").returncode == 0
        done = lamina(*KEEP, "--rm", "app", "true", root=tmp_path / "roots")
        assert (done.returncode, b"is for plain users" in done.stderr) == (125, True)
        assert lamina("ps", "-aq", root=tmp_path / "roots").stdout == b""
    for word in ("keep-id:uid=x", "keep-id:size=4", "keep-id:uid=-1", "auto:uid=3", "host:uid=3"):
        assert lamina("run", "--userns", word, "app", root=tmp_path).returncode == 125
