"""The error for an unknown verb."""

from __future__ import annotations

from collections.abc import Mapping

import click

from lamina.cli.noun_table import ABSENT, ABSENT_IN_NOUN, INSTEAD
from lamina.errors import UsageError


def unknown(name: str, verbs: Mapping[str, object], *, noun: str = "") -> UsageError | click.UsageError:
    """Return the error for an unknown verb: not supported yet, or similar to known verbs."""
    absent_here = ABSENT_IN_NOUN.get((noun, name)) or ABSENT.get(name)
    if absent_here:
        return UsageError(f"lamina does not support `{noun + ' ' if noun else ''}{name}` yet: {absent_here}")
    if name in INSTEAD and not noun:
        return UsageError(f"unknown verb {name!r}", hint=f"use {INSTEAD[name]}")
    from lamina.text import nearest

    near = nearest(name, {**verbs, **ABSENT}, most=3)
    absent = near[0] if near and near[0] not in verbs else ""
    near = [absent] if absent else nearest(name, verbs, most=3)
    more = f"; did you mean {', '.join([*near[:-2], ' or '.join(near[-2:])])}?" if near else ""
    if absent:
        more += f" lamina does not support it yet: {ABSENT[absent]}"
    return click.UsageError(f"unknown verb {name!r:.60}" + (f" of {noun!r}" if noun else "") + more)
