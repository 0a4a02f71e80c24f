"""Options of `pack`, `append` and `commit` that set fields in the config of the new image."""

from __future__ import annotations

import os
import posixpath
import shlex
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.options import TEXT
from lamina.errors import UsageError
from lamina.spec.json import read_own

if TYPE_CHECKING:
    from lamina.spec.image_config import Changes, ImageConfig


def epoch() -> int | None:
    """Return SOURCE_DATE_EPOCH in seconds, or None if it is not set. Raises UsageError if it is not a number."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isdigit() or int(text) > 253_402_300_799:
        raise UsageError(f"SOURCE_DATE_EPOCH is not a time: {text!r:.60}", hint="give seconds since 1970")
    return int(text)


_config_options = [
    click.option("--env", "-e", multiple=True, type=TEXT, metavar="NAME=VALUE", help="Set an environment variable."),
    click.option("--cmd", type=TEXT, metavar="WORDS", help="Default command, words as in a shell or a JSON array."),
    click.option("--entrypoint", type=TEXT, metavar="WORDS", help="Entrypoint, words as in a shell or a JSON array."),
    click.option("--workdir", type=TEXT, metavar="PATH", help="Working directory."),
    click.option("--user", type=TEXT, metavar="USER", help="User to run as."),
    click.option("--label", multiple=True, type=TEXT, metavar="NAME=VALUE", help="Set a label."),
    click.option("--compression", type=click.Choice(["gzip", "zstd", "none"]), help="Compression of the new layer."),
]


def config_options(function: Any) -> Any:
    for option in reversed(_config_options):
        function = option(function)
    return function


def config_changes(
    old: ImageConfig | None,
    env: tuple[str, ...],
    cmd: str | None,
    entrypoint: str | None,
    workdir: str | None,
    user: str | None,
    label: tuple[str, ...],
) -> Changes:
    changes: Changes = {}
    if env:
        merged = dict(old.environment) if old else {}
        merged.update(_pairs(env, "--env"))
        changes["env"] = [f"{name}={value}" for name, value in merged.items()]
    if label:
        changes["labels"] = {**(dict(old.labels) if old else {}), **_pairs(label, "--label")}
    if cmd is not None:
        changes["cmd"] = _words(cmd, "--cmd")
    if entrypoint is not None:
        changes["entrypoint"] = _words(entrypoint, "--entrypoint")
    if workdir is not None:
        changes["working_dir"] = _directory(old.working_dir if old else "", workdir)
    if user is not None:
        changes["user"] = user
    return changes


def _directory(before: str, path: str) -> str:
    return working_directory(before, path) if path else ""


def _pairs(texts: tuple[str, ...], flag: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{flag} {text!r:.200} is not NAME=VALUE")
        found[name] = value
    return found


def json_array(text: str) -> list[str] | None:
    """Return the words of a JSON array of strings, as Dockerfiles have them; None if the text is not one (pure)."""
    if not text.startswith("["):
        return None
    try:
        value = read_own(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _words(text: str, flag: str) -> list[str]:
    found = json_array(text)
    if found is not None:
        return found
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r:.200}: {error}") from None


def working_directory(before: str, path: str) -> str:
    """Return the new working directory; a relative ``path`` is below ``before``, as in a Dockerfile (pure)."""
    joined = posixpath.normpath(posixpath.join("/", before, path))
    return "/" + joined.lstrip("/")
