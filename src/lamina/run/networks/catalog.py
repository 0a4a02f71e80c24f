"""The networks of a store: one record each, `networks/NAME.json`. All changes, of records and of who is on a network,
happen under one lock."""

from __future__ import annotations

import os
from contextlib import contextmanager

from lamina.errors import Conflict, NotFound, StoreDamaged, UsageError
from lamina.host.files import make_directory, replace_file, reported
from lamina.host.lock import locked
from lamina.light import TYPE_CHECKING
from lamina.run.networks.record import Network, from_json, is_network_name, to_json
from lamina.spec.json import read_own, write_own
from lamina.store.fault import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.store.store import Store

_SUFFIX = ".json"
_MAX_RECORD = 1 << 20


def builtin() -> list[Network]:
    """The networks that every store has, by docker's names for them."""
    drivers = {"bridge": "pasta", "host": "host", "none": "null"}
    return [
        Network(name, digest(f"lamina network {name}"), driver, dns=False, internal=name == "none")
        for name, driver in drivers.items()
    ]


def digest(text: str) -> str:
    """The SHA-256 of a text, in hex digits."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


class Catalog:
    def __init__(self, store: Store) -> None:
        self.directory = os.path.join(store.paths.root, "networks")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing networks while the block runs. Raises SystemFailure."""
        with reported(self.directory):
            make_directory(self.directory)
            path = os.path.join(self.directory, "lock")
        with reported(path), locked(path):
            yield

    def every(self) -> list[Network]:
        """All networks that people made, by name; without those whose records are damaged. Raises SystemFailure."""
        found = []
        for name in self.names():
            try:
                found.append(self._read(name))
            except (NotFound, StoreDamaged):
                continue
        return found

    def names(self) -> list[str]:
        """The names of all networks that people made. Raises SystemFailure."""
        with reported(self.directory):
            try:
                names = os.listdir(self.directory)
            except FileNotFoundError:
                return []
        found = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return sorted(filter(is_network_name, found))

    def get(self, word: str) -> Network:
        """Find a network by its name, or by the first digits of its id. Raises NotFound, Conflict (several match),
        StoreDamaged."""
        if is_network_name(word):
            try:
                return self._read(word)
            except NotFound:
                pass
        every = [*self.every(), *builtin()]
        found = [one for one in every if word and word in (one.name, one.id)]
        found = found or [one for one in every if word and one.id.startswith(word)]
        if len(found) > 1:
            raise Conflict(f"{word!r:.70} is ambiguous: {len(found)} networks begin with it", hint="give more digits")
        if not found:
            raise NotFound(f"network {word:.100} not found", hint="see `lamina network ls`")
        return found[0]

    def add(self, network: Network) -> None:
        """Write the record of a new network. Call it under the lock. Raises Conflict (the name is taken),
        UsageError, SystemFailure."""
        path = self._path(network.name)
        if os.path.lexists(path):
            raise Conflict(f"network with name {network.name} already exists", hint="choose another name")
        text = write_own(to_json(network)).encode()
        if len(text) >= _MAX_RECORD:
            raise UsageError(f"the labels of the network {network.name} are too long", hint="use at most 1 MB")
        replace_file(path, pieces([text], "network.record-written"))

    def remove(self, name: str) -> None:
        """Remove a record. Call it under the lock. Raises NotFound, SystemFailure."""
        with reported(self._path(name)):
            try:
                os.unlink(self._path(name))
            except FileNotFoundError:
                raise NotFound(f"network {name:.100} not found", hint="see `lamina network ls`") from None

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name + _SUFFIX)

    def _read(self, name: str) -> Network:
        path = self._path(name)
        with reported(path):
            try:
                with open(path, "rb") as file:
                    text = file.read(_MAX_RECORD)
            except (FileNotFoundError, NotADirectoryError):
                raise NotFound(f"network {name:.100} not found", hint="see `lamina network ls`") from None
        try:
            value = read_own(text.decode())
        except ValueError:
            value = None
        if isinstance(value, dict) and value.get("name") != name:
            value = None
        return from_json(value, name)


def interface_name(store: Store, identity: str) -> str:
    """The name of a bridge: no other store of this host has the same. ``identity``: of the network."""
    return "lam" + digest(f"{store.paths.root} {identity}")[:10]
