"""The rules as the API asks them: one permit for each request."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from lamina.serve.access.identity import Identity
from lamina.serve.access.quotas import Quotas
from lamina.serve.access.rules import ADMIN, NOTHING, PULL, PUSH, Rules
from lamina.serve.names import familiar
from lamina.serve.permit import Holdings, UploadPermit
from lamina.serve.routes import ApiError


@dataclass(frozen=True, slots=True)
class RulesPermit:
    """What ``identity`` may do by the rules, and by its token where it sent one."""

    rules: Rules
    identity: Identity
    quotas: Quotas

    def actions(self, name: str) -> frozenset[str]:
        """What the client may do to a repository, as people write it, now."""
        allowed = self.rules.allowed(self.identity.user, name)
        claims = self.identity.claims
        if claims is None:
            return allowed
        granted = claims.scopes.get(name, NOTHING)
        return (allowed & granted) | (allowed & {ADMIN} if granted & allowed else NOTHING)

    def may_see(self, repository: str) -> bool:
        # without regard to a token's scopes: the token of a list names no repository
        return PULL in self.rules.allowed(self.identity.user, familiar(repository))

    def may_pull(self, repository: str) -> bool:
        return PULL in self.actions(familiar(repository))

    def may_push(self, repository: str) -> bool:
        return PUSH in self.actions(familiar(repository))

    def is_fixed(self, repository: str, tag: str) -> bool:
        return bool(self.rules.immutable) and self.rules.is_immutable(familiar(repository), tag)

    def may_remove(self, repository: str, tag: str) -> bool:
        return not self.is_fixed(repository, tag) or ADMIN in self.actions(familiar(repository))

    def check_room(self, repository: str, more: int, place: Holdings) -> None:
        self.quotas.check(self.rules.quotas, repository, more, place)

    def room(self, repository: str, more: int, place: Holdings) -> AbstractContextManager[None]:
        return self.quotas.room(self.rules.quotas, repository, more, place)

    def upload(self, repository: str, ident: str, place: Holdings) -> AbstractContextManager[UploadPermit]:
        return self.quotas.upload(self.rules.quotas, repository, ident, place)

    def check_links(self, count: int) -> None:
        most = self.rules.limits.layers
        if most is not None and count > most:
            raise ApiError(
                400, "MANIFEST_INVALID", f"the manifest names {count} layers or manifests: at most {most} are allowed"
            )
