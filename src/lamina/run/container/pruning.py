"""`container prune`: remove the containers that have ended, by docker's filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lamina.errors import Conflict, LaminaError, NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run.container.ending import clear, remove
from lamina.store.foreign_trees import freed_bytes
from lamina.store.journal import note

if TYPE_CHECKING:
    from lamina.store.store import Store

KEYS = ("label", "label!", "until")


@dataclass(frozen=True, slots=True)
class Filters:
    """``labels``: all are required. ``others``: none of these. ``until``: only what was made before this moment
    (seconds since 1970)."""

    labels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    until: float | None = None

    @classmethod
    def parse(cls, words: Iterable[str], now: int) -> Filters:
        """``KEY=VALUE`` each. ``now``: nanoseconds since 1970 (pure). Raises UsageError."""
        from lamina.spec.moment import parse_moment

        found: dict[str, list[str]] = {key: [] for key in KEYS}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in KEYS:
                raise UsageError(
                    f"{word!r:.80} is not a filter", hint=f"write KEY=VALUE, with one of {', '.join(KEYS)}"
                )
            found[key].append(value)
        moments = [parse_moment(value, now) / 1e9 for value in found["until"]]
        return cls(tuple(found["label"]), tuple(found["label!"]), min(moments, default=None))

    def accept(self, labels: Mapping[str, str], created: float | None) -> bool:
        """``created``: None if nobody knows it (pure)."""
        if not all(_has(labels, word) for word in self.labels) or any(_has(labels, word) for word in self.others):
            return False
        return self.until is None or (created is not None and created < self.until)


def _has(labels: Mapping[str, str], word: str) -> bool:
    name, equals, value = word.partition("=")
    return name in labels and (not equals or labels[name] == value)


def prune(store: Store, filters: Filters, on_removed: Callable[[str], object]) -> tuple[int, list[LaminaError]]:
    """Remove the containers that do not run and match; the bytes that this frees, and the errors. ``on_removed`` gets
    the ID of each. What killed commands have left is cleared up first. Raises SystemFailure."""
    failed = clear(store)
    freed = 0
    for one in store.containers.every():
        if store.containers.is_running(one) or not filters.accept(dict(one.labels), one.created):
            continue
        try:
            size = freed_bytes(store.containers.path(one.id))
            remove(store, one)
        except (NotFound, Conflict):
            continue  # it was removed, or started, since
        except LaminaError as error:
            failed.append(error)
        else:
            freed += size
            on_removed(one.id)
    note(store.paths.root, "container", "prune", "", {"reclaimed": str(freed)})
    return freed, failed
