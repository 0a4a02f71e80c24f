"""Options of a verb as a table (pure): read by ``cli.plain``, and made into click's options by ``cli.options``."""

from __future__ import annotations

from lamina.light import TYPE_CHECKING, Value

if TYPE_CHECKING:
    from typing import Any


FLAG, TEXT, MANY, WHOLE, NUMBER = "flag", "text", "many", "whole", "number"


class Option(Value):
    """One option of a verb. ``kind``: FLAG, TEXT, MANY (texts, as often as it is given); WHOLE and NUMBER are left to
    click, as are options with ``choices``."""

    names: tuple[str, ...]
    argument: str
    help: str
    metavar: str | None = None
    kind: str = TEXT
    default: str | None = ""
    choices: tuple[str, ...] = ()

    @property
    def start(self) -> Any:
        """The value where it is not given."""
        return {FLAG: False, MANY: (), WHOLE: None, NUMBER: None}.get(self.kind, self.default)
