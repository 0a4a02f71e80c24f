"""What all measures share: where, against whom, how often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines import Peers
from meter import Runner, Series, in_turn


@dataclass(frozen=True)
class Bench:
    """What all measures share."""

    place: Path
    host: str
    peers: Peers
    rounds: int
    drop: bool
    user: str
    layout: Path

    def image(self, ref: str) -> str:
        return f"{self.host}/fx/{ref}:1"

    def in_turn(self, title: str, runners: list[Runner], times: int = 1) -> list[Series]:
        return in_turn(title, runners, self.rounds * times, self.place, self.drop)
