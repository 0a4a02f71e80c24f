"""The gate before the API: origin, identity, rate, permission and audit of each request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from lamina.errors import LaminaError
from lamina.serve.access.audit import AuditLog
from lamina.serve.access.authorization import basic_challenge, bearer_challenge, is_host
from lamina.serve.access.buckets import Buckets
from lamina.serve.access.identity import Current, Identifier, Identity, LoginRefused, Refused, too_many
from lamina.serve.access.needs import READING, Need, need_of
from lamina.serve.access.permits import RulesPermit
from lamina.serve.access.quotas import Quotas
from lamina.serve.access.rules import PULL, Rules
from lamina.serve.access.scopes import CATALOG
from lamina.serve.access.token_endpoint import TokenEndpoint
from lamina.serve.access.tokens import Tokens
from lamina.serve.client_key import client_key
from lamina.serve.http_message import Asker, Request, Response
from lamina.serve.origin import check_local, check_page
from lamina.serve.routes import TOKEN_PATH, ApiError

MOST_NOTED = 150
"""Characters of what a client names that the audit log keeps: anybody may send more."""


class Answers(Protocol):
    """What answers requests: the API, and the gate before it."""

    def answer(self, request: Request) -> Response:
        """Raises ApiError, LaminaError."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """How a server protects itself. ``has_users``: clients can log in. ``local``: without users it answers only names
    of this machine. ``url``: the address that clients use, where Host does not say it."""

    rules: Current[Rules]
    identifier: Identifier
    tokens: Current[Tokens]
    has_users: bool
    local: bool
    url: str = ""
    audit: AuditLog | None = None


class Gate:
    """Answers requests as ``api`` does, after it has checked who asks and what they may do."""

    def __init__(self, api: Answers, policy: Policy) -> None:
        self._api = api
        self._policy = policy
        self._endpoint = TokenEndpoint(policy.identifier, policy.tokens, policy.rules)
        self._quotas = Quotas()
        self._rates: tuple[float, int, Buckets] | None = None

    @property
    def has_users(self) -> bool:
        """Whether there is somebody who can log in."""
        return self._policy.has_users

    def answer(self, request: Request) -> Response:
        """Answer a request. Raises ApiError, LaminaError."""
        need = need_of(request.method, request.route)
        try:
            response = self._answer(request, need)
        except ApiError as error:
            self._note(request, need, error.status, error)
            raise
        except LaminaError:
            self._note(request, need, 500)
            raise
        self._note(request, need, response.status)
        return response

    def admit(self, request: Request) -> tuple[RulesPermit, str]:
        """What the sender of a request outside of the API (a page) may do, and the user's name. Raises ApiError, with
        a challenge that browsers understand."""
        try:
            return self._admitted(request)
        except ApiError as error:
            if "Authorization" in request.headers:  # a wrong login; one without a login is not noted
                self._note(request, Need("", request.route.kind), error.status, error)
            raise

    def _admitted(self, request: Request) -> tuple[RulesPermit, str]:
        self._check_origin(request)
        try:
            identity = self._identified(request)
        except Refused as error:
            request.asker = replace(request.asker, name="")
            raise LoginRefused(error, basic_challenge(self._policy.tokens.value.service)) from None
        self._check_rate(request, identity)
        rules = self._policy.rules.value
        asks = "login" in request.route.query  # for a page that is open to all, and shows more to users
        if not identity.user and self._policy.has_users and (asks or not rules.lets_in_anyone()):
            raise self._log_in_page("log in to see the images of this registry")
        return RulesPermit(rules, identity, self._quotas), identity.user

    def _answer(self, request: Request, need: Need) -> Response:
        self._check_origin(request)
        if request.route.kind == "token" and self._policy.has_users:
            self._check_rate(request, Identity())
            return self._endpoint.answer(request)
        try:
            identity = self._identified(request)
        except Refused as error:
            request.asker = replace(request.asker, name="")
            raise LoginRefused(error, self._challenge(request, need, error.error)) from None
        request.asker = replace(request.asker, name=identity.user)
        self._check_rate(request, identity)
        permit = RulesPermit(self._policy.rules.value, identity, self._quotas)
        self._check(request, need, permit)
        request.permit = permit
        self._limit_manifest(request, permit.rules)
        return self._api.answer(request)

    def _check_origin(self, request: Request) -> None:
        if self._policy.local:
            check_local(request.headers)
        check_page(request.method, request.headers)

    def _identified(self, request: Request) -> Identity:
        header = request.headers.get("Authorization")
        if not self._policy.has_users:
            return Identity()  # a client may send a login that it has for this address: it says nothing here
        return self._policy.identifier.identify(header, request.asker)

    def _check(self, request: Request, need: Need, permit: RulesPermit) -> None:
        identity = permit.identity
        if need.action == CATALOG:
            if identity.claims is not None and not identity.claims.catalog:
                raise self._unauthorized(request, need, "the token is not for the catalog", "insufficient_scope")
            if not identity.user and self._policy.has_users and not permit.rules.lets_in_anyone():
                raise self._unauthorized(request, need, "log in to list repositories")
            return
        if not need.repository:
            if self._policy.has_users and not identity.user and identity.claims is None:
                raise self._unauthorized(request, need, "authentication required")
            return
        if need.action in permit.actions(need.repository):
            return
        name = need.repository
        allowed = permit.rules.allowed(identity.user, name)
        if need.action in allowed:
            raise self._unauthorized(
                request, need, f"the token does not allow {need.action} for {name}", "insufficient_scope"
            )
        if not identity.user and self._policy.has_users:
            raise self._unauthorized(
                request,
                need,
                f"authentication required to {need.action} {name}",
                "" if identity.claims is None else "insufficient_scope",
            )
        if need.action == PULL:  # the same words whether it exists or not
            raise ApiError(404, "NAME_UNKNOWN", f"repository {name} not found, or {_who(identity)} may not pull it")
        raise ApiError(403, "DENIED", f"{_who(identity)} may not {need.action} {name}")

    def _unauthorized(self, request: Request, need: Need, message: str, error: str = "") -> ApiError:
        return ApiError(401, "UNAUTHORIZED", message, WWW_Authenticate=self._challenge(request, need, error))

    def _challenge(self, request: Request, need: Need, error: str) -> str:
        return bearer_challenge(self._realm(request), self._policy.tokens.value.service, need.scopes(), error)

    def _log_in_page(self, message: str) -> ApiError:
        return ApiError(
            401, "UNAUTHORIZED", message, WWW_Authenticate=basic_challenge(self._policy.tokens.value.service)
        )

    def _realm(self, request: Request) -> str:
        if self._policy.url:
            return self._policy.url.rstrip("/") + TOKEN_PATH
        host = request.headers.get("Host") or "localhost"
        if not is_host(host):
            raise ApiError(400, "UNSUPPORTED", "the Host header is not valid")
        return f"{request.scheme}://{host}{TOKEN_PATH}"

    def _check_rate(self, request: Request, identity: Identity) -> None:
        limits = self._policy.rules.value.limits
        if limits.requests is None:
            return
        known = self._rates
        if known is None or known[:2] != (limits.requests, limits.burst):
            known = self._rates = limits.requests, limits.burst, Buckets(limits.requests, limits.burst)
        key = client_key(Asker(request.asker.address, identity.user))
        wait = known[2].take(key, time.monotonic())
        if wait:
            raise too_many(wait, "too many requests")

    def _limit_manifest(self, request: Request, rules: Rules) -> None:
        most = rules.limits.manifest
        if most is None or request.route.kind != "manifest" or request.method in READING:
            return
        if request.length is not None and request.length > most:
            raise _too_large(most)
        request.body = _at_most(request.body, most)

    def _note(self, request: Request, need: Need, status: int, error: ApiError | None = None) -> None:
        audit = self._policy.audit
        if audit is None or (request.route.kind == "base" and status < 400):
            return
        audit.write(
            user=request.asker.name,
            address=request.asker.address,
            action=request.route.kind if not need.action else need.action,
            method=request.method,
            repository=need.repository,
            kind=request.route.kind,
            what=request.route.rest[:MOST_NOTED] if request.route.kind in ("manifest", "blob", "referrers") else "",
            digest=request.route.one("digest")[:MOST_NOTED],
            status=status,
            code=error.code if error is not None else "",
            claimed=error.claimed[:MOST_NOTED] if isinstance(error, LoginRefused) else "",
        )


def _at_most(body: Iterator[bytes], most: int) -> Iterator[bytes]:
    size = 0
    for piece in body:
        size += len(piece)
        if size > most:
            raise _too_large(most)
        yield piece


def _too_large(most: int) -> ApiError:
    return ApiError(413, "MANIFEST_INVALID", f"a manifest has at most {most} bytes here")


def _who(identity: Identity) -> str:
    return identity.user or "a client without a login"
