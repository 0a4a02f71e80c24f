"""Images, layers and diffs as short HTML for notebooks (pure).

Every shown text goes through ``text.clean`` and is escaped, and sizes are limited: the HTML has a few kilobytes,
whatever the image contains. Neither indexes nor contents are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice, zip_longest
from typing import TYPE_CHECKING

from lamina.insight.change import LETTERS, details
from lamina.text import clean, human_size

if TYPE_CHECKING:
    from lamina.insight.change import Change
    from lamina.insight.config_diff import ConfigChange, StepChange
    from lamina.source.protocols import LayerHandle
    from lamina.source.stack import Stack
    from lamina.spec.image_config import History

MOST_CHANGES = 100
MOST_LAYERS = 100
MOST_OTHERS = 20
MOST_LETTERS = 200
"""Limit of one text."""
_OPEN = '<div class="tex2jax_ignore mathjax_ignore">'  # a name with dollar signs is not a formula
_RIGHT = ' style="text-align:right"'


def stack_html(stack: Stack) -> str:
    """Return a table of the image and its layers, bottom first."""
    top = stack.first + len(stack.layers) - 1
    whole = len(stack.layers) == len(stack.manifest.layers)
    size = sum(layer.descriptor.size for layer in stack.layers)
    rows = (
        [str(number), layer.descriptor.digest.short, human_size(layer.descriptor.size), _step(step)]
        for number, (layer, step) in enumerate(zip_longest(stack.layers, stack.steps), stack.first)
    )
    facts = [
        ("digest", str(stack.manifest.descriptor.digest)),
        ("platform", str(stack.config.platform)),
        ("created", stack.config.created or "not recorded"),
        ("layers", f"{len(stack.layers)}" if whole else f"{stack.first} to {top} of {len(stack.manifest.layers)}"),
        ("size", human_size(size)),
    ]
    layers = _table(("layer", "digest", "size", "step"), rows, len(stack.layers), MOST_LAYERS, right=(0, 2))
    return _piece(stack.name, _facts(facts), layers)


def layer_html(handle: LayerHandle, number: int, step: History | None) -> str:
    """Return a table of one layer, from the image's documents."""
    facts = [
        ("digest", str(handle.descriptor.digest)),
        ("diff_id", str(handle.diff_id)),
        ("media type", handle.descriptor.media_type),
        ("size", human_size(handle.descriptor.size)),
        ("step", _step(step)),
    ]
    return _piece(f"layer {number}", _facts(facts))


def diff_html(
    names: tuple[str, str],
    changes: Sequence[Change],
    config: Sequence[ConfigChange],
    history: Sequence[StepChange],
) -> str:
    """Return the number of differences by kind, and the first of them."""
    counts = dict.fromkeys(LETTERS, 0)
    for change in changes:
        counts[change.how] += 1
    totals = [f"{count:,} {how}" for how, count in counts.items() if count] or ["the same files"]
    if config:
        totals.append(f"{len(config):,} differences of config")
    if history:
        totals.append(f"{len(history):,} steps of history")
    parts = [f"<p>{_text(', '.join(totals))}</p>"]
    if changes:
        parts.append(_table(("", "path", "what"), map(_change, changes), len(changes), MOST_CHANGES))
    if config:
        rows = ([change.field, _value(change.before), _value(change.after)] for change in config)
        parts.append(_table(("config", "before", "after"), rows, len(config), MOST_OTHERS))
    if history:
        steps = (["-" if change.how == "removed" else "+", _step(change.step)] for change in history)
        parts.append(_table(("", "history"), steps, len(history), MOST_OTHERS))
    return _piece(f"{_short(names[0])} \N{RIGHTWARDS ARROW} {_short(names[1])}", *parts)


def _change(change: Change) -> list[str | bytes]:
    path = b"/" + change.path
    if change.how == "renamed":
        path = b"/%b -> /%b" % (change.old_path[:MOST_LETTERS], change.path)
    return [LETTERS[change.how], path, details(change)]


def _step(step: History | None) -> str:
    return "not recorded" if step is None else step.created_by or step.comment or "not recorded"


def _value(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _piece(title: str, *parts: str) -> str:
    return f"{_OPEN}<p><b>{_text(title)}</b></p>{''.join(parts)}</div>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = (f"<tr><th{_RIGHT}>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts)
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str | bytes]], count: int, most: int, right: Sequence[int] = ()
) -> str:
    """Return a table of the first ``most`` of ``count`` rows, and how many more there are."""
    side = [_RIGHT if column in right else ' style="text-align:left"' for column in range(len(heads))]
    head = "".join(f"<th{at}>{_text(word)}</th>" for at, word in zip(side, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{at}>{_text(word)}</td>" for at, word in zip(side, row, strict=True)) + "</tr>"
        for row in islice(rows, most)
    )
    more = f"<p>and {count - most:,} more</p>" if count > most else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS // 2 else text[: MOST_LETTERS // 2] + "\N{HORIZONTAL ELLIPSIS}"


def _text(word: str | bytes) -> str:
    text = clean(word[: MOST_LETTERS + 1])
    if len(text) > MOST_LETTERS:
        text = text[:MOST_LETTERS] + "\N{HORIZONTAL ELLIPSIS}"
    return escape(text)
