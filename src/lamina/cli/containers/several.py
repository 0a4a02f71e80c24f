"""Verbs that work on several containers: the names and files that name them, and failures of some of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from lamina.cli import say
from lamina.cli.format.output import write
from lamina.cli.options import named_once
from lamina.errors import Cancelled, LaminaError, NotFound
from lamina.host.files import reported

if TYPE_CHECKING:
    from lamina.cli.session import Session
    from lamina.store.containers import Container

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")
AT_ONCE = 32
"""How many containers are stopped at the same time."""

cidfile_option = click.option(
    "--cidfile", "cidfiles", multiple=True, metavar="FILE", help="Read an ID from this file."
)
filter_option = click.option(
    "-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only containers that match, as in `ps`."
)
long_filter_option = click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only containers that match, as in `ps`."
)
latest_option = click.option("-l", "--latest", is_flag=True, help="The container that was made last.")
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


def chosen(
    session: Session,
    names: tuple[str, ...],
    *,
    cidfiles: tuple[str, ...] = (),
    all_: bool = False,
    latest: bool = False,
    filters: tuple[str, ...] = (),
    ignore: bool = False,
) -> tuple[str, ...] | None:
    """Return the names or IDs of the containers that a verb works on; None: all that it applies to. ``ignore``: skip
    files that do not exist. Raises UsageError (they are named in no way, or in several), NotFound, SystemFailure."""
    words = with_files(names, cidfiles, ignore)
    named_once(bool(names or cidfiles), all=all_ and not filters, latest=latest, filter=bool(filters))
    if latest:
        return (newest(session),)
    if not filters:
        return None if all_ else words
    from lamina.run.inspection.listing import Filters, listed

    parsed, store = Filters.parse(filters), session.store_if_any
    return tuple(one.id for one, _ in listed(store, parsed, all_=True)) if store is not None else ()


def newest(session: Session) -> str:
    """Return the ID of the container that was made last. Raises NotFound."""
    store = session.store_if_any
    every = list(store.containers) if store is not None else []
    if not every:
        raise NotFound("there are no containers", hint="see `lamina ps -a`")
    return every[-1].id


def one_name(session: Session, name: str | None, latest: bool) -> str:
    """Return the name or ID of the container of a verb that takes one. Raises UsageError, NotFound."""
    named_once(bool(name), latest=latest)
    return newest(session) if latest else name or ""


def for_container(
    session: Session, name: str, ignore: bool, work: Callable[[Container], _Result], *, damaged: bool = False
) -> _Result | None:
    """Return what ``work`` returns for the container of this name. ``ignore``: None if it does not exist."""
    try:
        one = session.store.containers.get(name, damaged=damaged)
    except NotFound:
        if ignore:
            return None
        raise
    return work(one)


def each_at_once(
    things: Sequence[_Thing], work: Callable[[_Thing], str | None], failed: Sequence[LaminaError] = ()
) -> None:
    """As ``each``, but for several at the same time: each may take seconds to end. Print what ``work`` returns, in
    the order of ``things``."""
    if len(things) < 2:
        each(things, lambda one: _print(work(one)), failed)
        return
    from concurrent.futures import ThreadPoolExecutor

    threads = ThreadPoolExecutor(min(len(things), AT_ONCE))
    try:
        ends = [threads.submit(work, one) for one in things]
        each(ends, lambda end: _print(end.result()), failed)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _print(text: str | None) -> None:
    if text is not None:
        write(text)


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
