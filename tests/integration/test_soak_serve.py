"""A short soak of the registry; `make soak-serve` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak_serve import Report, soak_storage, soak_store
from support import rounds

pytestmark = pytest.mark.timeout(280)
LENGTH = {"seconds": rounds(25, else_=12), "kill_every": rounds(8, else_=4), "clients": 16, "seed": 1}


def assert_whole(report: Report) -> None:
    assert not report.wrongs, str(report)
    assert report.kills >= 1
    assert {"push", "pull", "push_shared", "check"} <= report.done.keys()


def test_nothing_acknowledged_is_lost_while_the_server_is_killed_and_pruned(tmp_path: Path) -> None:
    assert_whole(soak_store(tmp_path, **LENGTH))


@pytest.mark.peer
def test_two_servers_over_object_storage_lose_nothing_when_they_are_killed_in_turn(tmp_path: Path) -> None:
    assert_whole(soak_storage(tmp_path, "versitygw", **LENGTH))
