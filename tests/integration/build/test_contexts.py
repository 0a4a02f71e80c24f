"""Contexts: where they come from, what an ignore file leaves of them, and that nothing leads out."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.build.copying import Build, described, read
from lamina.build.files import contexts
from lamina.build.files.content_hashes import ContentHashes
from lamina.build.files.local_tree import LocalTree
from lamina.build.patterns.trees import FileTree, found, get, picked
from lamina.build.steps import CopyStep, FromContext
from lamina.errors import LaminaError, LimitExceeded, NotFound, PathNotFound, UsageError
from lamina.spec.platform import Platform
from support import make_tar

FILES: dict[str, Any] = {"Dockerfile": "FROM scratch", "a": "A", "b": "B", "d/a": "DA", "d/b": "DB", "d/e/f": "F"}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    made = Build(tmp_path)
    made.write(FILES)
    return made


def names(tree: FileTree[Any]) -> set[str]:
    """The files of a tree; a directory only if nothing is in it."""
    shown, above = set[str](), [""]
    for depth, name, node, _ in picked(tree, tree.root):
        path = above[depth] + os.fsdecode(name)
        del above[depth + 1 :]
        above.append(f"{path}/")
        if tree.kind(node).name != "DIRECTORY" or not tree.children(node):
            shown.add(path)
    return shown


@pytest.mark.parametrize(
    ("files", "dockerfile", "left"),
    [
        ({}, "", {"a", "b", "d/a", "d/b", "d/e/f"}),
        ({".dockerignore": "d"}, "", {".dockerignore", "a", "b"}),
        ({".dockerignore": "*\n!d/e/**"}, "", {"d/e/f"}),
        ({".dockerignore": "**/a\n!a\n.dockerignore"}, "", {"a", "b", "d/b", "d/e/f"}),
        ({".dockerignore": "d", ".containerignore": "a\n.*ignore"}, "", {"b", "d/a", "d/b", "d/e/f"}),
        ({".dockerignore": "d", "x/Other.dockerignore": "*\n!b"}, "x/Other", {"b"}),
        ({".dockerignore": "*", "Dockerfile.dockerignore": ""}, "Dockerfile", {
            "Dockerfile.dockerignore", ".dockerignore", "a", "b", "d/a", "d/b", "d/e/f"}),
        ({".dockerignore": "d\n!d/e/nothing"}, "", {".dockerignore", "a", "b"}),
    ],
)  # fmt: skip
def test_ignore_files(build: Build, files: dict[str, Any], dockerfile: str, left: set[str]) -> None:
    build.write(files)
    context = build.opened(dockerfile=dockerfile)
    try:
        assert names(context.tree) - {"Dockerfile"} == left - {"Dockerfile"}
        assert context.read("Dockerfile") == b"FROM scratch"  # whatever is ignored
    finally:
        context.close()


def test_the_dockerfile_may_be_a_symlink_and_ignored(build: Build) -> None:
    """Inside the context: an absolute target is below its root."""
    build.write({"x/real": "FROM y", "Link": "-> x/real", "Absolute": "-> /x/real", ".dockerignore": "*"})
    (build.context / "Out").symlink_to(build.where / "outside")
    (build.where / "outside").write_text("secret")
    context = build.opened(dockerfile="Link")
    assert context.read("Link") == context.read("Absolute") == context.read("/x/../Link") == b"FROM y"
    for name in ("Out", "nothing", "x", "../outside"):
        with pytest.raises(PathNotFound, match="was not found in the context"):
            context.read(name)
    context.close()


def test_an_ignore_file_from_elsewhere(build: Build) -> None:
    build.write({".dockerignore": "a"})
    context = build.opened(ignore=b"*\n!a\n")
    assert names(context.tree) == {"a"}
    context.close()


def test_a_bad_ignore_file_names_its_pattern(build: Build) -> None:
    build.write({".dockerignore": "ok\n[a"})
    with pytest.raises(UsageError, match=r"'\[a' is not a pattern"):
        build.opened()


def a_tar() -> bytes:
    return make_tar(
        [
            ("./Dockerfile", b"FROM x"),
            ("dir/one", b"old"),
            ("dir/one", b"1", {"uid": 5, "gid": 6, "mode": 0o600}),
            ("dir/two", "= dir/one"),
            ("link", "-> dir/one"),
            ("out", "-> ../../etc/passwd"),
            ("dir/.wh.one", b""),
        ]
    )


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_tar_as_context(build: Build, pack: Callable[[bytes], bytes]) -> None:
    """On stdin, or a file. Owners do not count; a name that would be a whiteout hides nothing."""
    (build.where / "c.tar").write_bytes(pack(a_tar()))
    for place, stdin in (("-", io.BytesIO(pack(a_tar()))), (str(build.where / "c.tar"), None)):
        context = build.opened(place, stdin=stdin)
        assert names(context.tree) == {"Dockerfile", "dir/one", "dir/two", "link", "out"}
        assert context.read("Dockerfile") == b"FROM x"
        one = get(context.tree, b"link")
        entry = context.tree.entry(one, b"x")
        assert (read(context.tree.content(one)), entry.mode, entry.uid) == (b"1", 0o600, 0)
        assert found(context.tree, b"out") is None
        assert context.digest(["dir/one"]) != context.digest(["dir/two"])  # names count
        context.close()


def test_a_dockerfile_alone_on_stdin(build: Build) -> None:
    context = build.opened("-", stdin=io.BytesIO(b"FROM busybox\n"))
    assert context.read("whatever") == b"FROM busybox\n"
    assert names(context.tree) == set()
    with pytest.raises(PathNotFound, match="the empty context"):
        context.digest(["a"])
    context.close()


@pytest.mark.parametrize(
    ("place", "stdin", "error", "says"),
    [
        ("-", None, UsageError, "no stdin"),
        ("-", b"", UsageError, "stdin is empty"),
        ("-", b"x" * (17 << 20), LimitExceeded, "too long"),
        ("-", a_tar()[:515], UsageError, "ends too early"),
        ("-", gzip.compress(a_tar())[:-20], UsageError, "ends too early"),
        ("nowhere", None, NotFound, "was not found"),
        ("/dev/null", None, UsageError, "neither a directory nor a file"),
        ("context/a", None, UsageError, "neither a directory nor a tar"),
        ("oci-layout://nowhere", None, LaminaError, "nowhere"),
        ("ftp://host/x", None, NotFound, "was not found"),
    ],
)
def test_places_that_are_not_a_context(
    build: Build, place: str, stdin: bytes | None, error: type[LaminaError], says: str
) -> None:
    where = str(build.where / place) if place == "context/a" else place
    with pytest.raises(error, match=says):
        build.opened(where, stdin=None if stdin is None else io.BytesIO(stdin))


def test_the_digest_is_of_names_kinds_modes_and_content(build: Build) -> None:
    """Not of times; owners are not kept."""
    seen = set[str]()

    def digest(*words: str, **options: Any) -> str:
        context = build.opened()
        try:
            return context.digest(words or ["."], **options)
        finally:
            context.close()

    def changes() -> str:
        now = digest()
        assert now not in seen
        seen.add(now)
        return now

    first = changes()
    os.utime(build.context / "a", (1, 1))
    os.utime(build.context / "d", (1, 1))
    assert digest() == first
    (build.context / "a").write_text("a")
    changes()
    (build.context / "a").chmod(0o600)
    changes()
    (build.context / "d").chmod(0o700)
    changes()
    (build.context / "d/e/f").rename(build.context / "d/e/g")
    changes()
    (build.context / "link").symlink_to("a")
    changes()
    (build.context / "link").unlink()
    (build.context / "link").symlink_to("b")
    changes()
    (build.context / "empty").mkdir()
    changes()
    assert digest("a") != digest("b")
    assert digest("d") != digest("d", exclude=["e"])
    assert digest("d/e/g") != digest("d/e/g", parents=True)


def test_unchanged_files_are_not_read_again(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in build.context.rglob("*"):
        os.utime(path, (1, 1))
    opened: list[str] = []
    original = LocalTree._opened

    def noted(self: LocalTree, node: Any) -> int:
        opened.append(node.path)
        return original(self, node)

    monkeypatch.setattr(LocalTree, "_opened", noted)
    monkeypatch.setattr("lamina.build.files.local_tree.is_settled", lambda mtime, ctime: True)

    def digest() -> str:
        opened.clear()
        context = build.opened()
        try:
            return context.digest(["."])
        finally:
            context.close()

    first = digest()
    assert len(opened) == len(FILES)
    assert digest() == first
    assert opened == []
    (build.context / "d/a").write_text("DX")
    assert digest() != first
    assert opened == ["d/a"]
    kept = next((build.where / "store/build/contexts").iterdir())
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")  # damaged: all files are read
    digest()
    assert len(opened) == len(FILES)


def test_a_build_of_a_few_files_keeps_what_is_known_of_the_others(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.build.files.local_tree.is_settled", lambda mtime, ctime: True)
    opened: list[str] = []
    original = LocalTree._opened

    def noted(self: LocalTree, node: Any) -> int:
        opened.append(node.path)
        return original(self, node)

    monkeypatch.setattr(LocalTree, "_opened", noted)

    def digest(*words: str) -> list[str]:
        opened.clear()
        context = build.opened()
        try:
            context.digest(words)
        finally:
            context.close()
        return sorted(opened)

    assert digest("d/a") == ["d/a"]
    assert digest("d/a") == []
    assert digest(".") == ["Dockerfile", "a", "b", "d/b", "d/e/f"]
    for path, words in (("d/a", ["d/a"]), ("b", ["a", "b"]), ("d/e/f", ["d/e"])):
        (build.context / path).write_text("new")
        assert digest(*words) == [path]
        assert digest(".") == []
    (build.context / "d/a").unlink()
    (build.context / "d/new").write_text("1")
    assert digest(".") == ["d/new"]


def test_a_file_that_was_just_written_is_read_again(build: Build, tmp_path: Path) -> None:
    """Its next change may have the same times."""
    (build.context / "a").write_text("1")
    hashes = tmp_path / "hashes"
    with LocalTree(str(build.context), hashes=ContentHashes(str(hashes))) as tree:
        tree.digest(get(tree, b"a"))
    assert not hashes.exists()


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_file_that_changes_after_it_was_hashed_is_an_error(build: Build, size: int) -> None:
    path = build.context / "file"
    path.write_bytes(b"x" * size)
    with LocalTree(str(build.context)) as tree:
        node = get(tree, b"file")
        assert tree.digest(node) == hashlib.sha256(b"x" * size).digest()
        node.kept = None  # as if it had not stayed in memory
        path.write_bytes(b"y" * size)
        with pytest.raises(UsageError, match="changed while it was read"):
            read(tree.content(node))
        path.unlink()
        with pytest.raises(LaminaError, match=r"file' was removed|No such file"):
            read(tree.content(node))


@pytest.mark.parametrize(
    ("before", "after", "use"),
    [
        ("symlink", "file", "entry"),
        ("symlink", "directory", "entry"),
        ("file", "symlink", "digest"),
        ("file", "directory", "digest"),
        ("directory", "symlink", "children"),
    ],
)
def test_what_becomes_something_else_is_said_to_have_changed(build: Build, before: str, after: str, use: str) -> None:
    path = build.context / "one"
    make: dict[str, Callable[[], object]] = {
        "symlink": lambda: path.symlink_to("a"),
        "file": lambda: path.write_text("x"),
        "directory": path.mkdir,
    }
    make[before]()
    with LocalTree(str(build.context)) as tree:
        node = tree.child(tree.root, b"one")
        assert node is not None
        path.rmdir() if before == "directory" else path.unlink()
        make[after]()
        if use == "children":
            assert tree.children(node) == []  # as if it had been removed
            return
        with pytest.raises(UsageError, match="changed while it was read"):
            tree.entry(node, b"one") if use == "entry" else tree.digest(node)


def test_what_was_hashed_is_written(build: Build) -> None:
    """A small file stays in memory between the two."""
    path = build.context / "file"
    path.write_bytes(b"before")
    with LocalTree(str(build.context)) as tree:
        node = get(tree, b"file")
        tree.digest(node)
        path.write_bytes(b"after!")
        assert read(tree.content(node)) == b"before"


def test_a_fifo_in_the_place_of_a_file_does_not_block(build: Build) -> None:
    with LocalTree(str(build.context)) as tree:
        node = get(tree, b"a")
        (build.context / "a").unlink()
        os.mkfifo(build.context / "a")
        with pytest.raises(UsageError, match="changed while it was read"):
            tree.digest(node)


def test_a_directory_that_becomes_a_symlink_does_not_lead_out(build: Build, tmp_path: Path) -> None:
    """A writer swaps a directory for a symlink to one outside, again and again: what is read is always the
    context's."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_text("secret")
    inside = build.context / "d"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            inside.rename(build.context / "aside")
            inside.symlink_to(outside)
            inside.unlink()
            (build.context / "aside").rename(inside)

    writer = threading.Thread(target=swap)
    writer.start()
    try:
        seen = set()
        for _ in range(200):
            try:
                with LocalTree(str(build.context)) as tree:
                    node = found(tree, b"d/a")
                    seen.add(None if node is None else read(tree.content(node)))
            except LaminaError:
                continue
    finally:
        stop.set()
        writer.join()
    assert seen <= {None, b"DA"}


