"""What the tests of several files share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployed import make_server_image
from docker_engine import Docker, docker_daemon
from sequences import Engine
from support import require_root, require_tool
from two_engines import docker_and_lamina


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """One daemon a worker. A test removes the images that it made."""
    with docker_daemon() as found:
        yield found


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """docker and lamina with the same images. A test removes its containers."""
    with docker_and_lamina(tmp_path_factory.mktemp("engines")) as found:
        yield found


@pytest.fixture(scope="session")
def server_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the image "lamina" of deploy/container. All workers of a run have the same one."""
    require_root()
    require_tool("runc")
    own = tmp_path_factory.getbasetemp()
    top = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "deploy"
    top.mkdir(exist_ok=True)
    with open(top / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (top / "made").exists():
            make_server_image(top / "store", top)
            (top / "made").touch()
    return top / "store"
