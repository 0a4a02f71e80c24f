"""Verbs that work on several containers: the names and files that name them, and failures of some of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from lamina.cli import say
from lamina.errors import Cancelled, LaminaError, NotFound
from lamina.host.files import reported

if TYPE_CHECKING:
    from lamina.cli.session import Session
    from lamina.store.containers import Container

_Thing = TypeVar("_Thing")

cidfile_option = click.option(
    "--cidfile", "cidfiles", multiple=True, metavar="FILE", help="Read an ID from this file."
)
ignore_option = click.option("-i", "--ignore", is_flag=True, help="Do not fail if a container does not exist.")


def with_files(names: tuple[str, ...], files: tuple[str, ...], ignore: bool) -> tuple[str, ...]:
    """Return the names, and the IDs in the files of --cidfile. ``ignore``: skip files that do not exist. Raises
    SystemFailure."""
    words = list(names)
    for path in files:
        if ignore and not os.path.exists(path):
            continue
        with reported(path), open(path, "rb") as file:
            words.append(file.read(200).decode("utf-8", "surrogateescape").strip())
    return tuple(words)


def for_container(
    session: Session, name: str, ignore: bool, work: Callable[[Container], object], *, damaged: bool = False
) -> None:
    """Call ``work`` with the container of this name. ``ignore``: do nothing if it does not exist."""
    try:
        one = session.store.containers.get(name, damaged=damaged)
    except NotFound:
        if ignore:
            return
        raise
    work(one)


def each(things: Iterable[_Thing], work: Callable[[_Thing], object], failed: Sequence[LaminaError] = ()) -> None:
    """Call ``work`` with each thing, even if it fails for others. At the end print all failures but the first, and
    raise the first."""
    errors = list(failed)
    for one in things:
        try:
            work(one)
        except Cancelled:
            raise
        except LaminaError as error:
            errors.append(error)
    for other in errors[1:]:
        say(str(other))
    if errors:
        raise errors[0]
