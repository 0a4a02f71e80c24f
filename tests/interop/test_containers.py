"""docker and lamina run the same sequences of verbs of containers (`corpus/containers.txt`): the same exit codes,
outputs and states. What is meant to differ is in ``DIFFERENCES``, and in oracles.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from docker_engine import docker_daemon
from sequences import FILES, PROGRAMS, Answer, Engine, play, sequences
from support import busybox, lamina, require_tool, write_layout

pytestmark = pytest.mark.peer
SECTIONS = sequences((Path(__file__).parent.parent / "corpus/containers.txt").read_text())
_PLACES = {name: number for number, name in enumerate(name for section in SECTIONS.values() for name in section)}
_AT_ONCE = 4

CONFIGS: dict[str, dict[str, Any]] = {
    "app": {"Cmd": ["sh"]},
    "full": {
        "Env": ["PATH=/bin", "A=image"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["live"],
        "User": "0:0",
        "WorkingDir": "/tmp",
        "Labels": {"of": "image"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000, "Retries": 5},
    },
    "stopsignal": {"Cmd": ["live"], "StopSignal": "SIGUSR1"},
    "healthy": {
        "Cmd": ["live"],
        "Healthcheck": {
            "Test": ["CMD", "true"],
            "Interval": 200_000_000,
            "Timeout": 3_000_000_000,
            "Retries": 2,
        },
    },
}

_REFUSED = "refusals of `run` and `create` are 125, of `exec` and `start` 125 to 127 or lamina's own codes"
DIFFERENCES: dict[str, dict[str, str]] = {}
"""The lines of sequences whose answers are meant to differ, and why."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """docker and lamina with the same images."""
    require_tool("runc", "ip", "iptables")
    top = tmp_path_factory.mktemp("containers")
    names = subprocess.run([busybox_program(), "--list"], capture_output=True, text=True, check=True).stdout.split()
    layer = [
        ("bin/", None),
        ("bin/busybox", busybox(), {"mode": 0o755}),
        *((f"bin/{name}", "-> busybox") for name in names if name != "busybox"),
        *((f"bin/{name}", b"#!/bin/sh\n" + text.encode(), {"mode": 0o755}) for name, text in PROGRAMS.items()),
        ("etc/", None),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", b"root:x:0:\n"),
        ("tmp/", None, {"mode": 0o1777}),
    ]
    for name, config in CONFIGS.items():
        write_layout(top / "layout", name, [layer], config={"config": config})
    store = top / "store"
    for words in (("load", "-q", "-i", str(top / "layout")), ("save", "-o", str(top / "all.tar"), *CONFIGS)):
        done = lamina(*words, root=store)
        assert done.returncode == 0, done.stderr
    with docker_daemon(network=True) as docker:
        docker.ok("load", "-i", str(top / "all.tar"))
        own = {**os.environ, "LAMINA_ROOT": str(store), "TAKEN": "taken", "PYTHONWARNINGS": "error"}
        yield (
            Engine(tuple(docker.command), docker.environment | {"TAKEN": "taken"}),
            Engine((sys.executable, "-m", "lamina"), own),
        )
    assert lamina("rm", "--all", "--force", "--volumes", root=store).returncode == 0


def busybox_program() -> str:
    require_tool("busybox")
    return "busybox"


@pytest.mark.parametrize("section", SECTIONS)
def test_verbs_of_containers(engines: tuple[Engine, Engine], section: str, tmp_path: Path) -> None:
    def told(name: str) -> list[list[Answer]]:
        found = []
        for engine in engines:
            files = tmp_path / f"{_PLACES[name]}" / "files"  # the same path for both
            files.mkdir(parents=True)
            for file, text in FILES.items():
                (files / file).write_text(text)
            found.append(play(engine, _PLACES[name], SECTIONS[section][name], files))
            files.rename(tmp_path / f"{_PLACES[name]}" / f"files-{len(found)}")
        return found

    alone = any(text.startswith("alone") for text in SECTIONS[section].values())
    with ThreadPoolExecutor(1 if alone else _AT_ONCE) as pool:
        answers = dict(zip(SECTIONS[section], pool.map(told, SECTIONS[section]), strict=True))
    wrong = [line for name, (theirs, ours) in answers.items() for line in compared(name, theirs, ours)]
    assert not wrong, "\n" + "\n".join(wrong)


def compared(name: str, theirs: list[Answer], ours: list[Answer]) -> Iterator[str]:
    """What is wrong with our answers, in lines."""
    meant = DIFFERENCES.get(name, {})
    for their, our in zip(theirs, ours, strict=True):
        if their != our and their.line not in meant:
            yield f"=== {name}\ndocker: {their}\nlamina: {our}"
    same = {their.line for their, our in zip(theirs, ours, strict=True) if their == our}
    for line in meant.keys() & same:
        if all(their == our for their, our in zip(theirs, ours, strict=True) if their.line == line):
            yield f"=== {name}\nthe answers to {line!r} do not differ: take it out of DIFFERENCES"
