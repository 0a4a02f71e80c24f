"""docker and lamina with the same images, for tests that compare what they answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docker_engine import docker_daemon
from sequences import PROGRAMS, Engine
from support import busybox, lamina, require_tool, write_layout

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
"""The configs of the images, by name."""


@contextmanager
def docker_and_lamina(top: Path) -> Iterator[tuple[Engine, Engine]]:
    """docker and lamina with the images of CONFIGS. ``top``: a directory for them."""
    require_tool("runc", "ip", "iptables", "busybox")
    names = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
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
            Engine(tuple(docker.command), docker.environment | {"TAKEN": "taken"}, (docker.top,)),
            Engine((sys.executable, "-m", "lamina"), own, (str(store),)),
        )
    assert lamina("rm", "--all", "--force", "--volumes", root=store).returncode == 0
