"""A repository as one object that implements all four protocols over its sites."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lamina.light import replace
from lamina.remote.client import Access, Client
from lamina.remote.delete import RemoteDeleter
from lamina.remote.list import RemoteLister
from lamina.remote.read import Site
from lamina.remote.registries import Registries
from lamina.remote.upload import Journal, NoJournal
from lamina.remote.write import ACCEPTS, RemoteSession
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.reference import Reference


class Repository(RemoteLister, RemoteDeleter):
    """Reader, Writer, Deleter, Lister and Referrers of ``host/path``, with its mirrors from registries.conf. No
    request is sent before it is needed. ``journal`` records uploads; ``mount_from`` as in ``RemoteWriter``."""

    accepts = ACCEPTS

    def __init__(
        self,
        repository: str,
        access: Access | None = None,
        registries: Registries | None = None,
        *,
        journal: Journal | None = None,
        mount_from: Callable[[Descriptor], Sequence[str]] = lambda descriptor: (),
    ) -> None:
        """Raises UsageError for an invalid repository name."""
        self._reference = Reference.parse(repository)
        self.repository = self._reference.repository
        self.location = f"docker://{self.repository}"
        self.journal = journal or NoJournal()
        self.mount_from = mount_from
        self._access = access or Access()
        self._registries = registries or Registries.load()
        self._documents: dict[Digest, bytes] = {}
        self._known: dict[tuple[str, str, bool], Site] = {}
        self._guard = threading.Lock()

    def sites(self, reference: Reference | None = None) -> Sequence[Site]:
        """Return the sites, as ``RemoteReader.sites``; without a reference only the repository itself."""
        endpoints = self._registries.endpoints(reference or self._reference, push=reference is None)
        found = []
        with self._guard:
            for endpoint in endpoints:
                key = (endpoint.host, endpoint.path, endpoint.insecure)
                site = self._known.get(key)
                if site is None:
                    access = replace(self._access, given=None, token="") if endpoint.mirror else self._access
                    client = Client(endpoint.host, access, path=endpoint.path, insecure=endpoint.insecure)
                    site = self._known[key] = Site(client, endpoint.path, mirror=endpoint.mirror)
                found.append(site)
        return found

    @contextmanager
    def session(self, purpose: str) -> Iterator[RemoteSession]:
        """As ``Writer.session``."""
        session = RemoteSession(self)
        yield session
        session.flush()

    def close(self) -> None:
        """Close the connections."""
        for site in self._known.values():
            site.client.close()
