"""The registries that are mirrored, and the clients for their repositories."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import UsageError
from lamina.light import replace
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.remote.client import Access

MAX_OPEN = 256
"""Repositories whose connections and tokens are kept."""
ATTEMPTS, MAX_WAIT = 2, 2.0
"""Requests to a registry: a client waits meanwhile, so a fault of the registry is soon told, or what is kept is
served."""


@dataclass(frozen=True)
class Upstream:
    """A registry to mirror. ``host`` is what clients call it; ``location`` (host, or host and path) is where it is
    asked, "" for the host itself."""

    host: str
    location: str = ""
    insecure: bool = False

    @classmethod
    def parse(cls, text: str) -> Upstream:
        """Parse HOST or HOST=URL. Raises UsageError."""
        host, equals, url = text.partition("=")
        hint = "write it like docker.io, or docker.io=https://proxy.local:5000"
        if "/" in host or not host:
            raise UsageError(f"{text!r:.200} does not begin with the host of a registry", hint=hint)
        domain = Reference.parse(f"{host}/x/y").domain
        if domain != host and not (domain == "docker.io" and host == "index.docker.io"):
            raise UsageError(f"{host!r:.200} is not the host of a registry", hint=hint)
        if not equals:
            return cls(domain)
        scheme, colon, rest = url.partition("://")
        location = (rest if colon else url).rstrip("/")
        if (colon and scheme not in ("http", "https")) or "@" in location or "?" in location:
            raise UsageError(f"{url!r:.200} is not the URL of a registry", hint=hint)
        try:
            Reference.parse(f"{location}/x/y")
        except UsageError:
            raise UsageError(f"{url!r:.200} is not the URL of a registry", hint=hint) from None
        return cls(domain, location, insecure=colon != "" and scheme == "http")


class Upstreams:
    """Opens repositories of the mirrored registries, with the server's own credentials."""

    def __init__(self, upstreams: Sequence[Upstream], access: Access, insecure: Callable[[str], bool]) -> None:
        """``insecure``: whether registries.conf says so of a host. Its mirrors are not asked: one may be this
        server."""
        self._access = replace(access, attempts=ATTEMPTS, max_wait=MAX_WAIT)
        self._registries = {
            one.host: Registries.only(
                one.host, one.location, insecure=one.insecure or insecure(one.location.partition("/")[0] or one.host)
            )
            for one in upstreams
        }
        self._open: OrderedDict[str, Repository] = OrderedDict()
        self._guard = threading.Lock()

    def __contains__(self, repository: str) -> bool:
        """Whether a repository belongs to a mirrored registry."""
        return repository.partition("/")[0] in self._registries

    @property
    def hosts(self) -> list[str]:
        return list(self._registries)

    def repository(self, name: str) -> Repository:
        """The repository at its registry."""
        with self._guard:
            found = self._open.pop(name, None)
            if found is None:
                found = Repository(name, self._access, self._registries[name.partition("/")[0]])
            self._open[name] = found
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            return found

    def close(self) -> None:
        """Close the connections."""
        with self._guard:
            for one in self._open.values():
                one.close()
            self._open.clear()
