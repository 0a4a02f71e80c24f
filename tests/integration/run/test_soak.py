"""The soak of containers (`make soak`), for some seconds."""

from __future__ import annotations

from pathlib import Path

from soak_containers import Soak
from support import require_root, require_tool, rounds


def test_nothing_is_left_of_containers_that_are_killed_at_random(tmp_path: Path) -> None:
    require_root()
    require_tool("runc", "pasta", "busybox")
    soak = Soak(tmp_path, seconds=rounds(30, else_=8), containers=16, processes=4, seed=24, ports=True)
    report = soak.run()
    assert not report.wrong, str(report)
    assert report.done["run"] > 0
    assert report.monitors_killed > 0
