"""The rules: which user may do what to which repositories (pure). What no rule allows is denied."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lamina.serve.access.patterns import RepositoryPattern, glob

PULL, PUSH, DELETE, ADMIN = "pull", "push", "delete", "admin"
ACTIONS = frozenset((PULL, PUSH, DELETE, ADMIN))
NOTHING: frozenset[str] = frozenset()
_IMPLIED = {
    PULL: frozenset((PULL,)),
    PUSH: frozenset((PULL, PUSH)),
    DELETE: frozenset((PULL, DELETE)),
    ADMIN: ACTIONS,
}
_REMEMBERED = 20_000
ANYONE, USERS = "anonymous", "*"
"""In a rule: everyone, with or without a login; every user who has logged in."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``who`` (names, ``@group``, ``*``, ``anonymous``) may do ``actions`` to ``repositories``. ``push`` and
    ``delete`` include ``pull``; ``admin`` includes all."""

    who: frozenset[str]
    repositories: tuple[RepositoryPattern, ...]
    actions: frozenset[str]

    def covers(self, repository: str, user: str) -> bool:
        return any(pattern.matches(repository, user) for pattern in self.repositories)


@dataclass(frozen=True, slots=True)
class ImmutableTags:
    """Tags that are made once: no push moves them, and only ``admin`` deletes them."""

    repositories: tuple[RepositoryPattern, ...]
    tags: tuple[str, ...]

    def covers(self, repository: str, tag: str) -> bool:
        return any(glob(text).fullmatch(tag) for text in self.tags) and any(
            pattern.matches(repository) for pattern in self.repositories
        )


@dataclass(frozen=True, slots=True)
class Quota:
    """At most ``size`` bytes in ``repositories``: in all of them together, or in ``each``."""

    repositories: tuple[RepositoryPattern, ...]
    size: int
    each: bool = False

    def covers(self, repository: str) -> bool:
        return any(pattern.matches(repository) for pattern in self.repositories)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for each client (a user, or an address without a user) and each manifest; None is no limit."""

    requests: float | None = None  # a second
    burst: int = 200
    manifest: int | None = None  # bytes
    layers: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules. An empty one allows nothing."""

    rules: tuple[Rule, ...] = ()
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    immutable: tuple[ImmutableTags, ...] = ()
    quotas: tuple[Quota, ...] = ()
    limits: Limits = Limits()
    _known: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def allowed(self, user: str, repository: str) -> frozenset[str]:
        """The actions that ``user`` ("" is anonymous) may do to a repository."""
        known = self._known.get((user, repository))
        if known is None:
            known = self._find(user, repository)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[user, repository] = known
        return known

    def _find(self, user: str, repository: str) -> frozenset[str]:
        found: set[str] = set()
        names = self._names(user)
        for rule in self.rules:
            if not rule.who.isdisjoint(names) and not rule.actions <= found and rule.covers(repository, user):
                for action in rule.actions:
                    found |= _IMPLIED[action]
        return frozenset(found)

    def lets_in_anyone(self, actions: Collection[str] = (PULL,)) -> bool:
        """Whether a rule lets clients without a login do one of these."""
        return any(ANYONE in rule.who and not _all_implied(rule.actions).isdisjoint(actions) for rule in self.rules)

    def is_immutable(self, repository: str, tag: str) -> bool:
        return any(part.covers(repository, tag) for part in self.immutable)

    def _names(self, user: str) -> set[str]:
        """What rules may call this user."""
        if not user:
            return {ANYONE}
        return {
            ANYONE,
            USERS,
            user,
            *(f"@{group}" for group, members in self.groups.items() if user in members),
        }


def _all_implied(actions: Collection[str]) -> set[str]:
    return {implied for action in actions for implied in _IMPLIED[action]}


def open_rules(*, anonymous: Collection[str], users: Collection[str]) -> Rules:
    """The rules where no file gives any: what clients without a login, and users, may do to every repository."""
    everything = (RepositoryPattern("**"),)
    rules = []
    if anonymous:
        rules.append(Rule(frozenset((ANYONE,)), everything, frozenset(anonymous)))
    if users:
        rules.append(Rule(frozenset((USERS,)), everything, frozenset(users)))
    return Rules(tuple(rules))
