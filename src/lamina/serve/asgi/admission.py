"""How many connections a process has, and each address in all: counted from the moment they are accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.serve.routes import ApiError

if TYPE_CHECKING:
    from lamina.serve.asgi.callers import Callers


@dataclass(slots=True)
class Admitted:
    """A connection that is counted. ``refusal``: why it is one too many. ``taken``: the protocol of the connection
    has it, and says when it leaves."""

    caller: int | None = None
    refusal: ApiError | None = None
    taken: bool = False


class Admission:
    """``most``: connections at once in this process."""

    def __init__(self, most: int, callers: Callers | None = None) -> None:
        self._most, self._callers = most, callers
        self._count = 0

    def enter(self, address: str) -> Admitted:
        """Count a connection ("": of a Unix socket), which may be one too many."""
        self._count += 1
        admitted = Admitted(self._callers.enter(address) if self._callers is not None else None)
        if self._count > self._most:
            admitted.refusal = ApiError(503, "TOOMANYREQUESTS", "too many connections", Retry_After="1")
        elif self._callers is not None and admitted.caller is not None and self._callers.is_over(admitted.caller):
            admitted.refusal = ApiError(
                429, "TOOMANYREQUESTS", "too many connections of this address", Retry_After="1"
            )
        return admitted

    def leave(self, admitted: Admitted) -> None:
        """Count one connection less."""
        self._count -= 1
        if self._callers is not None and admitted.caller is not None:
            self._callers.leave(admitted.caller)
