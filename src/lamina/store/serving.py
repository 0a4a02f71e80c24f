"""What the store does as long as a registry server of it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from lamina.host.files import reported
from lamina.store.members import Members

if TYPE_CHECKING:
    from lamina.store.read import StoreReader
    from lamina.store.repositories import StoreRepositories
    from lamina.store.serving_rules import ServingRules


@contextmanager
def serving(
    reader: StoreReader, rules: ServingRules, session: AbstractContextManager[object]
) -> Iterator[StoreRepositories]:
    """Open the store for a server; the block lasts as long as the server. ``session`` tells other processes that it
    runs. Raises SystemFailure."""
    from lamina.store.repositories import StoreRepositories

    with reported(reader.paths.root):
        Members(reader.paths).set_rules(rules.grace, rules.keep_uploads)
    with session, reader.refs.logging():
        yield StoreRepositories(reader, rules)
