"""Scopes of docker's token protocol (``repository:team/app:pull,push``) (pure). Hostile text gives fewer scopes,
never an error: a client then gets a token with less."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lamina.serve.access.rules import DELETE, PULL, PUSH
from lamina.serve.names import familiar

MAX_SCOPES = 100
_ACTION = re.compile(r"[a-z*]{1,20}")
EVERY = "*"
CATALOG = "catalog"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a client wants to do: ``kind`` is "repository" (``name`` as people write it) or "registry"."""

    kind: str
    name: str
    actions: frozenset[str]

    def __str__(self) -> str:
        order = {PULL: 0, PUSH: 1, DELETE: 2}
        return f"{self.kind}:{self.name}:{','.join(sorted(self.actions, key=lambda a: (order.get(a, 9), a)))}"


def parse_scopes(texts: Iterable[str]) -> list[Scope]:
    """Parse the values of ``scope`` parameters, each with scopes between spaces. Invalid ones are left out; the
    actions of one name are joined; at most ``MAX_SCOPES`` are read."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    words = (word for text in texts for word in text.split(" ") if word)
    for number, word in enumerate(words):
        if number >= MAX_SCOPES:
            break
        scope = _parse(word)
        if scope is not None:
            key = scope.kind, scope.name
            found[key] = found.get(key, frozenset()) | scope.actions
    return [Scope(kind, name, actions) for (kind, name), actions in found.items()]


def _parse(word: str) -> Scope | None:
    kind, colon, rest = word.partition(":")
    name, second, text = rest.rpartition(":")  # the name may have a port
    if not colon or not second or len(word) > 1000:
        return None
    actions = frozenset(action for action in text.split(",") if _ACTION.fullmatch(action))
    if kind.partition("(")[0] == "repository":  # repository(plugin):... was docker's
        known = familiar(name)
        return Scope("repository", known, actions & {PULL, PUSH, DELETE, EVERY}) if known else None
    if kind == "registry" and name == CATALOG:
        return Scope("registry", CATALOG, actions & {EVERY})
    return None


def granted(wanted: Iterable[Scope], allowed: Mapping[str, frozenset[str]], catalog: bool) -> list[Scope]:
    """What of ``wanted`` is granted, if ``allowed`` are the actions for each repository."""
    scopes = []
    for scope in wanted:
        if scope.kind == "registry":
            if catalog and EVERY in scope.actions:
                scopes.append(scope)
            continue
        may = allowed.get(scope.name, frozenset()) & {PULL, PUSH, DELETE}
        actions = may if EVERY in scope.actions else may & scope.actions
        if actions:
            scopes.append(Scope(scope.kind, scope.name, actions))
    return scopes
