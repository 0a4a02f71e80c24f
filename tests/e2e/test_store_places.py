"""Every verb on a store that is read-only, belongs to another user, or has a damaged file.

Run in this process (``cli.run``): a traceback would come through as the exception that it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import lamina as library
from lamina.archive.layout import LayoutReader
from lamina.cli import run
from lamina.cli.verbs import VERBS
from lamina.errors import SystemFailure
from lamina.host.mountinfo import mounts
from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from lamina.serve.server import RegistryServer
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import THOROUGH, lamina, made_once, plain_user, require_root, require_tool, write_layout

# What only looks, with the code that it ends with
LOOKS = {
    "ls app": 0,
    "ls -lR app": 0,
    "cat app /etc/conf": 0,
    "stat app /etc/conf": 0,
    "tree app": 0,
    "blame app /etc/conf": 0,
    "du app": 0,
    "diff one app": 1,
    "diff box": 0,
    "ghosts app": 0,
    "waste app": 0,
    "packages app": 0,
    "layers app": 0,
    "history app": 0,
    "inspect app": 0,
    "images": 0,
    "ps -a": 0,
    "mounts": 0,
    "events --no-stream": 0,
    "generate systemd --name box": 0,
    "healthcheck run box": 5,
    "stats --no-stream": 0,
    "stats --no-stream box": 0,
    "top box": 5,
    "df": 0,
    "fsck": 0,
    "find conf": 0,
    "find --in app conf": 0,
    "find --digest sha256:4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865": 0,
    "config --local app": 0,
    "manifest --local app": 0,
    "digest --local app": 0,
    "prune --dry-run": 0,
    "prune --all --dry-run": 0,
    "rmi --dry-run app": 0,
    "info": 0,
    "version": 0,
    "pod ls": 0,
    "attach box": 5,
    "logs box": 0,
    "port box": 0,
    "wait box": 0,
    "network ls": 0,
    "network exists net": 1,
    "volume ls": 0,
}
# What takes something out of the store
OUT = {
    "export app -o {out}": 0,
    "export box -o {out}": 0,
    "unpack app {out}": 0,
    "save app -o {out}": 0,
    "copy app oci:{out}:x": 0,
    "cp box:/etc/conf {out}": 0,
    "push app {registry}/app": 0,
}
# What changes the store, and needs it whole; the images "one" and "app" stay
CHANGES = {
    "tag app new": 0,
    "rmi new": 0,
    "load -i {layout}": 0,
    "pull {registry}/base": 0,
    "copy oci:{layout}2:base base": 0,
    "import {layout} new": 0,
    "squash app --from 1 -t new": 0,
    "flatten app -t new": 0,
    "erase app /etc/conf -t new": 0,
    "rebase app --onto base --old-base one --force -t new": 0,
    "config app -e A=1 -t new": 0,
    "append app --remove /etc/conf -t new": 0,
    "pack sh -t new": 0,
    "index create new app": 0,
    "build --build-context app=oci-layout://{layout}:app -t new {context}": 0,
    "commit box new": 0,
    "cp {layout}/index.json box:/x": 0,
    "run --rm --network none app true": 127,
    "mount app {mnt}": 0,
    "umount --all": 0,
    "stop box": 0,
    "kill box": 5,
    "exec box true": 5,
    "pause box": 5,
    "unpause box": 5,
    "rename box box2": 0,
    "rename box2 box": 0,
    "update --restart always box": 0,
    "create --network none app true": 0,
    "start box": 127,
    "restart box": 127,
    "network create net": 0,
    "network connect net box": 0,
    "network disconnect net box": 0,
    "network rm net": 0,
    "volume create --label a=b data": 0,
    "volume rm data": 0,
    "fsck --repair": 0,
    "prune --force": 0,
    "rm box": 0,
    "pod create group": 0,
    "pod rm group": 0,
}
# Registries alone, or a terminal
ELSEWHERE = {
    *(
        "blob",
        "boot",
        "completion",
        "compose",
        "delete",
        "explore",
        "help",
        "login",
        "logout",
        "passwd",
        "plan",
        "search",
        "serve",
        "sync",
        "tags",
        "ui",
    ),
    "validate",
    "vm-disk",
}


def test_no_verb_is_left_out() -> None:
    assert {line.split()[0] for line in (*LOOKS, *OUT, *CHANGES)} | ELSEWHERE == set(VERBS)


class Said(NamedTuple):
    code: int
    out: str
    err: str


class World:
    """A store with images and a container, and a function that runs the command line on it or on another store."""

    def __init__(self, top: Path, registry: str, read: Callable[[], tuple[str, str]]) -> None:
        self.root = top / "s"
        self.layout = top / "l"
        self.context = top / "context"
        self.out, self.mnt = top / "out", top / "mnt"
        self.registry = registry
        self._read = read

    def __call__(self, line: str, root: Path | None = None) -> Said:
        self._read()
        if self.out.is_dir():
            shutil.rmtree(self.out)
        self.out.unlink(missing_ok=True)
        words = line.format(
            out=self.out, mnt=self.mnt, registry=self.registry, layout=self.layout, context=self.context
        ).split()
        code = run(["--root", str(root or self.root), *words])
        sys.stdout.flush()
        return Said(code, *self._read())


def check_said(said: Said, code: int | set[int]) -> None:
    """Check the exit code; on failure stderr must have a message of lamina."""
    assert said.code in ({code} if isinstance(code, int) else code), said
    assert "[Errno" not in said.err + said.out, said
    assert "Traceback" not in said.err, said
    if said.code > 1 and said.code != 127:
        assert said.err.splitlines()[-1].startswith("lamina: "), said


def made(top: Path) -> None:
    base = [("etc/", None), ("etc/conf", b"one\n"), ("gone", b"g")]
    write_layout(top / "l", "one", [base])
    write_layout(top / "l", "app", [base, [("etc/conf", b"two\n"), (".wh.gone", b"")]])
    done = lamina("load", "-i", str(top / "l"), root=top / "s")
    assert done.returncode == 0, done.stderr
    write_layout(top / "l2", "base", [[("other", b"o")]])
    (top / "context").mkdir()
    (top / "context/Dockerfile").write_text("FROM app\nCOPY Dockerfile /\n")
    store = Store.open(str(top / "s"))
    stack = store.stack("app", Platform.host())
    box = create(store, stack, ContainerOptions(name="box", command=("true",)))
    Path(store.containers.path(box.id, "upper", "written")).write_bytes(b"what people wrote")


def made_and_loaded(top: Path) -> None:
    made(top)
    done = lamina("load", "-i", str(top / "l2"), root=top / "s")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def world(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    require_root()
    made_once(made_and_loaded, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMINA_TLS_VERIFY", "false")
    served = Store.open(str(tmp_path / "served"))
    copy(LayoutReader(str(tmp_path / "l2")), served, [("base", "base")])
    with RegistryServer(served, writable=True) as server:

        def read() -> tuple[str, str]:
            said = capfd.readouterr()
            return said.out, said.err

        yield World(tmp_path, server.name, read)
    places = [one.target for one in mounts() if one.target.startswith(f"{tmp_path}/")]
    places += [one.target for one in mounts() if os.path.basename(one.target).startswith("lamina-mount-")]
    for place in places:
        subprocess.run(["umount", "-l", place], capture_output=True, check=False)


@pytest.fixture
def read_only(world: World, tmp_path: Path) -> Path:
    """The store on a read-only file system."""
    place = tmp_path / "ro"
    place.mkdir()
    subprocess.run(["mount", "--bind", world.root, place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    return place


def test_a_read_only_store_can_be_read_and_pushed(world: World, read_only: Path) -> None:
    for line, code in (LOOKS | OUT).items():
        if line.startswith("cp "):
            continue  # a container's root is mounted for it, which needs a work directory
        said = world(line, read_only)
        check_said(said, code)
        assert said.err.count("\n") <= (code > 1) or line in OUT or "prune" in line or "rmi" in line, said
        if line not in ("df", "info") and not line.startswith("push"):
            assert said.out.replace(str(read_only), str(world.root)) == world(line).out


# Verbs that have nothing to change in a store that no verb before them could write to, and their exit codes
IDLE = {
    "mount app {mnt}": 0,
    "umount --all": 0,
    "stop box": 0,
    "kill box": 5,
    "exec box true": 5,
    "fsck --repair": 0,
}
# Verbs that change what another verb made
SECOND = {
    "rmi new": "tag app new",
    "network connect net box": "network create net",
    "network disconnect net box": "network connect net box",
    "network rm net": "network disconnect net box",
    "volume rm data": "volume create data",
    "pod rm group": "pod create group",
    "rename box2 box": "rename box box2",
}


def test_changing_a_read_only_store_fails_with_one_line(world: World, read_only: Path) -> None:
    for line in CHANGES:
        if line not in IDLE and line not in SECOND:
            check_read_only(line, world(line, read_only))
    for line, code in IDLE.items():
        check_said(world(line, read_only), code)
    for line, first in SECOND.items():
        check_said(world(first), 0)  # where it can be written to
        check_read_only(line, world(line, read_only))
    assert world("cat app /etc/conf").out == "two\n"


def check_read_only(line: str, said: Said) -> None:
    assert said.code == (125 if line.startswith(("run", "create")) else 6), (line, said)
    assert said.err.startswith("lamina: "), (line, said)
    assert said.err.count("\n") == 1, (line, said)
    assert "read-only" in said.err or "written" in said.err, (line, said)


def test_an_image_of_a_read_only_store_is_mounted_through_fuse(world: World, read_only: Path, tmp_path: Path) -> None:
    require_tool("fusermount3")
    for target in ("", str(tmp_path / "target")):
        said = world(f"mount app {target}", read_only)
        check_said(said, 0)
        place = Path(said.out.strip())
        assert (place / "etc/conf").read_bytes() == b"two\n"
        assert [line.split() for line in world("mounts --format {{{{.Image}}}}", read_only).out.splitlines()] == [
            ["app"]
        ]
        # the same store, seen where it can be written to
        assert json.loads(world("mounts --format json").out)[0]["target"] == str(place)
        check_said(world(f"umount {place}", read_only), 0)
        assert not place.is_mount()
        assert place.exists() == bool(target)
    assert json.loads(world("mounts --format json", read_only).out) == []
    with library.open("app", root=read_only).mount() as mounted:
        assert Path(mounted, "etc/conf").read_bytes() == b"two\n"
    assert not os.path.exists(mounted)
    check_said(world("umount --all", read_only), 0)


def state_of(top: Path) -> list[tuple[str, int, int, int]]:
    found = sorted([top, *top.rglob("*")])
    return [(str(one), one.lstat().st_uid, one.lstat().st_ino, one.lstat().st_ctime_ns) for one in found]


def test_root_is_refused_on_another_users_store(world: World) -> None:
    for path in (world.root, *world.root.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    before = state_of(world.root)
    for line in (*LOOKS, *OUT, *CHANGES):
        if line in ("version", "info"):
            continue
        said = world(line)
        check_said(said, 125 if line.startswith(("run", "create")) else 6)
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert "belongs to 12345" in said.err, (line, said)
        assert "`runuser -u 12345 -- lamina ...`" in said.err, (line, said)
        assert "--root" in said.err
    with pytest.raises(SystemFailure, match="belongs to 12345"):
        library.open("app", root=world.root)
    assert state_of(world.root) == before


def test_a_new_store_is_not_made_in_another_users_directory(world: World, tmp_path: Path) -> None:
    place = tmp_path / "theirs"
    place.mkdir()
    os.chown(place, 12345, 12345)
    check_said(world("load -i {layout}", place), 6)
    assert list(place.iterdir()) == []


def test_a_plain_user_is_told_whose_store_it_is() -> None:
    require_root()
    with plain_user("59999") as (top, call):
        (top / "roots").mkdir()
        made(top / "roots")
        for words in (
            ("images",),
            ("ls", "app"),
            ("run", "--rm", "app", "true"),
            ("mount", "app"),
            ("umount", "--all"),
        ):
            done = call(*words, LAMINA_ROOT=f"{top}/roots/s")
            assert done.returncode == (125 if words[0] == "run" else 6)
            (line,) = done.stderr.decode().splitlines()
            assert "belongs to root" in line


# Directories of a store, and what may lie about in each
PLACES = (
    "",
    "blobs",
    "blobs/sha256",
    "ingest",
    "roots",
    "containers",
    "volumes",
    "layers",
    "layers/sha256",
    "unions",
)


def scatter(place: Path) -> None:
    """One stray thing of each kind."""
    (place / "stray-file").write_bytes(b"something")
    (place / "stray-empty").touch()
    (place / "stray.json").write_bytes(b'{"half')
    (place / "stray-dir").mkdir()
    (place / "stray-dir" / "file").write_bytes(b"x")
    (place / "stray-closed").mkdir(0)
    (place / "stray-link").symlink_to("nowhere")
    (place / "stray-up").symlink_to("..")
    (place / ("0" * 64)).write_bytes(b"named as what belongs here")
    (place / ("1" * 64)).mkdir()
    (place / "caf\udce9\n").write_bytes(b"not UTF-8")
    os.mkfifo(place / "stray-fifo")


@pytest.mark.parametrize("place", PLACES)
def test_stray_files_in_a_store_do_no_harm(world: World, place: str) -> None:
    scatter(world.root / place)
    found = "one", "app"
    for line, code in (LOOKS | OUT | CHANGES).items():
        said = world(line)
        check_said(said, {0, 1} if line.startswith("fsck") else code)
    for name in found:
        assert world(f"cat {name} /etc/conf").code == 0
        check_said(world(f"validate {name}"), 0)
    assert mounted_below(world) == []


def mounted_below(world: World) -> list[str]:
    return [one.target for one in mounts() if one.target.startswith(f"{world.root}/")]


# What is put in the place of what belongs there
KINDS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(b"something"),
    "empty": lambda path: path.touch(),
    "garbage": lambda path: path.write_bytes(b'{"half": '),
    "list": lambda path: path.write_bytes(b"[1, 2]"),
    "directory": lambda path: path.mkdir(),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "missing": lambda path: None,
}
FILES = (
    "format",
    "index.json",
    "index.json.log",
    "oci-layout",
    "lock",
    "members",
    "containers/BOX/container.json",
    "roots/ROOT",
)
DIRECTORIES = (
    "blobs",
    "repositories",
    "ingest",
    "roots",
    "containers",
    "volumes",
    "layers",
    "unions",
    "containers/BOX",
)
BROKEN = [(what, kind) for what in FILES for kind in KINDS if kind not in ("file", "list")]
BROKEN += [("index.json", "list"), ("containers/BOX/container.json", "list"), ("roots/ROOT", "list")]
BROKEN += [(what, kind) for what in DIRECTORIES for kind in ("file", "dangling", "missing")]
VERB_LINES = list({line.split()[0]: line for line in (*LOOKS, *OUT, *CHANGES)}.values())
"""One of each verb."""


@pytest.mark.parametrize(("what", "kind"), BROKEN)
def test_one_damaged_file_is_reported_and_the_rest_works(world: World, what: str, kind: str) -> None:
    store = Store.open(str(world.root))
    (box,) = store.containers
    root = store.roots.create("a test")
    store.roots.release(root)
    path = world.root / what.replace("BOX", box.id).replace("ROOT", root)
    aside = world.root.parent / "aside"
    if path.exists():
        path.rename(aside)
    KINDS[kind](path)
    turn = BROKEN.index((what, kind)) % 3
    for number, line in enumerate(VERB_LINES):
        # each verb over a third of what can break, in a run that is not thorough
        if line == "rm box" or not (THOROUGH or number % 3 == turn or line == "umount --all"):
            continue
        said = world(line)
        assert "[Errno" not in said.err + said.out, (line, said)
        assert "Traceback" not in said.err, (line, said)
        assert said.code in {0, 1, 2, 3, 4, 5, 6, 7, 125, 127}, (line, said)
        if said.code > 1 and said.code != 127:
            assert said.err.splitlines()[-1].startswith("lamina: "), (line, said)
    if what == "index.json.log" and path.is_dir():  # a store that no server has used has none
        path.rmdir()
    elif what == "index.json.log":
        path.unlink(missing_ok=True)
    if aside.exists():  # mended
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
        aside.rename(path)
    for name in ("one", "app"):
        assert world(f"cat {name} /etc/conf").code == 0
        check_said(world(f"validate {name}"), 0)
    assert "A /written\n" in world("diff box").out
    assert mounted_below(world) == []


ROOTS: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_bytes(b"x"),
    "below a file": lambda path: path.parent.joinpath("file").write_bytes(b"x"),
    "a dangling symlink": lambda path: path.symlink_to("nowhere"),
    "a symlink to itself": lambda path: path.symlink_to(path.name),
    "an empty directory": lambda path: path.mkdir(),
    "a directory of something else": lambda path: (path / "home").mkdir(parents=True),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("kind", ROOTS)
def test_commands_without_a_store(world: World, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "other"
    ROOTS[kind](place)
    root = tmp_path / "file" / "s" if kind == "below a file" else place
    for line in VERB_LINES:
        if line.split()[0] in ("build", "load", "pull", "copy", "import", "pack", "info", "version"):
            continue
        # verbs that write make a store before they look for the image
        lists = line.split()[0] in (
            "images",
            "ps",
            "mounts",
            "umount",
            "df",
            "fsck",
            "find",
            "prune",
            "events",
            "stats",
        )
        check_said(world(line, root), {0, 3, 6} if lists else {3, 5, 6, 125})
    said = world("load -i {layout}", root)
    check_said(said, 0 if kind in ("a dangling symlink", "an empty directory", "missing") else 6)


# Verbs that make a store before they look for what they need
MAKERS = ("build", "commit", "copy", "create", "import", "index", "load", "pack", "pull", "rmi", "run", "tag")


def test_other_verbs_make_no_store(world: World, tmp_path: Path) -> None:
    place = tmp_path / "none"
    for line in (*LOOKS, *OUT, *CHANGES):
        if line.startswith(MAKERS) or " create " in line:
            continue
        said = world(line, place)
        check_said(said, {0, 1, 3})
        assert said.err.count("\n") == (said.code > 1), (line, said)
        assert not place.exists(), (line, said)


@pytest.mark.parametrize(
    "what", ["blobs", "ingest", "roots", "containers", "volumes", "layers", "unions", "index.json"]
)
def test_a_store_without_permission_is_reported_in_one_line(what: str) -> None:
    require_root()
    with plain_user("59999") as (top, call):
        write_layout(top / "l", "app", [[("etc/conf", b"two\n")], [("b", b"")]])
        assert call("load", "-i", str(top / "l")).returncode == 0
        (top / "store" / what).chmod(0)
        for line in ("images", "ls app", "df", "mounts", "mount app", "umount --all", "prune --force"):
            done = call(*line.split())
            said = done.stderr.decode()
            assert "Errno" not in said, (line, said)
            assert "Traceback" not in said, (line, said)
            assert done.returncode in {0, 1, 3, 6, 7, 125, 127}, (line, said)
        (top / "store" / what).chmod(0o700)
        assert call("umount", "--all").returncode == 0
        assert call("fsck").returncode == 0
