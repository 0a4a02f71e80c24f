"""What the tests of several files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker_engine import Docker, docker_daemon


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """One daemon a worker. A test removes the images that it made."""
    with docker_daemon() as found:
        yield found
