"""The architecture in the config of an image: the programs decide, and the seccomp filter is for the host's."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from integration.run.test_run import members
from support import lamina, require_root, require_tool, write_layout

FOREIGN = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 0xBEEF, 1) + bytes(100)


def loaded(where: Path, architecture: str | None, *more: object) -> Path:
    require_root()
    require_tool("runc", "bwrap", "busybox")
    write_layout(where / "l", "app", [members(*more)], config={"architecture": architecture})
    assert lamina("load", "-i", str(where / "l"), root=where / "s").returncode == 0
    return where / "s"


@pytest.mark.parametrize("architecture", [None, "", "x86_64", "AMD64", "386", "arm64", "unknown"])
def test_the_architecture_in_the_config_makes_no_difference(tmp_path: Path, architecture: str | None) -> None:
    root = loaded(tmp_path, architecture)
    for runtime in ("runc", "bwrap"):
        done = lamina("run", "--rm", "--network", "none", "--runtime", runtime, "app", "echo", "hi", root=root)
        assert (done.returncode, done.stdout) == (0, b"hi\n"), (runtime, done.stderr)
        words = ("app", "grep", "Seccomp:", "/proc/self/status")
        done = lamina("run", "--rm", "--network", "none", "--runtime", runtime, *words, root=root)
        assert done.stdout.split() == [b"Seccomp:", b"2"], (runtime, done.stderr)


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
def test_a_program_for_another_architecture_is_one_error_line(tmp_path: Path, runtime: str) -> None:
    root = loaded(
        tmp_path,
        "amd64",
        ("bin/foreign", FOREIGN, {"mode": 0o755}),
        ("bin/script", b"#!/bin/foreign\n", {"mode": 0o755}),
    )
    for program, named in (("foreign", "/bin/foreign"), ("/bin/script", "/bin/foreign")):
        words = ("--network", "none", "--runtime", runtime, "-v", "fresh:/data", "app", program)
        done = lamina("run", "--rm", *words, root=root)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1), done.stderr
        assert f"{named} in the image is a program for ELF machine 48879".encode() in done.stderr
        assert b"qemu-user-static" in done.stderr
        assert not (root / "volumes/fresh").exists()
        assert lamina("ps", "-aq", root=root).stdout == b""
