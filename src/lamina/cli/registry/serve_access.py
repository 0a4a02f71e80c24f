"""The options of `serve` about users, rules and TLS, and what they mean."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from lamina.errors import UsageError

if TYPE_CHECKING:
    from lamina.serve.access.opening import AccessOptions
    from lamina.serve.self_signed import SelfSigned
    from lamina.serve.tls import ServerTls

_OPTIONS = (
    click.option(
        "--htpasswd",
        metavar="FILE",
        help="Users with their passwords, written by `lamina passwd` or `htpasswd -B`.",
    ),
    click.option(
        "--access", metavar="FILE", help="Rules in TOML: who may do what, limits, quotas (docs/serve-access.md)."
    ),
    click.option("--anonymous-pull", is_flag=True, help="With --htpasswd, let everyone pull without a login."),
    click.option(
        "--token-key",
        metavar="FILE",
        help="Key that signs tokens; servers of one address share it; made if missing.  [default: in --state-dir]",
    ),
    click.option(
        "--state-dir",
        metavar="DIR",
        help="Where the server keeps its key and its certificates.  [default: serve in the store]",
    ),
    click.option(
        "--audit-log", metavar="FILE", help="Append a line of JSON for each request: who did what, with which result."
    ),
    click.option(
        "--url", metavar="URL", help="Address that clients use, for the token endpoint.  [default: what they send]"
    ),
    click.option(
        "--tls-cert", metavar="FILE", help="Certificate with its chain in PEM; read again when it was renewed."
    ),
    click.option("--tls-key", metavar="FILE", help="Key of the certificate, if it is not in the same file."),
    click.option(
        "--tls-self-signed",
        metavar="NAMES",
        help="Make a CA and a certificate for these names and addresses, with commas between.",
    ),
    click.option(
        "--tls-client-ca", metavar="FILE", help="CA of client certificates: their common name is the user's name."
    ),
)


@dataclass(frozen=True)
class Protection:
    """What the options say."""

    htpasswd: str | None = None
    access: str | None = None
    anonymous_pull: bool = False
    token_key: str | None = None
    state_dir: str | None = None
    audit_log: str | None = None
    url: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_self_signed: str | None = None
    tls_client_ca: str | None = None

    def given(self) -> list[str]:
        """The names of the options that were used."""
        return [f"--{one.name.replace('_', '-')}" for one in fields(self) if getattr(self, one.name)]

    @property
    def has_tls(self) -> bool:
        return bool(self.tls_cert or self.tls_self_signed)

    @property
    def has_users(self) -> bool:
        return bool(self.htpasswd or self.tls_client_ca)

    @property
    def says_who_may_push(self) -> bool:
        """Whether users or rules decide who may push."""
        return self.has_users or bool(self.access)

    def access_options(self, *, state: str, local: bool, anonymous_push: bool, passing_key: bytes) -> AccessOptions:
        """``state``: the directory of the server's own files, "" if there is none; ``passing_key`` signs tokens then.
        Raises UsageError."""
        from lamina.serve.access.opening import AccessOptions

        if self.anonymous_pull and not self.has_users:
            raise UsageError(
                "--anonymous-pull needs users", hint="give --htpasswd FILE; without users everyone may pull"
            )
        return AccessOptions(
            htpasswd=self.htpasswd or "",
            rules=self.access or "",
            token_key=self.token_key or (os.path.join(state, "token-key") if state else ""),
            audit=self.audit_log or "",
            anonymous_pull=self.anonymous_pull,
            anonymous_push=anonymous_push,
            certificates=bool(self.tls_client_ca),
            passing_key=passing_key,
            local=local,
            url=self.url or "",
        )

    def open_tls(self, state: str) -> ServerTls | None:
        """The server's TLS; None without it. Raises UsageError, SystemFailure."""
        self._check_tls()
        if not self.has_tls:
            return None
        from lamina.serve.tls import ServerTls, TlsFiles

        client_ca = self.tls_client_ca or ""
        if self.tls_cert:
            return ServerTls(TlsFiles(self.tls_cert, self.tls_key or "", client_ca))
        own = self.self_signed(state)
        assert own is not None
        return ServerTls(TlsFiles(own.certificate, own.key, client_ca, own.renew))

    def self_signed(self, state: str) -> SelfSigned | None:
        """The certificate that the server makes itself, if it does. Raises UsageError."""
        if not self.tls_self_signed:
            return None
        from lamina.serve.self_signed import SelfSigned, check_names

        if not state:
            raise UsageError("--tls-self-signed needs a place for its files", hint="give --state-dir DIR")
        names = check_names([name.strip() for name in self.tls_self_signed.split(",") if name.strip()])
        return SelfSigned(os.path.join(state, "tls"), names)

    def _check_tls(self) -> None:
        if self.tls_cert and self.tls_self_signed:
            raise UsageError("--tls-cert can't be combined with --tls-self-signed", hint="give one of them")
        for name, value in (("--tls-key", self.tls_key), ("--tls-client-ca", self.tls_client_ca)):
            if value and not self.has_tls:
                raise UsageError(
                    f"{name} needs a certificate", hint="give --tls-cert FILE or --tls-self-signed NAMES"
                )
        if self.tls_key and not self.tls_cert:
            raise UsageError("--tls-key needs --tls-cert", hint="give --tls-cert FILE")


def protection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the function gets them as ``protection``."""
    names = [one.name for one in fields(Protection)]

    @functools.wraps(function)
    def collected(*arguments: Any, **given: Any) -> Any:
        protection = Protection(**{name: given.pop(name) for name in names})
        return function(*arguments, protection=protection, **given)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected
