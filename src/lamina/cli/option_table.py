"""Options of a verb as a table (pure). ``cli.plain`` parses them; ``cli.options`` makes click options from them."""

from __future__ import annotations

from lamina.light import TYPE_CHECKING, Value

if TYPE_CHECKING:
    from typing import Any


FLAG, TEXT, MANY, WHOLE, NUMBER = "flag", "text", "many", "whole", "number"


class Option(Value):
    """One option of a verb. ``kind``: FLAG, TEXT, MANY (may be repeated). Only click parses the kinds WHOLE and
    NUMBER, and options with ``choices``."""

    names: tuple[str, ...]
    argument: str
    help: str
    metavar: str | None = None
    kind: str = TEXT
    default: str | None = ""
    choices: tuple[str, ...] = ()

    @property
    def start(self) -> Any:
        """The value if the option is not given."""
        return {FLAG: False, MANY: (), WHOLE: None, NUMBER: None}.get(self.kind, self.default)
