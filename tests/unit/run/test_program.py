"""The program of a container: where it is looked up, and its architecture."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.errors import Unsupported
from lamina.run.architecture import architecture, check_architecture, has_handler, interpreter, is_dynamic
from lamina.run.rootfs import Inside
from lamina.run.spec import INIT, is_same_architecture, program_paths
from lamina.spec.platform import Platform
from support import require_tool

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def elf(machine: int, *, little: bool = True, bits: int = 64) -> bytes:
    head = b"\x7fELF" + bytes([bits // 32, 1 if little else 2, 1]) + bytes(9)
    return head + struct.pack("<HHI" if little else ">HHI", 2, machine, 1) + bytes(40)


def with_headers(kinds: list[int], *, little: bool, bits: int) -> bytes:
    """An ELF file with program headers of these kinds, 8 bytes behind the header of the file."""
    order, wide = "<" if little else ">", bits == 64
    start, size = (72, 56) if wide else (60, 32)
    head = bytearray(elf(62, little=little, bits=bits)[: 64 if wide else 52])
    struct.pack_into(order + ("Q" if wide else "I"), head, 32 if wide else 28, start)
    struct.pack_into(order + "HH", head, 54 if wide else 42, size, len(kinds))
    table = b"".join(struct.pack(order + "I", kind).ljust(size, b"\3") for kind in kinds)
    return bytes(head) + bytes(8) + table


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize("bits", [32, 64])
def test_a_program_that_names_a_loader_is_dynamic(little: bool, bits: int) -> None:
    def seen(*kinds: int) -> bool:
        return is_dynamic(io.BytesIO(with_headers(list(kinds), little=little, bits=bits)))

    assert (seen(1, 1, 3), seen(3), seen(6, 3, 1)) == (True, True, True)
    assert (seen(), seen(1, 1, 2, 6)) == (False, False)


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n" + b"\3" * 99, b"\x7fELF", elf(62)[:40], b"\x7fELF\7" + bytes(99)]
)
def test_truncated_elf_files_are_not_dynamic(data: bytes) -> None:
    assert not is_dynamic(io.BytesIO(data))


def test_the_python_interpreter_is_dynamic() -> None:
    with open(sys.executable, "rb") as file:
        assert is_dynamic(file)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (elf(62), "amd64"),
        (elf(62, bits=32), "amd64"),  # x32
        (elf(3, bits=32), "386"),
        (elf(183), "arm64"),
        (elf(40, bits=32), "arm"),
        (elf(22, little=False), "s390x"),
        (elf(21), "ppc64le"),
        (elf(21, little=False), "ppc64"),
        (elf(8), "mipsle"),
        (elf(8, little=False), "mips"),
        (elf(243), "riscv64"),
        (elf(258), "loong64"),
        (elf(0xBEEF), "ELF machine 48879"),
        (elf(0xBEEF, little=False), "ELF machine 48879"),
        (elf(62)[:19], ""),
        (b"#!/bin/sh\n", ""),
        (b"", ""),
    ],
)
def test_the_architecture_of_a_program(head: bytes, expected: str) -> None:
    assert architecture(head) == expected


def test_the_interpreter_of_a_script() -> None:
    assert interpreter(b"#!/bin/sh -e\nexit") == "/bin/sh"
    assert interpreter(b"#! /usr/bin/env python3") == "/usr/bin/env"
    assert interpreter(b"#!\n/bin/sh") == ""
    assert interpreter(b"#/bin/sh") == ""


def test_programs_are_looked_up_in_path() -> None:
    def found(*words: str, cwd: str = "/w", env: tuple[str, ...] = ("PATH=/a::b",)) -> list[str]:
        return program_paths({"args": list(words), "cwd": cwd, "env": ["X=1", *env]})

    assert found("x") == ["/a/x", "/w/x", "b/x"]
    assert found("./x") == ["/w/./x"]
    assert found("/x/y", "-a") == ["/x/y"]
    assert found(INIT, "--", "x", "--", "y") == ["/a/x", "/w/x", "b/x"]
    assert found("x", env=()) == ["/w/x"]


def test_programs_like_our_own_need_no_further_check() -> None:
    own = elf(62)
    assert is_same_architecture(elf(62)[:16] + b"\3" + own[17:20], own[:20])  # another type of file
    for other in (elf(183), elf(62, bits=32), elf(62, little=False), b"#!/bin/sh -euxo pipe"):
        assert not is_same_architecture(other, own[:20])
        assert not is_same_architecture(other[:20], other[:18])
    assert not is_same_architecture(b"", b"")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    for name, data in {
        "native": elf(62),
        "small": elf(3, bits=32),
        "foreign": elf(0xBEEF),
        "arm": elf(40, bits=32),
        "script": b"#!/bin/wrapper -x\n",
        "wrapper": b"#!/bin/foreign\n",
        "loop": b"#!/bin/loop\n",
        "relative": b"#!foreign\n",
        "gone": b"#!/bin/nothing\n",
        "text": b"nothing",
    }.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_bytes(data)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "first").mkdir()
    (tmp_path / "first/foreign").write_bytes(elf(62))  # no program: nobody may run it
    (tmp_path / "first/native").mkdir()
    (tmp_path / "link").symlink_to("/bin/foreign")
    return tmp_path


linux = pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux's")


def checked(image: Path, name: str, *covered: str, machine: Platform = AMD64) -> str:
    """The refused program and its architecture; "" if none is refused."""
    process = {"args": [name], "cwd": "/", "env": ["PATH=/first:/bin"]}
    with Inside(str(image)) as inside:
        try:
            check_architecture(process, inside, covered, machine)
        except Unsupported as error:
            words = error.message.split()
            return f"{words[0]} {words[words.index('for') + 1]}".rstrip(",")
    return ""


@linux
@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("native", ""),
        ("small", ""),  # amd64 runs 386
        ("foreign", "/bin/foreign ELF"),
        ("/link", "/link ELF"),
        ("script", "/bin/foreign ELF"),
        ("loop", ""),
        ("relative", ""),
        ("gone", ""),
        ("text", ""),
        ("nowhere", ""),
    ],
)
def test_programs_for_another_architecture_are_refused(image: Path, name: str, refused: str) -> None:
    assert checked(image, name) == refused


@linux
def test_a_program_under_a_mount_is_not_checked(image: Path) -> None:
    assert checked(image, "foreign", "/bin/") == ""
    assert checked(image, "foreign", "/bin/foreign") == ""
    assert checked(image, "foreign", "/bi", "/bin/other") == "/bin/foreign ELF"


@linux
def test_a_32_bit_program_runs_on_a_64_bit_host(image: Path) -> None:
    assert checked(image, "arm", machine=ARM64) == ""


REGISTERED = r"""
import subprocess, sys
from lamina.run.architecture import has_handler
head, other = map(bytes.fromhex, sys.argv[1:])
place = "/proc/sys/fs/binfmt_misc"
if subprocess.run(["mount", "-t", "binfmt_misc", "none", place], capture_output=True).returncode:
    print("skip")
    sys.exit()
with open(f"{place}/register", "w") as file:
    file.write(":lamina-test:M::" + "".join(f"\\x{byte:02x}" for byte in head[:20]) + "::/bin/false:")
print(has_handler(head), has_handler(other))
with open(f"{place}/lamina-test", "w") as file:
    file.write("0")
print(has_handler(head))
"""


@linux
def test_the_kernel_is_asked_for_a_handler_of_a_program() -> None:
    """The test registers handlers in its own user namespace (Linux 6.7)."""
    require_tool("unshare", "mount")
    head, other = elf(0xBEEF), elf(0xBEEE)
    assert not has_handler(head)
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", REGISTERED, head.hex()]
    done = subprocess.run([*command, other.hex()], capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or done.stdout == "skip\n":
        pytest.skip(f"no binfmt_misc of its own here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True False", "False"]
