"""The volumes that `volume ls` and `volume prune` choose: docker's filters."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING
from lamina.store.volumes import Volume

if TYPE_CHECKING:
    import re

_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f")
LISTED = ("anonymous", "dangling", "driver", "label", "label!", "name", "scope", "since", "until", "volume")
PRUNED = ("all", "anonymous", "label", "label!", "until")


@dataclass(frozen=True, slots=True)
class Filters:
    """The values of one key are alternatives, but all labels are required. All keys must match. ``until``: volumes
    that were made before this moment (seconds since 1970), if it is not None."""

    given: tuple[tuple[str, str], ...] = ()
    until: float | None = None

    @classmethod
    def parse(cls, words: Iterable[str], keys: Collection[str], now: float) -> Filters:
        """``KEY=VALUE`` each. ``now``: seconds since 1970 (pure). Raises UsageError."""
        found = []
        until = None
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in keys:
                raise UsageError(
                    f"{word!r:.80} is not a filter for volumes",
                    hint=f"write KEY=VALUE, with one of {', '.join(keys)}",
                )
            if key in ("dangling", "all", "anonymous") and value.lower() not in (*_TRUE, *_FALSE):
                raise UsageError(f"--filter {word!r:.80} is neither true nor false", hint=f"write {key}=true")
            if key in ("name", "volume"):
                _pattern(value)
            if key == "until":
                until = _moment(value, now) if until is None else min(until, _moment(value, now))
            found.append((key, value))
        return cls(tuple(found), until)

    def values(self, key: str) -> list[str]:
        return [value for name, value in self.given if name == key]

    def flag(self, key: str) -> bool | None:
        """The value of a filter that is true or false; None if it was not given."""
        values = self.values(key)
        return values[-1].lower() in _TRUE if values else None

    def accept(self, volume: Volume, *, is_used: bool) -> bool:
        """Whether the volume matches (pure). ``is_used``: whether a container has it."""
        labels = dict(volume.labels)
        if not all(_has(labels, word) for word in self.values("label")):
            return False
        if any(_has(labels, word) for word in self.values("label!")):
            return False
        if self.flag("dangling") is is_used or self.flag("anonymous") is (not volume.anonymous):
            return False
        if self.until is not None and volume.created >= self.until:
            return False
        names = [*self.values("name"), *self.values("volume")]
        if names and not any(_pattern(word).search(volume.name) for word in names):
            return False
        for key, value in (("driver", volume.driver), ("scope", "local")):
            if self.values(key) and value not in self.values(key):
                return False
        return True


def _has(labels: dict[str, str], word: str) -> bool:
    name, equals, value = word.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _pattern(text: str) -> re.Pattern[str]:
    import re

    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"{text!r:.80} is not a regular expression: {error}", hint="see the syntax of Python's re"
        ) from None


def _moment(text: str, now: float) -> float:
    from lamina.spec.moment import parse_moment

    return parse_moment(text, int(now * 1_000_000_000)) / 1_000_000_000
