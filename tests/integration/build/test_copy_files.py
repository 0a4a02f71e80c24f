"""COPY, ADD and WORKDIR: what the layer states. The rules are those of BuildKit, which tests/interop compares."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from integration.build.copying import Build, described, from_stage, stack_of
from lamina.build.files import copy_files
from lamina.build.steps import CopyStep, DirectoryStep, FromContext, Inline
from lamina.errors import LaminaError, NotFound, PathNotFound, UsageError
from lamina.spec.platform import Platform
from support import make_tar

PLATFORM = Platform("linux", "amd64")
BASE = [
    ("etc/", None),
    ("etc/passwd", b"root:x:0:0::/:\nweb:x:33:44::/:\n"),
    ("etc/group", b"root:x:0:\nstaff:x:50:\n"),
    ("app/", None, {"mode": 0o700, "uid": 5}),
    ("app/old", b"o"),
    ("app/link", "-> /etc/passwd"),
    ("link", "-> app"),
    ("dangling", "-> nowhere/here"),
    ("loop", "-> loop"),
    ("dir/sub/", None),
    ("file", b"F"),
]
FILES: dict[str, Any] = {
    "a.txt": "A",
    "b.txt": "B",
    "src/x/y.py": "Y",
    "src/x/z.txt": "Z",
    "src/run.sh": ("#!", 0o755),
    "lnk": "-> a.txt",
    "dirlnk": "-> src",
    "absolute": "-> /src/x",
    "outside": "-> ../../../etc/passwd",
    ".dockerignore": "b.txt\n**/z.txt",
}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    made = Build(tmp_path, stack_of(make_tar(BASE)))
    made.write(FILES)
    return made


SRC = {"run.sh": "file 755 #!", "x": "directory", "x/y.py": "file Y"}


def below(top: str, found: dict[str, str]) -> dict[str, str]:
    return {f"{top}/{path}": text for path, text in found.items()}


@pytest.mark.parametrize(
    ("sources", "to", "options", "layer"),
    [
        (["a.txt"], "/x", {}, {"x": "file A"}),
        (["a.txt"], "/x/y/", {}, {"x": "directory", "x/y": "directory", "x/y/a.txt": "file A"}),
        (["a.txt"], "/x/.", {}, {"x": "directory", "x/a.txt": "file A"}),
        (["a.txt"], "/app", {}, {"app/a.txt": "file A"}),
        (["a.txt"], "/file", {}, {"file": "file A"}),
        (["a.txt"], "/link/x", {}, {"app/x": "file A"}),
        (["a.txt"], "/link", {}, {"app/a.txt": "file A"}),
        # a symlink that the target names is followed; one in the directory that it names is replaced
        (["a.txt"], "/app/link", {}, {"etc/passwd": "file A"}),
        (["lnk"], "/app/", {}, {"app/lnk": "file A"}),
        (["a.txt"], "/dangling", {}, {"nowhere": "directory", "nowhere/here": "file A"}),
        (["a.txt"], "/dangling/", {}, {
            "nowhere": "directory", "nowhere/here": "directory", "nowhere/here/a.txt": "file A"}),
        (["src"], "/app", {}, below("app", SRC)),
        (["src/"], "/new/", {}, {"new": "directory", **below("new", SRC)}),
        (["dirlnk"], "/new", {}, {"new": "directory", **below("new", SRC)}),
        (["absolute"], "/new", {}, {"new": "directory", "new/y.py": "file Y"}),
        (["*.txt", "lnk"], "/new/", {}, {"new": "directory", "new/a.txt": "file A", "new/lnk": "file A"}),
        (["s*"], "/new/", {}, {"new": "directory", **below("new", SRC)}),
        (["src/?/[x-z].py"], "/new/", {}, {"new": "directory", "new/y.py": "file Y"}),
        (["nothing*"], "/new/", {}, {}),
        (["a.txt", "src/x"], "/a/", {"owner": "web:staff"}, {
            "a": "directory 33:50", "a/a.txt": "file 33:50 A", "a/y.py": "file 33:50 Y"}),
        (["a.txt"], "/x", {"owner": "web"}, {"x": "file 33:44 A"}),
        (["a.txt"], "/x", {"owner": "7"}, {"x": "file 7:7 A"}),
        (["a.txt"], "/x", {"owner": "7:staff"}, {"x": "file 7:50 A"}),
        (["a.txt"], "/x", {"owner": ":9"}, {"x": "file 0:9 A"}),
        (["a.txt"], "/n/x", {"mode": "0600"}, {"n": "directory 600", "n/x": "file 600 A"}),
        (["src/run.sh"], "/n/x", {"mode": "go-rx,u+s"}, {"n": "directory", "n/x": "file 4700 #!"}),
        (["src/./x/*.py"], "/p/", {"parents": True}, {"p": "directory", "p/x": "directory", "p/x/y.py": "file Y"}),
        (["src/*/y.py"], "/p/", {"parents": True}, {
            "p": "directory", "p/src": "directory", "p/src/x": "directory", "p/src/x/y.py": "file Y"}),
        (["src"], "/p/", {"exclude": ("x",)}, {"p": "directory", "p/run.sh": "file 755 #!"}),
        (["src"], "/p/", {"exclude": ("*", "!x/y.py")}, {"p": "directory", "p/x": "directory", "p/x/y.py": "file Y"}),
    ],
)  # fmt: skip
def test_what_a_copy_states(
    build: Build, sources: list[str], to: str, options: dict[str, Any], layer: dict[str, str]
) -> None:
    assert build.copy(*sources, to=to, **options) == layer


@pytest.mark.parametrize(
    ("sources", "to", "options", "error", "says"),
    [
        (["missing"], "/x", {}, PathNotFound, "'missing' was not found in the context"),
        (["b.txt"], "/x", {}, PathNotFound, "b.txt"),  # ignored
        (["src/x/z.txt"], "/x", {}, PathNotFound, "z.txt"),
        (["../a.txt/../../etc/hostname"], "/x", {}, PathNotFound, "etc/hostname"),
        (["outside"], "/x", {}, PathNotFound, "outside"),
        (["a.txt"], "/file/x", {}, UsageError, "/file in the image is not a directory"),
        (["src"], "/file", {}, UsageError, "/file in the image is not a directory"),
        (["a.txt"], "/loop", {}, UsageError, "too many symlinks"),
        (["a.txt"], "/x", {"owner": "nobody"}, NotFound, "no user 'nobody'"),
        (["a.txt"], "/x", {"owner": "web:nobody"}, NotFound, "no group 'nobody'"),
        (["a.txt"], "/x", {"owner": "web", "link": True}, UsageError, "--link"),
        (["a.txt"], "/x", {"mode": "0999"}, UsageError, "'0999' is not a mode"),
        (["a[.txt"], "/x", {}, UsageError, "is not a pattern"),
        (["src/./nothing"], "/x/", {"parents": True}, PathNotFound, "src/nothing"),
    ],
)
def test_what_a_copy_refuses(
    build: Build, sources: list[str], to: str, options: dict[str, Any], error: type[LaminaError], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        build.copy(*sources, to=to, **options)


def test_a_file_does_not_replace_a_directory_nor_the_other_way_round(build: Build) -> None:
    build.write({"tree/old/x": "1", "other/app": "2"})
    with pytest.raises(UsageError, match="a directory can't replace /app/old"):
        build.copy("tree", to="/app")
    with pytest.raises(UsageError, match="a file can't replace the directory /app"):
        build.copy("other", to="/")


def test_later_sources_see_the_earlier_ones(build: Build) -> None:
    build.write({"one/name": "1", "two/name": "2", "three/name": "-> elsewhere"})
    assert build.copy("one", "two", "three", to="/n/") == {"n": "directory", "n/name": "symlink -> elsewhere"}


def test_directories_of_several_sources_are_merged(build: Build) -> None:
    build.write({"one/sub/a": "1", "one/sub/same": "1", "two/sub/b": "2", "two/sub/same": "2", "two/new/c": "3"})
    (build.context / "two/sub").chmod(0o700)
    assert build.copy("one", "two", to="/n/") == {
        "n": "directory",
        "n/new": "directory",
        "n/new/c": "file 3",
        "n/sub": "directory 700",
        "n/sub/a": "file 1",
        "n/sub/b": "file 2",
        "n/sub/same": "file 2",
    }
    build.write({"three/sub": "4"})
    with pytest.raises(UsageError, match="a file can't replace the directory /n/sub"):
        build.copy("one", "three", to="/n/")
    with pytest.raises(UsageError, match="a directory can't replace /n/sub"):
        build.copy("three", "one", to="/n/")


def test_hard_links_stay_within_one_source(build: Build) -> None:
    build.write({"d/one": "1"})
    os.link(build.context / "d/one", build.context / "d/two")
    assert build.copy("d", to="/n/") == {"n": "directory", "n/one": "file 1", "n/two": "hardlink -> n/one"}
    assert build.copy("d/one", "d/two", to="/n/") == {"n": "directory", "n/one": "file 1", "n/two": "file 1"}


def test_a_hard_link_has_the_attributes_of_its_file(build: Build) -> None:
    """Engines apply the attributes of the link's header to the file."""
    build.write({"d/one": ("1", 0o751)})
    os.link(build.context / "d/one", build.context / "d/two")
    step = CopyStep(platform=PLATFORM, sources=(FromContext("", ("d",)),), target="/n/", owner="3:4")
    link = next(entry for entry, _ in build.items(step) if entry.link)
    assert (link.mode, link.uid, link.gid, link.size) == (0o751, 3, 4, 0)


