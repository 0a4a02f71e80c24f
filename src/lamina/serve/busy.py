"""The error of a server that has too much to do for other registries."""

from __future__ import annotations

from lamina.errors import RemoteFailure


class Busy(RemoteFailure):
    """This server asks other registries for as much as it may. A client may try again after ``retry_after``
    seconds."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
