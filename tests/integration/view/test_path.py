"""image.path: what users of importlib.resources and pathlib expect, over the union."""

from __future__ import annotations

import errno
import os
import stat
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import lamina
from lamina.errors import LaminaError, PathNotFound, UsageError
from lamina.layer.entry import Kind
from lamina.source.stack import MANY_QUESTIONS
from lamina.union.partial import PartialMerge
from support import make_tar, opened_from, write_layout

ODD = os.fsdecode(b"caf\xe9")  # not UTF-8
BASE = [
    ("etc/", None),
    ("etc/os-release", b"ID=test\n"),
    ("etc/old.conf", b"old\n"),
    ("usr/", None),
    ("usr/lib/", None),
    ("usr/lib/a.so", b"\x7fELF"),
    ("usr/lib/b.so.1", b"\x7fELF"),
    ("usr/lib/deep/", None),
    ("usr/lib/deep/c.so", b""),
    ("lib", "-> usr/lib"),
    ("motd", "-> /etc/os-release"),
    ("up", "-> ../../../../etc"),
    ("dangling", "-> nowhere"),
    ("round", "-> round"),
    ("null", "c 1 3"),
]
TOP = [
    ("etc/.wh.old.conf", b""),
    ("etc/new.conf", "neü\r\nline\n".encode(), {"mode": 0o4751, "uid": 7, "gid": 8, "mtime": 1_600_000_000}),
    ("etc/hard.conf", "= etc/new.conf"),
    (ODD + "/", None),
    (ODD + "/f", bytes(range(256)) * 4096),
]
EVERYTHING = [
    "",
    "/",
    "/etc",
    "/etc/new.conf",
    "/lib/deep/c.so",
    "/up",
    "/motd",
    "/dangling",
    "/round",
    "/no",
    "/null",
]


