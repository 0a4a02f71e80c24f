"""Errors of a build, and what its checks find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lamina.build.instructions import At
from lamina.errors import LaminaError, UsageError
from lamina.text import clean

_LONGEST = 120


class ProgramFailed(LaminaError):
    """The program of a RUN step ended with another exit code than 0."""

    def __init__(self, message: str, *, code: int = 1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class StepFailed(LaminaError):
    """A step of a build failed. ``at``: where its instruction is. ``label``: what progress shows. ``code``: the exit
    code of its program, None where it ran none. ``source``: the text of the Dockerfile, for an excerpt."""

    def __init__(
        self,
        message: str,
        *,
        at: At | None = None,
        label: str = "",
        code: int | None = None,
        source: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.at = at or At()
        self.label = label
        self.code = code
        self.source = source


class DockerfileError(UsageError):
    """A Dockerfile can't be read, or can't be built as it is written. ``problem``: what is wrong. ``at``: the
    instruction. ``column``: where in the line, from 1; 0: not known. ``source`` as in ``StepFailed``."""

    def __init__(
        self,
        problem: str,
        *,
        at: At | None = None,
        column: int = 0,
        line: str = "",
        hint: str | Callable[[], str] | None = None,
    ) -> None:
        """Without ``at`` the problem is the whole message, as when the error comes out of another process."""
        place = f"{clean(at.file)}:{at.line}:" if at else ""
        place += f"{column}:" if column else ""
        super().__init__(f"{place} {problem}" if place else problem, hint=hint)
        self.problem, self.at, self.column = problem, at or At(), column
        self.source = ""
        self._has_line = False
        self.add_line(line)

    def add_line(self, line: str) -> None:
        """Show the line of the file, unless that was done."""
        shown = clean(line.strip()[: _LONGEST + 1])
        if shown and not self._has_line:
            self._has_line = True
            self.message += f"; the line is: {shown if len(shown) <= _LONGEST else shown[:_LONGEST] + '...'}"
            self.args = (self.message,)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check of a Dockerfile found. ``description``: of the rule; ``text``: about this place."""

    rule: str
    description: str
    text: str
    at: At