def test_names_that_are_not_utf8_and_long_paths(build: Build) -> None:
    raw = os.fsencode(build.context) + b"/\xff\xfe"
    with open(raw, "wb") as file:
        file.write(b"1")
    deep = build.context
    os.chdir(deep)
    try:
        for _ in range(60):
            os.mkdir("n" * 100)
            os.chdir("n" * 100)  # the whole path is longer than a path may be
        Path("end").write_text("end")
    finally:
        os.chdir("/")
    with LocalTree(str(build.context)) as tree:
        assert found(tree, b"\xff\xfe") is not None
        node = found(tree, b"/".join([b"n" * 100] * 60 + [b"end"]))
        assert node is not None
        assert read(tree.content(node)) == b"end"


def test_many_directories_do_not_keep_files_open(build: Build) -> None:
    for number in range(200):
        (build.context / f"many/{number}").mkdir(parents=True)
        (build.context / f"many/{number}/f").write_text(str(number))
    before = len(os.listdir("/proc/self/fd"))
    with LocalTree(str(build.context)) as tree:
        for _, _, node, _ in picked(tree, tree.root):
            if tree.kind(node).name == "FILE":
                tree.digest(node)
        assert len(os.listdir("/proc/self/fd")) < before + 50
    assert len(os.listdir("/proc/self/fd")) == before


