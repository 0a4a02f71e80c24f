"""Errors of a build."""

from __future__ import annotations

from collections.abc import Callable

from lamina.build.instructions import At
from lamina.errors import LaminaError, UsageError


class ProgramFailed(LaminaError):
    """The program of a RUN step ended with another exit code than 0."""

    def __init__(self, message: str, *, code: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class StepFailed(LaminaError):
    """A step of a build failed. ``at``: where its instruction is. ``label``: what progress shows. ``code``: the exit
    code of its program, None where it ran none. ``source``: the text of the Dockerfile, for an excerpt."""

    def __init__(
        self,
        message: str,
        *,
        at: At,
        label: str,
        code: int | None = None,
        source: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.at = at
        self.label = label
        self.code = code
        self.source = source


class DockerfileError(UsageError):
    """A Dockerfile can't be built as it is written. ``at``: the instruction."""

    def __init__(self, message: str, *, at: At, hint: str | Callable[[], str] | None = None) -> None:
        super().__init__(f"{at.file}:{at.line}: {message}", hint=hint)
        self.at = at
