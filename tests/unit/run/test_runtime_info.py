"""What `info` prints about the runtime: its version, and the features that it lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lamina.errors import Unsupported
from lamina.host import privileges
from lamina.run import network, runtime_info
from lamina.run.bubblewrap import bpf, cgroup
from lamina.run.runtime import Runtime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux's")


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo runc version 1.1.5+ds1; echo spec: 1.0.2", "1.1.5+ds1"),
        ("echo bubblewrap 0.11.0", "0.11.0"),
        ("echo no; exit 1", ""),
        ("", ""),
    ],
)
def test_the_version_is_the_last_word_of_the_first_line(tmp_path: Path, script: str, version: str) -> None:
    program = tmp_path / "runtime"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert runtime_info.version(str(program)) == version
    assert runtime_info.version(str(tmp_path / "missing")) == ""


def no_library() -> None:
    raise Unsupported("without libseccomp", hint="install libseccomp2")


@pytest.mark.parametrize(
    ("program", "root", "cgroups", "pasta", "starts"),
    [
        ("/x/runc", True, "", "", []),
        ("/x/runc", False, "", "", ["no limits (--memory, --cpus, --pids-limit): a plain user"]),
        (
            "/x/runc",
            True,
            "",
            "pasta is missing",
            ["no network but the host's (--network host): pasta is missing"],
        ),
        ("/x/bwrap", True, "", "", ["no filter", "no set-user-ID", "no separate IDs"]),
        ("/x/bwrap", False, "", "", ["no limits", "no filter", "no set-user-ID"]),
        ("/x/bwrap", True, "x is not writable", "", ["no limits", "no filter", "no set-user-ID", "no separate IDs"]),
    ],
)
def test_missing_features_are_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, program: str, root: bool, cgroups: str, pasta: str, starts: list[str]
) -> None:
    monkeypatch.setattr(privileges, "is_root", lambda: root)
    monkeypatch.setattr(cgroup, "refusal", lambda: cgroups)
    monkeypatch.setattr(network, "refusal", lambda: pasta)
    monkeypatch.setattr(bpf, "load", no_library)
    found = runtime_info.missing(Runtime(program, root, root))
    assert len(found) == len(starts)
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True)), found
    assert not cgroups or found[0].endswith(f": {cgroups}")


@pytest.mark.parametrize(
    ("taken", "hybrid", "whys"),
    [
        ("runc", True, {"crun": "of both versions", "bwrap": "last choice"}),
        ("crun", False, {"runc": "crun starts a container in less time", "bwrap": "last choice"}),
    ],
)
def test_other_installed_runtimes_are_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, taken: str, hybrid: bool, whys: dict[str, str]
) -> None:
    monkeypatch.setattr(runtime_info, "is_hybrid", lambda: hybrid)
    monkeypatch.setattr(runtime_info, "find_program", lambda name: f"/x/{name}")
    found = {one["name"]: one["why"] for one in runtime_info.others(Runtime(f"/x/{taken}", True, True))}
    assert found.keys() == whys.keys()
    assert all(whys[name] in why for name, why in found.items()), found
