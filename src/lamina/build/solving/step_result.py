"""The layers that exist after a step, and their ChainID (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lamina.build.solving.cache import Made
from lamina.spec.digest import Digest


class Result:
    """The layers up to a step, as a list that shares its lower part with the results below.

    ``made``: the layer of the step itself, None if it changed nothing. ``chain``: the ChainID of the layers, ""
    without any. ``identity``: as ``chain``, but a step that changed nothing counts too: the same instruction twice is
    two steps.
    """

    __slots__ = ("_below", "chain", "count", "identity", "made")

    def __init__(self, below: Result | None = None, made: Made | None = None, *, key: str = "") -> None:
        """``key``: of the step; it counts if the step made no layer."""
        self._below = below
        self.made = made
        self.chain: str = below.chain if below else ""
        self.identity: str = below.identity if below else ""
        self.count: int = below.count if below else 0
        if made is not None:
            self.chain = _joined(self.chain, str(made.diff_id))
            self.identity = _joined(self.identity, str(made.diff_id))
            self.count += 1
        elif key:
            self.identity = _joined(self.identity, f"nothing {key}")

    @classmethod
    def of(cls, layers: Iterable[Made], below: Result | None = None) -> Result:
        """The result of a base, or of these layers on top of ``below``."""
        found = below or EMPTY
        for layer in layers:
            found = cls(found, layer)
        return found

    @property
    def layers(self) -> tuple[Made, ...]:
        """Bottom first."""
        return tuple(self._downwards())[::-1]

    def _downwards(self) -> Iterator[Made]:
        found: Result | None = self
        while found is not None:
            if found.made is not None:
                yield found.made
            found = found._below

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        return self.identity == other.identity and self.layers == other.layers

    def __hash__(self) -> int:
        return hash(self.identity)

    def __repr__(self) -> str:
        return f"<Result {self.count} layers {self.chain}>"


EMPTY = Result()


def _joined(below: str, above: str) -> str:
    return str(Digest.of(f"{below} {above}".encode())) if below else above
