"""`pack --kernel`: the kernel's layer, below the programs, and below an operating system that is there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import lamina, write_layout
from unit.run.machine.test_kernel_layer import FILES, as_tar, in_directory, in_file

ARM = bytes(56) + b"ARM\x64" + bytes(64)


def ok(root: Path, *words: str) -> str:
    done = lamina(*words, root=root, SOURCE_DATE_EPOCH="2000")
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def layers(root: Path, image: str) -> list[tuple[str, str]]:
    return [(row["digest"], row["step"]) for row in json.loads(ok(root, "layers", image, "--format", "json"))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    system = [("usr/lib/", None), ("lib", "-> usr/lib"), ("boot/", None), ("usr/lib/libc", b"c")]
    config = {"architecture": "amd64", "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]}}
    write_layout(tmp_path / "layout", "system", [system], config=config)
    ok(tmp_path / "store", "load", "-i", str(tmp_path / "layout"))
    return tmp_path / "store"


def test_a_directory_its_kernel_and_a_package_give_the_same_image(root: Path, tmp_path: Path) -> None:
    tree = in_directory(tmp_path, FILES)
    made = ok(root, "pack", "--kernel", tree, "-t", "kernel")
    assert ok(root, "pack", "--kernel", f"{tree}/boot/vmlinuz-6.1.0-cloud", "-t", "again") == made
    package = in_file(tmp_path, "linux.tar", as_tar({f"./{name}": content for name, content in FILES.items()}))
    (digest, step), *rest = layers(root, "kernel")
    assert (step, rest) == ("lamina pack --kernel 6.1.0-cloud", [])
    ok(root, "pack", "--kernel", package, "-t", "packed")
    assert ok(root, "ls", "packed", "/usr/lib/modules/6.1.0-cloud") == ok(
        root, "ls", "kernel", "/usr/lib/modules/6.1.0-cloud"
    )
    ok(root, "pack", "--kernel", tree, "--base", "system", "-t", "above")
    ok(root, "pack", "--kernel", tree, "--file", f"{tree}/usr:/srv", "-t", "whole")
    assert (layers(root, "above")[1], layers(root, "whole")[0]) == ((digest, step), (digest, step))
    assert [len(layers(root, image)) for image in ("above", "whole")] == [2, 2]
    for image in ("above", "whole"):
        assert "modules.builtin" in ok(root, "ls", image, "/usr/lib/modules/6.1.0-cloud")


def test_rebase_puts_a_kernel_below_an_operating_system(root: Path, tmp_path: Path) -> None:
    ok(root, "pack", "--kernel", in_directory(tmp_path, FILES), "-t", "kernel")
    ok(root, "rebase", "system", "--old-base", "scratch", "--onto", "kernel", "-t", "machine")
    below, above = layers(root, "machine")
    assert [below] == layers(root, "kernel")
    assert [above[0]] == [digest for digest, _ in layers(root, "system")]
    assert "modules.builtin" in ok(root, "ls", "machine", "/lib/modules/6.1.0-cloud")  # through the symlink /lib
    config = json.loads(ok(root, "config", "--local", "machine"))
    assert (config["config"]["Cmd"], config["config"]["Env"]) == (["sh"], ["PATH=/bin"])


def test_the_image_is_for_the_kernels_architecture(root: Path, tmp_path: Path) -> None:
    kernel = in_directory(tmp_path, {"boot/Image": ARM})
    done = lamina("pack", "--kernel", kernel, "-t", "arm", root=root)
    assert done.returncode == 0
    assert b"comes without modules" in done.stderr
    assert json.loads(ok(root, "config", "--local", "arm"))["architecture"] == "arm64"
    done = lamina("pack", "--kernel", kernel, "--base", "system", "-t", "x", root=root)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 2)
    assert b"the kernel is for arm64, the rest of the image for amd64" in done.stderr


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [(b"text", 4, b"is not a kernel image"), (None, 3, b"no kernel at"), (as_tar({"a": b""}), 3, b"no kernel in")],
)
def test_refusals(root: Path, tmp_path: Path, content: bytes | None, code: int, message: bytes) -> None:
    path = str(tmp_path / "none") if content is None else in_file(tmp_path, "file", content)
    done = lamina("pack", "--kernel", path, "-t", "x", root=root)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (code, b"", 1)
    assert message in done.stderr
    assert lamina("inspect", "x", root=root).returncode != 0