def test_directories_that_exist_keep_their_attributes_unless_they_are_copied(build: Build) -> None:
    build.write({"tree/sub/x": "1"})
    (build.context / "tree/sub").chmod(0o711)
    assert build.copy("tree", to="/dir") == {"dir/sub": "directory 711", "dir/sub/x": "file 1"}


def test_link_does_not_look_at_the_image(build: Build) -> None:
    assert build.copy("a.txt", to="/link/x", link=True) == {"link": "directory", "link/x": "file A"}


def test_special_files_are_copied_and_sockets_become_empty_files(build: Build) -> None:
    build.write({"d/file": "1"})
    os.mkfifo(build.context / "d/fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listening:
        before = Path.cwd()
        os.chdir(build.context / "d")  # the path may be too long for a socket
        try:
            listening.bind("socket")
        finally:
            os.chdir(before)
        (build.context / "d/socket").chmod(0o600)
        found = build.copy("d", to="/n/")
    assert found == {"n": "directory", "n/fifo": "fifo 640", "n/file": "file 1", "n/socket": "file 600"}


def test_names_that_would_be_whiteouts_are_left_out(build: Build) -> None:
    build.write({"d/.wh.passwd": "1", "d/.wh.group/x": "1", "d/x": "1"})
    assert build.copy("d", to="/etc/") == {"etc/x": "file 1"}
    assert b"".join(build.said).count(b".wh.") == 2
    build.said.clear()
    assert build.copy(".", to="/n/")["n/d/x"] == "file 1"
    assert b"".join(build.said).count(b".wh.") == 2
    with pytest.raises(UsageError, match=r"\.wh\.passwd"):
        build.copy("d/.wh.passwd", to="/etc/")


def test_here_documents_are_files(build: Build) -> None:
    documents = (Inline("one", b"1\n"), Inline("two", b"2\n"))
    step = CopyStep(platform=PLATFORM, sources=documents, target="/n/", mode="755")
    assert described(build.items(step)) == {
        "n": "directory", "n/one": "file 755 1\\n", "n/two": "file 755 2\\n"
    }  # fmt: skip


def test_from_a_stage_owners_links_and_attributes_are_kept(build: Build) -> None:
    stage = stack_of(
        make_tar([("srv/", None), ("srv/gone", b"1"), ("srv/one", b"one", {"uid": 8, "gid": 9, "mode": 0o4755})]),
        make_tar(
            [
                ("srv/.wh.gone", b""),
                ("srv/two", "= srv/one"),
                ("srv/link", "-> one", {"uid": 3}),
                ("srv/cap", b"c", {"pax_headers": {"SCHILY.xattr.user.note": "n"}}),
            ]
        ),
    )
    source, stacks = from_stage(stage, "srv")
    step = CopyStep(platform=PLATFORM, sources=(source,), target="/n")
    items = build.items(step, stacks=stacks)
    assert described(items) == {
        "n": "directory",
        "n/cap": "file c",
        "n/link": "symlink 3:0 -> one",
        "n/one": "file 4755 8:9 one",
        "n/two": "hardlink 8:9 -> n/one",
    }
    assert next(entry.xattrs for entry, _ in items if entry.path == b"n/cap") == {b"user.note": b"n"}
    with pytest.raises(PathNotFound, match="'srv/gone' was not found in the stage build"):
        source, stacks = from_stage(stage, "/srv/gone")
        build.items(CopyStep(platform=PLATFORM, sources=(source,), target="/n"), stacks=stacks)


def test_workdir_makes_what_is_missing(build: Build) -> None:
    step = DirectoryStep(platform=PLATFORM, path="/link/new/deep", owner="web")
    made = copy_files.made(step, build.base)
    assert described([(entry, b"") for entry, _ in made]) == {
        "app/new": "directory 33:44", "app/new/deep": "directory 33:44"
    }  # fmt: skip
    assert copy_files.made(DirectoryStep(platform=PLATFORM, path="/app"), build.base) == []
    with pytest.raises(UsageError, match="/file in the image is not a directory"):
        copy_files.made(DirectoryStep(platform=PLATFORM, path="/file/x"), build.base)


def test_copy_into_nothing(tmp_path: Path) -> None:
    build = Build(tmp_path)
    build.write({"a": "1"})
    assert build.copy("a", to="/") == {"a": "file 1"}
    assert build.copy(".", to="/") == {"a": "file 1"}


def test_of_the_attributes_of_a_context_only_capabilities_count(build: Build) -> None:
    """As in BuildKit's layers; file systems differ in the others."""
    build.write({"d/x": "1"})
    path = build.context / "d/x"
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    try:
        os.setxattr(path, "user.note", b"n")
        os.setxattr(path, "security.capability", capability)
    except OSError:
        pytest.skip("no extended attributes here")
    step = CopyStep(platform=PLATFORM, sources=(FromContext("", ("d",)),), target="/n/")
    assert [entry.xattrs for entry, _ in build.items(step)] == [{}, {b"security.capability": capability}]
