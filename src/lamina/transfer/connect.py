"""Access to registries according to the settings, and the store together with the registries that its images came
from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from lamina.errors import UsageError
from lamina.events import Cancel, OnEvent, ignore
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.remote.client import Access, Client
    from lamina.remote.credentials import Credential
    from lamina.remote.download import Download
    from lamina.remote.registries import Registries
    from lamina.remote.repository import Repository
    from lamina.settings import Settings
    from lamina.source.protocols import Blob, Reader
    from lamina.store.store import Store

CERT_DIRS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


class RegistryAccess:
    """How this user accesses registries. ``credentials`` ("USER[:PASSWORD]"), ``token`` (a bearer token) or
    ``anonymous`` (no login) override stored credentials. ``retries`` is the number of attempts after the first for
    temporary errors; ``retry_delay`` the seconds between them."""

    def __init__(
        self,
        settings: Settings,
        *,
        credentials: str | None = None,
        token: str = "",
        anonymous: bool = False,
        retries: int | None = None,
        retry_delay: float | None = None,
        tls_verify: bool | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        if not token.isascii() or not token.isprintable() or " " in token:  # it is sent in a header
            raise UsageError(
                "the registry token contains spaces, control characters or non-ASCII characters",
                hint="check the token",
            )
        self._token = token
        self._anonymous = anonymous
        self._retries = retries
        self._retry_delay = retry_delay
        self._tls_verify = settings.tls_verify if tls_verify is None else tls_verify
        self._on_event = on_event
        self._cancel = cancel or Cancel()

    @cached_property
    def access(self) -> Access:
        import os

        from lamina.remote.client import ATTEMPTS, Access

        home = os.path.expanduser("~/.config/containers/certs.d")
        return Access(
            credential=self._stored,
            given=self._given(),
            token=self._token,
            login_hosts=self._settings.login_hosts,
            tls_verify=self._tls_verify,
            cert_dirs=(home, *CERT_DIRS),
            cert_dir=self._settings.cert_dir,
            attempts=ATTEMPTS if self._retries is None else self._retries + 1,
            every_wait=self._retry_delay,
            on_event=self._on_event,
            cancel=self._cancel,
        )

    @cached_property
    def registries(self) -> Registries:
        from lamina.remote.registries import Registries

        return Registries.load()

    def full(self, name: str) -> Reference:
        """Return what a person typed as a reference with its tag; short names follow registries.conf. Raises
        UsageError."""
        head, slash, tail = name.partition("@")[0].rpartition("/")
        short = head + slash + tail.partition(":")[0]
        alias = self.registries.alias(short)
        if alias is not None:
            name = alias + name[len(short) :]
        return Reference.parse(name).with_default_tag()

    def repository(self, name: str, *, store: Store | None = None) -> Repository:
        """Return the repository of ``name``. ``store`` provides the journal of uploads, and which repositories have a
        blob."""
        from lamina.remote.repository import Repository

        reference = self.full(name)
        if store is None:
            return Repository(reference.repository, self.access, self.registries)
        return Repository(
            reference.repository,
            self.access,
            self.registries,
            journal=store.push_journal,
            mount_from=mounts(store, reference),
        )

    def download(
        self, url: str, *, etag: str = "", accept: str = "", pages: bool = False, login: bool = False
    ) -> Download:
        """Return a download of a file from a web server, limited to the largest layer size. ``etag``, ``accept``,
        ``pages``, ``login`` and errors as ``Download``."""
        from lamina.remote.download import Download

        limit = self._settings.max_layer
        return Download(url, self.access, limit=limit, etag=etag, accept=accept, pages=pages, login=login)

    def client(self, host: str) -> Client:
        """Return a client for a registry's host. Raises UsageError."""
        from lamina.remote.client import Client

        if "/" in host:
            raise UsageError(f"{host!r:.200} is not a host name", hint="write it like ghcr.io or localhost:5000")
        return Client(
            Reference.parse(f"{host}/x").domain if host != "docker.io" else host,
            self.access,
            insecure=self.registries.insecure(host),
        )

    def _given(self) -> Credential | None:
        if self._credentials is None:
            return None
        from lamina.remote.credentials import IDENTITY, Credential

        name, _, password = self._credentials.partition(":")
        return Credential("", "", password) if name == IDENTITY else Credential(name, password)

    def _stored(self, host: str, path: str) -> Credential | None:
        from lamina.remote.credentials import find

        if self._anonymous:
            return None
        return find(host, path, authfile=self._settings.authfile)


class StoreAndRegistries:
    """``Reader`` of a store that also provides blobs of which the store only has the tar, from the registry that they
    came from."""

    def __init__(self, store: Store, network: RegistryAccess) -> None:
        self._store = store
        self._network = network
        self._origins: dict[Digest, str] | None = None
        self.location = store.location

    def resolve(self, name: str) -> Descriptor:
        return self._store.resolve(name)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._store.manifest(descriptor)

    def referrers(self, subject: Digest) -> list[Descriptor]:
        return self._store.referrers(subject)

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        return self._store.names()

    def tar(self, layer: Descriptor, diff_id: Digest) -> Blob | None:
        return self._store.tar(layer, diff_id)

    def blob(self, descriptor: Descriptor) -> Blob:
        if not self._store.blobs.has(descriptor):
            if self._origins is None:
                self._origins = self._store.layers.origins()
            origin = self._origins.get(descriptor.digest)
            if origin is not None:
                return self._network.repository(origin).blob(descriptor)
        return self._store.blob(descriptor)


def mounts(store: Store, target: Reference) -> Callable[[Descriptor], Sequence[str]]:
    """Return a function that lists repositories of the target's registry that may already have a blob: those of local
    images with that blob."""
    found: dict[Digest, dict[str, None]] = {}
    looked: list[bool] = []

    def candidates(descriptor: Descriptor) -> Sequence[str]:
        if not looked:
            looked.append(True)
            for name, top in store.names():
                if not name:
                    continue
                reference = Reference.parse(name)
                if reference.domain != target.domain or reference.path == target.path:
                    continue
                for digest in blobs_of(store, top):
                    found.setdefault(digest, {})[reference.repository] = None
        return tuple(found.get(descriptor.digest, ()))

    return candidates


def blobs_of(store: Reader, top: Descriptor) -> set[Digest]:
    """Return the configs and layers of an image, for all its platforms that are present."""
    from lamina.source.walk import Known, classifier, listed_documents, manifest_blobs, walk

    found: set[Digest] = set()
    for one in walk(classifier(store), [top], children=listed_documents, max_depth=None):
        if isinstance(one, Known) and isinstance(one.document, Manifest):
            found.update(blob.digest for blob in manifest_blobs(one.document))
    return found  # absent or damaged documents are skipped
