"""COPY, ADD and WORKDIR as the items of a layer, straight from contexts and unions: no container, nothing mounted.

A build of which all steps are in the cache asks only for ``digests``: what writes layers is in ``copied_items``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from lamina.build.steps import CopyStep, DirectoryStep, FromContext, Inline, Remote, Repository

if TYPE_CHECKING:
    from lamina.build.files.copied_items import Items
    from lamina.build.protocols import Inputs, Log
    from lamina.layer.tar_write import Item
    from lamina.source.stack import Stack


def digests(step: CopyStep, inputs: Inputs) -> dict[str, str]:
    """For the key: a named digest for each source that is not a stage. Raises PathNotFound, UsageError, and what
    fetching raises."""
    found: dict[str, str] = {}
    for source in step.sources:
        if isinstance(source, FromContext):
            context = inputs.context(source.name)
            for pattern in source.patterns:
                name = f"context {source.name + ':' if source.name else ''}{pattern}"
                found[name] = context.digest([pattern], exclude=step.exclude, parents=step.parents)
        elif isinstance(source, Inline):
            from lamina.spec.digest import Digest

            found[f"document {source.name}"] = str(Digest.of(source.content))
        elif isinstance(source, Remote):
            from lamina.build.files import fetch

            name, value = fetch.identity(source, inputs)
            found[name] = value
        elif isinstance(source, Repository):
            from lamina.build.files import git

            name, value = git.identity(source, inputs)
            found[name] = value
    return found


def copied(step: CopyStep, below: Stack | None, inputs: Inputs, log: Log) -> AbstractContextManager[Items]:
    """The items of the layer of COPY or ADD, with the directories that are missing above. What the items open exists
    while the block runs. Raises PathNotFound, UsageError, NotFound (no such user), and what fetching raises."""
    from lamina.build.files import copied_items

    return copied_items.copied(step, below, inputs, log)


def made(step: DirectoryStep, below: Stack | None) -> list[Item]:
    """WORKDIR: the directories that are missing; [] where all exist. Their time is that of the directory above.
    Raises UsageError (a file is there)."""
    from lamina.build.files import copied_items

    return copied_items.made(step, below)
