"""Commands of the first hour of a newcomer who knows docker and podman."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.cli import run
from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from lamina.spec.platform import Platform
from lamina.store.store import Store
from support import lamina, make_tar, require_root, require_tool, write_layout

FILES: list[Any] = [("etc/", None), ("etc/motd", b"hello\n" * 20_000), ("etc/x", b"1")]
FILES += [(f"etc/f{number:04}", b"") for number in range(3000)]


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one image that has nine names, and layouts."""
    top = tmp_path_factory.mktemp("hour")
    write_layout(top / "one", "app:1", [FILES])
    for name in ("app:2", "lib/other"):
        write_layout(top / "two", name, [[("a", name.encode())]])
    assert lamina("load", "-i", str(top / "one"), root=top / "s").returncode == 0
    for number in range(2, 10):
        assert lamina("tag", "app:1", f"app:{number}", root=top / "s").returncode == 0
    write_layout(top / "next", "next", [FILES, [("b", b"")]])
    assert lamina("load", "-i", str(top / "next"), root=top / "s").returncode == 0
    return top


@pytest.fixture
def told(top: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command on this store, or on the one at ``root``; returns (exit code, stdout, stderr)."""

    def call(*words: str, root: Path | None = None) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["--root", str(root or top / "s"), *words])
        sys.stdout.flush()
        return code, *capfd.readouterr()

    return call


def test_docker_prefix_means_an_image_in_the_store(told: Any) -> None:
    """Where only the store is possible, as in podman."""
    assert told("tag", "docker://app:1", "gone")[0] == 0
    assert told("image", "exists", "docker://gone")[0] == 0
    assert told("image", "exists", "docker://nothing")[0] == 1
    assert "etc/motd" in told("find", "motd", "--in", "docker://gone")[1]
    assert told("rmi", "docker://gone")[1].startswith("untagged: docker.io/library/gone:latest\n")
    code, _, err = told("run", "--pull", "never", "docker://nothing", "true")
    assert (code, "no image 'nothing'" in err) == (125, True), err
    code, _, err = told("tag", "app:1", "docker://new")
    assert (code, "leave out the part up to //" in err) == (2, True)


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("oci:{top}/two", ["docker.io/lib/other:latest", "docker.io/library/app:2"]),
        ("oci:{top}/two:app:2", ["docker.io/library/app:2"]),
        ("oci-archive:{here}/oci.tar", ["docker.io/library/app:1"]),
        ("docker-archive:{here}/docker.tar", ["docker.io/library/app:1"]),
        ("dir:{here}/dir", [None]),
    ],
)
def test_pull_loads_layouts_and_archives(
    top: Path, told: Any, tmp_path: Path, place: str, names: list[str | None]
) -> None:
    kind = place.partition(":")[0]
    if "{here}" in place:
        target = place.format(here=tmp_path) + (":app:1" if kind != "dir" else "")
        assert told("copy", "-q", "app:1", target)[0] == 0
    code, _, err = told("pull", "-q", place.format(top=top, here=tmp_path), root=tmp_path / "new")
    assert (code, err) == (0, "")
    found = json.loads(told("images", "--format", "json", root=tmp_path / "new")[1])
    assert sorted(row["name"] or "" for row in found) == [name or "" for name in names]


def test_pull_all_tags_needs_a_registry(told: Any, top: Path) -> None:
    code, out, err = told("pull", "-a", f"oci:{top}/two")
    assert (code, out, "--all-tags is for registries" in err) == (2, "", True)


def test_long_lists_of_sharing_images_are_shortened(told: Any) -> None:
    (row,) = told("layers", "next", "--format", "{{.Number}} {{.SharedWith}}")[1].splitlines()[:1]
    assert row == "1 app:1, app:2, app:3 and 6 more"
    whole = told("layers", "next", "--no-trunc", "--format", "{{.SharedWith}}")[1].splitlines()[0]
    assert whole.split(", ") == [f"app:{number}" for number in range(1, 10)]
    assert len(json.loads(told("layers", "next", "--format", "json")[1])[0]["shared_with"]) == 9
    assert "app:1, app:2, app:3 and 6 more" in told("df")[1]


READERS = [
    "images",
    "--help",
    "ls -lR app:1 /",
    "cat app:1 /etc/motd",
    "tree app:1",
    "export app:1",
    "save app:1",
    "save --type oci-archive app:1",
    "cp app:1:/etc -",
    "inspect app:1",
    "completion bash",
    "find f",
]


@pytest.mark.parametrize("line", READERS)
def test_a_closed_pipe_ends_with_141_and_no_message(top: Path, line: str) -> None:
    """SIGPIPE ends git and docker in this case; a shell reports 141."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "lamina", "--root", str(top / "s"), *line.split()]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("verb", ["run -it app:1 sh", "exec -it nothing sh"])
def test_it_without_a_terminal_has_the_exit_code_of_docker(top: Path, verb: str) -> None:
    done = lamina(*verb.split(), root=top / "s", input=b"")
    assert (done.returncode, done.stderr) == (
        1,
        b"lamina: standard input is not a terminal (leave out -t or -i)\n",
    )


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("app:1:etc/x", ""),
        ("app:1:/etc/x", ""),
        ("app:1:etc/none", "/etc/none was not found in the image"),
        ("none:etc/x", "no container or image 'none' "),
        ("lib/none:etc/x", "if the name of the image has a /, write an absolute path"),
        ("lib/none:/etc/x", "no container or image 'lib/none' "),
        ("docker://127.0.0.1:1/none:/etc/x", "127.0.0.1:1 can't be reached"),
        ("x", "like `lamina cp web:/etc/hosts .`"),
    ],
)
def test_cp_out_of_an_image_with_and_without_a_slash(told: Any, tmp_path: Path, source: str, wrong: str) -> None:
    code, out, err = told("cp", source, str(tmp_path))
    assert (wrong in err, out) == (True, "")
    assert (code == 0) == (not wrong) == (tmp_path / "x").is_file()


