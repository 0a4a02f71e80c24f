"""Whether a server may listen where it was asked to (pure): other machines are let in only on purpose."""

from __future__ import annotations

from lamina.errors import UsageError


def check_exposure(
    address: str,
    *,
    local: bool,
    tls: bool,
    plain_http: bool,
    writable: bool,
    has_users: bool,
    anonymous_push: bool,
) -> None:
    """Check an address. ``local``: only this machine reaches it. Raises UsageError."""
    if local:
        return
    if not tls and not plain_http:
        raise UsageError(
            f"other machines reach {address}, and what they send would not be encrypted",
            hint="give --tls-cert or --tls-self-signed; or --plain-http behind a proxy or in a trusted network",
        )
    if writable and not has_users and not anonymous_push:
        raise UsageError(
            f"other machines reach {address}, and anyone there could push and delete",
            hint="give users with --htpasswd (`lamina passwd` makes the file), or --anonymous-push if that is meant",
        )
