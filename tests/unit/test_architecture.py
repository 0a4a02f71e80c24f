"""docs/architecture.md names every module: who looks for one finds what it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lamina

SOURCE = Path(lamina.__file__).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py") if path.parent.name != "cli")


@pytest.mark.parametrize("room", ROOMS)
def test_names_all_that_is_in_a_room(room: str) -> None:
    who_knows_what = DOCUMENT.read_text().partition("## Who knows what")[2]
    (row,) = re.findall(rf"^\| `{room}/` \|.*$", who_knows_what, re.MULTILINE)
    modules = {path.stem for path in (SOURCE / room).glob("*.py")} - {"__init__"}
    assert modules - set(re.findall(r"\w+", row)) == set()


def test_names_what_stands_alone() -> None:
    modules = {path.name for path in SOURCE.glob("*.py")} - {"__init__.py", "__main__.py", "version.py"}
    assert {name for name in modules if f"`{name}`" not in DOCUMENT.read_text()} == set()
