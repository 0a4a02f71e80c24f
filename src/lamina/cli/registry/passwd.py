"""The verb `passwd`: users of `lamina serve`."""

from __future__ import annotations

import os
import secrets
import stat
import sys

import click

from lamina.cli.format.output import write
from lamina.cli.verbs import command
from lamina.errors import NotFound, UsageError


@command(
    "passwd",
    "lamina passwd users alice\nlamina passwd users ci --generate\n"
    "lamina passwd users bob --password-stdin < secret\nlamina passwd users bob --delete",
)
@click.argument("file", metavar="FILE")
@click.argument("user", metavar="USER")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--generate", is_flag=True, help="Make a random password and print it: for programs (robot accounts).")
@click.option("--delete", is_flag=True, help="Remove the user.")
@click.option(
    "--cost", type=click.IntRange(4, 16), default=10, show_default=True, help="Cost of a guess: one more doubles it."
)
def passwd(file: str, user: str, password_stdin: bool, generate: bool, delete: bool, cost: int) -> None:
    """Add a user to a file of users for `lamina serve --htpasswd`, or change the password. The file is as `htpasswd
    -B` makes it. A running server reads it within a second."""
    from lamina.serve.access.htpasswd import hashed_password
    from lamina.serve.access.rules_file import is_user_name

    if [password_stdin, generate, delete].count(True) > 1:
        raise UsageError("--password-stdin, --generate and --delete exclude each other", hint="give one of them")
    if not is_user_name(user):
        raise UsageError(
            f"{user!r:.100} can't be a user name", hint="choose one without a colon that does not begin with @"
        )
    password = ""
    if generate:
        password = secrets.token_urlsafe(32)
    elif not delete:
        password = _asked(password_stdin)
    _change(file, user, None if delete else hashed_password(password, cost))
    if generate:
        write(password)


def _asked(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline(1 << 16).rstrip("\r\n")
    if not sys.stdin.isatty():
        raise UsageError("stdin is not a terminal", hint="give the password by --password-stdin, or use --generate")
    password: str = click.prompt("Password", hide_input=True, err=True)
    if click.prompt("Again", hide_input=True, err=True) != password:
        raise UsageError("the passwords differ", hint="try again; nothing was changed")
    return password


def _change(path: str, user: str, hashed: str | None) -> None:
    """Replace or remove the line of a user; every other line stays as it is."""
    from lamina.host.files import read_regular, replace_file, reported
    from lamina.host.lock import locked_for_now
    from lamina.serve.access.htpasswd import parse_htpasswd

    path = os.path.realpath(path)
    with reported(path), locked_for_now(f"{path}.lock"):
        try:
            raw, mode = read_regular(path, 16 << 20), stat.S_IMODE(os.stat(path).st_mode)
        except FileNotFoundError:
            raw, mode = b"", 0o600
        known = parse_htpasswd(raw, path)
        if hashed is None and user not in known:
            raise NotFound(f"{path} has no user {user!r:.100}", hint="check the name")
        lines = [line for line in raw.decode("utf-8").splitlines() if line.strip().partition(":")[0] != user]
        if hashed is not None:
            lines.append(f"{user}:{hashed}")
        replace_file(path, ["".join(f"{line}\n" for line in lines).encode()], mode=mode)
