"""The public functions and classes for registries: ``Registry``, ``pull`` and ``push``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.events import Cancel, OnEvent, ignore
from lamina.image import Image, open_with
from lamina.places import adapted, open_store, settings_of
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.remote.repository import Repository
    from lamina.settings import Settings
    from lamina.source.protocols import Stream
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.image_config import ImageConfig
    from lamina.spec.manifest import Index, Manifest
    from lamina.transfer.connect import RegistryAccess
    from lamina.transfer.validate import Checked


def pull(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    platform: str | None = None,
    all_platforms: bool = False,
    referrers: bool = False,
    tls_verify: bool | None = None,
    authfile: str | os.PathLike[str] | None = None,
    cert_dir: str | os.PathLike[str] | None = None,
    creds: str | None = None,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> Image:
    """Pull an image from a registry into the store and open it. Only blobs that the store lacks are fetched (OCI
    distribution-spec, "Pull").

    ``name``: a reference like ``debian:12``. ``root``: the directory of the store; ``platform``: like
    ``linux/arm64``; the defaults are in the settings. ``all_platforms``: also fetch the other platforms of a
    multi-platform image. ``referrers``: also fetch signatures, attestations and SBOMs. ``tls_verify``, ``authfile``,
    ``cert_dir``, ``creds`` ("user:password"): as the flags of `lamina pull`. ``on_event`` and ``cancel``: see
    ``lamina.events``. Returns the image. Raises ReferenceNotFound, AccessDenied, RemoteFailure, InvalidContent,
    SystemFailure, Cancelled.
    """
    from lamina.transfer.pull_push import pull as fetch

    settings, network = _network(root, platform, tls_verify, authfile, cert_dir, creds, on_event, cancel)
    done = fetch(
        name,
        open_store(settings),
        network,
        platform=settings.asked_platform(),
        all_platforms=all_platforms,
        referrers=referrers,
        on_event=on_event,
        cancel=cancel,
    )
    return open_with(done[0].name, settings)


def push(
    name: str,
    target: str = "",
    *,
    root: str | os.PathLike[str] | None = None,
    platform: str | None = None,
    all_platforms: bool = False,
    referrers: bool = False,
    tls_verify: bool | None = None,
    authfile: str | os.PathLike[str] | None = None,
    cert_dir: str | os.PathLike[str] | None = None,
    creds: str | None = None,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> Digest:
    """Push an image from the store to a registry. Only blobs that the registry lacks are sent (OCI distribution-spec,
    "Push").

    ``name``: the image in the store. ``target``: its reference in the registry (default: ``name``). The other
    arguments and the errors are those of ``pull``. Returns the digest of the manifest in the registry.
    """
    from lamina.transfer.pull_push import push as give

    settings, network = _network(root, platform, tls_verify, authfile, cert_dir, creds, on_event, cancel)
    store = open_store(settings, create=False)
    return give(
        name,
        target,
        store,
        network,
        platform=settings.asked_platform(),
        all_platforms=all_platforms,
        referrers=referrers,
        on_event=on_event,
        cancel=cancel,
    ).descriptor.digest


class Registry:
    """A registry: ``Registry("ghcr.io").tags("me/app")``. References may leave out the host.

    ``tls_verify``, ``authfile``, ``cert_dir`` and ``creds`` are as in ``pull``. Every method raises NotFound,
    AccessDenied, RemoteFailure, InvalidContent.
    """

    def __init__(
        self,
        host: str,
        *,
        platform: str | None = None,
        tls_verify: bool | None = None,
        authfile: str | os.PathLike[str] | None = None,
        cert_dir: str | os.PathLike[str] | None = None,
        creds: str | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        self.host = host
        settings, self._network = _network(None, platform, tls_verify, authfile, cert_dir, creds, on_event, None)
        self._platform = settings.wanted_platform()
        self._repositories: dict[str, Repository] = {}

    def catalog(self) -> Iterator[str]:
        """Iterate over the names of all repositories. Raises NotFound or AccessDenied if the registry has no
        catalog."""
        from lamina.remote.list import catalog

        return catalog(self._network.client(self.host))

    def tags(self, repository: str) -> Iterator[str]:
        """Iterate over the tags of a repository, in the order of the registry (OCI distribution-spec, "Listing
        Tags")."""
        return self._repository(repository)[0].tags()

    def digest(self, reference: str) -> Digest:
        """Return the digest of the manifest or index that the reference points to now."""
        repository, name = self._repository(reference)
        return repository.head(name).digest

    def manifest(self, reference: str) -> Manifest | Index:
        """Return the manifest, or the index of a multi-platform image."""
        from lamina.spec.manifest import parse

        repository, name = self._repository(reference)
        descriptor = repository.resolve(name)
        return parse(repository.manifest(descriptor), descriptor.media_type, name)

    def config(self, reference: str) -> ImageConfig:
        """Return the config of the image for the platform. Raises Unsupported for an artifact."""
        from lamina.source.select import find_manifest, read_config

        repository, name = self._repository(reference)
        manifest = find_manifest(repository, repository.resolve(name), self._platform, name)
        return read_config(repository, manifest, name)

    def referrers(self, reference: str) -> list[Descriptor]:
        """Return the descriptors of manifests whose subject is this one: signatures, attestations, SBOMs (OCI
        distribution-spec, "Listing Referrers")."""
        repository, name = self._repository(reference)
        return repository.referrers(repository.head(name).digest)

    def blob(self, repository: str, descriptor: Descriptor, start: int = 0, end: int | None = None) -> Stream:
        """Open a blob from byte ``start`` to before byte ``end``. The bytes are not verified; use
        ``lamina.source.verify.verified`` for that."""
        return self._repository(repository)[0].blob(descriptor).open(start, end)

    def delete(self, reference: str) -> None:
        """Delete a tag; with a digest, delete the manifest and all its tags (OCI distribution-spec, "Content
        Management")."""
        repository, name = self._repository(reference)
        if repository.reference(name).digest is not None:
            repository.delete(repository.resolve(name))
        else:
            repository.untag(name)

    def validate(self, reference: str, *, all_platforms: bool = False) -> list[Checked]:
        """Check every digest, size and diff_id of an image in the registry. Returns one value for each object; its
        ``problem`` says what is wrong, or is ""."""
        from lamina.transfer.validate import validate

        repository, name = self._repository(reference)
        return validate(repository, name, platform=self._platform, all_platforms=all_platforms)

    def image(self, reference: str) -> Image:
        """Open an image without storing it; blobs are fetched when they are needed."""
        from lamina.transfer.open_stack import open_stack

        repository, name = self._repository(reference)
        return Image(open_stack(repository, name, self._platform, name))

    def _repository(self, text: str) -> tuple[Repository, str]:
        full = text if text.startswith(f"{self.host}/") else f"{self.host}/{text}"
        reference = self._network.full(full)
        repository = self._repositories.get(reference.repository)
        if repository is None:
            repository = self._repositories[reference.repository] = self._network.repository(full)
        return repository, str(reference)

    def __repr__(self) -> str:
        return f"<lamina.Registry {self.host}>"


def _network(
    root: str | os.PathLike[str] | None,
    platform: str | None,
    tls_verify: bool | None,
    authfile: str | os.PathLike[str] | None,
    cert_dir: str | os.PathLike[str] | None,
    creds: str | None,
    on_event: OnEvent,
    cancel: Cancel | None,
) -> tuple[Settings, RegistryAccess]:
    from lamina.transfer.connect import RegistryAccess

    settings = adapted(settings_of(root, platform), tls_verify=tls_verify, authfile=authfile, cert_dir=cert_dir)
    return settings, RegistryAccess(settings, credentials=creds, on_event=on_event, cancel=cancel)