@pytest.mark.parametrize("name", ["a/.wh.b", "a/.wh..wh..opq", ".wh.c"])
def test_cp_refuses_a_tar_with_the_name_of_a_whiteout(top: Path, name: str) -> None:
    """docker writes such a file, which an image can't contain."""
    store = Store.open(str(top / "s"))
    made = create(store, store.stack("app:1", Platform.host()), ContainerOptions())
    try:
        tar = make_tar([("a/", None), (name, b"")])
        done = lamina("cp", "-", f"{made.id}:/etc", root=top / "s", input=tar)
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"standard input has '{name}'".encode() in done.stderr
        assert lamina("cp", f"{made.id}:/etc/a", str(top / "out"), root=top / "s").returncode == 3
    finally:
        assert lamina("rm", made.id, root=top / "s").returncode == 0


def test_new_layers_skip_files_named_like_whiteouts_with_a_warning(top: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in (".wh.motd", "kept"):
        (tmp_path / "d" / name).write_bytes(b"")
    done = lamina("append", "app:1", f"{tmp_path}/d:/etc", "-t", "more", root=top / "s")
    assert done.returncode == 0
    assert b".wh.motd' is skipped" in done.stderr
    assert done.stderr.startswith(b"lamina: warning: ")
    names = lamina("ls", "more", "/etc", root=top / "s").stdout.split()
    assert {b"motd", b"kept"} <= set(names)


def test_without_a_terminal_each_blob_is_listed_once(top: Path, tmp_path: Path) -> None:
    told = lamina("copy", "app:1", f"oci:{tmp_path}/l:app", root=top / "s")
    lines = told.stderr.decode().splitlines()
    assert (told.stdout, sorted(line.split()[0] for line in lines[:-1])) == (b"", ["config", "layer", "manifest"])
    asked = lamina("copy", "app:1", f"oci:{tmp_path}/l:app", "--format", "table", root=top / "s")
    rows = [line.split()[0] for line in asked.stdout.decode().splitlines()]
    assert (asked.stderr, rows) == (b"", ["WHAT", "manifest", "config", "layer"])


@pytest.mark.parametrize("words", ["push app:1 {host}/x/app:1", "copy app:1 docker://{host}/x/app:1"])
def test_a_failed_push_names_the_image_the_registry_and_the_reason(told: Any, words: str) -> None:
    for host, why in (("127.0.0.1:1", "Connection refused"), ("nothing.invalid", "host not found")):
        code, out, err = told(*words.format(host=host).split())
        assert (code, out) == (8, "")
        (line,) = err.splitlines()
        assert line.startswith(f"lamina: app:1 to {host}/x/app:1: {host}"), line
        assert why in line
        assert "sha256:" not in line


@pytest.mark.parametrize(
    "words", ["pack sh -t A:b:c", "append app:1 {top}/one:/x -t A:b:c", "import {top}/one A:b:c"]
)
def test_an_invalid_name_is_refused_before_anything_is_written(told: Any, top: Path, words: str) -> None:
    code, _, err = told(*words.format(top=top).split())
    assert (code, "not a reference: 'A:b:c'" in err) == (2, True)
    assert told("prune", "--dry-run")[1] == "would be freed: 0B (0 bytes)\n"


def test_pull_newer_uses_the_stored_image_if_the_registry_is_unreachable(told: Any) -> None:
    require_root()
    require_tool("runc")
    code, _, err = told("run", "--rm", "--pull", "newer", "127.0.0.1:1/nothing", "true")
    assert (code, "Connection refused" in err) == (125, True), err
    assert told("tag", "app:1", "127.0.0.1:1/app:1")[0] == 0
    code, _, err = told("run", "--rm", "--pull", "newer", "127.0.0.1:1/app:1", "/nothing")
    assert (code, "Connection refused" in err) == (127, False), err
    assert told("rmi", "127.0.0.1:1/app:1")[0] == 0


def test_run_of_a_name_that_can_not_be_pulled_suggests_the_nearest_image(told: Any) -> None:
    require_root()
    require_tool("runc")
    assert told("tag", "app:1", "127.0.0.1:1/base")[0] == 0
    code, _, err = told("run", "--rm", "127.0.0.1:1/bse", "true")
    assert code == 125
    assert "Connection refused" in err
    assert "did you mean '127.0.0.1:1/base' of the store?" in err
    code, _, err = told("run", "--rm", "--pull", "always", "127.0.0.1:1/base", "true")
    assert (code, "Connection refused" in err, "did you mean" in err) == (125, True, False)
    assert told("rmi", "127.0.0.1:1/base")[0] == 0


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("load", 4, "standard input is not an archive of images: it has no manifest.json or index.json"),
        ("rmi", 2, "Missing argument 'IMAGE...'"),
        ("run --link a:b app:1", 125, "--link: links are not supported"),
        ("run --mount type=bind,src=./nothing,dst=/x app:1 true", 125, "check the path of --mount"),
    ],
)
def test_common_mistakes_get_one_clear_line(top: Path, line: str, code: int, said: str) -> None:
    done = lamina(*line.split(), root=top / "s", input=b"")
    (told,) = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout, said in told) == (code, b"", True), told


def test_tree_accepts_L_for_depth(told: Any) -> None:
    assert told("tree", "-L", "1", "app:1") == told("tree", "--depth", "1", "app:1")


def test_save_says_that_it_writes(top: Path, tmp_path: Path) -> None:
    done = lamina("save", "-o", str(tmp_path / "a.tar"), "app:1", root=top / "s")
    assert {line.split()[-1] for line in done.stderr.decode().splitlines()[:-1]} == {"written"}
