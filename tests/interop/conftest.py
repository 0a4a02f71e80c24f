"""What the tests of several files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker_engine import Docker, docker_daemon
from sequences import Engine
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
