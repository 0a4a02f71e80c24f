"""Options of `pack`, `append` and `commit` that set fields in the config of the new image."""

from __future__ import annotations

import os
import posixpath
import shlex
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.options import TEXT, name_and_value
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


_options = [
    click.option("--env", "-e", multiple=True, type=TEXT, metavar="NAME=VALUE", help="Set an environment variable."),
    click.option("--cmd", type=TEXT, metavar="WORDS", help="Default command, words as in a shell or a JSON array."),
    click.option("--entrypoint", type=TEXT, metavar="WORDS", help="Entrypoint, words as in a shell or a JSON array."),
    click.option("--workdir", type=TEXT, metavar="PATH", help="Working directory."),
    click.option("--user", type=TEXT, metavar="USER", help="User to run as."),
    click.option("--label", multiple=True, type=TEXT, metavar="NAME=VALUE", help="Set a label."),
    click.option("--compression", type=click.Choice(["gzip", "zstd", "none"]), help="Compression of the new layer."),
]


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """The values of ``image_options``; None and empty: not given."""

    env: tuple[str, ...] = ()
    cmd: str | None = None
    entrypoint: str | None = None
    workdir: str | None = None
    user: str | None = None
    label: tuple[str, ...] = ()
    compression: str | None = None

    def changes(self, old: ImageConfig | None) -> Changes:
        """Return what they change in the config ``old`` (None: a new image). Raises UsageError."""
        changes: Changes = {}
        if self.env:
            merged = dict(old.environment) if old else {}
            merged.update(name_and_value(text, "--env") for text in self.env)
            changes["env"] = [f"{name}={value}" for name, value in merged.items()]
        if self.label:
            labels = dict(old.labels) if old else {}
            labels.update(name_and_value(text, "--label") for text in self.label)
            changes["labels"] = labels
        if self.cmd is not None:
            changes["cmd"] = _words(self.cmd, "--cmd")
        if self.entrypoint is not None:
            changes["entrypoint"] = _words(self.entrypoint, "--entrypoint")
        if self.workdir is not None:
            changes["working_dir"] = _directory(old.working_dir if old else "", self.workdir)
        if self.user is not None:
            changes["user"] = self.user
        return changes


def image_options(function: Any) -> Any:
    """Add the options; ``function`` gets them as one argument ``options``, an ``ImageOptions``."""

    @wraps(function)
    def with_one_argument(*arguments: Any, **given: Any) -> Any:
        options = ImageOptions(**{name: given.pop(name) for name in ImageOptions.__dataclass_fields__})
        return function(*arguments, options=options, **given)

    decorated: Any = with_one_argument
    for option in reversed(_options):
        decorated = option(decorated)
    return decorated


def _directory(before: str, path: str) -> str:
    return working_directory(before, path) if path else ""


def json_array(text: str) -> list[str] | None:
    """Return the words of a JSON array of strings, as in Dockerfiles; None if the text is not one (pure)."""
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
        raise UsageError(f"{flag} {text!r:.200}: {error}", hint="quote the words as for a shell") from None


def working_directory(before: str, path: str) -> str:
    """Return the new working directory; a relative ``path`` is below ``before``, as in a Dockerfile (pure)."""
    joined = posixpath.normpath(posixpath.join("/", before, path))
    return "/" + joined.lstrip("/")
