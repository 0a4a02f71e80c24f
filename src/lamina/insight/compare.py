"""Compares two sides completely: files, config, history."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from lamina.insight.as_json import file_size
from lamina.insight.change import FIELDS, LETTERS, Change
from lamina.insight.compare_content import SideContents
from lamina.insight.config_diff import ConfigChange, StepChange, diff_configs, diff_histories
from lamina.insight.diff import diff_trees
from lamina.insight.history import aligned
from lamina.insight.side import Side
from lamina.light import TYPE_CHECKING
from lamina.text import clean, json_path

if TYPE_CHECKING:
    from typing import Any

    from lamina.spec.image_config import History, ImageConfig

ASPECTS = (*FIELDS, "config", "created", "history")
"""What can be ignored. ``created``: the creation times in config and history."""


@dataclass(frozen=True, slots=True)
class Diff:
    """The differences between ``before`` and ``after``, at ``path`` and below. Iterates over ``changes``; true if
    anything differs. Two are equal if they have the same differences."""

    before: Side = field(compare=False)
    after: Side = field(compare=False)
    path: bytes
    changes: tuple[Change, ...]
    config: tuple[ConfigChange, ...]
    history: tuple[StepChange, ...]

    @property
    def differ(self) -> bool:
        return bool(self.changes or self.config or self.history)

    def __bool__(self) -> bool:
        return self.differ

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        """The number of paths that differ."""
        return len(self.changes)

    def to_json(self, *, content: bool = False) -> dict[str, Any]:
        """Return what `diff --format json` prints; with ``content`` also line differences of changed texts. Raises as
        ``text``."""
        counts = dict.fromkeys(LETTERS, 0)
        came = went = 0
        for change in self.changes:
            counts[change.how] += 1
            came += file_size(change.after)
            went += file_size(change.before)
        return {
            "before": _side_json(self.before),
            "after": _side_json(self.after),
            **json_path(self.path),
            "differ": self.differ,
            "summary": {**counts, "bytes_before": went, "bytes_after": came, "bytes_delta": came - went},
            "changes": [self.change_json(change, content=content) for change in self.changes],
            "config": [
                {"field": change.field, "before": change.before, "after": change.after} for change in self.config
            ],
            "history": [{"change": change.how, **change.step.to_json()} for change in self.history],
        }

    def change_json(self, change: Change, *, content: bool = False) -> dict[str, Any]:
        """Return one change as in ``to_json``. Raises as ``text``."""
        from lamina.insight.as_json import content_sum, entry_json

        value: dict[str, Any] = {"change": change.how, **json_path(change.path), "fields": list(change.fields)}
        for key, entry, side, node in (
            ("before", change.before, self.before, change.before_node),
            ("after", change.after, self.after, change.after_node),
        ):
            value[key] = None if entry is None else {**entry_json(entry), "layer": side.layer_of(node)}
        if content and "content" in change.fields:
            value["text"] = self.text(change)
            if value["text"] is None:
                for key, side, node in (
                    ("before", self.before, change.before_node),
                    ("after", self.after, change.after_node),
                ):
                    value[key]["digest"] = content_sum(side, node)[1]
        return value

    def _repr_html_(self) -> str:
        """Return a table for notebooks: the first changes, and how many more there are."""
        from lamina.insight.html import diff_html

        return diff_html((self.before.name, self.after.name), self.changes, self.config, self.history)

    def text(self, change: Change) -> list[str] | None:
        """Return a unified diff of a changed file's contents, not cleaned; None if one is missing, too large, or not
        text. Raises InvalidContent, SystemFailure."""
        from lamina.insight.text_diff import MAX_TEXT, unified

        if change.before is None or change.after is None or max(change.before.size, change.after.size) > MAX_TEXT:
            return None
        if "content" not in change.fields:
            return None
        with self.before.open(change.before_node) as stream:
            old = stream.read()
        with self.after.open(change.after_node) as stream:
            new = stream.read()
        return unified(old, new, (f"a/{clean(change.old_path)}", f"b/{clean(change.path)}"))


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "kind": side.kind,
        "digest": None if side.digest is None else str(side.digest),
        "layers": [side.first, side.first + side.depth - 1] if side.kind != "directory" else None,
    }


def compare(
    before: Side, after: Side, path: bytes = b"", *, ignore: Collection[str] = (), renames: bool = True
) -> Diff:
    """Compare the files at ``path`` and below. Config and history are compared if both sides are compared completely
    and have them; for a range of layers, the history steps that made them and the config of their image. ``ignore``:
    of ``ASPECTS``. Raises PathNotFound, InvalidContent, SystemFailure."""
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
            history = diff_histories(_steps(before, before.config), _steps(after, after.config), created=created)
    return Diff(before, after, path, tuple(changes), tuple(config), tuple(history))


def _steps(side: Side, config: ImageConfig) -> Sequence[History]:
    """Return the whole history; for a range of layers, the steps that made them."""
    layers = len(config.diff_ids)
    if len(side.layers) >= layers:
        return config.history
    top = side.first + len(side.layers) - 1
    return [step.history for step in aligned(config.history, layers, low=side.first, high=top) if step.recorded]
