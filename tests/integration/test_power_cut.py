"""A few power cuts; `python tests/power_cut.py --rounds 50` makes more of them."""

from __future__ import annotations

import random
from pathlib import Path

import power_cut
from support import require_root, require_tool, rounds


def test_after_a_power_cut_no_named_image_is_lost_or_damaged(tmp_path: Path) -> None:
    require_root()
    require_tool("mkfs.xfs", "mkfs.ext4", "losetup", "unshare")
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    count = rounds(5, 2)
    assert len(power_cut.rounds(tmp_path, count, random.Random(seed))) == count
