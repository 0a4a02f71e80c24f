"""Verbs and options that a virtual machine does not have: one clear line each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_machine import boot, eventually
from integration.run.test_run import members
from kernel_package import kernel_path, kernel_tree
from support import lamina, require_root, store_with, write_layout

CHECKED = {"config": {"Healthcheck": {"Test": ["CMD", "false"], "Interval": 10**9, "Retries": 1}}}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_root()
    kernel_tree()
    write_layout(tmp_path / "layout", "app", [members()], config=CHECKED)
    root = Path(str(store_with(tmp_path / "layout", tmp_path / "store", "app").paths.root))
    yield root
    lamina("rm", "--all", "--force", root=root)


def refused(root: Path, *words: str) -> str:
    done = lamina(*words, root=root)
    assert done.returncode != 0
    (line,) = done.stderr.decode().splitlines()
    return line


def test_verbs_that_would_have_to_look_inside(root: Path) -> None:
    script = "echo kept >/etc/kept; echo up; sleep 600 & wait"
    assert boot(root, "-d", "--name", "vm", "app", "sh", "-c", script).returncode == 0
    eventually(lambda: lamina("logs", "vm", root=root).stdout == b"up\n")
    for words in (["exec", "vm", "true"], ["top", "vm"], ["healthcheck", "run", "vm"]):
        assert refused(root, *words).startswith(f"lamina: `{words[0]}` can't reach into the virtual machine vm (")
    assert "virtual machine vm can't be changed while it runs (stop it" in refused(root, "update", "-m", "1g", "vm")
    assert lamina("update", "--restart", "on-failure:1", "vm", root=root).returncode == 0
    shown = lamina("ps", "--format", "{{.State}} {{.Status}}", root=root).stdout
    assert shown.startswith(b"running Up")
    assert b"health" not in shown  # nobody can run the image's check
    used = lamina("stats", "--no-stream", "--format", "{{.MemUsage}}", "vm", root=root).stdout
    assert used.endswith(b" / 512MiB\n")
    unit = lamina("generate", "systemd", "--new", "vm", root=root).stdout.decode()
    assert f" -d --rm --kernel={kernel_path()} --name=vm --quiet" in unit
    (start,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert " boot --cidfile=" in start
    assert "--runtime" not in start
    assert lamina("kill", "vm", root=root).returncode == 0
    assert lamina("wait", "vm", root=root).stdout == b"137\n"
    assert lamina("cp", "vm:/etc/kept", "-", root=root).stdout.find(b"kept\n") > 0  # KILL is not a loss of power
    assert lamina("update", "-m", "300m", "vm", root=root).returncode == 0
    shown = lamina("inspect", "--format", "{{.HostConfig.Memory}}", "vm", root=root).stdout
    assert shown == b"%d\n" % (300 << 20)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--privileged"], "--privileged: a virtual machine has no such option (leave it out, or use `lamina run`)"),
        (["--cap-add", "ALL"], "--cap-add: a virtual machine has no such option"),
        (["--nosuch"], "No such option '--nosuch'"),
        (["--kernel", "/no/such"], "no such file: /no/such (check the path of --kernel)"),
        (["--kernel", "vmlinuz"], "(write --kernel ./vmlinuz for the file in this directory; "),
    ],
)
def test_options_that_a_machine_does_not_have(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    (tmp_path / "vmlinuz").touch()
    monkeypatch.chdir(tmp_path)
    done: subprocess.CompletedProcess[bytes] = lamina("boot", "--rm", *words, "app", "true", root=root)
    (line,) = done.stderr.decode().splitlines()
    assert said in line
    assert done.returncode == 125
    assert lamina("ps", "-aq", root=root).stdout == b""
