"""The digest of what a step reads from the union of another step, for its key: the same files in other layers give
the same digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.build.files import copy_sources
from lamina.build.patterns.trees import UnionTree
from lamina.build.steps import CopyStep, FromStep, RunMount, Step

if TYPE_CHECKING:
    from lamina.source.stack import Stack


def content_digest(step: Step, source: FromStep | RunMount, stack: Stack | None) -> str:
    """``stack``: the layers of the step that ``source`` names. Raises PathNotFound, UsageError."""
    tree = UnionTree(stack, "the stage")
    if isinstance(source, RunMount):
        return copy_sources.digest(tree, [source.source or "/"], is_path=True)
    exclude, parents = (step.exclude, step.parents) if isinstance(step, CopyStep) else ((), False)
    return copy_sources.digest(tree, source.patterns, exclude=exclude, parents=parents)
