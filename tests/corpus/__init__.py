"""Dockerfiles, one or more for each instruction, option and odd rule of the Dockerfile reference. Each is built by
lamina and by other builders, and what they made is compared: ``tests/interop/test_build.py``."""

from __future__ import annotations

from corpus.adding import ADDING
from corpus.case import Case
from corpus.copying import COPYING
from corpus.ignoring import IGNORING
from corpus.language import LANGUAGE
from corpus.refusing import REFUSING
from corpus.running import RUNNING
from corpus.settings import SETTINGS
from corpus.stages import STAGES
from corpus.variables import VARIABLES

FAMILIES: dict[str, dict[str, Case]] = {
    "language": LANGUAGE,
    "variables": VARIABLES,
    "stages": STAGES,
    "copying": COPYING,
    "adding": ADDING,
    "ignoring": IGNORING,
    "running": RUNNING,
    "settings": SETTINGS,
    "refusing": REFUSING,
}
CASES: dict[str, Case] = {
    f"{family}: {name}": case for family, cases in FAMILIES.items() for name, case in cases.items()
}
OLD_CASES: list[str] = []
"""Those that builders before BuildKit know, or refuse with reason."""
