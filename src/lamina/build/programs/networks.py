"""Networks for the programs of one build. To make one takes longer than to start a program, so a program that has
ended leaves its network to the next one, as in BuildKit. Programs that run at the same time have different networks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lamina.build.programs.step_directory import step_directory
from lamina.run.network import connected

if TYPE_CHECKING:
    from lamina.run.network import ContainerNetwork, Resolver
    from lamina.store.store import Store


class SharedNetworks:
    """When the block ends, all networks are gone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened = ExitStack()
        self._guard = threading.Lock()
        self._free: list[ContainerNetwork] = []

    def __enter__(self) -> SharedNetworks:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @contextmanager
    def network(self, resolver: Resolver) -> Iterator[ContainerNetwork]:
        """A network of pasta that nobody else uses while the block runs. If the block fails, nobody gets it later.
        Raises SystemFailure."""
        with self._guard:
            found = self._free.pop() if self._free else None
        if found is None:
            with ExitStack() as new:
                directory = new.enter_context(step_directory(self._store))
                found = new.enter_context(connected("pasta", resolver, directory.directory("network")))
                with self._guard:
                    self._opened.push(new.pop_all())
        yield found
        with self._guard:
            self._free.append(found)
