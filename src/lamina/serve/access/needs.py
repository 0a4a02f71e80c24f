"""What a request needs: the repository and the action (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.serve.access.rules import DELETE, PULL, PUSH
from lamina.serve.access.scopes import CATALOG, EVERY, Scope
from lamina.serve.names import familiar
from lamina.serve.routes import ApiError, Route

READING = frozenset(("GET", "HEAD"))


@dataclass(frozen=True, slots=True)
class Need:
    """``repository`` is as people write it; "" for requests without one. ``action`` is "" for the base. ``source``
    is the repository that a blob is mounted from; without pull there the client has to send the blob."""

    repository: str = ""
    action: str = ""
    source: str = ""

    def scopes(self) -> list[Scope]:
        """The scopes to ask for. A client that pushes also pulls (HEAD of blobs). Many clients ask for exactly these:
        they can mount a blob only if its source is among them."""
        if self.action == CATALOG:
            return [Scope("registry", CATALOG, frozenset((EVERY,)))]
        if not self.repository:
            return []
        scopes = [Scope("repository", self.repository, frozenset((PULL, self.action)))]
        if self.source and self.source != self.repository:
            scopes.append(Scope("repository", self.source, frozenset((PULL,))))
        return scopes


def need_of(method: str, route: Route) -> Need:
    """What a request needs. Raises ApiError (a name that is not a repository)."""
    if route.kind == CATALOG:
        return Need("", CATALOG)
    if not route.name:
        return Need()
    host = route.one("ns")
    repository = familiar(f"{host}/{route.name}" if host else route.name)
    if not repository:  # never to be taken for a request without one
        raise ApiError(400, "NAME_INVALID", f"{route.name[:100]!r} is not a repository name")
    if route.kind in ("uploads", "upload"):
        source = route.one("from") if route.kind == "uploads" and route.one("mount") else ""
        return Need(repository, PUSH, familiar(f"{host}/{source}" if source and host else source))
    if method == "DELETE":
        return Need(repository, DELETE)
    return Need(repository, PULL if method in READING else PUSH)
