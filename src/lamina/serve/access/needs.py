"""What a request needs: the repository and the action (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.errors import UsageError
from lamina.serve.access.rules import DELETE, PULL, PUSH
from lamina.serve.access.scopes import CATALOG, EVERY, Scope
from lamina.serve.routes import Route
from lamina.spec.reference import Reference

READING = frozenset(("GET", "HEAD"))


@dataclass(frozen=True, slots=True)
class Need:
    """``repository`` is as people write it; "" for requests without one. ``action`` is "" for the base."""

    repository: str = ""
    action: str = ""

    def scopes(self) -> list[Scope]:
        """The scopes to ask for. A client that pushes also pulls (HEAD of blobs)."""
        if self.action == CATALOG:
            return [Scope("registry", CATALOG, frozenset((EVERY,)))]
        if not self.repository:
            return []
        return [Scope("repository", self.repository, frozenset((PULL, self.action)))]


def need_of(method: str, route: Route) -> Need:
    """What a request needs. A name that is not valid needs nothing: the API refuses it."""
    if route.kind == CATALOG:
        return Need("", CATALOG)
    if not route.name:
        return Need()
    host = route.one("ns")
    try:
        repository = Reference.parse(f"{host}/{route.name}" if host else route.name).familiar
    except UsageError:
        return Need()
    if route.kind in ("uploads", "upload"):
        return Need(repository, PUSH)
    if method == "DELETE":
        return Need(repository, DELETE)
    return Need(repository, PULL if method in READING else PUSH)
