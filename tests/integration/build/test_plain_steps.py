"""RUN steps of a plain user: with the ids of /etc/subuid, and with the own id alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.build.running import members, sleeping
from support import PLAIN_USER, PlainUser, plain_user, require_root, require_tool, write_layout

ALONE = "59999"
CACHED = "RUN --mount=type=cache,target=/c echo x >> /c/x; cat /c/x"


@pytest.fixture(params=[PLAIN_USER, ALONE])
def user(request: Any) -> Iterator[tuple[Path, PlainUser]]:
    require_root()
    require_tool("runc", "bwrap", "busybox", "newuidmap")
    with plain_user(request.param) as (top, call):
        owned = {"uid": 33, "gid": 44}
        layer = members(("srv/", None, owned), ("srv/f", b"x", owned), ("srv/g", b"x", owned))
        write_layout(top / "layout", "app", [layer])
        assert call("load", "-i", str(top / "layout")).returncode == 0
        (top / "context").mkdir()
        (top / "context" / "file").write_text("of the context\n")
        yield top, call


def build(user: tuple[Path, PlainUser], *lines: str, **environment: str) -> str:
    """What the build of these lines says; it must succeed."""
    top, call = user
    (top / "context" / "Dockerfile").write_text("\n".join(["FROM app", *lines, ""]))
    words = ("--progress", "plain", "--network", "none", "-t", "new", str(top / "context"))
    done = call("build", *words, **environment)
    assert done.returncode == 0, done.stderr.decode()
    running = top / "store/build/running"
    assert not running.exists() or list(running.iterdir()) == []
    return done.stderr.decode()


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_programs_run_and_change_layers(user: tuple[Path, PlainUser], runtime: str) -> None:
    _, call = user
    said = build(
        user,
        "RUN rm /srv/f && echo new > /srv/new",
        "RUN --mount=type=bind,target=/context cat /context/file && ls /srv",
        "RUN --mount=type=bind,from=app,target=/app,rw touch /app/x && rm -r /tmp && mkdir /tmp && touch /tmp/y",
        CACHED,
        LAMINA_RUNTIME=runtime,
    )
    printed = [line.split(" ", 2)[-1] for line in said.splitlines()]
    assert printed[printed.index("of the context") + 1 :][:2] == ["g", "new"]
    listed = call("ls", "-R", "new", "/srv").stdout.decode().split()
    assert "new" in listed
    assert "f" not in listed
    assert call("ls", "new", "/tmp").stdout.decode().split() == ["y"]


def test_a_directory_that_was_only_passed_keeps_its_owner(user: tuple[Path, PlainUser]) -> None:
    """Also where this user has no such id."""
    _, call = user
    build(user, "RUN chmod 600 /srv/g")
    said = call("stat", "new", "/srv").stdout.decode()
    assert "33" in said, said


def test_the_users_of_an_image_run_where_this_user_has_their_ids(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    if call.drop[2] == ALONE:
        for lines in ("USER web\nRUN id", "RUN --mount=type=cache,target=/c,uid=33,gid=44 id"):
            (top / "context" / "Dockerfile").write_text(f"FROM app\n{lines}\n")
            done = call("build", "--network", "none", str(top / "context"))
            assert done.returncode != 0
            assert b"/etc/subuid" in done.stderr
        return
    assert "uid=33(web) gid=44" in build(user, "USER web", "RUN id")


def test_what_a_killed_build_left_is_ended(user: tuple[Path, PlainUser]) -> None:
    top, call = user
    mark = f"9{os.getpid()}"
    web = "USER web\n" if call.drop[2] != ALONE else ""
    (top / "context" / "Dockerfile").write_text(f"FROM app\n{web}RUN sleep {mark} & sleep {mark}\n")
    for runtime in ("runc", "bwrap"):
        words = ("build", "--network", "none", str(top / "context"))
        with started(call, runtime, *words) as process:
            until(lambda: len(sleeping(mark)) == 2)
            process.kill()
            process.wait()
        assert list((top / "store/build/running").iterdir()) != []
        assert call("prune", "--force").returncode == 0
        until(lambda: not sleeping(mark))
        assert list((top / "store/build/running").iterdir()) == []


def started(call: PlainUser, runtime: str, *words: str) -> Any:
    call.drop = [*call.drop, f"LAMINA_RUNTIME={runtime}"]
    return call.started(*words)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_a_program_wrote_is_the_tree_of_its_layer_without_unpacking(user: tuple[Path, PlainUser]) -> None:
    _, call = user
    said = build(
        user,
        "RUN --mount=type=tmpfs,target=/point/deep mkdir -p /made/dir && echo x > /made/dir/file && rm /srv/f "
        "&& ln /made/dir/file /made/link && stat -c 'first %i' /made/dir/file",
        "RUN stat -c 'second %i' /made/dir/file; ls -d /srv/f /point || true",
        "RUN rm -r /made/dir && mkdir /made/dir && ls -a /made/dir",
        "RUN ls -a /made/dir /srv",
    )
    numbers = {
        line.split()[-2]: line.split()[-1]
        for line in said.splitlines()
        if line.split()[-2:-1] in (["first"], ["second"])
    }
    if "LAMINA_TEST_UPPER" not in os.environ:  # there it is written on another file system, and unpacked
        assert numbers["first"] == numbers["second"]
    for path in ("/srv/f", "/point"):
        assert f"ls: {path}: No such file or directory" in said
    assert call("fsck").returncode == 0
    done = call("run", "--rm", "--network", "none", "new", "ls", "-a", "/made/dir", "/made")
    assert done.stdout.decode().split() == ["/made:", ".", "..", "dir", "link", "/made/dir:", ".", ".."]


def test_a_program_that_moves_its_mount_points_reaches_no_file_of_this_host(user: tuple[Path, PlainUser]) -> None:
    top, _ = user
    (top / "victim").mkdir(mode=0o777)
    for name in ("resolv.conf", "hosts"):
        (top / "victim" / name).touch()
    os.chmod(top / "victim", 0o777)
    build(user, f"RUN mv /etc /old; ln -s {top}/victim /etc", "RUN ls -d /etc /old")
    assert sorted(os.listdir(top / "victim")) == ["hosts", "resolv.conf"]
