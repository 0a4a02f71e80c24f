"""Users of containers with a misleading passwd in the image: a number is never a name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members, wait_for
from support import lamina, require_root, require_tool, running

PASSWD = b"""root:x:0:0::/root:/bin/sh
1000:x:0:0::/root:/bin/sh
real:x:1000:1001::/home/real:/bin/sh
4294967296:x:0:0::/root:/bin/sh
99999999999:x:0:0::/root:/bin/sh
short:x:12:13
"""
GROUP = b"root:x:0:\n1001:x:0:\nmore:x:1002:real\n"


def image(**config: str) -> tuple[list[list[object]], dict[str, str]]:
    return [members(), [("etc/passwd", PASSWD), ("etc/group", GROUP)]], config


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_root()
    require_tool("runc", "busybox", "bwrap")
    layers, _ = image()
    store = make_store(tmp_path, layers)
    yield store
    lamina("rm", "--all", "--force", root=store)


def seen(root: Path, *words: str) -> tuple[int, list[str], str]:
    done = lamina(
        "run", "--rm", "--network", "none", *words, "app", "sh", "-c", "id -u; id -g; id -G; echo $HOME", root=root
    )
    return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode()


@pytest.mark.parametrize("runtime", ["runc", "bwrap"])
@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("1000", ["1000", "1001", "1001 1002", "/home/real"]),
        ("1000:1001", ["1000", "1001", "1001", "/home/real"]),
        ("short:", ["12", "13", "13", "/"]),
    ],
)
def test_a_numeric_user_is_an_id(root: Path, runtime: str, user: str, expected: list[str]) -> None:
    code, lines, said = seen(root, "--runtime", runtime, "-u", user)
    assert (code, lines) == (0, expected), said


@pytest.mark.parametrize("user", ["4294967295", "4294967296", "99999999999", "1000:4294967296"])
def test_a_number_out_of_range_starts_nothing(root: Path, user: str) -> None:
    code, lines, said = seen(root, "-u", user)
    assert (code, lines) == (125, [])
    assert "out of range" in said
    assert said.count("\n") == 1
    assert lamina("ps", "-aq", root=root).stdout == b""


def test_the_images_own_user(tmp_path: Path) -> None:
    require_root()
    require_tool("runc", "busybox")
    for number, (user, expected) in enumerate(
        [("1000", ["1000", "1001", "1001 1002", "/home/real"]), ("99999999999", [])]
    ):
        layers, config = image(User=user)
        code, lines, said = seen(make_store(tmp_path / str(number), layers, **config))
        assert (code, lines) == (0 if expected else 125, expected), said


def test_exec_as_a_number(root: Path) -> None:
    words = ("run", "--name", "c", "--network", "none", "app", "sh", "-c", "echo up; exec sleep 600")
    with running(*words, root=root) as process:
        wait_for(process, b"up\n")
        for user, expected in (("1000", b"1000\n1001\n"), ("1000:1001", b"1000\n1001\n")):
            done = lamina("exec", "-u", user, "c", "sh", "-c", "id -u; id -g", root=root)
            assert (done.returncode, done.stdout) == (0, expected), done.stderr
        done = lamina("exec", "-u", "4294967296", "c", "id", root=root)
        assert done.returncode != 0
        assert b"out of range" in done.stderr
        assert lamina("rm", "--force", "c", root=root).returncode == 0
