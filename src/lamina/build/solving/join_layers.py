"""``--squash``: the layers that a build made become one, on top of those of its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lamina.build.planning.keys import VERSION, key_of
from lamina.build.solving.cache import Cache, Made, Record
from lamina.build.solving.solve import BuildInputs
from lamina.build.solving.step_result import EMPTY, Result
from lamina.build.steps import BaseStep, Planned, Step
from lamina.edit.publish import Packing, new_layer, timestamp
from lamina.edit.squash import items_of
from lamina.spec.image_config import History
from lamina.union.squashed import squashed

if TYPE_CHECKING:
    from lamina.store.session import StoreSession


def joined(
    planned: Planned, inputs: BuildInputs, session: StoreSession, cache: Cache, packing: Packing
) -> tuple[Planned, Mapping[Step, Result]]:
    """The image with its new layers joined into one, whose history entry is the last. The others are marked as empty.
    Raises InvalidLayer, SystemFailure."""
    step, results = planned.step, dict(inputs.results)
    if step is None:
        return planned, results
    base = base_of(step)
    below = EMPTY if base is None else results[base]
    above = results[step]
    count = above.count - below.count
    if count < 2:
        return planned, results
    made = _joined(above, below, step, inputs, session, cache, packing)
    history, bottom = [], below.count
    for entry in planned.history:
        bottom -= not entry.empty_layer
        history.append(entry if bottom >= 0 else replace_empty(entry))
    created = history[-1].created if inputs.epoch is not None else None
    history.append(History(created, "", "", f"{count} layers joined by --squash"))
    top = _Joined(below=base, platform=step.platform)
    results[top] = Result(below, made)
    return replace(planned, step=top, history=tuple(history)), results


class _Joined(Step):
    """Stands for all steps whose layers were joined."""


def base_of(step: Step) -> BaseStep | None:
    """The base image below a step."""
    found: Step | None = step
    while found is not None and not isinstance(found, BaseStep):
        found = found.below
    return found


def replace_empty(entry: History) -> History:
    return History(entry.created, entry.created_by, entry.author, entry.comment, empty_layer=True)


def _joined(
    above: Result,
    below: Result,
    step: Step,
    inputs: BuildInputs,
    session: StoreSession,
    cache: Cache,
    packing: Packing,
) -> Made:
    parts = {"version": VERSION, "instruction": "--squash", "layers below": below.chain, "layers": above.chain}
    key = key_of(parts)
    with cache.locked(key, inputs.cancel):
        record = cache.find(key)
        if record is not None and record.made and session.has(record.made.descriptor, record.made.diff_id):
            return record.made
        stack = inputs.stack_of(above, step.platform)
        assert stack is not None
        low = below.count
        stated = squashed([layer.index() for layer in stack.layers], low, implied=True)
        packing = replace(packing, epoch=None)  # times were clamped when the layers were made
        built = new_layer(session, items_of(stack, stated), packing, ordered=low == 0, cancel=inputs.cancel)
        made = Made(built.descriptor, built.diff_id, timestamp(inputs.epoch))
        cache.put(Record(key, parts, made, label="--squash"))
    return made
