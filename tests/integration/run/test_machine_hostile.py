"""Machines under what a stranger does: signals while they start, odd environments, hostile files of an image."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_machine import eventually, machines
from integration.run.test_run import make_store, members, mounts_of
from kernel_package import kernel_path, kernel_tree
from support import lamina, require_root, running


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    kernel_tree()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = make_store(tmp_path, [members()])
    yield root
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []
    eventually(lambda: not machines(root))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("more", [("--rm",), ("-d",)])
def test_a_signal_while_it_starts_ends_the_machine(root: Path, number: int, more: tuple[str, ...]) -> None:
    words = ("boot", "-q", "--kernel", str(kernel_path()), "--name", "vm", *more, "app", "sleep", "600")
    with running(*words, root=root) as process:
        eventually(lambda: machines(root))
        process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.read().strip() == b"lamina: interrupted"
        assert process.wait(30) == 130
    assert machines(root) == []
    names = b"" if "--rm" in more else b"vm created\n"
    assert lamina("ps", "-a", "--format", "{{.Names}} {{.State}}", root=root).stdout == names
