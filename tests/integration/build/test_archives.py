"""ADD of local archives: known by content, unpacked into the layer."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.build.copying import Build, described, stack_of
from lamina.build.steps import CopyStep, FromContext
from lamina.errors import LaminaError, LimitExceeded, UsageError
from lamina.layer.codec import zstd
from lamina.spec.platform import Platform
from support import Member, make_tar

PLATFORM = Platform("linux", "amd64")
BASE: list[Member] = [
    ("etc/", None),
    ("etc/passwd", b"root:x:0:0::/:\nweb:x:33:44::/:\n"),
    ("app/", None, {"mode": 0o700, "uid": 5}),
    ("app/in/", None, {"mode": 0o711}),
    ("app/f", b"old"),
    ("app/dir/x", b"x"),
    ("app/away", "-> /etc"),
]
MEMBERS: list[Member] = [
    ("in/", None, {"mode": 0o750, "uid": 7, "gid": 8}),
    ("in/f", b"f", {"uid": 7, "gid": 8, "mode": 0o640}),
    ("in/h", "= in/f", {"uid": 9, "mode": 0o4755}),
    ("in/s", "-> f"),
    ("implied/x", b"x"),
    ("./dot", b"."),
]
UNPACKED = {
    "in": "directory 750 7:8",
    "in/f": "file 4755 9:0 f",  # a hard link states the attributes of its file again
    "in/h": "hardlink 9:0 -> {top}/in/f",
    "in/s": "symlink -> f",
    "implied": "directory",
    "implied/x": "file x",
    "dot": "file .",
}


def unpacked(top: str, **changed: str) -> dict[str, str]:
    return {f"{top}/{path}": text.format(top=top) for path, text in {**UNPACKED, **changed}.items()}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path, stack_of(make_tar(BASE)))


def add(build: Build, content: bytes, to: str = "/n", **options: Any) -> dict[str, str]:
    build.write({"some.name": content})
    options = {"is_add": True, "unpack": None, **options}
    step = CopyStep(platform=PLATFORM, sources=(FromContext("", ("some.name",)),), target=to, **options)
    return described(build.items(step))


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstd().compress],
    ids=["tar", "gzip", "bzip2", "xz", "zstd"],
)
@pytest.mark.parametrize("to", ["/n", "/n/"])
def test_archives_of_every_kind(build: Build, pack: Callable[[bytes], bytes], to: str) -> None:
    assert add(build, pack(make_tar(MEMBERS)), to) == {"n": "directory", **unpacked("n")}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        gzip.compress(b"hello"),
        bytes(10240),  # an archive without members
        b"\x1f\x8b broken",
        make_tar(MEMBERS)[:300],
    ],
)
def test_a_file_that_is_not_an_archive_is_copied(build: Build, content: bytes) -> None:
    assert set(add(build, content, "/n/")) == {"n", "n/some.name"}


@pytest.mark.parametrize("options", [{"unpack": False}, {"is_add": False, "unpack": False}])
def test_archives_that_stay_packed(build: Build, options: dict[str, Any]) -> None:
    assert set(add(build, make_tar(MEMBERS), "/n/", **options)) == {"n", "n/some.name"}


def test_the_owner_is_that_of_chown(build: Build) -> None:
    found = add(build, make_tar(MEMBERS), owner="web", mode="600")
    assert found["n"] == "directory 33:44"
    assert found["n/in/f"] == "file 4755 33:44 f"
    assert found["n/implied"] == "directory"  # nobody states it


def test_it_is_merged_with_what_is_there(build: Build) -> None:
    members: list[Member] = [*MEMBERS, ("f/", None), ("dir", b"now a file"), ("away/x", b"in the target")]
    found = add(build, make_tar(members), "/app")
    assert found["app/f"] == "directory"
    assert found["app/dir"] == "file now a file"
    assert found["app/in"] == "directory 750 7:8"
    # the target directory is the root of the archive's paths: /etc is not the image's
    assert {path: text for path, text in found.items() if "etc" in path} == {
        "app/etc": "directory",
        "app/etc/x": "file in the target",
    }


def test_hard_links_to_what_is_there(build: Build) -> None:
    found = add(build, make_tar([("twin", "= f")]), "/app")
    assert found == {"app/twin": "hardlink -> app/f"}


def test_later_members_replace_earlier_ones(build: Build) -> None:
    assert add(build, make_tar([("a", b"1"), ("a", "-> b"), ("b/x", b"2"), ("b", b"3")])) == {
        "n": "directory",
        "n/a": "symlink -> b",
        "n/b": "file 3",
    }


def test_names_that_would_be_whiteouts_are_left_out(build: Build) -> None:
    assert add(build, make_tar([("a", b"1"), (".wh.etc", b""), (".wh..wh..opq", b"")]), "/") == {"a": "file 1"}
    assert b"2 names that begin with .wh." in b"".join(build.said)


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (make_tar([("../out", b"1")]), UsageError, "leads out"),
        (make_tar([("a", b"1"), ("h", "= ../../etc/passwd")]), UsageError, "leads out"),
        (make_tar([("h", "= nowhere")]), UsageError, "hard link to"),
        (gzip.compress(make_tar([("a", os.urandom(5000))]))[:-30], UsageError, "ends too early"),
        (make_tar([("a", b"x" * 5000)])[:2000], UsageError, "ends too early"),
        (make_tar([("a", b"1"), ("b", b"2")])[:1024] + b"garbage" * 100, UsageError, "checksum"),
    ],
)
def test_damaged_and_hostile_archives(build: Build, content: bytes, error: type[LaminaError], says: str) -> None:
    with pytest.raises(error, match=says):
        add(build, content)


def test_a_bomb_is_an_error(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.build.files.archives.MAX_ARCHIVE", 1 << 20)
    with pytest.raises(LimitExceeded, match=r"the archive 'some.name'.* more than"):
        add(build, gzip.compress(make_tar([("a", bytes(2 << 20))])))


def test_a_symlink_in_an_archive_does_not_lead_out(build: Build) -> None:
    """A member through a symlink of the archive lands in the target."""
    found = add(build, make_tar([("up", "-> ../../.."), ("up/x", b"1"), ("abs", "-> /"), ("abs/y", b"2")]), "/n")
    assert found == {
        "n": "directory",
        "n/abs": "symlink -> /",
        "n/up": "symlink -> ../../..",
        "n/x": "file 1",
        "n/y": "file 2",
    }
