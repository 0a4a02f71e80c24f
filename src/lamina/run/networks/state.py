"""`network.json` in the directory of a container: the networks and ports that it has while it runs."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.host.files import read_regular, replace_file, reported
from lamina.light import TYPE_CHECKING
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from typing import Any

_NAME = "network.json"
_MAX = 1 << 20


def state_path(directory: str) -> str:
    """``directory``: of the container."""
    return os.path.join(directory, _NAME)


def read_state(directory: str) -> dict[str, Any]:
    """What the file says, with the keys ``networks`` (by name) and ``ports``; {} if there is none."""
    try:
        found = read_own(read_regular(state_path(directory), _MAX).decode())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def networks_in(directory: str) -> dict[str, Any]:
    """The networks that the container is on, by name; {} if the file has none, or is damaged."""
    found = read_state(directory).get("networks")
    return {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def write_state(directory: str, state: dict[str, Any]) -> None:
    """Raises SystemFailure."""
    replace_file(state_path(directory), [write_own(state).encode()], lasting=False)


def remove_state(directory: str) -> None:
    """Raises SystemFailure."""
    path = state_path(directory)
    with reported(path), suppress(FileNotFoundError):
        os.unlink(path)