@pytest.fixture(params=["store", "layout"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> lamina.Image:
    return opened_from(request.param, tmp_path, [BASE, TOP])


@pytest.fixture
def real(image: lamina.Image, tmp_path: Path) -> Path:
    """The same files, unpacked."""
    image.unpack(tmp_path / "real")
    return tmp_path / "real"


def test_importlib_takes_it(image: lamina.Image) -> None:
    path = image.path("/etc/os-release")
    assert isinstance(path, Traversable)
    with resources.as_file(path) as real:
        assert real.read_text() == "ID=test\n"
        assert real.name.endswith("os-release")
    assert not real.exists()
    with resources.as_file(image.path("/" + ODD) / "f") as real:
        assert real.read_bytes() == bytes(range(256)) * 4096
    with pytest.raises(IsADirectoryError, match=r"image\.mount"), resources.as_file(image.path("/etc")):
        pass
    with pytest.raises(FileNotFoundError), resources.as_file(image.path("/none")):
        pass


def test_stat_agrees_with_the_file_system(image: lamina.Image, real: Path) -> None:
    for text in EVERYTHING:
        ours, theirs = image.path(text), real / text.lstrip("/")
        if text in ("/motd", "/up"):  # absolute and upward links mean the image's root, not this machine's
            theirs = theirs.parent / ("etc" if text == "/up" else "etc/os-release")
        else:
            assert ours.is_symlink() == theirs.is_symlink(), text
        if text == "/round":
            assert not ours.exists()
            continue
        assert (ours.exists(), ours.is_dir(), ours.is_file()) == (
            theirs.exists(),
            theirs.is_dir(),
            theirs.is_file(),
        ), text
        if theirs.is_dir():
            assert [path.name for path in ours.iterdir()] == sorted(os.listdir(theirs), key=os.fsencode)
        if theirs.is_file():
            assert ours.read_bytes() == theirs.read_bytes()
            told, true = ours.stat(), theirs.stat()
            names = ["st_mode", "st_size", "st_mtime", "st_mtime_ns"]
            assert [getattr(told, name) for name in names] == [getattr(true, name) for name in names], text
    hard = image.path("etc/hard.conf")
    assert hard.stat().st_nlink == 2
    assert hard.stat().st_ino == image.path("etc/new.conf").stat().st_ino != image.path("motd").stat().st_ino
    assert (hard.stat().st_uid, hard.stat().st_gid, hard.stat().st_mtime) == (7, 8, 1_600_000_000)
    assert stat.S_ISLNK(image.path("motd").lstat().st_mode)
    assert image.path("motd").lstat().st_size == len("/etc/os-release")
    assert image.path("null").entry().rdev == (1, 3)
    assert image.path("null").stat().st_rdev == os.makedev(1, 3)
    assert image.path("motd").entry(follow=False).kind == Kind.SYMLINK


def test_a_path_is_a_value(image: lamina.Image) -> None:
    etc = image.path("/etc")
    conf = etc / "new.conf"
    assert (conf.name, conf.stem, conf.suffix, conf.parts) == ("new.conf", "new", ".conf", ("/", "etc", "new.conf"))
    assert (
        conf == image.path("etc//./new.conf") == image.path().joinpath("etc", "new.conf") == etc.joinpath("new.conf")
    )
    assert conf == image.path("/x").joinpath("/etc/new.conf")
    assert hash(conf) == hash(image.path("etc/new.conf"))
    assert conf.parent == etc
    assert image.path("/").parent == image.path("//") == image.path("")
    assert image.path().name == ""
    assert str(conf) == "/etc/new.conf"
    assert conf != image[:1].path("/etc/new.conf")
    assert conf != "/etc/new.conf"
    assert len({conf, etc / "new.conf", etc}) == 2
    assert sorted([conf, etc]) == [etc, conf]
    assert str(conf.relative_to(etc)) == str(conf.relative_to("/etc")) == "new.conf"
    assert conf.joinpath("a/b", "c").parts[-3:] == ("a", "b", "c")
    assert repr(image.path("\x1b[2J" + ODD)) == f"<lamina.ImagePath '/\\x1b[2Jcaf\\udce9' in {image.name!r}>"
    for error in (UsageError, ValueError):
        with pytest.raises(error, match="not below"):
            etc.relative_to(conf)
    with pytest.raises(UsageError, match="not a path"):
        image.path("\ud800")
    assert conf / image.path("/etc") == etc
    with pytest.raises(FileNotFoundError):
        open(conf)  # noqa: SIM115  (it is no file of this machine: its URL is)


def test_text_is_changed_as_pathlib_changes_it(image: lamina.Image) -> None:
    conf = image.path("/etc/a.tar.gz")
    pure = PurePosixPath("/etc/a.tar.gz")
    for name in ("name", "stem", "suffix", "suffixes", "parts", "drive", "root", "anchor"):
        assert getattr(conf, name) == getattr(pure, name), name
    for name, value in (("with_name", "b"), ("with_stem", "b"), ("with_suffix", ".zip"), ("with_suffix", "")):
        assert str(getattr(conf, name)(value)) == str(getattr(pure, name)(value)), name
    for name, value in (("with_name", "a/b"), ("with_name", ""), ("with_suffix", "zip")):
        with pytest.raises(ValueError, match=r"a\.tar\.gz") as refused:
            getattr(conf, name)(value)
        assert isinstance(refused.value, LaminaError)
    assert [str(one) for one in conf.parents] == [str(one) for one in pure.parents]
    assert conf.is_absolute() and conf.absolute() == conf and conf.as_posix() == str(pure)  # noqa: PT018
    assert conf.with_segments("x", "y") == image.path("/x/y")
    assert (conf.is_relative_to("/etc"), conf.is_relative_to(image.path("/usr"))) == (True, False)
    assert str(conf.relative_to("/usr/lib", walk_up=True)) == "../../etc/a.tar.gz"
    for pattern in ("*.gz", "*.tar.gz", "etc/*", "/etc/*", "/*.gz", "b*", "/etc/*/*", "a*", "ETC/*"):
        assert conf.match(pattern) == pure.match(pattern), pattern
    assert conf.match("*.GZ", case_sensitive=False)
    with pytest.raises(ValueError, match="empty"):
        conf.match("")
    fits = {"/etc/*": True, "**": True, "/**/*.gz": True, "*.gz": False, "/etc/**/a*": True, "etc/a.tar.gz": True}
    fits |= {"/**/etc/**": True, "/*": False, "/etc/a.tar.gz/**": True, "/**/**/*z": True, "/x/**": False}
    assert {pattern: conf.full_match(pattern) for pattern in fits} == fits
    assert not image.path("/" + "a/" * 2000).full_match("**/*" * 500 + "/b")


def test_tests_of_existence_and_kind_agree_with_pathlib(image: lamina.Image, real: Path) -> None:
    link, etc = image.path("/dangling"), image.path("/etc")
    assert (link.exists(), link.exists(follow_symlinks=False)) == (False, True)
    assert (image.path("/lib").is_dir(), image.path("/lib").is_dir(follow_symlinks=False)) == (True, False)
    assert (image.path("/motd").is_file(), image.path("/motd").is_file(follow_symlinks=False)) == (True, False)
    assert [
        name
        for name in dir(link)
        if name.startswith("is_")
        and getattr(image.path("/null"), name)(*([link] if name == "is_relative_to" else []))
    ] == ["is_absolute", "is_char_device"]
    assert (image.path("/").is_mount(), etc.is_mount()) == (True, False)
    assert image.path("/up").samefile("/etc")
    assert image.path("/etc/hard.conf").samefile(image.path("/etc/new.conf"))
    assert not image.path("/etc/os-release").samefile("/etc/new.conf")
    assert not etc.samefile(image[:1].path("/etc"))
    assert link.resolve(strict=False) == image.path("/dangling")
    assert image.path("/up/no/more").resolve(strict=False) == image.path("/etc/no/more")
    ours = {str(at)[1:]: (folders, files) for at, folders, files in image.path("/").walk()}
    theirs = {
        os.path.relpath(at, real).replace(".", "", 1) if at == str(real) else os.path.relpath(at, real): (
            sorted(name for name in folders if not os.path.islink(os.path.join(at, name))),
            sorted([*files, *(name for name in folders if os.path.islink(os.path.join(at, name)))]),
        )
        for at, folders, files in os.walk(real)
    }
    assert {at: (sorted(folders), sorted(files)) for at, (folders, files) in ours.items()} == theirs
    assert [str(at) for at, _, _ in image.path("/usr").walk()] == ["/usr", "/usr/lib", "/usr/lib/deep"]
    assert [str(at) for at, _, _ in image.path("/usr").walk(top_down=False)] == ["/usr/lib/deep", "/usr/lib", "/usr"]
    pruned = []
    for at, folders, _ in image.path("/").walk():
        pruned.append(str(at))
        folders[:] = [name for name in folders if name == "usr"]
    assert pruned == ["/", "/usr"]
    failed: list[OSError] = []
    assert list(image.path("/no").walk(on_error=failed.append)) == []
    assert isinstance(failed[0], FileNotFoundError)
    assert [str(at) for at, _, _ in image.path("/").walk(follow_symlinks=True)].count("/lib/deep") == 1


def test_owners_are_named_by_the_images_own_tables(tmp_path: Path) -> None:
    members = [
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:44::/:/bin/sh\n"),
        ("etc/group", b"root:x:0:\nstaff:x:44:\n"),
        ("page", b"p", {"uid": 33, "gid": 44}),
        ("lost", b"p", {"uid": 7, "gid": 7}),
        ("link", "-> lost", {"uid": 33}),
    ]
    write_layout(tmp_path / "l", "app", [members, [("etc/.wh.group", b"")]])
    image = lamina.open(f"oci:{tmp_path}/l:app", root=tmp_path / "none")
    below = image[:1]
    assert (image.path("/page").owner(), below.path("/page").group()) == ("web", "staff")
    assert image.path("/link").owner(follow_symlinks=False) == "web"
    for path, name in (
        (image.path("/lost"), "owner"),
        (image.path("/link"), "owner"),
        (image.path("/page"), "group"),
    ):
        with pytest.raises(KeyError, match="has no") as unknown:
            getattr(path, name)()
        assert isinstance(unknown.value, LaminaError)
    with pytest.raises(FileNotFoundError):
        image.path("/none").owner()


WRITING = {
    "write_text": ("x",),
    "write_bytes": (b"x",),
    "touch": (),
    "mkdir": (),
    "rmdir": (),
    "unlink": (),
    "rename": ("/x",),
    "replace": ("/x",),
    "chmod": (0o644,),
    "lchmod": (0o644,),
    "symlink_to": ("/x",),
    "hardlink_to": ("/x",),
}


@pytest.mark.parametrize("name", WRITING)
def test_methods_that_write_raise_read_only(image: lamina.Image, name: str) -> None:
    with pytest.raises(OSError, match=r"read-only \(make a new image with image\.append") as refused:
        getattr(image.path("/etc/os-release"), name)(*WRITING[name])
    assert (refused.value.errno, isinstance(refused.value, LaminaError)) == (errno.EROFS, True)


def test_links_stay_inside(image: lamina.Image) -> None:
    assert image.path("/lib/deep/../../lib/a.so").read_bytes() == b"\x7fELF"
    assert image.path("/up/os-release").read_text() == "ID=test\n"
    assert image.path("/../../up/../etc/os-release").resolve() == image.path("/etc/os-release")
    assert image.path("/lib/deep/..").resolve() == image.path("/usr/lib")
    assert image.path("/up").readlink() == "../../../../etc"
    assert image.path("/lib/deep").resolve() == image.path("/usr/lib/deep")
    with pytest.raises(UsageError, match="not a symlink"):
        image.path("/etc").readlink()
    assert [str(path) for path in image.path("/lib").iterdir()] == ["/lib/a.so", "/lib/b.so.1", "/lib/deep"]


def test_files_are_read_as_open_reads_them(image: lamina.Image) -> None:
    conf = image.path("/etc/new.conf")
    assert conf.read_text() == "neü\nline\n"
    assert conf.read_text("latin-1") == "ne\xc3\xbc\nline\n"
    assert conf.read_text("ascii", "replace").startswith("ne��")
    with conf.open(newline="") as text:
        assert list(text) == ["neü\r\n", "line\n"]
    content = bytes(range(256)) * 4096
    with (image.path("/" + ODD) / "f").open("rb") as file:
        assert file.seek(-3, 2) == len(content) - 3
        assert file.read() == content[-3:]
        assert file.seek(1000) == 1000
        assert file.read(5) == content[1000:1005]
        assert file.tell() == 1005
        assert file.seek(1 << 40) == 1 << 40
        assert file.read() == b""
        with pytest.raises(OSError, match="seek to byte -1"):
            file.seek(-1)
        file.seek(0)
        assert b"".join(iter(lambda: file.read(70_001), b"")) == content
    with pytest.raises(ValueError, match="closed"):
        file.read()
    with conf.open("rb", 0) as file:
        assert file.read(2) == b"ne"
        assert file.read() == "ü\r\nline\n".encode()
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_errors_are_lamina_errors_and_oserrors(image: lamina.Image) -> None:
    for error in (PathNotFound, FileNotFoundError):
        with pytest.raises(error, match="etc has no none"):
            image.path("/etc/none").read_bytes()
        with pytest.raises(error):
            image.path("/dangling").open()
        with pytest.raises(error):
            image.path("/none").stat()
        with pytest.raises(error):
            image.path("/etc/os-release/x").iterdir()
    with pytest.raises(NotADirectoryError) as no_directory:
        image.path("/null").iterdir()
    with pytest.raises(IsADirectoryError) as directory:
        image.path("/etc").read_text()
    with pytest.raises(OSError, match="not a regular file") as device:
        image.path("/null").read_bytes()
    with pytest.raises(FileNotFoundError) as missing:
        image.path("/none").resolve()
    for caught, number in ((no_directory, 20), (directory, 21), (device, 22), (missing, 2)):
        assert isinstance(caught.value, LaminaError)
        assert caught.value.errno == number
    for mode in ("w", "a", "r+", "rb+", "x"):
        with pytest.raises(OSError, match="read-only") as refused:
            image.path("/etc/os-release").open(mode)  # type: ignore[call-overload]
        assert refused.value.errno == errno.EROFS
    for mode in ("", "rr", "rtb"):
        with pytest.raises(ValueError, match="not r or rb"):
            image.path("/etc/os-release").open(mode)  # type: ignore[call-overload]
    asked: list[tuple[Any, str, type[OSError]]] = [
        (image.stat, "/none", FileNotFoundError),
        (image.read_bytes, "/none", FileNotFoundError),
        (image.listdir, "/none", FileNotFoundError),
        (image.blame, "/none", FileNotFoundError),
        (image.read_bytes, "/etc", IsADirectoryError),
        (image.listdir, "/etc/os-release", NotADirectoryError),
        (image.fs.cat, "/none", FileNotFoundError),
        (image.fs.open, "/etc", IsADirectoryError),
        (image.fs.info, "/none", FileNotFoundError),
    ]
    for ask, path, kind in asked:
        with pytest.raises(kind) as caught:
            ask(path)
        assert isinstance(caught.value, LaminaError), ask
    with pytest.raises(OSError, match="not a regular file"):
        image.read_bytes("/null")
    assert image.read_bytes(image.path("/motd")) == b"ID=test\n"
    assert image.listdir(image.path("/etc")) == ["hard.conf", "new.conf", "os-release"]


PATTERNS = (
    "*  *.conf  etc/*  */*  */*.so*  **/*.so  **/*  usr/**/deep/*  lib/*  etc/[no]*.c?nf  caf?/f  **/f  etc  "
    "etc/none  no/*  usr/lib/../lib/*.so  etc/../usr/*  ./etc/./*.conf  [  etc/*.*.*"
)


@pytest.mark.parametrize("pattern", PATTERNS.split())
def test_glob_finds_what_pathlib_finds(image: lamina.Image, real: Path, pattern: str) -> None:
    theirs = {os.fsencode(str(path.relative_to(real))) for path in real.glob(pattern)}
    ours = [os.fsencode(str(path)[1:]) for path in image.path("/").glob(pattern)]
    outside = [path for path in ours if path.startswith(b"up/")]  # which pathlib looks for on this machine
    assert sorted(set(ours) - set(outside)) == sorted(path for path in theirs if not path.startswith(b"up/"))
    assert outside == ([b"up/hard.conf", b"up/new.conf", b"up/os-release"] if pattern == "*/*" else [])
    assert ours == sorted(set(ours), key=lambda path: path.split(b"/"))


def test_rglob_and_double_stars(image: lamina.Image) -> None:
    assert [str(path) for path in image.path("/usr").rglob("*.so")] == ["/usr/lib/a.so", "/usr/lib/deep/c.so"]
    assert [str(path) for path in image.path("/lib").glob("**")] == [
        *("/lib", "/lib/a.so", "/lib/b.so.1", "/lib/deep", "/lib/deep/c.so"),
    ]
    assert list(image.path("/etc/os-release").glob("*")) == []
    for pattern in ("", "/etc/*"):
        with pytest.raises(UsageError, match="relative pattern"):
            image.path("/").glob(pattern)
    with pytest.raises(PathNotFound):
        image.path("/none").glob("*")
    assert list(image.path("/").glob("a/" * 5000)) == []


def test_many_questions_are_answered_by_one_merge(image: lamina.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    glances: list[bytes] = []
    looked = PartialMerge.lookup

    def counted(self: PartialMerge, layers: Any, path: bytes, *, follow: bool = False) -> Any:
        glances.append(path)
        return looked(self, layers, path, follow=follow)

    monkeypatch.setattr(PartialMerge, "lookup", counted)
    assert image.path("/etc/os-release").read_text() == "ID=test\n"
    assert glances == [b"etc/os-release"]
    for _ in range(3 * MANY_QUESTIONS):
        assert image.path("/lib/a.so").is_file()
        assert image.read_bytes("/motd") == b"ID=test\n"
    assert len(glances) == MANY_QUESTIONS


def test_two_symlinks_upwards_do_not_explode_a_glob(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [make_tar([("d/", None), ("d/a", "-> ."), ("d/b", "-> /d"), ("d/f", b"f")])])
    image = lamina.open(f"oci:{tmp_path}/l:app", root=tmp_path / "none")
    assert [str(path) for path in image.path("/").rglob("*")] == ["/d", "/d/a", "/d/b", "/d/f"]
    assert image.path("/d/a/b/a/b/f").read_bytes() == b"f"
    assert not image.path("/d" + "/a" * 41).exists()
