"""Verbs for credentials: login, logout."""

from __future__ import annotations

import sys

import click

from lamina.cli import warn
from lamina.cli.format.output import write
from lamina.cli.options import registry_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import AccessDenied, NotFound, UsageError

_HUB = "docker.io"


@command("login", "lamina login ghcr.io -u me --password-stdin < token\nlamina login localhost:5000 --get-login")
@click.argument("host", required=False, default=_HUB, metavar="[HOST]")
@click.option("-u", "--username", metavar="NAME", help="User name (default: ask on the terminal).")
@click.option(
    "-p",
    "--password",
    metavar="TEXT",
    help="Password. Others can see it in the process list; --password-stdin is safer.",
)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--get-login", is_flag=True, help="Only print the user name of the stored login.")
@registry_options
@click.pass_obj
def login(
    session: Session,
    host: str,
    username: str | None,
    password: str | None,
    password_stdin: bool,
    get_login: bool,
) -> None:
    """Log in to a registry (default: docker.io). If the registry accepts the login, it is stored where docker and
    podman look for it: in a credential helper if one is configured, else in a file that only you can read."""
    from lamina.remote.credentials import Credential, find, save

    host = _host(host)
    authfile = session.settings.authfile
    if get_login:
        known = find(host, authfile=authfile)
        if known is None:
            raise NotFound(f"not logged in to {host}", hint=f"log in with `lamina login {host}`")
        write(known.username or "<token>")
        return
    if password is not None and password_stdin:
        raise UsageError("--password can't be combined with --password-stdin", hint="give one of them")
    if password is not None:
        warn("others can see --password in the process list; --password-stdin is safer")
    known = find(host, authfile=authfile) if username is None and sys.stdin.isatty() and not password_stdin else None
    username = username or _ask("Username", default=known.username if known else None)
    if password_stdin:
        password = sys.stdin.readline(1 << 16).rstrip("\r\n")
    password = password if password is not None else _ask("Password", hidden=True)
    if not username or not password:
        raise UsageError("the user name or password is empty", hint="give both; nothing was changed")
    if ":" in username:
        raise UsageError(
            f"the user name has a colon: {username!r:.100}", hint="check the name; RFC 7617 does not allow a colon"
        )
    session.credentials = f"{username}:{password}"
    try:
        session.network().client(host).check_login()
    except AccessDenied as error:
        raise AccessDenied(error.message, hint="check the user name and the password; nothing was changed") from None
    credential = Credential("", "", password) if username == "<token>" else Credential(username, password)
    place = save(host, credential, authfile=authfile)
    write(f"login succeeded: {host}, stored in {place}")


@command("logout", "lamina logout ghcr.io\nlamina logout --all")
@click.argument("host", required=False, default="", metavar="[HOST]")
@click.option("-a", "--all", "everything", is_flag=True, help="Log out of every registry.")
@registry_options
@click.pass_obj
def logout(session: Session, host: str, everything: bool) -> None:
    """Log out of a registry (default: docker.io): remove the stored login."""
    from lamina.remote.credentials import erase

    if host and everything:
        raise UsageError("HOST can't be combined with --all", hint="give one of them")
    for place in erase(_host(host or _HUB), authfile=session.settings.authfile, everything=everything):
        write(f"removed from {place}")


def _host(text: str) -> str:
    host = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    host = host.removesuffix("/v1").removesuffix("/v2")
    return _HUB if host in ("index.docker.io", "registry-1.docker.io") else host


def _ask(what: str, *, default: str | None = None, hidden: bool = False) -> str:
    if not sys.stdin.isatty():
        raise UsageError(
            f"no {what.lower()} given, and standard input is not a terminal",
            hint="use --username and --password-stdin",
        )
    answer: str = click.prompt(what, default=default, hide_input=hidden, err=True)
    return answer