def test_excluded_directories_are_not_listed(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    build.write({".dockerignore": "d\n!a", "e/x": "1", "e/y": "1"})
    listed: list[str] = []
    original = LocalTree._list

    def noted(self: LocalTree, node: Any) -> Any:
        listed.append(node.path)
        return original(self, node)

    monkeypatch.setattr(LocalTree, "_list", noted)
    context = build.opened()
    names(context.tree)
    context.close()
    assert listed == ["", "e"]


def test_the_files_of_an_image_in_the_store_as_context(build: Build) -> None:
    with pytest.raises(NotFound):
        build.opened("docker-image://nothing:1")
    context = build.opened("docker-image://scratch")
    assert names(context.tree) == set()
    context.close()


def test_a_context_of_copy(build: Build) -> None:
    step = CopyStep(
        platform=Platform("linux", "amd64"), sources=(FromContext("other", ("dir/one", "link")),), target="/n/"
    )
    context = build.opened("-", stdin=io.BytesIO(a_tar()))
    assert described(build.items(step, contexts={"other": context})) == {
        "n": "directory", "n/one": "file 600 1", "n/link": "file 600 1"
    }  # fmt: skip
    context.close()


def test_reading_past_the_limit(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "MAX_READ", 3)
    context = build.opened()
    with pytest.raises(LimitExceeded, match="more than 3 bytes"):
        context.read("Dockerfile")
    context.close()
