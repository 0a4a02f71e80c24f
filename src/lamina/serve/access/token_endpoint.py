"""The token endpoint: docker's token protocol (GET) and its OAuth2 form (POST)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from lamina.serve.access.authorization import basic_challenge
from lamina.serve.access.identity import Current, Identifier, Identity, LoginRefused, Refused
from lamina.serve.access.rules import Rules
from lamina.serve.access.scopes import granted, parse_scopes
from lamina.serve.access.tokens import REFRESH, Tokens
from lamina.serve.http_message import Request, Response
from lamina.serve.routes import ApiError

MAX_FORM = 64 << 10


class TokenEndpoint:
    """Issues tokens for what the rules allow; a client that asks for more gets less."""

    def __init__(self, identifier: Identifier, tokens: Current[Tokens], rules: Current[Rules]) -> None:
        self._identifier = identifier
        self._tokens = tokens
        self._rules = rules

    def answer(self, request: Request) -> Response:
        """Answer a request for a token. Raises ApiError."""
        if request.method == "GET":
            return self._by_get(request)
        if request.method == "POST":
            return self._by_post(request)
        raise ApiError(405, "UNSUPPORTED", f"{request.method} is not supported here", Allow="GET, POST")

    def _by_get(self, request: Request) -> Response:
        query = request.route.query
        try:
            identity = self._identifier.identify(request.headers.get("Authorization"), request.asker)
        except Refused as error:
            raise LoginRefused(error, self._challenge()) from None
        if identity.claims is not None:
            raise self._unauthorized("a token is not accepted for another token")
        offline = query.get("offline_token", [""])[0].lower() in ("true", "1")
        return self._issued(request, identity, query, query.get("scope", []), offline=offline)

    def _by_post(self, request: Request) -> Response:
        form = _form(request)
        grant = _first(form, "grant_type")
        try:
            if grant == "password":
                address = request.asker.address
                identity = self._identifier.by_password(_first(form, "username"), _first(form, "password"), address)
            elif grant == "refresh_token":
                identity = self._identifier.by_token(_first(form, "refresh_token"), request.asker, REFRESH)
            else:
                raise ApiError(400, "UNSUPPORTED", "grant_type is neither password nor refresh_token")
        except Refused as error:
            raise LoginRefused(error, self._challenge()) from None
        offline = grant == "password" and _first(form, "access_type") == "offline"
        return self._issued(request, identity, form, form.get("scope", []), offline=offline)

    def _issued(
        self,
        request: Request,
        identity: Identity,
        asked: Mapping[str, list[str]],
        wanted: list[str],
        *,
        offline: bool,
    ) -> Response:
        tokens, rules = self._tokens.value, self._rules.value
        service = _first(asked, "service")
        if service and service != tokens.service:
            raise ApiError(400, "UNSUPPORTED", "this server gives no tokens for another service")
        if not identity.user and not rules.lets_in_anyone():
            raise self._unauthorized("log in: this registry has nothing for clients without a login")
        scopes = parse_scopes(wanted)
        allowed = {scope.name: rules.allowed(identity.user, scope.name) for scope in scopes}
        given = granted(scopes, allowed, catalog=True)  # the list shows only what the user may pull
        request.asker = type(request.asker)(request.asker.address, identity.user)
        token = tokens.issue(identity.user, given, mark=identity.mark)
        answer: dict[str, str | int] = {
            "token": token,
            "access_token": token,
            "expires_in": tokens.life,
            "issued_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(map(str, given)),
        }
        if offline and identity.user:
            answer["refresh_token"] = tokens.issue(identity.user, (), kind=REFRESH, mark=identity.mark)
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return Response(200, headers, json.dumps(answer).encode())

    def _unauthorized(self, message: str) -> ApiError:
        return ApiError(401, "UNAUTHORIZED", message, WWW_Authenticate=self._challenge())

    def _challenge(self) -> str:
        return basic_challenge(self._tokens.value.service)


def _form(request: Request) -> dict[str, list[str]]:
    """The fields of a form. Raises ApiError."""
    too_large = ApiError(413, "UNSUPPORTED", f"a form has at most {MAX_FORM} bytes")
    if request.length is not None and request.length > MAX_FORM:
        raise too_large
    parts, size = [], 0
    for piece in request.body:
        size += len(piece)
        if size > MAX_FORM:
            raise too_large
        parts.append(piece)
    try:
        fields = parse_qsl(b"".join(parts).decode("ascii"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise ApiError(400, "UNSUPPORTED", "the form is not valid") from None
    form: dict[str, list[str]] = {}
    for key, value in fields:
        form.setdefault(key, []).append(value)
    return form


def _first(fields: Mapping[str, list[str]], key: str) -> str:
    return fields.get(key, [""])[0]
