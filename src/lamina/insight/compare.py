"""Two sides compared in all that they are: files, config, history."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lamina.insight.config_diff import ConfigChange, StepChange, diff_configs, diff_histories
from lamina.insight.content import SideContents
from lamina.insight.diff import FIELDS, Change, diff_trees
from lamina.insight.side import Side

ASPECTS = (*FIELDS, "config", "created", "history")
"""What can be ignored. ``created``: when config and history say that they were made."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between ``before`` and ``after``, at ``path`` and below."""

    before: Side
    after: Side
    path: bytes
    changes: tuple[Change, ...]
    config: tuple[ConfigChange, ...]
    history: tuple[StepChange, ...]

    @property
    def differ(self) -> bool:
        return bool(self.changes or self.config or self.history)


def compare(
    before: Side, after: Side, path: bytes = b"", *, ignore: Collection[str] = (), renames: bool = True
) -> Comparison:
    """Files at ``path`` and below; config and history where the whole of both sides is compared, and both have them.
    ``ignore``: of ``ASPECTS``. Raises PathNotFound, InvalidContent, SystemFailure."""
    layers = ([layer.diff_id for layer in before.layers], [layer.diff_id for layer in after.layers])
    before.merge_with(after)
    changes = diff_trees(
        before.tree,
        after.tree,
        SideContents(before, after),
        layers=layers,
        path=path,
        ignore=ignore,
        renames=renames,
    )
    config: list[ConfigChange] = []
    history: list[StepChange] = []
    if not path and before.config is not None and after.config is not None:
        created = "created" not in ignore
        if "config" not in ignore:
            config = diff_configs(before.config, after.config, created=created)
        if "history" not in ignore:
            history = diff_histories(before.config.history, after.config.history, created=created)
    return Comparison(before, after, path, tuple(changes), tuple(config), tuple(history))
